//! `cargo xtask dist`: what `kubectl apply --server-side -k deploy` needs, and the
//! same as one file, dist/install.yaml.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use windlass_testbed::{Binaries, progress};

use crate::{plugin, root};

/// Builds the components and renders `deploy/`.
pub(crate) fn run() -> Result<()> {
    for place in ["plugins/webapp", "plugins/tenant"] {
        let dir = root().join(place);
        let package = plugin::build(&dir)?;
        let _ = package.write_kustomize(&dir)?;
        let kilobytes = package.compressed.len() / 1000;
        println!("{place}/plugin.wasm.zst   {kilobytes} KB, {}", package.digest);
    }
    let kubectl = Binaries::locate_or_build(&*progress::detect())?.kubectl();
    let yaml = render(&kubectl, &root().join("deploy"))?;
    let path = root().join("dist/install.yaml");
    fs::create_dir_all(root().join("dist")).context("create dist")?;
    fs::write(&path, yaml).with_context(|| format!("write {}", path.display()))?;
    println!("dist/install.yaml                kubectl apply --server-side -f dist/install.yaml");
    Ok(())
}

/// What `kubectl kustomize <dir>` prints.
pub(crate) fn render(kubectl: &Path, dir: &Path) -> Result<String> {
    let output = Command::new(kubectl).arg("kustomize").arg(dir).output().context("start kubectl")?;
    ensure!(
        output.status.success(),
        "kubectl kustomize {}: {}",
        dir.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8(output.stdout).context("kubectl kustomize printed no text")
}

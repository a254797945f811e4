//! `cargo xtask plugin <dir>`: a plugin of this tree, built as the tests build it, and packaged as
//! `kubectl windlass package` does.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kubectl_windlass::{Beside, Package, Sign};

use crate::root;

/// What to build and where to write.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the plugin's crate, such as plugins/webapp.
    dir: PathBuf,
    /// Where the YAML goes; default dist/<plugin>.yaml. `-` for standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write <dir>/rbac.yaml, <dir>/plugin.wasm.zst and, when signed, <dir>/plugin.sig instead, for the kustomization there.
    #[arg(long)]
    kustomize: bool,
    #[command(flatten)]
    sign: Sign,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let mut package = build(&self.dir)?;
        package.signature = self.sign.signature(&package.manifest.name, &package.digest)?;
        for note in package.notes() {
            eprintln!("note: {note}");
        }
        if self.kustomize {
            package.write_kustomize(&self.dir)?.files.iter().for_each(|file| println!("{}", file.display()));
            return Ok(());
        }
        let yaml = package.yaml()?;
        let path = self.output.unwrap_or_else(|| root().join(format!("dist/{}.yaml", package.manifest.name)));
        if path == Path::new("-") {
            print!("{yaml}");
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        }
        fs::write(&path, yaml).with_context(|| format!("write {}", path.display()))?;
        println!(
            "{} {} ({}, {} KB compressed) -> {}\n  kubectl apply --server-side -f {}",
            package.manifest.name,
            package.manifest.version,
            &package.digest.to_string()[..19],
            package.compressed.len() / 1000,
            path.display(),
            path.display(),
        );
        Ok(())
    }
}

/// Builds the crate in `dir` of this tree, and packages it with what lies there.
pub(crate) fn build(dir: &Path) -> Result<Package> {
    let component = windlass_testbed::component(&crate_name(dir)?, None)?;
    Package::of(read(&component)?, Beside::of(dir)?)
}

/// Packages a built component with what belongs to it.
pub(crate) fn of(component: &Path, beside: Beside) -> Result<Package> {
    Package::of(read(component)?, beside)
}

/// The same plugin as another build of it, compressed: one more custom section, so another digest.
pub(crate) fn rebuilt(package: &Package) -> Result<Vec<u8>> {
    let name = b"rebuilt";
    let mut wasm = package.wasm.clone();
    wasm.extend([0, u8::try_from(name.len() + 1)?, u8::try_from(name.len())?]);
    wasm.extend(name);
    zstd::encode_all(&*wasm, 19).context("compress")
}

/// Whether the rights in the tree are those that the manifest needs.
///
/// # Errors
/// One sentence that says how to mend it.
pub(crate) fn check_rights(package: &Package, dir: &Path) -> Result<()> {
    let path = dir.join("rbac.yaml");
    let found = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    if found != package.rights_yaml()? {
        bail!(
            "{} is not what the manifest needs; run `cargo xtask plugin {} --kustomize` and commit it",
            path.display(),
            dir.display()
        );
    }
    Ok(())
}

fn read(component: &Path) -> Result<Vec<u8>> {
    fs::read(component).with_context(|| format!("read {}", component.display()))
}

fn crate_name(dir: &Path) -> Result<String> {
    let path = dir.join("Cargo.toml");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("{} is not the folder of a crate: no Cargo.toml", dir.display()))?;
    let name = text.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    name.map(str::to_owned).with_context(|| format!("{} names no package", path.display()))
}

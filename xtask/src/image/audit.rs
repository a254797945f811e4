//! The list of packages inside the binary, where `cargo audit bin`, syft and trivy look for it: the section `.dep-v0` of
//! `cargo auditable`, which holds JSON under zlib. Put there after linking, with the `objcopy` that comes with the linker, so that
//! no wrapper of the compiler is needed.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use auditable_info::audit_info_from_slice;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde_json::{Value, json};

use super::packages::Packages;

/// Where the list is looked for.
const SECTION: &str = ".dep-v0";
/// The longest list that is read back, in bytes: readers take a few MiB.
pub(super) const LIST_MAX_BYTES: usize = 4 << 20;

/// What is left out of the binary that is packed. Symbols carry hashes of modules, and inline assembly carries positions in sources
/// that macros made with the builder's paths in them: so two builds at places with names of different lengths differ there, and in the build
/// id, which is a hash of all of it, and nowhere else (found by comparing two builds of the host).
const LEFT_OUT: [&str; 2] = ["--strip-all", "--remove-section=.note.gnu.build-id"];

/// The binary without symbols and with the list in it, read back once. One that was built by `cargo auditable` is as it was.
///
/// # Errors
/// If there is no `objcopy`, or the list that is in the binary is not that of these packages.
pub(super) fn with_list(binary: &Path, bytes: Vec<u8>, packages: &Packages) -> Result<Vec<u8>> {
    if audit_info_from_slice(&bytes, LIST_MAX_BYTES).is_ok() {
        return Ok(bytes);
    }
    let folder = tempfile::tempdir().context("a folder for the list")?;
    let (list, new) = (folder.path().join("list"), folder.path().join("new"));
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(listed(packages).to_string().as_bytes())?;
    fs::write(&list, encoder.finish()?)?;
    let section = format!("{SECTION}={}", list.display());
    let copied = Command::new("objcopy")
        .args(LEFT_OUT)
        .args(["--add-section", &section])
        .arg(binary)
        .arg(&new)
        .output();
    let copied = copied.context("start objcopy, which is in the package of the linker")?;
    ensure!(copied.status.success(), "objcopy: {}", String::from_utf8_lossy(&copied.stderr).trim());
    let bytes = fs::read(&new)?;
    let found = audit_info_from_slice(&bytes, LIST_MAX_BYTES).context("read the list back")?;
    ensure!(found.packages.len() == packages.all.len(), "the list in the binary is another one");
    Ok(bytes)
}

fn listed(packages: &Packages) -> Value {
    let each = packages.all.iter().enumerate().map(|(i, package)| {
        let mut one = json!({
            "name": package.name,
            "version": package.version,
            "source": if package.is_published { "crates.io" } else { "local" },
        });
        if !package.uses.is_empty() {
            one["dependencies"] = json!(package.uses);
        }
        if i == packages.root {
            one["root"] = json!(true);
        }
        one
    });
    json!({ "packages": each.collect::<Vec<_>>() })
}

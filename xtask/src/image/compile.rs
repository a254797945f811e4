//! A static binary whose bytes do not depend on where it is built.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use object::elf;
use object::read::elf::{ElfFile64, ProgramHeader as _};

use super::TARGET;
use crate::steps::{output, run_with};

/// The clone of an earlier commit, below the target folder.
const CLONE: &str = "earlier";

/// A program of a workspace.
#[derive(Clone, Debug)]
pub(super) struct Product {
    /// The folder of the workspace.
    pub(super) root: PathBuf,
    /// The package.
    pub(super) package: String,
    /// The binary's name.
    pub(super) binary: String,
    /// Where it is built.
    pub(super) target_folder: PathBuf,
}

impl Product {
    /// The host of the workspace in `root`.
    pub(super) fn host(root: &Path) -> Self {
        let (package, binary) = ("windlass-host".into(), "windlass".into());
        Self { root: root.to_owned(), package, binary, target_folder: root.join("target") }
    }

    /// The host as it was at a commit of the workspace in `root`: a clone below its target folder, which shares what is compiled of
    /// other people's crates with this tree's image.
    ///
    /// # Errors
    /// If git knows no such commit here; a clone without its history has none but the last.
    pub(super) fn at(root: &Path, revision: &str) -> Result<Self> {
        let commit = output("git", &["rev-parse", "--verify", &format!("{revision}^{{commit}}")], root)
            .with_context(|| format!("no commit {revision} here"))?;
        let (commit, clone) = (commit.trim(), root.join("target").join(CLONE));
        if !clone.join(".git").is_dir() {
            let (from, to) = (root.display().to_string(), clone.display().to_string());
            output("git", &["clone", "--quiet", "--shared", "--no-checkout", &from, &to], root)?;
        }
        // What is the same in both keeps its time, so that only what differs is compiled again.
        output("git", &["checkout", "--quiet", "--force", "--detach", commit], &clone)?;
        Ok(Self { root: clone, ..Self::host(root) })
    }
}

/// Builds the program and says where it is.
///
/// # Errors
/// If it does not build; what the compiler said has been shown.
pub(super) fn build(product: &Product, profile: &str) -> Result<PathBuf> {
    let Product { root, package, binary, target_folder } = product;
    let places = places(target_folder)?;
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    flags.extend(places.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())));
    let for_c: Vec<_> =
        places.iter().map(|(from, to)| format!("'-ffile-prefix-map={}={to}'", from.display())).collect();
    let mut command = Command::new("cargo");
    command.args(["build", "--locked", "--package", package, "--bin", binary]);
    // Not from within it: which compiler is used is said by this workspace.
    command.arg("--manifest-path").arg(root.join("Cargo.toml"));
    command.args(["--profile", profile, "--target", TARGET, "--target-dir"]).arg(target_folder);
    command
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env(format!("CFLAGS_{}", TARGET.replace('-', "_")), for_c.join(" "))
        // Their folders may have spaces in their names.
        .env("CC_SHELL_ESCAPED_FLAGS", "1")
        // Where incremental units are cut depends on what was built before.
        .env("CARGO_INCREMENTAL", "0")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET");
    run_with(&mut command)?;
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(target_folder.join(TARGET).join(folder).join(binary))
}

/// Folders whose names are the builder's own affair, and what is said in their place. The last one that fits counts. They are the same
/// for this tree and for a clone of an earlier one: cargo compiles everything anew for other flags.
fn places(target_folder: &Path) -> Result<Vec<(PathBuf, &'static str)>> {
    let cargo_home = match std::env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => {
            PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| OsString::from("/root"))).join(".cargo")
        }
    };
    let sysroot = output("rustc", &["--print", "sysroot"], &crate::root())?;
    Ok(vec![
        (cargo_home, "/cargo"),
        (PathBuf::from(sysroot.trim()), "/rust"),
        (target_folder.parent().unwrap_or(target_folder).to_owned(), "/windlass"),
        (target_folder.to_owned(), "/target"),
        (target_folder.join(CLONE), "/windlass"),
    ])
}

/// Makes sure that an executable needs nothing but the kernel.
///
/// # Errors
/// If it names an interpreter or a library.
pub(super) fn check_static(bytes: &[u8]) -> Result<()> {
    let file = ElfFile64::<object::Endianness>::parse(bytes).context("no executable of 64 bits")?;
    let endian = file.endian();
    for header in file.elf_program_headers() {
        ensure!(
            header.p_type(endian) != elf::PT_INTERP,
            "not static: it names an interpreter; build it with -C target-feature=+crt-static, or leave that to this command"
        );
        let needed = header.dynamic(endian, bytes).context("the dynamic section")?.into_iter().flatten();
        if needed.into_iter().any(|entry| entry.d_tag.get(endian) == elf::DT_NEEDED) {
            bail!("not static: it needs libraries");
        }
    }
    Ok(())
}

//! The host's own build as an image: what the tests run on nodes, without compiling everything once more.
//!
//! What is released is another build, static, by `cargo xtask image`. This one is the binary that all other tests run, with its
//! loader and its libraries beside it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;

use super::network::run;
use crate::image::{Contents, File, write};

/// Packs `windlass` under this name into an archive.
///
/// # Errors
/// If the binary or one of its libraries cannot be read.
pub fn host_image(binary: &Path, name: &str, archive: &Path) -> Result<()> {
    let folder = tempfile::tempdir().context("no temporary directory")?;
    let stripped = folder.path().join("windlass");
    // Debug information makes nine tenths of it.
    let strip = Command::new("strip").arg("-o").args([&stripped, binary]).status();
    let program = if strip.is_ok_and(|status| status.success()) { &*stripped } else { binary };
    let mut files =
        vec![("windlass".to_owned(), fs::read(program).with_context(|| binary.display().to_string())?)];
    for library in libraries(&run("ldd", &[&binary.display().to_string()])?) {
        let bytes = fs::read(library).with_context(|| format!("a library of the host: {library}"))?;
        files.push((library.trim_start_matches('/').to_owned(), bytes));
    }
    ensure!(files.len() > 1, "{} is static: pack it with `cargo xtask image --binary`", binary.display());
    let files: Vec<_> = files.iter().map(|(path, bytes)| File { path, bytes }).collect();
    let contents = Contents {
        name,
        files: &files,
        command: &["run"],
        labels: [("title", "windlass".to_owned())].into(),
        made_by: "windlass-testbed",
        created: Timestamp::UNIX_EPOCH,
    };
    fs::write(archive, write(&contents)?.archive).with_context(|| archive.display().to_string())
}

/// The files that `ldd` names: `libc.so.6 => /lib/…/libc.so.6 (0x…)`, and the loader, which stands alone.
fn libraries(said: &str) -> impl Iterator<Item = &str> {
    said.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_and_each_library_are_found_and_what_is_no_file_is_not() {
        let said = "\tlinux-vdso.so.1 (0x00007fff)\n\tlibm.so.6 => /lib/x/libm.so.6 (0x00007f1)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f2)\n";
        assert_eq!(libraries(said).collect::<Vec<_>>(), ["/lib/x/libm.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }
}

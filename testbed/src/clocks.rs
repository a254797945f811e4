//! Clocks that run fast or slow, or jump: what a process under test is shown instead of the machine's.
//!
//! A small library is loaded into the process before libc. It reaches what asks libc for the time, which the host does for
//! every clock; what waits in the kernel waits in real time.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Source of the library.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/preload/clocks.rs");

/// The clocks of one process.
#[derive(Clone, Debug)]
pub struct Clocks {
    library: PathBuf,
    wall: PathBuf,
    rate: f64,
}

impl Clocks {
    /// Clocks that count `rate` seconds in a real one, once the process starts. Builds the library in `directory` unless it is
    /// there; blocks for a second then.
    ///
    /// # Errors
    /// If `rustc` does not build it, or the directory cannot be written.
    pub fn new(directory: &Path, name: &str, rate: f64) -> Result<Self> {
        let library = directory.join("libclocks.so");
        if !library.exists() {
            build(&library)?;
        }
        let clocks = Self { library, wall: directory.join(format!("{name}.wall")), rate };
        clocks.jump(0)?;
        Ok(clocks)
    }

    /// From now on the wall clock is so many seconds ahead, or behind if negative; within 50 ms.
    ///
    /// # Errors
    /// If the file that says so cannot be written.
    pub fn jump(&self, seconds: i64) -> Result<()> {
        // By rename, so that nobody reads half a number.
        let whole = self.wall.with_extension("new");
        fs::write(&whole, seconds.to_string()).context("write how far the wall clock is ahead")?;
        fs::rename(&whole, &self.wall).context("say how far the wall clock is ahead")
    }

    /// What the process has to be started with.
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        vec![
            ("LD_PRELOAD".into(), self.library.clone().into()),
            ("WINDLASS_CLOCK_RATE".into(), self.rate.to_string().into()),
            ("WINDLASS_CLOCK_WALL".into(), self.wall.clone().into()),
        ]
    }
}

fn build(library: &Path) -> Result<()> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let unfinished = library.with_extension("building");
    let output = Command::new(rustc)
        .args(["--edition", "2024", "--crate-type", "cdylib", "-C", "opt-level=2", "-C", "panic=abort", "-o"])
        .arg(&unfinished)
        .arg(SOURCE)
        .output()
        .context("rustc did not start")?;
    ensure!(output.status.success(), "{SOURCE} does not build:\n{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&unfinished, library).context("put the library in its place")
}

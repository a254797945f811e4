//! `cargo xtask fuzz`: coverage-guided fuzzing of what reads strangers' bytes, with libFuzzer.
//!
//! Needs a C++ compiler and no nightly toolchain: what tells libFuzzer where an input has been
//! is a pass of LLVM that the stable compiler has too. New inputs are kept under `target/fuzz`;
//! the corpus in the tree grows only by hand.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::root;
use crate::steps::run_with;

/// Every target, and the feature that it needs.
const TARGETS: &[(&str, &str)] =
    &[("decode_decision", ""), ("plan", ""), ("frames", "frames"), ("load", "load")];

/// What makes LLVM count which edges an input takes and what it compares; overflows and broken
/// assumptions end the run, as in a debug build.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
];

/// What to fuzz, and for how long.
#[derive(clap::Args)]
pub(crate) struct Fuzz {
    /// Only this target: decode_decision, plan, frames or load.
    target: Option<String>,
    /// How long each target runs, in seconds.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Largest input, in bytes.
    #[arg(long, default_value_t = 65_536)]
    max_len: usize,
    /// Longest an input may take, in seconds.
    #[arg(long, default_value_t = 5)]
    timeout: u64,
}

impl Fuzz {
    pub(crate) fn run(self) -> Result<()> {
        let wanted = |name: &str| self.target.as_deref().is_none_or(|target| target == name);
        let targets: Vec<_> = TARGETS.iter().filter(|(name, _)| wanted(name)).collect();
        if targets.is_empty() {
            let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
            bail!("no such target; there are {}", names.join(", "));
        }
        for (name, feature) in targets {
            let binary = build(name, feature)?;
            self.fuzz(name, binary)?;
        }
        Ok(())
    }

    fn fuzz(&self, name: &str, binary: PathBuf) -> Result<()> {
        let found = out().join("corpus").join(name);
        let failed = out().join("artifacts").join(name);
        std::fs::create_dir_all(&found)?;
        std::fs::create_dir_all(&failed)?;
        run_with(
            Command::new(binary)
                .arg(found)
                .arg(root().join("fuzz/corpus").join(name))
                .arg(format!("-artifact_prefix={}/", failed.display()))
                .arg(format!("-max_total_time={}", self.seconds))
                .arg(format!("-max_len={}", self.max_len))
                .arg(format!("-timeout={}", self.timeout))
                .arg("-rss_limit_mb=2048")
                .arg("-print_final_stats=1"),
        )
    }
}

fn build(name: &str, feature: &str) -> Result<PathBuf> {
    let triple = host_triple()?;
    let mut command = Command::new("cargo");
    command.args(["build", "--release", "--locked", "--manifest-path", "fuzz/Cargo.toml"]);
    // A named target: then build scripts and macros are built without these flags.
    command.args(["--target", &triple, "--bin", name, "--features", feature]);
    command.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    command.env("CARGO_TARGET_DIR", out());
    run_with(&mut command)?;
    Ok(out().join(triple).join("release").join(name))
}

/// Where builds and findings are kept.
fn out() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("fuzz")
}

fn host_triple() -> Result<String> {
    let said = Command::new("rustc").args(["--version", "--verbose"]).output()?;
    let said = String::from_utf8_lossy(&said.stdout);
    match said.lines().find_map(|line| line.strip_prefix("host: ")) {
        Some(triple) => Ok(triple.to_owned()),
        None => bail!("rustc does not say for which machine it builds"),
    }
}

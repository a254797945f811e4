//! Steps that are run one after the other, each with a name and its time.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// What ran so far.
#[derive(Default)]
pub(crate) struct Steps {
    done: Vec<(&'static str, Duration, Option<String>)>,
}

impl Steps {
    /// Runs one step. A failure is kept, so that the others run as well.
    pub(crate) fn step(&mut self, name: &'static str, run: impl FnOnce() -> Result<()>) {
        eprintln!("\n==> {name}");
        let started = Instant::now();
        let failed = run().err().map(|error| format!("{error:#}"));
        if let Some(failed) = &failed {
            eprintln!("==> {name} FAILED: {failed}");
        }
        self.done.push((name, started.elapsed(), failed));
    }

    /// Prints a line a step.
    ///
    /// # Errors
    /// If one of them failed.
    pub(crate) fn finish(self) -> Result<()> {
        let failed = self.done.iter().filter(|(_, _, failed)| failed.is_some()).count();
        println!();
        for (name, took, failed) in &self.done {
            let mark = if failed.is_some() { "FAILED" } else { "ok" };
            println!("{mark:>7}  {:>6.1} s  {name}", took.as_secs_f64());
        }
        println!("\n{} passed, {failed} failed", self.done.len() - failed);
        if failed > 0 {
            bail!("{failed} of {} steps failed", self.done.len());
        }
        Ok(())
    }
}

/// What `program` prints when it is run with `args` in `folder`.
///
/// # Errors
/// If it does not succeed; the message is its own.
pub(crate) fn output(program: &str, args: &[&str], folder: &Path) -> Result<String> {
    let output = Command::new(program).args(args).current_dir(folder).output();
    let output = output.with_context(|| format!("start {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", args.join(" "), said.trim());
    String::from_utf8(output.stdout).with_context(|| format!("what {program} prints"))
}

/// Runs `program` with `args` in the workspace, its output passed through.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<()> {
    run_with(Command::new(program).args(args))
}

/// Runs a prepared command in the workspace.
pub(crate) fn run_with(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let status = command.current_dir(crate::root()).status().with_context(|| format!("start {shown}"))?;
    if !status.success() {
        bail!("{shown} ended with {status}");
    }
    Ok(())
}

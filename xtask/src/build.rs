//! Building the host and the author's command, with a bar.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use windlass_testbed::progress;

use crate::root;

/// What matters of cargo's messages.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    package_id: String,
    #[serde(default)]
    executable: Option<PathBuf>,
}

/// Builds the binary `windlass` and gives back where it is.
///
/// # Errors
/// If it does not build; the message holds what the compiler said.
pub(crate) fn host(release: bool) -> Result<PathBuf> {
    binary("host (windlass)", "windlass-host", "windlass", release)
}

/// The same for the command `kubectl windlass`.
///
/// # Errors
/// As for [`host`].
pub(crate) fn kubectl_windlass() -> Result<PathBuf> {
    binary("kubectl windlass", "kubectl-windlass", "kubectl-windlass", false)
}

fn binary(what: &'static str, package: &str, name: &str, release: bool) -> Result<PathBuf> {
    let show = progress::detect();
    show.begin(what, if release { "release" } else { "" });
    let result = build(package, name, release, &|done, total| show.step(done, total));
    show.finish(result.is_ok());
    result
}

fn build(package: &str, name: &str, release: bool, step: &dyn Fn(u64, u64)) -> Result<PathBuf> {
    let total = units(package)?;
    let mut command = Command::new("cargo");
    // Not `-p`: the whole workspace decides on features, as for xtask itself and for the tests.
    command.current_dir(root()).args(["build", "--locked", "--bin", name]);
    command.args(["--message-format", "json-render-diagnostics", "--color", "never"]);
    command.args(release.then_some("--release"));
    let mut cargo = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("start cargo")?;
    let stderr = cargo.stderr.take().context("standard error was piped")?;
    let said = std::thread::spawn(move || {
        let mut text = String::new();
        BufReader::new(stderr).read_to_string(&mut text).map(|_| text)
    });
    let (mut built, mut binary) = (BTreeSet::new(), None);
    let messages = BufReader::new(cargo.stdout.take().context("standard output was piped")?);
    for line in messages.lines() {
        let Ok(message) = serde_json::from_str::<Message>(&line?) else { continue };
        // A package may have a build script as well, and some are built twice.
        if message.reason == "compiler-artifact" && built.insert(message.package_id) {
            step((built.len() as u64).min(total), total);
        }
        binary = message.executable.or(binary);
    }
    let status = cargo.wait().context("wait for cargo")?;
    let said = said.join().ok().and_then(Result::ok).unwrap_or_default();
    match binary {
        Some(binary) if status.success() => Ok(binary),
        _ => bail!("{name} does not build:\n{said}"),
    }
}

/// How many packages there are to build, for the bar.
fn units(package: &str) -> Result<u64> {
    let tree = Command::new("cargo")
        .current_dir(root())
        .args(["tree", "--locked", "-p", package, "--prefix", "none", "-e", "normal,build"])
        .output()
        .context("start cargo")?;
    let text = String::from_utf8_lossy(&tree.stdout).into_owned();
    let packages: BTreeSet<_> = text.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    Ok(packages.len() as u64)
}

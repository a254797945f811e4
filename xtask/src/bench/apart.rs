//! `--apart`: the control plane and the load on one half of this machine's processors, the host on the other.
//!
//! As it is where the API server has a machine of its own. Where all share two processors, whatever the host does takes something
//! from the API server, and a change waits for that too: what the host itself makes of it drowns.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

use crate::build;

/// Which processors who has.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Apart {
    control_plane_and_load: String,
    host: String,
}

static APART: OnceLock<Apart> = OnceLock::new();

impl Apart {
    /// How this run is divided, if it is.
    pub(crate) fn of_this_run() -> Option<&'static Self> {
        APART.get()
    }

    /// Moves this process, and with it all that it starts, to the first half, and gives back a program that runs the host on the
    /// second. To be called before there is a second thread.
    ///
    /// # Errors
    /// If there is one processor only, or `taskset` (util-linux) can't move us.
    pub(crate) fn divide(binary: Option<PathBuf>, folder: &Path) -> Result<PathBuf> {
        let binary = binary.map_or_else(|| build::host(true), Ok)?;
        let binary = binary.canonicalize().with_context(|| format!("find {}", binary.display()))?;
        let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
        let allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .and_then(|list| processors(list.trim()))
            .context("/proc/self/status does not say which processors we may use")?;
        ensure!(allowed.len() > 1, "--apart needs two processors, and we may use {allowed:?} only");
        let (first, second) = allowed.split_at(allowed.len() / 2);
        let apart = Self { control_plane_and_load: list(first), host: list(second) };
        settle(&std::process::id().to_string(), &apart.control_plane_and_load)?;
        let script = folder.join("windlass");
        let text = format!(
            "#!/bin/sh\nexec taskset --cpu-list {} '{}' \"$@\"\n",
            apart.host,
            binary.display().to_string().replace('\'', r"'\''")
        );
        std::fs::write(&script, text).with_context(|| format!("write {}", script.display()))?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))
            .with_context(|| format!("make {} a program", script.display()))?;
        eprintln!("processors: control plane and load {}, host {}", apart.control_plane_and_load, apart.host);
        drop(APART.set(apart));
        Ok(script)
    }

    /// Moves this thread, and with it those that it starts, to where the host is; nowhere if nothing is divided.
    ///
    /// # Errors
    /// If `taskset` can't move us.
    pub(crate) fn join_the_host() -> Result<()> {
        let Some(apart) = Self::of_this_run() else { return Ok(()) };
        // `<process>/task/<thread>`
        let thread = std::fs::read_link("/proc/thread-self").context("read /proc/thread-self")?;
        let thread = thread.file_name().context("/proc/thread-self names no thread")?;
        settle(&thread.to_string_lossy(), &apart.host)
    }
}

/// Lets a process, or a thread, run on these processors only.
fn settle(id: &str, on: &str) -> Result<()> {
    let moved = Command::new("taskset")
        .args(["--pid", "--cpu-list", on, id])
        .output()
        .context("start taskset, which util-linux has")?;
    ensure!(moved.status.success(), "taskset: {}", String::from_utf8_lossy(&moved.stderr).trim());
    Ok(())
}

/// What a list as the kernel writes it names: `0-2,5`.
fn processors(list: &str) -> Option<Vec<usize>> {
    let mut all = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        all.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(all)
}

fn list(processors: &[usize]) -> String {
    processors.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_is_read() {
        assert_eq!(processors("0-2,5,7-8"), Some(vec![0, 1, 2, 5, 7, 8]));
        assert_eq!(processors("3"), Some(vec![3]));
        assert_eq!(processors("a few"), None);
        assert_eq!(list(&[0, 2]), "0,2");
    }
}

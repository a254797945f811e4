//! What a process has of memory and has used of CPU, as the kernel counts it.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

/// Clock ticks a second in `/proc/<pid>/stat`: fixed for user space on Linux.
const TICKS: u64 = 100;

/// Memory of a process, in MiB.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Memory {
    /// Pages that nobody else has: clean ones of files and dirty ones.
    pub(crate) private: f64,
    /// Of those, what could not be read from a file again.
    pub(crate) dirty: f64,
    /// Shared pages divided by who shares them.
    pub(crate) pss: f64,
    /// Everything that is resident.
    pub(crate) rss: f64,
}

impl Memory {
    /// Of a process, from `/proc/<pid>/smaps_rollup`.
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let mib = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
            kib.unwrap_or(0.0) / 1024.0
        };
        let dirty = mib("Private_Dirty:");
        Ok(Self { private: mib("Private_Clean:") + dirty, dirty, pss: mib("Pss:"), rss: mib("Rss:") })
    }

    /// Both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            private: self.private + other.private,
            dirty: self.dirty + other.dirty,
            pss: self.pss + other.pss,
            rss: self.rss + other.rss,
        }
    }
}

/// The highest resident memory of a process since its start, in MiB.
///
/// # Errors
/// If it has ended.
pub(crate) fn peak_mib(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.with_context(|| format!("{path} has no VmHWM"))? / 1024.0)
}

/// CPU time that a process has used since its start, its ended threads included; to 10 ms.
///
/// # Errors
/// If it has ended.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    ticks(&text)
        .map(|ticks| Duration::from_millis(ticks * 1000 / TICKS))
        .with_context(|| format!("{path} is no text of the kernel's"))
}

/// Time in user mode and in the kernel. The name, in parentheses, may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 12 30 0 0 20 0 1 0 5 1 1";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("nothing"), None);
    }

    #[test]
    fn this_process_has_memory_of_its_own() {
        let memory = Memory::of(std::process::id()).expect("it runs");
        assert!(memory.dirty > 0.0 && memory.private >= memory.dirty && memory.rss >= memory.private);
    }
}

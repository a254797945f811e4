//! The host and its children, as the kernel sees them: memory, descriptors, threads, limits.

use std::fs;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

/// A process that is not ours to reap: the host, or a child of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(pub(crate) u32);

/// What one process holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holds {
    /// Memory that is its own alone, in KiB.
    pub(crate) private_kib: u64,
    /// Open descriptors.
    pub(crate) descriptors: u64,
    /// Threads.
    pub(crate) threads: u64,
}

impl Process {
    /// The processes whose parent this is and whose first argument says what they are.
    pub(crate) fn children(self, command: &str) -> Vec<Process> {
        let all = fs::read_dir("/proc").expect("linux").flatten();
        let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_ours = |process: &Process| process.parent() == Some(self.0) && process.is(command);
        ids.map(Process).filter(is_ours).collect()
    }

    fn is(self, command: &str) -> bool {
        let line = fs::read(format!("/proc/{}/cmdline", self.0)).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(command.as_bytes())
    }

    fn parent(self) -> Option<u32> {
        self.status("PPid:")
    }

    /// A number in `/proc/<pid>/status`.
    fn status<T: std::str::FromStr>(self, field: &str) -> Option<T> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// Whether it runs: neither gone nor dead and waited for.
    pub(crate) fn lives(self) -> bool {
        self.status::<char>("State:").is_some_and(|state| state != 'Z')
    }

    /// What it holds now; nothing when it is gone, or hides from us.
    pub(crate) fn holds(self) -> Option<Holds> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.0)).ok()?;
        let private = rollup.lines().filter(|line| line.starts_with("Private_"));
        let kib = private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        let private_kib = kib.sum();
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.0)).ok()?.count() as u64;
        Some(Holds { private_kib, descriptors, threads: self.status("Threads:")? })
    }

    /// Sends a signal; one that is gone already has nothing to hear.
    pub(crate) fn signal(self, signal: Signal) {
        let _gone = kill_process(self.pid(), signal);
    }

    /// Lets it have so many descriptors from now on, and answers with how many it could have before.
    pub(crate) fn allow_descriptors(self, most: Option<u64>) -> Option<u64> {
        let now = rustix::process::getrlimit(Resource::Nofile);
        let limit = Rlimit { current: most, maximum: now.maximum };
        prlimit(Some(self.pid()), Resource::Nofile, limit).expect("our own child").current
    }

    fn pid(self) -> Pid {
        Pid::from_raw(i32::try_from(self.0).expect("a process id")).expect("not zero")
    }
}

//! Budget: how the container's memory is shared between the host and its children.
//!
//! On cgroup v2 the kernel may kill a container's processes together, so that a child's death by memory would be
//! the host's too. Each child therefore has a limit of its own that the kernel counts
//! for itself, and the sum of all stays below the container's. [`Budget::plan`] does the sums
//! and is pure; [`cgroup_limit`] asks the kernel.

use std::fmt;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

const MIB: u64 = 1 << 20;
/// What the worker and the spare process get where nothing limits the container.
const WORKER_MOST: u64 = 512 * MIB;
const SPARE_MOST: u64 = 1024 * MIB;
/// Three sixteenths of the container are the host's, as many the worker's: 96 MiB of 512.
const SHARE: (u64, u64) = (3, 16);
/// Below these nothing useful runs: a cache of a few hundred objects; eight stacks and one small guest;
/// one small component at the cheapest setting.
const HOST_LEAST: u64 = 64 * MIB;
const WORKER_LEAST: u64 = 48 * MIB;
const SPARE_LEAST: u64 = 96 * MIB;

/// The flag that sets [`Wanted::host`].
pub const HOST_FLAG: &str = "--host-memory";
/// The flag that sets [`Wanted::worker`].
pub const WORKER_FLAG: &str = "--worker-memory";
/// The flag that sets [`Wanted::spare`].
pub const SPARE_FLAG: &str = "--spare-memory";

/// What the user asks for, in bytes. `None`: what is best here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Kept for the host itself; not enforced, only counted.
    pub host: Option<u64>,
    /// Limit of the worker.
    pub worker: Option<u64>,
    /// Limit of the spare process.
    pub spare: Option<u64>,
}

/// Who may use how much, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// The container's limit; `None` where there is none.
    pub container: Option<u64>,
    /// What is left for the host; `None` where nothing limits it.
    pub host: Option<u64>,
    /// Limit of the worker that all plugins share.
    pub worker: u64,
    /// Limit of the spare process: the compiler or the solo worker, never both at once.
    pub spare: u64,
}

/// Why the host does not start with this memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// Less than what anything useful needs.
    #[error("{flag} is {}, at least {} are needed", Mib(*set), Mib(*least))]
    TooLittle {
        /// Which flag.
        flag: &'static str,
        /// Its value in bytes.
        set: u64,
        /// The least it may be, in bytes.
        least: u64,
    },
    /// The sum is more than the container may use.
    #[error(
        "the container's memory limit is {}, but host {} + worker {} + spare {} need {}: raise resources.limits.memory, or lower \
         {HOST_FLAG}, {WORKER_FLAG} or {SPARE_FLAG} where set",
        Mib(*container), Mib(*host), Mib(*worker), Mib(*spare), Mib(host.saturating_add(*worker).saturating_add(*spare))
    )]
    DoesNotFit {
        /// The container's limit, in bytes.
        container: u64,
        /// What the host needs, in bytes.
        host: u64,
        /// What the worker needs, in bytes.
        worker: u64,
        /// What the spare process needs, in bytes.
        spare: u64,
    },
}

impl Budget {
    /// Shares `container` out. What is not `wanted` scales with the container, down to
    /// what is useful at all and up to 512 MiB for the worker and 1 GiB for the spare process.
    ///
    /// # Errors
    /// When the sum does not fit, or one of `wanted` is too little for anything.
    pub fn plan(container: Option<u64>, wanted: Wanted) -> Result<Self, BudgetError> {
        at_least(HOST_FLAG, wanted.host, HOST_LEAST)?;
        at_least(WORKER_FLAG, wanted.worker, WORKER_LEAST)?;
        at_least(SPARE_FLAG, wanted.spare, SPARE_LEAST)?;
        let Some(limit) = container else {
            return Ok(Self {
                container,
                host: wanted.host,
                worker: wanted.worker.unwrap_or(WORKER_MOST),
                spare: wanted.spare.unwrap_or(SPARE_MOST),
            });
        };
        let share = limit / SHARE.1 * SHARE.0;
        let host = wanted.host.unwrap_or(share.max(HOST_LEAST));
        let worker = wanted.worker.unwrap_or(share.clamp(WORKER_LEAST, WORKER_MOST));
        let left = limit.saturating_sub(host).saturating_sub(worker);
        let spare = wanted.spare.unwrap_or(left.clamp(SPARE_LEAST, SPARE_MOST));
        if spare > left || host.saturating_add(worker) > limit {
            return Err(BudgetError::DoesNotFit { container: limit, host, worker, spare });
        }
        Ok(Self { container, host: Some(limit - worker - spare), worker, spare })
    }
}

/// One line for the log.
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.container, self.host) {
            (Some(limit), Some(host)) => write!(f, "memory {}: host {}", Mib(limit), Mib(host))?,
            (_, Some(host)) => write!(f, "memory without a limit: host {}", Mib(host))?,
            _ => f.write_str("memory without a limit: host without")?,
        }
        write!(f, ", worker {}, spare {}", Mib(self.worker), Mib(self.spare))
    }
}

fn at_least(flag: &'static str, set: Option<u64>, least: u64) -> Result<(), BudgetError> {
    match set {
        Some(set) if set < least => Err(BudgetError::TooLittle { flag, set, least }),
        _ => Ok(()),
    }
}

/// Bytes as people write them in a pod.
struct Mib(u64);

impl fmt::Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}Mi", self.0 / MIB)
    }
}

/// The memory limit of this process' cgroup in bytes, the least of its own and its parents'
/// and of both versions; `None` without one. `root` is `/`, elsewhere in tests.
pub fn cgroup_limit(root: &Path) -> Option<u64> {
    let listed = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut least: Option<u64> = None;
    for line in listed.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(parts_of), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (mounts, file): (&[&str], _) = if parts_of.is_empty() {
            (&["sys/fs/cgroup", "sys/fs/cgroup/unified"], "memory.max")
        } else if parts_of.split(',').any(|part| part == "memory") {
            (&["sys/fs/cgroup/memory"], "memory.limit_in_bytes")
        } else {
            continue;
        };
        for mount in mounts {
            for limit in limits(&root.join(mount), Path::new(path), file) {
                least = Some(least.map_or(limit, |least| least.min(limit)));
            }
        }
    }
    least
}

/// What `file` says in `mount` and in every folder on the way to `path` below it. In a container the
/// mount often is the cgroup itself, and the path is the node's: then it leads nowhere.
fn limits(mount: &Path, path: &Path, file: &str) -> Vec<u64> {
    let mut folder = mount.to_owned();
    let mut found: Vec<_> = read_limit(&folder.join(file)).into_iter().collect();
    for step in path.components() {
        match step {
            Component::Normal(name) => folder.push(name),
            Component::ParentDir => break,
            _ => continue,
        }
        found.extend(read_limit(&folder.join(file)));
    }
    found
}

fn read_limit(file: &Path) -> Option<u64> {
    // Version 2 says `max`, version 1 a number that no machine has.
    let limit = std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()?;
    (limit < 1 << 60).then_some(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn wanted(host: Option<u64>, worker: Option<u64>, spare: Option<u64>) -> Wanted {
        Wanted { host, worker, spare }
    }

    /// All in MiB, so that the table can be read.
    fn plan(container: Option<u64>, of: Wanted) -> Result<(Option<u64>, u64, u64), BudgetError> {
        let bytes = |mib: Option<u64>| mib.map(|mib| mib * MIB);
        let of = wanted(bytes(of.host), bytes(of.worker), bytes(of.spare));
        let budget = Budget::plan(bytes(container), of)?;
        if let (Some(limit), Some(host)) = (budget.container, budget.host) {
            assert_eq!(host + budget.worker + budget.spare, limit, "the sum is the container");
        }
        Ok((budget.host.map(|host| host / MIB), budget.worker / MIB, budget.spare / MIB))
    }

    #[test]
    fn the_sum_never_exceeds_the_container() {
        let none = Wanted::default();
        let table = [
            (None, none, (None, 512, 1024)),
            (None, wanted(Some(100), Some(256), Some(512)), (Some(100), 256, 512)),
            (Some(512), none, (Some(96), 96, 320)),
            (Some(1024), none, (Some(192), 192, 640)),
            (Some(2048), none, (Some(640), 384, 1024)),
            (Some(8192), none, (Some(6656), 512, 1024)),
            (Some(256), none, (Some(64), 48, 144)),
            (Some(208), none, (Some(64), 48, 96)),
            (Some(512), wanted(None, Some(256), None), (Some(96), 256, 160)),
            (Some(512), wanted(None, None, Some(128)), (Some(288), 96, 128)),
            (Some(512), wanted(Some(200), None, None), (Some(200), 96, 216)),
            (Some(512), wanted(Some(64), Some(48), Some(400)), (Some(64), 48, 400)),
        ];
        for (container, wanted, want) in table {
            assert_eq!(plan(container, wanted), Ok(want), "{container:?} {wanted:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_is_set_and_what_is_needed() {
        let table = [
            (
                Some(207),
                Wanted::default(),
                "limit is 207Mi, but host 64Mi + worker 48Mi + spare 96Mi need 208Mi",
            ),
            (Some(64), Wanted::default(), "need 208Mi"),
            (Some(512), wanted(None, Some(400), None), "host 96Mi + worker 400Mi + spare 96Mi need 592Mi"),
            (Some(512), wanted(Some(512), None, None), "need 704Mi"),
            (Some(512), wanted(None, None, Some(1024)), "need 1216Mi"),
            (None, wanted(None, Some(16), None), "--worker-memory is 16Mi, at least 48Mi are needed"),
            (Some(512), wanted(None, None, Some(1)), "--spare-memory is 1Mi, at least 96Mi"),
            (Some(512), wanted(Some(1), None, None), "--host-memory is 1Mi, at least 64Mi"),
        ];
        for (container, wanted, text) in table {
            let said = plan(container, wanted).expect_err("refused").to_string();
            assert!(said.contains(text), "{said}");
        }
        let most = Some(u64::MAX);
        assert!(Budget::plan(Some(512 * MIB), wanted(most, most, most)).is_err());
    }

    #[test]
    fn any_container_is_shared_out_or_refused() {
        for mib in 0..4096 {
            match Budget::plan(Some(mib * MIB + 12_345), Wanted::default()) {
                Ok(budget) => assert!(mib >= 208 && budget.spare >= SPARE_LEAST, "{mib} {budget}"),
                Err(error) => assert!(mib < 208, "{mib} {error}"),
            }
        }
    }

    /// A machine's files: where, and what they say.
    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        root
    }

    #[test]
    fn the_least_limit_on_the_way_counts() {
        type Files = &'static [(&'static str, &'static str)];
        let table: [(&str, Files, Option<u64>); 9] = [
            ("nothing is there", &[], None),
            (
                "a container on version 2",
                &[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "536870912\n")],
                Some(512 * MIB),
            ),
            (
                "version 2 without a limit",
                &[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "max\n")],
                None,
            ),
            (
                "a parent is tighter",
                &[
                    ("proc/self/cgroup", "0::/pod/container\n"),
                    ("sys/fs/cgroup/pod/memory.max", "1048576\n"),
                    ("sys/fs/cgroup/pod/container/memory.max", "2097152\n"),
                ],
                Some(MIB),
            ),
            (
                "the parent has none",
                &[
                    ("proc/self/cgroup", "0::/pod/container\n"),
                    ("sys/fs/cgroup/pod/memory.max", "max\n"),
                    ("sys/fs/cgroup/pod/container/memory.max", "2097152\n"),
                ],
                Some(2 * MIB),
            ),
            (
                "version 1, with the node's path in a container",
                &[
                    ("proc/self/cgroup", "4:memory:/kubepods/pod1/abc\n1:cpu:/\n"),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456\n"),
                ],
                Some(256 * MIB),
            ),
            (
                "version 1 without a limit",
                &[
                    ("proc/self/cgroup", "4:memory:/\n"),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ],
                None,
            ),
            (
                "both versions",
                &[
                    ("proc/self/cgroup", "9:cpu,memory:/a\n0::/\n"),
                    ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "4194304\n"),
                    ("sys/fs/cgroup/unified/memory.max", "8388608\n"),
                ],
                Some(4 * MIB),
            ),
            (
                "a path out of its namespace",
                &[("proc/self/cgroup", "0::/../../other\n"), ("sys/fs/cgroup/memory.max", "1048576\n")],
                Some(MIB),
            ),
        ];
        for (name, files, want) in table {
            assert_eq!(cgroup_limit(machine(files).path()), want, "{name}");
        }
    }
}

//! Confinement: a process takes away from itself what it could do harm with.
//!
//! Called once, at the very start of the child, while it has one thread and has read nothing
//! that a stranger wrote. Several fences stand one behind the other (descriptors, resource limits,
//! capabilities, Landlock, a list of allowed system calls), so that what one kernel lacks
//! is mostly covered by another; what is not covered is said in the [`Report`].
//! Nothing here needs a privilege: it is for a pod that has none.
//!
//! What is left to code that breaks out of its guest, and is therefore the host's to bear: it
//! may answer wrongly, burn CPU, write lines to the standard error it was given, and use kernel memory (threads, page
//! tables, pages made read-only) that no resource limit counts, until the container's own limit ends it.

mod descriptors;
mod fence;
mod powers;
mod report;
mod rlimits;
mod seccomp;

use std::path::PathBuf;
use std::time::Duration;

pub use report::{Files, Limit, Report, SystemCalls};

/// The largest artefact that the compile child may write, in bytes: eight times the largest
/// component that is accepted.
pub const ARTEFACT_MAX_BYTES: u64 = 256 << 20;

/// What the confined process is for; it decides what it may still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs guests: reads artefacts, writes no file, has threads, lives long.
    Worker,
    /// Compiles one component: reads no file, writes one descriptor that it is given.
    Compile,
}

/// What a process keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// Directories whose files may be read. With none, no file can be opened at all, also where
    /// the kernel has no Landlock.
    pub readable: Vec<PathBuf>,
    /// Writable private memory in bytes (`RLIMIT_DATA`): heap, stacks of threads, memories
    /// of guests. Reserved address space does not count.
    pub data_bytes: u64,
    /// CPU time of the whole process, rounded up to a second; the kernel then kills it.
    /// `None`: as long as it lives.
    pub cpu: Option<Duration>,
    /// What it is for.
    pub role: Role,
}

/// Why a process could not be confined. The kernel lacking something is no error but a gap in
/// the [`Report`]; these are mistakes of whoever started the process.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// Landlock and the filter would hold for one thread only.
    #[error("confining needs a single thread, there are {0}")]
    Threads(usize),
    /// A directory of [`Confinement::readable`] cannot be opened.
    #[error("cannot open {path} that is to stay readable: {why}")]
    Readable {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        why: String,
    },
    /// The kernel has Landlock and refuses our rules.
    #[error("landlock refuses the rules: {0}")]
    Rules(#[from] ::landlock::RulesetError),
    /// The list of system calls does not make a filter.
    #[error("the list of system calls does not make a filter: {0}")]
    Filter(#[from] seccompiler::BackendError),
}

/// Confines the calling process for good, and says how well that worked.
///
/// Its descriptors other than 0, 1 and 2 are closed. It is killed when the *thread* that started it
/// ends, so whoever starts it does that from a thread that outlives it.
///
/// # Errors
/// See [`ConfineError`]. Some fences may stand already: the process must end.
pub fn apply(what: &Confinement) -> Result<Report, ConfineError> {
    let threads = threads();
    if threads > 1 {
        return Err(ConfineError::Threads(threads));
    }
    // Read from the kernel at first use, by a call and a file that are about to be gone, and kept:
    // the runtime asks for it again inside, and would panic.
    rustix::param::page_size();
    let descriptors_closed = descriptors::close_all_but_standard();
    let killed_first = powers::offer_to_be_killed_first();
    let limits = rlimits::lower(what);
    let powers = powers::drop_all();
    let files = fence::raise(&what.readable)?;
    let needs = seccomp::Needs {
        opens_files: !what.readable.is_empty(),
        signals_stay_inside: matches!(files, Files::Landlock { abi } if abi >= fence::SIGNALS_SINCE),
    };
    let system_calls = seccomp::filter(what.role, needs)?;
    Ok(Report {
        files,
        system_calls,
        limits,
        capabilities_left: powers.capabilities_left,
        no_new_privileges: powers.no_new_privileges,
        hidden: powers.hidden,
        dies_with_host: powers.dies_with_host,
        killed_first,
        descriptors_closed,
    })
}

/// Keeps processes of the same user from looking into this one: its memory, environment and
/// descriptors by way of `/proc`. For the host, at its start: where the kernel has no Landlock, this is what stands between
/// a worker, which has the same user, and the host's token in memory. There will be no core dumps.
/// Says whether it worked.
pub fn hide() -> bool {
    powers::hide()
}

/// Threads of this process; 1 where `/proc` does not tell.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, |tasks| tasks.count().max(1))
}

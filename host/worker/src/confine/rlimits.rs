//! Resource limits: what the kernel counts for a process.
//!
//! Memory is `RLIMIT_DATA`: it counts what can be written, while `RLIMIT_AS` would count the gigabytes
//! that a WebAssembly runtime reserves and never touches. The filter of system calls closes the
//! kinds of mapping that `RLIMIT_DATA` does not see. `RLIMIT_NPROC` is left alone: it counts
//! the processes of a user on the whole node, and another pod's would keep our threads from starting.

use rustix::fs::{FileType, fstat};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::report::Limit;
use super::{ARTEFACT_MAX_BYTES, Confinement, Role};

/// Descriptors of a worker: control socket, lanes, artefacts while they are mapped.
const WORKER_DESCRIPTORS: u64 = 512;
/// Descriptors of a compile child: socket, artefact, standard error.
const COMPILE_DESCRIPTORS: u64 = 32;
/// The main thread's stack; the kernel counts it for itself.
const STACK_BYTES: u64 = 8 << 20;

/// Lowers what `what` says, for good.
pub(super) fn lower(what: &Confinement) -> Vec<Limit> {
    let mut wanted = vec![
        ("data", Resource::Data, what.data_bytes),
        ("core", Resource::Core, 0),
        ("stack", Resource::Stack, STACK_BYTES),
        ("memlock", Resource::Memlock, 0),
        ("msgqueue", Resource::Msgqueue, 0),
    ];
    match what.role {
        Role::Worker => wanted.push(("nofile", Resource::Nofile, WORKER_DESCRIPTORS)),
        Role::Compile => {
            wanted.push(("nofile", Resource::Nofile, COMPILE_DESCRIPTORS));
            wanted.push(("fsize", Resource::Fsize, ARTEFACT_MAX_BYTES));
        }
    }
    // A worker whose standard error is a file would be killed for its own last words.
    if what.role == Role::Worker && !writes_to_a_file() {
        wanted.push(("fsize", Resource::Fsize, 0));
    }
    if let Some(cpu) = what.cpu {
        let seconds = cpu.as_secs() + u64::from(cpu.subsec_nanos() > 0);
        wanted.push(("cpu", Resource::Cpu, seconds.max(1)));
    }
    wanted.into_iter().map(|(name, resource, value)| set(name, resource, value)).collect()
}

fn set(name: &str, resource: Resource, value: u64) -> Limit {
    // Never above what was there: raising needs a privilege.
    let value = getrlimit(resource).maximum.map_or(value, |most| most.min(value));
    // At the maximum of CPU time the kernel kills without a word; a second below it says which limit it was.
    let maximum = match resource {
        Resource::Cpu => getrlimit(resource).maximum.map_or(value + 1, |most| most.min(value + 1)),
        _ => value,
    };
    let failed = setrlimit(resource, Rlimit { current: Some(value), maximum: Some(maximum) }).err();
    Limit { name: name.to_owned(), value, failed: failed.map(|errno| errno.to_string()) }
}

fn writes_to_a_file() -> bool {
    let is_file = |stat: rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    fstat(std::io::stdout()).is_ok_and(is_file) || fstat(std::io::stderr()).is_ok_and(is_file)
}

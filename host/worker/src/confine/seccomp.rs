//! Seccomp: the list of system calls that are left.
//!
//! What is not on it answers ENOSYS, as in a kernel that does not know it: libraries then take
//! their older way, which a signal would not let them. Calls for another architecture
//! (`int 0x80`) end the process.
//!
//! Executable mappings stay: compiled guests are code. What must not stay is any memory that
//! `RLIMIT_DATA` does not count: shared mappings, `memfd_create`, mappings that grow down, huge pages.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::report::SystemCalls;
use super::{ConfineError, Role};
use crate::courtesy::NICE;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Whatever their arguments. Each acts on this process, on time, or on descriptors it was given.
const ALWAYS: &[c_long] = &[
    // Descriptors that are there.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_fstat,
    libc::SYS_close,
    libc::SYS_ppoll,
    // Sockets that are there; new ones come by message.
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    // Memory.
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_brk,
    // Threads.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Signals that hit this process: traps of guests.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Time and chance.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrusage,
    libc::SYS_getrandom,
];

/// Calls that newer architectures do without; one of the C libraries still uses them.
#[cfg(target_arch = "x86_64")]
const ALWAYS_HERE: &[c_long] = &[libc::SYS_poll, libc::SYS_time];
#[cfg(not(target_arch = "x86_64"))]
const ALWAYS_HERE: &[c_long] = &[];

/// Also for [`Role::Compile`]: the artefact is on disk before its name is.
const COMPILE: &[c_long] = &[libc::SYS_fsync, libc::SYS_fdatasync];

/// What the C libraries of Linux start a thread with; never a process, never a namespace.
const THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u64;
/// musl adds this one, which means nothing any more.
const DETACHED: u64 = 0x0040_0000;

/// Kinds of mapping that `RLIMIT_DATA` does not count, beside the one that is wanted.
const MAP_MASK: u64 = (libc::MAP_TYPE | libc::MAP_GROWSDOWN | libc::MAP_HUGETLB | libc::MAP_LOCKED) as u64;

/// `membarrier(2)`: among the threads of this process, of memory and of instructions, and signing up for it.
const MEMBARRIERS: [u64; 4] = [1 << 3, 1 << 4, 1 << 5, 1 << 6];

/// Opening for anything but reading what is there; `O_PATH` would name files that cannot be read.
const OPEN_MASK: u64 = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_PATH) as u64;

/// What the filter depends on besides the role.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    /// Whether files may be opened by path, to read.
    pub(super) opens_files: bool,
    /// Whether another fence keeps signals from other processes.
    pub(super) signals_stay_inside: bool,
}

/// Installs the filter for this thread and all it will start.
///
/// # Errors
/// When the list does not make a filter. A kernel without seccomp is no error but a gap.
pub(super) fn filter(role: Role, needs: Needs) -> Result<SystemCalls, ConfineError> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Ok(SystemCalls::All(format!("no list for {}", std::env::consts::ARCH)));
    };
    let rules = rules(role, needs, std::process::id())?;
    let allowed = u32::try_from(rules.len()).expect("a few dozen calls");
    let denied = SeccompAction::Errno(libc::ENOSYS as u32);
    let program: BpfProgram = SeccompFilter::new(rules, denied, SeccompAction::Allow, arch)?.try_into()?;
    Ok(match seccompiler::apply_filter(&program) {
        Ok(()) => SystemCalls::Filtered { allowed },
        Err(error) => SystemCalls::All(format!("the kernel refuses it: {error}")),
    })
}

fn rules(role: Role, needs: Needs, pid: u32) -> Result<Rules, ConfineError> {
    let mut rules: Rules = ALWAYS.iter().chain(ALWAYS_HERE).map(|call| (*call, Vec::new())).collect();
    if role == Role::Compile {
        rules.extend(COMPILE.iter().map(|call| (*call, Vec::new())));
    }
    if needs.opens_files {
        open(&mut rules)?;
    }
    if role == Role::Worker {
        courtesy(&mut rules)?;
    }
    memory(&mut rules)?;
    processes(&mut rules, needs, pid)?;
    descriptors(&mut rules)?;
    Ok(rules)
}

/// Opening by path, to read. Which paths is Landlock's business.
fn open(rules: &mut Rules) -> Result<(), ConfineError> {
    allow(rules, libc::SYS_openat, vec![masked(2, OPEN_MASK, 0)?])?;
    #[cfg(target_arch = "x86_64")]
    allow(rules, libc::SYS_open, vec![masked(1, OPEN_MASK, 0)?])?;
    Ok(())
}

/// A thread may step back, once and for itself: nobody else's priority changes, and none gets better.
fn courtesy(rules: &mut Rules) -> Result<(), ConfineError> {
    let level = is(2, NICE as u64)?;
    #[allow(clippy::unnecessary_cast)] // One C library has it as a signed type.
    allow(rules, libc::SYS_setpriority, vec![is(0, libc::PRIO_PROCESS as u64)?, is(1, 0)?, level])?;
    allow(rules, libc::SYS_sched_setscheduler, vec![is(0, 0)?, is(1, libc::SCHED_IDLE as u64)?])
}

fn memory(rules: &mut Rules) -> Result<(), ConfineError> {
    allow(rules, libc::SYS_mmap, vec![masked(3, MAP_MASK, libc::MAP_PRIVATE as u64)?])?;
    for advice in [libc::MADV_DONTNEED, libc::MADV_FREE, libc::MADV_HUGEPAGE, libc::MADV_NOHUGEPAGE] {
        allow(rules, libc::SYS_madvise, vec![is(2, advice as u64)?])?;
    }
    // Code written by one thread is run by another: needed where caches are not coherent.
    for command in [0].into_iter().chain(MEMBARRIERS) {
        allow(rules, libc::SYS_membarrier, vec![is(0, command)?])?;
    }
    Ok(())
}

/// Threads, and a signal to oneself (abort). `clone3` hides its flags behind a pointer that
/// no filter can follow: it answers ENOSYS, and libraries use `clone`.
fn processes(rules: &mut Rules, needs: Needs, pid: u32) -> Result<(), ConfineError> {
    allow(rules, libc::SYS_clone, vec![masked(0, !DETACHED & u64::from(u32::MAX), THREAD)?])?;
    allow(rules, libc::SYS_tgkill, vec![is(0, u64::from(pid))?])?;
    // musl aborts by this one, which takes a thread of anybody: the first of this process, and any where Landlock
    // keeps signals inside. Elsewhere an abort ends as a segmentation fault.
    let abort = libc::SIGABRT as u64;
    allow(rules, libc::SYS_tkill, vec![is(0, u64::from(pid))?, is(1, abort)?])?;
    if needs.signals_stay_inside {
        allow(rules, libc::SYS_tkill, vec![is(1, abort)?])?;
    }
    allow(rules, libc::SYS_prctl, vec![is(0, libc::PR_SET_NAME as u64)?])?;
    // Reading one's own limits; nobody's are set.
    allow(rules, libc::SYS_prlimit64, vec![is(0, 0)?, is_pointer(2, 0)?])?;
    allow(rules, libc::SYS_prlimit64, vec![is(0, u64::from(pid))?, is_pointer(2, 0)?])
}

/// Standard error is shared with the host, also its open file's flags and position: none may be
/// changed, under no other number either, and nobody be made to get signals from it.
fn descriptors(rules: &mut Rules) -> Result<(), ConfineError> {
    for command in [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL] {
        allow(rules, libc::SYS_fcntl, vec![is(1, command as u64)?])?;
    }
    let another_name = is(1, libc::F_DUPFD_CLOEXEC as u64)?;
    allow(rules, libc::SYS_fcntl, vec![another_name, is_not(0, 1)?, is_not(0, 2)?])?;
    allow(rules, libc::SYS_lseek, vec![is_not(0, 1)?, is_not(0, 2)?])?;
    #[allow(clippy::unnecessary_cast)] // One C library has it as a signed type.
    allow(rules, libc::SYS_ioctl, vec![is(1, libc::FIOCLEX as u64)?])?;
    for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        let of_socket = is(1, libc::SOL_SOCKET as u64)?;
        allow(rules, libc::SYS_setsockopt, vec![of_socket, is(2, option as u64)?])?;
    }
    // To whom the socket is connected, nobody else.
    allow(rules, libc::SYS_sendto, vec![is_pointer(4, 0)?])?;
    // glibc asks for the size of an open file by this name. With a path it tells that a file is there.
    #[cfg(target_env = "gnu")]
    allow(
        rules,
        libc::SYS_newfstatat,
        vec![masked(3, libc::AT_EMPTY_PATH as u64, libc::AT_EMPTY_PATH as u64)?],
    )?;
    Ok(())
}

/// Adds one way in which `call` is allowed.
fn allow(rules: &mut Rules, call: c_long, when: Vec<SeccompCondition>) -> Result<(), ConfineError> {
    rules.entry(call).or_default().push(SeccompRule::new(when)?);
    Ok(())
}

/// An `int` or flags: the kernel looks at the lower half.
fn is(argument: u8, value: u64) -> Result<SeccompCondition, ConfineError> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?)
}

fn is_not(argument: u8, value: u64) -> Result<SeccompCondition, ConfineError> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)?)
}

fn is_pointer(argument: u8, value: u64) -> Result<SeccompCondition, ConfineError> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)?)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, ConfineError> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Needs = Needs { opens_files: true, signals_stay_inside: true };
    const NONE: Needs = Needs { opens_files: false, signals_stay_inside: false };

    #[test]
    fn every_architecture_and_role_makes_a_filter() {
        for arch in [TargetArch::x86_64, TargetArch::aarch64, TargetArch::riscv64] {
            for (role, needs) in [(Role::Worker, ALL), (Role::Worker, NONE), (Role::Compile, NONE)] {
                let rules = rules(role, needs, 1).expect("rules");
                let denied = SeccompAction::Errno(libc::ENOSYS as u32);
                let filter = SeccompFilter::new(rules, denied, SeccompAction::Allow, arch);
                let program: BpfProgram = filter.expect("a filter").try_into().expect("a program");
                assert!(program.len() < 512, "{} instructions", program.len());
            }
        }
    }

    #[test]
    fn a_call_with_conditions_never_stands_without() {
        let rules = rules(Role::Worker, ALL, 1).expect("rules");
        for call in [
            libc::SYS_mmap,
            libc::SYS_clone,
            libc::SYS_openat,
            libc::SYS_fcntl,
            libc::SYS_tgkill,
            libc::SYS_tkill,
            libc::SYS_setpriority,
            libc::SYS_sched_setscheduler,
        ] {
            assert!(!rules[&call].is_empty(), "{call} is allowed whatever its arguments");
        }
    }

    #[test]
    fn only_a_worker_changes_a_priority() {
        for call in [libc::SYS_setpriority, libc::SYS_sched_setscheduler] {
            let allowed = |role| rules(role, NONE, 1).expect("rules").contains_key(&call);
            assert!(allowed(Role::Worker) && !allowed(Role::Compile));
        }
    }

    #[test]
    fn what_reads_no_file_cannot_open_one() {
        let rules = rules(Role::Compile, NONE, 1).expect("rules");
        assert!(!rules.contains_key(&libc::SYS_openat));
        #[cfg(target_arch = "x86_64")]
        assert!(!rules.contains_key(&libc::SYS_open));
    }
}

//! Attempts on other processes: starting one, signalling the host, looking into it.

use crate::attempts::{Attempt, attempt};
use crate::cell::{Cell, Got, SECRET, call, done, reached};
use crate::prisoner::ESCAPED;

/// Ignored by who does not ask for it: the host must outlive its own drill.
const SIGNAL: usize = libc::SIGURG as usize;

pub(crate) const ATTEMPTS: &[Attempt] = &[
    attempt!(Anyone, "start a program", |_| {
        let (path, args) = echo();
        done(libc::SYS_execve, &[path, args.as_ptr() as usize, 0])
    }),
    attempt!(Anyone, "start a program by execveat", |_| {
        let (path, args) = echo();
        done(libc::SYS_execveat, &[libc::AT_FDCWD as usize, path, args.as_ptr() as usize, 0, 0])
    }),
    attempt!(Anyone, "start a program out of memory", program_in_memory),
    #[cfg(target_arch = "x86_64")]
    attempt!(Anyone, "fork", |_| child(call(libc::SYS_fork, &[])?)),
    attempt!(Anyone, "clone a process", |_| child(call(libc::SYS_clone, &[libc::SIGCHLD as usize])?)),
    attempt!(Anyone, "clone a process by clone3", |_| {
        let mut arguments = [0_u64; 11];
        arguments[4] = libc::SIGCHLD as u64;
        child(call(libc::SYS_clone3, &[arguments.as_mut_ptr() as usize, 88])?)
    }),
    attempt!(Anyone, "clone a process that shares memory", |_| cloned(libc::CLONE_VM | libc::SIGCHLD)),
    attempt!(Anyone, "clone a child of its parent", |_| cloned(libc::CLONE_PARENT | libc::SIGCHLD)),
    attempt!(Root, "clone a process in a new user namespace", |_| cloned(
        libc::CLONE_NEWUSER | libc::SIGCHLD
    )),
    attempt!(Root, "clone a process in a new mount namespace", |_| cloned(libc::CLONE_NEWNS | libc::SIGCHLD)),
    attempt!(Perhaps, "clone a thread with other flags", |_| cloned(
        libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD
    )),
    attempt!(Anyone, "signal the host", |cell| done(libc::SYS_kill, &[host(cell), SIGNAL])),
    attempt!(Anyone, "signal everybody", |_| done(libc::SYS_kill, &[usize::MAX, 0])),
    attempt!(Anyone, "signal its own group", |_| done(libc::SYS_kill, &[0, SIGNAL])),
    attempt!(Anyone, "signal the host's thread", |cell| done(
        libc::SYS_tgkill,
        &[host(cell), host(cell), SIGNAL]
    )),
    attempt!(Anyone, "signal the host's thread by tkill", |cell| done(
        libc::SYS_tkill,
        &[host(cell), SIGNAL]
    )),
    attempt!(Anyone, "abort the host by tkill", |cell| done(
        libc::SYS_tkill,
        &[host(cell), libc::SIGABRT as usize]
    )),
    attempt!(Anyone, "queue a signal to the host", |cell| queued(libc::SYS_rt_sigqueueinfo, &[host(cell)])),
    attempt!(Anyone, "queue a signal to the host's thread", |cell| queued(
        libc::SYS_rt_tgsigqueueinfo,
        &[host(cell), host(cell)]
    )),
    attempt!(Anyone, "hold the host by a descriptor", |cell| done(libc::SYS_pidfd_open, &[host(cell), 0])),
    attempt!(Anyone, "signal the host by a descriptor", |cell| {
        let held = call(libc::SYS_pidfd_open, &[host(cell), 0])?;
        done(libc::SYS_pidfd_send_signal, &[held, SIGNAL, 0, 0])
    }),
    attempt!(Anyone, "signal by a descriptor it has not", |_| reached(
        libc::SYS_pidfd_send_signal,
        &[0, SIGNAL, 0, 0]
    )),
    attempt!(Anyone, "take a descriptor of the host's", |cell| {
        let held = call(libc::SYS_pidfd_open, &[host(cell), 0])?;
        done(libc::SYS_pidfd_getfd, &[held, 0, 0])
    }),
    attempt!(Anyone, "make the kernel signal the host", |cell| done(
        libc::SYS_fcntl,
        &[0, libc::F_SETOWN as usize, host(cell)]
    )),
    attempt!(Anyone, "choose the signal that the kernel sends", |_| done(
        libc::SYS_fcntl,
        &[0, 10, libc::SIGKILL as usize]
    )),
    attempt!(Anyone, "trace the host", |cell| done(libc::SYS_ptrace, &[0x4206, host(cell), 0, 0])),
    attempt!(Anyone, "be traced by the host", |_| done(
        libc::SYS_ptrace,
        &[libc::PTRACE_TRACEME as usize, 0, 0, 0]
    )),
    attempt!(Anyone, "copy out of the host's memory", |cell| copied(cell, libc::SYS_process_vm_readv)),
    attempt!(Anyone, "copy into the host's memory", |cell| copied(cell, libc::SYS_process_vm_writev)),
    attempt!(Anyone, "advise about the host's memory", |_| reached(
        libc::SYS_process_madvise,
        &[0, 0, 0, 0, 0]
    )),
    attempt!(Root, "move the host's pages", |cell| reached(
        libc::SYS_move_pages,
        &[host(cell), 0, 0, 0, 0, 0]
    )),
    attempt!(Anyone, "find the host's locks", |cell| {
        let mut found = [0_usize; 2];
        let size = &raw mut found[1] as usize;
        done(libc::SYS_get_robust_list, &[host(cell), found.as_mut_ptr() as usize, size])
    }),
    attempt!(Perhaps, "compare with the host", |cell| done(
        libc::SYS_kcmp,
        &[host(cell), host(cell), 0, 0, 0]
    )),
    attempt!(Anyone, "read the host's limits", |cell| {
        let mut old = [0_u64; 2];
        let data = libc::RLIMIT_DATA as usize;
        done(libc::SYS_prlimit64, &[host(cell), data, 0, old.as_mut_ptr() as usize])
    }),
    attempt!(Anyone, "lower the host's limits", |cell| {
        let new = [u64::MAX; 2];
        done(libc::SYS_prlimit64, &[host(cell), libc::RLIMIT_DATA as usize, new.as_ptr() as usize, 0])
    }),
    attempt!(Anyone, "slow the host down", |cell| done(libc::SYS_setpriority, &[0, host(cell), 5])),
    attempt!(Anyone, "slow the host down as it may itself", |cell| priority(PROCESS, host(cell), 10)),
    attempt!(Anyone, "slow its own process down", |_| priority(PROCESS, std::process::id() as usize, 10)),
    attempt!(Anyone, "step back further than it may", |_| priority(PROCESS, 0, 19)),
    attempt!(Anyone, "step back less than it may", |_| priority(PROCESS, 0, 5)),
    attempt!(Root, "step in front of others", |_| priority(PROCESS, 0, -5)),
    attempt!(Anyone, "slow a group down", |_| reached(libc::SYS_setpriority, &[GROUP, NOBODY, 10])),
    attempt!(Anyone, "slow a user down", |_| reached(libc::SYS_setpriority, &[USER, NOBODY, 10])),
    attempt!(Anyone, "hold the host on one processor", |cell| {
        let all = [u64::MAX; 16];
        done(libc::SYS_sched_setaffinity, &[host(cell), 128, all.as_ptr() as usize])
    }),
    attempt!(Anyone, "schedule the host last", |cell| schedule(host(cell), libc::SCHED_IDLE, 0)),
    attempt!(Anyone, "schedule its own process last", |_| {
        schedule(std::process::id() as usize, libc::SCHED_IDLE, 0)
    }),
    attempt!(Anyone, "schedule itself in another way", |_| schedule(0, libc::SCHED_BATCH, 0)),
    attempt!(Root, "schedule itself in front of others", |_| schedule(0, libc::SCHED_FIFO, 1)),
    attempt!(Anyone, "put the host's reads last", |cell| done(
        libc::SYS_ioprio_set,
        &[1, host(cell), 3 << 13]
    )),
    attempt!(Anyone, "leave its session", |_| done(libc::SYS_setsid, &[])),
    attempt!(Anyone, "wait for a child", |_| reached(libc::SYS_wait4, &[usize::MAX, 0, 1, 0])),
];

/// As `setpriority(2)` has them.
const PROCESS: usize = libc::PRIO_PROCESS as usize;
const GROUP: usize = libc::PRIO_PGRP as usize;
const USER: usize = libc::PRIO_USER as usize;
/// A group and a user that nobody is: without the fences the kernel looks for them, and harms nobody.
const NOBODY: usize = 0x3fff_fff0;

fn priority(which: usize, who: usize, level: isize) -> Got {
    done(libc::SYS_setpriority, &[which, who, level as usize])
}

fn schedule(who: usize, policy: libc::c_int, priority: i32) -> Got {
    done(libc::SYS_sched_setscheduler, &[who, policy as usize, &raw const priority as usize])
}

fn host(cell: &Cell) -> usize {
    cell.host as usize
}

/// A program that says what no prisoner may.
fn echo() -> (usize, [usize; 3]) {
    (c"/bin/echo".as_ptr() as usize, [c"echo".as_ptr() as usize, ESCAPED.as_ptr() as usize, 0])
}

fn program_in_memory(_: &Cell) -> Got {
    let memory = call(libc::SYS_memfd_create, &[c"program".as_ptr() as usize, 0])?;
    let script = format!("#!/bin/echo {}\n", ESCAPED.to_string_lossy());
    call(libc::SYS_write, &[memory, script.as_ptr() as usize, script.len()])?;
    let args = [c"program".as_ptr() as usize, 0];
    let empty = libc::AT_EMPTY_PATH as usize;
    done(libc::SYS_execveat, &[memory, c"".as_ptr() as usize, args.as_ptr() as usize, 0, empty])
}

/// The child ends at once; the parent has escaped.
fn child(pid: usize) -> Got {
    if pid == 0 {
        let _ = call(libc::SYS_exit_group, &[0]);
    }
    Ok(format!("child {pid}"))
}

/// With a stack of its own, which sharing memory needs.
fn cloned(flags: i32) -> Got {
    extern "C" fn ends(_: *mut libc::c_void) -> libc::c_int {
        let _ = call(libc::SYS_exit, &[0]);
        0
    }
    let stack = Box::leak(vec![0_u128; 4096].into_boxed_slice());
    // SAFETY: the stack is never freed and large enough for a function that ends at once.
    let pid = unsafe { libc::clone(ends, stack.as_mut_ptr_range().end.cast(), flags, std::ptr::null_mut()) };
    if pid == -1 { Err(std::io::Error::last_os_error().to_string()) } else { Ok(format!("child {pid}")) }
}

fn queued(number: libc::c_long, to: &[usize]) -> Got {
    let mut info = [0_i32; 32];
    info[0] = libc::SIGURG;
    info[2] = libc::SI_QUEUE;
    done(number, &[to, &[SIGNAL, info.as_ptr() as usize]].concat())
}

fn copied(cell: &Cell, number: libc::c_long) -> Got {
    let mut text = SECRET.as_bytes().to_vec();
    let here = [text.as_mut_ptr() as usize, text.len()];
    let there = [cell.address, SECRET.len()];
    done(number, &[host(cell), here.as_ptr() as usize, 1, there.as_ptr() as usize, 1, 0])
}

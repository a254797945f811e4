//! Attempts on the kernel: powers over the machine, and over the fences themselves.

use crate::attempts::{Attempt, attempt};
use crate::cell::{Cell, Got, call, done, reached};

pub(crate) const ATTEMPTS: &[Attempt] = &[
    attempt!(Root, "become another user", |_| done(libc::SYS_setresuid, &[65_533, 65_533, 65_533])),
    attempt!(Root, "become root", |_| done(libc::SYS_setuid, &[0])),
    attempt!(Root, "join other groups", |_| done(libc::SYS_setgroups, &[0, 0])),
    attempt!(Root, "take capabilities", |_| {
        let header = [0x2008_0522_u32, 0];
        let all = [1_u32, 1, 0, 0, 0, 0];
        done(libc::SYS_capset, &[header.as_ptr() as usize, all.as_ptr() as usize])
    }),
    attempt!(Anyone, "let others look into it", |_| prctl(libc::PR_SET_DUMPABLE, 1)),
    attempt!(Perhaps, "name who may trace it", |_| prctl(libc::PR_SET_PTRACER, usize::MAX)),
    attempt!(Anyone, "outlive the host", |_| prctl(libc::PR_SET_PDEATHSIG, 0)),
    attempt!(Anyone, "adopt orphans", |_| prctl(libc::PR_SET_CHILD_SUBREAPER, 1)),
    attempt!(Anyone, "get its powers back at exec", |_| prctl(libc::PR_SET_KEEPCAPS, 1)),
    attempt!(Perhaps, "change its map of memory", |_| reached(
        libc::SYS_prctl,
        &[libc::PR_SET_MM as usize, 99, 0, 0, 0]
    )),
    attempt!(Anyone, "stop its own ticks", |_| prctl(libc::PR_SET_TIMERSLACK, 1)),
    attempt!(Anyone, "put a filter of its own", |_| reached(libc::SYS_seccomp, &[1, 0, 0])),
    attempt!(Anyone, "make a fence of its own", |_| reached(libc::SYS_landlock_create_ruleset, &[0, 0, 1])),
    attempt!(Anyone, "run as another kind of system", |_| done(libc::SYS_personality, &[0xffff_ffff])),
    attempt!(Anyone, "leave its namespaces", |_| done(libc::SYS_unshare, &[libc::CLONE_FS as usize])),
    attempt!(Root, "a user namespace", |_| done(libc::SYS_unshare, &[libc::CLONE_NEWUSER as usize])),
    attempt!(Anyone, "join a namespace", |_| reached(libc::SYS_setns, &[0, 0])),
    attempt!(Root, "mount", |cell| {
        let at = cell.path("open");
        let kind = c"tmpfs".as_ptr() as usize;
        reached(libc::SYS_mount, &[kind, at.as_ptr() as usize, c"none".as_ptr() as usize, 0, 0])
    }),
    attempt!(Root, "unmount", |_| reached(libc::SYS_umount2, &[c"/nowhere".as_ptr() as usize, 0])),
    attempt!(Root, "mount by the new calls", |_| reached(libc::SYS_fsopen, &[c"tmpfs".as_ptr() as usize, 0])),
    attempt!(Perhaps, "copy a tree of mounts", |_| reached(
        libc::SYS_open_tree,
        &[0, c"/".as_ptr() as usize, 0]
    )),
    attempt!(Root, "change the root", |_| reached(libc::SYS_pivot_root, &[0, 0])),
    attempt!(Root, "load a program into the kernel", |_| reached(libc::SYS_bpf, &[5, 0, 0])),
    attempt!(Perhaps, "measure the machine", |_| reached(
        libc::SYS_perf_event_open,
        &[0, 0, usize::MAX, 0, 0]
    )),
    attempt!(Anyone, "read the kernel's keys", |_| done(libc::SYS_keyctl, &[0, -3_isize as usize, 1])),
    attempt!(Anyone, "add a key", |_| reached(libc::SYS_add_key, &[0, 0, 0, 0, 0])),
    attempt!(Anyone, "ask for a key", |_| reached(libc::SYS_request_key, &[0, 0, 0, 0])),
    attempt!(Perhaps, "read the kernel's log", |_| done(libc::SYS_syslog, &[10, 0, 0])),
    attempt!(Root, "reboot", |_| reached(libc::SYS_reboot, &[0, 0, 0, 0])),
    attempt!(Perhaps, "load a module", |_| reached(libc::SYS_init_module, &[0, 0, 0])),
    attempt!(Perhaps, "load another kernel", |_| reached(libc::SYS_kexec_load, &[0, 99, 0, 0])),
    attempt!(Root, "swap on a file", |_| reached(libc::SYS_swapon, &[0, 0])),
    attempt!(Root, "set the clock", |_| reached(libc::SYS_clock_settime, &[0, 0])),
    attempt!(Root, "name the machine", |_| reached(libc::SYS_sethostname, &[0, usize::MAX])),
    attempt!(Root, "keep accounts", |_| reached(libc::SYS_acct, &[1])),
    attempt!(Anyone, "ask for quotas", |_| reached(libc::SYS_quotactl, &[0, 0, 0, 0])),
    attempt!(Anyone, "a timer that signals", |_| reached(libc::SYS_timer_create, &[99, 0, 0])),
    attempt!(Anyone, "a descriptor for signals", |_| reached(libc::SYS_signalfd4, &[usize::MAX, 0, 8, 0])),
    attempt!(Anyone, "a descriptor for events", |_| done(libc::SYS_eventfd2, &[0, 0])),
    #[cfg(target_arch = "x86_64")]
    attempt!(Perhaps, "reach the ports", |_| reached(libc::SYS_ioperm, &[0x80, 1, 1])),
    #[cfg(target_arch = "x86_64")]
    attempt!(Perhaps, "reach all ports", |_| done(libc::SYS_iopl, &[3])),
    #[cfg(target_arch = "x86_64")]
    attempt!(Perhaps, "change its segments", |_| reached(libc::SYS_modify_ldt, &[0, 0, 0])),
    #[cfg(target_arch = "x86_64")]
    attempt!(Perhaps, "call as a program of 32 bits", |_| {
        let mut number = 20_u64;
        // SAFETY: asks for the process' number by the old way into the kernel; where there is no such way it
        // ends the process, which is one of the answers that the drill expects.
        unsafe {
            std::arch::asm!("int 0x80", inout("rax") number, out("r8") _, out("r9") _, out("r10") _, out("r11") _)
        };
        if number as i64 > 0 { Ok(format!("process {number}")) } else { Err(format!("{}", number as i64)) }
    }),
    #[cfg(target_arch = "x86_64")]
    attempt!(Perhaps, "call as a program with short pointers", |_| done(0x4000_0000 + libc::SYS_getpid, &[])),
    attempt!(Perhaps, "any call that the kernel will have one day", later),
];

fn prctl(option: i32, value: usize) -> Got {
    done(libc::SYS_prctl, &[option as usize, value, 0, 0, 0])
}

/// Whatever is not on the list, also what nobody has thought of yet.
fn later(_: &Cell) -> Got {
    let found: Vec<_> = (463..1024).filter(|number| call(*number, &[]).is_ok_and(|_| true)).collect();
    if found.is_empty() { Err("none of 463 to 1023".to_owned()) } else { Ok(format!("{found:?}")) }
}

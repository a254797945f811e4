//! Attempts on memory: more than the limit, or of a kind that no limit counts.

use crate::attempts::{Attempt, attempt};
use crate::cell::{Cell, Errno, Got, call, done, reached};
use crate::prisoner::DATA_BYTES;

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
const TOO_MUCH: usize = DATA_BYTES as usize + (16 << 20);

pub(crate) const ATTEMPTS: &[Attempt] = &[
    attempt!(Anyone, "map more than the limit", |_| mapped(map(TOO_MUCH, READ_WRITE, PRIVATE))),
    attempt!(Anyone, "reserve and then open more than the limit", |_| {
        let at = map(TOO_MUCH, libc::PROT_NONE, PRIVATE | libc::MAP_NORESERVE)?;
        done(libc::SYS_mprotect, &[at, TOO_MUCH, READ_WRITE as usize])
    }),
    attempt!(Anyone, "map a little and let it grow", |_| {
        let at = map(4096, READ_WRITE, PRIVATE)?;
        mapped(call(libc::SYS_mremap, &[at, 4096, TOO_MUCH, libc::MREMAP_MAYMOVE as usize]))
    }),
    attempt!(Anyone, "move the end of the heap", heap),
    attempt!(Anyone, "map many pieces", |_| {
        let pieces = (0..TOO_MUCH >> 20).map(|_| map(1 << 20, READ_WRITE, PRIVATE));
        Ok(format!("{} pieces", pieces.collect::<Result<Vec<_>, Errno>>()?.len()))
    }),
    attempt!(Anyone, "map memory to share", |_| mapped(map(
        1 << 20,
        READ_WRITE,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS
    ))),
    attempt!(Anyone, "map a stack that grows", |_| mapped(map(
        TOO_MUCH,
        READ_WRITE,
        PRIVATE | libc::MAP_GROWSDOWN
    ))),
    attempt!(Perhaps, "map huge pages", |_| mapped(map(2 << 20, READ_WRITE, PRIVATE | libc::MAP_HUGETLB))),
    attempt!(Perhaps, "map memory that the kernel may drop", |_| mapped(map(
        1 << 20,
        READ_WRITE,
        8 | libc::MAP_ANONYMOUS
    ))),
    attempt!(Root, "map memory that is never swapped", |_| mapped(map(
        1 << 20,
        READ_WRITE,
        PRIVATE | libc::MAP_LOCKED
    ))),
    attempt!(Anyone, "a file in memory", |_| done(libc::SYS_memfd_create, &[c"m".as_ptr() as usize, 0])),
    attempt!(Perhaps, "a file in memory that nobody sees", |_| done(libc::SYS_memfd_secret, &[0])),
    attempt!(Root, "lock its memory", |_| reached(libc::SYS_mlockall, &[2])),
    attempt!(Anyone, "handle its page faults", |_| reached(libc::SYS_userfaultfd, &[1])),
    attempt!(Anyone, "advise to share equal pages", |_| reached(libc::SYS_madvise, &[0, 0, 12])),
    attempt!(Anyone, "a memory segment for all", |_| done(
        libc::SYS_shmget,
        &[0, 1 << 20, (libc::IPC_CREAT | 0o600) as usize]
    )),
    attempt!(Anyone, "attach a memory segment", |_| reached(libc::SYS_shmat, &[usize::MAX, 0, 0])),
    attempt!(Anyone, "a semaphore for all", |_| reached(libc::SYS_semget, &[1, 1, 0])),
    attempt!(Anyone, "a queue of messages for all", |_| reached(libc::SYS_msgget, &[1, 0])),
    attempt!(Anyone, "a queue of messages with a name", |_| reached(libc::SYS_mq_open, &[0, 0, 0, 0])),
    attempt!(Anyone, "raise its own limit of memory", |_| limit(libc::RLIMIT_DATA as usize)),
    attempt!(Perhaps, "raise its own limit of descriptors", |_| limit(libc::RLIMIT_NOFILE as usize)),
    attempt!(Perhaps, "raise its own limit of file size", |_| limit(libc::RLIMIT_FSIZE as usize)),
    attempt!(Perhaps, "have its memory dumped", |_| limit(libc::RLIMIT_CORE as usize)),
    attempt!(Anyone, "set a limit by the old call", |_| {
        let new = [u64::MAX; 2];
        done(libc::SYS_setrlimit, &[libc::RLIMIT_DATA as usize, new.as_ptr() as usize])
    }),
];

fn map(length: usize, protection: i32, flags: i32) -> Result<usize, Errno> {
    call(libc::SYS_mmap, &[0, length, protection as usize, flags as usize, usize::MAX, 0])
}

fn mapped(at: Result<usize, Errno>) -> Got {
    Ok(format!("mapped at {:#x}", at?))
}

/// The heap's end answers where it is, not whether it moved.
fn heap(_: &Cell) -> Got {
    let now = call(libc::SYS_brk, &[0])?;
    let then = call(libc::SYS_brk, &[now + TOO_MUCH])?;
    if then > now { Ok(format!("{} bytes more", then - now)) } else { Err("did not move".to_owned()) }
}

fn limit(resource: usize) -> Got {
    let new = [u64::MAX; 2];
    done(libc::SYS_prlimit64, &[0, resource, new.as_ptr() as usize, 0])
}

//! Attempts on files: reading what others keep, writing anything, changing what is run.

use std::path::Path;

use crate::attempts::{Attempt, attempt};
use crate::cell::{Cell, Got, LEFT_OPEN, SECRET, c_path, call, done, open, opened, reached, read, read_file};

/// What only Landlock keeps a worker from: opening by path, to read.
pub(crate) const READS: &[&str] = &[
    "read the ServiceAccount's token",
    "read a token beside the artefacts",
    "read a token through a link among the artefacts",
    "read a token by way of the parent folder",
    "read a token by open",
    "read /etc/passwd",
    "read its own binary",
    "read its own environment",
    "read its own map of memory",
    "read the host's command line",
    "read the machine's memory",
];

const HERE: usize = libc::AT_FDCWD as usize;

pub(crate) const ATTEMPTS: &[Attempt] = &[
    attempt!(Perhaps, "read the ServiceAccount's token", |_| read_file(
        &c"/var/run/secrets/kubernetes.io/serviceaccount/token".to_owned()
    )),
    attempt!(Anyone, "read a token beside the artefacts", |cell| read_file(&cell.path("secrets/token"))),
    attempt!(Anyone, "read a token through a link among the artefacts", |cell| read_file(
        &cell.path("artefacts/link")
    )),
    attempt!(Anyone, "read a token by way of the parent folder", |cell| read_file(
        &cell.path("artefacts/../secrets/token")
    )),
    #[cfg(target_arch = "x86_64")]
    attempt!(Anyone, "read a token by open", |cell| read(call(
        libc::SYS_open,
        &[cell.path("secrets/token").as_ptr() as usize, 0]
    )?)),
    attempt!(Anyone, "read a token by openat2", |cell| {
        let how = [0_u64; 3];
        let path = cell.path("secrets/token");
        read(call(libc::SYS_openat2, &[HERE, path.as_ptr() as usize, how.as_ptr() as usize, 24])?)
    }),
    attempt!(Anyone, "name a token with O_PATH", |cell| opened(&cell.path("secrets/token"), libc::O_PATH)),
    attempt!(Anyone, "read /etc/passwd", |_| read_file(&c"/etc/passwd".to_owned())),
    attempt!(Anyone, "read its own binary", |_| read_file(&c"/proc/self/exe".to_owned())),
    attempt!(Perhaps, "read its own environment", |_| read_file(&c"/proc/self/environ".to_owned())),
    attempt!(Anyone, "read its own map of memory", |_| read_file(&c"/proc/self/maps".to_owned())),
    attempt!(Anyone, "open its own memory to write", |_| opened(&c"/proc/self/mem".to_owned(), libc::O_RDWR)),
    attempt!(Anyone, "read the host's environment", |cell| read_file(&cell.of_host("environ"))),
    attempt!(Anyone, "read the host's command line", |cell| read_file(&cell.of_host("cmdline"))),
    attempt!(Anyone, "read the host's memory", memory_of_host),
    attempt!(Root, "use a descriptor of the host's by its name in /proc", |cell| opened(
        &cell.of_host("fd/0"),
        libc::O_RDONLY
    )),
    attempt!(Perhaps, "read the machine's memory", |_| opened(&c"/dev/mem".to_owned(), libc::O_RDONLY)),
    attempt!(Perhaps, "open the kernel's trigger", |_| opened(
        &c"/proc/sysrq-trigger".to_owned(),
        libc::O_WRONLY
    )),
    attempt!(Anyone, "read a descriptor that the host left open", |_| read(LEFT_OPEN[0] as usize)),
    attempt!(Anyone, "read another, with a high number", |_| read(LEFT_OPEN[1] as usize)),
    attempt!(Anyone, "find any descriptor above 2", any_descriptor),
    attempt!(Anyone, "create a file", |cell| opened(&cell.path("open/new"), libc::O_WRONLY | libc::O_CREAT)),
    attempt!(Anyone, "create a file without a name", |cell| opened(
        &cell.path("open"),
        libc::O_WRONLY | libc::O_TMPFILE
    )),
    attempt!(Anyone, "write to a file", |cell| opened(&cell.path("open/file"), libc::O_WRONLY)),
    attempt!(Root, "write to an artefact", |cell| opened(&cell.path("artefacts/one"), libc::O_WRONLY)),
    attempt!(Root, "empty an artefact by opening it", |cell| opened(
        &cell.path("artefacts/one"),
        libc::O_RDONLY | libc::O_TRUNC
    )),
    attempt!(Root, "truncate an artefact", |cell| on(cell, libc::SYS_truncate, "artefacts/one", &[0])),
    attempt!(Anyone, "delete a file", |cell| at(cell, libc::SYS_unlinkat, "open/doomed", &[0])),
    attempt!(Anyone, "rename a file", |cell| {
        let to = cell.path("open/renamed");
        at(cell, libc::SYS_renameat2, "open/file", &[HERE, to.as_ptr() as usize, 0])
    }),
    attempt!(Anyone, "link to a file", |cell| {
        let to = cell.path("open/linked");
        at(cell, libc::SYS_linkat, "open/own", &[HERE, to.as_ptr() as usize, 0])
    }),
    attempt!(Anyone, "make a symbolic link", |cell| {
        let to = cell.path("open/symbolic");
        on(cell, libc::SYS_symlinkat, "secrets/token", &[HERE, to.as_ptr() as usize])
    }),
    attempt!(Anyone, "make a folder", |cell| at(cell, libc::SYS_mkdirat, "open/folder", &[0o700])),
    attempt!(Anyone, "make a pipe with a name", |cell| at(
        cell,
        libc::SYS_mknodat,
        "open/pipe",
        &[(libc::S_IFIFO | 0o600) as usize, 0]
    )),
    attempt!(Root, "change an artefact's rights", |cell| at(
        cell,
        libc::SYS_fchmodat,
        "artefacts/one",
        &[0o777]
    )),
    attempt!(Root, "change an artefact's owner", |cell| at(
        cell,
        libc::SYS_fchownat,
        "artefacts/one",
        &[1, 1, 0]
    )),
    attempt!(Root, "change an artefact's times", |cell| at(
        cell,
        libc::SYS_utimensat,
        "artefacts/one",
        &[0, 0]
    )),
    attempt!(Anyone, "list the artefacts", |cell| {
        let folder = open(&cell.path("artefacts"), libc::O_RDONLY | libc::O_DIRECTORY)?;
        let mut space = [0_u8; 512];
        done(libc::SYS_getdents64, &[folder, space.as_mut_ptr() as usize, space.len()])
    }),
    attempt!(Anyone, "ask whether a file is there", |cell| at(
        cell,
        libc::SYS_faccessat,
        "secrets/token",
        &[libc::R_OK as usize]
    )),
    attempt!(Anyone, "ask for a file's size", |cell| {
        let mut space = [0_u8; 512];
        at(cell, libc::SYS_newfstatat, "secrets/token", &[space.as_mut_ptr() as usize, 0])
    }),
    attempt!(Anyone, "ask for a file's size by statx", |cell| {
        let mut space = [0_u8; 512];
        at(cell, libc::SYS_statx, "secrets/token", &[0, 0x7ff, space.as_mut_ptr() as usize])
    }),
    attempt!(Anyone, "follow a link in /proc", |_| {
        let mut space = [0_u8; 256];
        let path = c"/proc/self/exe".as_ptr() as usize;
        done(libc::SYS_readlinkat, &[HERE, path, space.as_mut_ptr() as usize, space.len()])
    }),
    attempt!(Anyone, "ask for a handle of a file", handle),
    attempt!(Root, "open by a handle", |_| {
        let handle = [8_u32, 1, 0, 0];
        reached(libc::SYS_open_by_handle_at, &[HERE, handle.as_ptr() as usize, 0])
    }),
    attempt!(Anyone, "watch files with inotify", |_| done(libc::SYS_inotify_init1, &[0])),
    attempt!(Root, "watch files with fanotify", |_| done(libc::SYS_fanotify_init, &[0, 0])),
    attempt!(Anyone, "change the folder it is in", |cell| on(cell, libc::SYS_chdir, "open", &[])),
    attempt!(Root, "change its root", |cell| on(cell, libc::SYS_chroot, "open", &[])),
    attempt!(Anyone, "lock the host's standard error", |_| done(
        libc::SYS_flock,
        &[2, libc::LOCK_SH as usize]
    )),
    attempt!(Anyone, "cut off the host's standard error", |_| reached(libc::SYS_ftruncate, &[2, 0])),
    attempt!(Anyone, "move in the host's standard error", |_| reached(libc::SYS_lseek, &[2, 0, 0])),
    attempt!(Anyone, "give the host's standard error another number", |_| done(
        libc::SYS_fcntl,
        &[2, libc::F_DUPFD_CLOEXEC as usize, 3]
    )),
    attempt!(Anyone, "make the host's standard error non-blocking", |_| done(
        libc::SYS_fcntl,
        &[2, libc::F_SETFL as usize, libc::O_NONBLOCK as usize]
    )),
    attempt!(Anyone, "the same by ioctl", |_| {
        let yes = 1_i32;
        done(libc::SYS_ioctl, &[2, libc::FIONBIO as usize, &raw const yes as usize])
    }),
    attempt!(Anyone, "type into the host's terminal", |_| {
        let key = b'x';
        reached(libc::SYS_ioctl, &[2, libc::TIOCSTI as usize, &raw const key as usize])
    }),
    attempt!(Anyone, "copy descriptors over others", |_| done(libc::SYS_dup3, &[0, 9, 0])),
    attempt!(Anyone, "make a pipe", |_| {
        let mut ends = [0_i32; 2];
        done(libc::SYS_pipe2, &[ends.as_mut_ptr() as usize, 0])
    }),
];

/// `number(path, args…)`.
fn on(cell: &Cell, number: libc::c_long, name: &str, args: &[usize]) -> Got {
    let path = cell.path(name);
    done(number, &[&[path.as_ptr() as usize], args].concat())
}

/// `number(AT_FDCWD, path, args…)`.
fn at(cell: &Cell, number: libc::c_long, name: &str, args: &[usize]) -> Got {
    let path = cell.path(name);
    done(number, &[&[HERE, path.as_ptr() as usize], args].concat())
}

fn memory_of_host(cell: &Cell) -> Got {
    let memory = open(&cell.of_host("mem"), libc::O_RDONLY)?;
    let mut found = vec![0_u8; SECRET.len()];
    call(libc::SYS_pread64, &[memory, found.as_mut_ptr() as usize, found.len(), cell.address])?;
    Ok(String::from_utf8_lossy(&found).into_owned())
}

fn any_descriptor(_: &Cell) -> Got {
    let found: Vec<_> = (3..4096)
        .filter(|number| call(libc::SYS_fcntl, &[*number, libc::F_GETFD as usize]).is_ok())
        .collect();
    if found.is_empty() { Err("none".to_owned()) } else { Ok(format!("{found:?}")) }
}

fn handle(_: &Cell) -> Got {
    let mut handle = [0_u32; 64];
    handle[0] = 128;
    let mut mount = 0_i32;
    let path = c_path(Path::new("/etc/passwd"));
    reached(
        libc::SYS_name_to_handle_at,
        &[HERE, path.as_ptr() as usize, handle.as_mut_ptr() as usize, &raw mut mount as usize, 0],
    )
}

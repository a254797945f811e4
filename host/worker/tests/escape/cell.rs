//! Cell: what a prisoner knows of the world outside, and how it calls the kernel.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Descriptors that the host "forgot" to close.
pub(crate) const LEFT_OPEN: [i32; 2] = [7, 300];
/// What nobody inside may ever read.
pub(crate) const SECRET: &str = "the host's own token";

/// What there is to be got.
pub(crate) struct Cell {
    /// A process of the same user that plays the host.
    pub(crate) host: i32,
    /// Where it keeps [`SECRET`] in memory.
    pub(crate) address: usize,
    /// `artefacts/` (readable inside), `secrets/token`, `open/` (anyone may write).
    pub(crate) folder: PathBuf,
}

impl Cell {
    pub(crate) fn path(&self, name: &str) -> CString {
        c_path(&self.folder.join(name))
    }

    pub(crate) fn of_host(&self, name: &str) -> CString {
        c_path(Path::new(&format!("/proc/{}/{name}", self.host)))
    }

    /// A listening socket of the host in no file system.
    pub(crate) fn abstract_name(&self) -> String {
        format!("windlass-escape-{}", self.folder.display())
    }
}

pub(crate) fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no zero byte")
}

/// What came of an attempt: what was got, or the error that stood in the way.
pub(crate) type Got = Result<String, String>;

/// The error of a system call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl From<Errno> for String {
    fn from(errno: Errno) -> Self {
        std::io::Error::from_raw_os_error(errno.0).to_string()
    }
}

/// A system call as machine code would do it.
pub(crate) fn call(number: libc::c_long, args: &[usize]) -> Result<usize, Errno> {
    let arg = |at: usize| args.get(at).copied().unwrap_or(0);
    // SAFETY: not safe at all; what is attempted must not depend on the library being nice.
    // Each caller passes pointers that are good for what it asks.
    let done = unsafe { libc::syscall(number, arg(0), arg(1), arg(2), arg(3), arg(4), arg(5)) };
    if done == -1 {
        Err(Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)))
    } else {
        Ok(done as usize)
    }
}

/// Got it when the call succeeds.
pub(crate) fn done(number: libc::c_long, args: &[usize]) -> Got {
    Ok(format!("answered {}", call(number, args)?))
}

/// Got it when the kernel looks at the arguments at all: for calls that would do harm or
/// need a machine of their own if they succeeded.
pub(crate) fn reached(number: libc::c_long, args: &[usize]) -> Got {
    match call(number, args) {
        Ok(answer) => Ok(format!("answered {answer}")),
        Err(errno) if [libc::ENOSYS, libc::EPERM, libc::EACCES].contains(&errno.0) => Err(errno.into()),
        Err(errno) => Ok(format!("reached: {}", String::from(errno))),
    }
}

pub(crate) fn open(path: &CString, flags: i32) -> Result<usize, Errno> {
    call(libc::SYS_openat, &[libc::AT_FDCWD as usize, path.as_ptr() as usize, flags as usize, 0o600])
}

pub(crate) fn opened(path: &CString, flags: i32) -> Got {
    Ok(format!("descriptor {}", open(path, flags)?))
}

/// Got it when there is something to read.
pub(crate) fn read(descriptor: usize) -> Got {
    let mut buffer = [0_u8; 64];
    match call(libc::SYS_read, &[descriptor, buffer.as_mut_ptr() as usize, buffer.len()])? {
        0 => Err("empty".to_owned()),
        length => Ok(format!("read {:?}", String::from_utf8_lossy(&buffer[..length.min(24)]))),
    }
}

pub(crate) fn read_file(path: &CString) -> Got {
    read(open(path, libc::O_RDONLY)?)
}

//! Processes of ours: started with nothing but a socket, and never left behind.
//!
//! Each has a thread here, its keeper, that starts it and waits for its end. The kernel
//! kills a process that asked for it when the *thread* that started it ends, so that
//! thread has to live as long; and a process that somebody waits for is never a zombie.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// Stack of a keeper: it only waits.
const KEEPER_STACK_BYTES: usize = 128 << 10;

/// What is to be started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// What it is told; never anything secret: every process may read it.
    pub args: Vec<OsString>,
}

impl Launch {
    /// This program once more, also when its file has been replaced meanwhile.
    pub fn own<A: Into<OsString>>(args: impl IntoIterator<Item = A>) -> Self {
        Self { program: "/proc/self/exe".into(), args: args.into_iter().map(Into::into).collect() }
    }

    fn command(&self, stdin: OwnedFd) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg0("windlass")
            .args(&self.args)
            .env_clear()
            .current_dir("/")
            // A terminal's interrupt is the host's: its processes end when it has no more use for them.
            .process_group(0)
            .stdin(stdin)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        command
    }
}

/// Why there is no process.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No descriptor or thread left for it.
    #[error("prepare a process")]
    Prepare(#[source] io::Error),
    /// The program cannot be started, or no process is to be had.
    #[error("start {program}")]
    Spawn {
        /// What was to be started.
        program: String,
        /// Why it was not.
        #[source]
        source: io::Error,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this exit code.
    Exited(i32),
    /// By this signal: 6 after an abort, 9 when it was killed, 11 and 7 for a bad access, 24 out of CPU time.
    Signalled(i32),
    /// It cannot be found out.
    Unknown,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Exited(code) => write!(f, "exited with code {code}"),
            Ended::Signalled(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "ended by signal {signal} ({name})"),
                None => write!(f, "ended by signal {signal}"),
            },
            Ended::Unknown => f.write_str("ended, nobody knows how"),
        }
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    let names = [
        (Signal::ILL, "illegal instruction"),
        (Signal::TRAP, "trap"),
        (Signal::ABORT, "abort"),
        (Signal::BUS, "bus error"),
        (Signal::FPE, "arithmetic"),
        (Signal::KILL, "kill"),
        (Signal::SEGV, "segmentation fault"),
        (Signal::TERM, "terminate"),
        (Signal::XCPU, "CPU time"),
        (Signal::XFSZ, "file size"),
        (Signal::SYS, "bad system call"),
    ];
    names.iter().find(|(known, _)| known.as_raw() == signal).map(|(_, name)| *name)
}

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Ended::Exited(code),
            (None, Some(signal)) => Ended::Signalled(signal),
            (None, None) => Ended::Unknown,
        }
    }
}

/// A process of ours that runs or has run. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Process {
    id: u32,
    kept: Arc<Kept>,
    keeper: Option<JoinHandle<()>>,
}

/// What the keeper and the others share.
#[derive(Debug)]
struct Kept {
    // Taken by the keeper once the process has ended and before it is reaped: whoever holds
    // the lock and finds the child kills that one and no other with its number.
    child: Mutex<Option<Child>>,
    ended: Mutex<Option<Ended>>,
    changed: Condvar,
}

impl Process {
    /// Starts a process whose standard input is a socket; the other end is handed back. It
    /// has no environment, the root as its directory, and of our descriptors only standard error.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind.
    pub fn start(launch: &Launch) -> Result<(Self, UnixStream), StartError> {
        let (ours, theirs) = UnixStream::pair().map_err(StartError::Prepare)?;
        let command = launch.command(theirs.into());
        let (tell, told) = mpsc::sync_channel(1);
        let keeper = std::thread::Builder::new()
            .name("keeper".into())
            .stack_size(KEEPER_STACK_BYTES)
            .spawn(move || keep(command, &tell))
            .map_err(StartError::Prepare)?;
        let started = told.recv().expect("a keeper tells before it ends");
        match started {
            Ok((id, kept)) => Ok((Self { id, kept, keeper: Some(keeper) }, ours)),
            Err(source) => {
                // It has nothing left to do; its panic would be one of the line above.
                let _joined = keeper.join();
                Err(StartError::Spawn { program: launch.program.display().to_string(), source })
            }
        }
    }

    /// Its number, for people.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Ends it with SIGKILL, at once; without effect when it has ended.
    pub fn kill(&self) {
        if let Some(child) = &mut *lock(&self.kept.child) {
            // Only ESRCH is possible, and the keeper is about to see why.
            let _gone = child.kill();
        }
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<Ended> {
        *lock(&self.kept.ended)
    }

    /// Waits for its end, at most until then.
    pub fn wait(&self, until: Option<Instant>) -> Option<Ended> {
        let mut ended = lock(&self.kept.ended);
        while ended.is_none() {
            let left = match until {
                None => Duration::from_secs(3600),
                Some(until) => until.saturating_duration_since(Instant::now()),
            };
            if left.is_zero() {
                break;
            }
            ended = self.kept.changed.wait_timeout(ended, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *ended
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if let Some(keeper) = self.keeper.take() {
            let _joined = keeper.join();
        }
    }
}

type Started = io::Result<(u32, Arc<Kept>)>;

/// The life of a keeper.
fn keep(mut command: Command, tell: &mpsc::SyncSender<Started>) {
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let _told = tell.send(Err(error));
            return;
        }
    };
    // Its end of the socket is the process's alone now: its end is seen by whoever reads ours.
    drop(command);
    let id = child.id();
    let kept =
        Arc::new(Kept { child: Mutex::new(Some(child)), ended: Mutex::default(), changed: Condvar::new() });
    let _told = tell.send(Ok((id, Arc::clone(&kept))));
    until_it_ends(id);
    let child = lock(&kept.child).take();
    let ended = child.and_then(|mut child| child.wait().ok()).map_or(Ended::Unknown, Ended::from);
    *lock(&kept.ended) = Some(ended);
    kept.changed.notify_all();
}

/// Waits without reaping, so that the number stays taken.
fn until_it_ends(id: u32) {
    let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) else { return };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while let Err(rustix::io::Errno::INTR) = rustix::process::waitid(WaitId::Pid(pid), options) {}
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// To be called by a process of ours first of all: it dies with the host, whatever it does.
/// That its socket ends says the same a little later.
///
/// # Errors
/// On a kernel that does not know how.
pub fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn shell(script: &str) -> (Process, UnixStream) {
        let launch = Launch { program: "/bin/sh".into(), args: vec!["-c".into(), script.into()] };
        Process::start(&launch).expect("a shell")
    }

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_secs(10))
    }

    #[test]
    fn how_a_process_ended_is_known_and_nothing_is_left_of_it() {
        for (script, expected) in [
            ("exit 0", Ended::Exited(0)),
            ("exit 7", Ended::Exited(7)),
            ("kill -ABRT $$", Ended::Signalled(6)),
        ] {
            let (process, _socket) = shell(script);
            assert_eq!(process.wait(soon()), Some(expected), "{script}");
            assert!(!std::path::Path::new(&format!("/proc/{}", process.id())).exists(), "a zombie");
            process.kill();
        }
        assert_eq!(Ended::Signalled(9).to_string(), "ended by signal 9 (kill)");
    }

    #[test]
    fn a_process_that_is_dropped_is_gone() {
        let (process, mut socket) = shell("while :; do read x; done");
        assert_eq!(process.ended(), None);
        assert_eq!(process.wait(Some(Instant::now())), None);
        let id = process.id();
        drop(process);
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());
        assert_eq!(socket.read(&mut [0]).unwrap_or(0), 0);
    }

    #[test]
    fn a_process_has_a_socket_and_nothing_of_ours() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let script = "exec >&0; pwd; env; ls -l /proc/self/fd; readlink /proc/self/fd/0";
        let (process, mut socket) = shell(script);
        let mut said = String::new();
        socket.read_to_string(&mut said).expect("text");
        process.wait(soon()).expect("ends");
        assert!(said.starts_with("/\n") && said.trim_end().ends_with(']'), "{said}");
        assert!(said.contains("socket:["), "{said}");
        let name = file.path().file_name().and_then(|name| name.to_str()).expect("a name");
        assert!(!said.contains(name), "a descriptor of ours: {said}");
        for (variable, _) in std::env::vars().filter(|(_, value)| value.len() > 1) {
            let set = said.lines().any(|line| line.starts_with(&format!("{variable}=")));
            assert!(
                !set || matches!(variable.as_str(), "PWD" | "OLDPWD" | "SHLVL" | "_"),
                "{variable}: {said}"
            );
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_said_by_name() {
        let launch = Launch { program: "/nonexistent/windlass".into(), args: Vec::new() };
        let error = Process::start(&launch).expect_err("there is none");
        assert_eq!(error.to_string(), "start /nonexistent/windlass");
    }
}

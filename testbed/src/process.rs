//! Child processes and directories that cannot outlive us, however we end.
//!
//! A test run may end by a panic, by `process::exit` past every destructor, or by SIGKILL. Three things together leave nothing
//! behind in each case: destructors for the ordinary end; the kernel's parent-death signal, which takes the children along; and
//! a janitor, a shell that waits for the end of our side of a pipe and then removes the directory.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, kill_process};

pub use rustix::process::Signal;

/// How often an ending process is looked at.
const POLL: Duration = Duration::from_millis(5);

/// How much of a log an error shows.
const TAIL_LINES: usize = 12;

/// A running child whose output goes to a file. Dropping it kills and reaps it.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in a process group of its own, so that Ctrl-C reaches us first and we end it in order. The log is appended to.
    pub(crate) fn spawn(name: &'static str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log).context("cannot make a log file")?;
        let copy = file.try_clone().context("cannot share a log file")?;
        command.stdin(Stdio::null()).stdout(file).stderr(copy).process_group(0);
        let child = spawn_bound_to_us(command).with_context(|| format!("{name} did not start"))?;
        Ok(Self { name, child, log: log.to_owned() })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails, with the end of its log, if it has ended.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait().with_context(|| format!("{} was lost", self.name))? {
            None => Ok(()),
            Some(status) => Err(self.with_log(&format!("{} ended early ({status})", self.name))),
        }
    }

    /// An error that shows the last lines of the log below the sentence.
    pub(crate) fn with_log(&self, sentence: &str) -> anyhow::Error {
        anyhow::anyhow!("{sentence}; the last lines of {}:\n{}", self.log.display(), tail(&self.log))
    }

    /// Whether the log says `needle`, which tells a lost race for a port from other failures.
    pub(crate) fn log_contains(&self, needle: &str) -> bool {
        std::fs::read(&self.log).is_ok_and(|log| String::from_utf8_lossy(&log).contains(needle))
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        send(&self.child, signal).with_context(|| format!("{} cannot be signalled", self.name))
    }

    /// Sends `signal`, waits for the end, and kills when patience has run out. Reaps in each case.
    pub(crate) fn stop(mut self, signal: Signal, patience: Duration) -> Result<ExitStatus> {
        self.signal(signal)?;
        let started = Instant::now();
        while started.elapsed() < patience {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(POLL);
        }
        self.child.kill()?;
        Ok(self.child.wait()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has been reaped already, which is what they are for.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn send(child: &Child, signal: Signal) -> std::io::Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(std::io::ErrorKind::NotFound)?;
    Ok(kill_process(pid, signal)?)
}

fn tail(log: &Path) -> String {
    let mut bytes = Vec::new();
    if let Err(error) = File::open(log).and_then(|mut file| file.read_to_end(&mut bytes)) {
        return format!("  (not readable: {error})");
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    lines[from..].iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

type SpawnRequest = (Command, mpsc::SyncSender<std::io::Result<Child>>);

/// Starts a command that the kernel kills when this process ends.
///
/// The death signal follows the *thread* that forked, not the process. Test threads and runtime workers come and go, so one
/// thread that lives as long as the process starts all children.
fn spawn_bound_to_us(mut command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<SpawnRequest>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (requests, inbox) = mpsc::channel::<SpawnRequest>();
        let body = move || {
            for (mut command, reply) in inbox {
                // Nobody waits any more only when the asking thread panicked; the child is then dropped and ends with us.
                drop(reply.send(command.spawn()));
            }
        };
        // Never joined: its end would be the end of the children. It ends with the process.
        drop(std::thread::Builder::new().name("testbed-spawner".to_owned()).spawn(body));
        requests
    });
    die_with_parent(&mut command);
    let (reply, answer) = mpsc::sync_channel(1);
    spawner.send((command, reply)).ok().context("the thread that starts processes could not be started")?;
    Ok(answer.recv().context("the thread that starts processes is gone")??)
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "what runs between fork and exec is unsafe by nature; see SAFETY")]
fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let before_exec = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // We may have died between the fork and the line above; then the signal never comes.
        let still_ours =
            rustix::process::getppid().is_some_and(|pid| pid.as_raw_nonzero().get().unsigned_abs() == parent);
        if still_ours { Ok(()) } else { Err(std::io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: the closure makes two system calls and neither allocates nor locks, so it is sound in a forked child.
    unsafe { command.pre_exec(before_exec) };
}

/// Other systems have no death signal: there, a killed test run leaves its control plane to be ended by hand.
#[cfg(not(target_os = "linux"))]
fn die_with_parent(_command: &mut Command) {}

/// A temporary directory that is gone when this value is dropped, and also when this process ends without dropping it.
#[derive(Debug)]
pub(crate) struct StateDirectory {
    path: PathBuf,
    janitor: Option<Janitor>,
}

/// What the janitor runs. The children die at the same moment as we do and may still write, so it tries for two seconds.
const JANITOR: &str = r#"i=0; while [ $i -lt 20 ]; do rm -rf "$1" && exit 0; sleep 0.1; i=$((i+1)); done"#;

impl StateDirectory {
    /// Makes the directory. With `WINDLASS_TESTBED_KEEP=1` it is kept, and standard error says where.
    pub(crate) fn create() -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("windlass-testbed-")
            .tempdir()
            .context("cannot make a temporary directory")?;
        let path = directory.keep();
        if std::env::var_os("WINDLASS_TESTBED_KEEP").is_some_and(|value| value == "1") {
            eprintln!("testbed: {} is kept", path.display());
            return Ok(Self { path, janitor: None });
        }
        let janitor = Janitor::hire(JANITOR, [&path])?;
        Ok(Self { path, janitor: Some(janitor) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StateDirectory {
    fn drop(&mut self) {
        drop(self.janitor.take());
    }
}

/// A shell that waits for the end of our side of a pipe, however that comes about, and then runs a script. Dropping it lets it
/// work, and waits until it has.
#[derive(Debug)]
pub(crate) struct Janitor(Child);

impl Janitor {
    pub(crate) fn hire<A: AsRef<OsStr>>(
        script: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        let script = format!("trap '' HUP INT TERM; cat >/dev/null\n{script}");
        let janitor = Command::new("/bin/sh")
            .args(["-c", &script, "windlass-testbed-janitor"])
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("the janitor did not start")?;
        Ok(Self(janitor))
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        // Waiting closes our side of the pipe first, which is what it waits for.
        drop(self.0.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_with_its_value() {
        let directory = StateDirectory::create().unwrap();
        let path = directory.path().to_owned();
        std::fs::write(path.join("file"), "x").unwrap();
        drop(directory);
        assert!(!path.exists());
    }

    #[test]
    fn an_early_end_is_reported_with_the_end_of_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo first; echo the reason >&2; exit 3"]);
        let mut process = Process::spawn("sh", command, &directory.path().join("log")).unwrap();
        process.child.wait().unwrap();
        let message = process.check_alive().unwrap_err().to_string();
        assert!(
            message.contains("sh ended early (exit status: 3)") && message.contains("  the reason"),
            "{message}"
        );
    }

    #[test]
    fn a_process_that_ignores_the_signal_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "trap '' TERM; echo ready; while :; do sleep 1; done"]);
        let log = directory.path().join("log");
        let process = Process::spawn("sh", command, &log).unwrap();
        while !process.log_contains("ready") {
            std::thread::yield_now();
        }
        let status = process.stop(Signal::TERM, Duration::from_millis(50)).unwrap();
        assert!(!status.success());
    }

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let asked = std::thread::spawn(move || {
            let mut command = Command::new("/bin/sleep");
            command.arg("60");
            Process::spawn("sleep", command, &log).unwrap()
        });
        let mut process = asked.join().unwrap();
        process.check_alive().unwrap();
    }
}

//! Drill: the tests, seen from the host's side.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::attempts::{self, Free};
use crate::cell::{Cell, LEFT_OPEN, SECRET};
use crate::files;
use crate::prisoner::{BOMB_BYTES, ESCAPED};

type Test = fn() -> anyhow::Result<()>;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_worker_gets_nothing", || none_escapes("worker", "first", None)),
    ("a_later_thread_of_a_worker_gets_nothing", || none_escapes("worker", "later", None)),
    ("a_worker_of_another_user_gets_nothing", || none_escapes("worker", "first", other_user())),
    ("a_compile_child_gets_nothing", || none_escapes("compile", "first", None)),
    ("a_compile_child_on_a_kernel_without_landlock_gets_nothing", || {
        none_escapes("old compile", "first", None)
    }),
    ("a_worker_on_a_kernel_without_landlock_says_so_and_only_reads_files", || only_reads(None)),
    ("the_same_as_another_user", || only_reads(other_user())),
    ("without_the_fences_the_attempts_succeed", || most_succeed(None)),
    ("without_the_fences_another_users_attempts_succeed", || most_succeed(other_user())),
    ("what_an_honest_worker_needs_still_works", honest),
    ("an_abort_is_seen_as_one_from_any_thread", aborts),
    ("a_bomb_ends_only_itself", bomb),
    ("what_is_too_much_is_refused_and_the_process_lives", politely),
    ("a_compile_child_that_burns_time_is_ended", burns),
    ("nobody_of_the_same_user_looks_into_a_worker", hidden),
];

/// Whether each row is printed, and not only those that fail.
static EACH_ROW: AtomicBool = AtomicBool::new(false);

/// Runs those whose name contains the first word of `args` that is no flag.
pub(crate) fn run(args: &[String]) -> ExitCode {
    EACH_ROW.store(args.iter().any(|arg| arg == "--nocapture"), Ordering::Relaxed);
    let filter = args.iter().find(|arg| !arg.starts_with('-'));
    let mut failed = 0;
    for (name, test) in
        TESTS.iter().filter(|(name, _)| filter.is_none_or(|text| name.contains(text.as_str())))
    {
        let start = Instant::now();
        let outcome = test();
        let said = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {said} ({:?})", start.elapsed());
        if let Err(error) = outcome {
            println!("{error:#}");
            failed += 1;
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn row(name: &str, what: &str) {
    if EACH_ROW.load(Ordering::Relaxed) {
        println!("  {name:<52} {what}");
    }
}

/// Nobody in particular; only root can become that.
fn other_user() -> Option<u32> {
    Some(65_534)
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// A host with secrets, in a folder of its own.
struct Scene {
    folder: tempfile::TempDir,
    victim: Child,
    answers: BufReader<std::process::ChildStdout>,
    cell: Cell,
    user: Option<u32>,
    _abstract: UnixListener,
}

impl Scene {
    fn new(user: Option<u32>) -> anyhow::Result<Self> {
        Self::with(user, "seen")
    }

    /// With a host that did what it can to protect itself, or did nothing.
    fn with(user: Option<u32>, host: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path();
        let rights = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode));
        rights(path, 0o755)?;
        for name in ["artefacts", "secrets", "open"] {
            std::fs::create_dir(path.join(name))?;
        }
        rights(&path.join("open"), 0o777)?;
        std::fs::write(path.join("artefacts/one"), "code")?;
        std::fs::write(path.join("secrets/token"), SECRET)?;
        std::os::unix::fs::symlink("../secrets/token", path.join("artefacts/link"))?;
        for name in ["open/file", "open/doomed", "open/own"] {
            std::fs::write(path.join(name), "text")?;
            rights(&path.join(name), 0o666)?;
            if let Some(user) = user {
                std::os::unix::fs::chown(path.join(name), Some(user), Some(user))?;
            }
        }
        // Another user may not reach where this binary was built.
        std::fs::copy(std::env::current_exe()?, path.join("self"))?;
        rights(&path.join("self"), 0o755)?;
        let mut victim =
            command(path, user).args(["victim", host]).env("TOKEN", SECRET).stdin(Stdio::piped()).spawn()?;
        let mut answers = BufReader::new(victim.stdout.take().expect("piped"));
        let cell = Cell {
            host: i32::try_from(victim.id())?,
            address: line(&mut answers)?.parse()?,
            folder: path.to_owned(),
        };
        let name = SocketAddr::from_abstract_name(cell.abstract_name())?;
        let listener = UnixListener::bind_addr(&name)?;
        Ok(Self { folder, victim, answers, cell, user, _abstract: listener })
    }

    /// A prisoner that tries one thing, with descriptors that its host forgot to close.
    fn prisoner(&self, fences: &str, thread: &str, attempt: &str) -> anyhow::Result<(Child, UnixStream)> {
        let token = std::fs::File::open(self.folder.path().join("secrets/token"))?;
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = command(self.folder.path(), self.user);
        command
            .args(["prisoner", fences, thread])
            .args([self.cell.host.to_string(), self.cell.address.to_string()])
            .arg(self.folder.path())
            .arg(attempt)
            .stdin(OwnedFd::from(theirs));
        let open = token.as_raw_fd();
        // SAFETY: between fork and exec; only calls that are allowed there, on integers.
        unsafe {
            command.pre_exec(move || {
                for number in LEFT_OPEN {
                    if libc::dup2(open, number) == -1 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            })
        };
        Ok((command.spawn()?, ours))
    }

    /// What a prisoner said, and how it ended.
    fn tries(&self, fences: &str, thread: &str, attempt: &str) -> anyhow::Result<(String, ExitStatus)> {
        let (child, _socket) = self.prisoner(fences, thread, attempt)?;
        let output = child.wait_with_output()?;
        Ok((String::from_utf8_lossy(&output.stdout).into_owned(), output.status))
    }

    /// Whether the host is as it was.
    fn victim_is_well(&mut self) -> anyhow::Result<()> {
        self.victim.stdin.as_mut().expect("piped").write_all(b"?")?;
        let answer = line(&mut self.answers)?;
        anyhow::ensure!(answer == SECRET, "the host says {answer}");
        anyhow::ensure!(std::fs::read_to_string(self.folder.path().join("artefacts/one"))? == "code");
        Ok(())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
    }
}

fn command(folder: &Path, user: Option<u32>) -> Command {
    let mut command = Command::new(folder.join("self"));
    command.env_clear().current_dir("/").stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    command
}

fn line(from: &mut impl BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// The last line that says what came of it.
fn outcome(said: &str) -> &str {
    said.lines().rfind(|line| !line.starts_with("REPORT")).unwrap_or("")
}

fn none_escapes(fences: &str, thread: &str, user: Option<u32>) -> anyhow::Result<()> {
    if user.is_some() && !is_root() {
        println!("skipped: only root becomes another user");
        return Ok(());
    }
    let mut scene = Scene::new(user)?;
    let (mut rows, mut escaped) = (0, Vec::new());
    for attempt in attempts::all() {
        let (said, status) = scene.tries(fences, thread, attempt.name)?;
        let report = said.lines().find(|line| line.starts_with("REPORT")).unwrap_or("no report");
        anyhow::ensure!(report.starts_with("REPORT true"), "{}: {report}", attempt.name);
        if rows == 0 {
            println!("  {report}");
        }
        rows += 1;
        let what = outcome(&said);
        let ended = status.signal().map(|signal| format!(" (ended by signal {signal})")).unwrap_or_default();
        row(attempt.name, &format!("{what}{ended}"));
        let nothing = what.starts_with("NOTHING") || (what.is_empty() && status.signal().is_some());
        if !nothing {
            escaped.push(format!("{}: {what:?}, {status}", attempt.name));
        }
    }
    scene.victim_is_well()?;
    println!("  {rows} attempts, {} succeeded", escaped.len());
    anyhow::ensure!(escaped.is_empty(), "{}", escaped.join("\n"));
    Ok(())
}

/// Opening to read is what Landlock alone keeps a worker from; a host that hides itself is not among what
/// can be read, although its user is the same.
fn only_reads(user: Option<u32>) -> anyhow::Result<()> {
    if user.is_some() && !is_root() {
        println!("skipped: only root becomes another user");
        return Ok(());
    }
    let mut scene = Scene::with(user, "hidden")?;
    let mut reads = Vec::new();
    for attempt in attempts::all() {
        let (said, _) = scene.tries("old worker", "later", attempt.name)?;
        let open = said.contains("REPORT false") && said.contains("files are open");
        anyhow::ensure!(open, "{}: {said}", attempt.name);
        row(attempt.name, outcome(&said));
        if outcome(&said).contains(ESCAPED.to_str()?) {
            reads.push(attempt.name);
        }
    }
    scene.victim_is_well()?;
    let of_files = |name: &&str| files::READS.contains(name);
    anyhow::ensure!(reads.iter().all(of_files), "{reads:?}");
    anyhow::ensure!(reads.contains(&"read a token beside the artefacts"), "{reads:?}");
    println!("  {} attempts succeeded, all of them reading files: {reads:?}", reads.len());
    Ok(())
}

fn most_succeed(user: Option<u32>) -> anyhow::Result<()> {
    if user.is_some() && !is_root() {
        println!("skipped: only root becomes another user");
        return Ok(());
    }
    let scene = Scene::new(user)?;
    let root = user.is_none() && is_root();
    let (mut rows, mut succeeded, mut unreal) = (0, 0, Vec::new());
    for attempt in attempts::all() {
        let (said, status) = scene.tries("free", "first", attempt.name)?;
        let escaped = outcome(&said).contains(ESCAPED.to_str()?);
        rows += 1;
        succeeded += usize::from(escaped);
        row(attempt.name, outcome(&said));
        let expected = match attempt.free {
            Free::Anyone => true,
            Free::Root => root,
            Free::Perhaps => false,
        };
        if expected && !escaped {
            unreal.push(format!("{}: {said:?}, {status}", attempt.name));
        }
    }
    println!("  {rows} attempts, {succeeded} succeeded without the fences");
    anyhow::ensure!(unreal.is_empty(), "these prove nothing:\n{}", unreal.join("\n"));
    Ok(())
}

fn honest() -> anyhow::Result<()> {
    for user in [None, other_user().filter(|_| is_root())] {
        for thread in ["first", "later"] {
            let (said, status) = Scene::new(user)?.tries("worker", thread, "works")?;
            anyhow::ensure!(status.success() && outcome(&said).starts_with("DONE"), "{said} {status}");
        }
    }
    Ok(())
}

/// The compile child has one thread; a worker's others need a kernel that keeps signals inside.
fn aborts() -> anyhow::Result<()> {
    let scene = Scene::new(None)?;
    for (fences, thread) in [("compile", "first"), ("worker", "first"), ("worker", "later")] {
        let (said, status) = scene.tries(fences, thread, "abort")?;
        let version = said.split("Landlock version ").nth(1).and_then(|text| text.split(',').next());
        let old = version.is_none_or(|text| text.parse().is_ok_and(|version: u32| version < 6));
        let seen = status.signal() == Some(libc::SIGABRT);
        anyhow::ensure!(seen || (thread == "later" && old), "{fences} {thread}: {status}");
    }
    Ok(())
}

fn bomb() -> anyhow::Result<()> {
    let mut scene = Scene::new(None)?;
    let (child, _socket) = scene.prisoner("bomb", "first", "bomb")?;
    let (status, most) = wait_with_peak(child)?;
    println!("  {status}, {} MiB at most of {} MiB", most >> 20, BOMB_BYTES >> 20);
    anyhow::ensure!(status.signal() == Some(libc::SIGABRT), "{status}");
    // Besides what is counted: the binary's own pages and the stack.
    anyhow::ensure!(most < BOMB_BYTES + (24 << 20), "{most} bytes");
    scene.victim_is_well()
}

/// How a child ended, and the most memory it had resident, in bytes.
fn wait_with_peak(child: Child) -> anyhow::Result<(ExitStatus, u64)> {
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: both places are ours; the child is not waited for anywhere else.
    let usage = unsafe {
        anyhow::ensure!(libc::wait4(child.id() as i32, &raw mut status, 0, usage.as_mut_ptr()) > 0);
        usage.assume_init()
    };
    Ok((ExitStatus::from_raw(status), usage.ru_maxrss as u64 * 1024))
}

fn politely() -> anyhow::Result<()> {
    let (said, status) = Scene::new(None)?.tries("bomb", "later", "ask")?;
    println!("  {}", outcome(&said));
    anyhow::ensure!(status.success() && outcome(&said).starts_with("DONE"), "{said} {status}");
    let mib: u64 = outcome(&said).split(' ').nth(1).unwrap_or_default().parse()?;
    anyhow::ensure!(mib > 16 && mib < BOMB_BYTES >> 20, "{mib} MiB");
    Ok(())
}

fn burns() -> anyhow::Result<()> {
    let (child, _socket) = Scene::new(None)?.prisoner("compile", "first", "burn")?;
    let status = child.wait_with_output()?.status;
    println!("  {status}");
    anyhow::ensure!(matches!(status.signal(), Some(libc::SIGXCPU | libc::SIGKILL)), "{status}");
    Ok(())
}

/// A process of the same user tries `/proc/<worker>/mem`.
fn hidden() -> anyhow::Result<()> {
    if !is_root() {
        println!("skipped: needs another user");
        return Ok(());
    }
    let scene = Scene::new(other_user())?;
    for (fences, seen) in [("free", true), ("bomb", false)] {
        let (mut watched, _socket) = scene.prisoner(fences, "first", "burn")?;
        if !seen {
            let mut from = BufReader::new(watched.stdout.take().expect("piped"));
            anyhow::ensure!(line(&mut from)?.starts_with("REPORT true"));
        }
        let path = PathBuf::from(format!("/proc/{}/environ", watched.id()));
        let mut looks = Command::new("/bin/cat");
        looks.arg(path).uid(65_534).gid(65_534).stdout(Stdio::null()).stderr(Stdio::null());
        let looked = looks.status()?.success();
        watched.kill()?;
        watched.wait()?;
        anyhow::ensure!(looked == seen, "{fences}: looked in is {looked}");
    }
    Ok(())
}

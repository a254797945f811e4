//! Compilation in a process that lives for one component.
//!
//! A compiler is thousands of lines that read what strangers wrote, and how long it takes and
//! how much memory it needs is outside of its makers' promises. So it gets a process of
//! its own, without powers, with a budget of CPU time and memory; what breaks the budget at the better
//! tier is tried once more at the cheap one, and then refused. This side opens the file that the
//! child writes, never parses a byte of the component, and looks at the file only when the
//! child is gone.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use windlass_core::code::{Code, Refusal};
use windlass_core::guests::{Compile, Tier};
use windlass_core::limits::Limits;

use crate::confine::ARTEFACT_MAX_BYTES;
use crate::frame::{Buffer, FrameError, Wire};
use crate::message::{Hello, SMALL_MAX_BYTES};
use crate::process::{Ended, Launch, Process, StartError};
use crate::spare::Spare;

pub use crate::compile_serve::{CompileServeError, serve_compile};

/// Wall time of a compilation as a multiple of its CPU time: the machine may be busy.
const WALL_PER_CPU: u32 = 2;
/// Time to begin: to start the program and to take powers away from it.
const BEGIN: Duration = Duration::from_secs(10);
/// Time between the end of a process's socket and its own.
const END: Duration = Duration::from_secs(5);
/// Largest component that is handed over, in bytes.
pub(crate) const COMPONENT_MAX_BYTES: usize = 32 << 20;

/// What one compilation may use, and how it is started.
#[derive(Clone, Debug)]
pub struct Compiling {
    /// The program; `--data-bytes=<n>` and `--cpu-seconds=<n>` are added to its arguments.
    pub launch: Launch,
    /// Private memory in bytes (`RLIMIT_DATA`). Default 1 GiB, in the shipped 512 MiB pod 320 MiB.
    pub data_bytes: u64,
    /// CPU time, rounded up to a second. Default 60 s; twice as much wall time.
    pub cpu: Duration,
    /// Whether a child that could not take all powers away from itself is not used.
    pub require_sandbox: bool,
}

/// What the child is asked for. The component follows as a frame of bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) limits: Limits,
    pub(crate) tier: Tier,
}

/// What the child answers: how many bytes it has written.
pub(crate) type Outcome = Result<u64, Refusal>;

/// Compiles in child processes, one at a time.
#[derive(Debug)]
pub struct CompileChild {
    compiling: Compiling,
    spare: Arc<Spare>,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    process: Option<Arc<Process>>,
    closed: bool,
}

/// Why an attempt came to nothing.
enum Failed {
    /// Its time is up.
    Time(String),
    /// It wanted more memory than it may have.
    Memory(String),
    /// Trying again helps nobody.
    Refused(Refusal),
}

impl CompileChild {
    /// Compiles as `compiling` says, whenever `spare` is free.
    pub fn new(compiling: Compiling, spare: Arc<Spare>) -> Self {
        Self { compiling, spare, running: Mutex::default() }
    }

    /// Ends the compilation under way and begins no other: both are refused with E152.
    pub fn shutdown(&self) {
        let mut running = self.running();
        running.closed = true;
        if let Some(process) = &running.process {
            process.kill();
        }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One attempt at one tier. Nothing is left at `into` when it fails.
    fn attempt(&self, component: &[u8], limits: &Limits, tier: Tier, into: &Path) -> Result<(), Failed> {
        let output = create(into)?;
        let result =
            self.converse(component, limits, tier, &output).and_then(|bytes| written(&output, bytes));
        if result.is_err() {
            // What is left of it is of no use, and the failure says more than this could.
            let _ = fs::remove_file(into);
        }
        result
    }

    /// Starts a child, asks it, and returns when it is gone.
    fn converse(&self, component: &[u8], limits: &Limits, tier: Tier, output: &File) -> Result<u64, Failed> {
        let begun = Instant::now();
        let (process, socket) = Process::start(&self.launch()).map_err(|e| not_started(&e))?;
        let process = Arc::new(process);
        self.show(&process)?;
        let wire = Wire::punctual(socket).map_err(|e| failed(format!("prepare its socket: {e}")))?;
        let asked = self.ask(&wire, &Order { limits: limits.clone(), tier }, component, output, begun);
        let outcome = match asked {
            Ok(outcome) => outcome.map_err(|refusal| Failed::Refused(judged(&refusal))),
            Err(Asked::Failed(failed)) => Err(failed),
            Err(Asked::Frame(FrameError::Closed | FrameError::Io(_))) => {
                let ended = process.wait(Some(Instant::now() + END)).unwrap_or(Ended::Unknown);
                Err(self.how(ended, begun.elapsed()))
            }
            Err(Asked::Frame(FrameError::TimedOut)) => Err(self.too_slow(begun.elapsed())),
            Err(Asked::Frame(nonsense)) => Err(failed(format!("its process answered nonsense: {nonsense}"))),
        };
        process.kill();
        let gone = process.wait(Some(Instant::now() + END));
        let closed = {
            let mut running = self.running();
            running.process = None;
            running.closed
        };
        match gone {
            _ if closed => Err(ending()),
            None => Err(failed("its process does not end".to_owned())),
            Some(_) => outcome,
        }
    }

    /// Lets [`shutdown`](Self::shutdown) find the process.
    fn show(&self, process: &Arc<Process>) -> Result<(), Failed> {
        let mut running = self.running();
        if running.closed {
            return Err(ending());
        }
        running.process = Some(Arc::clone(process));
        Ok(())
    }

    fn ask(
        &self,
        wire: &Wire,
        order: &Order,
        component: &[u8],
        output: &File,
        begun: Instant,
    ) -> Result<Outcome, Asked> {
        let mut buffer = Buffer::default();
        let hello: Hello = wire.receive(&mut buffer, SMALL_MAX_BYTES, Some(begun + BEGIN))?;
        if self.compiling.require_sandbox && !hello.confined.is_complete() {
            return Err(Asked::Failed(failed(format!("its process keeps powers: {}", hello.confined))));
        }
        // Its time begins when it has something to do.
        let until = Some(Instant::now() + self.compiling.cpu * WALL_PER_CPU);
        wire.send_with(&mut buffer, order, &[output.as_fd()], SMALL_MAX_BYTES)?;
        wire.send_bytes(component, COMPONENT_MAX_BYTES, until)?;
        Ok(wire.receive(&mut buffer, SMALL_MAX_BYTES, until)?)
    }

    fn launch(&self) -> Launch {
        let Compiling { launch, data_bytes, cpu, .. } = &self.compiling;
        let mut launch = launch.clone();
        let seconds = cpu.as_secs() + u64::from(cpu.subsec_nanos() > 0);
        let budget = [format!("--data-bytes={data_bytes}"), format!("--cpu-seconds={seconds}")];
        launch.args.extend(budget.map(OsString::from));
        launch
    }

    /// What the end of a child that has not answered means.
    fn how(&self, ended: Ended, after: Duration) -> Failed {
        let Compiling { data_bytes, cpu, .. } = self.compiling;
        let memory = || Failed::Memory(format!("{ended} within {} MiB", data_bytes >> 20));
        match ended {
            Ended::Signalled(SIGXCPU) => self.too_slow(after),
            // Nobody here has killed it: the kernel has, for the pod's memory, or for its CPU time if it does not listen to that limit's signal.
            Ended::Signalled(SIGKILL) if after >= cpu => self.too_slow(after),
            // What a program does that gets no memory.
            Ended::Signalled(SIGKILL | SIGABRT) => memory(),
            Ended::Signalled(SIGXFSZ) => Failed::Refused(Refusal::new(
                Code::TooComplex,
                format!("its compiled form is larger than {} MiB", ARTEFACT_MAX_BYTES >> 20),
            )),
            Ended::Exited(_) | Ended::Signalled(_) | Ended::Unknown => failed(format!("its process {ended}")),
        }
    }

    fn too_slow(&self, after: Duration) -> Failed {
        let cpu = self.compiling.cpu;
        Failed::Time(format!(
            "after {:.1} s; {cpu:?} of CPU time and {:?} of wall time are allowed",
            after.as_secs_f64(),
            cpu * WALL_PER_CPU
        ))
    }
}

impl Compile for CompileChild {
    fn compile(&self, component: &[u8], limits: &Limits, into: &Path) -> Result<Tier, Refusal> {
        let Some(_turn) = self.spare.take(None) else {
            return Err(ending().into_refusal(Tier::Optimised));
        };
        let first = match self.attempt(component, limits, Tier::Optimised, into) {
            Ok(()) => return Ok(Tier::Optimised),
            Err(refused @ Failed::Refused(_)) => return Err(refused.into_refusal(Tier::Optimised)),
            Err(Failed::Time(text) | Failed::Memory(text)) => text,
        };
        tracing::info!(
            first,
            "a component is too much for the compiler and is compiled without optimisation"
        );
        match self.attempt(component, limits, Tier::Cheap, into) {
            Ok(()) => Ok(Tier::Cheap),
            Err(failed) => Err(failed.into_refusal(Tier::Cheap)),
        }
    }
}

impl Failed {
    fn into_refusal(self, tier: Tier) -> Refusal {
        let last = match tier {
            Tier::Optimised => "",
            Tier::Cheap => ", without optimisation too",
        };
        match self {
            Failed::Time(text) => Refusal::new(
                Code::CompileTimeout,
                format!("the compiler was stopped {text}{last}: make the component's functions smaller"),
            ),
            Failed::Memory(text) => Refusal::new(
                Code::CompileMemory,
                format!(
                    "the compiler {text}{last}: make the component's functions smaller, or give the host more memory"
                ),
            ),
            Failed::Refused(refusal) => refusal,
        }
    }
}

/// Why a conversation did not come to its end.
enum Asked {
    Frame(FrameError),
    Failed(Failed),
}

impl From<FrameError> for Asked {
    fn from(error: FrameError) -> Self {
        Asked::Frame(error)
    }
}

const SIGABRT: i32 = rustix::process::Signal::ABORT.as_raw();
const SIGKILL: i32 = rustix::process::Signal::KILL.as_raw();
const SIGXCPU: i32 = rustix::process::Signal::XCPU.as_raw();
const SIGXFSZ: i32 = rustix::process::Signal::XFSZ.as_raw();

/// A new file that only this user may read; never one that is there.
fn create(into: &Path) -> Result<File, Failed> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(into);
    file.map_err(|e| failed(format!("no place for its output at {}: {e}", into.display())))
}

/// Whether the file holds what the child says. The child is gone: it stays like that.
fn written(output: &File, bytes: u64) -> Result<(), Failed> {
    let found = output.metadata().map_or(0, |meta| meta.len());
    if found == bytes && bytes > 0 {
        return Ok(());
    }
    Err(failed(format!("its process says that it wrote {bytes} bytes, the file has {found}")))
}

/// What a child may refuse with. The text is a stranger's: made printable once more.
fn judged(refusal: &Refusal) -> Refusal {
    match refusal.code as u16 {
        110..=123 | 150..=152 => Refusal::new(refusal.code, &refusal.message),
        _ => Refusal::new(Code::CompileFailed, format!("the compiler: {}", refusal.message)),
    }
}

fn failed(text: String) -> Failed {
    Failed::Refused(Refusal::new(Code::CompileFailed, format!("the compiler: {text}")))
}

fn ending() -> Failed {
    failed("the host is ending".to_owned())
}

fn not_started(error: &StartError) -> Failed {
    let cause = std::error::Error::source(error).map(|cause: &dyn std::error::Error| cause.to_string());
    failed(format!("{error}: {}", cause.unwrap_or_default()))
}

/// For [`serve_compile`]: reads the order, the output and the component.
///
/// # Errors
/// Any: there is nothing to be done then.
pub(crate) fn receive_order(wire: &Wire, buffer: &mut Buffer) -> Result<(Order, File), FrameError> {
    let (order, mut descriptors) = wire.receive_with::<Order>(SMALL_MAX_BYTES, None)?;
    let output = descriptors.pop().filter(|_| descriptors.is_empty()).ok_or_else(|| {
        FrameError::Io(io::Error::new(io::ErrorKind::InvalidData, "one descriptor is expected"))
    })?;
    wire.receive_bytes(buffer, COMPONENT_MAX_BYTES, None)?;
    Ok((order, File::from(output)))
}

//! The worker's own side: takes powers away from itself, then serves lanes.
//!
//! Each lane has a thread, because a guest runs on the stack of whoever asks it. What holds
//! this process together is trust in the host alone: whatever else goes wrong in here ends it, because
//! after a panic nothing in here can be believed any more.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use serde::Serialize;
use windlass_core::code::{Code, Refusal};
use windlass_core::guests::{Call, Called, Guests, Text, Texts};
use windlass_core::key::ObjectRef;
use windlass_core::ports::CallError;
use windlass_core::reads::Query;

use crate::confine::{self, ConfineError, Confinement};
use crate::frame::{Buffer, FrameError, Wire};
use crate::message::{
    Answered, Ask, Control, FRAME_MAX_BYTES, Hello, Ready, Requested, SMALL_MAX_BYTES, Said, fitting,
};
use crate::process::die_with_parent;

/// Memory that has to be left beside a new lane's stack.
const ROOM_BYTES: usize = 4 << 20;

/// What a worker is allowed.
#[derive(Clone, Debug)]
pub struct Serving {
    /// What it keeps of its powers.
    pub confinement: Confinement,
    /// Lanes that the host uses at once. Twice as many end it: the host is not itself.
    pub lanes: usize,
    /// Stack of each lane's thread, in bytes: what a guest may use and 256 KiB for the
    /// host's own frames. All of it counts as data of the process.
    pub lane_stack_bytes: usize,
}

/// Why a worker has ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It would outlive its host.
    #[error("be ended with the host")]
    Parent(#[source] io::Error),
    /// It keeps powers.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// Standard input is no socket.
    #[error("use standard input")]
    Stdin(#[source] io::Error),
    /// The host said something else than was agreed.
    #[error("talk to the host")]
    Talk(#[from] FrameError),
    /// Guests cannot be run; the host knows why.
    #[error("run guests: {0}")]
    Guests(String),
    /// More lanes than there may be, or one without its socket.
    #[error("a lane that was not agreed")]
    Lane,
}

/// Serves the host on standard input, a socket, until it closes it. To be called at the very
/// start of a process: with one thread, nothing opened and nothing read. `make` is called
/// once confined. The process should end when this returns: lanes may still be busy.
///
/// # Errors
/// [`ServeError`]. The host learns of the end of this process, and of [`ServeError::Guests`] in words.
pub fn serve<G: Guests, E: Display>(
    serving: &Serving,
    make: impl FnOnce() -> Result<G, E>,
) -> Result<(), ServeError> {
    die_with_parent().map_err(ServeError::Parent)?;
    let confined = confine::apply(&serving.confinement)?;
    let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(ServeError::Stdin)?;
    let control = Wire::patient(UnixStream::from(stdin));
    match make() {
        Ok(guests) => {
            say(&control, &Ok(Hello { confined }))?;
            attend(&control, serving, &Arc::new(guests))
        }
        Err(error) => {
            let text = error.to_string();
            say(&control, &Err(text.clone()))?;
            Err(ServeError::Guests(text))
        }
    }
}

fn say(control: &Wire, ready: &Ready) -> Result<(), FrameError> {
    control.send(&mut Buffer::default(), ready, SMALL_MAX_BYTES, None)
}

/// Takes lanes until the host has no more use for this process.
fn attend<G: Guests>(control: &Wire, serving: &Serving, guests: &Arc<G>) -> Result<(), ServeError> {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        match control.receive_with(SMALL_MAX_BYTES, None) {
            Ok((Control::Lane, sockets)) => {
                let socket = only(sockets)?;
                // Those that the host has just closed may still count.
                if open.fetch_add(1, Ordering::Relaxed) >= serving.lanes.saturating_mul(2) {
                    return Err(ServeError::Lane);
                }
                if !has_room(serving.lane_stack_bytes) || !start_lane(serving, guests, &open, socket) {
                    // Its socket is closed: the host goes on with the lanes that there are.
                    open.fetch_sub(1, Ordering::Relaxed);
                }
            }
            Ok((Control::Unload(id), _)) => guests.unload(id),
            Err(FrameError::Closed) => return Ok(()),
            Err(other) => return Err(other.into()),
        }
    }
}

/// Whether there is memory for one more stack and some work beside it. A thread that can
/// be started but not allocate would be the end of all.
fn has_room(stack_bytes: usize) -> bool {
    let mut room = Vec::<u8>::new();
    let has = room.try_reserve_exact(stack_bytes.saturating_add(ROOM_BYTES)).is_ok();
    std::hint::black_box(&room);
    has
}

/// Starts a lane's thread, if there may be one more.
fn start_lane<G: Guests>(
    serving: &Serving,
    guests: &Arc<G>,
    open: &Arc<AtomicUsize>,
    socket: OwnedFd,
) -> bool {
    let (guests, open) = (Arc::clone(guests), Arc::clone(open));
    let lane = std::thread::Builder::new().name("lane".into()).stack_size(serving.lane_stack_bytes);
    let (tell, told) = mpsc::sync_channel(1);
    let started = lane.spawn(move || {
        or_die(|| {
            let room = [(); 4].map(|()| Buffer::roomy());
            let _told = tell.send(());
            serve_lane(&*guests, UnixStream::from(socket), room);
        });
        open.fetch_sub(1, Ordering::Relaxed);
    });
    // Whether there is room for another is asked when this one has what it needs.
    started.is_ok() && told.recv().is_ok()
}

fn only(mut sockets: Vec<OwnedFd>) -> Result<OwnedFd, ServeError> {
    let socket = sockets.pop().ok_or(ServeError::Lane)?;
    if sockets.is_empty() { Ok(socket) } else { Err(ServeError::Lane) }
}

/// After a panic in `work` nothing of this process is believed any more.
fn or_die(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        std::process::abort();
    }
}

/// One conversation after the other until the host closes the lane.
fn serve_lane<G: Guests>(guests: &G, socket: UnixStream, room: [Buffer; 4]) {
    let [mut into, mut out, asking, answered] = room;
    let wire = Arc::new(Wire::patient(socket));
    let buffers = Mutex::new((asking, answered));
    let questions = Arc::new(Questions { wire: Arc::clone(&wire), buffers });
    loop {
        let request = match wire.receive(&mut into, FRAME_MAX_BYTES, None) {
            Ok(request) => request,
            Err(FrameError::Closed) => return,
            Err(other) => the_host_is_lost(&other),
        };
        let sent = match request {
            Requested::Load(load) => {
                let loaded = guests.load(&load);
                let said = Said::Loaded(&loaded);
                reply(&wire, &mut out, &said, SMALL_MAX_BYTES, |out| {
                    let refused = Err(too_large(Code::BadManifest, "a manifest", SMALL_MAX_BYTES));
                    wire.send(out, &Said::Loaded(&refused), SMALL_MAX_BYTES, None)
                })
            }
            Requested::Call { most, call } => {
                let call = Call::from(call);
                let texts: Arc<dyn Texts> = Arc::clone(&questions) as Arc<dyn Texts>;
                let called = fitting(guests.call(&call, texts));
                reply(&wire, &mut out, &Said::Called(&called), most, |out| {
                    let refusal = too_large(Code::OutputTooLarge, "an answer", most);
                    let called = Called::failed(CallError::Refused(refusal));
                    wire.send(out, &Said::Called(&called), most, None)
                })
            }
        };
        if let Err(error) = sent {
            the_host_is_lost(&error);
        }
        into.settle();
        out.settle();
        questions.settle();
    }
}

/// Sends `said`, or what `otherwise` sends if it is too large.
fn reply(
    wire: &Wire,
    out: &mut Buffer,
    said: &impl Serialize,
    most: usize,
    otherwise: impl FnOnce(&mut Buffer) -> Result<(), FrameError>,
) -> Result<(), FrameError> {
    match wire.send(out, said, most, None) {
        Err(FrameError::TooLarge { .. }) => otherwise(out),
        sent => sent,
    }
}

fn too_large(code: Code, what: &str, most: usize) -> Refusal {
    Refusal::new(code, format!("{what} of more than {} KiB", most / 1024))
}

/// Without the host there is nothing to do and nobody to tell.
fn the_host_is_lost(error: &FrameError) -> ! {
    if !matches!(error, FrameError::Closed) {
        eprintln!("windlass worker: a lane cannot be served: {error}");
    }
    std::process::exit(1)
}

/// The cache behind the lane.
struct Questions {
    wire: Arc<Wire>,
    buffers: Mutex<(Buffer, Buffer)>,
}

impl Questions {
    fn ask(&self, ask: Ask<'_>) -> Answered {
        let (out, into) = &mut *self.buffers();
        let answered = self
            .wire
            .send(out, &Said::Ask(ask), SMALL_MAX_BYTES, None)
            .and_then(|()| self.wire.receive(into, FRAME_MAX_BYTES, None));
        match answered {
            Ok(answered) => answered,
            Err(error) => the_host_is_lost(&error),
        }
    }

    fn settle(&self) {
        let (out, into) = &mut *self.buffers();
        out.settle();
        into.settle();
    }

    fn buffers(&self) -> MutexGuard<'_, (Buffer, Buffer)> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Texts for Questions {
    fn get(&self, of: &ObjectRef) -> Result<Option<Text>, Refusal> {
        match self.ask(Ask::Get(of)) {
            Answered::Object(text) => Ok(text.map(Text::Own)),
            Answered::Refused(refusal) => Err(refusal),
            Answered::List(_) => the_host_is_lost(&FrameError::Excess(0)),
        }
    }

    fn list(&self, query: &Query) -> Result<Vec<Text>, Refusal> {
        match self.ask(Ask::List(query)) {
            Answered::List(texts) => Ok(texts.into_iter().map(Text::Own).collect()),
            Answered::Refused(refusal) => Err(refusal),
            Answered::Object(_) => the_host_is_lost(&FrameError::Excess(0)),
        }
    }
}

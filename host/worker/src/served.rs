//! A lane as its worker serves it: one request after the other, on a thread of its own, because a guest runs
//! on the stack of whoever asks it.
//!
//! The conversation outlives the thread: one that has stepped back hands it on when its call ends (see
//! [`courtesy`](crate::courtesy)), and one whose call is answered by somebody else has nothing more to say.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use windlass_core::code::{Code, Refusal};
use windlass_core::guests::{Call, Called, Guests, Text, Texts, Used};
use windlass_core::key::ObjectRef;
use windlass_core::ports::CallError;
use windlass_core::reads::Query;

use crate::courtesy;
use crate::frame::{Buffer, FrameError, Wire};
use crate::message::{Answered, Ask, FRAME_MAX_BYTES, Requested, SMALL_MAX_BYTES, Said, fitting};
use crate::relief::{Relief, Watched};

/// Memory that has to be left beside a new lane's stack.
const ROOM_BYTES: usize = 4 << 20;

/// One lane, for whichever thread serves it.
pub(crate) struct Served {
    wire: Wire,
    guests: Arc<dyn Guests>,
    stack_bytes: usize,
    relief: Relief,
    _open: Open,
}

/// Counts a lane for as long as any thread knows of it.
pub(crate) struct Open(Arc<AtomicUsize>);

/// What one thread has to say on its lane.
pub(crate) struct Voice {
    lane: Arc<Served>,
    turn: Mutex<Turn>,
}

/// Where a thread is in its conversation. Locked while it waits for an answer of the cache.
struct Turn {
    out: Buffer,
    into: Buffer,
    /// Number of the call that is or was the last.
    call: u64,
    begun: Instant,
    is_load: bool,
    is_busy: bool,
    /// Somebody else has answered, and serves the lane.
    is_silenced: bool,
}

/// What came of answering for a thread.
pub(crate) enum AnsweredFor {
    /// It was done: what the thread says later is not heard.
    It,
    /// The call has ended.
    Nobody,
    /// It has to be tried again.
    NotYet,
}

impl Open {
    /// Counts one more; nothing when there are `most` already.
    pub(crate) fn one(count: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let open = Self(Arc::clone(count));
        (open.0.fetch_add(1, Ordering::Relaxed) < most).then_some(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Served {
    pub(crate) fn new(
        socket: OwnedFd,
        guests: Arc<dyn Guests>,
        stack_bytes: usize,
        relief: Relief,
        open: Open,
    ) -> Arc<Self> {
        let wire = Wire::patient(UnixStream::from(socket));
        Arc::new(Self { wire, guests, stack_bytes, relief, _open: open })
    }

    /// Starts a thread that says `first`, if there is something to be said, and then serves the lane. It
    /// has the priority of the thread that calls this.
    ///
    /// # Errors
    /// `first`, when there may be no further thread.
    pub(crate) fn start(self: &Arc<Self>, first: Option<Buffer>) -> Result<(), Option<Buffer>> {
        if !has_room(self.stack_bytes) {
            return Err(first);
        }
        let lane = Arc::clone(self);
        let (tell, told) = mpsc::sync_channel(1);
        let (give, given) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("lane".into()).stack_size(self.stack_bytes);
        let started = thread.spawn(move || {
            or_die(|| {
                let room = [(); 4].map(|()| Buffer::roomy());
                let _told = tell.send(());
                if let Ok(first) = given.recv() {
                    lane.serve(room, first);
                }
            });
        });
        // Whether there is room for another is asked when this one has what it needs.
        if started.is_err() || told.recv().is_err() {
            return Err(first);
        }
        give.send(first).map_err(|mpsc::SendError(first)| first)
    }

    /// One request after the other until the host closes the lane or another thread serves it.
    fn serve(self: &Arc<Self>, room: [Buffer; 4], first: Option<Buffer>) {
        let [mut into, mut out, asking, answered] = room;
        let voice = Arc::new(Voice::new(Arc::clone(self), asking, answered));
        let _here = courtesy::speaks_for(&voice);
        if let Some(frame) = first {
            self.say(&frame);
        }
        loop {
            let request = match self.wire.receive(&mut into, FRAME_MAX_BYTES, None) {
                Ok(request) => request,
                Err(FrameError::Closed) => return,
                Err(other) => the_host_is_lost(&other),
            };
            voice.begin(matches!(request, Requested::Load(_)));
            if let Err(error) = self.answer(request, &voice, &mut out) {
                the_host_is_lost(&error);
            }
            if !voice.end() {
                return;
            }
            if courtesy::has_stepped_back() {
                match self.relief.take_over(self, out) {
                    Ok(()) => return,
                    // No room for a thread at normal priority: this one goes on as it is.
                    Err(mine) => out = mine,
                }
            }
            self.say(&out);
            into.settle();
            out.settle();
            voice.settle();
        }
    }

    /// Does what is asked, and puts what is to be said of it into `out`.
    fn answer(&self, request: Requested<'_>, voice: &Arc<Voice>, out: &mut Buffer) -> Result<(), FrameError> {
        match request {
            Requested::Load(load) => {
                let loaded = self.guests.load(&load);
                fit(out.encode(&Said::Loaded(&loaded), SMALL_MAX_BYTES), || {
                    let refused = Err(too_large(Code::BadManifest, "a manifest", SMALL_MAX_BYTES));
                    out.encode(&Said::Loaded(&refused), SMALL_MAX_BYTES)
                })
            }
            Requested::Call { most, call } => {
                let texts: Arc<dyn Texts> = Arc::clone(voice) as Arc<dyn Texts>;
                let call = Call::from(call);
                courtesy::is_asked(call.suspect);
                let called = fitting(self.guests.call(&call, texts));
                fit(out.encode(&Said::Called(&called), most), || {
                    let refusal = too_large(Code::OutputTooLarge, "an answer", most);
                    let called = Called::failed(CallError::Refused(refusal));
                    out.encode(&Said::Called(&called), most)
                })
            }
        }
    }

    fn say(&self, frame: &Buffer) {
        if let Err(error) = self.wire.send_frame(frame, None) {
            the_host_is_lost(&error);
        }
    }
}

impl Voice {
    fn new(lane: Arc<Served>, out: Buffer, into: Buffer) -> Self {
        let turn = Turn {
            out,
            into,
            call: 0,
            begun: Instant::now(),
            is_load: false,
            is_busy: false,
            is_silenced: false,
        };
        Self { lane, turn: Mutex::new(turn) }
    }

    fn begin(&self, is_load: bool) {
        let mut turn = self.turn();
        turn.is_load = is_load;
        turn.call += 1;
        turn.begun = Instant::now();
        turn.is_busy = true;
    }

    /// Whether what came of the call may be said.
    fn end(&self) -> bool {
        let mut turn = self.turn();
        turn.is_busy = false;
        !turn.is_silenced
    }

    /// Has the call that is under way answered by somebody else at `until`, unless it has ended by then. `used`
    /// is the CPU time that it has had so far.
    pub(crate) fn watch(self: &Arc<Self>, until: Instant, used: Duration) {
        let call = self.turn().call;
        self.lane.relief.watch(Watched::new(Arc::downgrade(self), call, until, used));
    }

    /// Answers for its thread, if it is still at `call`, and has another one serve the lane.
    pub(crate) fn answer_for(&self, call: u64, until: Instant, used: Duration) -> AnsweredFor {
        // Locked: it asks the cache right now, and what is said now would be taken for part of that.
        let Ok(mut turn) = self.turn.try_lock() else { return AnsweredFor::NotYet };
        if !turn.is_busy || turn.call != call {
            return AnsweredFor::Nobody;
        }
        let mut frame = Buffer::default();
        let text = late(turn.begun.elapsed(), until.saturating_duration_since(turn.begun), used);
        let encoded = if turn.is_load {
            let refused = Err(Refusal::new(Code::InitTimeout, text));
            frame.encode(&Said::Loaded(&refused), SMALL_MAX_BYTES)
        } else {
            // At least that much: how much it was in the end only its own thread knows.
            let used = Used { cpu: used, ..Used::default() };
            let refused = Called::failed(CallError::Refused(Refusal::new(Code::Timeout, text)));
            frame.encode(&Said::Called(&Called { used, ..refused }), SMALL_MAX_BYTES)
        };
        turn.is_silenced = encoded.is_ok() && self.lane.start(Some(frame)).is_ok();
        if turn.is_silenced { AnsweredFor::It } else { AnsweredFor::NotYet }
    }

    /// Whether the call is still under way.
    pub(crate) fn is_at(&self, call: u64) -> bool {
        // Whoever holds the lock asks the cache, and is at it.
        self.turn.try_lock().map_or(true, |turn| turn.is_busy && turn.call == call)
    }

    fn ask(&self, ask: Ask<'_>) -> Answered {
        let mut turn = self.turn();
        if turn.is_silenced {
            return Answered::Refused(Refusal::new(Code::Timeout, "its time is over"));
        }
        let Turn { out, into, .. } = &mut *turn;
        let wire = &self.lane.wire;
        let answered = wire
            .send(out, &Said::Ask(ask), SMALL_MAX_BYTES, None)
            .and_then(|()| wire.receive(into, FRAME_MAX_BYTES, None));
        match answered {
            Ok(answered) => answered,
            Err(error) => the_host_is_lost(&error),
        }
    }

    fn settle(&self) {
        let Turn { out, into, .. } = &mut *self.turn();
        out.settle();
        into.settle();
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The cache behind the lane.
impl Texts for Voice {
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

/// What is said of a call that was not waited for any longer. Its thread has had no processor for a while, or
/// it would have said so itself.
fn late(wall: Duration, limit: Duration, used: Duration) -> String {
    format!(
        "still running after {:.2} s of wall time, limit {:.2} s, with little more than {:.2} s of CPU time: others were busy",
        wall.as_secs_f64(),
        limit.as_secs_f64(),
        used.as_secs_f64()
    )
}

/// `encoded`, or what `otherwise` encodes if it is too large.
fn fit(
    encoded: Result<(), FrameError>,
    otherwise: impl FnOnce() -> Result<(), FrameError>,
) -> Result<(), FrameError> {
    match encoded {
        Err(FrameError::TooLarge { .. }) => otherwise(),
        encoded => encoded,
    }
}

fn too_large(code: Code, what: &str, most: usize) -> Refusal {
    Refusal::new(code, format!("{what} of more than {} KiB", most / 1024))
}

/// Whether there is memory for one more stack and some work beside it. A thread that can
/// be started but not allocate would be the end of all.
fn has_room(stack_bytes: usize) -> bool {
    let mut room = Vec::<u8>::new();
    let has = room.try_reserve_exact(stack_bytes.saturating_add(ROOM_BYTES)).is_ok();
    std::hint::black_box(&room);
    has
}

/// After a panic in `work` nothing of this process is believed any more.
pub(crate) fn or_die<R>(work: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| std::process::abort())
}

/// Without the host there is nothing to do and nobody to tell.
fn the_host_is_lost(error: &FrameError) -> ! {
    if !matches!(error, FrameError::Closed) {
        eprintln!("windlass worker: a lane cannot be served: {error}");
    }
    std::process::exit(1)
}

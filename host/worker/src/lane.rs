//! Lanes: one conversation at a time with a process that may be a stranger's by now.
//!
//! The host asks, answers what it is asked, and hears an answer or not. Time is counted
//! without what the host itself took to answer.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use windlass_core::code::{Code, Refusal};
use windlass_core::guests::{Call, Called, Load, Texts};
use windlass_core::limits::Limits;
use windlass_core::manifest::Manifest;

use crate::frame::{Buffer, FrameError, Wire};
use crate::message::{
    Answer, Control, Heard, MessageError, Request, SMALL_MAX_BYTES, Texts as Listed, answer_max, hear,
    reply_max, request_max,
};

/// Questions in one call, at most. An honest process stops a guest before.
const ASKS_MAX: usize = 10_000;

/// What a call may take beyond the guest's own wall time (twice its CPU time) until its
/// process counts as stuck.
const SLACK: Duration = Duration::from_millis(250);

/// What a load may take beyond that: its file is mapped, its manifest asked for.
const LOAD_SLACK: Duration = Duration::from_secs(5);

/// After how long without an answer a process is ended: for calls within `limits`.
pub(crate) fn deadline(limits: &Limits) -> Duration {
    limits.cpu.saturating_mul(2).saturating_add(SLACK)
}

/// Why a lane gave no answer.
#[derive(Debug)]
pub(crate) enum LaneError {
    /// The plugin has asked for or been given too much; the lane is as good as before.
    Refused(Refusal),
    /// No answer in time.
    Hung,
    /// The other side closed it.
    Gone,
    /// What it said makes no sense.
    Nonsense(String),
}

impl From<FrameError> for LaneError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Closed => LaneError::Gone,
            FrameError::TimedOut => LaneError::Hung,
            other => LaneError::Nonsense(other.to_string()),
        }
    }
}

impl From<MessageError> for LaneError {
    fn from(error: MessageError) -> Self {
        LaneError::Nonsense(error.to_string())
    }
}

/// The host's end of a lane, with room for one frame in each direction.
#[derive(Debug)]
pub(crate) struct Lane {
    /// Tells a task when there is something to be read.
    ready: Option<AsyncFd<Arc<UnixStream>>>,
    wire: Wire,
    out: Buffer,
    into: Buffer,
    /// When it was put aside last.
    idle_since: Instant,
    /// Whether nothing was ever heard on it.
    is_fresh: bool,
}

/// A call that is under way on a lane.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Largest answer that is read, in bytes.
    most: usize,
    /// What it may still take, counted from `begun`.
    left: Duration,
    begun: Instant,
    /// Questions so far.
    asks: usize,
}

impl Turn {
    /// When the process counts as stuck.
    fn until(&self) -> Instant {
        self.begun + self.left
    }
}

/// Why there is no new lane.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// No descriptor left in this process: one of the others will be free.
    #[error("open a socket")]
    Here(#[source] std::io::Error),
    /// The other process does not take it.
    #[error("hand over a socket")]
    There(#[source] FrameError),
}

impl Lane {
    /// Opens a lane: one end of a socket goes over `control`.
    pub(crate) fn open(control: &Wire) -> Result<Self, OpenError> {
        let (ours, theirs) = UnixStream::pair().map_err(OpenError::Here)?;
        let wire = Wire::punctual(ours).map_err(OpenError::Here)?;
        let mut out = Buffer::default();
        let theirs = OwnedFd::from(theirs);
        control
            .send_with(&mut out, &Control::Lane, &[theirs.as_fd()], SMALL_MAX_BYTES)
            .map_err(OpenError::There)?;
        Ok(Self {
            ready: None,
            wire,
            out,
            into: Buffer::default(),
            idle_since: Instant::now(),
            is_fresh: true,
        })
    }

    /// Puts it aside: gives back what an unusually large call has taken.
    pub(crate) fn settle(&mut self) {
        self.out.settle();
        self.into.settle();
        self.idle_since = Instant::now();
    }

    /// For how long it has been put aside.
    pub(crate) fn idle(&self) -> Duration {
        self.idle_since.elapsed()
    }

    /// Whether nothing was ever heard on it: it may not have been served at all.
    pub(crate) fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Has a component made ready.
    pub(crate) fn load(&mut self, load: &Load) -> Result<Manifest, LaneError> {
        let until = Some(Instant::now() + deadline(&load.limits) + LOAD_SLACK);
        self.wire.send(&mut self.out, &Request::Load(load), SMALL_MAX_BYTES, until)?;
        match self.hear(SMALL_MAX_BYTES, until)? {
            Heard::Loaded(result) => result.map_err(LaneError::Refused),
            _ => Err(LaneError::Nonsense("something else than what it was asked to load".into())),
        }
    }

    /// Has a component asked, and answers its questions out of `texts`.
    pub(crate) fn call(
        &mut self,
        limits: &Limits,
        call: &Call<'_>,
        texts: &dyn Texts,
    ) -> Result<Called, LaneError> {
        let mut turn = self.ask(limits, call)?;
        self.wire.write(self.out.frame(), Some(turn.until()))?;
        self.into.expect_frame();
        self.go_on(&mut turn, limits, texts)
    }

    /// Makes the request for a call. It has to be written.
    pub(crate) fn ask(&mut self, limits: &Limits, call: &Call<'_>) -> Result<Turn, LaneError> {
        let most = reply_max(limits);
        match self.out.encode(&Request::Call { most, call }, request_max(limits)) {
            Err(FrameError::TooLarge { .. }) => return Err(LaneError::Refused(snapshot_too_large(limits))),
            encoded => encoded?,
        }
        Ok(Turn { most, left: deadline(limits), begun: Instant::now(), asks: 0 })
    }

    /// Hears what is said in a call until it is answered. Its request is written, and a frame expected.
    fn go_on(&mut self, turn: &mut Turn, limits: &Limits, texts: &dyn Texts) -> Result<Called, LaneError> {
        loop {
            let body = self.wire.receive_rest(&mut self.into, turn.most, Some(turn.until()))?;
            self.is_fresh = false;
            let heard = hear(body)?;
            if let Some(called) = self.heard(turn, limits, texts, heard)? {
                return Ok(called);
            }
            self.wire.write(self.out.frame(), Some(turn.until()))?;
        }
    }

    /// Writes what is left of the last frame but for its first `sent` bytes, and then goes on with the call. For a
    /// thread that may block.
    pub(crate) fn finish(
        &mut self,
        sent: usize,
        turn: &mut Turn,
        limits: &Limits,
        texts: &dyn Texts,
    ) -> Result<Called, LaneError> {
        self.wire.write(&self.out.frame()[sent..], Some(turn.until()))?;
        self.go_on(turn, limits, texts)
    }

    /// Takes what was said in a call: it is answered, or there is a frame to be written and another one expected.
    pub(crate) fn heard(
        &mut self,
        turn: &mut Turn,
        limits: &Limits,
        texts: &dyn Texts,
        heard: Heard,
    ) -> Result<Option<Called>, LaneError> {
        turn.left = turn.left.saturating_sub(turn.begun.elapsed());
        turn.asks += 1;
        match heard {
            Heard::Called(called) => return Ok(Some(*called)),
            Heard::Loaded(_) => return Err(LaneError::Nonsense("a manifest that nobody asked for".into())),
            Heard::Get(_) | Heard::List(_) if turn.asks > ASKS_MAX => {
                return Err(LaneError::Nonsense(format!("more than {ASKS_MAX} questions in one call")));
            }
            Heard::Get(of) => {
                let found = texts.get(&of);
                turn.begun = Instant::now();
                let answer = found.as_ref().map(|text| Answer::Object(text.as_deref()));
                self.answer(answer, limits)?;
            }
            Heard::List(query) => {
                let found = texts.list(&query);
                turn.begun = Instant::now();
                let answer = found.as_ref().map(|texts| Answer::List(Listed(texts)));
                self.answer(answer, limits)?;
            }
        }
        self.into.expect_frame();
        Ok(None)
    }

    fn answer(&mut self, answer: Result<Answer<'_>, &Refusal>, limits: &Limits) -> Result<(), LaneError> {
        let answer = answer.unwrap_or_else(Answer::Refused);
        match self.out.encode(&answer, answer_max(limits)) {
            Err(FrameError::TooLarge { .. }) => {
                let refusal = answer_too_large(limits);
                Ok(self.out.encode(&Answer::Refused(&refusal), SMALL_MAX_BYTES)?)
            }
            encoded => Ok(encoded?),
        }
    }

    /// Writes of the last frame, but for its first `sent` bytes, what needs no wait; how much of it is written then.
    pub(crate) fn write_now(&mut self, sent: usize) -> Result<usize, LaneError> {
        Ok(sent + self.wire.write_now(&self.out.frame()[sent..])?)
    }

    /// Makes room for what is said next.
    pub(crate) fn expect_answer(&mut self) {
        self.into.expect_frame();
    }

    /// The size of the last frame.
    pub(crate) fn to_write(&self) -> usize {
        self.out.frame().len()
    }

    /// Makes it something that a task can wait for. Only there where sockets are waited for.
    #[allow(unsafe_code)]
    pub(crate) fn watched(&mut self) -> std::io::Result<()> {
        if self.ready.is_none() {
            let socket = Arc::clone(&self.wire.stream);
            // SAFETY: what is registered holds the socket, so that its number stays open and the same for as
            // long as it is registered.
            let watched = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
            self.ready = Some(watched.map_err(std::io::Error::from)?);
        }
        Ok(())
    }

    /// Waits for a whole frame that is expected, on a lane that is [watched](Self::watched).
    ///
    /// # Cancel safety
    /// What has come stays where it is.
    pub(crate) async fn heard_of(&mut self, turn: &Turn) -> Result<Heard, LaneError> {
        let Self { wire, into, ready, is_fresh, .. } = self;
        let ready = ready.as_ref().expect("it is watched");
        let until = tokio::time::Instant::from_std(turn.until());
        loop {
            let readable = tokio::time::timeout_at(until, ready.readable()).await;
            // What has come in time counts, also when nobody had a processor to look at it.
            let body = wire.receive_now(into, turn.most)?.map(hear).transpose()?;
            if let Some(heard) = body {
                *is_fresh = false;
                return Ok(heard);
            }
            match readable {
                Ok(Ok(mut readable)) => readable.clear_ready(),
                // The runtime ends, and with it the call.
                Ok(Err(error)) => return Err(FrameError::Io(error).into()),
                Err(_) => return Err(LaneError::Hung),
            }
        }
    }

    fn hear(&mut self, most: usize, until: Option<Instant>) -> Result<Heard, LaneError> {
        let body = self.wire.receive_bytes(&mut self.into, most, until)?;
        self.is_fresh = false;
        Ok(hear(body)?)
    }
}

fn snapshot_too_large(limits: &Limits) -> Refusal {
    let text = format!("the primary and its children are more than {} KiB", limits.snapshot_bytes / 1024);
    Refusal::new(Code::InputTooLarge, text)
}

fn answer_too_large(limits: &Limits) -> Refusal {
    let text = format!(
        "what was asked for is more than {} KiB: ask for fewer by labels or namespace",
        limits.snapshot_bytes / 1024
    );
    Refusal::new(Code::InputTooLarge, text)
}

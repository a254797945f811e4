//! Lanes: one conversation at a time with a process that may be a stranger's by now.
//!
//! The host asks, answers what it is asked, and hears an answer or not. Time is counted
//! without what the host itself took to answer.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

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
    wire: Wire,
    out: Buffer,
    into: Buffer,
    /// When it was put aside last.
    idle_since: Instant,
    /// Whether nothing was ever heard on it.
    is_fresh: bool,
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
        Ok(Self { wire, out, into: Buffer::default(), idle_since: Instant::now(), is_fresh: true })
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
        let most = reply_max(limits);
        let mut left = deadline(limits);
        let mut begun = Instant::now();
        let request = Request::Call { most, call };
        match self.wire.send(&mut self.out, &request, request_max(limits), Some(begun + left)) {
            Err(FrameError::TooLarge { .. }) => return Err(LaneError::Refused(snapshot_too_large(limits))),
            sent => sent?,
        }
        for _ in 0..=ASKS_MAX {
            let heard = self.hear(most, Some(begun + left))?;
            left = left.saturating_sub(begun.elapsed());
            match heard {
                Heard::Called(called) => return Ok(*called),
                Heard::Loaded(_) => {
                    return Err(LaneError::Nonsense("a manifest that nobody asked for".into()));
                }
                Heard::Get(of) => {
                    let found = texts.get(&of);
                    begun = Instant::now();
                    let answer = found.as_ref().map(|text| Answer::Object(text.as_deref()));
                    self.answer(answer, limits, begun + left)?;
                }
                Heard::List(query) => {
                    let found = texts.list(&query);
                    begun = Instant::now();
                    let answer = found.as_ref().map(|texts| Answer::List(Listed(texts)));
                    self.answer(answer, limits, begun + left)?;
                }
            }
        }
        Err(LaneError::Nonsense(format!("more than {ASKS_MAX} questions in one call")))
    }

    fn answer(
        &mut self,
        answer: Result<Answer<'_>, &Refusal>,
        limits: &Limits,
        until: Instant,
    ) -> Result<(), LaneError> {
        let answer = answer.unwrap_or_else(Answer::Refused);
        match self.wire.send(&mut self.out, &answer, answer_max(limits), Some(until)) {
            Err(FrameError::TooLarge { .. }) => {
                let refusal = answer_too_large(limits);
                let answer = Answer::Refused(&refusal);
                Ok(self.wire.send(&mut self.out, &answer, SMALL_MAX_BYTES, Some(until))?)
            }
            sent => Ok(sent?),
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

//! What the host and its processes say to each other, and what the host believes of it.
//!
//! The host trusts its own words; those of the other side are a stranger's, because a
//! guest may have taken that process over. They are read with a bound on everything that could be
//! larger in memory than on the wire, and each name goes through its checked constructor.

use std::borrow::Cow;
use std::time::Duration;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use windlass_core::code::{Code, Refusal, printable};
use windlass_core::decision::{Decision, Fault, Notice, Verdict};
use windlass_core::guests::{Call, Called, Level, Line, Load, LoadId, Text, Used};
use windlass_core::key::ObjectRef;
use windlass_core::limits::Limits;
use windlass_core::manifest::Manifest;
use windlass_core::name::is_path_segment;
use windlass_core::ports::CallError;
use windlass_core::reads::Query;

use crate::confine::Report;

/// Room for what is not counted by a limit: lengths, names, texts of refusals.
const SLACK_BYTES: usize = 256 << 10;
/// Largest frame, whatever the limits of a plugin say.
pub const FRAME_MAX_BYTES: usize = 72 << 20;
/// Largest frame that is neither a call nor an answer: a load, a manifest, a process's first word.
pub const SMALL_MAX_BYTES: usize = 256 << 10;
/// Largest question to the cache.
const ASK_MAX_BYTES: usize = 64 << 10;
/// Labels in one question.
const LABELS_MAX: usize = 16;
/// Children and notices of one decision that are carried over. `core::plan` accepts far fewer and says so.
pub const ITEMS_MAX: usize = 10_000;
/// Lines of one call that are carried over.
pub const LINES_MAX: usize = 20_000;
/// Longest line, in bytes.
const LINE_MAX_BYTES: usize = 4 << 10;
/// Largest number of bytes that is believed: a million million.
const FIGURE_MAX: u64 = 1 << 40;
/// Longest text of a fault, in bytes.
const FAULT_MAX_BYTES: usize = 1 << 10;

/// Largest object that a cluster stores, with room to spare.
const OBJECT_MAX_BYTES: usize = 4 << 20;

/// Largest frame that asks for a call.
pub fn request_max(limits: &Limits) -> usize {
    limits.snapshot_bytes.saturating_add(SLACK_BYTES).min(FRAME_MAX_BYTES)
}

/// Largest frame that answers a question: one object, or a list within the snapshot's limit.
pub fn answer_max(limits: &Limits) -> usize {
    let lengths = limits.snapshot_bytes / 16;
    request_max(limits).saturating_add(lengths).clamp(OBJECT_MAX_BYTES, FRAME_MAX_BYTES)
}

/// Largest frame that says what came of a call.
pub fn reply_max(limits: &Limits) -> usize {
    let text = limits.decision_bytes.saturating_add(limits.log_bytes.saturating_mul(4));
    text.saturating_add(SLACK_BYTES).min(FRAME_MAX_BYTES)
}

/// The first word of a process: it has taken away from itself what it could do harm with.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// What it could take away, and what it could not.
    pub confined: Report,
}

/// The first word of a worker. The error says why it cannot run guests.
pub type Ready = Result<Hello, String>;

/// What the host says on the control socket. Not answered.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// One more lane; its socket comes along.
    Lane,
    /// Nobody calls this component any more.
    Unload(LoadId),
}

/// What the host asks on a lane.
#[derive(Debug, Serialize)]
pub enum Request<'a> {
    /// Make a component ready; answered by [`Said::Loaded`].
    Load(&'a Load),
    /// Ask it; answered by [`Said::Called`], with questions before.
    Call {
        /// Largest answer that will be read, in bytes.
        most: usize,
        /// What is asked.
        call: &'a Call<'a>,
    },
}

/// A [`Request`] as it is read. Text is not copied out of the frame.
#[derive(Debug, Deserialize)]
pub enum Requested<'a> {
    /// [`Request::Load`].
    Load(Load),
    /// [`Request::Call`].
    Call {
        /// Largest answer that will be read.
        most: usize,
        /// What is asked.
        #[serde(borrow)]
        call: CallText<'a>,
    },
}

/// A [`Call`] as it is read: the same fields in the same order.
#[derive(Debug, Deserialize)]
pub struct CallText<'a> {
    load: LoadId,
    key: &'a str,
    pass: u64,
    finalize: bool,
    suspect: bool,
    seed: &'a str,
    now: Duration,
    primary: &'a str,
    #[serde(borrow)]
    children: Vec<&'a str>,
    settings: Option<&'a str>,
}

impl<'a> From<CallText<'a>> for Call<'a> {
    fn from(text: CallText<'a>) -> Self {
        Call {
            load: text.load,
            key: Cow::Borrowed(text.key),
            pass: text.pass,
            finalize: text.finalize,
            suspect: text.suspect,
            seed: Cow::Borrowed(text.seed),
            now: text.now,
            primary: Cow::Borrowed(text.primary),
            children: text.children.into_iter().map(Cow::Borrowed).collect(),
            settings: text.settings.map(Cow::Borrowed),
        }
    }
}

/// What is said to the host on a lane.
#[derive(Debug, Serialize)]
pub enum Said<'a> {
    /// What came of a load.
    Loaded(&'a Result<Manifest, Refusal>),
    /// What came of a call.
    Called(&'a Called),
    /// A question, to be answered with [`Answer`] before the call can end.
    Ask(Ask<'a>),
}

/// A question to the cache.
#[derive(Debug, Serialize)]
pub enum Ask<'a> {
    /// For one object; answered with one text or none.
    Get(&'a ObjectRef),
    /// For all that match.
    List(&'a Query),
}

/// What the host answers to a question.
#[derive(Debug, Serialize)]
pub enum Answer<'a> {
    /// To [`Ask::Get`].
    Object(Option<&'a str>),
    /// To [`Ask::List`].
    List(Texts<'a>),
    /// The call has to end with this.
    Refused(&'a Refusal),
}

/// Texts of the cache, written without a copy of their own.
#[derive(Debug)]
pub struct Texts<'a>(pub &'a [Text]);

impl Serialize for Texts<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(|text| &**text))
    }
}

/// An [`Answer`] as it is read.
#[derive(Debug, Deserialize)]
pub enum Answered {
    /// [`Answer::Object`].
    Object(Option<Box<str>>),
    /// [`Answer::List`].
    List(Vec<Box<str>>),
    /// [`Answer::Refused`].
    Refused(Refusal),
}

/// What the host has heard on a lane, checked.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// What a plugin says of itself, or why it cannot serve.
    Loaded(Result<Manifest, Refusal>),
    /// What came of a call.
    Called(Box<Called>),
    /// A question for one object that could exist.
    Get(ObjectRef),
    /// A question for many.
    List(Query),
}

/// A [`Said`] as it is read, before anything is believed.
#[derive(Deserialize)]
enum Word {
    Loaded(Result<Manifest, Refusal>),
    Called(CalledText),
    Ask(Question),
}

#[derive(Deserialize)]
enum Question {
    Get(ObjectRef),
    List(Query),
}

/// A [`Called`] as it is read: the same fields in the same order.
#[derive(Deserialize)]
struct CalledText {
    result: Result<VerdictText, CallError>,
    read_clock: bool,
    #[serde(deserialize_with = "bounded::<_, _, LINES_MAX>")]
    lines: Vec<Line>,
    dropped_bytes: u64,
    used: Used,
}

#[derive(Deserialize)]
enum VerdictText {
    Decision(DecisionText),
    Finalized,
}

#[derive(Deserialize)]
struct DecisionText {
    #[serde(deserialize_with = "bounded::<_, _, ITEMS_MAX>")]
    children: Vec<String>,
    status: Option<String>,
    #[serde(deserialize_with = "bounded::<_, _, ITEMS_MAX>")]
    notices: Vec<Notice>,
    requeue_after: Option<Duration>,
}

/// Reads a list of at most `MAX` items: an item may be tens of times as large in memory
/// as in the frame.
fn bounded<'de, D, T, const MAX: usize>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Items<T, const MAX: usize>(std::marker::PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "at most {MAX} items")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = seq.next_element()? {
                if items.len() == MAX {
                    return Err(A::Error::custom("too many items"));
                }
                items.push(item);
            }
            Ok(items)
        }
    }

    from.deserialize_seq(Items::<T, MAX>(std::marker::PhantomData))
}

/// Why something that was read cannot have been said by a process in its right mind.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// It is not a message.
    #[error(transparent)]
    Frame(#[from] crate::frame::FrameError),
    /// It is one that an honest process never sends.
    #[error("{0}")]
    Nonsense(&'static str),
}

/// Reads and judges what was said to the host on a lane.
///
/// # Errors
/// [`MessageError`]: the process that said it is not to be trusted with anything any more.
pub fn hear(body: &[u8]) -> Result<Heard, MessageError> {
    match crate::frame::decode(body)? {
        Word::Loaded(result) => loaded(result).map(Heard::Loaded),
        Word::Called(called) => called.judged().map(|called| Heard::Called(Box::new(called))),
        Word::Ask(question) => question.judged(body.len()),
    }
}

fn loaded(result: Result<Manifest, Refusal>) -> Result<Result<Manifest, Refusal>, MessageError> {
    match result {
        Ok(manifest) => Ok(manifest.check()),
        Err(refusal) => refused(refusal).map(Err),
    }
}

/// The text of a refusal is made printable again, and a refusal refuses.
fn refused(refusal: Refusal) -> Result<Refusal, MessageError> {
    if refusal.code.is_warning() {
        return Err(MessageError::Nonsense("a warning instead of a refusal"));
    }
    Ok(Refusal::new(refusal.code, refusal.message))
}

impl Question {
    fn judged(self, bytes: usize) -> Result<Heard, MessageError> {
        if bytes > ASK_MAX_BYTES {
            return Err(MessageError::Nonsense("a question that is too large"));
        }
        match self {
            Question::Get(of) => {
                let possible =
                    is_path_segment(&of.name) && (of.namespace.is_empty() || is_path_segment(&of.namespace));
                if !possible {
                    return Err(MessageError::Nonsense("a question for an object that cannot exist"));
                }
                Ok(Heard::Get(of))
            }
            Question::List(query) => {
                if query.namespace.as_deref().is_some_and(|ns| !is_path_segment(ns)) {
                    return Err(MessageError::Nonsense("a question for a namespace that cannot exist"));
                }
                if query.labels.len() > LABELS_MAX {
                    return Err(MessageError::Nonsense("a question with too many labels"));
                }
                Ok(Heard::List(query))
            }
        }
    }
}

impl CalledText {
    fn judged(self) -> Result<Called, MessageError> {
        let result = match self.result {
            Ok(VerdictText::Finalized) => Ok(Verdict::Finalized),
            Ok(VerdictText::Decision(text)) => Ok(Verdict::Decision(Decision {
                children: text.children,
                status: text.status,
                notices: text.notices,
                requeue_after: text.requeue_after,
            })),
            Err(CallError::Fault(fault)) => Err(CallError::Fault(cut(fault))),
            Err(CallError::Refused(refusal)) => Err(CallError::Refused(refused(refusal)?)),
            Err(CallError::NotServing(_) | CallError::Resting(_)) => {
                return Err(MessageError::Nonsense("a word about which plugin serves"));
            }
        };
        let lines = self.lines.into_iter().map(|Line { level, text }| line(level, &text));
        Ok(Called {
            result,
            read_clock: self.read_clock,
            lines: lines.collect(),
            dropped_bytes: self.dropped_bytes.min(FIGURE_MAX),
            used: sane(self.used),
        })
    }
}

/// Figures that can be added up.
fn sane(used: Used) -> Used {
    Used {
        cpu: used.cpu.min(Duration::from_secs(24 * 3600)),
        memory_bytes: used.memory_bytes.min(FIGURE_MAX),
        decision_bytes: used.decision_bytes.min(FIGURE_MAX),
        log_bytes: used.log_bytes.min(FIGURE_MAX),
    }
}

fn line(level: Level, text: &str) -> Line {
    Line { level, text: printable(text, LINE_MAX_BYTES) }
}

fn cut(fault: Fault) -> Fault {
    match fault {
        Fault::Transient(text) => Fault::Transient(printable(&text, FAULT_MAX_BYTES)),
        Fault::Permanent(text) => Fault::Permanent(printable(&text, FAULT_MAX_BYTES)),
    }
}

/// `called` within what is carried over: what is too much becomes the refusal that it
/// would be anyway.
pub(crate) fn fitting(mut called: Called) -> Called {
    if called.lines.len() > LINES_MAX {
        let dropped = called.lines.drain(LINES_MAX..).map(|line| line.text.len() as u64 + 1);
        called.dropped_bytes += dropped.sum::<u64>();
    }
    if let Ok(Verdict::Decision(decision)) = &mut called.result {
        decision.notices.truncate(ITEMS_MAX);
        if decision.children.len() > ITEMS_MAX {
            called.result = Err(CallError::Refused(Refusal::new(
                Code::TooManyChildren,
                format!("{} children in one decision", decision.children.len()),
            )));
        }
    }
    called
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;

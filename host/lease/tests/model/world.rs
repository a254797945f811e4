//! One state of the model: the API server, the candidates, what is on the wire, what may
//! still go wrong, and what happened that a property asks for.
//!
//! Everything is a value and hashes, the shipped elector included. Time is a small number
//! of ticks; only clocks turn it into nanoseconds.

use std::fmt;
use std::sync::Arc;

use windlass_core::claim::{BootTime, Term};
use windlass_lease::elector::Elector;
use windlass_lease::record::{Copy, Lease};
use windlass_lease::step::{Failure, Write};

/// What happened, one bit each.
pub(crate) mod flag {
    /// An object went back from a later term's value to an earlier one's.
    pub(crate) const SET_BACK: u16 = 1;
    /// A release was ordered while a write of its term was on the wire.
    pub(crate) const EARLY_RELEASE: u16 = 1 << 1;
    /// Two acquisitions had one number.
    pub(crate) const TERM_TWICE: u16 = 1 << 2;
    /// A gate opened in a lower term than one before it.
    pub(crate) const TERM_FELL: u16 = 1 << 3;
    /// A gate opened after a leader had died.
    pub(crate) const LED_AGAIN: u16 = 1 << 4;
    /// It opened before the dead leader's claim would have ended.
    pub(crate) const BY_EVIDENCE: u16 = 1 << 5;
    /// The fence refused a write of an earlier claim.
    pub(crate) const FENCED: u16 = 1 << 6;
    /// A write that had been admitted was refused because its object had changed.
    pub(crate) const OVERTAKEN: u16 = 1 << 7;
}

/// A candidate that sends more requests than this, on average, is running wild.
const REQUESTS_A_TICK: u64 = 4;

/// The whole world at one instant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    /// True time.
    pub(crate) tick: u8,
    pub(crate) candidates: Vec<Candidate>,
    /// A bag, kept in the order of [`Message::key`].
    pub(crate) net: Vec<Message>,
    pub(crate) server: Server,
    pub(crate) left: Budget,
    pub(crate) past: Past,
}

/// What the API server stores, and what its admission knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    pub(crate) lease: Option<Arc<Lease>>,
    /// The version of the last change of the Lease.
    pub(crate) version: u64,
    /// The claim Role.
    pub(crate) role: Option<Right>,
    /// The claim Role as each API server's authorizer knows it: it learns of it by a watch.
    pub(crate) fences: Vec<Option<Right>>,
    pub(crate) object: Object,
}

/// Whose writes the fence lets through.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Right {
    pub(crate) holder: Arc<str>,
    pub(crate) term: Term,
}

/// An object that leaders write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Object {
    pub(crate) version: u8,
    /// Of the last write.
    pub(crate) term: Term,
}

/// How much may still happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) faults: u8,
    pub(crate) crashes: u8,
    pub(crate) starts: u8,
    pub(crate) edits: u8,
    pub(crate) writes: u8,
}

/// What the properties ask of the past.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Past {
    /// Every term in which a gate was opened, and by whom.
    pub(crate) opened: Vec<Right>,
    pub(crate) dead: Vec<Dead>,
    pub(crate) flags: u16,
}

/// A process that is no more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Dead {
    pub(crate) index: u8,
    pub(crate) identity: Arc<str>,
    /// When its claim would have ended, on its clock.
    pub(crate) ends: Option<BootTime>,
}

/// One replica: a process, or the place of one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Candidate {
    /// How many processes were here, this one included.
    pub(crate) life: u8,
    pub(crate) identity: Arc<str>,
    /// None once the process has ended.
    pub(crate) elector: Option<Elector>,
    pub(crate) wake_at: Option<BootTime>,
    /// The request that the driver waits for.
    pub(crate) pending: Option<Pending>,
    pub(crate) preparing: Option<Term>,
    pub(crate) gate: Option<Open>,
    /// A child write is on the wire.
    pub(crate) permit: Option<Open>,
    /// What its watch has not shown yet.
    pub(crate) watch: Vec<Copy>,
    /// Of whose death it was told: a bit for each of [`Past::dead`], from the top for lies.
    pub(crate) told: u8,
    /// It does nothing; its clock and the world go on.
    pub(crate) paused: Hold,
    /// Whatever is between it and the API server comes late or not at all.
    pub(crate) cut: Hold,
    pub(crate) draining: bool,
    pub(crate) ending: bool,
}

/// Whether something is held up. What ends in the tick in which it began has changed no
/// more than an order, and all orders are tried anyway: so it lasts till the next tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Hold {
    No,
    Fresh,
    Old,
}

/// A term and the local instant at which the right to write in it ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Open {
    pub(crate) term: Term,
    pub(crate) ends: BootTime,
}

/// A request of the elector, as the driver sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pending {
    pub(crate) id: u64,
    pub(crate) deadline: BootTime,
}

/// One process: its place and which one it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) index: u8,
    pub(crate) life: u8,
}

/// Something on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Message {
    /// Who sent the request.
    pub(crate) of: Process,
    pub(crate) what: What,
}

/// What is on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum What {
    Read {
        id: u64,
    },
    Write(Write),
    Answer {
        id: u64,
        result: Result<Arc<Lease>, Failure>,
    },
    Claim(Right),
    /// `used`: the number in the Role, when it was not below ours.
    Claimed {
        term: Term,
        used: Option<Term>,
    },
    Child(Child),
    ChildDone {
        term: Term,
        refused: bool,
    },
}

/// A write of an object under a claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Child {
    pub(crate) right: Right,
    /// The version that it replaces.
    pub(crate) base: u8,
    /// Which API server it goes to.
    pub(crate) via: u8,
    /// The fence has let it through, and it has not been carried out yet.
    pub(crate) admitted: bool,
}

impl Message {
    /// Whether it goes to the API server.
    pub(crate) fn is_request(&self) -> bool {
        matches!(self.what, What::Read { .. } | What::Write(_) | What::Claim(_) | What::Child(_))
    }

    /// Puts the bag into one order, so that the order of sending makes no difference.
    pub(crate) fn key(&self) -> (u8, u8, u8, u64, u64) {
        let (kind, one, two) = match &self.what {
            What::Read { id } => (0, *id, 0),
            What::Write(write) => (1, write.id, 0),
            What::Answer { id, result } => {
                (2, *id, result.as_ref().ok().and_then(|lease| lease.version()).unwrap_or_default())
            }
            What::Claim(right) => (3, right.term.0, 0),
            What::Claimed { term, used } => (4, term.0, used.map_or(0, |used| used.0)),
            What::Child(child) => {
                let rest = u64::from(child.base) * 8 + u64::from(child.via) * 2 + u64::from(child.admitted);
                (5, child.right.term.0, rest)
            }
            What::ChildDone { term, refused } => (6, term.0, u64::from(*refused)),
        };
        (kind, self.of.index, self.of.life, one, two)
    }
}

impl World {
    pub(crate) fn send(&mut self, of: Process, what: What) {
        let message = Message { of, what };
        let at = self.net.partition_point(|other| other.key() <= message.key());
        self.net.insert(at, message);
    }

    /// The process that sent a request, while it lives.
    pub(crate) fn owner(&self, of: Process) -> Option<&Candidate> {
        let candidate = &self.candidates[usize::from(of.index)];
        (candidate.life == of.life && candidate.elector.is_some()).then_some(candidate)
    }

    /// Whether the sender still waits for what comes of `message`.
    pub(crate) fn is_awaited(&self, message: &Message) -> bool {
        let Some(owner) = self.owner(message.of) else {
            return false;
        };
        let pending = |id: u64| owner.pending.as_ref().is_some_and(|pending| pending.id == id);
        match &message.what {
            What::Read { id } | What::Answer { id, .. } => pending(*id),
            What::Write(write) => pending(write.id),
            What::Claim(Right { term, .. }) | What::Claimed { term, .. } => owner.preparing == Some(*term),
            What::Child(Child { right: Right { term, .. }, .. }) | What::ChildDone { term, .. } => {
                owner.permit.as_ref().is_some_and(|permit| permit.term == *term)
            }
        }
    }

    /// Whether no candidate has sent more requests than so many a tick, whatever went wrong.
    pub(crate) fn is_calm(&self) -> bool {
        let most = REQUESTS_A_TICK * (u64::from(self.tick) + 2);
        self.candidates.iter().filter_map(|candidate| candidate.pending.as_ref()).all(|it| it.id <= most)
    }

    pub(crate) fn happened(&mut self, flag: u16) {
        self.past.flags |= flag;
    }
}

impl Candidate {
    pub(crate) fn process(&self, index: usize) -> Process {
        Process { index: u8::try_from(index).expect("three candidates"), life: self.life }
    }

    /// Whether it does anything at all at present.
    pub(crate) fn runs(&self) -> bool {
        self.elector.is_some() && self.paused == Hold::No
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = format!("{}{}", char::from(b'a' + self.of.index), self.of.life);
        match &self.what {
            What::Read { id } => write!(f, "{who} reads ({id})"),
            What::Write(Write { id, purpose, term, base, .. }) => {
                let base = base.as_ref().and_then(|base| base.version());
                write!(f, "{who} writes ({id}) {purpose:?} term {term} on {base:?}")
            }
            What::Answer { id, result: Ok(lease) } => {
                write!(f, "answer to {who} ({id}): version {:?} of {:?}", lease.version(), lease.holder())
            }
            What::Answer { id, result: Err(failure) } => write!(f, "answer to {who} ({id}): {failure:?}"),
            What::Claim(right) => write!(f, "{who} writes the claim Role: term {}", right.term),
            What::Claimed { term, used } => {
                write!(f, "answer to {who}: claim of term {term}, used: {used:?}")
            }
            What::Child(Child { right, base, via, admitted }) => {
                let stage = if *admitted { "commits" } else { "arrives" };
                write!(f, "object's write of {who} in term {} on {base} {stage} at server {via}", right.term)
            }
            What::ChildDone { term, refused } => {
                write!(f, "answer to {who}: object's write of term {term}, refused: {refused}")
            }
        }
    }
}

//! The elector's words: what it is told and what it orders. All of them are values.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use windlass_core::claim::{BootTime, Claim, Term};

use crate::record::{Copy, Lease};

/// One thing that the elector is told. New kinds of evidence become new variants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Input {
    /// Time has passed. Harmless at any instant.
    Tick,
    /// The watch showed this copy.
    Observed(Copy),
    /// The watch spoke, and the Lease has not changed.
    Heard,
    /// The request `id` ended. Answers to requests that were given up are ignored.
    Answered {
        /// Of which order.
        id: u64,
        /// The Lease as read or as written, or why there is none.
        result: Result<Arc<Lease>, Failure>,
    },
    /// What [`Order::Prepare`] asked for is done, or is not.
    Prepared {
        /// For which term.
        term: Term,
        /// Whether the gate may open.
        done: bool,
    },
    /// This number has been used as a term; later terms are above it.
    TermSeen(Term),
    /// The process of this identity has ended: its pulse was there, and the operating
    /// system has closed it. A Lease in its name is free at once.
    Died(Arc<str>),
    /// The pulse of this identity does not answer. That proves nothing: a process may be
    /// stopped, a network may be cut.
    Silent(Arc<str>),
    /// The API server refused a write of this term, because another claim is the current one.
    Fenced(Term),
    /// Give up the Lease and end.
    Shutdown,
    /// No write is on the wire any more.
    Drained,
}

/// Why a request brought no Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// There is no such object (404).
    Absent,
    /// Somebody else was faster (409).
    Conflict,
    /// The API server refused it; nothing was changed (other 4xx).
    Refused,
    /// Nobody knows whether it was carried out: a timeout, a cut connection, a 5xx.
    Unknown,
}

/// One thing that the elector wants done, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// Send this write, once, and tell the answer.
    Write(Write),
    /// Read the Lease from the API server's storage, once, and tell the answer.
    Read {
        /// To be given back with the answer.
        id: u64,
        /// After this long the outcome is unknown.
        timeout: Duration,
    },
    /// Do what has to be done between acquisition and the first write, then say so.
    Prepare(Claim),
    /// Open the gate, or move its end.
    OpenGate(Claim),
    /// Close the gate and drop a preparation that runs.
    CloseGate(StepDown),
    /// Say so when no write is on the wire any more.
    WaitDrain,
    /// Tell everybody.
    Announce(Leadership),
    /// The elector has ended. No order follows.
    End(Result<(), HeldByAnother>),
}

/// A compare-and-swap of the Lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    /// To be given back with the answer.
    pub id: u64,
    /// What for.
    pub purpose: Purpose,
    /// The copy that was judged: its version and its uid are the condition. A create
    /// when there is none.
    pub base: Option<Arc<Lease>>,
    /// This replica.
    pub holder: Arc<str>,
    /// The number to write.
    pub term: Term,
    /// The duration to write.
    pub lease_duration: Duration,
    /// Where this replica's pulse is, to be written: `<ip>:<port>/<nonce>`.
    pub pulse: Option<Arc<str>>,
    /// After this long the outcome is unknown. Ends inside the claim, if there is one.
    pub timeout: Duration,
}

/// What a write is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// To begin a term.
    Acquire,
    /// To go on with it.
    Renew,
    /// To give it up.
    Release,
}

/// Who leads, as this replica knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// Not this replica.
    Standby {
        /// Who does, where that is known. It may be this replica's own identity: its
        /// claim has ended and its Lease has not been taken.
        holder: Option<Arc<str>>,
    },
    /// This replica, since the gate opened. The claim's `ends` is that of the
    /// beginning; the gate knows the present one.
    Leading(Claim),
}

impl Hash for Leadership {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Standby { holder } => holder.hash(state),
            Self::Leading(Claim { holder, term, ends }) => (holder, term, ends).hash(state),
        }
    }
}

/// Why the Lease was free to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// Nobody had ever held it, or there was none.
    First,
    /// Its holder gave it up after its last write.
    Released,
    /// Its holder's process has ended: there is evidence.
    Died,
    /// It was not renewed for a whole lease duration.
    Expired,
    /// It was this replica's own: its claim had ended, or came to nothing.
    Own,
}

impl Cause {
    /// A label value for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::First => "first",
            Cause::Released => "released",
            Cause::Died => "died",
            Cause::Expired => "expired",
            Cause::Own => "own",
        }
    }
}

/// Why a leader stopped.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum StepDown {
    /// No renewal succeeded in time.
    #[error("no renewal succeeded within the renew deadline")]
    Expired,
    /// The Lease names somebody else.
    #[error("the Lease is held by {0}")]
    Taken(Arc<str>),
    /// The Lease names nobody; somebody edited it.
    #[error("the holder was removed from the Lease")]
    Emptied,
    /// The Lease is gone; somebody deleted it.
    #[error("the Lease was deleted")]
    Deleted,
    /// The API server refused a write of the term.
    #[error("the API server refused a write: the claim is not the current one")]
    Fenced,
    /// What has to be done between the acquisition and the first write did not succeed
    /// within a renew deadline. The gate was never open.
    #[error("the claim could not be prepared within the renew deadline")]
    Unprepared,
    /// The Lease was renewed in this replica's name by somebody else: two processes have
    /// one identity.
    #[error("another process renews the Lease under this process's identity")]
    Impostor,
    /// The process ends.
    #[error("shutdown")]
    Shutdown,
}

impl StepDown {
    /// A label value for metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            StepDown::Expired => "expired",
            StepDown::Taken(_) => "taken",
            StepDown::Emptied => "emptied",
            StepDown::Deleted => "deleted",
            StepDown::Fenced => "fenced",
            StepDown::Unprepared => "unprepared",
            StepDown::Impostor => "impostor",
            StepDown::Shutdown => "shutdown",
        }
    }
}

/// Without election there is nobody to wait for: another process holds the Lease and
/// renews it. The process ends with exit code 72.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("the Lease is held by {holder}, which renews it: without --leader-elect only one process may run")]
pub struct HeldByAnother {
    /// Who holds it.
    pub holder: Arc<str>,
}

/// What follows from one input.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// To be carried out in this order.
    pub orders: Vec<Order>,
    /// When to say [`Input::Tick`] if nothing else is said before; earlier does no harm.
    pub wake_at: Option<BootTime>,
}

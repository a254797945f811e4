//! What `/debug/leadership` shows: small, stable fields, no secrets.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;
use windlass_core::claim::{BootTime, Claim, Term};

use crate::durations::Durations;
use crate::step::{Leadership, StepDown};

/// One reading of the leadership, as this replica knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// This process.
    pub identity: String,
    /// Whether the gate is open and its claim has not ended.
    pub leading: bool,
    /// Who holds the Lease, where that is known.
    pub holder: Option<String>,
    /// The highest term that was seen; this replica's own while it leads.
    pub term: Option<Term>,
    /// When the present state began, in wall time (RFC 3339).
    pub since: Option<String>,
    /// Milliseconds since the last renewal that succeeded was sent; only while leading.
    pub renew_age_ms: Option<u64>,
    /// The last request that failed, and why; kept until another one fails.
    pub last_error: Option<String>,
    /// When that was, in wall time (RFC 3339).
    pub last_error_at: Option<String>,
    /// How often this process has stopped leading, by reason.
    pub step_downs: BTreeMap<&'static str, u64>,
    /// `--leader-elect`.
    pub leader_elect: bool,
    /// `--lease-duration`.
    pub lease_duration_ms: u64,
    /// `--renew-deadline`.
    pub renew_deadline_ms: u64,
    /// `--retry-period`.
    pub retry_period_ms: u64,
}

/// Written by the driver's thread, read by anybody.
#[derive(Debug)]
pub(crate) struct Board {
    identity: String,
    durations: Durations,
    leader_elect: bool,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    claim: Option<Claim>,
    holder: Option<String>,
    term: Option<Term>,
    since: Option<Timestamp>,
    last_error: Option<(String, Timestamp)>,
    step_downs: BTreeMap<&'static str, u64>,
}

impl Board {
    pub(crate) fn new(identity: &str, durations: Durations, leader_elect: bool) -> Self {
        Self { identity: identity.to_owned(), durations, leader_elect, notes: Mutex::default() }
    }

    pub(crate) fn opened(&self, claim: &Claim) {
        self.lock().claim = Some(claim.clone());
    }

    pub(crate) fn closed(&self, reason: Option<&StepDown>) {
        let mut notes = self.lock();
        let led = notes.claim.take().is_some();
        if let Some(reason) = reason.filter(|_| led) {
            *notes.step_downs.entry(reason.as_str()).or_default() += 1;
        }
    }

    pub(crate) fn announced(&self, leadership: &Leadership) {
        let mut notes = self.lock();
        notes.since = Some(Timestamp::now());
        notes.holder = match leadership {
            Leadership::Leading(claim) => Some(claim.holder.to_string()),
            Leadership::Standby { holder } => holder.as_deref().map(str::to_owned),
        };
    }

    pub(crate) fn failed(&self, message: String) {
        self.lock().last_error = Some((message, Timestamp::now()));
    }

    pub(crate) fn term(&self, term: Term) {
        self.lock().term = Some(term).filter(|term| term.0 > 0);
    }

    pub(crate) fn read(&self, now: BootTime) -> Status {
        let notes = self.lock();
        let claim = notes.claim.as_ref().filter(|claim| now < claim.ends);
        let deadline = self.durations.renew_deadline();
        let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Status {
            identity: self.identity.clone(),
            leading: claim.is_some(),
            holder: notes.holder.clone(),
            term: claim.map(|claim| claim.term).or(notes.term),
            since: notes.since.map(|at| at.to_string()),
            renew_age_ms: claim.map(|claim| ms(deadline.saturating_sub(claim.ends.since(now)))),
            last_error: notes.last_error.as_ref().map(|(message, _)| message.clone()),
            last_error_at: notes.last_error.as_ref().map(|(_, at)| at.to_string()),
            step_downs: notes.step_downs.clone(),
            leader_elect: self.leader_elect,
            lease_duration_ms: ms(self.durations.lease()),
            renew_deadline_ms: ms(deadline),
            retry_period_ms: ms(self.durations.retry_period()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        // No code panics while it holds this lock; a poisoned one is still consistent.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

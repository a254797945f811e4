//! What `/debug/leadership` shows: small, stable fields, no secrets.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch as channel;
use windlass_core::claim::{BootTime, Claim, Term};

use crate::driver::Config;
use crate::durations::Durations;
use crate::pulse::Peer;
use crate::step::{Cause, Leadership, StepDown};

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
    /// Why it last stopped leading, and when, in wall time (RFC 3339).
    pub last_step_down: Option<String>,
    /// Milliseconds from sending to answer of the last renewal that succeeded.
    pub last_renewal_ms: Option<u64>,
    /// Why the Lease was free when this process last took it.
    pub last_acquired: Option<&'static str>,
    /// Its own pulse and that of the leader.
    pub pulse: PulseStatus,
    /// `--leader-elect`.
    pub leader_elect: bool,
    /// `--lease-duration`.
    pub lease_duration_ms: u64,
    /// `--renew-deadline`.
    pub renew_deadline_ms: u64,
    /// `--retry-period`.
    pub retry_period_ms: u64,
}

/// Where pulses are, and what was learned from them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PulseStatus {
    /// Where others find this process's; absent when it has none.
    pub address: Option<String>,
    /// `--death-evidence`: whether a death is acted on.
    pub death_evidence: bool,
    /// What the leader's Lease says of its pulse; absent when there is nobody to listen to.
    pub peer: Option<String>,
    /// `none`, `unknown`, `connecting`, `verified`, `silent`, `unreachable`, `strange` or `dead`.
    /// Only after `verified` can a death be found.
    pub peer_state: &'static str,
    /// The last process that was found to have ended, and by what.
    pub last_evidence: Option<String>,
    /// When that was, in wall time (RFC 3339).
    pub last_evidence_at: Option<String>,
}

/// Written by the driver's thread, read by anybody.
#[derive(Debug)]
pub(crate) struct Board {
    identity: String,
    durations: Durations,
    leader_elect: bool,
    death_evidence: bool,
    advertised: Option<SocketAddr>,
    peer: channel::Receiver<Peer>,
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
    last_step_down: Option<String>,
    last_renewal: Option<Duration>,
    last_acquired: Option<Cause>,
}

impl Board {
    pub(crate) fn new(
        config: &Config,
        advertised: Option<SocketAddr>,
        peer: channel::Receiver<Peer>,
    ) -> Self {
        Self {
            identity: config.identity.to_string(),
            durations: config.durations,
            leader_elect: config.leader_elect,
            death_evidence: config.death_evidence,
            advertised,
            peer,
            notes: Mutex::default(),
        }
    }

    pub(crate) fn opened(&self, claim: &Claim) {
        self.lock().claim = Some(claim.clone());
    }

    /// Gives back whether that was the end of a leadership, or of an attempt that counts.
    pub(crate) fn closed(&self, reason: Option<&StepDown>) -> bool {
        let mut notes = self.lock();
        let led = notes.claim.take().is_some();
        let counted = reason.filter(|reason| led || **reason == StepDown::Unprepared);
        if let Some(reason) = counted {
            *notes.step_downs.entry(reason.as_str()).or_default() += 1;
            notes.last_step_down = Some(format!("{}: {reason}", Timestamp::now()));
        }
        counted.is_some()
    }

    pub(crate) fn renewed(&self, took: Duration) {
        self.lock().last_renewal = Some(took);
    }

    pub(crate) fn acquired(&self, cause: Cause) {
        self.lock().last_acquired = Some(cause);
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
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
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
            last_step_down: notes.last_step_down.clone(),
            last_renewal_ms: notes.last_renewal.map(ms),
            last_acquired: notes.last_acquired.map(Cause::as_str),
            pulse: self.pulse(),
            leader_elect: self.leader_elect,
            lease_duration_ms: ms(self.durations.lease()),
            renew_deadline_ms: ms(deadline),
            retry_period_ms: ms(self.durations.retry_period()),
        }
    }

    fn pulse(&self) -> PulseStatus {
        let peer = self.peer.borrow();
        PulseStatus {
            address: self.advertised.map(|at| at.to_string()),
            death_evidence: self.death_evidence,
            peer: peer.target.as_ref().map(|target| target.pulse.to_string()),
            peer_state: peer.state.as_str(),
            last_evidence: peer.found.as_ref().map(|found| format!("{}: {}", found.identity, found.by)),
            last_evidence_at: peer.found.as_ref().map(|found| found.at.to_string()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        // No code panics while it holds this lock; a poisoned one is still consistent.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

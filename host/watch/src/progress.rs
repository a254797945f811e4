//! How one watch is doing: counters and the last error, for `/debug` and metrics.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::time::Instant;
use windlass_core::class::Class;
use windlass_core::kind::Gvk;
use windlass_core::rights::{Missing, MissingView};

use crate::get::GetError;

/// After so many refusals in a row a right is taken to be missing. Not after the first:
/// an API server that has just started refuses until it has read its own rules.
pub(crate) const DENIED: u32 = 3;

/// What a watch is doing now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Phase {
    /// Discovery has not found the kind yet.
    #[default]
    #[serde(rename = "waiting for kind")]
    Waiting,
    /// A list is being read.
    #[serde(rename = "listing")]
    Listing,
    /// Events are being read.
    #[serde(rename = "watching")]
    Watching,
    /// There is no room for it in the cache; a plugin that needs it waits (E180).
    #[serde(rename = "over the cache limit")]
    Full,
    /// The API server does not select by a field that a manifest names; the plugin that named it waits (E181).
    #[serde(rename = "field refused")]
    Refused,
    /// It is in no namespace, and this host serves namespaces only; a plugin that needs it waits (E182).
    #[serde(rename = "in no namespace")]
    Outside,
    /// Something failed; it will be tried again after a pause.
    #[serde(rename = "backing off")]
    BackingOff,
}

/// One watch as a person or a metric sees it. Counters count since the kind was
/// first wanted and never fall.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WatchStatus {
    /// The kind.
    pub gvk: Gvk,
    /// What is watched: labels, namespace, fields, and whether only metadata; empty: every object.
    pub selector: String,
    /// What the watch is doing.
    pub state: Phase,
    /// Whether the kind has been listed, or discovery says that it does not exist.
    pub synced: bool,
    /// Objects held.
    pub objects: usize,
    /// Bytes that they take in memory: their JSON, what is known of each, their place in the index.
    pub bytes: usize,
    /// Bytes of JSON among those.
    pub json_bytes: usize,
    /// Age of the last event or bookmark, in milliseconds; absent before the first.
    pub last_event_age_ms: Option<u64>,
    /// Age of the last sign of life (an answer, an event, a bookmark, an end in time),
    /// in milliseconds; absent before the first. Above 30,000 the cache may be stale,
    /// below it a quiet kind is merely quiet.
    pub alive_age_ms: Option<u64>,
    /// Lists that were read to their end.
    pub lists: u64,
    /// Watch requests that were answered.
    pub watches: u64,
    /// Events that were read, bookmarks not counted.
    pub events: u64,
    /// Requests and objects that failed.
    pub errors: u64,
    /// The last failure in one line, at most 256 characters.
    pub last_error: Option<String>,
    /// The right that the host lacks to read the kind, while it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing_right: Option<MissingView>,
}

/// The counters of one watch; shared between its driver and its readers.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<Counters>);

#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) phase: Phase,
    pub(crate) lists: u64,
    pub(crate) watches: u64,
    pub(crate) events: u64,
    pub(crate) errors: u64,
    pub(crate) last_error: Option<String>,
    /// Refusals in a row that only a person can end.
    refusals: u32,
    last_failure: Option<Instant>,
    /// The right that the last of them lacked.
    missing: Option<Missing>,
    last_event: Option<Instant>,
    alive: Option<Instant>,
}

impl Progress {
    pub(crate) fn phase(&self, phase: Phase) {
        self.lock().phase = phase;
    }

    pub(crate) fn listed(&self) {
        let mut counters = self.lock();
        counters.lists += 1;
        counters.granted();
        counters.alive = Some(Instant::now());
    }

    pub(crate) fn alive(&self) {
        self.lock().alive = Some(Instant::now());
    }

    pub(crate) fn watching(&self) {
        let mut counters = self.lock();
        counters.phase = Phase::Watching;
        counters.watches += 1;
        counters.granted();
        counters.alive = Some(Instant::now());
    }

    pub(crate) fn event(&self, is_bookmark: bool) {
        let mut counters = self.lock();
        counters.events += u64::from(!is_bookmark);
        counters.last_event = Some(Instant::now());
        counters.alive = counters.last_event;
    }

    pub(crate) fn failed(&self, error: &GetError) {
        self.failed_with(error.line());
        if error.class() == Class::Permanent {
            let mut counters = self.lock();
            counters.refusals = counters.refusals.saturating_add(1);
            counters.missing = error.missing().cloned();
        }
    }

    /// Takes over what a part has counted that is no more.
    pub(crate) fn absorb(&self, part: &Self) {
        let of_part = part.counters();
        self.lock().absorb(&of_part);
    }

    pub(crate) fn failed_with(&self, line: String) {
        let mut counters = self.lock();
        counters.errors += 1;
        counters.last_error = Some(line);
        counters.last_failure = Some(Instant::now());
    }

    pub(crate) fn counters(&self) -> Counters {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counters {
    fn granted(&mut self) {
        (self.refusals, self.missing) = (0, None);
    }

    /// The right for want of which the API server keeps refusing it.
    pub(crate) fn missing(&self) -> Option<Missing> {
        self.missing.clone().filter(|_| self.refusals >= DENIED)
    }

    /// With those of the parts of one kind: counts add up, and of the rest the worst is told. A kind that is not in
    /// [`Phase::Listing`] is in a phase of its own.
    pub(crate) fn with_parts(mut self, parts: &[Self]) -> Self {
        if self.phase == Phase::Listing {
            let order = |phase: &Phase| match phase {
                Phase::BackingOff => 0,
                Phase::Waiting | Phase::Listing => 1,
                _ => 2,
            };
            self.phase = parts.iter().map(|part| part.phase).min_by_key(order).unwrap_or_default();
            if self.phase == Phase::Waiting {
                self.phase = Phase::Listing;
            }
        }
        for part in parts {
            self.absorb(part);
            self.last_event = self.last_event.max(part.last_event);
            if part.refusals > self.refusals {
                self.refusals = part.refusals;
                self.missing.clone_from(&part.missing);
            }
        }
        // One that has never been heard of is the oldest.
        self.alive = parts.iter().map(|part| part.alive).min().flatten();
        self
    }

    /// Adds what a part has counted.
    pub(crate) fn absorb(&mut self, part: &Self) {
        self.lists += part.lists;
        self.watches += part.watches;
        self.events += part.events;
        self.errors += part.errors;
        if part.last_failure > self.last_failure {
            self.last_failure = part.last_failure;
            self.last_error.clone_from(&part.last_error);
        }
    }

    /// Whether the API server keeps refusing it, so that a person must act first.
    pub(crate) fn is_denied(&self) -> bool {
        self.refusals >= DENIED
    }

    /// Age of the last event or bookmark, in milliseconds.
    pub(crate) fn last_event_age_ms(&self) -> Option<u64> {
        self.last_event.map(age_ms)
    }

    /// Age of the last sign of life, in milliseconds.
    pub(crate) fn alive_age_ms(&self) -> Option<u64> {
        self.alive.map(age_ms)
    }
}

fn age_ms(at: Instant) -> u64 {
    u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)
}

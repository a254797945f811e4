//! What `/debug/queue` shows. Field names are stable.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use windlass_core::key::Key;
use windlass_core::urgency::Urgency;

use crate::entry::{Entry, Place, Why};
use crate::state::State;
use crate::trouble::Trouble;

/// Most rows of one [`View`].
pub const ROWS_MAX: usize = 1000;
/// Most stuck keys of one [`View`].
pub const STUCK_MAX: usize = 100;

/// The queue at one instant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct View {
    /// Whether nothing is handed out.
    pub paused: bool,
    /// Whether this replica stands by: passes look and decide, and write nothing.
    pub standing_by: bool,
    /// Keys that could be handed out.
    pub depth: usize,
    /// Keys that run.
    pub in_flight: usize,
    /// Keys that wait for their time.
    pub delayed: usize,
    /// Keys that are not where they should be, and wait for this replica to lead.
    pub parked: usize,
    /// Keys: those that run first, then by when they are due, then those that are parked.
    pub rows: Vec<Row>,
    /// Keys that are not in `rows`, because there are more than [`ROWS_MAX`].
    pub left_out: usize,
    /// Keys that somebody should look at, because they have failed
    /// [`STUCK_FAILURES`](crate::STUCK_FAILURES) times in a row or for
    /// [`STUCK_AFTER`](crate::STUCK_AFTER); those first that have failed for longest.
    pub stuck: Vec<Stuck>,
    /// Stuck keys that are not in `stuck`, because there are more than [`STUCK_MAX`].
    pub stuck_left_out: usize,
}

/// One key that fails again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stuck {
    /// `<plugin>:<namespace>/<name>`.
    pub key: String,
    /// Its failures in a row.
    pub failures: u32,
    /// Milliseconds since it failed first.
    pub failing_for_ms: u64,
    /// Milliseconds until it is tried again; 0 when it is ready or runs.
    pub due_in_ms: u64,
    /// What was said of the last failure, at most 512 bytes; `None` when so many keys fail that
    /// not every one is quoted.
    pub last_error: Option<String>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// `<plugin>:<namespace>/<name>`.
    pub key: String,
    /// Where it is.
    pub state: RowState,
    /// How urgent it is among those of its plugin.
    pub urgency: Urgency,
    /// Its failures in a row.
    pub failures: u32,
    /// Milliseconds until it comes back; 0 when it is ready or runs.
    pub due_in_ms: u64,
    /// Milliseconds that it has been ready, running or parked; 0 when it is delayed.
    pub for_ms: u64,
}

/// Where a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RowState {
    /// A pass runs.
    Running,
    /// A pass runs, and another follows because something changed meanwhile.
    Again,
    /// Waits for a slot, or for leadership.
    Ready,
    /// Waits after a failure.
    Backoff,
    /// Waits to be looked at again.
    Delayed,
    /// Waits for this replica to lead, or for a change.
    Parked,
}

impl View {
    pub(crate) fn of(state: &mut State, now: Instant) -> Self {
        let sizes = state.sizes(now);
        let mut entries: Vec<_> = state.entries.iter().map(|(k, e)| (rank(k, e), k, e)).collect();
        // Only the rows that are shown are sorted; a lock is held here.
        if entries.len() > ROWS_MAX {
            entries.select_nth_unstable_by(ROWS_MAX, |a, b| a.0.cmp(&b.0));
            entries.truncate(ROWS_MAX);
        }
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let (stuck, stuck_left_out) = stuck(state, now);
        Self {
            stuck,
            stuck_left_out,
            paused: state.is_paused(),
            standing_by: state.is_standing_by(),
            depth: sizes.ready,
            in_flight: sizes.running,
            delayed: sizes.delayed,
            parked: sizes.parked,
            left_out: state.entries.len() - entries.len(),
            rows: entries.iter().map(|(_, k, e)| Row::of(k, e, now)).collect(),
        }
    }
}

impl Row {
    fn of(key: &Key, entry: &Entry, now: Instant) -> Self {
        let (state, due, since) = match entry.place {
            Place::Running { since, again: None, .. } => (RowState::Running, None, Some(since)),
            Place::Running { since, .. } => (RowState::Again, None, Some(since)),
            Place::Ready { since, .. } => (RowState::Ready, None, Some(since)),
            Place::Delayed { due, why: Why::Failed } => (RowState::Backoff, Some(due), None),
            Place::Delayed { due, .. } => (RowState::Delayed, Some(due), None),
            Place::Parked { since } => (RowState::Parked, None, Some(since)),
        };
        Self {
            key: key.to_string(),
            state,
            urgency: entry.urgency,
            failures: entry.failures(),
            due_in_ms: millis(due.map(|due| due.duration_since(now))),
            for_ms: millis(since.map(|since| now.duration_since(since))),
        }
    }
}

/// The stuck keys that are shown, and how many are not.
fn stuck(state: &State, now: Instant) -> (Vec<Stuck>, usize) {
    let all = state.entries.iter().filter_map(|(key, entry)| Some((key, entry, entry.trouble.as_deref()?)));
    let mut all: Vec<_> = all.filter(|(_, _, trouble)| trouble.is_stuck(now)).collect();
    let before = |a: &(&Key, _, &Trouble), b: &(&Key, _, &Trouble)| (a.2.since, a.0).cmp(&(b.2.since, b.0));
    let left_out = all.len().saturating_sub(STUCK_MAX);
    if left_out > 0 {
        all.select_nth_unstable_by(STUCK_MAX, before);
        all.truncate(STUCK_MAX);
    }
    all.sort_unstable_by(before);
    let shown = all.iter().map(|(key, entry, trouble): &(&Key, &Entry, &Trouble)| {
        let due = match entry.place {
            Place::Delayed { due, .. } => Some(due.duration_since(now)),
            Place::Running { .. } | Place::Ready { .. } | Place::Parked { .. } => None,
        };
        Stuck {
            key: key.to_string(),
            failures: trouble.failures,
            failing_for_ms: millis(Some(now.duration_since(trouble.since))),
            due_in_ms: millis(due),
            last_error: trouble.error().map(str::to_owned),
        }
    });
    (shown.collect(), left_out)
}

/// What is shown first: the longest running, the longest ready, the next due, the
/// longest parked.
fn rank<'a>(key: &'a Key, entry: &Entry) -> (u8, Instant, &'a Key) {
    let (class, at) = match entry.place {
        Place::Running { since, .. } => (0, since),
        Place::Ready { since, .. } => (1, since),
        Place::Delayed { due, .. } => (2, due),
        Place::Parked { since } => (3, since),
    };
    (class, at, key)
}

fn millis(of: Option<Duration>) -> u64 {
    of.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

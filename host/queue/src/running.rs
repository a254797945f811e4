//! The right to run a pass for one key, and the duty to say how it ended.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use windlass_core::backoff::Backoff;
use windlass_core::key::Key;
use windlass_core::outcome::Next;
use windlass_core::urgency::Urgency;

use crate::entry::Ended;
use crate::queue::Queue;
use crate::state::Taken;

/// Pauses after conflicts in a row: the cache shows what the other writer did within
/// milliseconds as a rule, and one that writes all the time must not make us spin.
const SOON: Backoff = match Backoff::try_new(Duration::from_millis(10), Duration::from_secs(1)) {
    Ok(soon) => soon,
    Err(_) => panic!("10 ms to 1 s is a valid backoff"),
};

/// A key that was handed out. Nobody else gets it before this is finished.
///
/// Dropped without [`finish`](Self::finish), in a panic or because the pass was
/// cancelled, it counts as a failure: the key comes back after its backoff.
#[must_use = "a key that is dropped counts as failed"]
pub struct Running {
    queue: Arc<Queue>,
    key: Key,
    failures: u32,
    started: Instant,
    /// Its next pause and floor should it fail, already spread by chance.
    pause: Duration,
    floor: Duration,
    /// What spread them, in `0.0..1.0`.
    chance: f64,
    at_least: Option<Duration>,
    /// What is said of its failure, should it fail.
    error: Option<String>,
    finished: bool,
}

/// What is said of a pass that ended without a word.
const DROPPED: &str = "the pass was dropped before it ended";

impl Running {
    pub(crate) fn new(queue: Arc<Queue>, taken: Taken, chance: f64) -> Self {
        let (config, growth) = (queue.config(), taken.growth);
        Self {
            pause: config.backoff.pause(growth.honoured, chance),
            floor: config.hurry.pause(growth.hurried.saturating_add(1), chance),
            key: taken.key,
            failures: taken.failures,
            started: Instant::now(),
            chance,
            at_least: None,
            error: None,
            finished: false,
            queue,
        }
    }

    /// Which key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Its failures in a row before this pass.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// How long the key will stay away if this pass fails and nothing changes.
    pub fn pause(&self) -> Duration {
        self.pause.max(self.at_least.unwrap_or_default())
    }

    /// Keeps the key away for at least so long, whatever [`finish`](Self::finish)
    /// says and whatever changes: the server asked for it.
    pub fn pause_at_least(&mut self, pause: Duration) {
        self.at_least = self.at_least.max(Some(pause));
    }

    /// Caps the pause after a failure, spread by chance as the pause itself is: for
    /// what may end at any time without an event that tells of it.
    pub fn pause_at_most(&mut self, most: Duration) {
        let spread = most.mul_f64(0.5 + 0.5 * self.chance);
        self.pause = self.pause.min(spread);
    }

    /// Says why the pass fails, for `/debug/queue`: one sentence, of which 512 bytes are kept.
    pub fn fails_because(&mut self, error: &str) {
        self.error = Some(error.to_owned());
    }

    /// Ends the pass: the key comes back as `next` says, or earlier if something
    /// changed while it ran.
    pub fn finish(mut self, next: Next) {
        self.end(match next {
            Next::OnChange => Ended::OnChange,
            Next::After(pause) => Ended::After(pause),
            Next::Backoff => self.failed(),
            Next::Soon => self.outrun(),
            Next::WhenLeading => Ended::WhenLeading(Urgency::Takeover),
        });
    }

    /// Ends a pass that could not begin yet: the key comes back after `pause`, or
    /// earlier if something changes, and its failures still count.
    pub fn postpone(mut self, pause: Duration) {
        self.end(Ended::Postponed(pause));
    }

    /// Ends a pass that only a leader can go on with, as [`Next::WhenLeading`] does: at
    /// the takeover it is as urgent as `urgency`. Until then a change brings it back.
    pub fn park(mut self, urgency: Urgency) {
        self.end(Ended::WhenLeading(urgency));
    }

    pub(crate) fn worked(&self, now: Instant) -> Duration {
        now.duration_since(self.started)
    }

    fn failed(&self) -> Ended {
        Ended::Backoff { pause: self.pause, floor: self.floor }
    }

    fn outrun(&self) -> Ended {
        let pause = SOON.pause(self.failures.saturating_add(1), self.chance);
        Ended::Backoff { pause, floor: pause }
    }

    fn end(&mut self, ended: Ended) {
        self.finished = true;
        self.queue.finish(self, ended, self.at_least, self.error.as_deref());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.finished {
            self.error.get_or_insert_with(|| DROPPED.to_owned());
            self.end(self.failed());
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Running({}, {} failures)", self.key, self.failures)
    }
}

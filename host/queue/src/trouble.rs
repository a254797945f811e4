//! What is known of a key that fails: how often, since when, and what was said last.
//!
//! A failure makes the next pause longer only if the pause before it was waited for. A key that
//! an event brought back early and that fails again has shown nothing but that this event was
//! not the cure; it is kept from spinning by its floor instead.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use windlass_core::code::printable;

/// Failures in a row after which a key is stuck.
pub const STUCK_FAILURES: u32 = 8;
/// For how long a key may fail before it is stuck, however seldom it is tried.
pub const STUCK_AFTER: Duration = Duration::from_secs(300);

/// Bytes of one error that are kept.
const ERROR_BYTES: usize = 512;
/// Errors that are kept at once; a key that fails beyond that is counted and not quoted.
const ERRORS_MAX: usize = 1_000;

/// The failures of one key since its last success.
#[derive(Debug)]
pub(crate) struct Trouble {
    /// In a row.
    pub(crate) failures: u32,
    /// Of these, those before which the pause was waited for, and the first: what pauses grow by.
    honoured: u32,
    /// The last so many each followed an event.
    hurried: u32,
    /// Whether there was an event since it failed last.
    event: bool,
    /// Whether one brought it back before its pause was over.
    early: bool,
    /// When it failed first.
    pub(crate) since: Instant,
    error: Option<Error>,
}

/// By what the pauses of a key grow, should its next pass fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Growth {
    /// Failures that count, that one included.
    pub(crate) honoured: u32,
    /// Failures in a row that each followed an event, that one included.
    pub(crate) hurried: u32,
}

#[derive(Debug)]
struct Error {
    text: Box<str>,
    /// Held for as long as the text is: see [`Errors`].
    _counted: Arc<()>,
}

/// Counts the errors that are kept.
#[derive(Debug, Default)]
pub(crate) struct Errors(Arc<()>);

impl Errors {
    fn keep(&self, text: &str) -> Option<Error> {
        (Arc::strong_count(&self.0) <= ERRORS_MAX)
            .then(|| Error { text: printable(text, ERROR_BYTES).into(), _counted: self.0.clone() })
    }
}

impl Trouble {
    /// It has not failed yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self { failures: 0, honoured: 0, hurried: 0, event: false, early: false, since: now, error: None }
    }

    /// By what pauses grow if the next pass fails.
    pub(crate) fn growth(&self) -> Growth {
        Growth {
            honoured: self.honoured.saturating_add(u32::from(!self.early)),
            hurried: if self.event { self.hurried.saturating_add(1) } else { 0 },
        }
    }

    /// An event wants it back during its pause: `early`, if that is before the pause is over.
    pub(crate) fn event(&mut self, early: bool) {
        self.event = true;
        self.early |= early;
    }

    /// It has failed once more.
    pub(crate) fn failed(&mut self) {
        Growth { honoured: self.honoured, hurried: self.hurried } = self.growth();
        self.failures = self.failures.saturating_add(1);
        (self.event, self.early) = (false, false);
    }

    /// Keeps what was said of the last failure.
    pub(crate) fn says(&mut self, text: &str, errors: &Errors) {
        // The one before makes room first.
        self.error = None;
        self.error = errors.keep(text);
    }

    /// What was said of the last failure.
    pub(crate) fn error(&self) -> Option<&str> {
        self.error.as_ref().map(|error| &*error.text)
    }

    /// Whether it fails for so long, or so often, that somebody should look.
    pub(crate) fn is_stuck(&self, now: Instant) -> bool {
        self.failures >= STUCK_FAILURES || now.duration_since(self.since) >= STUCK_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_counts_only_if_the_pause_before_it_was_waited_for() {
        let mut trouble = Trouble::new(Instant::now());
        for honoured in 1..4 {
            trouble.failed();
            assert_eq!((trouble.honoured, trouble.hurried), (honoured, 0));
        }
        for hurried in 1..4 {
            trouble.event(true);
            trouble.event(false);
            assert_eq!(trouble.growth(), Growth { honoured: 3, hurried });
            trouble.failed();
        }
        trouble.event(false);
        assert_eq!(trouble.growth(), Growth { honoured: 4, hurried: 4 }, "it came too early to matter");
        trouble.failed();
        assert_eq!((trouble.failures, trouble.growth()), (7, Growth { honoured: 5, hurried: 0 }));
    }

    #[test]
    fn a_key_is_stuck_by_number_or_by_time() {
        let now = Instant::now();
        let mut trouble = Trouble::new(now);
        trouble.failed();
        assert!(!trouble.is_stuck(now + STUCK_AFTER / 2) && trouble.is_stuck(now + STUCK_AFTER));
        (1..STUCK_FAILURES).for_each(|_| trouble.failed());
        assert!(trouble.is_stuck(now));
    }

    #[test]
    fn errors_have_a_size_and_a_number() {
        let errors = Errors::default();
        let mut all: Vec<_> = (0..ERRORS_MAX + 5).map(|_| Trouble::new(Instant::now())).collect();
        all.iter_mut().for_each(|one| one.says(&"x".repeat(10_000), &errors));
        assert_eq!(all.iter().filter(|one| one.error().is_some()).count(), ERRORS_MAX);
        assert!(all[0].error().expect("it came first").len() < ERROR_BYTES + 4);
        all[0].says("again", &errors);
        assert_eq!(all[0].error(), Some("again"), "its own place is free");
        all.truncate(1);
        let mut one = Trouble::new(Instant::now());
        one.says("there is room again", &errors);
        assert!(one.error().is_some());
    }
}

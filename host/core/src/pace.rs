//! Pace: of the processors, a plugin's failures get a small share over time.
//!
//! A call that is ended by its limits has used up to a second of a processor for nothing. The
//! [breaker](crate::breaker) counts failures, and a key's backoff is its own; neither knows what
//! a failure costs, and a plugin that loops on every object has many keys. So what failures have
//! cost goes into a bucket that leaks slowly, and while it is too full, objects that the plugin has failed on wait, and
//! all of them while it is quarantined. Others of a plugin that works wait for nothing. A value over values: it knows no clock.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::claim::BootTime;

/// What failures of one plugin may cost over time: one part in this many of one processor, 5 %.
pub const ONE_IN: u32 = 20;
/// What they may cost at once: two calls that use up their time.
pub const AT_ONCE: Duration = Duration::from_secs(2);
/// The fullest bucket: a minute passes until it has leaked to [`AT_ONCE`], so that whoever mends an object waits for
/// no longer.
const FULL: Duration = Duration::from_secs(2 + 60 / ONE_IN as u64);
/// Failures that cost less are not worth remembering whose they were.
const CHEAP: Duration = Duration::from_millis(2);
/// Objects that are remembered, as hashes of their keys. Of more all have to wait.
const FAILED_MAX: usize = 1024;

/// One plugin's bucket. Starts empty, and a new digest gets a new one.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// What is in it, at `then`.
    level: Duration,
    then: BootTime,
    /// Objects whose last call failed and cost something.
    failed: BTreeSet<u64>,
}

impl Pace {
    /// For how long the object whose key has this hash has to wait; not at all if this is nothing.
    pub fn rest(&self, now: BootTime, key: u64, quarantined: bool) -> Option<Duration> {
        let over = self.level(now).saturating_sub(AT_ONCE);
        let concerned = quarantined || self.failed.len() == FAILED_MAX || self.failed.contains(&key);
        (concerned && !over.is_zero()).then_some(over * ONE_IN)
    }

    /// A call for the object whose key has this hash failed, and has cost so much time of a processor.
    pub fn failed(&mut self, now: BootTime, key: u64, cost: Duration) {
        self.level = (self.level(now) + cost).min(FULL);
        self.then = now;
        if cost >= CHEAP && self.failed.len() < FAILED_MAX {
            self.failed.insert(key);
        }
    }

    /// A call for the object whose key has this hash went well. What failures have cost stays.
    pub fn well(&mut self, key: u64) {
        if !self.failed.is_empty() {
            self.failed.remove(&key);
        }
    }

    fn level(&self, now: BootTime) -> Duration {
        self.level.saturating_sub(now.since(self.then) / ONE_IN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::{Before, Breaker, Rules, Went};
    use crate::code::{Code, Refusal};

    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> BootTime {
        BootTime(0).plus(Duration::from_millis(millis))
    }

    /// What a plugin that loops for a second on each of `objects` has used after `seconds`, one call at a time, when
    /// somebody wants all of them all the time.
    fn used(objects: u64, seconds: u64) -> Duration {
        let (mut pace, mut breaker) = (Pace::default(), Breaker::new(Rules::default()));
        let (mut used, mut millis) = (Duration::ZERO, 0);
        'time: while millis < seconds * 1000 {
            for key in 0..objects {
                let quarantined = breaker.quarantine().is_some();
                if pace.rest(at(millis), key, quarantined).is_some()
                    || breaker.before(at(millis), key) != Before::Go
                {
                    continue;
                }
                millis += 1000;
                used += SECOND;
                pace.failed(at(millis), key, SECOND);
                breaker.was_dear();
                breaker.after(at(millis), key, Went::Badly(Refusal::new(Code::Timeout, "looped")));
                continue 'time;
            }
            millis += 100;
        }
        used
    }

    #[test]
    fn a_plugin_that_loops_gets_a_twentieth_of_a_processor_over_time() {
        for objects in [1, 2, 20, 500] {
            let (early, late) = (used(objects, 10), used(objects, 600));
            // Until the third failure nobody knows that it is the plugin.
            assert!(early <= 3 * SECOND, "{objects} objects: {early:?} in 10 s");
            assert!(late <= AT_ONCE + SECOND + 600 * SECOND / ONE_IN, "{objects} objects: {late:?} in 600 s");
        }
    }

    #[test]
    fn only_what_it_fails_on_waits_while_the_plugin_works() {
        let mut pace = Pace::default();
        for _ in 0..3 {
            pace.failed(at(0), 1, SECOND);
        }
        assert_eq!(pace.rest(at(0), 1, false), Some(20 * SECOND));
        assert_eq!(pace.rest(at(0), 2, false), None);
        assert_eq!(pace.rest(at(0), 2, true), Some(20 * SECOND), "nobody knows any more that it works");
        assert_eq!(pace.rest(at(20_000), 1, false), None);
        pace.failed(at(20_000), 1, SECOND);
        pace.well(1);
        assert_eq!(pace.rest(at(20_000), 1, false), None, "it is mended");
    }

    #[test]
    fn cheap_failures_wait_for_nobody() {
        let mut pace = Pace::default();
        for key in 0..10_000 {
            pace.failed(at(0), key, Duration::from_micros(100));
            assert_eq!(pace.rest(at(0), key, true), None);
        }
        pace.failed(at(0), 1, Duration::from_secs(3600));
        let rest = pace.rest(at(0), 1, true).expect("it has cost an hour");
        assert_eq!(rest, Duration::from_secs(60), "and no pause is longer than that");
    }
}

//! The highest values of the last minute, for gauges that a scrape must not miss.
//!
//! A call that came near its limit is over long before the next scrape; what is shown
//! is the worst of all calls since. Time is an argument.

use std::time::{Duration, Instant};

/// How long one slot gathers.
const SLOT: Duration = Duration::from_secs(10);
/// How many slots count: the one that gathers now and those before it.
const SLOTS: usize = 6;

/// The highest of each of `N` values over the last 50 to 60 seconds.
#[derive(Clone, Debug)]
pub(super) struct Peaks<const N: usize> {
    began: Instant,
    slots: [Slot<N>; SLOTS],
}

#[derive(Clone, Copy, Debug)]
struct Slot<const N: usize> {
    /// Which ten seconds since `began`.
    number: u64,
    highest: [f64; N],
}

impl<const N: usize> Peaks<N> {
    /// No values yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, slots: [Slot { number: 0, highest: [0.0; N] }; SLOTS] }
    }

    /// Takes in one value each.
    pub(super) fn add(&mut self, now: Instant, values: [f64; N]) {
        let number = self.number(now);
        let slot = &mut self.slots[usize::try_from(number).unwrap_or(0) % SLOTS];
        if slot.number != number {
            *slot = Slot { number, highest: [0.0; N] };
        }
        for (highest, value) in slot.highest.iter_mut().zip(values) {
            *highest = highest.max(value);
        }
    }

    /// The highest of each; 0 where there was none.
    pub(super) fn highest(&self, now: Instant) -> [f64; N] {
        let oldest = (self.number(now) + 1).saturating_sub(SLOTS as u64);
        let mut all = [0.0; N];
        for slot in self.slots.iter().filter(|slot| slot.number >= oldest) {
            for (highest, value) in all.iter_mut().zip(slot.highest) {
                *highest = f64::max(*highest, value);
            }
        }
        all
    }

    fn number(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() / SLOT.as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_a_minute_is_shown_for_a_minute_and_no_longer() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut peaks = Peaks::new(began);
        peaks.add(at(3), [0.9, 0.1]);
        peaks.add(at(4), [0.2, 0.3]);
        assert_eq!(peaks.highest(at(4)), [0.9, 0.3]);
        peaks.add(at(30), [0.5, 0.0]);
        assert_eq!(peaks.highest(at(59)), [0.9, 0.3]);
        assert_eq!(peaks.highest(at(60)), [0.5, 0.0]);
        assert_eq!(peaks.highest(at(90)), [0.0, 0.0]);
    }

    #[test]
    fn a_slot_that_comes_round_again_starts_anew() {
        let began = Instant::now();
        let mut peaks = Peaks::new(began);
        peaks.add(began, [0.9]);
        let later = began + Duration::from_secs(3600);
        peaks.add(later, [0.1]);
        assert_eq!(peaks.highest(later), [0.1]);
    }
}

//! How many lines plugins may write to the host's log, and what is said of the rest.
//!
//! One call is bounded already ([`Limits::log_bytes`](crate::limits::Limits)); this bounds
//! what many calls write together, a plugin each: one that floods loses lines of its own
//! and nobody else's. What was dropped is summed up in one line (W320) when the flood
//! is over, and every ten seconds while it lasts. Time is an argument: any clock that
//! does not run backwards, counted from any moment.
//!
//! Lines are the plugin's own words. They come here escaped and cut to length, and
//! nothing in them is searched for secrets: a plugin that logs a Secret it may read has
//! published it to whoever may read the host's log.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::code::{Code, Refusal};
use crate::name::PluginName;

/// How much one plugin may write in the long run, and at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Lines a second in the long run. Default 200.
    pub lines: NonZeroU32,
    /// Lines at once after a silence. Default 1,000: a hundred passes that say ten things.
    pub lines_burst: NonZeroU32,
    /// Bytes a second in the long run. Default 64 KiB.
    pub bytes: NonZeroU32,
    /// Bytes at once after a silence; a longer line is always dropped. Default 512 KiB:
    /// 32 calls that fill the 16 KiB that each of them has.
    pub bytes_burst: NonZeroU32,
}

const fn positive(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("the defaults are positive")
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            lines: positive(200),
            lines_burst: positive(1_000),
            bytes: positive(64 << 10),
            bytes_burst: positive(512 << 10),
        }
    }
}

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a line that is dropped must not be written"]
pub enum Admit {
    /// It is written.
    Pass,
    /// It is not; a [`Summary`] will count it.
    Drop,
}

/// A flood counts as over when nothing had to be dropped for so long.
const OVER: Duration = Duration::from_secs(1);
/// How often a flood that lasts is summed up.
const EVERY: Duration = Duration::from_secs(10);

/// Bounds the lines of all plugins, each by itself. Holds an entry for each plugin that
/// wrote in the last seconds.
#[derive(Debug, Default)]
pub struct Flood {
    rate: Rate,
    writers: BTreeMap<PluginName, Writer>,
}

/// One plugin. Two buckets, each kept as the instant at which it is full again.
#[derive(Debug, Default)]
struct Writer {
    lines_full: Duration,
    bytes_full: Duration,
    dropped: Option<Dropped>,
}

/// What was dropped since the last summary.
#[derive(Debug)]
struct Dropped {
    lines: u64,
    bytes: u64,
    first: Duration,
    last: Duration,
}

/// Lines of one plugin that nobody will read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Whose.
    pub plugin: PluginName,
    /// How many.
    pub lines: u64,
    /// Their length in bytes.
    pub bytes: u64,
    /// From the first of them until now.
    pub over: Duration,
    rate: Rate,
}

impl Flood {
    /// Nobody has written yet.
    pub fn new(rate: Rate) -> Self {
        Self { rate, writers: BTreeMap::new() }
    }

    /// Whether a line of so many bytes may be written now.
    pub fn admit(&mut self, now: Duration, plugin: &PluginName, bytes: usize) -> Admit {
        if !self.writers.contains_key(plugin) {
            self.writers.insert(plugin.clone(), Writer::default());
        }
        let writer = self.writers.get_mut(plugin).expect("it was inserted unless it was there");
        let rate = &self.rate;
        let lines = bucket(writer.lines_full, now, 1, rate.lines, rate.lines_burst);
        let bytes_full = bucket(writer.bytes_full, now, bytes as u64, rate.bytes, rate.bytes_burst);
        let (Some(lines), Some(bytes_full)) = (lines, bytes_full) else {
            writer.drop_one(now, bytes as u64);
            return Admit::Drop;
        };
        (writer.lines_full, writer.bytes_full) = (lines, bytes_full);
        Admit::Pass
    }

    /// What is to be said now: of each flood that is over, and of each that has lasted for
    /// ten seconds since it was last said. Meant to be asked once a second, lines or none;
    /// forgets whoever has been silent.
    pub fn summary(&mut self, now: Duration) -> Vec<Summary> {
        let mut all = Vec::new();
        let rate = self.rate;
        for (plugin, writer) in &mut self.writers {
            all.extend(writer.summary_if_due(now).map(|dropped| dropped.summed(plugin, now, rate)));
        }
        self.writers.retain(|_, writer| !writer.is_as_new(now));
        all
    }

    /// Drops what is kept of a plugin that is gone. Answers what has not been said of it yet.
    pub fn forget(&mut self, now: Duration, plugin: &PluginName) -> Option<Summary> {
        let dropped = self.writers.remove(plugin)?.dropped?;
        Some(dropped.summed(plugin, now, self.rate))
    }
}

/// The instant at which a bucket is full again after `cost` was taken out of it; nothing
/// when it does not hold as much.
fn bucket(full: Duration, now: Duration, cost: u64, rate: NonZeroU32, burst: NonZeroU32) -> Option<Duration> {
    let full = full.max(now).saturating_add(time_for(cost, rate));
    (full - now <= time_for(burst.get().into(), rate)).then_some(full)
}

/// How long it takes until so much has come in; rounded down to a nanosecond.
fn time_for(cost: u64, rate: NonZeroU32) -> Duration {
    let nanos = u128::from(cost) * 1_000_000_000 / u128::from(rate.get());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

impl Writer {
    fn drop_one(&mut self, now: Duration, bytes: u64) {
        let dropped = self.dropped.get_or_insert(Dropped { lines: 0, bytes: 0, first: now, last: now });
        dropped.lines += 1;
        dropped.bytes = dropped.bytes.saturating_add(bytes);
        dropped.last = now;
    }

    fn summary_if_due(&mut self, now: Duration) -> Option<Dropped> {
        let due = |dropped: &mut Dropped| {
            now.saturating_sub(dropped.last) >= OVER || now.saturating_sub(dropped.first) >= EVERY
        };
        self.dropped.take_if(due)
    }

    /// Whether a new one would do as well.
    fn is_as_new(&self, now: Duration) -> bool {
        self.dropped.is_none() && self.lines_full <= now && self.bytes_full <= now
    }
}

impl Dropped {
    fn summed(self, plugin: &PluginName, now: Duration, rate: Rate) -> Summary {
        let Self { lines, bytes, first, .. } = self;
        Summary { plugin: plugin.clone(), lines, bytes, over: now.saturating_sub(first), rate }
    }
}

impl Summary {
    /// W320, for the Event and the message.
    pub fn refusal(&self) -> Refusal {
        Refusal::new(Code::LogDropped, format!("plugin {}: {}", self.plugin, self.words()))
    }

    fn words(&self) -> String {
        let Rate { lines, lines_burst, bytes, .. } = self.rate;
        let seconds = self.over.as_secs_f64().ceil().max(1.0);
        format!(
            "{} lines ({} bytes) dropped in the last {seconds} s; a plugin may write {lines} lines and \
             {} KiB a second, {lines_burst} lines at once",
            self.lines,
            self.bytes,
            bytes.get() >> 10,
        )
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", Code::LogDropped, self.words())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(name: &str) -> PluginName {
        PluginName::try_new(name).expect("valid")
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// How many of `n` lines of so many bytes pass, at one instant.
    fn passed(flood: &mut Flood, now: Duration, name: &str, n: usize, bytes: usize) -> usize {
        (0..n).filter(|_| flood.admit(now, &plugin(name), bytes) == Admit::Pass).count()
    }

    #[test]
    fn a_burst_passes_and_then_as_many_as_come_in() {
        let mut flood = Flood::default();
        assert_eq!(passed(&mut flood, ms(5_000), "a", 5_000, 10), 1_000);
        assert_eq!(passed(&mut flood, ms(5_100), "a", 5_000, 10), 20);
        assert_eq!(passed(&mut flood, ms(5_104), "a", 9, 10), 0);
        assert_eq!(passed(&mut flood, ms(5_105), "a", 9, 10), 1);
        assert_eq!(passed(&mut flood, ms(15_000), "a", 5_000, 10), 1_000);
    }

    #[test]
    fn long_lines_are_bounded_by_their_bytes() {
        let mut flood = Flood::default();
        assert_eq!(passed(&mut flood, ms(0), "a", 5_000, 4096), 128);
        assert_eq!(passed(&mut flood, ms(1_000), "a", 5_000, 4096), 16);
        assert_eq!(passed(&mut flood, ms(60_000), "a", 1, usize::MAX), 0);
    }

    #[test]
    fn a_line_that_is_dropped_costs_nothing() {
        let mut flood = Flood::default();
        assert_eq!(passed(&mut flood, ms(0), "a", 128, 4096), 128);
        // Too long for what is left of its bytes; a thousand of them leave the lines alone.
        assert_eq!(passed(&mut flood, ms(0), "a", 2_000, 4096), 0);
        assert_eq!(passed(&mut flood, ms(0), "a", 1_000, 0), 872);
    }

    #[test]
    fn one_plugin_that_floods_costs_another_nothing() {
        let mut flood = Flood::default();
        assert_eq!(passed(&mut flood, ms(0), "bad", 100_000, 100), 1_000);
        assert_eq!(passed(&mut flood, ms(0), "good", 500, 100), 500);
        assert!(flood.summary(ms(10_000)).iter().all(|summary| summary.plugin == plugin("bad")));
    }

    #[test]
    fn a_flood_is_summed_up_once_it_is_over() {
        let mut flood = Flood::default();
        passed(&mut flood, ms(0), "a", 1_002, 10);
        assert_eq!(passed(&mut flood, ms(1), "a", 1, 10), 0);
        assert_eq!(flood.summary(ms(1_000)), []);
        let all = flood.summary(ms(1_001));
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].lines, all[0].bytes, all[0].over), (3, 30, ms(1_001)));
        assert_eq!(
            all[0].to_string(),
            "W320 LogDropped: 3 lines (30 bytes) dropped in the last 2 s; a plugin may write \
             200 lines and 64 KiB a second, 1000 lines at once"
        );
        assert_eq!(all[0].refusal().code, Code::LogDropped);
        assert_eq!(flood.summary(ms(2_000)), []);
    }

    #[test]
    fn a_flood_that_lasts_is_summed_up_every_ten_seconds_and_no_line_is_forgotten() {
        let mut flood = Flood::default();
        let (mut said, mut lines, mut passed_in_all) = (Vec::new(), 0, 0);
        for now in (0..60_000).step_by(100).map(ms) {
            passed_in_all += passed(&mut flood, now, "a", 100, 10);
            for summary in flood.summary(now) {
                said.push(now.as_secs());
                lines += summary.lines;
            }
        }
        assert_eq!(said.len(), 5, "said at {said:?} s");
        lines += flood.forget(ms(60_000), &plugin("a")).expect("it goes on").lines;
        assert_eq!((lines as usize) + passed_in_all, 60_000);
        // A full bucket, and what came in during a minute.
        assert!((12_900..=13_000).contains(&passed_in_all), "{passed_in_all}");
    }

    #[test]
    fn whoever_is_silent_is_forgotten() {
        let mut flood = Flood::default();
        for n in 0..100 {
            passed(&mut flood, ms(0), &format!("p{n}"), 1_100, 10);
        }
        assert_eq!(flood.summary(ms(4_000)).len(), 100);
        assert_eq!(flood.writers.len(), 100, "their buckets are not full yet");
        flood.summary(ms(6_000));
        assert!(flood.writers.is_empty());
    }

    #[test]
    fn a_clock_that_stands_or_runs_backwards_does_no_harm() {
        let mut flood = Flood::default();
        assert_eq!(passed(&mut flood, ms(9_000), "a", 1_001, 1), 1_000);
        assert_eq!(passed(&mut flood, ms(8_000), "a", 10, 1), 0);
        assert_eq!(flood.summary(ms(7_000)), []);
    }
}

//! How many passes of one plugin may begin in a second: a token bucket each.
//!
//! Of a bucket only the instant is kept at which it is full again. Each pass moves that on by
//! what a token takes to come back, and there is one as long as it is less than a bucket away.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;
use windlass_core::name::PluginName;

/// How long it takes to fill an empty bucket: so many passes may begin at once.
const FULL: Duration = Duration::from_secs(1);

/// Passes of each plugin that may begin in a second, and so many at once after a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Unit: passes a second.
    pub per_second: NonZeroU32,
}

/// The buckets of all plugins; without a rate there are none.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    rate: Option<Rate>,
    /// When each is full again.
    full: BTreeMap<PluginName, Instant>,
    /// Those that are empty, and when the next token is there.
    empty: BTreeMap<PluginName, Instant>,
}

impl Buckets {
    pub(super) fn new(rate: Option<Rate>) -> Self {
        Self { rate, ..Self::default() }
    }

    /// A pass of a plugin begins.
    pub(super) fn take(&mut self, plugin: &PluginName, now: Instant) {
        let Some(rate) = self.rate else {
            return;
        };
        let token = FULL / rate.per_second.get();
        let full = self.full.get(plugin).map_or(now, |full| (*full).max(now)) + token;
        self.full.insert(plugin.clone(), full);
        let next = full + token;
        if next > now + FULL {
            self.empty.insert(plugin.clone(), next - FULL);
        }
    }

    /// Whether a plugin has to wait for its next token.
    pub(super) fn is_empty(&self, plugin: &PluginName) -> bool {
        self.empty.contains_key(plugin)
    }

    /// Whether a plugin has a token at that time.
    #[cfg(test)]
    pub(super) fn has_token(&self, plugin: &PluginName, now: Instant) -> bool {
        self.empty.get(plugin).is_none_or(|at| *at <= now)
    }

    /// When the first token comes that somebody waits for.
    pub(super) fn next(&self) -> Option<Instant> {
        self.empty.values().min().copied()
    }

    /// Plugins that need not wait any more.
    pub(super) fn refilled(&mut self, now: Instant) -> Vec<PluginName> {
        let due = self.empty.extract_if(.., |_, at| *at <= now);
        due.map(|(plugin, _)| plugin).collect()
    }

    /// The plugin is gone.
    pub(super) fn forget(&mut self, plugin: &PluginName) {
        self.full.remove(plugin);
        self.empty.remove(plugin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_second_is_worth_may_begin_at_once_and_then_one_a_token() {
        let (now, plugin) = (Instant::now(), PluginName::try_new("p").expect("valid"));
        let mut buckets = Buckets::new(NonZeroU32::new(4).map(|per_second| Rate { per_second }));
        let at = |ms| now + Duration::from_millis(ms);
        let mut began = 0;
        for ms in 0..3_000 {
            buckets.refilled(at(ms));
            if !buckets.is_empty(&plugin) {
                buckets.take(&plugin, at(ms));
                began += 1;
            }
            if ms == 3 {
                assert_eq!((began, buckets.next()), (4, Some(at(250))));
            }
        }
        assert_eq!(began, 4 + 11, "one each 250 ms, the last at 2,750 ms");
        buckets.forget(&plugin);
        assert!(buckets.full.is_empty() && buckets.next().is_none());
    }

    #[test]
    fn without_a_rate_nobody_waits_and_nothing_is_kept() {
        let (now, plugin) = (Instant::now(), PluginName::try_new("p").expect("valid"));
        let mut buckets = Buckets::default();
        (0..1_000).for_each(|_| buckets.take(&plugin, now));
        assert!(!buckets.is_empty(&plugin) && buckets.full.is_empty());
    }
}

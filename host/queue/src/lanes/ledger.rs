//! What each plugin has had: the time that its passes took, in sum.
//!
//! A whole pass is charged, from the moment at which its key was handed out to the one at
//! which it came back. What is shared out is a slot, and a pass holds its slot for all of
//! that time, whether it decides or waits for its writes to be answered.
//!
//! What a pass will take is not known when it begins. So one that runs counts as what the
//! plugin's passes took of late, and is charged what it did take when it ends.

use std::collections::BTreeMap;
use std::time::Duration;

use windlass_core::name::PluginName;

/// How far apart those that have work may be. Whoever had less for long because of a bound of
/// its own is not owed more than this afterwards, and whoever had more does not wait for more.
/// Twice what the longest pass may take to decide.
pub(super) const APART_MOST: Duration = Duration::from_secs(60);

/// What a pass is taken to last before the first one of its plugin has ended.
const FIRST_GUESS: Duration = Duration::from_millis(10);

/// A pass that takes no time still takes a slot.
const SHORTEST: Duration = Duration::from_micros(1);

/// One account a plugin. Bounded by the plugins that there are: [`Ledger::forget`].
#[derive(Debug, Default)]
pub(super) struct Ledger {
    accounts: BTreeMap<PluginName, Account>,
    /// Plugins that have work.
    open: usize,
    /// What the one with work that had least has had, or had when it was looked up last. Only
    /// rises.
    floor: Duration,
}

#[derive(Debug, Default)]
struct Account {
    spent: Duration,
    /// What a pass took of late; `None` before the first one has ended.
    usual: Option<Duration>,
    /// Whether the plugin has work: keys that are ready or that run.
    open: bool,
}

impl Ledger {
    /// A plugin has work from now on. What it did not use while it had none is lost: it begins
    /// where those are that had least.
    pub(super) fn open(&mut self, plugin: &PluginName) {
        if self.accounts.get(plugin).is_some_and(|account| account.open) {
            return;
        }
        let floor = self.look_up_floor();
        let account = self.accounts.entry(plugin.clone()).or_default();
        account.open = true;
        account.spent = account.spent.clamp(floor, floor + APART_MOST);
        self.open += 1;
    }

    /// A plugin has no work any more. What it owes is kept.
    pub(super) fn close(&mut self, plugin: &PluginName) {
        let Some(account) = self.accounts.get_mut(plugin).filter(|account| account.open) else {
            return;
        };
        account.open = false;
        self.open -= 1;
        if self.open == 0 {
            // Nobody else knows how far they have come.
            self.floor = self.floor.max(account.spent);
        }
    }

    /// A pass of a plugin has taken so long.
    pub(super) fn charge(&mut self, plugin: &PluginName, took: Duration) {
        let Some(account) = self.accounts.get_mut(plugin) else {
            return;
        };
        account.usual = Some(account.usual.map_or(took, |usual| (usual * 3 + took) / 4));
        account.spent += took.max(SHORTEST);
        let spent = account.spent;
        // The true floor is never below the one that is known.
        if spent > self.floor + APART_MOST {
            let most = self.look_up_floor() + APART_MOST;
            if let Some(account) = self.accounts.get_mut(plugin) {
                account.spent = spent.min(most);
            }
        }
    }

    /// What a plugin has had when those of its passes end that run now.
    pub(super) fn expected(&self, plugin: &PluginName, in_work: usize) -> Duration {
        let Some(account) = self.accounts.get(plugin) else {
            return self.floor;
        };
        let each = account.usual.unwrap_or(FIRST_GUESS).max(SHORTEST);
        account.spent + each.saturating_mul(u32::try_from(in_work).unwrap_or(u32::MAX))
    }

    /// The plugin is gone.
    pub(super) fn forget(&mut self, plugin: &PluginName) {
        self.close(plugin);
        self.accounts.remove(plugin);
    }

    /// Visits every account: not for each pass.
    fn look_up_floor(&mut self) -> Duration {
        let open = self.accounts.values().filter(|account| account.open);
        let least = open.map(|account| account.spent).min();
        self.floor = self.floor.max(least.unwrap_or_default());
        self.floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn name(name: &str) -> PluginName {
        PluginName::try_new(name).expect("valid")
    }

    #[test]
    fn whoever_was_idle_is_owed_nothing_for_it() {
        let (mut ledger, a, b) = (Ledger::default(), name("a"), name("b"));
        ledger.open(&a);
        ledger.open(&b);
        ledger.charge(&b, SECOND);
        ledger.close(&b);
        for _ in 0..100 {
            ledger.charge(&a, SECOND);
        }
        ledger.open(&b);
        assert_eq!(ledger.expected(&b, 0), ledger.expected(&a, 0));
    }

    #[test]
    fn what_was_owed_before_a_rest_is_owed_after_it() {
        let (mut ledger, a, b) = (Ledger::default(), name("a"), name("b"));
        ledger.open(&a);
        ledger.open(&b);
        ledger.charge(&b, 5 * SECOND);
        ledger.close(&b);
        ledger.charge(&a, SECOND);
        ledger.open(&b);
        assert_eq!((ledger.expected(&a, 0), ledger.expected(&b, 0)), (SECOND, 5 * SECOND));
    }

    #[test]
    fn nobody_falls_behind_or_runs_ahead_without_end() {
        let (mut ledger, a, b, c) = (Ledger::default(), name("a"), name("b"), name("c"));
        ledger.open(&a);
        ledger.open(&b);
        for _ in 0..1_000 {
            ledger.charge(&a, SECOND);
        }
        assert_eq!(ledger.expected(&a, 0) - ledger.expected(&b, 0), APART_MOST);
        ledger.open(&c);
        assert_eq!(ledger.expected(&c, 0), ledger.expected(&b, 0), "who is new is not worse off");
    }

    #[test]
    fn a_pass_that_runs_counts_as_what_they_took_of_late() {
        let (mut ledger, a) = (Ledger::default(), name("a"));
        ledger.open(&a);
        assert_eq!(ledger.expected(&a, 2), 2 * FIRST_GUESS);
        ledger.charge(&a, SECOND);
        assert_eq!(ledger.expected(&a, 2), 3 * SECOND);
        ledger.charge(&a, Duration::ZERO);
        assert!(ledger.expected(&a, 1) < 2 * SECOND);
    }

    #[test]
    fn a_plugin_that_is_gone_leaves_nothing_behind() {
        let (mut ledger, a) = (Ledger::default(), name("a"));
        ledger.open(&a);
        ledger.forget(&a);
        ledger.charge(&a, SECOND);
        ledger.close(&a);
        assert!(ledger.accounts.is_empty() && ledger.open == 0);
    }
}

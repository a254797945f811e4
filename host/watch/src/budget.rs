//! How much the cache may hold, and who has to wait when it would hold more.
//!
//! A cache that grows until the kernel ends the process takes every plugin down, and again after each
//! start. So bytes are counted as objects come, and the object that would go above the limit is
//! not taken: its kind stops, and of the plugins that use it the one that came last is held. The
//! others go on with what is left. Who is held is told to the host, which stops the plugin before
//! anything of its kinds is let go; it may ask for room again after a pause that grows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use windlass_core::backoff::Backoff;
use windlass_core::code::{Code, Refusal};
use windlass_core::kind::Gvk;
use windlass_core::name::{Digest, PluginName};

/// Pauses before a plugin that was held may ask its kinds to be listed again.
const PAUSES: Backoff = match Backoff::try_new(Duration::from_secs(15), Duration::from_secs(600)) {
    Ok(pauses) => pauses,
    Err(_) => panic!("15 s to 10 min is a valid backoff"),
};
/// Kinds that a message names.
const NAMED: usize = 4;

/// Bytes that all kinds hold together.
pub(crate) type Total = Arc<AtomicUsize>;

/// The limit, and the plugins that wait for room.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: Option<usize>,
    total: Total,
    holds: Mutex<Holds>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Holds {
    by_plugin: BTreeMap<PluginName, Hold>,
    /// Held, and not told to the host yet.
    untold: VecDeque<PluginName>,
}

#[derive(Debug)]
struct Hold {
    refusal: Refusal,
    /// What its own kinds held when there was no more room, at least.
    needs: usize,
    /// How often in a row.
    times: u32,
    until: Instant,
    /// The version that was held, from when it is offered again.
    digest: Option<Digest>,
}

/// What one kind costs: for a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) gvk: Gvk,
    pub(crate) objects: usize,
    pub(crate) bytes: usize,
    /// Whether nobody but the plugin in question needs it.
    pub(crate) own: bool,
}

impl Budget {
    /// At most so many bytes; `None`: as many as there are.
    pub(crate) fn new(limit: Option<usize>) -> Self {
        Self { limit, total: Total::default(), holds: Mutex::default(), news: Notify::new() }
    }

    pub(crate) fn limit(&self) -> Option<usize> {
        self.limit
    }

    /// The counter that each kind counts in.
    pub(crate) fn total(&self) -> &Total {
        &self.total
    }

    /// Whether so many bytes more are too many.
    pub(crate) fn exceeds(&self, more: usize) -> bool {
        self.limit.is_some_and(|limit| self.total.load(Ordering::Relaxed).saturating_add(more) > limit)
    }

    /// There was no room for an object of kind `full`: `plugin` is held.
    pub(crate) fn hold(&self, plugin: &PluginName, full: &Gvk, costs: &[Cost], now: Instant) {
        let refusal = Refusal::new(Code::CacheLimit, self.sentence(full, costs));
        let needs = costs.iter().filter(|cost| cost.own).map(|cost| cost.bytes).sum();
        self.hold_for(plugin, refusal, needs, now);
    }

    /// What `plugin` needs cannot be had, room or not: it is held.
    pub(crate) fn refuse(&self, plugin: &PluginName, refusal: Refusal, now: Instant) {
        self.hold_for(plugin, refusal, 0, now);
    }

    fn hold_for(&self, plugin: &PluginName, refusal: Refusal, needs: usize, now: Instant) {
        let mut holds = self.holds();
        let times = holds.by_plugin.get(plugin).map_or(0, |hold| hold.times) + 1;
        let until = now + PAUSES.pause(times, 1.0);
        let digest = holds.by_plugin.remove(plugin).and_then(|hold| hold.digest);
        holds.by_plugin.insert(plugin.clone(), Hold { refusal, needs, times, until, digest });
        holds.untold.push_back(plugin.clone());
        drop(holds);
        self.news.notify_one();
    }

    /// The next plugin that has to stop, and why.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn held(&self) -> (PluginName, Refusal) {
        loop {
            let told = {
                let mut holds = self.holds();
                let plugin = holds.untold.pop_front();
                plugin.and_then(|name| holds.by_plugin.get(&name).map(|hold| (name, hold.refusal.clone())))
            };
            match told {
                Some(told) => return told,
                None => self.news.notified().await,
            }
        }
    }

    /// Whether a version of a plugin may be taken in.
    ///
    /// # Errors
    /// E180 while there is no room for what this version needed when it was held; E181 for a while after
    /// the API server refused to select by a field that this version names.
    pub(crate) fn room(&self, plugin: &PluginName, digest: &Digest, now: Instant) -> Result<(), Refusal> {
        let mut holds = self.holds();
        let Some(hold) = holds.by_plugin.get_mut(plugin) else {
            return Ok(());
        };
        if hold.digest.get_or_insert_with(|| digest.clone()) != digest {
            // Another component may need other kinds.
            holds.by_plugin.remove(plugin);
            return Ok(());
        }
        if now < hold.until || self.exceeds(hold.needs) { Err(hold.refusal.clone()) } else { Ok(()) }
    }

    /// A plugin has all that it needs, or needs nothing any more.
    pub(crate) fn fits(&self, plugin: &PluginName) {
        self.holds().by_plugin.remove(plugin);
    }

    fn sentence(&self, full: &Gvk, costs: &[Cost]) -> String {
        let mut costs: Vec<&Cost> = costs.iter().collect();
        costs.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.gvk.cmp(&b.gvk)));
        let say = |cost: &&Cost| format!("{} {} in {} objects", cost.gvk, Mib(cost.bytes), cost.objects);
        let who: Vec<String> = costs.iter().take(NAMED).map(say).collect();
        format!(
            "the cache holds {} of at most {}, and there is no room for more objects of {full}; it holds {}. This plugin waits \
             until there is room: raise --cache-limit and the pod's memory limit, let the manifest read by labels, or remove a \
             plugin",
            Mib(self.total.load(Ordering::Relaxed)),
            Mib(self.limit.unwrap_or(usize::MAX)),
            who.join(", "),
        )
    }

    fn holds(&self) -> MutexGuard<'_, Holds> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes as people read them.
struct Mib(usize);

impl std::fmt::Display for Mib {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 < 1 << 20 { write!(f, "{} KiB", self.0 >> 10) } else { write!(f, "{} MiB", self.0 >> 20) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PluginName {
        PluginName::try_new(text).expect("valid")
    }

    fn cost(kind: &str, mib: usize, own: bool) -> Cost {
        Cost { gvk: kind.parse().expect("valid"), objects: 7, bytes: mib << 20, own }
    }

    #[test]
    fn without_a_limit_there_is_always_room() {
        let budget = Budget::new(None);
        assert!(!budget.exceeds(usize::MAX));
        assert_eq!(budget.room(&name("a"), &Digest::of(b"1"), Instant::now()), Ok(()));
    }

    #[test]
    fn what_was_held_waits_for_its_pause_and_for_room_and_another_version_does_not() {
        let budget = Budget::new(Some(64 << 20));
        let (a, one, now) = (name("a"), Digest::of(b"1"), Instant::now());
        let costs = [cost("v1/Secret", 8, false), cost("v1/Pod", 40, true)];
        budget.total().store(60 << 20, Ordering::Relaxed);
        budget.hold(&a, &costs[1].gvk, &costs, now);
        let refusal = budget.room(&a, &one, now).expect_err("held");
        assert_eq!(refusal.code, Code::CacheLimit);
        for found in
            ["60 MiB of at most 64 MiB", "v1/Pod 40 MiB in 7 objects, v1/Secret 8 MiB", "--cache-limit"]
        {
            assert!(refusal.message.contains(found), "{found} is not in {refusal}");
        }
        let later = now + Duration::from_secs(15);
        assert!(budget.room(&a, &one, later).is_err(), "others hold 60, it needs 40");
        budget.total().store(20 << 20, Ordering::Relaxed);
        assert!(budget.room(&a, &one, later - Duration::from_secs(1)).is_err(), "its pause has not ended");
        assert_eq!(budget.room(&a, &one, later), Ok(()));
        budget.hold(&a, &costs[1].gvk, &costs, later);
        assert!(budget.room(&a, &one, later + Duration::from_secs(29)).is_err(), "the pause grows");
        assert_eq!(budget.room(&a, &one, later + Duration::from_secs(30)), Ok(()));
        assert_eq!(budget.room(&a, &Digest::of(b"2"), later), Ok(()));
    }

    #[tokio::test]
    async fn each_hold_is_told_once() {
        let budget = Budget::new(Some(1));
        for plugin in ["a", "b"] {
            budget.hold(&name(plugin), &cost("v1/Pod", 1, true).gvk, &[], Instant::now());
        }
        assert_eq!((budget.held().await.0, budget.held().await.0), (name("a"), name("b")));
        tokio::select! {
            biased;
            told = budget.held() => panic!("{told:?} is told twice"),
            () = std::future::ready(()) => {}
        }
    }
}

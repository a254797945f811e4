//! Plugins that keep failing are left alone: one breaker a plugin, asked before each call and
//! told of each pass. Those that have used up their CPU time are on probation, and what failures cost is
//! bounded.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use windlass_core::breaker::{Before, Breaker, BreakerNow, Rules, Turn, Went};
use windlass_core::claim::BootClock;
use windlass_core::code::Code;
use windlass_core::guests::Called;
use windlass_core::key::Key;
use windlass_core::name::{Digest, PluginName};
use windlass_core::object::hash64;
use windlass_core::pace::Pace;
use windlass_core::ports::CallError;
use windlass_core::probation::{self, Probation};
use windlass_lease::clock::Boottime;
use windlass_reconcile::Finished;

/// A call that has stepped back gets one part in this many of a processor, however busy that is.
const LEAST_SHARE: u32 = 10;

/// What a failed call has cost of a processor when it counts for more than another. More than one that was ended by wall time
/// can be taken to have had.
const DEAR: Duration = Duration::from_millis(250);
/// A call that takes no longer says nothing: some hundred times a usual one.
const PATIENCE: Duration = Duration::from_millis(50);
/// Where calls take long as a rule, so many times the usual one says something.
const USUALS: u32 = 8;

/// The breakers of all plugins that serve.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    rules: Rules,
    wards: Mutex<Wards>,
    turned: Notify,
}

#[derive(Debug, Default)]
struct Wards {
    breakers: BTreeMap<PluginName, Ward>,
    /// What nobody has heard of yet; the newest a plugin.
    turns: BTreeMap<PluginName, (Digest, Turn)>,
}

#[derive(Debug)]
struct Ward {
    digest: Digest,
    breaker: Breaker,
    probation: Probation,
    pace: Pace,
    /// Wall time of good calls of late.
    usual: Duration,
    /// Calls under way that take longer than that.
    long: usize,
}

impl Quarantine {
    /// No plugin yet; each gets a breaker with these rules.
    pub(crate) fn new(rules: Rules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// This component decides for the plugin from now on. Another one than before starts clean;
    /// answers whether it does.
    pub(crate) fn serves(&self, plugin: &PluginName, digest: &Digest) -> bool {
        let mut wards = self.wards();
        let clean = wards.breakers.get(plugin).is_none_or(|ward| ward.digest != *digest);
        if clean {
            wards.turns.remove(plugin);
            let breaker = Breaker::new(self.rules);
            let (probation, pace) = (Probation::default(), Pace::default());
            let (usual, long) = (Duration::ZERO, 0);
            let ward = Ward { digest: digest.clone(), breaker, probation, pace, usual, long };
            wards.breakers.insert(plugin.clone(), ward);
        }
        clean
    }

    /// The plugin is gone.
    pub(crate) fn forget(&self, plugin: &PluginName) {
        let mut wards = self.wards();
        wards.breakers.remove(plugin);
        wards.turns.remove(plugin);
    }

    /// Whether the call that is about to be made for this key may be made. While the plugin is
    /// quarantined this may be the trial; others are told to wait.
    pub(crate) fn before(&self, key: &Key) -> Before {
        let mut wards = self.wards();
        let ward = wards.breakers.get_mut(&key.plugin);
        ward.map_or(Before::Go, |ward| ward.breaker.before(Boottime.now(), hash(key)))
    }

    /// For how long the object of this key has to wait, because of what failures have cost. To be asked
    /// before [`before`](Self::before).
    pub(crate) fn rest(&self, key: &Key) -> Option<Duration> {
        let wards = self.wards();
        let Ward { breaker, pace, .. } = wards.breakers.get(&key.plugin)?;
        pace.rest(Boottime.now(), hash(key), breaker.quarantine().is_some())
    }

    /// Whether there is no reason to think that calls of the plugin end in time: it has used up its time and not
    /// shown better since. One that has shown nothing yet is none: on a busy machine its first calls may take long too.
    pub(crate) fn suspects(&self, plugin: &PluginName) -> bool {
        let wards = self.wards();
        wards.breakers.get(plugin).is_some_and(|ward| ward.probation.is_on())
    }

    /// A call has ended after so long. Answers what that means for the plugin's probation: its other keys need
    /// not wait until the pass has ended too.
    pub(crate) fn called(&self, key: &Key, called: &Called, took: Duration) -> Option<probation::Turn> {
        let mut wards = self.wards();
        let ward = wards.breakers.get_mut(&key.plugin)?;
        match &called.result {
            Err(CallError::Refused(refusal)) => {
                let cost = failure_of(called, took);
                ward.pace.failed(Boottime.now(), hash(key), cost);
                if cost >= DEAR {
                    ward.breaker.was_dear();
                }
                let is_over = refusal.code == Code::Timeout;
                is_over.then(|| ward.probation.after(&Went::Badly(refusal.clone()))).flatten()
            }
            Ok(_) => {
                ward.usual = (ward.usual * 3 + took) / 4;
                ward.pace.well(hash(key));
                None
            }
            Err(CallError::Fault(_) | CallError::NotServing(_) | CallError::Resting(_)) => None,
        }
    }

    /// How long a call of the plugin may take until no other is begun beside it.
    pub(crate) fn patience(&self, plugin: &PluginName) -> Duration {
        let wards = self.wards();
        let usual = wards.breakers.get(plugin).map_or(Duration::ZERO, |ward| ward.usual);
        PATIENCE.max(usual * USUALS)
    }

    /// A call of the plugin takes longer than that.
    pub(crate) fn is_long(&self, plugin: &PluginName) {
        if let Some(ward) = self.wards().breakers.get_mut(plugin) {
            ward.long += 1;
        }
    }

    /// It has ended. Answers whether the plugin may have several calls at a time again.
    pub(crate) fn was_long(&self, plugin: &PluginName) -> bool {
        let mut wards = self.wards();
        let Some(ward) = wards.breakers.get_mut(plugin) else { return true };
        // A component that serves since then begins at nothing.
        ward.long = ward.long.saturating_sub(1);
        ward.long == 0 && !ward.probation.is_on()
    }

    /// A pass has ended. Answers what that means for the plugin's probation.
    pub(crate) fn finished(&self, pass: &Finished<'_>) -> Option<probation::Turn> {
        let went = Went::of(pass.outcome, pass.decided.is_some());
        if went == Went::Neither {
            return None;
        }
        let mut wards = self.wards();
        let plugin = &pass.key.plugin;
        let ward = wards.breakers.get_mut(plugin)?;
        let turned = ward.probation.after(&went);
        if let Some(turn) = ward.breaker.after(Boottime.now(), hash(pass.key), went) {
            let digest = ward.digest.clone();
            wards.turns.insert(plugin.clone(), (digest, turn));
            self.turned.notify_one();
        }
        turned
    }

    /// Resolves when there are [`turns`](Self::turns). For one caller.
    pub(crate) async fn turned(&self) {
        self.turned.notified().await;
    }

    /// What has become of plugins, each told once.
    pub(crate) fn turns(&self) -> Vec<(PluginName, Digest, Turn)> {
        let turns = std::mem::take(&mut self.wards().turns);
        turns.into_iter().map(|(plugin, (digest, turn))| (plugin, digest, turn)).collect()
    }

    /// A plugin's breaker in numbers.
    pub(crate) fn read(&self, plugin: &PluginName) -> BreakerNow {
        let wards = self.wards();
        wards.breakers.get(plugin).map_or_else(|| Breaker::default().read(), |ward| ward.breaker.read())
    }

    fn wards(&self) -> MutexGuard<'_, Wards> {
        // Nothing in here panics half way through a change.
        self.wards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a call has cost of a processor, if it has failed.
pub(crate) fn failure_of(called: &Called, took: Duration) -> Duration {
    match &called.result {
        Err(CallError::Refused(refusal)) => cost(refusal.code, called.used.cpu, took),
        _ => Duration::ZERO,
    }
}

/// What a failed call has cost of a processor.
fn cost(code: Code, cpu: Duration, took: Duration) -> Duration {
    match code {
        // Without a worker nobody was asked; what is too large was not handed over.
        Code::WorkerMissing | Code::InputTooLarge => Duration::ZERO,
        // Nobody was left to say how much it was, and a process has to be started again.
        Code::WorkerUnresponsive | Code::WorkerDied => took,
        // One that was not waited for any longer had at least its share behind all others.
        Code::Timeout => cpu.max(took / LEAST_SHARE),
        _ => cpu,
    }
}

/// Tells objects of one plugin apart, well enough.
fn hash(key: &Key) -> u64 {
    hash64(key.primary().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_core::class::Class;
    use windlass_core::code::Refusal;
    use windlass_core::guests::Used;
    use windlass_core::outcome::{Failure, Outcome};

    fn name() -> PluginName {
        PluginName::try_new("p").expect("valid")
    }

    fn key() -> Key {
        Key::new(name(), "ns", "a")
    }

    fn pass(quarantine: &Quarantine, outcome: &Outcome) {
        let key = key();
        let took = Duration::from_millis(1);
        let (decided, warnings) = (Some(took), &[][..]);
        quarantine.finished(&Finished {
            key: &key,
            outcome,
            standby: false,
            skipped: false,
            took,
            decided,
            warnings,
        });
    }

    #[test]
    fn a_plugin_that_traps_five_times_is_kept_away_until_another_component_serves() {
        let quarantine = Quarantine::default();
        let message = "E201 Trap: unreachable".to_owned();
        let trap = Outcome::Failed(Failure { class: Class::Guest, code: Some(Code::Trap), message });
        assert!(quarantine.serves(&name(), &Digest::of(b"1")));
        for _ in 0..5 {
            assert_eq!(quarantine.before(&key()), Before::Go);
            pass(&quarantine, &trap);
        }
        assert!(matches!(quarantine.before(&key()), Before::Wait(_)));
        let turns = quarantine.turns();
        assert!(matches!(&turns[..], [(_, digest, Turn::Quarantined(_))] if *digest == Digest::of(b"1")));
        assert!(quarantine.turns().is_empty(), "told once");
        assert!(!quarantine.serves(&name(), &Digest::of(b"1")));
        assert!(matches!(quarantine.before(&key()), Before::Wait(_)), "it is the same component");
        assert!(quarantine.serves(&name(), &Digest::of(b"2")));
        assert_eq!(quarantine.before(&key()), Before::Go);
    }

    #[test]
    fn what_loops_again_and_again_waits_and_other_objects_do_not() {
        let quarantine = Quarantine::default();
        quarantine.serves(&name(), &Digest::of(b"1"));
        let second = Duration::from_secs(1);
        let late = || {
            let called = Called::failed(CallError::Refused(Refusal::new(Code::Timeout, "1 s of CPU time")));
            quarantine.called(
                &key(),
                &Called { used: Used { cpu: second, ..Used::default() }, ..called },
                second,
            )
        };
        assert_eq!(late(), Some(probation::Turn::Begun), "before its pass has ended");
        assert!(quarantine.suspects(&name()));
        late();
        assert_eq!(quarantine.rest(&key()), None);
        late();
        let rest = quarantine.rest(&key()).expect("it has cost three seconds");
        assert!((Duration::from_secs(15)..Duration::from_secs(21)).contains(&rest), "{rest:?}");
        assert_eq!(quarantine.rest(&Key::new(name(), "ns", "b")), None);
        assert!(quarantine.serves(&name(), &Digest::of(b"2")));
        assert_eq!(quarantine.rest(&key()), None, "another component has cost nothing");
    }

    #[test]
    fn calls_that_nobody_lived_to_measure_cost_what_they_took() {
        let (cpu, took) = (Duration::from_millis(1), Duration::from_secs(2));
        for (code, expected) in [
            (Code::Trap, cpu),
            (Code::MemoryLimit, cpu),
            (Code::WorkerUnresponsive, took),
            (Code::WorkerDied, took),
            (Code::Timeout, took / 10),
            (Code::WorkerMissing, Duration::ZERO),
        ] {
            assert_eq!(cost(code, cpu, took), expected, "{code}");
        }
    }
}

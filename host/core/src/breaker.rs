//! The breaker: when a plugin that keeps failing is left alone, and when it is tried again.
//!
//! A value over values: it knows no clock and calls nobody. One breaker is for one plugin, not
//! for one object: an object that its plugin cannot handle has a pause of its own, while every
//! call that goes well shows that the plugin as such works. So one object alone cannot
//! quarantine a plugin that has ever worked, and while one is quarantined, objects that it has
//! not failed on are tried ahead of time: whoever made the bad ones does not stop everybody.
//! What is counted is a pass, not a call: an answer that the host throws away as nonsense is
//! no good answer.

use std::time::Duration;

use serde::Serialize;

use crate::claim::BootTime;
use crate::class::Class;
use crate::code::{Code, Refusal};
use crate::outcome::{Failure, Outcome};

/// When a plugin is left alone, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Faults in a row that quarantine it. Default 5.
    pub faults: u32,
    /// The first quarantine; each further one without a good call between is twice as long. Default 1 min.
    pub first: Duration,
    /// The longest quarantine. Default 1 h.
    pub most: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self { faults: 5, first: Duration::from_secs(60), most: Duration::from_secs(60 * 60) }
    }
}

/// For how long a plugin may answer nothing but faults of its own before these count: a key's own
/// pauses have grown to five minutes by then.
pub const SAYS_NO_FOR: Duration = Duration::from_secs(5 * 60);
/// How long a trial call keeps the others out; after that it is taken for lost.
pub const TRIAL_MOST: Duration = Duration::from_secs(10);
/// A fault that was [dear](Breaker::was_dear) counts as so many: it has cost what thousands of traps cost.
pub const DEAR_WEIGHT: u32 = 2;
/// Objects on which a plugin may fail before a quarantine holds for the rest too.
pub const FAILED_MAX: usize = 16;

/// What a pass says of its plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Went {
    /// It decided, and what it decided could be planned.
    Well,
    /// It broke a rule: trap, deadline, memory, nonsense. It counts.
    Badly(Refusal),
    /// It answered with a fault of its own. Counts once it has answered nothing else for
    /// [`SAYS_NO_FOR`].
    SaidNo(Refusal),
    /// Nothing: it was not asked, or the failure is somebody else's.
    Neither,
}

impl Went {
    /// What the outcome of a pass says; `asked`: whether the plugin was called at all.
    pub fn of(outcome: &Outcome, asked: bool) -> Self {
        match outcome {
            _ if !asked => Went::Neither,
            Outcome::Converged { .. } | Outcome::Overtaken { .. } | Outcome::Planned { .. } => Went::Well,
            Outcome::Gone | Outcome::Waiting => Went::Neither,
            Outcome::Failed(failure) => Self::of_failure(failure),
        }
    }

    fn of_failure(Failure { class, code, message }: &Failure) -> Self {
        let Some(code) = *code else {
            return Went::Neither;
        };
        // The sentence begins with the code, which the refusal says again.
        let text = message.strip_prefix(&format!("{code}: ")).unwrap_or(message);
        let refusal = Refusal { code, message: text.to_owned() };
        match (class, code) {
            // Too much to hand over is the objects' doing; a write loop has a breaker of its own;
            // without a worker nobody was asked.
            (_, Code::InputTooLarge | Code::WriteLoop | Code::WorkerMissing) => Went::Neither,
            (_, Code::PluginError) => Went::SaidNo(refusal),
            (Class::Guest, code) if (200..300).contains(&(code as u16)) => Went::Badly(refusal),
            _ => Went::Neither,
        }
    }
}

/// Whether a plugin may be called now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Call it.
    Go,
    /// It is quarantined; ask again then.
    Wait(BootTime),
}

/// Why and for how long a plugin is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// Since when.
    pub since: BootTime,
    /// When one call is tried.
    pub until: BootTime,
    /// How many quarantines in a row this is, from 1.
    pub times: u32,
    /// The last fault.
    pub refusal: Refusal,
}

/// What [`Breaker::after`] has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// From now on the plugin is left alone, or for longer.
    Quarantined(Quarantine),
    /// A trial went well: it may be called again.
    Released,
    /// A trial ahead of time went badly: another object may be tried.
    Next,
}

/// One plugin's breaker. Starts clean, and a new digest gets a new one.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    rules: Rules,
    /// Faults since the last good call.
    faults: u32,
    /// Objects on which it failed since then, as hashes of their keys; at most [`FAILED_MAX`].
    failed: Vec<u64>,
    /// The object of the last fault.
    last: Option<u64>,
    /// Since when the plugin has given no good answer but said no.
    says_no_since: Option<BootTime>,
    /// Quarantines since the last good call.
    times: u32,
    good: u64,
    /// Whether the next fault counts for more.
    is_dear: bool,
    state: State,
}

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Closed,
    Open(Quarantine),
    /// One call has been let through.
    Trial(Trial),
}

#[derive(Clone, Debug)]
struct Trial {
    quarantine: Quarantine,
    /// For which object.
    key: u64,
    /// The quarantine has not run out yet.
    early: bool,
    /// When its answer is not waited for any more.
    lost: BootTime,
}

/// A breaker in numbers, for the debug view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BreakerNow {
    /// Faults in a row.
    pub faults: u32,
    /// Quarantines in a row.
    pub quarantines: u32,
    /// Good passes since it started clean.
    pub good: u64,
}

impl Breaker {
    /// A clean one that quarantines as `rules` say.
    pub fn new(rules: Rules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// Whether the plugin may be called for the object whose key has this hash. While it is
    /// quarantined one call at a time is let through: when the time has come, or ahead of it for
    /// an object on which it has not failed. The rest is told to wait.
    pub fn before(&mut self, now: BootTime, key: u64) -> Before {
        let quarantine = match &self.state {
            State::Closed => return Before::Go,
            State::Trial(trial) if now < trial.lost => return Before::Wait(trial.lost),
            State::Trial(Trial { quarantine, .. }) | State::Open(quarantine) => quarantine.clone(),
        };
        let early = now < quarantine.until;
        if early && (self.failed.len() >= FAILED_MAX || self.failed.contains(&key)) {
            return Before::Wait(quarantine.until);
        }
        self.state = State::Trial(Trial { quarantine, key, early, lost: now.plus(TRIAL_MOST) });
        Before::Go
    }

    /// The call of a pass whose end comes next has used much of a processor for nothing. Not said of one that was ended by wall
    /// time because others were busy.
    pub fn was_dear(&mut self) {
        self.is_dear = true;
    }

    /// Takes what a pass for the object whose key has this hash came to. While the plugin is
    /// quarantined only the trial counts: passes that were under way when it began change nothing.
    pub fn after(&mut self, now: BootTime, key: u64, went: Went) -> Option<Turn> {
        match &self.state {
            State::Open(_) => {
                self.failed_on(key, &went);
                return None;
            }
            State::Trial(trial) if trial.key != key => {
                self.failed_on(key, &went);
                return None;
            }
            State::Trial(_) | State::Closed => {}
        }
        let trial = matches!(self.state, State::Trial(_));
        match went {
            Went::Neither => None,
            Went::Well => self.well(),
            Went::Badly(refusal) => self.fault(now, key, refusal),
            Went::SaidNo(refusal) => {
                let since = *self.says_no_since.get_or_insert(now);
                let counts = trial || now.since(since) >= SAYS_NO_FOR;
                if counts { self.fault(now, key, refusal) } else { None }
            }
        }
    }

    /// Why the plugin is left alone, while it is: a trial under way included.
    pub fn quarantine(&self) -> Option<&Quarantine> {
        match &self.state {
            State::Closed => None,
            State::Open(quarantine) | State::Trial(Trial { quarantine, .. }) => Some(quarantine),
        }
    }

    /// The breaker in numbers.
    pub fn read(&self) -> BreakerNow {
        BreakerNow { faults: self.faults, quarantines: self.times, good: self.good }
    }

    fn well(&mut self) -> Option<Turn> {
        let released = self.quarantine().is_some();
        *self = Self { good: self.good.saturating_add(1), ..Self::new(self.rules) };
        released.then_some(Turn::Released)
    }

    fn failed_on(&mut self, key: u64, went: &Went) {
        let badly = matches!(went, Went::Badly(_) | Went::SaidNo(_));
        if badly && self.failed.len() < FAILED_MAX && !self.failed.contains(&key) {
            self.failed.push(key);
        }
    }

    fn fault(&mut self, now: BootTime, key: u64, refusal: Refusal) -> Option<Turn> {
        // One object that fails again and again says nothing of a plugin that works for others.
        let again = self.last.replace(key) == Some(key);
        let weight = if std::mem::take(&mut self.is_dear) { DEAR_WEIGHT } else { 1 };
        let once = again && self.good > 0;
        self.faults = if once { self.faults.max(1) } else { self.faults.saturating_add(weight) };
        self.failed_on(key, &Went::Badly(refusal.clone()));
        let since = match &self.state {
            State::Closed if self.faults < self.rules.faults => return None,
            State::Closed => now,
            State::Trial(trial) if trial.early => {
                self.state = State::Open(trial.quarantine.clone());
                return Some(Turn::Next);
            }
            State::Open(quarantine) | State::Trial(Trial { quarantine, .. }) => quarantine.since,
        };
        self.times = self.times.saturating_add(1);
        let doublings = (self.times - 1).min(16);
        let pause = self.rules.first.saturating_mul(1 << doublings).min(self.rules.most);
        let quarantine = Quarantine { since, until: now.plus(pause), times: self.times, refusal };
        self.state = State::Open(quarantine.clone());
        Some(Turn::Quarantined(quarantine))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60;

    fn at(seconds: u64) -> BootTime {
        BootTime(0).plus(Duration::from_secs(seconds))
    }

    fn badly() -> Went {
        Went::Badly(Refusal::new(Code::Trap, "unreachable"))
    }

    fn said_no() -> Went {
        Went::SaidNo(Refusal::new(Code::PluginError, "no"))
    }

    /// Five faults, one a second from `from`.
    fn broken(from: u64) -> Breaker {
        let mut breaker = Breaker::default();
        for second in from..from + 5 {
            assert_eq!(breaker.before(at(second), 1), Before::Go);
            breaker.after(at(second), 1, badly());
        }
        breaker
    }

    #[test]
    fn five_faults_in_a_row_quarantine_and_four_do_not() {
        let mut breaker = Breaker::default();
        for second in 0..4 {
            assert_eq!(breaker.after(at(second), 1, badly()), None);
            assert_eq!(breaker.before(at(second), 1), Before::Go);
        }
        let turn = breaker.after(at(4), 1, badly());
        let Some(Turn::Quarantined(quarantine)) = turn else { panic!("{turn:?}") };
        assert_eq!((quarantine.since, quarantine.until, quarantine.times), (at(4), at(64), 1));
        assert_eq!(quarantine.refusal.code, Code::Trap);
        assert_eq!(breaker.before(at(63), 1), Before::Wait(at(64)));
    }

    #[test]
    fn the_rules_say_how_many_faults_and_for_how_long_also_after_a_good_call() {
        let seconds = Duration::from_secs;
        let mut breaker = Breaker::new(Rules { faults: 2, first: seconds(3), most: seconds(5) });
        for begin in [0, 100] {
            assert_eq!(breaker.after(at(begin), 1, badly()), None);
            assert!(
                matches!(breaker.after(at(begin), 2, badly()), Some(Turn::Quarantined(q)) if q.until == at(begin + 3))
            );
            assert_eq!(breaker.before(at(begin + 3), 1), Before::Go);
            let longer = breaker.after(at(begin + 3), 1, badly());
            assert!(
                matches!(longer, Some(Turn::Quarantined(q)) if q.until == at(begin + 8)),
                "not 6 seconds"
            );
            assert_eq!(breaker.before(at(begin + 8), 1), Before::Go);
            assert_eq!(breaker.after(at(begin + 8), 1, Went::Well), Some(Turn::Released));
        }
    }

    #[test]
    fn a_good_call_resets_the_count() {
        let mut breaker = Breaker::default();
        for second in 0..100 {
            let went = if second % 5 == 4 { Went::Well } else { badly() };
            assert_eq!(breaker.after(at(second), second, went), None);
        }
        assert_eq!(breaker.read(), BreakerNow { faults: 0, quarantines: 0, good: 20 });
    }

    #[test]
    fn three_faults_that_were_dear_are_enough() {
        let mut breaker = Breaker::default();
        let mut dear = |second| {
            breaker.was_dear();
            breaker.after(at(second), second, badly())
        };
        assert_eq!((dear(0), dear(1)), (None, None));
        assert!(matches!(dear(2), Some(Turn::Quarantined(_))));
    }

    #[test]
    fn one_object_alone_does_not_quarantine_a_plugin_that_works() {
        let mut breaker = Breaker::default();
        breaker.after(at(0), 1, Went::Well);
        for second in 1..1000 {
            assert_eq!(breaker.after(at(second), 2, badly()), None);
        }
        for second in 1000..1003 {
            assert_eq!(breaker.after(at(second), second, badly()), None);
        }
        assert!(breaker.after(at(1003), 2, badly()).is_some(), "five in a row on more than one");
    }

    #[test]
    fn objects_that_it_has_not_failed_on_are_tried_ahead_of_time() {
        let mut breaker = broken(0);
        assert_eq!(breaker.before(at(10), 1), Before::Wait(at(64)), "it failed on this one");
        assert_eq!(breaker.before(at(10), 2), Before::Go);
        assert_eq!(breaker.before(at(10), 3), Before::Wait(at(20)), "one at a time");
        assert_eq!(breaker.after(at(10), 1, badly()), None, "a late one is not the trial");
        assert_eq!(breaker.after(at(11), 2, badly()), Some(Turn::Next));
        assert_eq!(breaker.quarantine().expect("still").until, at(64), "no longer for it");
        assert_eq!(breaker.before(at(12), 2), Before::Wait(at(64)));
        assert_eq!(breaker.before(at(12), 3), Before::Go);
        assert_eq!(breaker.after(at(12), 3, Went::Well), Some(Turn::Released));
        assert_eq!(breaker.before(at(12), 1), Before::Go);
    }

    #[test]
    fn trials_ahead_of_time_come_to_an_end() {
        let mut breaker = broken(0);
        let mut tried = 0;
        for key in 0..1000 {
            if breaker.before(at(10), key) == Before::Go {
                tried += 1;
                breaker.after(at(10), key, badly());
            }
        }
        assert_eq!(tried, FAILED_MAX - 1);
    }

    #[test]
    fn one_trial_call_at_a_time_and_pauses_double_up_to_an_hour() {
        let mut breaker = broken(0);
        let mut pauses = Vec::new();
        let mut began = at(4);
        for _ in 0..9 {
            let until = breaker.quarantine().expect("quarantined").until;
            pauses.push(until.since(began).as_secs() / MINUTE);
            assert_eq!(breaker.before(until, 1), Before::Go, "one trial");
            assert_eq!(breaker.before(until, 1), Before::Wait(until.plus(TRIAL_MOST)), "and no other");
            began = until.plus(Duration::from_secs(1));
            assert!(matches!(breaker.after(began, 1, badly()), Some(Turn::Quarantined(_))));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(breaker.quarantine().expect("quarantined").since, at(4), "it is one quarantine");
    }

    #[test]
    fn a_trial_that_goes_well_releases_and_the_next_pause_is_the_first_again() {
        let mut breaker = broken(0);
        assert_eq!(breaker.before(at(64), 1), Before::Go);
        assert_eq!(breaker.after(at(64), 1, Went::Well), Some(Turn::Released));
        assert_eq!(breaker.before(at(64), 1), Before::Go);
        for second in 65..69 {
            assert_eq!(breaker.after(at(second), second, badly()), None);
        }
        let Some(Turn::Quarantined(again)) = breaker.after(at(69), 69, badly()) else { panic!("the fifth") };
        assert_eq!((again.until, again.times), (at(129), 1));
    }

    #[test]
    fn what_ends_after_the_quarantine_began_changes_nothing() {
        let mut breaker = broken(0);
        let until = breaker.quarantine().expect("quarantined").until;
        for went in [badly(), Went::Well, said_no(), Went::Neither] {
            assert_eq!(breaker.after(at(5), 1, went), None);
        }
        assert_eq!(breaker.quarantine().expect("still").until, until);
    }

    #[test]
    fn a_trial_that_is_never_answered_is_not_the_last() {
        let mut breaker = broken(0);
        assert_eq!(breaker.before(at(64), 1), Before::Go);
        assert!(matches!(breaker.before(at(65), 1), Before::Wait(_)));
        assert_eq!(breaker.after(at(65), 1, Went::Neither), None, "no verdict on the plugin");
        assert_eq!(breaker.before(at(74), 1), Before::Go);
    }

    #[test]
    fn a_plugin_that_says_no_is_quarantined_when_it_has_said_nothing_else_for_five_minutes() {
        let mut breaker = Breaker::default();
        for second in 0..300 {
            assert_eq!(breaker.after(at(second), 1, said_no()), None);
        }
        for second in 300..304 {
            assert_eq!(breaker.after(at(second), 1, said_no()), None);
        }
        assert!(matches!(breaker.after(at(304), 1, said_no()), Some(Turn::Quarantined(_))));
        assert_eq!(breaker.before(at(364), 1), Before::Go);
        let Some(Turn::Quarantined(second)) = breaker.after(at(364), 1, said_no()) else {
            panic!("no again")
        };
        assert_eq!(second.times, 2);

        let mut mixed = Breaker::default();
        for second in 0..3000 {
            let went = if second % 200 == 0 { Went::Well } else { said_no() };
            assert_eq!(mixed.after(at(second), 1, went), None);
        }
    }

    #[test]
    fn only_what_the_plugin_did_counts() {
        let failed = |class, code| {
            Went::of(&Outcome::Failed(Failure { class, code, message: "E201 Trap: text".into() }), true)
        };
        assert_eq!(failed(Class::Guest, Some(Code::Trap)), Went::Badly(Refusal::new(Code::Trap, "text")));
        for code in [
            Code::Timeout,
            Code::WorkerUnresponsive,
            Code::WorkerDied,
            Code::InvalidJson,
            Code::KindNotAllowed,
        ] {
            assert!(matches!(failed(Class::Guest, Some(code)), Went::Badly(_)), "{code}");
        }
        assert!(matches!(failed(Class::Permanent, Some(Code::PluginError)), Went::SaidNo(_)));
        for (class, code) in [
            (Class::Transient, None),
            (Class::Conflict, None),
            (Class::Fatal, None),
            (Class::Permanent, Some(Code::NotOwner)),
            (Class::Transient, Some(Code::WorkerDied)),
            (Class::Guest, Some(Code::InputTooLarge)),
            (Class::Guest, Some(Code::WriteLoop)),
            (Class::Guest, Some(Code::WorkerMissing)),
        ] {
            assert_eq!(failed(class, code), Went::Neither, "{class:?} {code:?}");
        }
        let converged = Outcome::Converged { writes: 0, requeue_after: None };
        assert_eq!(Went::of(&converged, true), Went::Well);
        assert_eq!(Went::of(&converged, false), Went::Neither, "it was not asked");
        assert_eq!(Went::of(&Outcome::Waiting, true), Went::Neither);
    }
}

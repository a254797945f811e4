//! Who hears of a pass: the log, and whoever describes the primary.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};
use windlass_core::claim::BootClock;
use windlass_core::class::Class;
use windlass_core::code::printable;
use windlass_core::decision::{Notice, Severity};
use windlass_core::name::{Digest, PluginName};
use windlass_core::outcome::{Failure, Outcome};
use windlass_core::ports::{Apply, Cache, Decide};

use crate::pass::Attempt;
use crate::run::Reconciler;

/// Failures in a row after which something that may pass by itself is published.
const PERSISTENT: u32 = 5;
/// Bytes of a notice's message that are ours to fill; 1,024 is the bound.
const MESSAGE_BYTES: usize = 1_000;
/// WARN lines about one plugin in one [`WINDOW`]; further ones are DEBUG.
const LINES: u32 = 20;
/// See [`LINES`].
const WINDOW: Duration = Duration::from_secs(10);

/// How many WARN lines each plugin still has, so that one with ten thousand failing
/// objects does not drown the rest. Holds one entry a plugin that ever failed.
#[derive(Debug, Default)]
pub(crate) struct Quota {
    used: HashMap<PluginName, (Instant, u32)>,
}

impl<C: Cache, D: Decide, A: Apply, K: BootClock> Reconciler<C, D, A, K> {
    /// Logs the pass and publishes what is to be said about its primary.
    /// A standby's passes are for those alone who debug it: the leader's say the same.
    pub(crate) async fn report(&self, pass: &mut Attempt, outcome: &Outcome, pause: Duration) {
        if pass.standby {
            debug!(?outcome, "a standby's pass");
            return;
        }
        match outcome {
            Outcome::Failed(failure) => self.failed(pass, failure, pause),
            Outcome::Gone
            | Outcome::Converged { .. }
            | Outcome::Overtaken { .. }
            | Outcome::Planned { .. }
            | Outcome::Waiting => debug!(?outcome, "pass"),
        }
        let (Some((target, _)), Some(claim)) = (&pass.subject, &pass.claim) else {
            return;
        };
        for notice in &pass.notices {
            self.ports.apply.notify(target, notice, claim).await;
        }
    }

    fn failed(&self, pass: &mut Attempt, failure: &Failure, pause: Duration) {
        let failures = pass.failures.saturating_add(1);
        self.log(pass, failure, failures, pause);
        let Some((_, digest)) = &pass.subject else {
            return;
        };
        let known = &failure.message;
        if is_published(failure, failures) && self.traces().tells(&pass.key, known, failures, Instant::now())
        {
            let message = message(&pass.key.plugin, digest, failure, pause);
            let reason = "PassFailed".to_owned();
            pass.notices.push(Notice { severity: Severity::Warning, reason, message });
        }
    }

    fn log(&self, pass: &Attempt, failure: &Failure, failures: u32, pause: Duration) {
        let (class, message, next) = (failure.class.as_str(), &*failure.message, human(pause));
        if is_warned(failure, failures) && self.has_quota(&pass.key.plugin) {
            warn!(class, failures, next, "the pass failed: {message}");
        } else {
            debug!(class, failures, next, "the pass failed: {message}");
        }
    }

    fn has_quota(&self, plugin: &PluginName) -> bool {
        let mut quota = self.quota.lock().unwrap_or_else(PoisonError::into_inner);
        quota.take(plugin, Instant::now())
    }
}

impl Quota {
    fn take(&mut self, plugin: &PluginName, now: Instant) -> bool {
        let (since, used) = self.used.entry(plugin.clone()).or_insert((now, 0));
        if now.duration_since(*since) >= WINDOW {
            (*since, *used) = (now, 0);
        }
        *used += 1;
        *used <= LINES
    }
}

/// Whether the owner of the object, or the author of the plugin, has to hear of it.
fn is_published(failure: &Failure, failures: u32) -> bool {
    match failure.class {
        Class::Guest | Class::Permanent => true,
        Class::Transient => failure.code.is_some() || failures >= PERSISTENT,
        Class::Conflict | Class::Fatal => false,
    }
}

/// Whether it is worth a line at WARN: ever more rarely. Conflicts are everyday
/// until they persist, and a lost claim is reported by the elector.
fn is_warned(failure: &Failure, failures: u32) -> bool {
    match failure.class {
        Class::Guest | Class::Permanent | Class::Transient => failures.is_power_of_two(),
        Class::Conflict => failures >= PERSISTENT && failures.is_power_of_two(),
        Class::Fatal => false,
    }
}

/// `webapp@3fd2a6b1: E230 KindNotAllowed: … Next try in 40 s.`
fn message(plugin: &PluginName, digest: &Digest, failure: &Failure, pause: Duration) -> String {
    let digest: String = digest.short().chars().take(8).collect();
    let said = printable(failure.message.trim_end_matches('.'), MESSAGE_BYTES - 150);
    printable(&format!("{plugin}@{digest}: {said}. Next try in {}.", human(pause)), MESSAGE_BYTES)
}

/// A pause as people say it.
fn human(pause: Duration) -> String {
    match pause.as_millis() {
        ms @ ..1_000 => format!("{ms} ms"),
        ms @ 1_000..100_000 => format!("{} s", ms.div_ceil(1_000)),
        ms => format!("{} min", ms.div_ceil(60_000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_core::code::{Code, Refusal};

    fn plugin() -> PluginName {
        PluginName::try_new("webapp").expect("valid")
    }

    fn failure(class: Class, code: Option<Code>) -> Failure {
        Failure { class, code, message: "m".into() }
    }

    #[test]
    fn an_event_says_who_what_and_when_next() {
        let refusal = Refusal::new(Code::KindNotAllowed, "v1/Secret is not among its children");
        let failure = Failure { message: refusal.to_string(), ..failure(Class::Guest, Some(refusal.code)) };
        assert_eq!(
            message(&plugin(), &Digest::of(b""), &failure, Duration::from_millis(39_500)),
            "webapp@e3b0c442: E230 KindNotAllowed: v1/Secret is not among its children. Next try in 40 s."
        );
        let failure = Failure { message: "x".repeat(5000), ..failure };
        assert!(message(&plugin(), &Digest::of(b""), &failure, Duration::ZERO).len() <= 1024);
    }

    #[test]
    fn people_hear_of_what_they_can_mend() {
        for class in [Class::Guest, Class::Permanent] {
            assert!(is_published(&failure(class, None), 1));
        }
        assert!(!is_published(&failure(Class::Transient, None), 4));
        assert!(is_published(&failure(Class::Transient, None), 5));
        assert!(is_published(&failure(Class::Transient, Some(Code::NotOwner)), 1));
        for class in [Class::Conflict, Class::Fatal] {
            assert!(!is_published(&failure(class, Some(Code::NotOwner)), 100));
        }
    }

    #[test]
    fn a_plugin_that_always_fails_does_not_drown_the_log() {
        let (mut quota, now) = (Quota::default(), Instant::now());
        let lines = (0..1000).filter(|_| quota.take(&plugin(), now)).count();
        assert_eq!(lines, LINES as usize);
        assert!(quota.take(&plugin(), now + WINDOW));
    }

    #[test]
    fn pauses_are_readable() {
        for (ms, text) in [(80, "80 ms"), (1_000, "1 s"), (39_001, "40 s"), (150_000, "3 min")] {
            assert_eq!(human(Duration::from_millis(ms)), text);
        }
    }
}

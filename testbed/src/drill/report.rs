//! A drill in numbers.

use std::time::Instant;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::disturbance::Disturbance;
use super::subject::{Subject, Work};
use super::watcher::Seen;
use crate::audit::{Audit, Mark};
use crate::checker::Verdict;
use crate::nemesis::settle::Settled;
use crate::nemesis::stage::now_us;

/// One disturbance and what followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// What happened.
    pub disturbance: Disturbance,
    /// The longest time without an effect (a committed write of a plugin) from the moment that it happened. Unit: milliseconds.
    pub gap_ms: u64,
    /// The fewest replicas that were ready and not on their way out.
    pub fewest_ready: usize,
    /// The longest time for which the claim named no pod that is there. Unit: milliseconds.
    pub leaderless_ms: u64,
    /// Writes of plugins that the API server refused: the fence's work.
    pub refused: u64,
    /// Effects that were counted.
    pub effects: u64,
    /// The most memory that a replica ever had, where that was asked. Unit: MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_mib: Option<u64>,
    /// Until everything was as it was wanted, after the load had ended. Unit: milliseconds.
    pub converged_ms: Option<u64>,
    /// Broken promises.
    pub problems: Vec<String>,
    #[serde(skip)]
    struck: Option<(Instant, i64)>,
    /// Until when there was something to do. Unit: microseconds since 1970.
    #[serde(skip)]
    loaded_until_us: i64,
}

impl Round {
    pub(super) fn new(disturbance: Disturbance) -> Self {
        Self {
            disturbance,
            gap_ms: 0,
            fewest_ready: 0,
            leaderless_ms: 0,
            refused: 0,
            effects: 0,
            peak_mib: None,
            converged_ms: None,
            problems: Vec::new(),
            struck: None,
            loaded_until_us: 0,
        }
    }

    /// It happens now.
    pub(super) fn begin(&mut self) {
        self.struck = Some((Instant::now(), now_us()));
    }

    /// Since it happened.
    pub(super) fn elapsed(&self) -> std::time::Duration {
        self.struck.map_or_else(Default::default, |(at, _)| at.elapsed())
    }

    pub(super) fn seen(&mut self, seen: Seen) {
        self.loaded_until_us = now_us();
        (self.fewest_ready, self.leaderless_ms) = (seen.fewest_ready, seen.leaderless_ms);
        let least = self.disturbance.least_ready();
        if seen.fewest_ready < least {
            self.problems
                .push(format!("only {} replicas were ready at one moment, not {least}", seen.fewest_ready));
        }
        if seen.looks == 0 {
            self.problems.push("nobody saw the replicas".to_owned());
        }
    }

    pub(super) fn settled(&mut self, settled: Settled) {
        self.converged_ms = settled.converged_ms;
        self.problems.extend(settled.problems);
    }

    /// Reads from the audit log how long nothing was written.
    pub(super) fn measure(
        &mut self,
        audit: &Audit,
        mark: Mark,
        subject: &Subject,
        work: &Work,
        namespace: &str,
    ) -> Result<()> {
        let mut effects: Vec<i64> = Vec::new();
        audit.each(mark, |event| {
            if !event.is_complete()
                || !event.is_write()
                || !event.acting_user().username.starts_with(&subject.account)
            {
                return;
            }
            self.refused += u64::from(event.code() == 403);
            let object = event.object_ref.as_ref();
            let counts = match work {
                // Not what is done for a crowd beside it.
                Work::Widgets => object.is_some_and(|object| object.namespace == namespace),
                // A change of a WebApp asks for an Ingress; everybody has a status of his own.
                Work::WebApps(_) => object.is_some_and(|object| object.resource == "ingresses"),
            };
            let at = event.stage_timestamp.parse::<jiff::Timestamp>();
            effects
                .extend(at.ok().filter(|_| counts && event.succeeded()).map(jiff::Timestamp::as_microsecond));
        })?;
        self.effects = effects.len() as u64;
        let (_, struck_us) = self.struck.unwrap_or((Instant::now(), 0));
        self.gap_ms = longest_pause(effects, struck_us, self.loaded_until_us);
        let longest = self.disturbance.longest_gap_ms();
        if self.gap_ms > longest {
            self.problems.push(format!("nothing was written for {} ms, more than {longest}", self.gap_ms));
        }
        if self.effects < 20 {
            self.problems.push(format!("only {} effects: the load did not reach the host", self.effects));
        }
        Ok(())
    }
}

/// The longest time without one of `effects` that ended after `struck` and began before `loaded_until`; both and the effects are in
/// microseconds since 1970. Unit of what comes back: milliseconds.
fn longest_pause(mut effects: Vec<i64>, struck: i64, loaded_until: i64) -> u64 {
    // What comes later is the rest of what the load has left, each at its own time.
    effects.retain(|at| *at <= loaded_until);
    effects.sort_unstable();
    // Who writes nothing any more has the longest pause of all.
    effects.push(loaded_until);
    let pauses = effects.windows(2).filter(|pair| pair[1] > struck).map(|pair| pair[1] - pair[0]);
    u64::try_from(pauses.max().unwrap_or(loaded_until - struck) / 1000).unwrap_or(0)
}

/// What a drill came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// From `kubectl apply` to three ready replicas of which one leads. Unit: milliseconds.
    pub deployed_ms: u64,
    /// Every disturbance.
    pub rounds: Vec<Round>,
    /// What the checker says of all of it.
    pub verdict: Verdict,
    /// Promises other than the checker's that were broken in no round.
    pub problems: Vec<String>,
}

impl Report {
    /// Whether every promise was kept, and all of it is on record.
    pub fn passed(&self) -> bool {
        self.verdict.passed()
            && self.problems.is_empty()
            && self.rounds.iter().all(|round| round.problems.is_empty())
    }

    /// One line a disturbance, and what the checker says.
    pub fn summary(&self) -> String {
        let mut text =
            format!("three replicas ready and one leading {} ms after kubectl apply\n", self.deployed_ms);
        text += &format!(
            "{:<20}{:>9}{:>9}{:>14}{:>9}{:>9}{:>14}\n",
            "disturbance", "gap, ms", "ready >=", "leaderless, ms", "refused", "effects", "converged, ms"
        );
        for round in &self.rounds {
            let converged = round.converged_ms.map_or_else(|| "never".to_owned(), |ms| ms.to_string());
            text += &format!(
                "{:<20}{:>9}{:>9}{:>14}{:>9}{:>9}{:>14}\n",
                round.disturbance,
                round.gap_ms,
                round.fewest_ready,
                round.leaderless_ms,
                round.refused,
                round.effects,
                converged
            );
        }
        for round in &self.rounds {
            let peak = round
                .peak_mib
                .map(|mib| format!("{}: no replica had more than {mib} MiB\n", round.disturbance));
            text.extend(peak);
        }
        text += &self.verdict.summary();
        for round in &self.rounds {
            text.extend(
                round.problems.iter().map(|problem| format!("\nproblem: {}: {problem}", round.disturbance)),
            );
        }
        text.extend(self.problems.iter().map(|problem| format!("\nproblem: {problem}")));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::longest_pause;

    #[test]
    fn a_pause_is_one_in_which_there_was_something_to_do() {
        let pause = |effects: &[i64]| longest_pause(effects.to_vec(), 10_000, 50_000);
        assert_eq!(pause(&[5_000, 9_000, 12_000, 30_000, 49_000]), 19, "the longest of several");
        assert_eq!(pause(&[1_000, 9_500, 12_000, 30_000, 49_000]), 19, "one from before does not count");
        assert_eq!(pause(&[9_000, 12_000, 13_000]), 37, "nothing any more, until the load ended");
        assert_eq!(
            pause(&[9_000, 49_000, 12_000, 30_000, 90_000]),
            19,
            "what is done later belongs to no pause"
        );
        assert_eq!(pause(&[60_000]), 40, "nothing at all");
    }
}

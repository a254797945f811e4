//! A run in numbers, and several runs as one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::fault::Fault;
use super::stage::Leader;
use crate::checker::{Outcome, Verdict};

/// One fault and what followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// What fell on the leader.
    pub fault: Fault,
    /// When. Unit: microseconds since 1970.
    pub at_us: i64,
    /// The claim that led then.
    pub from: String,
    /// The claim that led next; nothing when nobody took over in time.
    pub to: Option<String>,
    /// From the fault to the answer to the claim Role of the next term. Unit: milliseconds.
    pub claimed_ms: Option<u64>,
    /// From the fault to the answer to the first write of a later term. Unit: milliseconds.
    pub gap_ms: Option<u64>,
}

impl Round {
    pub(super) fn new(fault: Fault, at_us: i64, from: &Leader, to: Option<&Leader>) -> Self {
        let claim = |leader: &Leader| format!("{}/{}", leader.identity, leader.term);
        Self { fault, at_us, from: claim(from), to: to.map(claim), claimed_ms: None, gap_ms: None }
    }
}

/// What a run, or several, came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The seed of the run; of several, the first's.
    pub seed: u64,
    /// Every round.
    pub rounds: Vec<Round>,
    /// What the checker says.
    pub verdict: Verdict,
    /// How long it took until everything was as it was wanted, after the load had ended; of several runs the longest. Nothing
    /// when it did not come about. Unit: milliseconds.
    pub converged_ms: Option<u64>,
    /// Writes in the time of silence after that.
    pub writes_after: u64,
    /// Promises other than the checker's that were broken.
    pub problems: Vec<String>,
    /// What is worth knowing and breaks nothing: replicas that ended by themselves, for one.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether every promise was kept, and all of it is on record.
    pub fn passed(&self) -> bool {
        self.verdict.passed() && self.problems.is_empty()
    }

    /// Whether the checker found a broken rule, which is what a broken build must lead to.
    pub fn flagged(&self) -> bool {
        self.verdict.failed()
    }

    /// Reads from the verdict's terms how long nobody wrote after each fault.
    pub(super) fn measure(&mut self) {
        let terms = &self.verdict.term_list;
        for round in &mut self.rounds {
            let since = |us: i64| u64::try_from((us - round.at_us) / 1_000).ok();
            let later =
                || terms.iter().filter(|term| term.claim != round.from && term.answered_us > round.at_us);
            if round.to.is_none() {
                continue;
            }
            round.claimed_ms = later().map(|term| term.answered_us).min().and_then(since);
            round.gap_ms = later().filter_map(|term| term.first_answered_us).min().and_then(since);
        }
    }

    /// Adds another run.
    pub fn absorb(&mut self, other: Report) {
        let first = self.rounds.is_empty();
        self.seed = if first { other.seed } else { self.seed };
        self.converged_ms = if first {
            other.converged_ms
        } else {
            self.converged_ms.zip(other.converged_ms).map(|(a, b)| a.max(b))
        };
        self.rounds.extend(other.rounds);
        self.verdict.absorb(&other.verdict);
        self.writes_after += other.writes_after;
        self.problems.extend(other.problems);
        self.notes.extend(other.notes);
    }

    /// How many rounds of each fault there were.
    pub fn counts(&self) -> BTreeMap<Fault, u32> {
        let mut counts = BTreeMap::new();
        for round in &self.rounds {
            *counts.entry(round.fault).or_default() += 1;
        }
        counts
    }

    /// One line a fault, and what the checker says.
    pub fn summary(&self) -> String {
        let mut text = format!(
            "{:<8}{:>7}{:>12}{:>10}{:>10}   first write after, ms\n",
            "fault", "rounds", "p50", "p99", "max"
        );
        for (fault, rounds) in self.counts() {
            let of = self.rounds.iter().filter(|round| round.fault == fault);
            let mut gaps: Vec<u64> = of.filter_map(|round| round.gap_ms).collect();
            gaps.sort_unstable();
            let at = |share: f64| quantile(&gaps, share).map_or_else(|| "-".to_owned(), |ms| ms.to_string());
            text += &format!("{fault:<8}{rounds:>7}{:>12}{:>10}{:>10}\n", at(0.5), at(0.99), at(1.0));
        }
        text += &self.verdict.summary();
        let converged = self.converged_ms.map_or_else(|| "never".to_owned(), |ms| format!("within {ms} ms"));
        text += &format!("\nconverged {converged}, {} writes after that", self.writes_after);
        for (what, lines) in [("problem", &self.problems), ("note", &self.notes)] {
            text.extend(lines.iter().take(10).map(|line| format!("\n{what}: {line}")));
            if lines.len() > 10 {
                text += &format!("\n... and {} more of those", lines.len() - 10);
            }
        }
        text
    }

    /// In a word.
    pub fn outcome(&self) -> Outcome {
        if self.problems.is_empty() { self.verdict.outcome } else { Outcome::Fail }
    }
}

/// The smallest value that at least this share does not exceed.
fn quantile(sorted: &[u64], share: f64) -> Option<u64> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::Term;

    fn leader(term: u64) -> Leader {
        Leader { pod: "a".to_owned(), identity: format!("a_{term}"), term }
    }

    #[test]
    fn a_gap_ends_with_the_first_write_of_a_later_term() {
        let term = |number: u64, answered_us: i64, first: Option<i64>| Term {
            claim: format!("a_{number}/{number}"),
            revision: number,
            answered_us,
            first_write: first.map(|_| number),
            first_answered_us: first,
            writes: 1,
        };
        let mut report = Report {
            rounds: vec![Round::new(Fault::Kill, 1_000_000, &leader(1), Some(&leader(2)))],
            ..Report::default()
        };
        // The second term dies before it writes.
        report.verdict.term_list =
            vec![term(1, 0, Some(10)), term(2, 1_200_000, None), term(3, 1_500_000, Some(1_600_000))];
        report.measure();
        assert_eq!((report.rounds[0].claimed_ms, report.rounds[0].gap_ms), (Some(200), Some(600)));
        assert!(
            report.summary().contains("kill          1         600       600       600"),
            "{}",
            report.summary()
        );
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values = [1, 2, 3, 4];
        assert_eq!(quantile(&values, 0.5), Some(2));
        assert_eq!(quantile(&values, 0.99), Some(4));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn runs_add_up_and_one_that_does_not_converge_spoils_the_sum() {
        let run = |converged_ms| Report {
            converged_ms,
            rounds: vec![Round::new(Fault::Cut, 0, &leader(1), None)],
            ..Report::default()
        };
        let mut sum = Report::default();
        sum.absorb(run(Some(5)));
        sum.absorb(run(Some(7)));
        assert_eq!((sum.converged_ms, sum.counts()[&Fault::Cut]), (Some(7), 2));
        sum.absorb(run(None));
        assert_eq!(sum.converged_ms, None);
    }
}

//! Each mutant of the elector breaks a promise, and the checker finds the way to it.

use windlass_lease::mutant::Mutant;

use crate::report::refuted;
use crate::scenario::{Evidence, Fault, Scenario, name};
use crate::world::Budget;
use crate::{NOTHING, candidates};

fn with(mutant: Mutant, count: usize, ticks: u8, faults: u8) -> Scenario {
    let scenario = candidates(count, ticks, Budget { faults, ..NOTHING });
    Scenario { mutant: Some(mutant), ..scenario }
}

#[test]
fn a_claim_that_is_counted_from_the_answer() {
    refuted("response-anchored", with(Mutant::ResponseAnchored, 2, 5, 1), name::ONE);
}

#[test]
fn a_lease_that_is_written_without_a_version() {
    let scenario = with(Mutant::NoResourceVersion, 3, 4, 1);
    refuted("no-resource-version", Scenario { faults: &[Fault::Pause], ..scenario }, name::ONE);
}

#[test]
fn a_lease_that_is_judged_by_the_time_of_day() {
    let scenario = with(Mutant::WallClock { zero_ms: 0 }, 2, 5, 0);
    refuted("wall-clock", Scenario { walls: [0, 20, 0], ..scenario }, name::ONE);
}

#[test]
fn a_term_that_is_the_number_of_transitions() {
    let scenario = with(Mutant::TermFromTransitions, 1, 7, 1);
    // The claim Role would find the number used.
    refuted("term-from-transitions", Scenario { role: false, ..scenario }, name::UNIQUE);
}

#[test]
fn a_release_that_does_not_wait() {
    let mut scenario = with(Mutant::ReleaseBeforeDrain, 2, 3, 1);
    scenario.budget.writes = 1;
    refuted("release-before-drain", scenario, name::RELEASE);
}

#[test]
fn a_silence_that_is_taken_for_a_death() {
    let scenario = with(Mutant::EvidenceFromSilence, 2, 3, 1);
    refuted("evidence-from-silence", Scenario { evidence: Evidence::AndSilence, ..scenario }, name::ONE);
}

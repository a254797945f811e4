//! The elector under a model checker: up to three candidates, one Lease, one claim Role,
//! one object, and every order of what can happen, as far as a budget of faults reaches.
//!
//! It drives the shipped elector. What is made up is everything around it: see `world`
//! for what there is, `deeds` for what happens, `scenario` for what has to hold.
//! `WINDLASS_TEST_FULL=1` looks further; `WINDLASS_MODEL_MORE=<n>` looks n ticks further.
//! With the feature `mutants` each mutant of the elector has to be refuted.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod deeds;
#[cfg(feature = "mutants")]
mod mutants;
mod report;
mod scenario;
mod server;
mod world;

use report::{holds, refuted};
use scenario::{Edit, Evidence, Fault, Scenario, name};
use world::Budget;

const NOTHING: Budget = Budget { faults: 0, crashes: 0, starts: 0, edits: 0, writes: 0 };

/// What people may do to the Lease and to the claim Role.
const EDITS: &[Edit] =
    &[Edit::Delete, Edit::Empty, Edit::Rename, Edit::Shorten, Edit::Junk, Edit::Lower, Edit::DeleteRole];

/// So many ticks: the first number, or the second when `WINDLASS_TEST_FULL` is set.
fn ticks(short: u8, full: u8) -> u8 {
    let more = std::env::var("WINDLASS_MODEL_MORE").map_or(0, |more| more.parse().unwrap());
    more + if std::env::var_os("WINDLASS_TEST_FULL").is_some_and(|value| value == "1") { full } else { short }
}

/// `candidates` of them, of which the first leads.
fn candidates(candidates: usize, ticks: u8, budget: Budget) -> Scenario {
    let calm = Scenario::calm();
    Scenario { rates: calm.rates[..candidates].to_vec(), ticks, budget, ..calm }
}

#[test]
fn without_a_fault_one_leads_from_any_start() {
    let scenario = candidates(3, ticks(8, 12), NOTHING);
    holds("calm", Scenario { cold: true, ..scenario });
}

#[test]
fn two_candidates_and_any_fault() {
    holds("two, one fault", candidates(2, ticks(5, 7), Budget { faults: 1, ..NOTHING }));
    let scenario = candidates(2, ticks(2, 4), Budget { faults: 1, ..NOTHING });
    holds("two, one fault, from nothing", Scenario { cold: true, ..scenario });
}

#[test]
fn two_candidates_and_two_faults() {
    holds("two, two faults", candidates(2, ticks(3, 5), Budget { faults: 2, ..NOTHING }));
}

#[test]
fn three_candidates_and_one_that_stops() {
    let scenario = candidates(3, ticks(5, 7), Budget { faults: 1, ..NOTHING });
    holds("three, one stopped", Scenario { faults: &[Fault::Pause], ..scenario });
}

#[test]
fn three_candidates_and_one_that_is_cut_off() {
    let scenario = candidates(3, ticks(3, 5), Budget { faults: 1, ..NOTHING });
    holds("three, one cut off", Scenario { faults: &[Fault::Cut], ..scenario });
}

#[test]
fn three_candidates_and_a_lost_or_repeated_write_or_a_shutdown() {
    let scenario = candidates(3, ticks(4, 7), Budget { faults: 1, ..NOTHING });
    holds(
        "three, one loss",
        Scenario { faults: &[Fault::Reset, Fault::Repeat, Fault::Shutdown], ..scenario },
    );
}

#[test]
fn three_candidates_and_a_crash_with_evidence() {
    holds("three, a crash", candidates(3, ticks(3, 8), Budget { crashes: 1, ..NOTHING }));
    let scenario = candidates(2, ticks(3, 5), Budget { crashes: 1, starts: 1, ..NOTHING });
    holds("two, a crash and a start", scenario);
}

#[test]
fn three_candidates_and_a_crash_without_evidence() {
    let scenario = candidates(3, ticks(5, 8), Budget { crashes: 1, starts: 1, ..NOTHING });
    holds("three, a silent crash", Scenario { evidence: Evidence::None, ..scenario });
}

#[test]
fn a_crash_and_a_fault() {
    holds(
        "two, a crash and a fault",
        candidates(2, ticks(3, 5), Budget { faults: 1, crashes: 1, ..NOTHING }),
    );
}

#[test]
fn people_edit_the_lease_and_the_role() {
    let scenario = candidates(3, ticks(5, 8), Budget { edits: 1, ..NOTHING });
    holds("three, an edit", Scenario { edits: EDITS, ..scenario });
    let scenario = candidates(2, ticks(2, 5), Budget { edits: 1, faults: 1, ..NOTHING });
    holds("two, an edit and a fault", Scenario { edits: EDITS, ..scenario });
}

#[test]
fn a_leader_that_writes_is_told_to_end() {
    let scenario = candidates(2, ticks(3, 4), Budget { faults: 2, writes: 2, ..NOTHING });
    let faults = &[Fault::Shutdown, Fault::Cut];
    holds("two, a shutdown while writing", Scenario { faults, evidence: Evidence::None, ..scenario });
}

/// One clock runs six times as fast as the other: two do lead at once.
fn wild(ticks: u8, faults: u8) -> Scenario {
    let scenario = candidates(2, ticks, Budget { faults, writes: 2, ..NOTHING });
    Scenario { rates: vec![250, 1500], in_bounds: false, faults: &[Fault::Pause, Fault::Cut], ..scenario }
}

#[test]
fn the_fence_holds_whatever_the_clocks_do() {
    holds("fenced, wild clocks", wild(ticks(5, 8), 0));
    holds("fenced, wild clocks and a fault", wild(ticks(4, 7), 1));
}

#[test]
fn the_fence_holds_when_each_of_two_api_servers_learns_late() {
    let scenario = candidates(2, ticks(2, 5), Budget { crashes: 1, writes: 2, ..NOTHING });
    holds("fenced, two API servers", Scenario { servers: 2, slow_fence: true, ..scenario });
}

#[test]
fn without_its_conditions_each_promise_can_be_broken() {
    let one = Scenario { in_bounds: true, ..wild(5, 0) };
    refuted("clocks beyond the margin", one, name::ONE);
    refuted("no fence, wild clocks", Scenario { fence: false, ..wild(5, 0) }, name::FENCED);
    refuted("no versions, wild clocks", Scenario { versions: false, ..wild(5, 0) }, name::FENCED);
    // What the fence cannot do: one of two API servers has not heard of the new claim yet,
    // and the old leader's clock lets it go on.
    let late = Scenario { servers: 2, slow_fence: true, ..wild(5, 0) };
    refuted("two API servers and wild clocks", late, name::FENCED);
}

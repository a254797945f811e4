//! A host that skips passes does what a host does that runs them all: random schedules of
//! everything that can change, for two hosts beside each other on paused time.

mod pair;
#[allow(dead_code, reason = "shared with the other tests of the loop")]
#[path = "../passes/world/mod.rs"]
mod world;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use pair::{Broken, Op, Pair, op};

/// Schedules that are tried; a mutant is looked for in up to so many.
const SCHEDULES: u32 = 96;
const LENGTH: std::ops::Range<usize> = 5..40;

/// Runs one schedule, and says in which way the two hosts differ.
fn run(ops: &[Op], broken: Option<Broken>) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let differs = runtime.block_on(async {
        let mut pair = Pair::new(broken);
        for op in ops {
            pair.apply(op).await;
        }
        pair.judge().await
    });
    differs.map_err(|why| TestCaseError::fail(format!("{why}, after {ops:?}")))
}

fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, ..Config::default() }
}

proptest! {
    #![proptest_config(config(SCHEDULES))]

    #[test]
    fn a_host_that_skips_passes_does_what_one_does_that_runs_them_all(ops in vec(op(), LENGTH)) {
        run(&ops, None)?;
    }
}

/// Not one of the ways in which a memo, or a part that it trusts, can be wrong stays unseen.
fn is_found(broken: Broken) {
    let config = Config { max_shrink_iters: 0, ..config(SCHEDULES * 8) };
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, random);
    let found = runner.run(&vec(op(), LENGTH), |ops| run(&ops, Some(broken)));
    assert!(found.is_err(), "{broken:?} was not found");
}

#[test]
fn a_plugin_that_reads_the_clock_unnoticed_is_found() {
    is_found(Broken::Clock);
}

#[cfg(feature = "mutants")]
#[test]
fn each_thing_that_a_memo_could_leave_out_is_found() {
    use windlass_core::memo::mutant::Blind;
    for blind in [
        Blind::Primary,
        Blind::Children,
        Blind::Objects,
        Blind::Absent,
        Blind::Lists,
        Blind::Members,
        Blind::Component,
        Blind::Settings,
        Blind::Eras,
        Blind::Term,
        Blind::Deadline,
    ] {
        is_found(Broken::Memo(blind));
    }
}

//! Leaders are lost in every way under load, and the control plane's own records are the judge.
//!
//! The same at length: `cargo xtask nemesis`.

use windlass_testbed::nemesis::{Fault, Plan, Report, run};
use windlass_testbed::progress;

use crate::scene::{alone, count};

const BINARY: &str = env!("CARGO_BIN_EXE_windlass");

/// Runs a plan while no other test disturbs a control plane of its own.
async fn report(plan: Plan) -> Report {
    let _alone = alone().await;
    let run = Box::pin(run(&plan, &progress::Silent)).await.expect("the run comes to its end");
    println!("{}", run.report.summary());
    run.report
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_lost_in_every_way_never_write_beside_their_successors() {
    let times = |ordinary: usize| u32::try_from(count(ordinary, ordinary * 4)).expect("few");
    let plan = Plan::scaled(BINARY)
        .rounds(Fault::Kill, times(6))
        .rounds(Fault::Stop, times(3))
        .rounds(Fault::Freeze, times(3))
        .rounds(Fault::Cut, times(3))
        .rounds(Fault::Slow, times(2))
        .rounds(Fault::Hold, times(2));
    let report = report(plan).await;
    assert!(report.passed(), "{}", report.summary());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_fence_what_arrives_late_is_flagged() {
    // What was sent in time and is held on its way arrives under another leader: no care of the host's can take it back.
    let report = report(Plan::scaled(BINARY).unfenced().rounds(Fault::Hold, 3)).await;
    let late = report.verdict.late + report.verdict.interleaved;
    assert!(
        report.flagged() && late > 0,
        "a checker that passes this is worth nothing: {}",
        report.summary()
    );
}

//! Clocks that jump, and clocks of another rate: leadership is counted by a clock that nobody
//! sets, and the API server decides where two of them disagree.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_testbed::nemesis::{Fault, Plan, Report, run};
use windlass_testbed::{Clocks, progress};

use crate::scene::{HOST, Scene, alone, count};

const BINARY: &str = env!("CARGO_BIN_EXE_windlass");
const HOUR: i64 = 3600;
const TEN_YEARS: i64 = 10 * 365 * 24 * HOUR;

/// The Lease's holder with its term, and when it says that it was renewed, in microseconds since 1970.
async fn lease(scene: &Scene) -> Option<(String, i64)> {
    let lease = scene.get(&format!("/apis/coordination.k8s.io/v1/namespaces/{HOST}/leases/windlass")).await?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let holder = text(&lease["spec"]["holderIdentity"]).filter(|holder| !holder.is_empty())?;
    let term = text(&lease["metadata"]["annotations"]["windlass.dev/term"])?;
    let renewed: jiff::Timestamp = text(&lease["spec"]["renewTime"])?.parse().expect("a time");
    Some((format!("{holder}/{term}"), renewed.as_microsecond()))
}

/// Waits for a renewal that is `ahead` of this machine's wall clock, give or take a minute.
async fn renewed_by_a_clock(scene: &Scene, ahead: i64) -> String {
    let shown = scene.until("the leader's own wall clock shows in its Lease", || async {
        let (term, renewed) = lease(scene).await?;
        let off = renewed / 1_000_000 - jiff::Timestamp::now().as_second() - ahead;
        (off.abs() < 60).then_some(term)
    });
    shown.await
}

#[tokio::test]
async fn wall_clocks_that_jump_cost_no_leadership() {
    let scene = Scene::fresh("wall").await;
    scene.install_fixture("greeter").await;
    let directory = scene.control().directory().expect("a directory").to_owned();
    let mut clocks = Vec::new();
    for i in 0..3 {
        let name = format!("windlass-{i}");
        let clock = Clocks::new(&directory, &name, 1.0).expect("a library");
        scene.keep(scene.replica_by(&name, &clock).expect("the host starts")).await;
        clocks.push((name, clock));
    }
    scene.ready().await;
    let leader = scene.leader().await;
    let term = renewed_by_a_clock(&scene, 0).await;
    for (number, jump) in [HOUR, -HOUR, TEN_YEARS, -TEN_YEARS].into_iter().enumerate() {
        for (_, clock) in clocks.iter().filter(|(name, _)| *name == leader) {
            clock.jump(jump).expect("a file");
        }
        assert_eq!(renewed_by_a_clock(&scene, jump).await, term, "the leader's clock is {jump} s ahead");
        for (_, clock) in &clocks {
            clock.jump(-jump).expect("a file");
        }
        assert_eq!(renewed_by_a_clock(&scene, -jump).await, term, "everybody's clock is {jump} s behind");
        let name = format!("w{number}");
        scene.widget(&name, json!({})).await;
        let child = format!("{name}-greeting");
        scene.until("the work goes on", || scene.own("ConfigMap", &child)).await;
        for (_, clock) in &clocks {
            clock.jump(0).expect("a file");
        }
        assert_eq!(renewed_by_a_clock(&scene, 0).await, term, "a jump of {jump} s and back");
    }
    for replica in scene.all().await.iter_mut() {
        replica.check_alive().expect("no process ends by it");
    }
}

/// How many seconds the leader's clock counts in a real one, by what it writes into its Lease.
async fn rate(scene: &Scene) -> f64 {
    let renewal = |after: i64| async move {
        scene
            .until("a renewal", || async {
                let (_, renewed) = lease(scene).await?;
                (renewed > after).then_some((renewed, Instant::now()))
            })
            .await
    };
    let (first, began) = renewal(lease(scene).await.map_or(0, |(_, renewed)| renewed)).await;
    let mut last = (first, began);
    while last.1 - began < Duration::from_secs(4) {
        last = renewal(last.0).await;
    }
    (last.0 - first) as f64 / 1e6 / (last.1 - began).as_secs_f64()
}

async fn leaders_lost_by(rates: [f64; 3]) -> Report {
    let times = |ordinary: usize| u32::try_from(count(ordinary, ordinary * 5)).expect("few");
    let plan = Plan::scaled(BINARY)
        .rates(rates)
        .rounds(Fault::Cut, times(3))
        .rounds(Fault::Hold, times(2))
        .rounds(Fault::Freeze, times(1))
        .rounds(Fault::Starve, times(1));
    let run = Box::pin(run(&plan, &progress::Silent)).await.expect("the run comes to its end");
    println!("{rates:?}: {}", run.report.summary());
    run.report
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_of_other_rates_never_make_two_leaders() {
    {
        let scene = Scene::fresh("rate").await;
        let directory = scene.control().directory().expect("a directory").to_owned();
        let clock = Clocks::new(&directory, "windlass-0", 2.0).expect("a library");
        scene.keep(scene.replica_by("windlass-0", &clock).expect("the host starts")).await;
        scene.leader().await;
        let seen = rate(&scene).await;
        assert!((1.7..2.3).contains(&seen), "the process must see its clock run twice as fast, not {seen}");
    }
    let _alone = alone().await;
    // Within the bound: the lease lasts 1.5 times as long as the claim.
    let bounded = leaders_lost_by([0.85, 1.0, 1.2]).await;
    assert!(bounded.passed(), "{}", bounded.summary());
    // Beyond it two believe to lead for a while: the API server lets one write.
    let beyond = leaders_lost_by([0.5, 1.0, 2.0]).await;
    let verdict = &beyond.verdict;
    assert_eq!((verdict.late, verdict.interleaved), (0, 0), "{}", beyond.summary());
    assert!(verdict.writes > 0, "{}", beyond.summary());
}

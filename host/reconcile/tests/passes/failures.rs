//! What a failure costs, whom, and who hears of it.

use serde_json::json;
use std::time::Duration;
use windlass_core::class::Class;
use windlass_core::code::Code;
use windlass_core::decision::{Decision, Fault, Verdict};
use windlass_core::ports::CallError;
use windlass_reconcile::Config;

use crate::world::{CONFIG_MAP, HOST, World, config_map, decision, ms, one_child, refused};

#[tokio::test(start_paused = true)]
async fn a_failing_key_backs_off_while_another_goes_on() {
    let world = World::leader(|pass, _, _| match &*pass.key.name {
        "bad" => refused(Code::Trap),
        _ => Ok(Verdict::Decision(Decision { requeue_after: Some(ms(1000)), ..Decision::default() })),
    });
    world.cluster.web("bad");
    world.cluster.web("good");
    world.run_for(ms(60_000)).await;
    let bad = world.brain.times("bad");
    assert!((8..=13).contains(&bad.len()), "{} passes in a minute", bad.len());
    let pauses: Vec<_> = bad.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses[5] > pauses[0] * 4, "{pauses:?}");
    assert!((55..=61).contains(&world.brain.times("good").len()));
    let stuck = world.queue.snapshot().stuck;
    assert_eq!(stuck.len(), 1, "{stuck:?}");
    assert!(stuck[0].last_error.as_deref().is_some_and(|error| error.starts_with("E201 Trap")), "{stuck:?}");
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_looked_at_again() {
    let world = one_child();
    world.cluster.fail(Class::Conflict, 3, None);
    world.cluster.web("a");
    world.run_for(ms(5000)).await;
    assert_eq!(world.cluster.log().len(), 1);
    assert_eq!(world.brain.calls(), 5, "three conflicts, the write, and one look at it");
    assert!(world.cluster.notices().is_empty(), "a conflict is nobody's fault");
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_every_key_is_back_within_thirty_seconds() {
    let world = one_child();
    world.cluster.fail(Class::Transient, 1_000_000, None);
    (0..20).for_each(|n| world.cluster.web(&format!("w{n}")));
    world.run_for(Duration::from_secs(600)).await;
    let tries = world.brain.times("w0").len();
    assert!((25..60).contains(&tries), "{tries} tries in ten minutes");
    world.cluster.recover();
    world.run_for(Duration::from_secs(30)).await;
    assert_eq!(world.cluster.log().len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_a_pause_gets_it() {
    let world = one_child();
    world.cluster.fail(Class::Transient, 1, Some(ms(7000)));
    world.cluster.web("a");
    world.run_for(ms(100)).await;
    world.cluster.web("a");
    world.run_for(ms(6800)).await;
    assert_eq!(world.brain.calls(), 1);
    world.run_for(ms(500)).await;
    assert_eq!(world.cluster.log().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_child_whose_kind_does_not_exist_is_reported_when_it_persists() {
    let world = one_child();
    world.cluster.set_absent(CONFIG_MAP);
    world.cluster.web("a");
    world.run_for(ms(500)).await;
    assert!(world.cluster.notices().is_empty(), "a CRD may be a moment late");
    world.run_for(ms(60_000)).await;
    assert!(world.cluster.notices()[0].contains("does not serve v1/ConfigMap"));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_to_whoever_describes_the_primary_and_not_too_often() {
    let world = World::leader(|_, _, _| {
        decision(&[json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}})])
    });
    world.cluster.web("a");
    world.run_for(Duration::from_secs(3600)).await;
    let notices = world.cluster.notices();
    let want = "a PassFailed: web@";
    assert!(notices[0].starts_with(want), "{}", notices[0]);
    assert!(
        notices[0]
            .contains(": E230 KindNotAllowed: v1/Pod is not among its children (v1/ConfigMap). Next try in ")
    );
    let passes = world.brain.calls();
    assert!(passes > 15 && notices.len() < 10, "{} notices in {passes} passes", notices.len());
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_the_plugins_own_is_told_if_it_is_permanent_or_persists() {
    let world = World::leader(|pass, _, _| match &*pass.key.name {
        "permanent" => Err(CallError::Fault(Fault::Permanent("no such tier".into()))),
        _ => Err(CallError::Fault(Fault::Transient("not yet".into()))),
    });
    world.cluster.web("permanent");
    world.run_for(ms(1)).await;
    assert!(world.cluster.notices()[0].contains("E260 PluginError: no such tier. Next try in "));
    world.cluster.web("transient");
    world.until(|w| w.cluster.notices().iter().any(|n| n.contains("not yet"))).await;
    assert_eq!(world.brain.times("transient").len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_panic_costs_its_own_key_a_pause_and_nobody_else_anything() {
    let world = World::leader(|pass, _, _| {
        assert!(&*pass.key.name != "bad", "a bug in the host");
        config_map(&pass.key.name, "v")
    });
    world.cluster.web("bad");
    world.cluster.web("good");
    world.run_for(ms(10_000)).await;
    assert_eq!(world.cluster.log(), ["create v1/ConfigMap ns/good"]);
    assert!((4..12).contains(&world.brain.times("bad").len()));
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_never_answers_costs_its_slot_for_a_while_only() {
    let config = Config { concurrency: 1, ..Config::new(HOST) };
    let world = World::with(|pass, _, _| config_map(&pass.key.name, "v"), config);
    world.lead(1);
    world.brain.takes(Duration::from_secs(100_000));
    world.cluster.web("a");
    world.run_for(ms(100)).await;
    world.brain.takes(Duration::ZERO);
    world.cluster.web("b");
    world.run_for(ms(30_000)).await;
    world.until(|w| w.cluster.log().len() == 2).await;
}

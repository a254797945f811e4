//! What a takeover costs: only what is not where it should be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use windlass_core::code::Code;
use windlass_core::ports::{Pass, Reader};
use windlass_core::snapshot::Snapshot;
use windlass_reconcile::Config;

use crate::standby::talkative;
use crate::world::{CONFIG_MAP, HOST, Reply, WEB, World, config_map, ms, object, refused};

/// A plugin that wants one ConfigMap with the primary's spec.
fn copy(pass: &Pass, snapshot: &Snapshot, _: &dyn Reader) -> Reply {
    config_map(&pass.key.name, &snapshot.primary.value()["spec"].to_string())
}

fn web(world: &World, name: &str, spec: u64) {
    world.cluster.put(&object(WEB, name), json!({"metadata": {}, "spec": spec}));
}

fn see_all(standby: &World, leader: &World) {
    standby.cluster.mirror(&leader.cluster, WEB);
    standby.cluster.mirror(&leader.cluster, CONFIG_MAP);
}

/// A leader and a standby with so many primaries `w0`, `w1`, …, all as they should be.
async fn at_rest(primaries: usize) -> (World, World) {
    let leader = World::leader(copy);
    (0..primaries).for_each(|n| web(&leader, &format!("w{n}"), 1));
    leader.until(|w| w.queue.is_empty()).await;
    assert_eq!(leader.cluster.log().len(), primaries);
    // One at a time, so that the order of things shows.
    let standby = World::with(copy, Config { concurrency: 1, ..Config::new(HOST) });
    see_all(&standby, &leader);
    standby.until(|w| w.queue.is_empty()).await;
    (leader, standby)
}

#[tokio::test(start_paused = true)]
async fn takeover_makes_no_guest_call_for_what_is_where_it_should_be() {
    let (_leader, standby) = at_rest(20).await;
    assert_eq!((standby.brain.calls(), standby.counts.of_standby("success")), (20, 20));
    standby.lead(2);
    standby.run_for(Duration::from_secs(600)).await;
    assert_eq!((standby.brain.calls(), standby.cluster.plans()), (20, 0));
    // It leads: what changes from now on is its work.
    web(&standby, "w3", 2);
    standby.run_for(ms(1000)).await;
    assert_eq!(standby.cluster.log(), ["update v1/ConfigMap ns/w3"]);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_settled_keys_cost_a_takeover_nothing() {
    let (_leader, standby) = at_rest(10_000).await;
    web(&standby, "w77", 2);
    standby.run_for(ms(1000)).await;
    assert_eq!((standby.brain.calls(), standby.queue.len(), standby.queue.parked()), (10_001, 1, 1));
    standby.lead(2);
    standby.run_for(ms(1)).await;
    assert_eq!(standby.cluster.log(), ["update v1/ConfigMap ns/w77"]);
    standby.run_for(Duration::from_secs(60)).await;
    // Under the claim, and at the sight of its own write.
    assert_eq!((standby.brain.calls(), standby.cluster.plans()), (10_003, 1));
}

#[tokio::test(start_paused = true)]
async fn an_event_after_parking_settles_the_key() {
    let (leader, standby) = at_rest(3).await;
    web(&leader, "w1", 2);
    leader.run_for(ms(1000)).await;
    standby.cluster.mirror(&leader.cluster, WEB);
    standby.run_for(ms(1000)).await;
    assert_eq!((standby.queue.parked(), standby.brain.calls()), (1, 4));
    standby.cluster.mirror(&leader.cluster, CONFIG_MAP);
    standby.run_for(ms(1000)).await;
    assert_eq!((standby.queue.len(), standby.brain.calls()), (0, 5));
    standby.lead(2);
    standby.run_for(ms(1000)).await;
    assert_eq!((standby.brain.calls(), standby.cluster.log().len()), (5, 0));
}

#[tokio::test(start_paused = true)]
async fn writes_that_follow_a_change_within_a_moment_park_nothing() {
    let (leader, standby) = at_rest(3).await;
    web(&leader, "w1", 2);
    standby.cluster.mirror(&leader.cluster, WEB);
    leader.run_for(ms(20)).await;
    standby.cluster.mirror(&leader.cluster, CONFIG_MAP);
    standby.run_for(ms(1000)).await;
    assert_eq!((standby.brain.calls(), standby.counts.of_standby("planned")), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn a_parked_key_is_written_first_at_takeover() {
    let (_leader, standby) = at_rest(20).await;
    web(&standby, "w7", 2);
    standby.run_for(ms(1000)).await;
    assert_eq!(standby.queue.parked(), 1);
    let (before, skipped) = (standby.brain.calls(), standby.counts.skipped());
    for n in 8..20 {
        standby.offer(&format!("w{n}"));
        standby.queue.offer_resync(crate::world::key(&format!("w{}", n - 8)));
    }
    standby.lead(2);
    standby.run_for(ms(1)).await;
    assert_eq!(standby.brain.asked()[before], "w7");
    assert_eq!(standby.cluster.log(), ["update v1/ConfigMap ns/w7"]);
    let skipped = standby.counts.skipped() - skipped;
    assert!(skipped >= 12, "the others did not wait for a moment to pass either");
}

#[tokio::test(start_paused = true)]
async fn what_is_only_to_be_said_waits_until_everything_is_written() {
    let config = Config { concurrency: 1, ..Config::new(HOST) };
    let world = World::with(
        |pass, _, _| match pass.key.name.starts_with("says") {
            true => talkative(vec![]),
            false => config_map(&pass.key.name, "v"),
        },
        config,
    );
    for name in ["says1", "w1", "says2", "w2"] {
        world.cluster.web(name);
        world.run_for(ms(1000)).await;
    }
    assert_eq!((world.brain.calls(), world.queue.parked()), (4, 4));
    world.lead(1);
    world.run_for(ms(1)).await;
    // Its own writes come back as events, which go before it too.
    let asked = world.brain.asked();
    assert_eq!(asked[4..6], ["w1", "w2"]);
    assert_eq!(asked[asked.len() - 2..], ["says1", "says2"]);
    assert_eq!(world.cluster.notices().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_on_a_standby_is_tried_at_once_at_takeover() {
    let mended = Arc::new(AtomicBool::new(false));
    let works = mended.clone();
    let world = World::standby(move |pass, _, _| match works.load(Ordering::Relaxed) {
        true => config_map(&pass.key.name, "v"),
        false => refused(Code::Trap),
    });
    world.cluster.web("a");
    world.run_for(Duration::from_secs(3600)).await;
    let calls = world.brain.calls();
    assert!((15..40).contains(&calls), "it backs off as a leader's does: {calls} calls in an hour");
    mended.store(true, Ordering::Relaxed);
    world.lead(1);
    world.run_for(ms(1)).await;
    assert_eq!(world.cluster.log(), ["create v1/ConfigMap ns/a"]);
}

#[tokio::test(start_paused = true)]
async fn a_key_of_a_kind_that_was_not_listed_is_looked_at_at_takeover() {
    let world = World::standby(|pass, _, _| config_map(&pass.key.name, "v"));
    world.cluster.set_synced("v1/LimitRange", false);
    world.cluster.web("a");
    world.run_for(ms(60_000)).await;
    assert_eq!(world.brain.calls(), 0);
    world.cluster.set_synced("v1/LimitRange", true);
    world.lead(1);
    world.run_for(ms(1)).await;
    assert_eq!(world.cluster.log(), ["create v1/ConfigMap ns/a"]);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_steps_down_keeps_its_keys() {
    let config = Config { concurrency: 1, ..Config::new(HOST) };
    let world = World::with(|pass, _, _| config_map(&pass.key.name, "v"), config);
    world.lead(1);
    world.brain.takes(ms(50));
    (0..10).for_each(|n| world.cluster.web(&format!("w{n}")));
    world.run_for(ms(120)).await;
    world.step_down();
    world.run_for(ms(10_000)).await;
    let written = world.cluster.log().len();
    assert!((1..10).contains(&written), "{written} before it stepped down");
    assert_eq!((world.queue.parked(), world.queue.len()), (10 - written, 10 - written));
    assert!(world.cluster.notices().is_empty());
    world.lead(2);
    world.run_for(ms(10_000)).await;
    let mut log = world.cluster.log();
    log.sort_unstable();
    assert_eq!(log, (0..10).map(|n| format!("create v1/ConfigMap ns/w{n}")).collect::<Vec<_>>());
    assert!(world.queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_a_standby_decided_is_never_written() {
    let calls = AtomicUsize::new(0);
    let decide = move |pass: &Pass, _: &Snapshot, _: &dyn Reader| {
        config_map(&pass.key.name, &format!("decided {}", calls.fetch_add(1, Ordering::Relaxed)))
    };
    let world = World::standby(decide);
    world.brain.takes(ms(1000));
    world.cluster.web("a");
    // Its first pass begins without a claim, and ends under one.
    world.run_for(ms(500)).await;
    world.open_gate(1);
    world.run_for(ms(1000)).await;
    assert_eq!((world.cluster.plans(), world.queue.parked()), (0, 1), "nobody has told the queue yet");
    world.queue.lead();
    world.until(|w| !w.cluster.log().is_empty()).await;
    let child = world.cluster.stored(&object(CONFIG_MAP, "a")).expect("written");
    assert_eq!(child["data"]["k"], "decided 1");
}

#[tokio::test(start_paused = true)]
async fn a_takeover_in_the_middle_of_a_standbys_pass_costs_no_pause() {
    let world = World::standby(|pass, _, _| config_map(&pass.key.name, "v"));
    world.brain.takes(ms(1000));
    world.cluster.web("a");
    world.run_for(ms(500)).await;
    world.brain.takes(Duration::ZERO);
    world.lead(1);
    world.run_for(ms(610)).await;
    assert_eq!(world.cluster.log(), ["create v1/ConfigMap ns/a"]);
}

#[tokio::test(start_paused = true)]
async fn what_changed_since_it_was_parked_is_what_the_takeover_sees() {
    let (leader, standby) = at_rest(3).await;
    web(&leader, "w1", 2);
    leader.run_for(ms(1000)).await;
    standby.cluster.mirror(&leader.cluster, WEB);
    standby.run_for(ms(1000)).await;
    assert_eq!(standby.queue.parked(), 1);
    // The last write of the leader is seen in the moment in which the standby takes over.
    standby.cluster.mirror(&leader.cluster, CONFIG_MAP);
    standby.lead(2);
    standby.run_for(ms(1000)).await;
    assert_eq!((standby.cluster.plans(), standby.queue.len()), (0, 0));
}

//! A standby looks and decides, and nobody notices.

use std::time::Duration;

use serde_json::json;
use windlass_core::code::Code;
use windlass_core::decision::{Decision, Notice, Severity, Verdict};
use windlass_core::name::Digest;
use windlass_core::ports::Serving;

use crate::world::{CONFIG_MAP, WEB, World, config_map, decision, key, ms, object, plugin, refused, serving};

/// A plugin that always has something to say, and perhaps wants a child.
pub(crate) fn talkative(children: Vec<String>) -> Result<Verdict, windlass_core::ports::CallError> {
    let notice = Notice { severity: Severity::Normal, reason: "Ready".into(), message: "all is well".into() };
    Ok(Verdict::Decision(Decision { children, notices: vec![notice], ..Decision::default() }))
}

#[tokio::test(start_paused = true)]
async fn a_standby_writes_nothing_and_says_nothing() {
    let world = World::standby(|pass, _, _| match &*pass.key.name {
        "bad" => refused(Code::Trap),
        "forbidden" => decision(&[json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}})]),
        "says" => talkative(vec![]),
        name => config_map(name, "v"),
    });
    for name in ["good", "bad", "forbidden", "says"] {
        world.cluster.web(name);
    }
    world.run_for(Duration::from_secs(3600)).await;
    assert!(world.brain.calls() > 20);
    assert_eq!((world.cluster.plans(), world.cluster.log().len(), world.cluster.notices().len()), (0, 0, 0));
    assert_eq!((world.counts.of_standby("planned"), world.counts.of("planned")), (2, 0));
    assert_eq!((world.counts.of("error"), world.queue.parked()), (0, 2));
    assert!(world.counts.of_standby("error") > 20);

    world.lead(1);
    world.run_for(ms(1)).await;
    assert_eq!(world.cluster.log(), ["create v1/ConfigMap ns/good"]);
    let mut said: Vec<String> =
        world.cluster.notices().iter().map(|n| n.chars().take(12).collect()).collect();
    said.sort_unstable();
    assert_eq!(
        said,
        ["bad PassFail", "forbidden Pa", "says Ready: "],
        "a standby keeps no mark of what it would say"
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_former_leader_has_said_a_standby_neither_repeats_nor_forgets() {
    let world = World::leader(|_, snapshot, _| match snapshot.primary.value()["spec"].as_str() {
        Some("silent") => decision(&[]),
        _ => talkative(vec![]),
    });
    let spec = |spec: &str| world.cluster.put(&object(WEB, "a"), json!({"metadata": {}, "spec": spec}));
    spec("loud");
    world.run_for(ms(1000)).await;
    world.step_down();
    for of in ["silent", "loud"] {
        spec(of);
        world.run_for(ms(1000)).await;
    }
    assert_eq!((world.queue.parked(), world.cluster.notices().len()), (1, 1));
    world.lead(3);
    world.run_for(ms(1000)).await;
    assert_eq!(world.cluster.notices(), ["a Ready: all is well"]);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_needs_a_write_is_not_looked_at_again_until_something_changes() {
    let world = World::standby(|pass, _, _| config_map(&pass.key.name, "v"));
    world.cluster.web("a");
    world.run_for(Duration::from_secs(3600)).await;
    assert_eq!((world.brain.calls(), world.queue.parked(), world.queue.len()), (1, 1, 1));
    world.cluster.web("a");
    world.run_for(Duration::from_secs(3600)).await;
    assert_eq!((world.brain.calls(), world.queue.parked()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_finalizer_that_is_missing_parks_a_key_without_asking() {
    let world = World::standby(|pass, _, _| config_map(&pass.key.name, "v"));
    world.brain.serve(serving("web", true));
    world.cluster.web("a");
    world.run_for(ms(10_000)).await;
    assert_eq!((world.brain.calls(), world.queue.parked()), (0, 1));
    world.lead(1);
    world.run_for(ms(1000)).await;
    assert_eq!(world.cluster.log(), ["finalizers [\"windlass.dev/web\"]", "create v1/ConfigMap ns/a"]);
}

#[tokio::test(start_paused = true)]
async fn a_requeue_on_a_standby_is_a_time_to_decide_again_and_never_a_hot_loop() {
    let world = World::standby(|pass, _, _| {
        let pause = if &*pass.key.name == "slow" { ms(10_000) } else { ms(0) };
        Ok(Verdict::Decision(Decision { requeue_after: Some(pause), ..Decision::default() }))
    });
    world.cluster.web("slow");
    world.cluster.web("fast");
    world.run_for(ms(61_000)).await;
    assert_eq!(world.brain.times("slow").len(), 7);
    assert!(world.brain.times("fast").len() <= 610, "{} in a minute", world.brain.times("fast").len());
    assert_eq!(world.queue.parked(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_never_rests_costs_a_standby_little_and_its_last_state_is_what_counts() {
    let world = World::standby(|_, snapshot, _| match snapshot.primary.value()["spec"].as_u64() {
        Some(999) => config_map("c", "v"),
        _ => decision(&[]),
    });
    for n in 0..1000 {
        world.cluster.put(&object(WEB, "a"), json!({"metadata": {}, "spec": n}));
        world.run_for(ms(10)).await;
    }
    assert!((80..=101).contains(&world.brain.calls()), "{} in ten seconds", world.brain.calls());
    world.run_for(ms(200)).await;
    assert_eq!(world.queue.parked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_read_brings_a_key_back_on_a_standby_too() {
    let world =
        World::standby(|_, _, reader| match reader.get(&object("v1/LimitRange", "s")).expect("allowed") {
            Some(_) => config_map("c", "v"),
            None => decision(&[]),
        });
    world.cluster.web("a");
    world.run_for(ms(1000)).await;
    assert!(world.queue.is_empty());
    let open = json!({"metadata": {"labels": {"open": "yes"}}});
    world.cluster.put(&object("v1/LimitRange", "s"), open);
    world.run_for(ms(1000)).await;
    assert_eq!((world.brain.calls(), world.queue.parked()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_standby_forgets_what_is_gone() {
    let world = World::standby(|_, _, reader| {
        reader.get(&object("v1/LimitRange", "s")).expect("allowed");
        config_map("c", "v")
    });
    world.cluster.web("a");
    world.cluster.web("b");
    world.run_for(ms(1000)).await;
    assert_eq!(world.queue.parked(), 2);
    world.cluster.delete(&object(WEB, "a"));
    world.run_for(ms(1000)).await;
    assert_eq!((world.queue.parked(), world.cluster.reads(&key("a"))), (1, None));
    // Nobody tells the queue; it is found out.
    world.brain.unserve(&plugin("web"));
    world.run_for(Duration::from_secs(61)).await;
    assert_eq!((world.queue.len(), world.cluster.reads(&key("b"))), (0, None));
}

/// Managed fields name fields without their values: what a former leader remembers fits
/// what its successor wrote.
#[tokio::test(start_paused = true)]
async fn what_an_earlier_term_remembered_does_not_settle_a_key() {
    let world = World::leader(|pass, _, _| config_map(&pass.key.name, "v"));
    world.cluster.web("a");
    world.run_for(ms(1000)).await;
    world.step_down();
    let child = object(CONFIG_MAP, "a");
    let mut body = world.cluster.stored(&child).expect("written");
    body["data"]["k"] = "of another leader".into();
    world.cluster.put(&child, body);
    world.run_for(ms(1000)).await;
    assert_eq!(world.queue.parked(), 1);
    world.lead(3);
    world.run_for(ms(1)).await;
    assert_eq!(world.cluster.stored(&child).expect("there")["data"]["k"], "v");
}

#[tokio::test(start_paused = true)]
async fn a_swapped_plugin_is_decided_again_on_a_standby() {
    let world = World::standby(|_, snapshot, _| match snapshot.settings.as_deref() {
        Some(_) => config_map("c", "of the new version"),
        None => decision(&[]),
    });
    world.cluster.web("a");
    world.run_for(ms(1000)).await;
    assert!(world.queue.is_empty());
    let settings = Some("{}".into());
    world.brain.serve(Serving { digest: Digest::of(b"newer"), settings, ..serving("web", false) });
    // As the host does for every primary of a plugin that serves anew.
    world.queue.offer_resync(key("a"));
    world.run_for(ms(1000)).await;
    assert_eq!((world.brain.calls(), world.queue.parked()), (2, 1));
    world.lead(1);
    world.run_for(ms(1)).await;
    assert_eq!(world.cluster.log(), ["create v1/ConfigMap ns/c"]);
}

//! Which key runs when, and how many at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use windlass_core::code::Code;
use windlass_core::decision::{Decision, Notice, Severity, Verdict};
use windlass_core::key::Key;
use windlass_core::name::Digest;
use windlass_core::ports::{Serving, Sink as _};
use windlass_reconcile::Config;

use crate::world::{
    CONFIG_MAP, HOST, World, config_map, decision, key, ms, object, one_child, plugin, refused, serving,
};

#[tokio::test(start_paused = true)]
async fn what_is_wanted_is_written_once_and_then_there_is_silence() {
    let world = one_child();
    world.cluster.web("a");
    world.run_for(ms(5000)).await;
    assert_eq!(world.cluster.log(), ["create v1/ConfigMap ns/a"]);
    for _ in 0..5 {
        world.offer("a");
        world.run_for(ms(100)).await;
    }
    assert_eq!(world.cluster.log().len(), 1);
    assert!(world.queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_child_that_somebody_deletes_comes_back() {
    let world = one_child();
    world.cluster.web("a");
    world.run_for(ms(100)).await;
    world.cluster.delete(&object(CONFIG_MAP, "a"));
    world.run_for(ms(100)).await;
    assert_eq!(world.cluster.log().len(), 2);
    assert!(world.cluster.stored(&object(CONFIG_MAP, "a")).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_key_is_never_run_twice_at_once() {
    // `World` checks it when it is dropped, in this test and in all others.
    let world = one_child();
    world.brain.takes(ms(50));
    for round in 0..200u64 {
        for name in ["a", "b", "c"] {
            world.cluster.web(name);
        }
        world.run_for(ms(round % 30)).await;
    }
    world.run_for(ms(1000)).await;
    assert!(world.brain.calls() > 50);
    assert_eq!(world.cluster.log().len(), 3);
    assert_eq!(world.brain.most(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_change_during_a_pass_runs_it_again() {
    let world = World::leader(|_, _, _| decision(&[]));
    world.brain.takes(ms(100));
    world.cluster.web("a");
    world.run_for(ms(50)).await;
    assert_eq!(world.brain.calls(), 1);
    world.cluster.web("a");
    world.cluster.web("a");
    world.run_for(ms(10_000)).await;
    assert_eq!(world.brain.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn no_more_passes_than_allowed_are_under_way() {
    let config = Config { concurrency: 3, ..Config::new(HOST) };
    let world = World::with(|_, _, _| decision(&[]), config);
    world.lead(1);
    world.brain.takes(ms(100));
    (0..10).for_each(|n| world.cluster.web(&format!("w{n}")));
    world.run_for(ms(350)).await;
    assert_eq!((world.brain.most(), world.brain.calls()), (3, 10));
    world.run_for(ms(100)).await;
    assert_eq!((world.counts.active(), world.counts.of("success")), (0, 10));
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_is_gone_takes_its_keys_along() {
    let world = World::leader(|_, _, reader| {
        reader.get(&object("v1/LimitRange", "s")).expect("allowed");
        refused(Code::Trap)
    });
    world.cluster.web("a");
    world.run_for(ms(100)).await;
    world.brain.unserve(&plugin("web"));
    world.until(|w| w.queue.is_empty()).await;
    assert_eq!(world.cluster.reads(&key("a")), None);
    let calls = world.brain.calls();
    world.offer("a");
    world.run_for(ms(1000)).await;
    assert!(world.queue.is_empty());
    assert_eq!(world.brain.calls(), calls);
}

#[tokio::test(start_paused = true)]
async fn a_notice_that_every_pass_repeats_is_published_once() {
    let world = World::leader(|_, _, _| {
        let (severity, reason) = (Severity::Normal, "Ready".to_owned());
        let notices = vec![Notice { severity, reason, message: "all is well".into() }];
        Ok(Verdict::Decision(Decision { notices, ..Decision::default() }))
    });
    for _ in 0..10 {
        world.cluster.web("a");
        world.run_for(ms(100)).await;
    }
    assert_eq!(world.cluster.notices(), ["a Ready: all is well"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_version_decided_that_no_longer_serves_is_thrown_away() {
    let calls = AtomicUsize::new(0);
    let world = World::leader(move |_, _, _| match calls.fetch_add(1, Ordering::Relaxed) {
        0 => config_map("c", "of the old version"),
        _ => config_map("c", "of the new version"),
    });
    world.brain.takes(ms(1000));
    world.cluster.web("a");
    world.run_for(ms(500)).await;
    let newer = Serving { digest: Digest::of(b"newer"), ..serving("web", false) };
    world.brain.serve(newer);
    world.run_for(ms(10_000)).await;
    let child = world.cluster.stored(&object(CONFIG_MAP, "c")).expect("the key came back by itself");
    assert_eq!(child["data"]["k"], "of the new version");
    assert_eq!(world.cluster.log(), ["create v1/ConfigMap ns/c"]);
}

#[tokio::test(start_paused = true)]
async fn two_plugins_with_one_primary_do_not_make_each_other_write() {
    let world = World::leader(|pass, _, _| {
        let status = format!(r#"{{"of":"{}"}}"#, pass.key.plugin);
        Ok(Verdict::Decision(Decision { status: Some(status), ..Decision::default() }))
    });
    world.brain.serve(serving("two", false));
    let two = || world.queue.offer(Key::new(plugin("two"), "ns", "a"));
    world.cluster.web("a");
    world.run_for(ms(100)).await;
    two();
    world.run_for(ms(5000)).await;
    let written = world.cluster.log().len();
    for _ in 0..3 {
        world.offer("a");
        two();
        world.run_for(ms(5000)).await;
    }
    assert_eq!(world.cluster.log().len(), written);
}

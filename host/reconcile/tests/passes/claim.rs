//! Nothing happens without a claim, and nothing under another one.

use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::time::Instant;
use windlass_core::ports::Sink as _;
use windlass_reconcile::Config;

use crate::world::{CONFIG_MAP, HOST, WEB, World, config_map, decision, key, ms, object, one_child};

#[tokio::test(start_paused = true)]
async fn nothing_is_decided_or_written_without_a_claim_if_standbys_are_not_to_decide() {
    let config = Config { standby_decides: false, ..Config::new(HOST) };
    let world = World::with(|pass, _, _| config_map(&pass.key.name, "v"), config);
    world.cluster.web("a");
    world.run_for(ms(10_000)).await;
    // Even if somebody forgets to pause the queue.
    world.queue.resume();
    world.run_for(ms(10_000)).await;
    assert_eq!((world.brain.calls(), world.cluster.plans()), (0, 0));
    assert!(world.counts.of("error") <= 1, "the loop waits instead of trying every key");
    world.lead(1);
    world.until(|w| w.cluster.log() == ["create v1/ConfigMap ns/a"]).await;
}

#[tokio::test(start_paused = true)]
async fn losing_the_claim_ends_the_pass_and_the_key_returns_with_the_next_term() {
    let world = World::leader(|_, _, _| {
        let child = |name| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        decision(&[child("c1"), child("c2"), child("c3")])
    });
    world.cluster.write_takes(ms(100));
    world.cluster.web("a");
    world.run_for(ms(150)).await;
    world.step_down();
    world.run_for(ms(60_000)).await;
    assert_eq!(world.cluster.log(), ["create v1/ConfigMap ns/c1"]);
    world.lead(2);
    world.run_for(ms(1000)).await;
    let want = ["c1", "c2", "c3"].map(|c| format!("create v1/ConfigMap ns/{c}"));
    assert_eq!(world.cluster.log(), want);
    assert!(world.cluster.notices().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pass_never_writes_in_another_term_than_the_one_it_began_in() {
    let terms = AtomicUsize::new(0);
    let world = World::leader(move |_, _, _| {
        let n = terms.fetch_add(1, Ordering::Relaxed);
        config_map("c", &format!("decided {n}"))
    });
    world.brain.takes(ms(1000));
    world.cluster.web("a");
    world.run_for(ms(500)).await;
    world.gate.close();
    world.lead(2);
    world.until(|w| !w.cluster.log().is_empty()).await;
    let child = world.cluster.stored(&object(CONFIG_MAP, "c")).expect("written");
    assert_eq!(child["data"]["k"], "decided 1");
    assert_eq!(world.cluster.plans(), 1, "the stale plan did not even get that far");
}

#[tokio::test(start_paused = true)]
async fn a_standby_keeps_no_keys_of_objects_that_are_gone() {
    let config = Config { standby_decides: false, ..Config::new(HOST) };
    let world = World::with(|_, _, _| decision(&[]), config);
    for n in 0..100 {
        let name = format!("w{n}");
        world.cluster.web(&name);
        world.cluster.delete(&object(WEB, &name));
    }
    world.cluster.web("stays");
    assert_eq!(world.queue.len(), 101);
    world.run_for(ms(61_000)).await;
    assert_eq!(world.queue.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_passes_end_and_drops_those_that_do_not() {
    let mut world = one_child();
    world.cluster.write_takes(ms(1000));
    world.cluster.web("a");
    world.run_for(ms(100)).await;
    world.cluster.web("b");
    let took = world.shut_down().await;
    assert!(took >= ms(800) && took < ms(2100), "{took:?}");
    assert!(world.cluster.log().contains(&"create v1/ConfigMap ns/a".to_owned()));

    let mut world = one_child();
    world.brain.takes(ms(20_000));
    world.cluster.web("a");
    world.run_for(ms(100)).await;
    let began = Instant::now();
    world.shut_down().await;
    assert!(began.elapsed() >= ms(5000) && began.elapsed() < ms(5100));
    assert_eq!(world.queue.len(), 1, "its key is not lost");
    world.queue.offer(key("c"));
}

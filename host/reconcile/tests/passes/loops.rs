//! Objects that are written over and over: found, named, slowed down, and let go when cured.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::world::{CONFIG_MAP, World, config_map, ms, object, serving};

/// A plugin that never wants the same twice.
fn restless() -> World {
    let calls = Arc::new(AtomicUsize::new(0));
    let world =
        World::leader(move |_, _, _| config_map("c", &calls.fetch_add(1, Ordering::Relaxed).to_string()));
    world.cluster.web("a");
    world
}

#[tokio::test(start_paused = true)]
async fn a_decision_that_never_settles_is_slowed_down_and_told() {
    let world = restless();
    world.run_for(ms(30_000)).await;
    assert_eq!(world.cluster.log().len(), 31);
    let notices = world.cluster.notices();
    assert_eq!(notices.len(), 1, "{notices:?}");
    for part in [
        "a PassFailed: web@",
        "E250 WriteLoop: v1/ConfigMap ns/c was written 31 times",
        "/data/k",
        "paused for 60 s",
    ] {
        assert!(notices[0].contains(part), "{part}: {notices:?}");
    }
    world.run_for(Duration::from_secs(3600)).await;
    let writes = world.cluster.log().len();
    assert!((4 * 31..=8 * 31).contains(&writes), "{writes} writes in an hour");
    assert!(world.cluster.notices().len() <= 8, "{:?}", world.cluster.notices());
}

#[tokio::test(start_paused = true)]
async fn two_writers_that_disagree_are_found_by_the_field() {
    let world = World::leader(|_, _, _| config_map("c", "ours"));
    world.cluster.web("a");
    world.run_for(ms(1000)).await;
    let child = object(CONFIG_MAP, "c");
    for _ in 0..40 {
        let mut body = world.cluster.stored(&child).expect("it was made");
        body["data"]["k"] = "theirs".into();
        // Whoever applies with force takes the field over.
        body["metadata"]["managedFields"] = json!([]);
        world.cluster.put(&child, body);
        world.run_for(ms(500)).await;
    }
    let notices = world.cluster.notices();
    assert!(
        notices.iter().any(|n| n.contains("E250 WriteLoop") && n.contains("/data/k differing")),
        "{notices:?}"
    );
    assert_eq!(world.cluster.log().len(), 31, "then it is left as it is");
}

#[tokio::test(start_paused = true)]
async fn a_new_version_of_the_plugin_is_not_held_up_for_its_predecessor() {
    let world = restless();
    world.run_for(ms(30_000)).await;
    let mut next = serving("web", false);
    next.digest = windlass_core::name::Digest::of(b"mended");
    world.brain.serve(next);
    world.cluster.web("a");
    world.run_for(ms(60_000)).await;
    assert!(world.cluster.log().len() > 31, "it is asked within a minute");
}

#[tokio::test(start_paused = true)]
async fn other_objects_of_the_plugin_go_on() {
    let calls = Arc::new(AtomicUsize::new(0));
    let world = World::leader(move |pass, _, _| match &*pass.key.name {
        "a" => config_map("c", &calls.fetch_add(1, Ordering::Relaxed).to_string()),
        name => config_map(name, "settled"),
    });
    world.cluster.web("a");
    world.run_for(ms(10_000)).await;
    world.cluster.web("b");
    world.run_for(ms(100)).await;
    assert!(world.cluster.stored(&object(CONFIG_MAP, "b")).is_some());
}

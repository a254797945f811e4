//! Finalizers, and the end of a primary.

use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use windlass_core::decision::Verdict;

use crate::world::{WEB, World, config_map, decision, key, ms, object, one_child, serving};

#[tokio::test(start_paused = true)]
async fn a_finalizer_is_added_before_the_first_child() {
    let world = one_child();
    world.brain.serve(serving("web", true));
    world.cluster.web("a");
    world.run_for(ms(1000)).await;
    let want = ["finalizers [\"windlass.dev/web\"]", "create v1/ConfigMap ns/a"];
    assert_eq!(world.cluster.log(), want);
    assert_eq!(world.brain.finalizes(), [false, false]);
}

#[tokio::test(start_paused = true)]
async fn finalize_is_asked_until_it_is_done() {
    let asked = AtomicUsize::new(0);
    let world = World::leader(move |pass, _, _| {
        if !pass.finalize {
            return config_map(&pass.key.name, "v");
        }
        match asked.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => decision(&[]),
            _ => Ok(Verdict::Finalized),
        }
    });
    world.brain.serve(serving("web", true));
    world.cluster.web("a");
    world.run_for(ms(1000)).await;
    world.cluster.delete(&object(WEB, "a"));
    world.run_for(ms(30_000)).await;
    let log = world.cluster.log();
    assert_eq!(log[2..], ["delete v1/ConfigMap ns/a", "finalizers []"]);
    assert_eq!(world.cluster.stored(&object(WEB, "a")), None);
    assert!(world.queue.is_empty());
    assert_eq!(world.cluster.reads(&key("a")), None);
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_no_longer_finalizes_lets_go_without_being_asked() {
    let world = World::leader(|_, _, _| decision(&[]));
    let finalizers = json!({"metadata": {"finalizers": ["windlass.dev/web"]}});
    world.cluster.put(&object(WEB, "a"), finalizers);
    world.run_for(ms(100)).await;
    let calls = world.brain.calls();
    world.cluster.delete(&object(WEB, "a"));
    world.run_for(ms(100)).await;
    assert_eq!(world.cluster.log(), ["finalizers []"]);
    assert_eq!(world.brain.calls(), calls);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_is_somebody_elses_to_finish_is_left_alone() {
    let world = one_child();
    world.cluster.put(&object(WEB, "a"), json!({"metadata": {"finalizers": ["other.dev/x"]}}));
    world.run_for(ms(100)).await;
    let calls = world.brain.calls();
    world.cluster.delete(&object(WEB, "a"));
    world.run_for(ms(1000)).await;
    assert_eq!((world.brain.calls(), world.cluster.log().len()), (calls, 1));
}

#[tokio::test(start_paused = true)]
async fn a_verdict_that_was_not_asked_for_is_refused() {
    let world = World::leader(|_, _, _| Ok(Verdict::Finalized));
    world.brain.serve(serving("web", true));
    world.cluster.web("a");
    world.run_for(ms(1000)).await;
    assert_eq!(world.cluster.log(), ["finalizers [\"windlass.dev/web\"]"]);
    assert!(world.cluster.notices()[0].contains("E211"), "{:?}", world.cluster.notices());
}

//! What is known when a pass begins, and what brings its key back.

use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use windlass_core::code::Code;
use windlass_core::ports::CallError;
use windlass_core::reads::Query;

use crate::world::{CONFIG_MAP, World, config_map, decision, gvk, key, ms, object, one_child, refused};

#[tokio::test(start_paused = true)]
async fn a_read_brings_its_key_back() {
    let world = World::leader(|_, _, reader| {
        let range = reader.get(&object("v1/LimitRange", "s")).expect("allowed");
        config_map("c", range.map_or("absent".into(), |s| s.value()["data"].to_string()).as_str())
    });
    let data = |w: &World| w.cluster.stored(&object(CONFIG_MAP, "c")).expect("written")["data"]["k"].clone();
    world.cluster.web("a");
    world.run_for(ms(100)).await;
    assert_eq!(data(&world), "absent");
    let open = json!({"open": "yes"});
    world.cluster.put(&object("v1/LimitRange", "s"), json!({"metadata": {"labels": open}, "data": 1}));
    world.run_for(ms(100)).await;
    assert_eq!(data(&world), "1");
    world.cluster.put(&object("v1/LimitRange", "s"), json!({"metadata": {"labels": open}, "data": 2}));
    world.run_for(ms(100)).await;
    assert_eq!(data(&world), "2");
    // Its labels no longer open it for this plugin: it is as if it were not there.
    world.cluster.put(&object("v1/LimitRange", "s"), json!({"metadata": {}, "data": 3}));
    world.run_for(ms(100)).await;
    assert_eq!(data(&world), "absent");
}

#[tokio::test(start_paused = true)]
async fn a_list_that_gains_a_member_brings_its_key_back() {
    let world = World::leader(|_, _, reader| {
        let query = Query { gvk: gvk("v1/LimitRange"), namespace: None, labels: vec![] };
        config_map("c", &reader.list(&query).expect("allowed").len().to_string())
    });
    world.cluster.web("a");
    world.run_for(ms(100)).await;
    let range = |name: &str, open| {
        world.cluster.put(&object("v1/LimitRange", name), json!({"metadata": {"labels": {"open": open}}}));
    };
    range("s1", "yes");
    range("s2", "no");
    world.run_for(ms(100)).await;
    let child = world.cluster.stored(&object(CONFIG_MAP, "c")).expect("written");
    assert_eq!(child["data"]["k"], "1");
    assert_eq!(world.brain.calls(), 4, "two for the child's own events; none for what is not open");
}

#[tokio::test(start_paused = true)]
async fn what_changes_while_it_is_read_is_read_again() {
    let world = World::leader(|_, _, reader| {
        reader.get(&object("v1/LimitRange", "s")).expect("allowed");
        decision(&[])
    });
    world.brain.takes(ms(1000));
    world.cluster.web("a");
    world.run_for(ms(500)).await;
    world.cluster.put(&object("v1/LimitRange", "s"), json!({"metadata": {"labels": {"open": "yes"}}}));
    world.run_for(ms(5000)).await;
    assert_eq!(world.brain.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_fails_forgets_nothing_that_was_read() {
    let calls = AtomicUsize::new(0);
    let world = World::leader(move |_, _, reader| match calls.fetch_add(1, Ordering::Relaxed) {
        0 => reader.get(&object("v1/LimitRange", "s")).map(|_| decision(&[])).expect("allowed"),
        _ => refused(Code::Trap),
    });
    world.cluster.web("a");
    world.run_for(ms(100)).await;
    world.cluster.web("a");
    world.run_for(ms(100)).await;
    assert!(world.brain.calls() > 1);
    assert!(
        world
            .cluster
            .reads(&key("a"))
            .expect("still watched")
            .objects
            .contains(&object("v1/LimitRange", "s"))
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_no_longer_read_is_no_longer_watched() {
    let calls = AtomicUsize::new(0);
    let world = World::leader(move |_, _, reader| {
        let name = format!("s{}", calls.fetch_add(1, Ordering::Relaxed));
        reader.get(&object("v1/LimitRange", &name)).map(|_| decision(&[])).expect("allowed")
    });
    for _ in 0..5 {
        world.cluster.web("a");
        world.run_for(ms(100)).await;
    }
    let reads = world.cluster.reads(&key("a")).expect("watched");
    assert_eq!(reads.objects.into_iter().collect::<Vec<_>>(), [object("v1/LimitRange", "s4")]);
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_fails_and_reads_something_new_each_time_is_not_watched_without_end() {
    let calls = AtomicUsize::new(0);
    let world = World::leader(move |_, _, reader| {
        let name = format!("s{}", calls.fetch_add(1, Ordering::Relaxed));
        reader.get(&object("v1/LimitRange", &name)).expect("allowed");
        refused(Code::Trap)
    });
    world.cluster.web("a");
    world.run_for(Duration::from_secs(24 * 3600)).await;
    let reads = world.cluster.reads(&key("a")).expect("watched");
    let calls = world.brain.calls();
    assert!(calls > 100 && reads.objects.len() <= 16, "{calls} calls, {} objects", reads.objects.len());
}

#[tokio::test(start_paused = true)]
async fn a_read_outside_the_manifest_ends_the_pass() {
    let world = World::leader(|_, _, reader| match reader.get(&object("v1/Node", "n")) {
        Ok(_) => decision(&[]),
        Err(refusal) => Err(CallError::Refused(refusal)),
    });
    world.cluster.web("a");
    world.run_for(ms(10)).await;
    let notices = world.cluster.notices();
    assert!(notices[0].contains("E231 ReadNotAllowed: v1/Node"), "{notices:?}");
    assert_eq!(world.cluster.reads(&key("a")), None);
}

#[tokio::test(start_paused = true)]
async fn own_writes_are_waited_for() {
    let world = one_child();
    world.cluster.web("a");
    world.cluster.hold();
    world.run_for(ms(10)).await;
    assert_eq!((world.cluster.log().len(), world.brain.calls()), (1, 1));
    for _ in 0..60 {
        world.offer("a");
        world.run_for(ms(500)).await;
    }
    // Thirty seconds of a cache that stands still: nobody is asked, nothing is made twice.
    assert_eq!((world.cluster.log().len(), world.brain.calls()), (1, 1));
    world.cluster.show();
    world.run_for(ms(2000)).await;
    assert_eq!((world.cluster.log().len(), world.brain.calls()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_the_cache_never_shows_has_its_kind_listed_anew() {
    let world = one_child();
    world.cluster.web("a");
    world.cluster.hold();
    world.run_for(ms(10)).await;
    world.offer("a");
    world.run_for(ms(40_000)).await;
    assert_eq!((world.brain.calls(), world.cluster.relists()), (1, vec![]));
    world.run_for(ms(10_000)).await;
    assert_eq!(world.cluster.relists(), [gvk(CONFIG_MAP)]);
    // The list does not come: what it would say is worth waiting for.
    world.run_for(Duration::from_secs(3600)).await;
    assert_eq!((world.brain.calls(), world.counts.relisted()), (1, 1));
    world.cluster.list_anew(CONFIG_MAP);
    world.run_for(ms(2000)).await;
    assert_eq!((world.brain.calls(), world.cluster.log().len()), (2, 1), "it was there all the time");
    assert!(world.queue.is_empty());
}

/// The object was written, and then somebody else deleted it: no event will ever show our version.
#[tokio::test(start_paused = true)]
async fn what_a_list_says_of_our_own_write_counts_even_if_it_is_not_there() {
    let world = one_child();
    world.cluster.web("a");
    world.cluster.hold();
    world.run_for(ms(10)).await;
    world.cluster.delete(&object(CONFIG_MAP, "a"));
    world.offer("a");
    world.run_for(ms(30_000)).await;
    assert_eq!(world.cluster.log().len(), 1);
    // Long before it is asked for, for another reason.
    world.cluster.list_anew(CONFIG_MAP);
    world.run_for(ms(2000)).await;
    assert_eq!((world.cluster.log().len(), world.counts.relisted()), (2, 0), "made again");
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_listed_yet_is_waited_for_without_a_fault() {
    let world = one_child();
    world.cluster.set_synced("v1/LimitRange", false);
    world.cluster.web("a");
    world.run_for(ms(20_000)).await;
    assert_eq!((world.brain.calls(), world.cluster.notices().len()), (0, 0));
    world.cluster.set_synced("v1/LimitRange", true);
    world.run_for(ms(2100)).await;
    assert_eq!(world.cluster.log().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_kind_to_read_that_does_not_exist_stops_nobody() {
    let world = one_child();
    world.cluster.set_absent("v1/LimitRange");
    world.cluster.web("a");
    world.run_for(ms(100)).await;
    assert_eq!(world.cluster.log().len(), 1);
}

/// A plugin must not be told that something does not exist when nobody has looked.
#[tokio::test(start_paused = true)]
async fn a_kind_of_which_discovery_has_said_nothing_yet_is_waited_for() {
    let world = one_child();
    world.cluster.set_absent("v1/LimitRange");
    world.cluster.set_synced("v1/LimitRange", false);
    world.cluster.web("a");
    world.run_for(ms(5000)).await;
    assert_eq!(world.brain.calls(), 0);
    // Now it is known not to be served.
    world.cluster.set_synced("v1/LimitRange", true);
    world.run_for(ms(5000)).await;
    assert!(world.brain.calls() > 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_for_the_keys_of_a_plugin_that_is_gone_goes_too() {
    let world = World::leader(|_, _, reader| {
        reader.get(&object("v1/LimitRange", "s")).expect("allowed");
        config_map("c", "v")
    });
    world.cluster.web("a");
    world.run_for(ms(100)).await;
    assert!(world.cluster.reads(&key("a")).is_some());
    world.brain.unserve(&crate::world::plugin("web"));
    world.run_for(Duration::from_secs(120)).await;
    assert_eq!(world.cluster.reads(&key("a")), None);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_made_again_for_a_primary_that_is_not_there_any_more_as_it_was_seen() {
    let world = one_child();
    let (primary, child) = (object("x.dev/v1/Web", "a"), object(CONFIG_MAP, "a"));
    world.cluster.web("a");
    world.run_for(ms(100)).await;
    assert!(world.cluster.stored(&child).is_some());
    // It is made anew, and its watch does not show it; the collector ends the child, and that is shown.
    world.cluster.hold();
    world.cluster.delete(&primary);
    world.cluster.web("a");
    world.cluster.delete(&child);
    world.cluster.list_anew(CONFIG_MAP);
    let written = world.cluster.log().len();
    world.run_for(Duration::from_secs(20)).await;
    assert!(world.cluster.stored(&child).is_none());
    assert_eq!(world.cluster.log().len(), written, "{:?}", world.cluster.log());
    world.cluster.show();
    world.run_for(ms(100)).await;
    assert!(world.cluster.stored(&child).is_some(), "for the new one");
    // A child that is missing while its primary lives is made again at once.
    world.cluster.delete(&child);
    world.run_for(ms(100)).await;
    assert!(world.cluster.stored(&child).is_some());
}

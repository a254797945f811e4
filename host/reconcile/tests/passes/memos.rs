//! Passes that are skipped because nothing that they could see has changed, and those that are not.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use windlass_core::class::Class;
use windlass_core::code::Code;
use windlass_core::decision::{Decision, Notice, Severity, Verdict};
use windlass_core::guests::LoadId;
use windlass_core::ports::Serving;
use windlass_core::reads::Query;
use windlass_reconcile::Resynced;

use crate::world::{
    CONFIG_MAP, Reply, WEB, World, config_map, decision, gvk, key, ms, object, one_child, refused, serving,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A decision without children that wants to be asked again.
fn again_after(after: Duration) -> Reply {
    Ok(Verdict::Decision(Decision { requeue_after: Some(after), ..Decision::default() }))
}

/// Has every key looked at, and answers how many were asked for.
async fn asked(world: &World, names: &[&str]) -> usize {
    let before = world.brain.calls();
    names.iter().for_each(|name| world.offer(name));
    world.run_for(ms(10)).await;
    world.brain.calls() - before
}

#[tokio::test(start_paused = true)]
async fn a_pass_whose_inputs_have_not_changed_asks_nobody() {
    let world = one_child();
    world.cluster.web("a");
    world.run_for(ms(1000)).await;
    assert_eq!(world.brain.calls(), 2, "the second one saw what the first one wrote");
    assert_eq!(asked(&world, &["a"]).await, 0);
    assert_eq!((world.counts.skipped(), world.counts.of("success")), (1, 3));
    assert!(world.queue.is_empty());
    world.cluster.web("a");
    world.run_for(ms(1000)).await;
    assert_eq!(world.brain.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_resync_offers_only_what_is_not_known_to_be_as_it_should() {
    let world = World::leader(|pass, _, _| match pass.key.name.starts_with("bad") {
        true => refused(Code::Trap),
        false => config_map(&pass.key.name, "v"),
    });
    (0..600).for_each(|n| world.cluster.web(&format!("w{n}")));
    world.cluster.web("bad");
    world.run_for(ms(150)).await;
    let calls = world.brain.calls();
    assert_eq!(world.reconciler.resync().await, Resynced { offered: 1, skipped: 600 });
    world.run_for(ms(10)).await;
    assert!(world.brain.asked()[calls..].iter().all(|name| name == "bad"));
    assert_eq!(world.counts.skipped(), 600);
    world.cluster.set_synced("v1/LimitRange", false);
    assert_eq!(world.reconciler.resync().await, Resynced { offered: 601, skipped: 0 });
}

#[tokio::test(start_paused = true)]
async fn whatever_a_pass_saw_ends_its_memo_when_it_changes() {
    let world = World::leader(|pass, _, reader| {
        reader.get(&object("v1/LimitRange", "there")).expect("allowed");
        reader.get(&object("v1/LimitRange", "absent")).expect("allowed");
        let query =
            Query { gvk: gvk("v1/LimitRange"), namespace: None, labels: vec![("in".into(), "y".into())] };
        reader.list(&query).expect("allowed");
        config_map(&pass.key.name, "v")
    });
    let range = |name: &str, listed: &str| {
        let labels = json!({"open": "yes", "in": listed});
        world.cluster.put(&object("v1/LimitRange", name), json!({"metadata": {"labels": labels}}));
    };
    ["there", "m1", "m2"].iter().for_each(|name| range(name, if *name == "there" { "n" } else { "y" }));
    world.cluster.web("a");
    world.run_for(ms(1000)).await;
    assert_eq!(asked(&world, &["a"]).await, 0);
    type Change<'a> = (&'a str, Box<dyn Fn() + 'a>);
    let cluster = &world.cluster;
    let changes: [Change<'_>; 8] = [
        ("the primary", Box::new(|| cluster.web("a"))),
        ("the child", Box::new(|| cluster.delete(&object(CONFIG_MAP, "a")))),
        ("what was read", Box::new(|| range("there", "n"))),
        ("what was read is gone", Box::new(|| cluster.delete(&object("v1/LimitRange", "there")))),
        ("what was not there", Box::new(|| range("absent", "n"))),
        ("a member of the list", Box::new(|| range("m1", "y"))),
        ("a new member", Box::new(|| range("m3", "y"))),
        ("one member less", Box::new(|| range("m2", "n"))),
    ];
    for (what, change) in changes {
        let before = world.brain.calls();
        change();
        world.run_for(ms(1000)).await;
        assert!(world.brain.calls() > before, "{what}");
        assert_eq!(asked(&world, &["a"]).await, 0, "{what}, and then it is known");
    }
}

#[tokio::test(start_paused = true)]
async fn another_component_setting_or_crd_asks_again_and_of_its_own_plugin_only() {
    let world = one_child();
    world.brain.serve(serving("two", false));
    world.cluster.web("a");
    world.run_for(ms(1000)).await;
    assert_eq!(asked(&world, &["a"]).await, 0);
    let settings = Some("{}".into());
    world.brain.serve(Serving { settings: settings.clone(), ..serving("web", false) });
    assert_eq!(asked(&world, &["a"]).await, 1, "the settings");
    world.brain.serve(Serving { settings: settings.clone(), load: LoadId(9), ..serving("web", false) });
    assert_eq!(asked(&world, &["a"]).await, 1, "the limits");
    for kind in [WEB, CONFIG_MAP, "v1/LimitRange"] {
        world.cluster.new_era(kind);
        assert_eq!((asked(&world, &["a"]).await, asked(&world, &["a"]).await), (1, 0), "{kind}");
    }
    world.cluster.new_era("v1/Pod");
    assert_eq!(asked(&world, &["a"]).await, 0, "no kind of its own");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_kept_by_every_pass_before_it_and_asks_again_at_it() {
    let world = World::leader(|_, _, _| again_after(MINUTE));
    world.cluster.web("a");
    world.run_for(ms(1)).await;
    let first = world.brain.times("a")[0];
    for _ in 0..3 {
        world.run_for(ms(15_000)).await;
        world.offer("a");
        world.run_for(ms(1)).await;
        assert_eq!(world.reconciler.resync().await, Resynced { offered: 0, skipped: 1 });
        assert_eq!((world.brain.calls(), world.queue.delayed()), (1, 1));
    }
    world.run_for(ms(15_000)).await;
    let times = world.brain.times("a");
    assert_eq!(times.len(), 2, "nothing has changed, and it wanted to be asked");
    let late = times[1] - first;
    assert!(late >= MINUTE && late < MINUTE + ms(5), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_asks_for_the_time_or_is_on_trial_is_always_asked() {
    let world = one_child();
    world.brain.reads_clock(true);
    world.cluster.web("a");
    world.run_for(ms(1000)).await;
    assert_eq!(asked(&world, &["a"]).await, 1);
    world.brain.reads_clock(false);
    assert_eq!((asked(&world, &["a"]).await, asked(&world, &["a"]).await), (1, 0));
    world.brain.on_trial(true);
    assert_eq!(asked(&world, &["a"]).await, 1);
    assert_eq!(world.reconciler.resync().await.offered, 1);
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_wrote_waited_or_failed_is_not_remembered() {
    let world = World::leader(|_, snapshot, _| {
        let status = Some(json!({"of": snapshot.primary.value()["spec"]}).to_string());
        Ok(Verdict::Decision(Decision { status, ..Decision::default() }))
    });
    world.cluster.hold();
    world.cluster.fail(Class::Transient, 1, None);
    world.cluster.web("a");
    world.cluster.show();
    world.run_for(ms(1)).await;
    assert_eq!((world.brain.calls(), world.cluster.plans()), (1, 1), "it failed");
    world.cluster.hold();
    world.run_for(ms(200)).await;
    assert_eq!((world.brain.calls(), world.cluster.log().len()), (2, 1), "it wrote");
    assert_eq!(world.reconciler.resync().await.offered, 1, "nobody has seen what it wrote");
    world.cluster.show();
    world.run_for(ms(2000)).await;
    assert_eq!((world.brain.calls(), asked(&world, &["a"]).await), (3, 0));
    // Another status is wanted, and held back for a while.
    world.cluster.status_every(MINUTE);
    world.cluster.put(&object(WEB, "a"), json!({"metadata": {}, "spec": 2, "status": {"of": null}}));
    world.run_for(ms(10)).await;
    assert_eq!(asked(&world, &["a"]).await, 1, "the one before waited with its status");
}

#[tokio::test(start_paused = true)]
async fn what_was_looked_at_in_two_states_is_not_remembered() {
    let (cluster, moves) = (std::sync::Arc::new(std::sync::OnceLock::new()), AtomicBool::new(true));
    let its = cluster.clone();
    let world = World::leader(move |_, _, reader| {
        let of = object("v1/LimitRange", "s");
        let before = reader.get(&of).expect("allowed").map(|s| s.number());
        let cluster: &std::sync::Arc<crate::world::Cluster> = its.get().expect("set");
        if moves.swap(false, Ordering::Relaxed) {
            // The queue takes no key while the test holds this one: nobody is offered.
            cluster.put_unheard(&of, json!({"metadata": {"labels": {"open": "yes"}}}));
        }
        let after = reader.get(&of).expect("allowed").map(|s| s.number());
        assert!(before.is_none() || before == after);
        decision(&[])
    });
    assert!(cluster.set(world.cluster.clone()).is_ok());
    world.cluster.web("a");
    world.run_for(ms(1000)).await;
    assert_eq!((world.brain.calls(), asked(&world, &["a"]).await, asked(&world, &["a"]).await), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_was_said_stays_said() {
    let calls = AtomicUsize::new(0);
    let world = World::leader(move |_, _, _| {
        let (severity, reason) = (Severity::Normal, "Ready".to_owned());
        let message = if calls.fetch_add(1, Ordering::Relaxed) < 2 { "well" } else { "better" };
        let notices = vec![Notice { severity, reason, message: message.into() }];
        Ok(Verdict::Decision(Decision { notices, ..Decision::default() }))
    });
    world.cluster.web("a");
    world.run_for(ms(10)).await;
    for _ in 0..5 {
        assert_eq!(asked(&world, &["a"]).await, 0);
    }
    world.cluster.web("a");
    world.run_for(ms(10)).await;
    assert_eq!(world.cluster.notices(), ["a Ready: well"]);
    world.cluster.web("a");
    world.run_for(ms(10)).await;
    assert_eq!(world.cluster.notices(), ["a Ready: well", "a Ready: better"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_standby_found_to_be_in_order_is_in_order_for_the_leader_too() {
    let world = World::standby(|_, _, _| decision(&[]));
    (0..20).for_each(|n| world.cluster.web(&format!("w{n}")));
    world.run_for(ms(1000)).await;
    assert_eq!(world.brain.calls(), 20);
    world.lead(1);
    assert_eq!(world.reconciler.resync().await, Resynced { offered: 0, skipped: 20 });
    world.step_down();
    world.lead(3);
    (0..20).for_each(|n| world.offer(&format!("w{n}")));
    world.run_for(ms(1000)).await;
    assert_eq!((world.brain.calls(), world.counts.of("success")), (20, 20));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_of_what_is_gone() {
    let world = one_child();
    ["a", "b"].iter().for_each(|name| world.cluster.web(name));
    world.run_for(ms(1000)).await;
    assert_eq!(world.reconciler.resync().await.skipped, 2);
    assert_eq!(world.reconciler.remembered_keys(), 2);
    world.cluster.delete(&object(WEB, "a"));
    world.run_for(ms(1000)).await;
    assert_eq!(world.reconciler.remembered_keys(), 1);
    world.brain.unserve(&key("b").plugin);
    world.run_for(2 * MINUTE).await;
    assert_eq!(world.reconciler.remembered_keys(), 0);
}

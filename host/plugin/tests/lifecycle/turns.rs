//! Which version serves: every turn that a ConfigMap's life can take.

use windlass_core::code::{Code, Refusal};
use windlass_core::name::Digest;
use windlass_plugin::{State, Step, Version};

use crate::world::{World, broken, name, offer, short};

#[test]
fn a_life_goes_from_found_to_serving_step_by_step() {
    let mut world = World::new();
    let ticket = world.begin(&offer("ns/a", "p", "1", "v1")).0.expect("new");
    let mut seen = vec![world.state("ns/a").0];
    let digest = Digest::of(b"1.0.0");
    for step in [Step::Checked { digest, key: None }, Step::Compiled, Step::Warmed] {
        world.step(&ticket, step);
        assert!(!world.registry.is_settled());
        assert_eq!(world.serving("p"), None, "nothing serves before it is warm");
        seen.push(world.state("ns/a").0);
    }
    let version = world.version("p", "1.0.0");
    assert_eq!(short(&world.finish(&ticket, Ok(version))), ["ns/a serves 1.0.0 after nothing"]);
    seen.push(world.state("ns/a").0);
    assert_eq!(seen, [State::Found, State::Checked, State::Compiled, State::Warmed, State::Serving]);
    assert!(world.registry.is_settled());
    world.step(&ticket, Step::Compiled);
    assert_eq!(world.state("ns/a").0, State::Serving, "a late step changes nothing");
}

#[test]
fn what_is_incomplete_is_no_refusal_until_somebody_says_so() {
    let mut world = World::new();
    world.serve(&offer("ns/a", "p", "1", "v1"), "1.0.0");
    let ticket = world.begin(&offer("ns/a", "p", "1", "half of v2")).0.expect("changed");
    let missing = Refusal::new(Code::PartsIncomplete, "part 2 of 2 is missing");
    world.step(&ticket, Step::Waiting(missing.clone()));
    let (state, message) = world.state("ns/a");
    assert_eq!(state, State::Found);
    assert!(
        message.contains("part 2 of 2 is missing; 1.0.0 (") && message.ends_with("goes on serving"),
        "{message}"
    );
    assert!(!world.registry.is_settled());
    assert_eq!(short(&world.finish(&ticket, Err(missing))), ["ns/a refused 118 while 1.0.0 serves"]);
    assert!(world.registry.is_settled());
}

#[test]
fn a_new_version_replaces_the_old_one_only_when_it_is_warm() {
    let mut world = World::new();
    world.serve(&offer("ns/a", "p", "1", "v1"), "1.0.0");
    let (ticket, changes) = world.begin(&offer("ns/a", "p", "1", "v2"));
    let ticket = ticket.expect("changed");
    assert!(changes.is_empty());
    for step in [Step::Compiled, Step::Warmed] {
        world.step(&ticket, step);
        assert_eq!(world.serving("p").as_deref(), Some("1.0.0"));
    }
    let version = world.version("p", "2.0.0");
    assert_eq!(short(&world.finish(&ticket, Ok(version))), ["ns/a serves 2.0.0 after 1.0.0"]);
}

#[test]
fn calls_in_flight_end_on_the_old_version_which_is_unloaded_with_the_last_of_them() {
    let mut world = World::new();
    world.serve(&offer("ns/a", "p", "1", "v1"), "1.0.0");
    let calls = [world.registry.serving(&name("p")).cloned(), world.registry.serving(&name("p")).cloned()];
    drop(world.serve(&offer("ns/a", "p", "1", "v2"), "2.0.0"));
    assert_eq!(world.alive(), 2, "the old one still answers");
    let [first, second] = calls;
    drop(first);
    assert_eq!(world.alive(), 2);
    assert_eq!(second.expect("served").manifest().version, "1.0.0");
    assert_eq!(world.alive(), 1, "the last call has ended");
}

#[test]
fn a_broken_version_leaves_the_last_good_one_serving_and_says_so() {
    let mut world = World::new();
    world.serve(&offer("ns/a", "p", "1", "v1"), "1.0.0");
    let good = world.registry.serving(&name("p")).expect("serves").digest().clone();
    let ticket = world.begin(&offer("ns/a", "p", "1", "v2")).0.expect("changed");
    let bad = Digest::of(b"v2");
    world.step(&ticket, Step::Checked { digest: bad.clone(), key: Some("plugin.wasm.zst") });
    let changes = world.finish(&ticket, Err(broken()));
    assert_eq!(short(&changes), ["ns/a refused 112 while 1.0.0 serves"]);
    let (state, message) = world.state("ns/a");
    assert_eq!(state, State::Refused);
    assert_eq!(
        message,
        format!(
            "E112 CoreModule: plugin p, ConfigMap ns/a, key plugin.wasm.zst ({}): \
             this is a core module; 1.0.0 ({}) goes on serving",
            bad.short(),
            good.short()
        )
    );
    let annotations = world.registry.status("ns/a").expect("known").annotations();
    assert_eq!(annotations[0], ("windlass.dev/state", Some("refused".to_owned())));
    assert_eq!(annotations[1].1.as_deref(), Some(bad.as_str()));
    assert_eq!(annotations[3], ("windlass.dev/since", Some("2027-01-15T08:00:05Z".to_owned())));
    assert!(!world.registry.wants_last_good(&ticket), "something serves");
}

#[test]
fn what_has_not_changed_is_not_loaded_again_and_what_goes_back_neither() {
    let mut world = World::new();
    world.serve(&offer("ns/a", "p", "1", "v1"), "1.0.0");
    let (load, changes) = world.begin(&offer("ns/a", "p", "1", "v1"));
    assert!(load.is_none() && changes.is_empty());
    let late = world.begin(&offer("ns/a", "p", "1", "v2")).0.expect("changed");
    let (load, changes) = world.begin(&offer("ns/a", "p", "1", "v1"));
    assert!(load.is_none() && changes.is_empty(), "it serves already");
    assert_eq!(world.state("ns/a"), (State::Serving, "version 1.0.0".to_owned()));
    let version = world.version("p", "2.0.0");
    assert!(world.finish(&late, Ok(version)).is_empty(), "nobody offers it any more");
    assert_eq!((world.serving("p").as_deref(), world.alive()), (Some("1.0.0"), 1));
}

#[test]
fn a_result_that_has_been_overtaken_counts_for_nothing() {
    let mut world = World::new();
    let first = world.begin(&offer("ns/a", "p", "1", "v1")).0.expect("new");
    let second = world.begin(&offer("ns/a", "p", "1", "v2")).0.expect("changed");
    let (one, two) = (world.version("p", "1.0.0"), world.version("p", "2.0.0"));
    assert_eq!(short(&world.finish(&second, Ok(two))), ["ns/a serves 2.0.0 after nothing"]);
    assert!(world.finish(&first, Ok(one)).is_empty());
    assert_eq!(world.serving("p").as_deref(), Some("2.0.0"));
    let late = world.begin(&offer("ns/a", "p", "1", "v3")).0.expect("changed");
    assert_eq!(short(&world.registry.remove("ns/a")), ["p gone after 2.0.0"]);
    let three = world.version("p", "3.0.0");
    assert!(world.finish(&late, Ok(three)).is_empty());
    assert_eq!((world.serving("p"), world.alive()), (None, 0));
}

#[test]
fn the_last_good_version_serves_when_what_is_offered_does_not() {
    let mut world = World::new();
    let ticket = world.begin(&offer("ns/a", "p", "1", "broken")).0.expect("new");
    assert!(!world.registry.wants_last_good(&ticket), "nobody knows yet");
    drop(world.finish(&ticket, Err(broken())));
    assert!(world.registry.wants_last_good(&ticket));
    let (kept, now) = (world.version("p", "0.1.0"), world.now());
    let changes = world.registry.restore(&ticket, kept, now);
    assert_eq!(short(&changes), ["ns/a serves 0.1.0 after nothing"]);
    let (state, message) = world.state("ns/a");
    assert_eq!(state, State::Refused, "the state is the ConfigMap's");
    assert!(message.contains("this is a core module; 0.1.0 ("), "{message}");
    assert!(message.ends_with("which the host had kept, goes on serving"), "{message}");
    assert_eq!(world.registry.good().count(), 0, "what was kept is not kept again");
    let (again, now) = (world.version("p", "0.1.0"), world.now());
    assert!(world.registry.restore(&ticket, again, now).is_empty(), "once");

    assert_eq!(
        short(&world.serve(&offer("ns/a", "p", "1", "mended"), "0.2.0")),
        ["ns/a serves 0.2.0 after 0.1.0"]
    );
    assert_eq!(world.registry.good().count(), 1);
    let (late, now) = (world.version("p", "0.1.0"), world.now());
    assert!(world.registry.restore(&ticket, late, now).is_empty(), "something newer was offered");
}

#[test]
fn a_quarantined_plugin_keeps_its_version_and_says_why_and_until_when() {
    let mut world = World::new();
    world.serve(&offer("ns/a", "p", "1", "v1"), "1.0.0");
    let digest = world.registry.serving(&name("p")).expect("serves").digest().clone();
    let why = world.quarantined(1);
    world.registry.quarantine(&name("p"), &Digest::of(b"another"), why.clone());
    assert_eq!(world.state("ns/a").0, State::Serving, "it was another version's");
    world.registry.quarantine(&name("p"), &digest, why.clone());
    let status = world.registry.status("ns/a").expect("known");
    assert_eq!((status.state, status.since), (State::Quarantined, why.since));
    assert_eq!(
        status.message,
        format!(
            "E201 Trap: plugin p, ConfigMap ns/a ({}): unreachable; it failed too often in a \
             row and is left alone until 2027-01-15T08:01:03Z, its objects stay as they are",
            digest.short()
        )
    );
    assert_eq!(world.serving("p").as_deref(), Some("1.0.0"));
    assert!(world.registry.is_settled());
    assert_eq!(world.registry.good().count(), 0, "it is not kept as a good one");

    let now = world.now();
    world.registry.release(&name("p"), now);
    assert_eq!(world.state("ns/a").0, State::Serving);
    world.registry.quarantine(&name("p"), &digest, why);
    world.serve(&offer("ns/a", "p", "1", "v2"), "2.0.0");
    assert_eq!(world.state("ns/a").0, State::Serving, "a new version starts clean");
}

#[test]
fn the_older_of_two_config_maps_has_the_name_whichever_comes_first() {
    let (old, young) = (offer("ns/z", "p", "2026-01-01", "old"), offer("ns/a", "p", "2026-02-01", "young"));
    let mut world = World::new();
    world.serve(&old, "1.0.0");
    let (load, changes) = world.begin(&young);
    assert!(load.is_none());
    assert_eq!(short(&changes), ["ns/a refused 140 while 1.0.0 serves"]);
    let message = world.state("ns/a").1;
    assert!(
        message.starts_with("E140 DuplicatePlugin: plugin p, ConfigMap ns/a: ConfigMap ns/z already"),
        "{message}"
    );
    assert!(short(&world.begin(&young).1).is_empty(), "said once");

    let mut world = World::new();
    world.serve(&young, "2.0.0");
    let (load, changes) = world.begin(&old);
    assert_eq!(short(&changes), ["ns/a refused 140 while 2.0.0 serves"]);
    let version = world.version("p", "1.0.0");
    let changes = world.finish(&load.expect("it has the name"), Ok(version));
    assert_eq!(short(&changes), ["ns/z serves 1.0.0 after 2.0.0"]);
    assert_eq!(world.registry.view()[0].duplicates, ["ns/a"]);
}

#[test]
fn a_duplicate_gets_its_turn_when_the_holder_goes_or_is_made_anew() {
    let mut world = World::new();
    world.serve(&offer("ns/a", "p", "1", "a"), "1.0.0");
    let (_, refused) = world.begin(&offer("ns/b", "p", "2", "b"));
    assert_eq!(refused.len(), 1);
    let (_, changes) = world.begin(&offer("ns/a", "p", "3", "a"));
    assert_eq!(short(&changes), ["ns/b again"]);
    let (load, changes) = world.begin(&offer("ns/b", "p", "2", "b"));
    assert_eq!(short(&changes), ["ns/a refused 140 while 1.0.0 serves"]);
    let version = world.version("p", "2.0.0");
    drop(world.finish(&load.expect("it is the older one now"), Ok(version)));
    assert_eq!(short(&world.registry.remove("ns/b")), ["p gone after 2.0.0", "ns/a again"]);
    let changes = world.serve(&offer("ns/a", "p", "3", "a"), "1.0.0");
    assert_eq!(short(&changes), ["ns/a serves 1.0.0 after nothing"]);
    assert!(world.registry.remove("ns/unknown").is_empty());
}

#[test]
fn a_config_map_with_a_new_label_leaves_its_old_name() {
    let mut world = World::new();
    world.serve(&offer("ns/a", "p", "1", "a"), "1.0.0");
    let (load, changes) = world.begin(&offer("ns/a", "q", "1", "a2"));
    assert_eq!(short(&changes), ["p gone after 1.0.0"]);
    assert_eq!(load.expect("new").plugin, name("q"));
}

#[test]
fn plugins_that_share_kinds_both_serve_and_the_debug_view_says_so() {
    let mut world = World::new();
    for (config_map, plugin, child) in
        [("ns/a", "a", "v1/ConfigMap"), ("ns/b", "b", "v1/ConfigMap"), ("ns/c", "c", "v1/Secret")]
    {
        let ticket = world.begin(&offer(config_map, plugin, "1", plugin)).0.expect("new");
        let version = world.writing(plugin, "1.0.0", child);
        drop(world.finish(&ticket, Ok(version)));
        assert_eq!(world.state(config_map).0, State::Serving);
    }
    let view = serde_json::to_value(world.registry.view()).expect("json");
    assert_eq!(view[0]["shares"][0]["plugin"], "b");
    assert_eq!(view[1]["shares"][0]["plugin"], "a");
    assert!(view[2].get("shares").is_none(), "{}", view[2]);
    assert_eq!((&view[0]["state"], &view[0]["serving"]["lastGood"]), (&"serving".into(), &false.into()));
}

#[test]
fn what_is_to_be_looked_at_anew_is_loaded_once_more_while_it_goes_on_serving() {
    let mut world = World::new();
    let offered = offer("ns/a", "p", "1", "v1");
    world.serve(&offered, "1.0.0");
    assert_eq!(world.registry.anew(&name("p")).as_deref(), Some("ns/a"));
    let ticket = world.begin(&offered).0.expect("as it was, and all the same");
    assert_eq!(world.serving("p").as_deref(), Some("1.0.0"));
    let version = world.version("p", "1.0.0");
    assert_eq!(short(&world.finish(&ticket, Ok(version))), ["ns/a serves 1.0.0 after 1.0.0"]);
    assert!(world.begin(&offered).0.is_none(), "once");

    let refused = offer("ns/a", "p", "1", "v2");
    let ticket = world.begin(&refused).0.expect("changed");
    assert_eq!(world.finish(&ticket, Err(broken())).len(), 1);
    assert!(world.begin(&refused).0.is_none(), "nothing has changed");
    world.registry.anew(&name("p"));
    let ticket = world.begin(&refused).0.expect("once more");
    let version = world.version("p", "2.0.0");
    assert_eq!(short(&world.finish(&ticket, Ok(version))), ["ns/a serves 2.0.0 after 1.0.0"]);
    assert_eq!(world.registry.anew(&name("q")), None, "nobody knows it");
}

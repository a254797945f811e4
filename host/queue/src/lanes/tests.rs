//! One rule of the lanes a test.

use super::*;

fn key(plugin: &str, name: &str) -> Key {
    Key::new(PluginName::try_new(plugin).expect("valid"), "ns", name)
}

fn lanes(keys: &[(&str, &str, Urgency)]) -> Lanes {
    let mut lanes = Lanes::default();
    for (order, (plugin, name, urgency)) in keys.iter().enumerate() {
        lanes.push(key(plugin, name), *urgency, order as u64);
    }
    lanes
}

fn names(lanes: &mut Lanes, n: usize) -> String {
    let names: Vec<_> =
        (0..n).map_while(|_| lanes.take(Instant::now())).map(|k| k.name.to_string()).collect();
    names.join(" ")
}

use Urgency::{Change, Related, Resync, Startup, Takeover};

const QUICK: Duration = Duration::from_millis(1);

#[test]
fn a_plugin_with_few_keys_does_not_queue_behind_one_with_many() {
    let mut lanes = lanes(&[
        ("a", "a1", Change),
        ("a", "a2", Change),
        ("a", "a3", Change),
        ("b", "b1", Change),
        ("b", "b2", Change),
    ]);
    assert_eq!(names(&mut lanes, 9), "a1 b1 a2 b2 a3");
    assert_eq!(lanes.len(), 0);
}

#[test]
fn a_plugin_whose_passes_are_slow_does_not_take_the_slots_of_another() {
    let mut lanes = lanes(&[("slow", "s1", Change), ("slow", "s2", Change), ("slow", "s3", Change)]);
    assert_eq!(names(&mut lanes, 2), "s1 s2");
    for order in 10..13 {
        lanes.push(key("fast", "f"), Change, order);
    }
    for _ in 0..3 {
        assert_eq!(names(&mut lanes, 1), "f");
        lanes.done(&key("fast", "f").plugin, QUICK);
    }
    assert_eq!(names(&mut lanes, 1), "s3");
}

#[test]
fn changes_go_before_resyncs_but_never_starve_them() {
    let mut keys = vec![("a", "r", Resync)];
    keys.extend((0..9).map(|_| ("a", "c", Change)));
    assert_eq!(names(&mut lanes(&keys), 10), "c c c c c c c r c c");
}

#[test]
fn each_lower_urgency_has_its_share_of_sixteen_turns() {
    let mut keys = Vec::new();
    for (name, urgency) in [("c", Change), ("e", Related), ("r", Resync), ("s", Startup)] {
        keys.extend((0..32).map(|_| ("a", name, urgency)));
    }
    let order = names(&mut lanes(&keys), 16);
    assert_eq!(order, "c e c c c e c r c e c s c e c r");
}

#[test]
fn a_share_that_nobody_wants_is_the_most_urgents() {
    let mut keys = vec![("a", "s", Startup)];
    keys.extend((0..15).map(|_| ("a", "e", Related)));
    assert_eq!(names(&mut lanes(&keys), 16), "e e e e e e e e e e e s e e e e");
}

#[test]
fn nothing_goes_before_what_waits_for_a_takeover() {
    let mut keys = vec![("a", "r", Resync), ("a", "c", Change)];
    keys.extend((0..9).map(|_| ("a", "t", Takeover)));
    assert_eq!(names(&mut lanes(&keys), 11), "t t t t t t t t t c r");
}

#[test]
fn a_lane_that_is_empty_leaves_nothing_behind() {
    let mut lanes = lanes(&[("a", "a1", Change), ("b", "b1", Change)]);
    lanes.remove(&key("a", "").plugin, Change, 0);
    let b = lanes.take(Instant::now()).expect("one is left");
    lanes.done(&b.plugin, QUICK);
    assert!(lanes.lanes.is_empty() && lanes.line.all.is_empty() && lanes.line.idle.is_empty());
}

#[test]
fn a_plugin_at_its_bound_waits_for_itself_and_for_nobody_else() {
    let mut lanes = Lanes::new(None, NonZeroUsize::new(2));
    lanes.set_contended(true);
    for order in 0..4 {
        lanes.push(key("a", &format!("a{order}")), Change, order);
    }
    assert_eq!(names(&mut lanes, 9), "a0 a1");
    lanes.push(key("b", "b0"), Change, 9);
    assert_eq!(names(&mut lanes, 9), "b0");
    lanes.done(&key("b", "").plugin, QUICK);
    assert_eq!(names(&mut lanes, 9), "");
    lanes.done(&key("a", "").plugin, QUICK);
    assert_eq!(names(&mut lanes, 9), "a2");
}

#[test]
fn a_bound_of_its_own_goes_before_the_common_one() {
    let mut lanes = Lanes::new(None, NonZeroUsize::new(2));
    let a = key("a", "").plugin;
    lanes.set_contended(true);
    lanes.bound(&a, NonZeroUsize::new(1));
    for order in 0..4 {
        lanes.push(key("a", &format!("a{order}")), Change, order);
    }
    assert_eq!((names(&mut lanes, 9).as_str(), lanes.bound_of(&a)), ("a0", NonZeroUsize::new(1)));
    lanes.bound(&a, None);
    assert_eq!((names(&mut lanes, 9).as_str(), lanes.bound_of(&a)), ("a1", NonZeroUsize::new(2)));
    lanes.set_contended(false);
    assert_eq!((names(&mut lanes, 9).as_str(), lanes.bound_of(&a)), ("a2 a3", None));
}

#[test]
fn whoever_comes_while_another_works_goes_before_its_next_key() {
    let mut lanes = lanes(&[("a", "a1", Change), ("a", "a2", Change)]);
    assert_eq!(names(&mut lanes, 1), "a1");
    lanes.push(key("b", "b1"), Change, 9);
    lanes.done(&key("a", "").plugin, QUICK);
    assert_eq!(names(&mut lanes, 2), "b1 a2");
}

#[test]
fn the_last_slot_is_for_a_plugin_that_has_none() {
    let mut lanes = Lanes::new(NonZeroUsize::new(4), None);
    for order in 0..8 {
        lanes.push(key("a", &format!("a{order}")), Change, order);
    }
    assert_eq!(names(&mut lanes, 4), "a0 a1 a2 a3", "there is nobody else");
    lanes.set_contended(true);
    lanes.done(&key("a", "").plugin, 20 * QUICK);
    assert_eq!(names(&mut lanes, 1), "");
    lanes.push(key("b", "b0"), Change, 9);
    lanes.push(key("b", "b1"), Change, 10);
    assert_eq!(names(&mut lanes, 1), "b0");
    lanes.done(&key("a", "").plugin, 20 * QUICK);
    assert_eq!(names(&mut lanes, 1), "");
    lanes.done(&key("a", "").plugin, 20 * QUICK);
    assert_eq!(names(&mut lanes, 9), "b1", "the next to last is for anybody");
}

#[test]
fn the_plugin_whose_passes_took_least_is_next() {
    let mut lanes = lanes(&[("slow", "s0", Change), ("fast", "f0", Change)]);
    assert_eq!(names(&mut lanes, 2), "s0 f0");
    for order in 10..20 {
        lanes.push(key("slow", "s"), Change, order);
        lanes.push(key("fast", "f"), Change, 10 + order);
    }
    lanes.done(&key("slow", "").plugin, 5 * QUICK);
    let mut order = Vec::new();
    for _ in 0..7 {
        lanes.done(&key("fast", "").plugin, QUICK);
        order.push(names(&mut lanes, 1));
    }
    assert_eq!(order, ["f", "f", "f", "f", "s", "f", "f"], "five of the one are one of the other");
}

#[test]
fn a_plugin_above_its_rate_waits_for_itself_and_for_nobody_else() {
    let rate = std::num::NonZeroU32::new(2).map(|per_second| Rate { per_second });
    let mut lanes = Lanes::new(None, None).with_rate(rate);
    let now = Instant::now();
    for order in 0..4 {
        lanes.push(key("a", &format!("a{order}")), Change, order);
    }
    let at = |ms, lanes: &mut Lanes| {
        let taken = std::iter::from_fn(|| lanes.take(now + Duration::from_millis(ms)));
        taken.map(|key| key.name.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(at(0, &mut lanes), "a0 a1");
    assert_eq!(lanes.next_token(), Some(now + Duration::from_millis(500)));
    lanes.push(key("b", "b0"), Change, 9);
    assert_eq!(at(499, &mut lanes), "b0");
    assert_eq!(at(500, &mut lanes), "a2");
    lanes.forget(&key("a", "").plugin);
    assert_eq!(at(501, &mut lanes), "a3", "what is known of it is forgotten, and it begins anew");
}

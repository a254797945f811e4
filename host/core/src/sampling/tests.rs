//! What the second call finds, and what it does not take for a difference.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::*;
use crate::decision::{Fault, Notice, Severity};
use crate::guests::{Load, LoadId};
use crate::kind::Gvk;
use crate::manifest::Manifest;
use crate::name::PluginName;

fn child(name: &str, replicas: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {"replicas": replicas}})
}

fn decision(children: &[Value], status: Option<Value>) -> Decision {
    Decision {
        children: children.iter().map(Value::to_string).collect(),
        status: status.map(|status| status.to_string()),
        ..Decision::default()
    }
}

fn called(decision: Decision, read_clock: bool) -> Called {
    Called {
        result: Ok(Verdict::Decision(decision)),
        read_clock,
        ..Called::failed(CallError::Fault(Fault::Transient("".into())))
    }
}

fn found(a: Decision, b: Decision) -> Option<String> {
    differ(&Verdict::Decision(a), &Verdict::Decision(b))
}

#[test]
fn the_first_difference_is_named_with_both_values() {
    let one = || decision(&[child("a", 1), child("b", 1)], Some(json!({"x": {"y/z": 1}})));
    assert_eq!(found(one(), one()), None);
    for (other, said) in [
        (decision(&[child("a", 1), child("b", 2)], None), "/children/1/spec/replicas is 1 and 2"),
        (decision(&[child("a", 1)], None), "/children/1 (apps/v1/Deployment/ b) is there once only"),
        (
            decision(&[child("a", 1), child("b", 1), child("c", 1)], None),
            "a child (apps/v1/Deployment/ c) is there once only",
        ),
        (decision(&[child("a", 1), child("b", 1)], None), "/status is there once only"),
        (
            decision(&[child("a", 1), child("b", 1)], Some(json!({"x": {"y/z": 2}}))),
            "/status/x/y~1z is 1 and 2",
        ),
        (decision(&[child("a", 1), child("b", 1)], Some(json!({"x": {}}))), "/status/x/y~1z is 1 and absent"),
    ] {
        assert_eq!(found(one(), other).as_deref(), Some(said));
    }
    let waits = Decision { requeue_after: Some(Duration::from_secs(5)), ..Decision::default() };
    assert_eq!(found(waits, Decision::default()).as_deref(), Some("/requeue-after is Some(5s) and None"));
    let notice =
        |message: &str| Notice { severity: Severity::Normal, reason: "R".into(), message: message.into() };
    let says = |messages: &[&str]| Decision {
        notices: messages.iter().map(|m| notice(m)).collect(),
        ..Decision::default()
    };
    assert_eq!(found(says(&["a", "b"]), says(&["a", "c"])).as_deref(), Some("/notices/1 differs"));
    assert_eq!(found(says(&["a"]), says(&["a", "c"])).as_deref(), Some("/notices/1 differs"));
    assert!(differ(&Verdict::Finalized, &Verdict::Decision(Decision::default())).is_some());
}

#[test]
fn the_order_of_children_and_of_fields_is_no_difference() {
    let a = decision(&[child("a", 1), child("b", 2)], Some(json!({"x": 1, "y": 2})));
    let mut b = decision(&[child("b", 2), child("a", 1)], None);
    b.status = Some("{\"y\": 2, \"x\": 1}".into());
    assert_eq!(found(a, b), None);
}

#[test]
fn what_is_no_json_is_compared_as_text() {
    let text = |text: &str| Decision { children: vec![text.into()], ..Decision::default() };
    assert_eq!(found(text("{"), text("{")), None);
    assert!(found(text("{"), text("[")).is_some());
}

#[test]
fn who_asked_for_the_time_may_pause_and_speak_by_it_but_not_want_by_it() {
    let waits = || Decision { requeue_after: Some(Duration::from_secs(5)), ..Decision::default() };
    assert_eq!(judge(&called(waits(), true), &called(Decision::default(), true)), None);
    let found = judge(&called(waits(), false), &called(Decision::default(), false)).expect("random");
    assert_eq!(found.code, Code::NonDeterministic);
    assert!(found.message.contains("it did not ask for the time"), "{found}");
    let at = |n: u32| decision(&[], Some(json!({"at": n})));
    let found = judge(&called(at(1), true), &called(at(2), true)).expect("a status with the time in it");
    assert!(found.message.contains("/status/at is 1 and 2; it asked for the time"), "{found}");
}

#[test]
fn a_condition_may_say_when_it_changed_and_nothing_else_by_the_clock() {
    let since = |at: &str, reason: &str| {
        let condition =
            json!({"type": "Ready", "status": "True", "reason": reason, "lastTransitionTime": at});
        decision(&[], Some(json!({"conditions": [condition]})))
    };
    let (early, late) = ("2026-11-30T00:00:00Z", "2028-01-01T00:00:00Z");
    assert_eq!(judge(&called(since(early, "A"), true), &called(since(late, "A"), true)), None);
    let found =
        judge(&called(since(early, "A"), true), &called(since(late, "B"), true)).expect("another reason");
    assert!(found.message.contains("/status/conditions/0/reason"), "{found}");
    // Who did not ask for the time has it from nowhere.
    assert!(judge(&called(since(early, "A"), false), &called(since(late, "A"), false)).is_some());
}

#[test]
fn a_call_that_was_ended_says_nothing_and_a_fault_does() {
    let ended = Called::failed(CallError::Refused(Refusal::new(Code::Timeout, "1 s")));
    let fault = Called::failed(CallError::Fault(Fault::Permanent("no".into())));
    let decided = called(Decision::default(), false);
    assert_eq!(judge(&decided, &ended), None);
    assert_eq!(judge(&ended, &decided), None);
    assert!(judge(&decided, &fault).is_some());
    assert_eq!(judge(&fault, &fault), None);
}

#[test]
fn one_call_in_sixty_four_is_asked_twice_and_no_key_is_left_out() {
    let key = |n: u32| Key::new(PluginName::try_new("web").expect("valid"), "ns", format!("a{n}"));
    let sampled = (0..64_000).filter(|pass| is_sampled(&key(1), *pass, ONE_IN)).count();
    assert!((800..1200).contains(&sampled), "{sampled} of 64,000");
    // Sixty-four keys that are resynced in turn: each has passes of one remainder only.
    for n in 0..64 {
        assert!((0..1000).any(|round| is_sampled(&key(n), round * 64 + u64::from(n), ONE_IN)), "key {n}");
    }
    assert!(is_sampled(&key(1), 7, NonZeroU32::MIN));
}

/// A guest that decides from what it is told, and a cluster that changes all the time.
struct Guest(fn(&Call<'_>, &dyn Texts) -> Decision);
struct Moving(AtomicUsize);

impl Guests for Guest {
    fn load(&self, _: &Load) -> Result<Manifest, Refusal> {
        Err(Refusal::new(Code::InitTrap, "not in these tests"))
    }

    fn call(&self, call: &Call<'_>, texts: Arc<dyn Texts>) -> Called {
        called((self.0)(call, &*texts), false)
    }

    fn unload(&self, _: LoadId) {}
}

impl Texts for Moving {
    fn get(&self, _: &ObjectRef) -> Result<Option<Text>, Refusal> {
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Some(Text::Own(json!({"n": n}).to_string().into())))
    }

    fn list(&self, _: &Query) -> Result<Vec<Text>, Refusal> {
        Ok(self.get(&moving(0))?.into_iter().collect())
    }
}

fn moving(n: usize) -> ObjectRef {
    let gvk: Gvk = "v1/ConfigMap".parse().expect("a kind");
    ObjectRef { gvk, namespace: "ns".into(), name: n.to_string().into() }
}

fn asked(decide: fn(&Call<'_>, &dyn Texts) -> Decision) -> Option<Refusal> {
    let call = Call {
        load: LoadId(1),
        key: "ns/a".into(),
        pass: 1,
        finalize: false,
        suspect: false,
        seed: "uid".into(),
        now: Duration::from_secs(1_800_000_000),
        primary: "{}".into(),
        children: vec!["{}".into()],
        settings: Some("{}".into()),
    };
    let mut told = None;
    let found = twice(&Guest(decide), &call, Arc::new(Moving(AtomicUsize::new(0))), |called| {
        TOLD.set(true);
        told = Some(called);
    });
    TOLD.set(false);
    assert!(told.expect("the first answer").result.is_ok());
    found
}

thread_local! {
    /// Whether the first answer of a call on this thread has been told.
    static TOLD: Cell<bool> = const { Cell::new(false) };
}

#[test]
fn the_first_answer_is_told_before_the_second_call() {
    let told = |_: &Call<'_>, _: &dyn Texts| decision(&[], Some(json!({"told": TOLD.get()})));
    let found = asked(told).expect("the second call sees it");
    assert!(found.message.contains("/status/told is false and true"), "{found}");
}

#[test]
fn randomness_and_time_are_found_and_a_moving_cluster_is_not_taken_for_them() {
    let status = |text: &str| decision(&[], Some(json!({"x": text})));
    assert_eq!(asked(|call, _| decision(&[], Some(json!({"x": call.primary})))), None);
    assert!(asked(|call, _| decision(&[], Some(json!({"x": call.seed})))).is_some());
    assert!(asked(|call, _| decision(&[], Some(json!({"x": call.now.as_secs()})))).is_some());
    assert_eq!(found(status("a"), status("a")), None);
    let reads = asked(|_, texts| {
        let one = texts.get(&moving(1)).expect("there").expect("there");
        let all = texts.list(&Query { gvk: moving(1).gvk, namespace: None, labels: vec![] }).expect("there");
        decision(&[], Some(json!({"one": &*one, "all": &*all[0]})))
    });
    assert_eq!(reads, None);
}

#[test]
fn who_asks_too_much_is_not_judged() {
    let reads = asked(|call, texts| {
        (0..=QUESTIONS_MAX).for_each(|n| drop(texts.get(&moving(n)).expect("there")));
        decision(&[], Some(json!({"x": call.seed})))
    });
    assert_eq!(reads, None);
}

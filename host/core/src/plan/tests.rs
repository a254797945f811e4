//! Tables over [`plan`](super::plan): decision in, steps or refusal out.

mod hostile;
mod metadata;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::decision::{Decision, Fault, Severity};
use crate::guests::LoadId;
use crate::manifest::{ChildRule, Manifest, Unwanted};
use crate::memory::Memory;
use crate::name::PluginName;

fn gvk(text: &str) -> Gvk {
    text.parse().expect("a kind")
}

fn kind(text: &str, plural: &str, namespaced: bool) -> Kind {
    Kind { gvk: gvk(text), plural: plural.into(), namespaced, has_status: true }
}

struct World {
    key: Key,
    serving: Serving,
    primary_kind: Kind,
    primary: Object,
    children: Vec<Arc<Object>>,
    memory: Memory,
    policy: Policy,
}

impl World {
    fn new() -> Self {
        let plugin = PluginName::try_new("web").expect("valid");
        let rule = |kind: &str, unwanted| ChildRule { kind: gvk(kind), unwanted };
        let manifest = Manifest {
            name: plugin.clone(),
            version: "1.0.0".into(),
            primary: gvk("x.dev/v1/Web"),
            children: vec![
                rule("v1/ConfigMap", Unwanted::Delete),
                rule("v1/Service", Unwanted::Orphan),
                rule("x.dev/v1/Cluster", Unwanted::Delete),
                rule("x.dev/v1/Missing", Unwanted::Delete),
                rule("v1/Secret", Unwanted::Delete),
            ],
            reads: vec![],
            selects: crate::scope::Scope::default(),
            strict: true,
            finalizes: true,
        };
        let primary = json!({"metadata": {"name": "a", "namespace": "ns", "uid": "p", "resourceVersion": "7",
            "finalizers": ["other", "windlass.dev/web"]}, "status": {"ready": 1}});
        World {
            key: Key::new(plugin, "ns", "a"),
            serving: Serving {
                manifest: Arc::new(manifest),
                digest: Digest::of(b"x"),
                load: LoadId(1),
                settings: None,
                children_max: 100,
            },
            primary_kind: kind("x.dev/v1/Web", "webs", true),
            primary: Object::parse(&gvk("x.dev/v1/Web"), &primary.to_string()).expect("valid"),
            children: vec![],
            memory: Memory::default(),
            policy: Policy::default(),
        }
    }

    fn plan(&self, decision: Decision) -> Result<Plan, PlanError> {
        self.with(|inputs| plan(inputs, Verdict::Decision(decision)))
    }

    fn with<T>(&self, then: impl FnOnce(&Inputs<'_>) -> T) -> T {
        let kinds: HashMap<Gvk, Kind> = [
            kind("v1/ConfigMap", "configmaps", true),
            kind("v1/Service", "services", true),
            kind("v1/Secret", "secrets", true),
            kind("x.dev/v1/Cluster", "clusters", false),
        ]
        .into_iter()
        .map(|k| (k.gvk.clone(), k))
        .collect();
        then(&Inputs {
            key: &self.key,
            serving: &self.serving,
            host_namespace: "windlass-system",
            policy: &self.policy,
            primary_kind: &self.primary_kind,
            primary: &self.primary,
            children: &self.children,
            kinds: &|gvk| kinds.get(gvk).cloned(),
            memory: &self.memory,
        })
    }

    fn child(&self, value: Value) -> Result<Step, PlanError> {
        let plan = self.plan(Decision { children: vec![value.to_string()], ..Decision::default() })?;
        Ok(plan.steps()[0].clone())
    }

    /// Makes `step`'s child exist as the server would store it.
    fn stored(&mut self, step: &Step, change: impl FnOnce(&mut Value)) {
        let Step::Create { object, body, .. } = step else { panic!("not a create: {step:?}") };
        let mut stored = body.clone();
        stored["metadata"]["uid"] = "c".into();
        stored["metadata"]["resourceVersion"] = "9".into();
        stored["metadata"]["managedFields"] =
            json!([{"manager": "windlass/web", "operation": "Apply", "fieldsV1": {"f:data": {}}}]);
        change(&mut stored);
        self.children = vec![Arc::new(Object::parse(&object.gvk, &stored.to_string()).expect("valid"))];
    }
}

fn config(data: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"k": data}})
}

fn decision(children: &[Value]) -> Decision {
    Decision { children: children.iter().map(Value::to_string).collect(), ..Decision::default() }
}

#[test]
fn the_hash_of_a_configuration_is_of_this_text_for_as_long_as_objects_carry_it() {
    let value = json!({"b": {"y": null, "x": [1, "two\n\u{fc}", -0.5, true, {}]}, "a\"": []});
    let text = r#"{"a\"":[],"b":{"x":[1,"two\nü",-0.5,true,{},],"y":null,},}"#;
    assert_eq!(super::child::hash_of(&value), format!("{:016x}", crate::object::hash64(text.as_bytes())));
}

#[test]
fn a_missing_child_is_created_with_our_inventory_and_owner() {
    let Step::Create { object, body, wanted, .. } = World::new().child(config("v")).expect("allowed") else {
        panic!("not a create")
    };
    assert_eq!(object.to_string(), "v1/ConfigMap ns/c");
    assert_eq!(
        body["metadata"]["labels"],
        json!({"windlass.dev/owned-by": "web", "windlass.dev/host": "windlass-system"})
    );
    assert_eq!(
        body["metadata"]["annotations"],
        json!({"windlass.dev/primary": "ns/a", "windlass.dev/applied": wanted})
    );
    assert_eq!(body["metadata"]["ownerReferences"][0]["uid"], "p");
    assert_eq!(body["metadata"]["uid"], Value::Null);
}

#[test]
fn nothing_is_planned_when_nothing_would_change() {
    let mut world = World::new();
    let step = world.child(config("v")).expect("allowed");
    world.stored(&step, |stored| stored["data"]["other"] = "foreign".into());
    let plan = world.plan(decision(&[config("v")])).expect("allowed");
    assert_eq!(plan.steps(), []);
}

#[test]
fn drift_is_seen_by_value_and_by_our_entry() {
    let mut world = World::new();
    let step = world.child(config("v")).expect("allowed");
    let Step::Create { wanted, .. } = &step else { panic!() };
    world.stored(&step, |stored| stored["data"]["k"] = "foreign".into());
    let by_value = world.plan(decision(&[config("v")])).expect("allowed");
    assert!(matches!(by_value.steps(), [Step::Update { .. }]));

    world.stored(&step, |_| {});
    let entry = world.children[0].meta().entry("windlass/web", false);
    world.memory.remember(&"c".into(), false, wanted, entry);
    assert_eq!(world.plan(decision(&[config("v")])).expect("allowed").steps(), []);
    world.stored(&step, |stored| stored["metadata"]["managedFields"][0]["fieldsV1"] = json!({}));
    let by_entry = world.plan(decision(&[config("v")])).expect("allowed");
    assert!(
        matches!(by_entry.steps(), [Step::Update { target, .. }] if &*target.uid == "c" && &*target.version == "9")
    );
}

#[test]
fn a_no_longer_wanted_child_is_deleted_or_let_go() {
    let mut world = World::new();
    let step = world.child(config("v")).expect("allowed");
    world.stored(&step, |_| {});
    let plan = world.plan(decision(&[])).expect("allowed");
    assert!(matches!(plan.steps(), [Step::Delete { target }] if &*target.uid == "c"));

    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}});
    let step = world.child(service).expect("allowed");
    world.stored(&step, |stored| {
        let owners = stored["metadata"]["ownerReferences"].as_array_mut().expect("ours");
        owners.push(json!({"uid": "another"}));
    });
    let plan = world.plan(decision(&[])).expect("allowed");
    let [Step::Orphan { patch, .. }] = plan.steps() else { panic!("{plan:?}") };
    assert_eq!(patch["metadata"]["ownerReferences"], json!([{"uid": "another"}]));
    assert_eq!(
        patch["metadata"]["labels"],
        json!({"windlass.dev/owned-by": null, "windlass.dev/host": null})
    );
}

#[test]
fn a_child_that_is_being_deleted_is_waited_for() {
    let mut world = World::new();
    let step = world.child(config("v")).expect("allowed");
    world.stored(&step, |stored| stored["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into());
    assert_eq!(world.plan(decision(&[config("other")])).expect("allowed").steps(), []);
    assert_eq!(world.plan(decision(&[])).expect("allowed").steps(), []);
}

/// The garbage collector may never come to it: see `of_an_earlier_self`.
#[test]
fn a_child_of_an_earlier_primary_is_removed_and_then_made_anew() {
    let mut world = World::new();
    let step = world.child(config("v")).expect("allowed");
    world.stored(&step, |stored| stored["metadata"]["ownerReferences"][0]["uid"] = "earlier".into());
    for wanted in [vec![config("v")], vec![]] {
        let plan = world.plan(decision(&wanted)).expect("allowed");
        assert!(
            matches!(plan.steps(), [Step::Delete { target }] if &*target.uid == "c"),
            "{:?}",
            plan.steps()
        );
    }
    // What is going already is waited for.
    let mut world = World::new();
    world.stored(&step, |stored| {
        stored["metadata"]["ownerReferences"][0]["uid"] = "earlier".into();
        stored["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    });
    assert_eq!(world.plan(decision(&[config("v")])).expect("allowed").steps(), []);
    // Of another group it is another kind, whatever it is called.
    let mut world = World::new();
    world.stored(&step, |stored| {
        stored["metadata"]["ownerReferences"][0]["uid"] = "earlier".into();
        stored["metadata"]["ownerReferences"][0]["apiVersion"] = "other.example.com/v1".into();
    });
    let error = world.plan(decision(&[config("v")])).expect_err("theirs");
    assert_eq!(error.code(), Some(Code::NotOwner));
    assert_eq!(world.plan(decision(&[])).expect("allowed").steps(), []);
}

#[test]
fn each_broken_rule_has_its_code() {
    let with = |path: &str, value: Value| {
        let mut child = config("v");
        *child.pointer_mut(path).expect("a parent exists") = value;
        child
    };
    let metadata = |extra: Value| {
        let mut m = json!({"name": "c"});
        m.as_object_mut().expect("object").extend(extra.as_object().expect("object").clone());
        with("/metadata", m)
    };
    let table = [
        (json!([]), Code::NotAnObject),
        (json!({"kind": "ConfigMap"}), Code::NotAnObject),
        (json!({"apiVersion": "v1", "kind": "List", "items": []}), Code::NotAnObject),
        (metadata(json!({"name": ""})), Code::NotAnObject),
        (metadata(json!({"labels": {"a": 1}})), Code::NotAnObject),
        (metadata(json!({"name": "../x"})), Code::BadName),
        (with("/kind", json!("Pod")), Code::KindNotAllowed),
        (
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"}}),
            Code::ReservedKind,
        ),
        (metadata(json!({"namespace": "elsewhere"})), Code::NamespaceEscape),
        (
            json!({"apiVersion": "x.dev/v1", "kind": "Cluster", "metadata": {"name": "c"}}),
            Code::NamespaceEscape,
        ),
        (metadata(json!({"ownerReferences": []})), Code::ReservedField),
        (metadata(json!({"finalizers": ["x"]})), Code::ReservedField),
        (metadata(json!({"labels": {"windlass.dev/host": "x"}})), Code::ReservedField),
        (metadata(json!({"annotations": {"windlass.dev/applied": "x"}})), Code::ReservedField),
        (metadata(json!({"labels": {"system:node": "x"}})), Code::ReservedField),
        (metadata(json!({"ownerReferences": [{"uid": "p"}, {"uid": "another"}]})), Code::ReservedField),
        (metadata(json!({"name": null, "generateName": "c-"})), Code::UnsupportedField),
        (metadata(json!({"clusterName": "x"})), Code::UnsupportedField),
        (json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": "c"}), Code::NotAnObject),
        (metadata(json!({"name": 7})), Code::NotAnObject),
        (metadata(json!({"namespace": 7})), Code::NotAnObject),
        (json!({"apiVersion": "v1", "kind": "ConfigMapList", "items": []}), Code::NotAnObject),
        (
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {}}),
            Code::UnsupportedField,
        ),
    ];
    for (child, code) in table {
        let error = World::new().child(child.clone()).expect_err(&child.to_string());
        assert_eq!(error.code(), Some(code), "{child}: {error}");
    }
    let twice = World::new().plan(decision(&[config("a"), config("b")])).expect_err("twice");
    assert_eq!(twice.code(), Some(Code::DuplicateChild));
    let many: Vec<_> = (0..101).map(|_| config("a")).collect();
    assert_eq!(World::new().plan(decision(&many)).expect_err("many").code(), Some(Code::TooManyChildren));
    let text = Decision { children: vec!["{\"a\":".into()], ..Decision::default() };
    assert_eq!(World::new().plan(text).expect_err("cut").code(), Some(Code::InvalidJson));
}

#[test]
fn a_kind_that_is_not_served_is_waited_for() {
    let child = json!({"apiVersion": "x.dev/v1", "kind": "Missing", "metadata": {"name": "m"}});
    let error = World::new().child(child).expect_err("unknown");
    assert_eq!((error.class(), error.code()), (Class::Transient, None));
}

#[test]
fn a_status_is_sent_only_when_it_differs() {
    let world = World::new();
    let status = |v: Value| Decision { status: Some(v.to_string()), ..Decision::default() };
    assert_eq!(world.plan(status(json!({"ready": 1}))).expect("allowed").steps(), []);
    for differs in [json!({"ready": 2}), json!({}), json!({"ready": 1, "more": "x"})] {
        let plan = world.plan(status(differs.clone())).expect("allowed");
        let [Step::Status { body, .. }] = plan.steps() else { panic!("{differs}") };
        assert_eq!(body["status"], differs);
    }
    assert!(world.plan(status(json!("x"))).is_err());
}

#[test]
fn a_finalizer_is_added_first_and_removed_last() {
    let mut world = World::new();
    assert_eq!(world.with(prepare), None);
    let done = world.with(|inputs| plan(inputs, Verdict::Finalized)).expect("allowed");
    assert_eq!(done.steps(), [Step::Finalizers { finalizers: vec!["other".into()] }]);
    let bare = json!({"metadata": {"name": "a", "namespace": "ns", "uid": "p", "finalizers": ["other"]}});
    world.primary = Object::parse(&gvk("x.dev/v1/Web"), &bare.to_string()).expect("valid");
    let first = world.with(prepare).expect("it is missing");
    let both = vec!["other".into(), "windlass.dev/web".into()];
    assert_eq!(first.steps(), [Step::Finalizers { finalizers: both }]);
}

#[test]
fn pauses_and_notices_are_bounded() {
    let world = World::new();
    for (asked, got) in [(0, REQUEUE_MIN_MS), (5_000, 5_000), (u64::MAX / 2, 24 * 24 * 3_600_000)] {
        let wish = Decision { requeue_after: Some(Duration::from_millis(asked)), ..Decision::default() };
        let plan = world.plan(wish).expect("allowed");
        assert_eq!(plan.requeue_after().map(|d| d.as_millis()), Some(u128::from(got)));
        let warned: Vec<_> = plan.warnings().iter().map(|warning| warning.code).collect();
        let clamped = [Code::RequeueClamped];
        assert_eq!(warned, if asked == got { &[][..] } else { &clamped }, "{asked}");
    }
    let notice = Notice { severity: Severity::Normal, reason: "A b\n".into(), message: "x\u{7}".into() };
    let wish = Decision { notices: vec![notice; 20], ..Decision::default() };
    let plan = world.plan(wish).expect("allowed");
    assert_eq!(plan.notices().len(), 16);
    assert_eq!((&*plan.notices()[0].reason, &*plan.notices()[0].message), ("Ab", "x "));
    assert_eq!(plan.warnings()[0].to_string(), "W320 LogDropped: 20 notices, the first 16 are published");
    let nameless = Notice { severity: Severity::Normal, reason: "ü/".into(), message: "x".repeat(4000) };
    let plan = world.plan(Decision { notices: vec![nameless], ..Decision::default() }).expect("allowed");
    assert_eq!(&*plan.notices()[0].reason, "Notice");
    assert!(plan.notices()[0].message.len() <= 1024 + '…'.len_utf8());
}

const REQUEUE_MIN_MS: u64 = 1_000;

#[test]
fn a_fault_says_whether_it_may_pass() {
    assert_eq!(Fault::Transient("x".into()).to_string(), "transient: x");
}

/// The entry's hash covers which fields are ours, not their values: a write of our own
/// whose answer was lost leaves it as it was.
#[test]
fn a_child_that_carries_another_configuration_is_never_taken_for_untouched() {
    let mut world = World::new();
    let step = world.child(config("first")).expect("allowed");
    let Step::Create { wanted, .. } = &step else { panic!("not a create: {step:?}") };
    world.stored(&step, |stored| {
        stored["data"]["k"] = "second".into();
        stored["metadata"]["annotations"]["windlass.dev/applied"] = "of the second".into();
    });
    let entry = world.children[0].meta().entry("windlass/web", false);
    world.memory.remember(&"c".into(), false, wanted, entry);
    let plan = world.plan(decision(&[config("first")])).expect("allowed");
    assert!(matches!(plan.steps(), [Step::Update { .. }]), "{:?}", plan.steps());
}

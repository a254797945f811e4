//! What holds for every plan, whatever the decision was. Written from the promises, not
//! from the code that keeps them.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value};
use windlass_core::key::ObjectRef;
use windlass_core::kind::Kind;
use windlass_core::manifest::is_reserved;
use windlass_core::plan::{Plan, PlanError, Step, Target};

use crate::world::{HOST, World};

/// Panics unless what was planned is what may be.
pub(crate) fn check(world: &World, planned: &Result<Plan, PlanError>) {
    match planned {
        Ok(plan) => plan_holds(world, plan),
        Err(PlanError::Refused(refusal)) => {
            let number = refusal.code as u16;
            assert!((210..=239).contains(&number), "{refusal} is not about a decision");
            assert!(refusal.message.len() <= 1024 + '…'.len_utf8(), "{refusal}");
            assert!(!refusal.message.contains(char::is_control), "{refusal}");
        }
        Err(PlanError::NoKind(kind)) => assert!(World::kind(kind).is_none(), "{kind} is served"),
        Err(PlanError::Collecting(_)) => {}
    }
}

fn plan_holds(world: &World, plan: &Plan) {
    assert_eq!((plan.key(), &*plan.primary().uid), (&world.key, "p"));
    let mut touched = BTreeSet::new();
    for step in plan.steps() {
        let object = match step {
            Step::Create { kind, object, body, wanted } => {
                configuration(world, kind, object, body, wanted);
                object
            }
            Step::Update { target, body, wanted } => {
                configuration(world, &target.kind, &target.object, body, wanted);
                is_ours(world, target);
                &target.object
            }
            Step::Delete { target } => {
                assert_ne!(&*target.kind.gvk.kind, "Service", "it is orphaned");
                is_ours(world, target);
                &target.object
            }
            Step::Orphan { target, patch } => {
                assert_eq!(&*target.kind.gvk.kind, "Service");
                only(patch, &["metadata"]);
                only(&patch["metadata"], &["labels", "annotations", "ownerReferences"]);
                is_ours(world, target);
                &target.object
            }
            Step::Status { body, .. } => {
                only(body, &["apiVersion", "kind", "metadata", "status"]);
                only(&body["metadata"], &["name", "namespace"]);
                assert_eq!((&body["metadata"]["name"], &body["kind"]), (&"a".into(), &"Web".into()));
                assert!(body["status"].is_object());
                &plan.primary().object
            }
            Step::Finalizers { finalizers } => {
                assert!(finalizers.is_empty(), "only ours was there: {finalizers:?}");
                &plan.primary().object
            }
        };
        assert!(touched.insert(object.clone()), "{object} is written twice");
    }
    bounds(world, plan);
}

fn bounds(world: &World, plan: &Plan) {
    let most = world.serving.children_max + world.children.len() + 1;
    assert!(plan.steps().len() <= most, "{} steps", plan.steps().len());
    assert!(plan.notices().len() <= 16);
    for notice in plan.notices() {
        let reason = !notice.reason.is_empty() && notice.reason.bytes().all(|b| b.is_ascii_alphanumeric());
        assert!(reason && notice.reason.len() <= 128, "{notice:?}");
        assert!(notice.message.len() <= 1024 + '…'.len_utf8() && !notice.message.contains(char::is_control));
    }
    let (least, longest) = (Duration::from_secs(1), Duration::from_secs(24 * 24 * 3600));
    assert!(plan.requeue_after().is_none_or(|after| (least..=longest).contains(&after)));
    assert!(plan.warnings().len() <= 16 && plan.warnings().iter().all(|warning| warning.code.is_warning()));
}

/// A configuration of an allowed kind, in its place, with our inventory, and nothing of the
/// server's or of the host's.
fn configuration(world: &World, kind: &Kind, object: &ObjectRef, body: &Value, wanted: &str) {
    let manifest = &world.serving.manifest;
    assert!(manifest.child(&kind.gvk).is_some() && !is_reserved(&kind.gvk), "{} is planned", kind.gvk);
    assert_eq!((&kind.gvk, Some(kind)), (&object.gvk, World::kind(&object.gvk).as_ref()));
    assert_eq!(body["apiVersion"], kind.gvk.api_version());
    assert_eq!(body["kind"], *kind.gvk.kind);
    let metadata = &body["metadata"];
    only(metadata, &["name", "namespace", "labels", "annotations", "ownerReferences"]);
    assert_eq!(metadata["name"], *object.name);
    place(world, kind, object, metadata);
    let mut labels = texts(&metadata["labels"]);
    assert_eq!(labels.remove("windlass.dev/owned-by"), Some("web".into()));
    assert_eq!(labels.remove("windlass.dev/host"), Some(HOST.into()));
    let mut annotations = texts(&metadata["annotations"]);
    assert_eq!(annotations.remove("windlass.dev/primary"), Some(world.key.primary().into()));
    assert_eq!(annotations.remove("windlass.dev/applied"), Some(wanted.into()));
    for key in labels.keys().chain(annotations.keys()) {
        let lower = key.to_lowercase();
        assert!(!lower.starts_with("windlass.dev/") && !lower.contains("system:"), "{key:?} is planned");
    }
    let owners = metadata["ownerReferences"].as_array().expect("a list");
    assert_eq!((owners.len(), &owners[0]["uid"], &owners[0]["controller"]), (1, &"p".into(), &true.into()));
    assert!(body.get("status").is_none());
    if &*kind.gvk.kind == "Secret" {
        assert!(body.get("stringData").is_none());
        // What the API server looks for is the whole word; a type with a letter changed is anybody's.
        let (domain, name) = body["type"].as_str().and_then(|kind| kind.split_once('/')).unwrap_or_default();
        let own = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
        let plain = ["basic-auth", "dockercfg", "dockerconfigjson", "ssh-auth", "tls"].contains(&name);
        assert!(!own || (domain == "kubernetes.io" && plain), "{body}");
    }
}

/// Where an object is, and that the path to it leads there.
fn place(world: &World, kind: &Kind, object: &ObjectRef, metadata: &Value) {
    let namespace = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
    assert_eq!(namespace, &*object.namespace);
    assert_eq!(kind.namespaced, !namespace.is_empty(), "{object}");
    assert_ne!(namespace, HOST, "{object} lives beside the host");
    if world.primary_kind.namespaced {
        assert_eq!(namespace, &*world.key.namespace, "{object}");
    }
    let path = kind.object_path(namespace, &object.name);
    let parts: Vec<_> = path.split('/').collect();
    let root = if kind.gvk.group.is_empty() { 3 } else { 4 };
    assert_eq!(parts.len(), root + if kind.namespaced { 4 } else { 2 }, "{path}");
    for part in &parts[1..] {
        let plain = part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':'));
        assert!(plain && !part.is_empty() && *part != "." && *part != ".." && part.len() <= 253, "{path}");
    }
}

/// An existing object is touched only if it is a child of this primary.
fn is_ours(world: &World, target: &Target) {
    let child = world.children.iter().find(|child| child.meta().uid == target.uid).expect("it was shown");
    let meta = child.meta();
    assert_eq!((&meta.name, &meta.namespace), (&target.object.name, &target.object.namespace));
    assert_eq!(meta.owner(HOST).as_ref(), Some(&world.key));
    assert_eq!(meta.controller_uid.as_deref(), Some("p"));
    assert!(!meta.deleting && meta.resource_version == target.version);
}

fn only(value: &Value, allowed: &[&str]) {
    for name in value.as_object().expect("an object").keys() {
        assert!(allowed.contains(&&**name), "{name:?} is planned");
    }
}

fn texts(value: &Value) -> Map<String, Value> {
    let texts = value.as_object().expect("an object").clone();
    assert!(texts.values().all(Value::is_string), "{value}");
    texts
}

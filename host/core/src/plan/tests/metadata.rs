//! What a child's metadata may hold, and what becomes of the rest.

use super::*;

fn with(metadata: Value) -> Value {
    let mut child = config("v");
    let fields = child["metadata"].as_object_mut().expect("an object");
    fields.extend(metadata.as_object().expect("an object").clone());
    child
}

fn created(world: &World, child: &Value) -> (Value, Vec<String>) {
    let plan = world.plan(decision(std::slice::from_ref(child))).expect("allowed");
    let [Step::Create { body, .. }] = plan.steps() else { panic!("{plan:?}") };
    (body.clone(), plan.warnings().iter().map(Refusal::to_string).collect())
}

#[test]
fn what_only_the_server_sets_is_left_out_and_said() {
    let mut child = with(json!({"uid": "forged", "resourceVersion": "1", "managedFields": [{}]}));
    child["status"] = json!({"x": 1});
    let (body, warnings) = created(&World::new(), &child);
    assert_eq!((&body["status"], &body["metadata"]["uid"]), (&Value::Null, &Value::Null));
    assert_eq!(body["metadata"].get("managedFields"), None);
    assert_eq!(warnings.len(), 1);
    for field in
        ["W301 ServerFieldDropped: v1/ConfigMap ns/c", "metadata.uid", "metadata.managedFields", "status"]
    {
        assert!(warnings[0].contains(field), "{field}: {warnings:?}");
    }
    let policy = Policy { strict: true, ..Policy::default() };
    let strict = World { policy, ..World::new() };
    assert_eq!(strict.child(child).expect_err("strict").code(), Some(Code::UnsupportedField));
}

#[test]
fn what_typed_objects_write_without_meaning_it_is_no_news() {
    let mut child =
        with(json!({"creationTimestamp": null, "labels": null, "annotations": {}, "finalizers": null}));
    child["status"] = json!({});
    let policy = Policy { strict: true, ..Policy::default() };
    let (body, warnings) = created(&World { policy, ..World::new() }, &child);
    assert_eq!((body.get("status"), warnings), (None, vec![]));
}

#[test]
fn a_plugin_may_name_the_owner_that_it_has_anyway() {
    let (body, _) =
        created(&World::new(), &with(json!({"ownerReferences": [{"uid": "p", "name": "wrong"}]})));
    let owners = &body["metadata"]["ownerReferences"];
    assert_eq!((owners.as_array().map(Vec::len), &owners[0]["name"]), (Some(1), &json!("a")));
}

#[test]
fn labels_and_annotations_are_judged_as_the_server_does() {
    let long = "x".repeat(64);
    for (labels, code) in [
        (json!({"": "x"}), Code::UnsupportedField),
        (json!({"a b": "x"}), Code::UnsupportedField),
        (json!({"-a": "x"}), Code::UnsupportedField),
        (json!({"a/b/c": "x"}), Code::UnsupportedField),
        (json!({"/a": "x"}), Code::UnsupportedField),
        (json!({"a/": "x"}), Code::UnsupportedField),
        (json!({"Example.com/a": "x"}), Code::UnsupportedField),
        (json!({long.as_str(): "x"}), Code::UnsupportedField),
        (json!({format!("{}/a", "x".repeat(254)): "x"}), Code::UnsupportedField),
        (json!({"a": long}), Code::UnsupportedField),
        (json!({"a": "ü"}), Code::UnsupportedField),
        (json!({"a": "x\n"}), Code::UnsupportedField),
        (json!({"a": null}), Code::NotAnObject),
        (json!([]), Code::NotAnObject),
    ] {
        let error = World::new().child(with(json!({"labels": labels}))).expect_err(&labels.to_string());
        assert_eq!(error.code(), Some(code), "{labels}: {error}");
        assert!(error.to_string().contains("metadata.labels"), "{error}");
        assert!(error.to_string().len() < 400, "{error}");
    }
    let good = json!({"app": "", "app.kubernetes.io/name": "web-1.2_x", "x".repeat(63): "y".repeat(63)});
    assert!(World::new().child(with(json!({"labels": good}))).is_ok());
    let annotations = json!({"Example.com/a": "any text\n ü", "kubernetes.io/ingress.class": "nginx"});
    assert!(World::new().child(with(json!({"annotations": annotations}))).is_ok());
    let heavy = json!({"a": "x".repeat(200 << 10), "b": "x".repeat(60 << 10)});
    let error = World::new().child(with(json!({"annotations": heavy}))).expect_err("too much");
    assert_eq!(error.code(), Some(Code::UnsupportedField));
}

#[test]
fn the_reserved_is_reserved_in_any_spelling() {
    for (field, key) in [
        ("labels", "windlass.dev/plugin"),
        ("labels", "WINDLASS.dev/y"),
        ("annotations", "WINDLASS.dev/primary"),
        ("annotations", "windlass.dev/adopt"),
        ("annotations", "kubectl.kubernetes.io/last-applied-configuration"),
    ] {
        let error = World::new().child(with(json!({field: {key: "x"}}))).expect_err(key);
        assert_eq!(error.code(), Some(Code::ReservedField), "{key}: {error}");
    }
}

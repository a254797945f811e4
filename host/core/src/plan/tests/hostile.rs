//! Names, texts and objects by which a guest would reach what is not its own.

use super::*;

fn named(kind: &str, metadata: Value) -> Value {
    let (api_version, kind) = kind.rsplit_once('/').expect("a kind");
    json!({"apiVersion": api_version, "kind": kind, "metadata": metadata})
}

fn code(world: &World, child: Value) -> Option<Code> {
    world.child(child.clone()).expect_err(&child.to_string()).code()
}

/// A world whose primary lives in this namespace; nowhere when it is empty.
fn living_in(namespace: &str) -> World {
    let primary =
        json!({"metadata": {"name": "a", "namespace": namespace, "uid": "p", "resourceVersion": "7"}});
    let mut world = World::new();
    world.primary = Object::parse(&gvk("x.dev/v1/Web"), &primary.to_string()).expect("valid");
    world.primary_kind.namespaced = !namespace.is_empty();
    world
}

#[test]
fn no_name_leads_out_of_its_path() {
    let bad = [
        "..",
        ".",
        "../x",
        "a/../b",
        "a/b",
        "a%2fb",
        "%2e%2e",
        "a\\b",
        "a?b",
        "a#b",
        "a b",
        "a\n",
        "a\u{0}",
        "é",
        "a\u{202e}b",
        "\u{ff0e}\u{ff0e}",
        "-a",
        "a-",
        "A",
        "a_b",
        "a:b",
        "a..b",
        ".a",
    ];
    let long = "x".repeat(254);
    for name in bad.into_iter().chain([long.as_str()]) {
        assert_eq!(
            code(&World::new(), named("v1/ConfigMap", json!({"name": name}))),
            Some(Code::BadName),
            "{name:?}"
        );
    }
    for name in ["a", "a.b-c.9", &"x".repeat(253)] {
        let step = World::new().child(named("v1/ConfigMap", json!({"name": name}))).expect(name);
        let Step::Create { kind, object, .. } = step else { panic!("{step:?}") };
        assert_eq!(
            kind.object_path(&object.namespace, &object.name),
            format!("/api/v1/namespaces/ns/configmaps/{name}")
        );
    }
}

#[test]
fn a_service_has_the_narrower_name_that_the_server_wants() {
    for name in ["9a", "a.b", &"x".repeat(64)] {
        assert_eq!(
            code(&World::new(), named("v1/Service", json!({"name": name}))),
            Some(Code::BadName),
            "{name}"
        );
    }
    assert!(World::new().child(named("v1/Service", json!({"name": "x".repeat(63)}))).is_ok());
}

#[test]
fn no_namespace_leads_out_of_its_path_either() {
    let world = living_in("");
    for namespace in ["..", "a/b", "A", "a.b", "%2e", &"x".repeat(64)] {
        let child = named("v1/ConfigMap", json!({"name": "c", "namespace": namespace}));
        assert_eq!(code(&world, child), Some(Code::BadName), "{namespace}");
    }
    let child = |metadata| named("v1/ConfigMap", metadata);
    assert_eq!(code(&world, child(json!({"name": "c"}))), Some(Code::NamespaceEscape));
    assert!(world.child(child(json!({"name": "c", "namespace": "any"}))).is_ok());
    let cluster = |metadata| named("x.dev/v1/Cluster", metadata);
    assert!(world.child(cluster(json!({"name": "c"}))).is_ok());
    assert_eq!(code(&world, cluster(json!({"name": "c", "namespace": "ns"}))), Some(Code::NamespaceEscape));
}

#[test]
fn kinds_are_named_by_checked_parts_only() {
    for (api_version, kind) in [
        ("v1/../../apis", "ConfigMap"),
        ("../v1", "ConfigMap"),
        ("v1", "ConfigMap/status"),
        ("v1", "configmap"),
        ("v1", "Config Map"),
        ("", "ConfigMap"),
        ("v1", ""),
        ("*", "ConfigMap"),
    ] {
        let child = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "c"}});
        assert_eq!(code(&World::new(), child), Some(Code::NotAnObject), "{api_version} {kind}");
    }
}

#[test]
fn nothing_lives_beside_the_host() {
    let mut world = living_in("windlass-system");
    let named = |name: &str| named("v1/ConfigMap", json!({"name": name}));
    assert_eq!(code(&world, named("c")), Some(Code::NamespaceEscape));
    let cluster = living_in("");
    let child = super::hostile::named("v1/Secret", json!({"name": "c", "namespace": "windlass-system"}));
    assert_eq!(code(&cluster, child), Some(Code::NamespaceEscape));
    world.policy.beside_host = true;
    assert!(world.child(named("c")).is_ok());
    for own in ["windlass", "windlass-good-web", "windlass-accepted"] {
        assert_eq!(code(&world, named(own)), Some(Code::ReservedKind), "{own}");
    }
    assert!(world.child(named("windlassie")).is_ok());
}

#[test]
fn nothing_lives_where_the_host_does_not_serve() {
    let named = |kind: &str, namespace: &str| named(kind, json!({"name": "c", "namespace": namespace}));
    let mut world = living_in("");
    world.policy.namespaces = vec!["one".into(), "two".into()];
    assert!(world.child(named("v1/ConfigMap", "two")).is_ok());
    assert_eq!(code(&world, named("v1/ConfigMap", "three")), Some(Code::NamespaceEscape));
    world.policy.namespaces.clear();
    assert!(world.child(named("v1/ConfigMap", "three")).is_ok(), "without the flag it is the whole cluster");
}

#[test]
fn no_plugin_makes_tokens() {
    let tokens = ["kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"];
    for kind in tokens.into_iter().chain(["kubernetes.io/", "kubernetes.io/new", "storage.k8s.io/key"]) {
        let mut secret = named("v1/Secret", json!({"name": "s"}));
        secret["type"] = kind.into();
        assert_eq!(code(&World::new(), secret), Some(Code::ReservedKind), "{kind}");
    }
    for kind in ["kubernetes.io/tls", "Opaque", "helm.sh/release.v1", "notkubernetes.io/token"] {
        let mut secret = named("v1/Secret", json!({"name": "s"}));
        secret["type"] = kind.into();
        assert!(World::new().child(secret).is_ok(), "{kind}");
    }
    let account = json!({"name": "s", "annotations": {"kubernetes.io/service-account.name": "windlass"}});
    assert_eq!(code(&World::new(), named("v1/Secret", account)), Some(Code::ReservedField));
}

#[test]
fn reserved_kinds_stay_reserved_whatever_the_manifest_says() {
    let kinds = [
        "rbac.authorization.k8s.io/v1/ClusterRoleBinding",
        "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy",
        "admissionregistration.k8s.io/v1/MutatingWebhookConfiguration",
        "apiextensions.k8s.io/v1/CustomResourceDefinition",
        "apiregistration.k8s.io/v1/APIService",
        "coordination.k8s.io/v1/Lease",
        "certificates.k8s.io/v1/CertificateSigningRequest",
        "flowcontrol.apiserver.k8s.io/v1/FlowSchema",
        "v1/ServiceAccount",
        "v1/Namespace",
        "v1/Node",
    ];
    for kind in kinds {
        let mut world = World::new();
        let mut manifest = (*world.serving.manifest).clone();
        manifest.children.push(ChildRule { kind: gvk(kind), unwanted: Unwanted::Delete });
        world.serving.manifest = Arc::new(manifest);
        assert_eq!(code(&world, named(kind, json!({"name": "x"}))), Some(Code::ReservedKind), "{kind}");
        world.policy.unreserved = [gvk(kind)].into();
        let free = world.child(named(kind, json!({"name": "x"})));
        assert_eq!(free.err().and_then(|e| e.code()), None, "{kind}: only discovery is missing now");
    }
}

#[test]
fn one_object_in_two_versions_is_one_object() {
    let mut world = World::new();
    let mut manifest = (*world.serving.manifest).clone();
    manifest.children.push(ChildRule { kind: gvk("v2/ConfigMap"), unwanted: Unwanted::Delete });
    world.serving.manifest = Arc::new(manifest);
    let v2 = json!({"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "c"}});
    let kinds = |of: &Gvk| {
        Some(Kind { gvk: of.clone(), plural: "configmaps".into(), namespaced: true, has_status: false })
    };
    let planned = |world: &World, children: &[Value]| {
        world.with(|inputs| plan(&Inputs { kinds: &kinds, ..*inputs }, Verdict::Decision(decision(children))))
    };
    let error = planned(&world, &[config("v"), v2.clone()]).expect_err("one object");
    assert_eq!(error.code(), Some(Code::DuplicateChild));
    assert!(error.to_string().contains("children[0] and children[1]"), "{error}");
    // Seen in one version, wanted in the other: it is changed, never deleted.
    let step = world.child(config("v")).expect("allowed");
    world.stored(&step, |_| {});
    let plan = planned(&world, &[v2]).expect("allowed");
    assert!(
        matches!(plan.steps(), [Step::Update { target, .. }] if &*target.uid == "c"),
        "{:?}",
        plan.steps()
    );
    // Seen in both, and wanted in none: it is deleted once.
    world.children.push(world.children[0].clone());
    assert_eq!(planned(&world, &[]).expect("allowed").steps().len(), 1);
}

#[test]
fn a_child_that_somebody_else_controls_is_theirs() {
    let mut world = World::new();
    let step = world.child(config("v")).expect("allowed");
    let owner = json!([{"uid": "another", "controller": true, "kind": "Deployment", "name": "d"}]);
    world.stored(&step, |stored| stored["metadata"]["ownerReferences"] = owner);
    let error = world.plan(decision(&[config("v")])).expect_err("theirs");
    assert_eq!(error.code(), Some(Code::NotOwner));
    assert!(error.to_string().contains("Deployment d"), "{error}");
}

#[test]
fn texts_that_are_no_strict_json_say_where_and_why() {
    let plan = |children: Vec<String>, status: Option<&str>| {
        let status = status.map(str::to_owned);
        World::new()
            .plan(Decision { children, status, ..Decision::default() })
            .expect_err("refused")
            .to_string()
    };
    let good = config("v").to_string();
    let twice = good.replacen("{", "{\"kind\":\"Secret\",", 1);
    assert!(plan(vec![good.clone(), twice], None).starts_with("E222 DuplicateKey: children[1] at 1:"));
    let bom = format!("\u{feff}{good}");
    assert!(plan(vec![bom], None).starts_with("E220 InvalidJson: children[0] at 1:1: a byte order mark"));
    let deep = good.replacen("\"v\"", &("[".repeat(70) + &"]".repeat(70)), 1);
    assert!(plan(vec![deep], None).starts_with("E221 TooDeep: children[0] at 1:"));
    assert!(
        plan(vec![], Some("{\"a\":1e400}")).starts_with("E220 InvalidJson: status at 1:6, in a: 1e400 would")
    );
    assert!(plan(vec![], Some("[]")).starts_with("E223 NotAnObject: status"));
    let large = good.replace("\"v\"", &format!("{:?}", "x".repeat(1600 << 10)));
    assert!(plan(vec![large], None).starts_with("E210 OutputTooLarge: children[0]"));
}

#[test]
fn no_message_repeats_a_flood_or_a_control_character() {
    let flood = "\u{1b}[31m\n".repeat(100_000);
    for child in [
        named("v1/ConfigMap", json!({"name": flood})),
        named("v1/ConfigMap", json!({"name": "c", "namespace": flood})),
        named("v1/ConfigMap", json!({"name": "c", "labels": {&flood: "x"}})),
        named("v1/ConfigMap", json!({"name": "c", "labels": {"a": flood}})),
        named("v1/ConfigMap", json!({"name": "c", &flood: "x"})),
        json!({"apiVersion": flood, "kind": "ConfigMap"}),
        json!({"apiVersion": "v1", "kind": flood}),
        json!(flood),
    ] {
        let message = World::new().child(child).expect_err("refused").to_string();
        assert!(message.len() < 600 && !message.contains(char::is_control), "{message}");
    }
}

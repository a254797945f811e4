//! The operator as a function: from a WebApp and its children to what is wanted.

use super::*;
use windlass::kind;

fn hello(spec: Value) -> Snapshot<WebApp> {
    Snapshot::<WebApp>::of(json!({
        "metadata": { "name": "hello", "generation": 1 },
        "spec": spec,
    }))
    .with_time("2026-01-31T12:00:00Z")
}

fn decided(app: &Snapshot<WebApp>) -> Decision {
    let decision = reconcile(app, &Cache::fixed()).expect("a sound spec");
    assert_eq!(MANIFEST.check(&decision), Ok(()));
    decision
}

/// The Deployment as the cluster would show it once `ready` of `replicas` pods run.
fn running(decision: &Decision, replicas: u32, ready: u32) -> Value {
    let mut deployment: Value =
        decision.wanted(kind::DEPLOYMENT, "hello").expect("always wanted").clone().into();
    deployment["metadata"]["generation"] = json!(1);
    deployment["status"] = json!({
        "observedGeneration": 1,
        "replicas": replicas, "updatedReplicas": replicas,
        "readyReplicas": ready, "availableReplicas": ready,
    });
    deployment
}

fn kinds(decision: &Decision) -> Vec<&str> {
    decision.children.iter().map(Object::kind).collect()
}

#[test]
fn a_plain_webapp_is_a_deployment_and_a_service() {
    let decision = decided(&hello(json!({ "image": "web:1" })));
    assert_eq!(kinds(&decision), ["Deployment", "Service"]);
    let deployment = decision.wanted(kind::DEPLOYMENT, "hello").expect("wanted");
    assert_eq!(deployment.number("/spec/replicas"), 1);
    let container = "/spec/template/spec/containers/0";
    assert_eq!(deployment.number(&format!("{container}/ports/0/containerPort")), 8080);
    assert_eq!(deployment.at(&format!("{container}/envFrom")), None);
}

#[test]
fn every_option_brings_its_child() {
    let decision = decided(&hello(json!({
        "image": "web:1", "replicas": 3, "config": { "A": "b" }, "host": "hello.example.com",
    })));
    assert_eq!(kinds(&decision), ["ConfigMap", "Deployment", "Service", "Ingress", "PodDisruptionBudget"]);
    for child in &decision.children {
        assert_eq!(child.label("app.kubernetes.io/name"), Some("webapp"));
        assert_eq!(child.label("app.kubernetes.io/instance"), Some("hello"));
        assert_eq!(child.label("app.kubernetes.io/managed-by"), Some("windlass"));
    }
    assert_eq!(decision.wanted_status().text("/url"), Some("http://hello.example.com"));
}

#[test]
fn the_ingress_class_comes_from_the_settings() {
    let app =
        hello(json!({ "image": "web:1", "host": "a.b" })).with_settings(json!({ "ingressClass": "public" }));
    let decision = decided(&app);
    let ingress = decision.wanted(kind::INGRESS, "hello").expect("wanted");
    assert_eq!(ingress.text("/spec/ingressClassName"), Some("public"));
}

#[test]
fn settings_that_do_not_fit_are_a_permanent_fault() {
    let app = hello(json!({ "image": "web:1" })).with_settings(json!({ "ingressClass": 7 }));
    let fault = reconcile(&app, &Cache::fixed()).expect_err("a number is no class");
    assert!(matches!(fault, Fault::Permanent(text) if text.contains("ingressClass")));
}

#[test]
fn scaling_and_config_never_touch_the_selector() {
    let selector = |spec: Value| {
        let decision = decided(&hello(spec));
        let deployment = decision.wanted(kind::DEPLOYMENT, "hello").expect("wanted");
        deployment.at("/spec/selector").cloned()
    };
    assert_eq!(
        selector(json!({ "image": "web:1" })),
        selector(json!({ "image": "web:2", "replicas": 5, "config": { "A": "b" } }))
    );
}

#[test]
fn a_changed_config_rolls_the_pods_and_scaling_does_not() {
    let template = |spec: Value| {
        let decision = decided(&hello(spec));
        let deployment = decision.wanted(kind::DEPLOYMENT, "hello").expect("wanted");
        deployment.at("/spec/template").cloned()
    };
    let first = template(json!({ "image": "web:1", "config": { "A": "b" } }));
    let changed = template(json!({ "image": "web:1", "config": { "A": "c" } }));
    let scaled = template(json!({ "image": "web:1", "replicas": 4, "config": { "A": "b" } }));
    assert_ne!(first, changed);
    assert_eq!(first, scaled);
}

#[test]
fn the_pod_passes_the_restricted_standard() {
    let decision = decided(&hello(json!({ "image": "web:1" })));
    let pod = |path: &str| {
        let deployment = decision.wanted(kind::DEPLOYMENT, "hello").expect("wanted");
        deployment.at(&format!("/spec/template/spec{path}")).cloned()
    };
    assert_eq!(pod("/securityContext/runAsNonRoot"), Some(json!(true)));
    assert_eq!(pod("/securityContext/seccompProfile/type"), Some(json!("RuntimeDefault")));
    let container = "/containers/0/securityContext";
    assert_eq!(pod(&format!("{container}/allowPrivilegeEscalation")), Some(json!(false)));
    assert_eq!(pod(&format!("{container}/capabilities/drop")), Some(json!(["ALL"])));
}

#[test]
fn it_is_ready_when_every_replica_of_the_latest_spec_serves() {
    let app = hello(json!({ "image": "web:1", "replicas": 2 }));
    let wanted = decided(&app);
    let ready = |app: &Snapshot<WebApp>| {
        let status = decided(app).wanted_status();
        let reason =
            |index: u32| status.text(&format!("/conditions/{index}/reason")).unwrap_or_default().to_owned();
        (status.condition_at(0), reason(0), status.condition_at(1), reason(1))
    };
    let shown = |a: bool, b: &str, c: bool, d: &str| (a, b.to_owned(), c, d.to_owned());

    assert_eq!(ready(&app), shown(false, "Creating", true, "Creating"));
    let half = app.clone().with_child(running(&wanted, 2, 1));
    assert_eq!(ready(&half), shown(false, "RollingOut", true, "RollingOut"));
    let full = app.clone().with_child(running(&wanted, 2, 2));
    assert_eq!(ready(&full), shown(true, "AllReplicasReady", false, "RolledOut"));
    assert_eq!(decided(&full).wanted_status().number("/readyReplicas"), 2);

    // The image changes: what runs is complete, but of the earlier spec.
    let changed = hello(json!({ "image": "web:2", "replicas": 2 })).with_child(running(&wanted, 2, 2));
    assert_eq!(ready(&changed), shown(false, "RollingOut", true, "RollingOut"));
}

#[test]
fn scaled_to_zero_is_ready() {
    let app = hello(json!({ "image": "web:1", "replicas": 0 }));
    let deployment = running(&decided(&app), 0, 0);
    let status = decided(&app.with_child(deployment)).wanted_status();
    assert_eq!(status.text("/conditions/0/reason"), Some("ScaledToZero"));
    assert!(status.condition_at(0));
}

#[test]
fn a_rollout_that_gave_up_is_said_aloud() {
    let app = hello(json!({ "image": "web:1" }));
    let mut deployment = running(&decided(&app), 1, 0);
    deployment["status"]["conditions"] = json!([
        { "type": "Progressing", "status": "False", "message": "it has timed out" },
    ]);
    let decision = decided(&app.with_child(deployment));
    assert_eq!(decision.notices, [Notice::warning("RolloutStuck", "it has timed out")]);
    let status = decision.wanted_status();
    assert_eq!(status.text("/conditions/1/reason"), Some("RolloutStuck"));
}

#[test]
fn equal_inputs_give_equal_bytes() {
    let spec = json!({ "image": "web:1", "replicas": 2, "config": { "B": "2", "A": "1" } });
    let bytes = |app: &Snapshot<WebApp>| {
        let decision = decided(app);
        let children: Vec<String> =
            decision.children.iter().map(|child| child.as_value().to_string()).collect();
        (children, decision.status.map(|status| status.to_string()))
    };
    assert_eq!(bytes(&hello(spec.clone())), bytes(&hello(spec)));
}

/// What a cluster had, as text: also in the figures of `host/plugin/examples/decision_time.rs`.
fn seen() -> (String, Vec<String>) {
    let seen: Value =
        serde_json::from_str(include_str!("../../../host/plugin/examples/webapp.json")).expect("JSON");
    let children = seen["children"].as_object().expect("children by kind");
    (seen["primary"].to_string(), children.values().map(Value::to_string).collect())
}

#[test]
fn the_bytes_of_a_decision_stay_what_they_are() {
    let (primary, children) = seen();
    let app = windlass::raw::lift::<WebApp>(&primary, children.clone(), None).expect("it fits");
    let parse = |text: &String| serde_json::from_str(text).expect("JSON");
    let values = Snapshot::<WebApp>::new(parse(&primary), children.iter().map(parse).collect(), None)
        .expect("it fits");
    let bytes =
        |app: Snapshot<WebApp>| windlass::raw::texts(&decided(&app.with_time("2026-01-31T12:00:00Z")));
    assert_eq!(bytes(app.clone()), bytes(values));
    // A change would have every WebApp of every cluster applied once more: is that what is meant?
    assert_eq!(windlass::hash_of(&bytes(app)), "2d62a3f148ff221e");
}

#[test]
fn a_converged_webapp_never_reads_the_clock_again() {
    let app = hello(json!({ "image": "web:1" }));
    let deployment = running(&decided(&app), 1, 1);
    let first = decided(&app.clone().with_child(deployment.clone()));
    let later = Snapshot::<WebApp>::of(json!({
        "metadata": { "name": "hello", "generation": 1 },
        "spec": { "image": "web:1" },
        "status": first.status,
    }))
    .with_time("2026-02-01T00:00:00Z")
    .with_child(deployment);
    assert_eq!(decided(&later).status, first.status);
}

#[test]
fn a_spec_that_does_not_fit_names_its_field() {
    let fault =
        Snapshot::<WebApp>::new(json!({ "spec": { "image": "web:1", "replicas": "three" } }), vec![], None)
            .expect_err("text is no number");
    assert!(fault.to_string().contains("`spec.replicas`"), "{fault}");
}

/// Whether the condition at a place of the status is `True`.
trait ConditionAt {
    fn condition_at(&self, index: usize) -> bool;
}

impl ConditionAt for Object {
    fn condition_at(&self, index: usize) -> bool {
        self.text(&format!("/conditions/{index}/status")) == Some("True")
    }
}

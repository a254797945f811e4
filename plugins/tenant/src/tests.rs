//! The operator as a function: from a Namespace and what is shared to what is wanted.

use super::*;
use children::{LIMIT_RANGE, RESOURCE_QUOTA};
use windlass::cache::Seen;
use windlass::{Value, json};

/// A Namespace, with a plan or without.
fn namespace(plan: Option<&str>) -> Snapshot<Namespace> {
    let labels = plan.map_or(json!({}), |plan| json!({ PLAN_LABEL: plan }));
    Snapshot::<Namespace>::of(json!({
        "metadata": { "name": "team-a", "namespace": "", "labels": labels },
        "spec": { "finalizers": ["kubernetes"] },
        "status": { "phase": "Active" },
    }))
}

/// A ConfigMap of the source namespace.
fn source(name: &str, share: Option<&str>) -> Value {
    let labels = share.map_or(json!({}), |share| json!({ SHARE_LABEL: share }));
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "namespace": "tenant-defaults", "name": name, "labels": labels },
        "data": { "from": name },
    })
}

fn decided(tenant: &Snapshot<Namespace>, cache: &Cache) -> Decision {
    let decision = reconcile(tenant, cache).expect("sound settings");
    assert_eq!(MANIFEST.check(&decision), Ok(()));
    decision
}

/// Names of the copies, in their order.
fn copies(decision: &Decision) -> Vec<&str> {
    let maps = decision.children.iter().filter(|child| kind::CONFIG_MAP.matches(child));
    maps.map(Object::name).collect()
}

#[test]
fn a_namespace_without_a_plan_wants_nothing_and_reads_nothing() {
    let cache = Cache::fixed().with_object(source("ca", Some("all")));
    assert_eq!(decided(&namespace(None), &cache), Decision::new());
    assert!(cache.seen().is_empty(), "so that no change of a shared ConfigMap brings it back");
}

#[test]
fn the_selector_of_the_primary_is_the_label_of_the_plan() {
    assert_eq!(MANIFEST.selects.labels, [(PLAN_LABEL, None)]);
}

#[test]
fn a_tenant_gets_its_children_in_its_own_namespace() {
    let decision = decided(&namespace(Some("small")), &Cache::fixed());
    let all = [RESOURCE_QUOTA, LIMIT_RANGE, kind::NETWORK_POLICY];
    assert_eq!(decision.children.len(), all.len());
    for kind in all {
        let child = decision.wanted(kind, OWN_NAME).unwrap_or_else(|| panic!("{kind}"));
        assert_eq!(child.namespace(), "team-a", "{kind}");
    }
    assert_eq!(decision.status, None, "a Namespace's status is Kubernetes' own");
}

#[test]
fn a_larger_plan_is_a_larger_quota() {
    let pods = |plan: &str| {
        let decision = decided(&namespace(Some(plan)), &Cache::fixed());
        let quota = decision.wanted(RESOURCE_QUOTA, OWN_NAME).expect("wanted");
        quota.text("/spec/hard/pods").map(str::to_owned)
    };
    assert_eq!(pods("small").as_deref(), Some("10"));
    assert_eq!(pods("medium").as_deref(), Some("40"));
    assert_eq!(pods("large").as_deref(), Some("160"));
}

#[test]
fn what_is_shared_with_everybody_or_with_the_plan_is_copied() {
    let cache = Cache::fixed()
        .with_object(source("for-all", Some("all")))
        .with_object(source("for-small", Some("small")))
        .with_object(source("for-large", Some("large")))
        .with_object(source("private", None));
    let decision = decided(&namespace(Some("small")), &cache);
    assert_eq!(copies(&decision), ["for-all", "for-small"]);
    let copy = decision.wanted(kind::CONFIG_MAP, "for-all").expect("copied");
    assert_eq!(copy.text("/data/from"), Some("for-all"));
    assert_eq!(copy.namespace(), "team-a");
    assert_eq!(copy.annotation("tenant.example.com/copy-of"), Some("tenant-defaults/for-all"));
    assert_eq!(copy.label(SHARE_LABEL), None, "or copies would be copied");
}

#[test]
fn a_pass_reads_two_lists_and_one_object_and_nothing_of_other_plans() {
    let cache = Cache::fixed();
    let _ = decided(&namespace(Some("small")), &cache);
    let list = |share: &str| {
        Seen::List(Query::of(kind::CONFIG_MAP).namespace("tenant-defaults").label(SHARE_LABEL, share))
    };
    let extra = Seen::Object {
        kind: kind::CONFIG_MAP,
        namespace: "tenant-defaults".to_owned(),
        name: "quota-team-a".to_owned(),
    };
    assert_eq!(cache.seen(), [extra, list("all"), list("small")]);
}

#[test]
fn lines_of_one_tenants_quota_can_be_changed() {
    let mut extra = source("quota-team-a", None);
    extra["data"] = json!({ "pods": "99", "services": "5" });
    let decision = decided(&namespace(Some("small")), &Cache::fixed().with_object(extra));
    let quota = decision.wanted(RESOURCE_QUOTA, OWN_NAME).expect("wanted");
    assert_eq!(quota.text("/spec/hard/pods"), Some("99"));
    assert_eq!(quota.text("/spec/hard/services"), Some("5"));
    assert_eq!(quota.at("/spec/hard").and_then(|hard| hard["requests.cpu"].as_str()), Some("1"));
    assert!(copies(&decision).is_empty(), "it is not shared");
}

#[test]
fn the_source_namespace_keeps_its_originals() {
    let tenant = Snapshot::<Namespace>::of(json!({
        "metadata": { "name": "tenant-defaults", "namespace": "", "labels": { PLAN_LABEL: "small" } },
    }));
    let decision = decided(&tenant, &Cache::fixed().with_object(source("for-all", Some("all"))));
    assert!(copies(&decision).is_empty());
}

#[test]
fn a_plan_that_does_not_exist_is_a_fault_that_names_those_that_do() {
    for name in ["smal", "all"] {
        let fault = reconcile(&namespace(Some(name)), &Cache::fixed()).expect_err("no such plan");
        let text = fault.to_string();
        assert!(text.contains(&format!("`{name}`")) && text.contains("large, medium, small"), "{text}");
    }
}

#[test]
fn plans_come_from_the_settings() {
    let tenant = namespace(Some("tiny")).with_settings(json!({
        "sourceNamespace": "shared",
        "ingressNamespaces": ["ingress"],
        "plans": { "tiny": { "quota": { "pods": 1 } } },
    }));
    let mut other = source("ca", Some("tiny"));
    other["metadata"]["namespace"] = json!("shared");
    let decision = decided(&tenant, &Cache::fixed().with_object(other));
    assert_eq!(copies(&decision), ["ca"]);
    let quota = decision.wanted(RESOURCE_QUOTA, OWN_NAME).expect("wanted");
    assert_eq!(quota.at("/spec/hard"), Some(&json!({ "pods": 1 })));
    let policy = decision.wanted(kind::NETWORK_POLICY, OWN_NAME).expect("wanted");
    let from = policy.at("/spec/ingress/0/from/1/namespaceSelector/matchLabels");
    assert_eq!(from, Some(&json!({ "kubernetes.io/metadata.name": "ingress" })));
}

#[test]
fn a_setting_that_does_not_exist_is_named() {
    let tenant = namespace(Some("small")).with_settings(json!({ "sourceNamespce": "typo" }));
    let fault = reconcile(&tenant, &Cache::fixed()).expect_err("a typo");
    assert!(fault.to_string().contains("sourceNamespce"), "{fault}");
}

#[test]
fn equal_inputs_give_equal_bytes() {
    let cache = || Cache::fixed().with_object(source("b", Some("all"))).with_object(source("a", Some("all")));
    let bytes = |cache: &Cache| {
        let decision = decided(&namespace(Some("small")), cache);
        decision.children.iter().map(|child| child.as_value().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(bytes(&cache()), bytes(&cache()));
}

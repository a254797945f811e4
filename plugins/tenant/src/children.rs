//! The objects that a tenant gets, as server-side-apply configurations: only the fields that this
//! operator has an opinion on.

use crate::settings::{Plan, Quantities, Settings};
use crate::{Namespace, OWN_NAME};
use windlass::{Fault, Kind, Object, Snapshot, Value, json, kind};

/// `v1/ResourceQuota`.
pub(crate) const RESOURCE_QUOTA: Kind = Kind::new("", "v1", "ResourceQuota");
/// `v1/LimitRange`.
pub(crate) const LIMIT_RANGE: Kind = Kind::new("", "v1", "LimitRange");
/// On a copy: `<namespace>/<name>` of the original.
const COPY_OF: &str = "tenant.example.com/copy-of";

/// What all pods of the tenant together may use. `extra` changes single lines of the plan's.
pub(crate) fn quota(
    tenant: &Snapshot<Namespace>,
    plan: &Plan,
    extra: Option<&Object>,
) -> Result<Value, Fault> {
    let mut hard = plan.quota.clone();
    if let Some(extra) = extra {
        let lines: Option<Quantities> = extra.read("/data")?;
        hard.extend(lines.unwrap_or_default());
    }
    Ok(child(tenant, RESOURCE_QUOTA, json!({ "hard": hard })))
}

/// What a container gets that does not say what it needs: without it a quota would refuse its pod.
pub(crate) fn limits(tenant: &Snapshot<Namespace>, plan: &Plan) -> Value {
    let container = json!({
        "type": "Container",
        "default": plan.default_limits,
        "defaultRequest": plan.default_requests,
    });
    child(tenant, LIMIT_RANGE, json!({ "limits": [container] }))
}

/// Only pods of the tenant's own, and those of the namespaces in the settings, reach its pods.
pub(crate) fn network_policy(tenant: &Snapshot<Namespace>, settings: &Settings) -> Value {
    let mut from = vec![json!({ "podSelector": {} })];
    from.extend(settings.ingress_namespaces.iter().map(|name| {
        // A label that the API server itself keeps on every Namespace.
        json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": name } } })
    }));
    child(
        tenant,
        kind::NETWORK_POLICY,
        json!({ "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{ "from": from }] }),
    )
}

/// The tenant's own copy of a shared ConfigMap, under the same name.
pub(crate) fn copy(tenant: &Snapshot<Namespace>, source: &Object) -> Value {
    let mut copy = json!({
        "apiVersion": kind::CONFIG_MAP.api_version(),
        "kind": kind::CONFIG_MAP.kind,
        "metadata": {
            "name": source.name(),
            "namespace": tenant.name(),
            "annotations": { COPY_OF: format!("{}/{}", source.namespace(), source.name()) },
        },
    });
    for field in ["data", "binaryData"] {
        if let Some(found) = source.at(&format!("/{field}")) {
            copy[field] = found.clone();
        }
    }
    copy
}

/// A child in the tenant's namespace. It is written out: a Namespace is in no namespace itself,
/// so the host has none to fill in.
fn child(tenant: &Snapshot<Namespace>, kind: Kind, spec: Value) -> Value {
    json!({
        "apiVersion": kind.api_version(),
        "kind": kind.kind,
        "metadata": { "name": OWN_NAME, "namespace": tenant.name() },
        "spec": spec,
    })
}

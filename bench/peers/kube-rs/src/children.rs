//! The same five objects as those of `plugins/webapp/src/children.rs`.

use kube::ResourceExt as _;
use serde::Serialize;
use serde_json::{Value, json};

use crate::webapp::WebApp;

const CONFIG_HASH: &str = "apps.windlass.dev/config-hash";
pub(crate) const WANTED_HASH: &str = "apps.windlass.dev/wanted-hash";

/// Kind and content of each child; none if it is not wanted.
pub(crate) fn all(app: &WebApp) -> [(&'static str, Option<Value>); 5] {
    [
        ("ConfigMap", config_map(app)),
        ("Deployment", Some(deployment(app))),
        ("Service", Some(service(app))),
        ("Ingress", ingress(app)),
        ("PodDisruptionBudget", disruption_budget(app)),
    ]
}

fn selector(app: &WebApp) -> Value {
    json!({ "app.kubernetes.io/name": "webapp", "app.kubernetes.io/instance": app.name_any() })
}

fn labels(app: &WebApp) -> Value {
    let mut labels = selector(app);
    labels["app.kubernetes.io/managed-by"] = "windlass".into();
    labels
}

fn child(app: &WebApp, api_version: &str, kind: &str) -> Value {
    let owner = kube::Resource::controller_owner_ref(app, &());
    json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": app.name_any(),
            "namespace": app.namespace(),
            "labels": labels(app),
            "ownerReferences": owner.into_iter().collect::<Vec<_>>(),
        },
    })
}

fn deployment(app: &WebApp) -> Value {
    let mut deployment = child(app, "apps/v1", "Deployment");
    deployment["spec"] = json!({
        "replicas": app.spec.replicas,
        "selector": { "matchLabels": selector(app) },
        "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } },
        "template": {
            "metadata": { "labels": labels(app), "annotations": { CONFIG_HASH: hash_of(&app.spec.config) } },
            "spec": pod(app),
        },
    });
    let hash = hash_of(&deployment["spec"]);
    deployment["metadata"]["annotations"] = json!({ WANTED_HASH: hash });
    deployment
}

fn pod(app: &WebApp) -> Value {
    let mut container = json!({
        "name": "app",
        "image": app.spec.image,
        "ports": [{ "name": "http", "containerPort": app.spec.port, "protocol": "TCP" }],
        "resources": app.spec.resources,
        "readinessProbe": { "tcpSocket": { "port": "http" } },
        "livenessProbe": { "tcpSocket": { "port": "http" }, "initialDelaySeconds": 10 },
        "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
    });
    if !app.spec.config.is_empty() {
        container["envFrom"] = json!([{ "configMapRef": { "name": app.name_any() } }]);
    }
    json!({
        "automountServiceAccountToken": false,
        "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [container],
    })
}

fn service(app: &WebApp) -> Value {
    let mut service = child(app, "v1", "Service");
    service["spec"] = json!({
        "selector": selector(app),
        "ports": [{ "name": "http", "port": 80, "targetPort": "http", "protocol": "TCP" }],
    });
    service
}

fn config_map(app: &WebApp) -> Option<Value> {
    (!app.spec.config.is_empty()).then(|| {
        let mut map = child(app, "v1", "ConfigMap");
        map["data"] = json!(app.spec.config);
        map
    })
}

fn ingress(app: &WebApp) -> Option<Value> {
    let host = app.spec.host.as_ref()?;
    let backend = json!({ "service": { "name": app.name_any(), "port": { "name": "http" } } });
    let mut ingress = child(app, "networking.k8s.io/v1", "Ingress");
    ingress["spec"] = json!({
        "rules": [{
            "host": host,
            "http": { "paths": [{ "path": "/", "pathType": "Prefix", "backend": backend }] },
        }],
    });
    Some(ingress)
}

fn disruption_budget(app: &WebApp) -> Option<Value> {
    (app.spec.replicas > 1).then(|| {
        let mut budget = child(app, "policy/v1", "PodDisruptionBudget");
        budget["spec"] = json!({ "maxUnavailable": 1, "selector": { "matchLabels": selector(app) } });
        budget
    })
}

/// Whether an object that exists holds everything that is wanted of it.
pub(crate) fn holds(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| holds(found.get(key).unwrap_or(&Value::Null), value))
        }
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len()
                && found.iter().zip(wanted).all(|(found, wanted)| holds(found, wanted))
        }
        (Value::Null, Value::Object(wanted)) => wanted.is_empty(),
        (found, wanted) => found == wanted,
    }
}

/// The FNV-1a hash of the data's JSON: what the guest SDK's `hash_of` gives for the same data.
pub(crate) fn hash_of(data: &impl Serialize) -> String {
    let text = serde_json::to_value(data).map(|value| value.to_string()).unwrap_or_default();
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

//! The objects that a WebApp consists of, as server-side-apply configurations: only the fields
//! that this operator has an opinion on.

use crate::{Settings, WebApp};
use windlass::{Kind, Object, Snapshot, Value, hash_of, json, kind};

/// On the pod template: hash of the configuration, so that a change rolls the pods.
const CONFIG_HASH: &str = "apps.windlass.dev/config-hash";
/// On the Deployment: hash of all that is wanted of it, so that the status can tell whether what
/// it sees is already about the latest spec.
const WANTED_HASH: &str = "apps.windlass.dev/wanted-hash";
/// Name of the port, in the container and in the Service.
const PORT_NAME: &str = "http";

/// Runs the pods.
pub(crate) fn deployment(app: &Snapshot<WebApp>) -> Object {
    let mut deployment = child(
        app,
        kind::DEPLOYMENT,
        json!({
            "replicas": app.spec.replicas,
            "selector": { "matchLabels": app.selector() },
            // The new pod first, so that serving never stops.
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 },
            },
            "template": {
                "metadata": {
                    "labels": app.labels(),
                    "annotations": { CONFIG_HASH: hash_of(&app.spec.config) },
                },
                "spec": pod(app),
            },
        }),
    );
    let hash = hash_of(&deployment);
    deployment["metadata"]["annotations"] = json!({ WANTED_HASH: hash });
    Object::from(deployment)
}

/// Whether the Deployment that exists is the one that is wanted now.
pub(crate) fn is_current(observed: &Object, wanted: &Object) -> bool {
    observed.annotation(WANTED_HASH) == wanted.annotation(WANTED_HASH)
}

/// A pod that the restricted Pod Security Standard admits.
fn pod(app: &Snapshot<WebApp>) -> Value {
    let probe = json!({ "tcpSocket": { "port": PORT_NAME } });
    let mut container = json!({
        "name": "app",
        "image": app.spec.image,
        "ports": [{ "name": PORT_NAME, "containerPort": app.spec.port, "protocol": "TCP" }],
        "resources": app.spec.resources,
        "readinessProbe": probe,
        "livenessProbe": { "tcpSocket": probe["tcpSocket"], "initialDelaySeconds": 10 },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
        },
    });
    if !app.spec.config.is_empty() {
        container["envFrom"] = json!([{ "configMapRef": { "name": app.name() } }]);
    }
    json!({
        "automountServiceAccountToken": false,
        "securityContext": {
            "runAsNonRoot": true,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "containers": [container],
    })
}

/// Gives the pods one address.
pub(crate) fn service(app: &Snapshot<WebApp>) -> Value {
    child(
        app,
        kind::SERVICE,
        json!({
            "selector": app.selector(),
            "ports": [{ "name": PORT_NAME, "port": 80, "targetPort": PORT_NAME, "protocol": "TCP" }],
        }),
    )
}

/// Holds the configuration, if there is any.
pub(crate) fn config_map(app: &Snapshot<WebApp>) -> Option<Value> {
    (!app.spec.config.is_empty()).then(|| {
        json!({
            "apiVersion": kind::CONFIG_MAP.api_version(),
            "kind": kind::CONFIG_MAP.kind,
            "metadata": { "name": app.name(), "labels": app.labels() },
            "data": app.spec.config,
        })
    })
}

/// Makes it reachable from outside, if it has a host name.
pub(crate) fn ingress(app: &Snapshot<WebApp>, settings: &Settings) -> Option<Value> {
    let host = app.spec.host.as_ref()?;
    let backend = json!({ "service": { "name": app.name(), "port": { "name": PORT_NAME } } });
    let mut ingress = child(
        app,
        kind::INGRESS,
        json!({
            "rules": [{
                "host": host,
                "http": { "paths": [{ "path": "/", "pathType": "Prefix", "backend": backend }] },
            }],
        }),
    );
    if let Some(class) = &settings.ingress_class {
        ingress["spec"]["ingressClassName"] = json!(class);
    }
    Some(ingress)
}

/// Keeps a drain from taking more than one pod at a time. With a single pod it would forbid every
/// drain, so there is none.
pub(crate) fn disruption_budget(app: &Snapshot<WebApp>) -> Option<Value> {
    (app.spec.replicas > 1).then(|| {
        child(
            app,
            kind::POD_DISRUPTION_BUDGET,
            json!({ "maxUnavailable": 1, "selector": { "matchLabels": app.selector() } }),
        )
    })
}

/// A child of the WebApp's name with its labels.
fn child(app: &Snapshot<WebApp>, kind: Kind, spec: Value) -> Value {
    json!({
        "apiVersion": kind.api_version(),
        "kind": kind.kind,
        "metadata": { "name": app.name(), "labels": app.labels() },
        "spec": spec,
    })
}

//! What `kubectl get webapp` shows: the same as the plugin's.

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::Value;

use crate::children::WANTED_HASH;
use crate::webapp::{Condition, Status, WebApp};

/// How far the Deployment has come: whether it is done and moving, the reasons of Ready and Progressing, a message.
struct Rollout {
    done: bool,
    moving: bool,
    ready: &'static str,
    reason: &'static str,
    message: String,
}

impl Rollout {
    fn of(app: &WebApp, found: Option<&Value>, wanted: &Value) -> Self {
        let Some(found) = found else {
            let message = "The Deployment is being created".to_owned();
            return Self { done: false, moving: true, ready: "Creating", reason: "Creating", message };
        };
        let (status, replicas) = (&found["status"], i64::from(app.spec.replicas));
        let count = |field: &str| status[field].as_i64().unwrap_or(0);
        let message = format!("{} of {replicas} replicas are of the latest spec", count("updatedReplicas"));
        let moving = Self { done: false, moving: true, ready: "RollingOut", reason: "RollingOut", message };
        let hash = |object: &Value| object["metadata"]["annotations"][WANTED_HASH].clone();
        let observed = status["observedGeneration"].as_i64() >= found["metadata"]["generation"].as_i64();
        if hash(found) != hash(wanted) || !observed {
            return moving;
        }
        let conditions = status["conditions"].as_array().into_iter().flatten();
        if let Some(stuck) =
            conditions.into_iter().find(|c| c["type"] == "Progressing" && c["status"] == "False")
        {
            let message = stuck["message"].as_str().unwrap_or_default().to_owned();
            return Self {
                done: false,
                moving: false,
                ready: "RolloutStuck",
                reason: "RolloutStuck",
                message,
            };
        }
        if ["replicas", "updatedReplicas", "availableReplicas"].iter().any(|field| count(field) != replicas) {
            return moving;
        }
        let ready = if replicas == 0 { "ScaledToZero" } else { "AllReplicasReady" };
        let message = "The latest spec is rolled out".to_owned();
        Self { done: true, moving: false, ready, reason: "RolledOut", message }
    }
}

/// The status of a WebApp whose Deployment is `found` and should be `wanted`.
pub(crate) fn of(app: &WebApp, found: Option<&Value>, wanted: &Value) -> Status {
    let rollout = Rollout::of(app, found, wanted);
    let count = |field: &str| found.and_then(|found| found["status"][field].as_i64()).unwrap_or(0);
    let (name, namespace) = (app.name_any(), app.namespace().unwrap_or_default());
    let ready = count("readyReplicas");
    let message = format!("{ready} of {} replicas are ready", app.spec.replicas);
    Status {
        observed_generation: app.metadata.generation.unwrap_or(0),
        replicas: count("replicas"),
        ready_replicas: ready,
        selector: format!("app.kubernetes.io/instance={name},app.kubernetes.io/name=webapp"),
        url: match &app.spec.host {
            Some(host) => format!("http://{host}"),
            None => format!("http://{name}.{namespace}.svc"),
        },
        conditions: vec![
            condition(app, "Ready", rollout.done, rollout.ready, message),
            condition(app, "Progressing", rollout.moving, rollout.reason, rollout.message),
        ],
    }
}

fn condition(app: &WebApp, kind: &str, holds: bool, reason: &str, message: String) -> Condition {
    let status = if holds { "True" } else { "False" };
    let earlier = app.status.iter().flat_map(|status| &status.conditions);
    let since = earlier.into_iter().find(|c| c.kind == kind && c.status == status);
    Condition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: app.metadata.generation.unwrap_or(0),
        last_transition_time: since.map_or_else(now, |c| c.last_transition_time.clone()),
    }
}

/// Now, to the second, as Kubernetes writes times.
fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

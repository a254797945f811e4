//! The example operator: a `WebApp` becomes a Deployment, a Service and what belongs to them.
//!
//! Made to be copied. This file says what a WebApp is and what should exist because of it;
//! `children` writes the objects down, `rollout` reads from the Deployment how far it has come.

mod children;
mod rollout;

use rollout::Rollout;
use serde::Deserialize;
use std::collections::BTreeMap;
use windlass::{Cache, Decision, Fault, Labels, Notice, Object, Primary, Snapshot, Value, json};

/// A web application: the objects of the CRD, as plain Rust.
#[derive(Debug, Clone, Primary, Deserialize)]
#[primary(group = "apps.windlass.dev", version = "v1alpha1", kind = "WebApp")]
pub struct WebApp {
    /// What its owner wants.
    pub spec: Spec,
}

/// What the owner of a WebApp wants.
#[derive(Debug, Clone, Deserialize)]
pub struct Spec {
    /// Container image. It has to run as a user other than root.
    pub image: String,
    /// How many pods, from 0; default 1.
    #[serde(default = "one")]
    pub replicas: u32,
    /// The TCP port that the container listens on; default 8080.
    #[serde(default = "http_port")]
    pub port: u16,
    /// Environment variables, kept in a ConfigMap; a change rolls the pods.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// Host name under which an Ingress makes it reachable; without one there is no Ingress.
    pub host: Option<String>,
    /// The container's `requests` and `limits`, as Kubernetes writes them.
    #[serde(default)]
    pub resources: BTreeMap<String, Value>,
}

/// `settings.yaml` of the plugin: what holds for every WebApp.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Class of every Ingress; absent: the cluster's default class.
    pub ingress_class: Option<String>,
}

/// The default of `spec.replicas`, as in the CRD.
fn one() -> u32 {
    1
}

/// The default of `spec.port`, as in the CRD.
fn http_port() -> u16 {
    8080
}

/// The whole operator: what should exist because of this WebApp, and how far it is.
///
/// # Errors
/// Permanent if `settings.yaml` does not fit [`Settings`].
#[windlass::reconciler(children = [
    "apps/v1/Deployment",
    "v1/Service",
    "v1/ConfigMap",
    "networking.k8s.io/v1/Ingress",
    "policy/v1/PodDisruptionBudget",
])]
pub fn reconcile(app: &Snapshot<WebApp>, _cache: &Cache) -> Result<Decision, Fault> {
    let settings: Settings = app.settings()?;
    let deployment = children::deployment(app);
    let rollout = Rollout::of(app, &deployment);

    // Each optional child is there or not; one that is left out is removed.
    let decision = Decision::new()
        .children(children::config_map(app))
        .child(deployment)
        .child(children::service(app))
        .children(children::ingress(app, &settings))
        .children(children::disruption_budget(app))
        .status(status(app, &rollout));
    Ok(match rollout {
        Rollout::Stuck { reason } => decision.notice(Notice::warning("RolloutStuck", reason)),
        _ => decision,
    })
}

/// What `kubectl get webapp` shows.
fn status(app: &Snapshot<WebApp>, rollout: &Rollout) -> Value {
    let deployment = app.child(windlass::kind::DEPLOYMENT, app.name());
    let count = |field: &str| deployment.map_or(0, |found: &Object| found.number(field));
    let ready_replicas = count("/status/readyReplicas");
    let ready = format!("{ready_replicas} of {} replicas are ready", app.spec.replicas);
    let conditions = app.conditions().set("Ready", rollout.is_done(), rollout.ready_reason(), ready).set(
        "Progressing",
        rollout.is_moving(),
        rollout.progress_reason(),
        rollout.message(),
    );
    json!({
        "observedGeneration": app.meta().generation,
        "replicas": count("/status/replicas"),
        "readyReplicas": ready_replicas,
        "selector": selector_text(&app.selector()),
        "url": url(app),
        "conditions": conditions,
    })
}

/// Where it can be reached.
fn url(app: &Snapshot<WebApp>) -> String {
    match &app.spec.host {
        Some(host) => format!("http://{host}"),
        None => format!("http://{}.{}.svc", app.name(), app.namespace()),
    }
}

/// The selector as the scale subresource wants it: `a=b,c=d`.
fn selector_text(selector: &Labels) -> String {
    let pairs: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

#[cfg(test)]
mod tests;

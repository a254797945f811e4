//! A plugin that reads and writes Kubernetes' own types instead of JSON values.
//!
//! Deserializers of whole API types are the largest functions that an ordinary author will offer,
//! and the compiler's memory grows with the largest function. Here are the heaviest: pod templates
//! inside three workloads, read and written. A crate of its own: no other fixture waits for the types.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, DeploymentSpec, StatefulSet};
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodTemplateSpec, Service, ServiceSpec};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use windlass::{Cache, Decision, Fault, Kind, Primary, Query, Snapshot, json, kind};

/// The primary: a pod template in the types' own words.
#[derive(Debug, Clone, Primary, Deserialize)]
#[primary(group = "fixtures.windlass.dev", version = "v1alpha1", kind = "Widget")]
pub struct Widget {
    /// What its owner wants.
    #[serde(default)]
    pub spec: Spec,
}

/// What the owner of a Widget wants.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Spec {
    /// How many pods.
    pub replicas: i32,
    /// The pods.
    pub template: PodTemplateSpec,
    /// What is in front of them.
    pub service: ServiceSpec,
}

/// Wants a Deployment and a Service of the Widget's words, and says what there is around it.
#[windlass::reconciler(
    name = "typed",
    version = "0.1.0",
    children = ["apps/v1/Deployment", "v1/Service"],
    reads = [
        "apps/v1/StatefulSet", "apps/v1/DaemonSet", "batch/v1/CronJob", "v1/Pod", "v1/ConfigMap",
        "networking.k8s.io/v1/Ingress",
    ],
)]
fn reconcile(widget: &Snapshot<Widget>, cache: &Cache) -> Result<Decision, Fault> {
    let ready = widget
        .child(kind::DEPLOYMENT, widget.name())
        .map(|there| typed::<Deployment>(there.as_value()))
        .transpose()?
        .and_then(|deployment| deployment.status?.ready_replicas);
    let around = count::<StatefulSet>(widget, cache, STATEFUL_SET)?
        + count::<DaemonSet>(widget, cache, DAEMON_SET)?
        + count::<CronJob>(widget, cache, CRON_JOB)?
        + count::<Ingress>(widget, cache, kind::INGRESS)?
        + count::<ConfigMap>(widget, cache, kind::CONFIG_MAP)?
        + count::<Pod>(widget, cache, POD)?;
    Ok(Decision::new()
        .child(untyped(&deployment(widget))?)
        .child(untyped(&service(widget))?)
        .status(json!({ "ready": ready.unwrap_or_default(), "around": around })))
}

const STATEFUL_SET: Kind = Kind::new("apps", "v1", "StatefulSet");
const DAEMON_SET: Kind = Kind::new("apps", "v1", "DaemonSet");
const CRON_JOB: Kind = Kind::new("batch", "v1", "CronJob");
const POD: Kind = Kind::new("", "v1", "Pod");

fn deployment(widget: &Snapshot<Widget>) -> Deployment {
    Deployment {
        metadata: metadata(widget),
        spec: DeploymentSpec {
            replicas: Some(widget.spec.replicas),
            selector: LabelSelector { match_labels: metadata(widget).labels, ..LabelSelector::default() },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { name: None, ..metadata(widget) }),
                ..widget.spec.template.clone()
            },
            ..DeploymentSpec::default()
        },
        status: None,
    }
}

fn service(widget: &Snapshot<Widget>) -> Service {
    Service { metadata: metadata(widget), spec: Some(widget.spec.service.clone()), status: None }
}

fn metadata(widget: &Snapshot<Widget>) -> ObjectMeta {
    let labels = [("app.kubernetes.io/name".to_owned(), widget.name().to_owned())];
    ObjectMeta { name: Some(widget.name().to_owned()), labels: Some(labels.into()), ..ObjectMeta::default() }
}

/// How many objects of a kind there are that the types understand and write again as they were read.
fn count<T: DeserializeOwned + Serialize>(
    widget: &Snapshot<Widget>,
    cache: &Cache,
    kind: Kind,
) -> Result<usize, Fault> {
    let all = cache.list(&Query::of(kind).namespace(widget.namespace()));
    let same = |object: &windlass::Object| {
        let value = object.as_value();
        Ok(untyped(&typed::<T>(value)?)? == *value)
    };
    all.iter().map(same).try_fold(0, |sum, same: Result<bool, Fault>| Ok(sum + usize::from(same?)))
}

fn typed<T: DeserializeOwned>(value: &windlass::Value) -> Result<T, Fault> {
    T::deserialize(value.clone()).map_err(Fault::permanent)
}

fn untyped(object: &impl Serialize) -> Result<windlass::Value, Fault> {
    serde_json::to_value(object).map_err(Fault::permanent)
}

//! The WebApp: what `plugins/webapp/crd.yaml` says.

use std::collections::BTreeMap;

use kube::CustomResource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What its owner wants; the CRD fills in the defaults.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug)]
#[kube(group = "apps.windlass.dev", version = "v1alpha1", kind = "WebApp", namespaced, schema = "disabled")]
#[kube(status = "Status")]
pub(crate) struct Spec {
    pub(crate) image: String,
    pub(crate) replicas: i32,
    pub(crate) port: u16,
    #[serde(default)]
    pub(crate) config: BTreeMap<String, String>,
    pub(crate) host: Option<String>,
    #[serde(default)]
    pub(crate) resources: BTreeMap<String, Value>,
}

/// How far it is.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Status {
    pub(crate) observed_generation: i64,
    pub(crate) replicas: i64,
    pub(crate) ready_replicas: i64,
    pub(crate) selector: String,
    pub(crate) url: String,
    pub(crate) conditions: Vec<Condition>,
}

/// One of its conditions.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) observed_generation: i64,
    pub(crate) last_transition_time: String,
}

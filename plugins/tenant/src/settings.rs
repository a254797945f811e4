//! `settings.yaml` of the plugin: what a plan is, and where shared ConfigMaps come from.

use serde::Deserialize;
use std::collections::BTreeMap;
use windlass::{Value, json};

/// Quantities by resource name, as Kubernetes writes them.
pub(crate) type Quantities = BTreeMap<String, Value>;

/// What holds for every tenant. Each field has a default.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Settings {
    /// Where shared ConfigMaps and `quota-<namespace>` are looked for; default `tenant-defaults`.
    #[serde(default = "source_namespace")]
    pub(crate) source_namespace: String,
    /// Namespaces whose pods may reach every tenant's, such as an ingress controller's; default none.
    #[serde(default)]
    pub(crate) ingress_namespaces: Vec<String>,
    /// The plans by name; default `small`, `medium` and `large`.
    #[serde(default = "plans")]
    pub(crate) plans: BTreeMap<String, Plan>,
}

/// What the tenants of one plan get.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Plan {
    /// `spec.hard` of the ResourceQuota.
    pub(crate) quota: Quantities,
    /// What a container may use that does not say so itself.
    #[serde(default)]
    pub(crate) default_limits: Quantities,
    /// What a container requests that does not say so itself.
    #[serde(default)]
    pub(crate) default_requests: Quantities,
}

/// The default of `sourceNamespace`.
fn source_namespace() -> String {
    "tenant-defaults".to_owned()
}

/// The default of `plans`: each four times as large as the one before it.
fn plans() -> BTreeMap<String, Plan> {
    [("small", 1), ("medium", 4), ("large", 16)]
        .into_iter()
        .map(|(name, times)| (name.to_owned(), Plan::times(times)))
        .collect()
}

impl Plan {
    /// `times` one CPU, 2 GiB and 10 pods.
    fn times(times: u32) -> Self {
        let quantities = |pairs: &[(&str, Value)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
        };
        let memory = format!("{}Gi", 2 * times);
        Self {
            quota: quantities(&[
                ("requests.cpu", json!(times.to_string())),
                ("requests.memory", json!(memory)),
                ("limits.memory", json!(memory)),
                ("pods", json!((10 * times).to_string())),
            ]),
            default_limits: quantities(&[("memory", json!("256Mi"))]),
            default_requests: quantities(&[("cpu", json!("50m")), ("memory", json!("64Mi"))]),
        }
    }
}

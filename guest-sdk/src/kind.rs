//! Kinds of Kubernetes objects, as constants.

use crate::Object;
use std::fmt;

/// A kind of Kubernetes object: API group, API version and kind.
///
/// ```
/// use windlass::{Kind, kind};
///
/// const CERTIFICATE: Kind = Kind::new("cert-manager.io", "v1", "Certificate");
/// assert_eq!(CERTIFICATE.api_version(), "cert-manager.io/v1");
/// assert_eq!(kind::SERVICE.api_version(), "v1");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// API version such as `v1`.
    pub version: &'static str,
    /// Kind in CamelCase such as `Deployment`.
    pub kind: &'static str,
}

impl Kind {
    /// A kind of one's own; nothing is checked here, the host knows which kinds exist.
    #[must_use]
    pub const fn new(group: &'static str, version: &'static str, kind: &'static str) -> Self {
        Self { group, version, kind }
    }

    /// What stands in an object's `apiVersion`: `apps/v1`, or `v1` for the core group.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Whether the object is of this kind, by its `apiVersion` and `kind`.
    #[must_use]
    pub fn matches(&self, object: &Object) -> bool {
        let (group, version) = match object.api_version().split_once('/') {
            Some((group, version)) => (group, version),
            None => ("", object.api_version()),
        };
        object.kind() == self.kind && group == self.group && version == self.version
    }
}

/// As the reconciler attribute writes it: `apps/v1/Deployment`.
impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.group.is_empty() {
            write!(out, "{}/", self.group)?;
        }
        write!(out, "{}/{}", self.version, self.kind)
    }
}

/// `v1/ConfigMap`.
pub const CONFIG_MAP: Kind = Kind::new("", "v1", "ConfigMap");
/// `batch/v1/CronJob`.
pub const CRON_JOB: Kind = Kind::new("batch", "v1", "CronJob");
/// `apps/v1/DaemonSet`.
pub const DAEMON_SET: Kind = Kind::new("apps", "v1", "DaemonSet");
/// `apps/v1/Deployment`.
pub const DEPLOYMENT: Kind = Kind::new("apps", "v1", "Deployment");
/// `autoscaling/v2/HorizontalPodAutoscaler`.
pub const HORIZONTAL_POD_AUTOSCALER: Kind = Kind::new("autoscaling", "v2", "HorizontalPodAutoscaler");
/// `networking.k8s.io/v1/Ingress`.
pub const INGRESS: Kind = Kind::new("networking.k8s.io", "v1", "Ingress");
/// `batch/v1/Job`.
pub const JOB: Kind = Kind::new("batch", "v1", "Job");
/// `v1/Namespace`.
pub const NAMESPACE: Kind = Kind::new("", "v1", "Namespace");
/// `networking.k8s.io/v1/NetworkPolicy`.
pub const NETWORK_POLICY: Kind = Kind::new("networking.k8s.io", "v1", "NetworkPolicy");
/// `v1/PersistentVolumeClaim`.
pub const PERSISTENT_VOLUME_CLAIM: Kind = Kind::new("", "v1", "PersistentVolumeClaim");
/// `v1/Pod`.
pub const POD: Kind = Kind::new("", "v1", "Pod");
/// `policy/v1/PodDisruptionBudget`.
pub const POD_DISRUPTION_BUDGET: Kind = Kind::new("policy", "v1", "PodDisruptionBudget");
/// `v1/Secret`.
pub const SECRET: Kind = Kind::new("", "v1", "Secret");
/// `v1/Service`.
pub const SERVICE: Kind = Kind::new("", "v1", "Service");
/// `v1/ServiceAccount`.
pub const SERVICE_ACCOUNT: Kind = Kind::new("", "v1", "ServiceAccount");
/// `apps/v1/StatefulSet`.
pub const STATEFUL_SET: Kind = Kind::new("apps", "v1", "StatefulSet");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn a_kind_matches_by_group_version_and_kind() {
        let object = Object::from(json!({ "apiVersion": "apps/v1", "kind": "Deployment" }));
        assert!(DEPLOYMENT.matches(&object));
        assert!(!STATEFUL_SET.matches(&object));
        assert!(!Kind::new("apps", "v1beta1", "Deployment").matches(&object));
        assert!(SERVICE.matches(&Object::from(json!({ "apiVersion": "v1", "kind": "Service" }))));
        assert!(!SERVICE.matches(&Object::from(json!("nonsense"))));
    }

    #[test]
    fn a_kind_is_shown_as_the_attribute_writes_it() {
        assert_eq!(DEPLOYMENT.to_string(), "apps/v1/Deployment");
        assert_eq!(SERVICE.to_string(), "v1/Service");
    }
}

//! What the operator of a host allows beyond the rules, and what no manifest can allow.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::child::refuse;
use super::{Inputs, PlanError};
use crate::code::Code;
use crate::key::ObjectRef;
use crate::kind::Gvk;
use crate::manifest::is_reserved;
use crate::name::DOMAIN;

/// Exceptions from the rules for all plugins of a host. Without any by default: each of
/// them gives plugins a part of the host's own rights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Reserved kinds that plugins may write here after all, as their manifests say.
    pub unreserved: BTreeSet<Gvk>,
    /// Whether children may live in the namespace of the host. What runs there can run
    /// under the host's account, or read its Secrets.
    pub beside_host: bool,
    /// The namespaces that this host serves, sorted; none: all, and what is in no namespace.
    pub namespaces: Vec<String>,
    /// Whether a field that only the server sets refuses the decision (E239) instead of
    /// being left out with a warning (W301).
    pub strict: bool,
}

/// Of Kubernetes' own types of Secrets those that are no more than what they hold. The others are tokens, which the API server fills
/// or takes for somebody's word, as those may be that come to be.
const PLAIN_SECRETS: &[&str] = &[
    "kubernetes.io/basic-auth",
    "kubernetes.io/dockercfg",
    "kubernetes.io/dockerconfigjson",
    "kubernetes.io/ssh-auth",
    "kubernetes.io/tls",
];
/// Name of the host's own Deployment, Lease and account, and the first part of the names
/// of its ConfigMaps, Secrets and Roles.
const OWN_NAME: &str = "windlass";
/// Labels and annotations by which somebody else keeps an account of an object, or by
/// which the API server is told to hand out a token.
const FOREIGN_KEYS: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    "control-plane.alpha.kubernetes.io/leader",
    "kubernetes.io/service-account.name",
    "kubernetes.io/service-account.uid",
];

impl Policy {
    /// Whether plugins whose manifests name this kind may write it.
    ///
    /// # Errors
    /// One sentence for E238: no plugin may, unless the operator of the host says so.
    pub fn permits(&self, gvk: &Gvk) -> Result<(), String> {
        if is_reserved(gvk) && !self.unreserved.contains(gvk) {
            return Err(format!(
                "{gvk} is a kind that no plugin may write without --allow-reserved-kind={gvk}"
            ));
        }
        Ok(())
    }
}

/// Refuses what is not in a namespace that this host serves (E233).
pub(super) fn place_is_served(inputs: &Inputs<'_>, object: &ObjectRef) -> Result<(), PlanError> {
    let served = &inputs.policy.namespaces;
    if served.is_empty() || served.iter().any(|one| **one == *object.namespace) {
        return Ok(());
    }
    let place = if object.namespace.is_empty() { "in no namespace" } else { "elsewhere" };
    refuse(
        Code::NamespaceEscape,
        format!("{object} is {place}; this host serves {} only (--namespaces)", served.join(", ")),
    )
}

/// Refuses a kind that no plugin may write (E238).
pub(super) fn kind_is_free(inputs: &Inputs<'_>, gvk: &Gvk) -> Result<(), PlanError> {
    inputs.policy.permits(gvk).or_else(|why| refuse(Code::ReservedKind, why))
}

/// Refuses the host's own objects, and those that are a right rather than a thing.
pub(super) fn object_is_free(
    inputs: &Inputs<'_>,
    object: &ObjectRef,
    body: &Map<String, Value>,
) -> Result<(), PlanError> {
    if *object.namespace == *inputs.host_namespace {
        beside_host(inputs, object)?;
    }
    let kind = body.get("type").and_then(Value::as_str).unwrap_or_default();
    if &*object.gvk.kind == "Secret"
        && object.gvk.group.is_empty()
        && is_of_kubernetes(kind)
        && !PLAIN_SECRETS.contains(&kind)
    {
        return refuse(
            Code::ReservedKind,
            format!(
                "{object}: a Secret of type {kind:?} may be a token, which no plugin may make; of Kubernetes' own types it may make {}",
                PLAIN_SECRETS.join(", ")
            ),
        );
    }
    Ok(())
}

/// Whether a type of Secrets is in a domain that Kubernetes keeps for itself.
fn is_of_kubernetes(kind: &str) -> bool {
    let Some((domain, _)) = kind.split_once('/') else {
        return false;
    };
    ["kubernetes.io", "k8s.io"]
        .iter()
        .any(|own| domain.strip_suffix(own).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

fn beside_host(inputs: &Inputs<'_>, object: &ObjectRef) -> Result<(), PlanError> {
    if !inputs.policy.beside_host {
        return refuse(
            Code::NamespaceEscape,
            format!("{object} is for the namespace of the host itself; put its primary elsewhere"),
        );
    }
    let own = object.name.strip_prefix(OWN_NAME).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    if own {
        return refuse(
            Code::ReservedKind,
            format!("{object}: beside the host, names that begin with {OWN_NAME} are its own"),
        );
    }
    Ok(())
}

/// Whether only the host, or somebody else than a plugin, sets this label or annotation.
pub(super) fn is_reserved_key(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    // A domain below ours is whoever's group it is, such as the example plugin's.
    domain.eq_ignore_ascii_case(DOMAIN)
        || key.starts_with("system:")
        || key.contains("/system:")
        || FOREIGN_KEYS.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyday_keys_are_free_and_those_of_the_host_are_not() {
        for free in [
            "app",
            "app.kubernetes.io/name",
            "kubernetes.io/ingress.class",
            "service.beta.kubernetes.io/aws-load-balancer-type",
            "k8s.io/x",
            "notwindlass.dev/x",
            "apps.windlass.dev/x",
            "windlass.dev",
            "windlass.dev.example.com/x",
            "x/windlass.dev",
        ] {
            assert!(!is_reserved_key(free), "{free}");
        }
        for reserved in [
            "windlass.dev/owned-by",
            "windlass.dev/",
            "Windlass.DEV/primary",
            "system:x",
            "a/system:x",
            "kubectl.kubernetes.io/last-applied-configuration",
            "kubernetes.io/service-account.name",
        ] {
            assert!(is_reserved_key(reserved), "{reserved}");
        }
    }
}

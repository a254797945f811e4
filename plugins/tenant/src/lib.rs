//! An operator on a built-in kind: a `Namespace` with a plan gets a quota, limits, a network
//! policy, and copies of the ConfigMaps that are shared with its plan.
//!
//! Made to be copied. This file says who is a tenant and what should exist because of it;
//! `children` writes the objects down, `settings` says what a plan is. Two things are shown here
//! that `webapp` does not need: a primary that the plugin did not bring, selected by label, and reads through the
//! cache (lists found by label, and one object that may be absent). Nothing is set up for them:
//! whatever a pass read brings exactly those namespaces back that read it.

mod children;
mod settings;

use serde::Deserialize;
use settings::{Plan, Settings};
use windlass::{Cache, Decision, Fault, Object, Primary, Query, Snapshot, kind};

/// On a Namespace: the name of its plan. A Namespace without it is nobody's concern here.
pub const PLAN_LABEL: &str = "tenant.example.com/plan";
/// On a ConfigMap of the source namespace: the plan whose tenants get a copy, or [`EVERYBODY`].
pub const SHARE_LABEL: &str = "tenant.example.com/share";
/// Value of [`SHARE_LABEL`] for every plan; no plan can have this name.
pub const EVERYBODY: &str = "all";
/// Name of the quota, the limits and the network policy of every tenant.
pub const OWN_NAME: &str = "tenant";

/// The built-in Namespace. All that is read of it is its metadata.
#[derive(Debug, Clone, Primary, Deserialize)]
#[primary(group = "", version = "v1", kind = "Namespace")]
pub struct Namespace {}

/// The whole operator: what should exist in this Namespace.
///
/// # Errors
/// Permanent if `settings.yaml` does not fit [`Settings`], or has no plan of that name: what the
/// tenant has stays as it is until the label is put right.
#[windlass::reconciler(
    labels = ["tenant.example.com/plan"],
    children = ["v1/ResourceQuota", "v1/LimitRange", "networking.k8s.io/v1/NetworkPolicy", "v1/ConfigMap"],
    reads = ["v1/ConfigMap"],
)]
pub fn reconcile(tenant: &Snapshot<Namespace>, cache: &Cache) -> Result<Decision, Fault> {
    // The host asks only about Namespaces that have the label; one that loses it is let go without being asked.
    let Some(wanted) = tenant.meta().labels.get(PLAN_LABEL) else {
        return Ok(Decision::new());
    };
    let settings: Settings = tenant.settings()?;
    let plan = plan(&settings, wanted)?;
    let extra = cache.get(kind::CONFIG_MAP, &settings.source_namespace, &extra_name(tenant));
    Ok(Decision::new()
        .child(children::quota(tenant, plan, extra.as_ref())?)
        .child(children::limits(tenant, plan))
        .child(children::network_policy(tenant, &settings))
        .children(
            shared(tenant, cache, &settings, wanted).iter().map(|source| children::copy(tenant, source)),
        ))
}

/// The plan of that name.
fn plan<'a>(settings: &'a Settings, name: &str) -> Result<&'a Plan, Fault> {
    settings.plans.get(name).filter(|_| name != EVERYBODY).ok_or_else(|| {
        let known: Vec<&str> = settings.plans.keys().map(String::as_str).collect();
        Fault::permanent(format!("label {PLAN_LABEL}: there is no plan `{name}`, only {}", known.join(", ")))
    })
}

/// Name of the ConfigMap that may change single lines of one tenant's quota.
fn extra_name(tenant: &Snapshot<Namespace>) -> String {
    format!("quota-{}", tenant.name())
}

/// The ConfigMaps that this tenant gets a copy of. The source namespace has the originals.
fn shared(tenant: &Snapshot<Namespace>, cache: &Cache, settings: &Settings, plan: &str) -> Vec<Object> {
    if tenant.name() == settings.source_namespace {
        return Vec::new();
    }
    let with = |value: &str| {
        cache.list(
            &Query::of(kind::CONFIG_MAP).namespace(&settings.source_namespace).label(SHARE_LABEL, value),
        )
    };
    let mut found = with(EVERYBODY);
    found.extend(with(plan));
    found
}

#[cfg(test)]
mod tests;

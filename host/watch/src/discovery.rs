//! What the API server serves: a kind's plural, scope and status subresource.
//!
//! Asked for one group and version at a time, as raw JSON, when a kind is first
//! wanted and again whenever a 404 casts doubt on it.

use std::borrow::Cow;

use kube::Client;
use serde::Deserialize;
use windlass_core::kind::{Gvk, Kind};

use crate::get::{GetError, whole};
use crate::selection::JSON;

/// Largest answer in bytes: 4 MiB; a group with thousands of kinds stays below 1.
const MAX_BYTES: usize = 4 << 20;

/// What discovery says about a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is served, and can be listed and watched.
    Kind(Kind),
    /// It is not served now; it may come.
    Absent,
    /// It is served, but not as something to list and watch.
    Unwatchable,
}

#[derive(Deserialize)]
struct RawGroup<'a> {
    #[serde(borrow)]
    resources: Option<Vec<RawKind<'a>>>,
}

#[derive(Deserialize)]
struct RawKind<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(default)]
    namespaced: bool,
    #[serde(borrow, default)]
    verbs: Option<Vec<Cow<'a, str>>>,
}

/// Asks for the group and version of `gvk` and looks for the kind in it.
///
/// # Errors
/// [`GetError`] when there was no usable answer: that is no proof of absence.
pub(crate) async fn discover(client: &Client, gvk: &Gvk) -> Result<Found, GetError> {
    match whole(client, &gvk.api_path(), JSON, MAX_BYTES).await {
        Ok(text) => find(gvk, &text),
        Err(error) if error.code() == Some(404) => Ok(Found::Absent),
        Err(error) => Err(error),
    }
}

fn find(gvk: &Gvk, text: &[u8]) -> Result<Found, GetError> {
    let group: RawGroup<'_> = serde_json::from_slice(text).map_err(GetError::Json)?;
    let all = group.resources.ok_or(GetError::Shape("resources"))?;
    let is_main = |raw: &&RawKind<'_>| raw.kind == *gvk.kind && !raw.name.contains('/');
    let can = |raw: &RawKind<'_>, verb: &str| raw.verbs.iter().flatten().any(|v| v == verb);
    let Some(first) = all.iter().find(is_main) else {
        return Ok(Found::Absent);
    };
    let watchable = |raw: &&RawKind<'_>| can(raw, "list") && can(raw, "watch");
    let Some(found) = all.iter().filter(is_main).find(watchable) else {
        tracing::debug!(kind = %gvk, plural = %first.name, "kind can not be listed and watched");
        return Ok(Found::Unwatchable);
    };
    let status = format!("{}/status", found.name);
    Ok(Found::Kind(Kind {
        gvk: gvk.clone(),
        plural: found.name.as_ref().into(),
        namespaced: found.namespaced,
        has_status: all.iter().any(|raw| raw.name == status),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const APPS: &[u8] = br#"{"kind":"APIResourceList","groupVersion":"apps/v1","resources":[
        {"name":"deployments","kind":"Deployment","namespaced":true,"verbs":["get","list","watch"]},
        {"name":"deployments/scale","kind":"Scale","namespaced":true,"verbs":["get"]},
        {"name":"deployments/status","kind":"Deployment","namespaced":true,"verbs":["get"]},
        {"name":"reviews","kind":"Review","namespaced":false,"verbs":["create"]}]}"#;

    fn find_in_apps(kind: &str) -> Found {
        find(&format!("apps/v1/{kind}").parse().expect("valid"), APPS).expect("a group")
    }

    #[test]
    fn plural_scope_and_status_come_from_discovery() {
        let Found::Kind(kind) = find_in_apps("Deployment") else {
            panic!("it is there");
        };
        assert_eq!((&*kind.plural, kind.namespaced, kind.has_status), ("deployments", true, true));
    }

    #[test]
    fn absent_and_unwatchable_kinds_are_told_apart() {
        assert_eq!(find_in_apps("Rocket"), Found::Absent);
        assert_eq!(find_in_apps("Scale"), Found::Absent);
        assert_eq!(find_in_apps("Review"), Found::Unwatchable);
    }

    #[test]
    fn what_is_no_group_is_no_proof_of_absence() {
        let gvk = "apps/v1/Deployment".parse().expect("valid");
        assert!(find(&gvk, b"{}").is_err() && find(&gvk, b"<html>").is_err());
    }
}

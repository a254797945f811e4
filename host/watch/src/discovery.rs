//! What the API server serves: a kind's plural, scope and status subresource.
//!
//! Asked for one group and version at a time, as raw JSON, when a kind is first wanted and again whenever a 404 casts doubt on
//! it. Whoever asks while the same is on the way gets that answer: at a start all kinds of a group ask at once.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::{BoxFuture, FutureExt as _, Shared, WeakShared};
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

/// What is served of one group and version.
#[derive(Debug)]
pub(crate) struct Group(Vec<Resource>);

#[derive(Debug)]
struct Resource {
    /// The plural; with `/status` and the like for a subresource.
    name: Box<str>,
    kind: Box<str>,
    namespaced: bool,
    watchable: bool,
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

type Answer = Result<Arc<Group>, Arc<GetError>>;
type Asking = BoxFuture<'static, Answer>;

/// Asks, and knows what is being asked.
pub(crate) struct Discovery {
    client: Client,
    /// By path. Gone when nobody waits for it any more.
    asking: Mutex<HashMap<String, WeakShared<Asking>>>,
}

impl Discovery {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, asking: Mutex::default() }
    }

    /// What is said about the kind.
    ///
    /// # Errors
    /// [`GetError`] when there was no usable answer: that is no proof of absence.
    pub(crate) async fn find(&self, gvk: &Gvk) -> Result<Found, Arc<GetError>> {
        match self.group(&gvk.api_path()).await {
            Ok(group) => Ok(group.find(gvk)),
            Err(error) if error.code() == Some(404) => Ok(Found::Absent),
            Err(error) => Err(error),
        }
    }

    /// What is served below this path.
    ///
    /// # Errors
    /// As [`find`](Self::find); a group that is not served is a refusal with 404.
    pub(crate) fn group(&self, path: &str) -> Shared<Asking> {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        asking.retain(|_, weak| weak.upgrade().is_some());
        // An answer that has arrived is what was so before we asked.
        let on_the_way = asking.get(path).and_then(WeakShared::upgrade).filter(|one| one.peek().is_none());
        on_the_way.unwrap_or_else(|| {
            let shared = ask(self.client.clone(), path.to_owned()).boxed().shared();
            asking.extend(shared.downgrade().map(|weak| (path.to_owned(), weak)));
            shared
        })
    }
}

async fn ask(client: Client, path: String) -> Answer {
    let text = whole(&client, &path, JSON, MAX_BYTES).await.map_err(Arc::new)?;
    Group::parse(&text).map(Arc::new).map_err(Arc::new)
}

impl Group {
    fn parse(text: &[u8]) -> Result<Self, GetError> {
        let group: RawGroup<'_> = serde_json::from_slice(text).map_err(GetError::Json)?;
        let all = group.resources.ok_or(GetError::Shape("resources"))?;
        let resource = |raw: RawKind<'_>| {
            let can = |verb: &str| raw.verbs.iter().flatten().any(|v| v == verb);
            Resource {
                watchable: can("list") && can("watch"),
                namespaced: raw.namespaced,
                name: raw.name.into(),
                kind: raw.kind.into(),
            }
        };
        Ok(Self(all.into_iter().map(resource).collect()))
    }

    /// What it says about a kind of this group and version.
    pub(crate) fn find(&self, gvk: &Gvk) -> Found {
        let is_main = |one: &&Resource| *one.kind == *gvk.kind && !one.name.contains('/');
        let Some(first) = self.0.iter().find(is_main) else {
            return Found::Absent;
        };
        let Some(found) = self.0.iter().filter(is_main).find(|one| one.watchable) else {
            tracing::debug!(kind = %gvk, plural = %first.name, "kind can not be listed and watched");
            return Found::Unwatchable;
        };
        let status = format!("{}/status", found.name);
        Found::Kind(Kind {
            gvk: gvk.clone(),
            plural: found.name.as_ref().into(),
            namespaced: found.namespaced,
            has_status: self.0.iter().any(|one| *one.name == *status),
        })
    }
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
        Group::parse(APPS).expect("a group").find(&format!("apps/v1/{kind}").parse().expect("valid"))
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
        assert!(Group::parse(b"{}").is_err() && Group::parse(b"<html>").is_err());
    }
}

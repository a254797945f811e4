//! A plugin's state on its ConfigMap, where its author looks first.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Method;
use jiff::Timestamp;
use serde_json::json;
use windlass_core::claim::Claim;
use windlass_core::code::printable;
use windlass_core::decision::{Notice, Severity};
use windlass_core::key::ObjectRef;
use windlass_core::kind::{Gvk, Kind};
use windlass_core::name::Digest;
use windlass_core::ports::{ApplyError, EventTarget};

use crate::request::{Actor, Call, MERGE, RequestError, object_path};
use crate::writer::{Verb, Writer};

const STATE: &str = "windlass.dev/state";
const DIGEST: &str = "windlass.dev/digest";
const MESSAGE: &str = "windlass.dev/message";
const SINCE: &str = "windlass.dev/since";
/// Longest message in bytes; the same bound as an Event's.
const MESSAGE_MAX_BYTES: usize = 1024;

/// The ConfigMap of a plugin as last seen.
#[derive(Clone, Debug)]
pub struct PluginConfigMap<'a> {
    /// Its namespace, the host's.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its uid: a state is never written on another incarnation.
    pub uid: Arc<str>,
    /// Its `windlass.dev/…` annotations, as [`Meta`](windlass_core::object::Meta) keeps them.
    pub annotations: &'a BTreeMap<Box<str>, Box<str>>,
}

/// What is said of a plugin.
#[derive(Clone, Debug)]
pub struct Announcement<'a> {
    /// One word: `serving`, `refused`, `quarantined`, …
    pub state: &'a str,
    /// The component that it is about; `None` removes the annotation.
    pub digest: Option<&'a Digest>,
    /// One sentence, cut to 1,024 bytes; empty removes the annotation.
    pub message: &'a str,
    /// Since when. Not compared: what is already announced keeps its time, also
    /// under a new leader that saw it later.
    pub since: Timestamp,
}

impl Announcement<'_> {
    /// Whether people should hear of it as good news.
    fn severity(&self) -> (Severity, &'static str) {
        match self.state {
            "serving" => (Severity::Normal, "PluginServing"),
            "quarantined" => (Severity::Warning, "PluginQuarantined"),
            _ => (Severity::Warning, "PluginRefused"),
        }
    }

    fn is_on(&self, on: &PluginConfigMap<'_>, message: &str) -> bool {
        let has = |name: &str| on.annotations.get(name).map_or("", |value| &**value);
        has(STATE) == self.state
            && has(DIGEST) == self.digest.map_or("", Digest::as_str)
            && has(MESSAGE) == message
    }
}

impl Writer {
    /// Writes a plugin's state into the annotations of its ConfigMap, as the host,
    /// and publishes an Event on it. `Ok(false)`: it said so already, and nothing was sent.
    ///
    /// # Errors
    /// [`ApplyError`] as for any write. The caller announces again with its next
    /// change or resync; Permanent is for a person to mend.
    pub async fn announce(
        &self,
        on: &PluginConfigMap<'_>,
        what: &Announcement<'_>,
        claim: &Claim,
    ) -> Result<bool, ApplyError> {
        let message = printable(what.message, MESSAGE_MAX_BYTES - '…'.len_utf8());
        if what.is_on(on, &message) {
            return Ok(false);
        }
        let kind = config_map();
        let object =
            ObjectRef { gvk: kind.gvk.clone(), namespace: on.namespace.clone(), name: on.name.clone() };
        let text = (!message.is_empty()).then_some(&message);
        // No resourceVersion: nobody else writes these four, and the rest is not ours.
        let patch = json!({ "metadata": { "uid": &*on.uid, "annotations": {
            STATE: what.state,
            DIGEST: what.digest.map(Digest::as_str),
            MESSAGE: text,
            SINCE: what.since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }}});
        let failed = |failed: crate::answer::Failed| failed.of_step(format!("announce on {object}"));
        let body = serde_json::to_vec(&patch).map_err(|e| failed(RequestError::from(e).into()))?;
        let path = object_path(&kind, &object).map_err(|e| failed(e.into()))?;
        let call = Call::write(Method::PATCH, path, MERGE, body);
        self.write(Verb::Announce, call, &Actor::Host, claim).await.map_err(failed)?;
        let (severity, reason) = what.severity();
        let notice = Notice { severity, reason: reason.to_owned(), message: what.sentence(&message) };
        let target = EventTarget { object, uid: on.uid.clone(), plugin: None, digest: None };
        self.publish(&target, &notice, claim).await;
        Ok(true)
    }
}

impl Announcement<'_> {
    fn sentence(&self, message: &str) -> String {
        match (self.digest, message) {
            (Some(digest), "") => format!("{} {}", self.state, digest.short()),
            (Some(digest), message) => format!("{} {}: {message}", self.state, digest.short()),
            (None, message) => format!("{}: {message}", self.state),
        }
    }
}

/// The kind of what plugins come in, and of the copies that are kept.
pub(crate) fn config_map() -> Kind {
    Kind {
        gvk: Gvk { group: "".into(), version: "v1".into(), kind: "ConfigMap".into() },
        plural: "configmaps".into(),
        namespaced: true,
        has_status: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Api, claim};
    use http::StatusCode;
    use serde_json::Value;
    use windlass_core::class::Class;

    fn on(annotations: &BTreeMap<Box<str>, Box<str>>) -> PluginConfigMap<'_> {
        PluginConfigMap { namespace: "sys".into(), name: "webapp".into(), uid: "c1".into(), annotations }
    }

    fn serving<'a>(digest: Option<&'a Digest>, message: &'a str) -> Announcement<'a> {
        Announcement {
            state: if digest.is_some() { "serving" } else { "refused" },
            digest,
            message,
            since: Timestamp::from_second(1_700_000_000).expect("in range"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_state_is_written_once_with_its_event() {
        let api = Api::new();
        let writer = api.writer();
        api.always(StatusCode::OK, json!({}));
        let digest = Digest::of(b"x");
        let none = BTreeMap::new();
        assert_eq!(writer.announce(&on(&none), &serving(Some(&digest), ""), &claim()).await, Ok(true));
        let requests = api.requests();
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[0].path, "/api/v1/namespaces/sys/configmaps/webapp");
        assert!(!requests[0].headers.contains_key("impersonate-user"));
        let metadata = &requests[0].body["metadata"];
        assert_eq!(metadata["uid"], "c1");
        assert_eq!(metadata["annotations"][STATE], "serving");
        assert_eq!(metadata["annotations"][MESSAGE], Value::Null);
        assert_eq!(metadata["annotations"][SINCE], "2023-11-14T22:13:20Z");
        assert_eq!(requests[1].body["reason"], "PluginServing");
        assert_eq!(requests[1].body["type"], "Normal");

        let present: BTreeMap<Box<str>, Box<str>> =
            [(STATE, "serving"), (DIGEST, digest.as_str()), (SINCE, "earlier")]
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect();
        assert_eq!(writer.announce(&on(&present), &serving(Some(&digest), ""), &claim()).await, Ok(false));
        assert_eq!(api.requests().len(), 2, "nothing was sent");
        assert_eq!(
            writer.announce(&on(&present), &serving(None, "E112 CoreModule: …"), &claim()).await,
            Ok(true)
        );
        let last = api.requests().pop().expect("sent");
        assert_eq!((&last.body["reason"], &last.body["type"]), (&json!("PluginRefused"), &json!("Warning")));
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_leader_announces() {
        let api = Api::new();
        let writer = api.writer();
        api.gate.close();
        let none = BTreeMap::new();
        let error = writer.announce(&on(&none), &serving(None, "x"), &claim()).await.expect_err("no claim");
        assert_eq!(error.class, Class::Fatal);
        assert!(api.requests().is_empty());
    }
}

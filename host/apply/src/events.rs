//! Kubernetes Events, as `kubectl describe` shows them.
//!
//! Equal Events (object, type, reason, message) share one Event object whose count
//! rises, written at most once a minute; an object gets at most 25 different ones in a
//! row and then one a minute, and all objects of a plugin together 500 in a row and then ten
//! a second. A lost Event is a log line and never a failure.

use http::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{debug, warn};
use windlass_core::claim::Claim;
use windlass_core::class::Class;
use windlass_core::code::printable;
use windlass_core::decision::{Notice, Severity};
use windlass_core::name::{PluginName, is_path_segment};
use windlass_core::object::hash64;
use windlass_core::ports::EventTarget;

use crate::answer::Failed;
use crate::recent::Recent;
use crate::request::{Actor, Call, JSON, MERGE, RequestError};
use crate::writer::{Verb, Writer, lock};

/// Event objects that are remembered, and objects whose budget is.
const REMEMBERED: usize = 4096;
/// One Event object is written at most once in this time.
const EVERY: Duration = Duration::from_secs(60);
/// Different Events on one object in a row; then one each [`EVERY`].
const BURST: u32 = 25;
/// Writes of Events by one plugin in a row; then one each [`PLUGIN_EVERY`]. Ten thousand objects that
/// all have something to say must not cost more writes than what they are about.
const PLUGIN_BURST: u32 = 500;
const PLUGIN_EVERY: Duration = Duration::from_millis(100);
/// How long nothing is published in the name of an account that was refused for want of a right to: each pass that fails has something
/// else to say, and would be refused as well.
const DENIED_FOR: Duration = Duration::from_secs(10);
/// Bounds of the API: bytes.
const REASON_MAX_BYTES: usize = 128;
const MESSAGE_MAX_BYTES: usize = 1024;
/// Longest part of an Event's name that comes from the object's.
const NAME_MAX_BYTES: usize = 200;

/// What has been published lately.
#[derive(Debug)]
pub(crate) struct Events {
    identities: Recent<Identity>,
    budgets: Recent<Budget>,
    /// The host's own is among them.
    plugins: Recent<Budget>,
    /// When a plugin was refused last for want of a right.
    denied: Recent<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Identity {
    /// When it was written last, if at all.
    at: Option<Instant>,
    /// Occurrences that the Event object shows; 0 until there is one of ours.
    shown: u32,
    /// Occurrences since then.
    pending: u32,
}

/// So many in a row, then one each time that has passed.
#[derive(Debug)]
struct Budget {
    left: u32,
    at: Instant,
    burst: u32,
    every: Duration,
}

/// What to do about one occurrence.
#[derive(Debug, PartialEq, Eq)]
enum Todo {
    /// Nothing now: counted, shown later.
    Wait,
    /// The object has had too many.
    Drop,
    /// Make the Event with this count.
    Post(u32),
    /// Raise the Event's count to this.
    Raise(u32),
}

impl Events {
    pub(crate) fn new() -> Self {
        Self {
            identities: Recent::new(REMEMBERED),
            budgets: Recent::new(REMEMBERED),
            plugins: Recent::new(REMEMBERED),
            denied: Recent::new(REMEMBERED),
        }
    }

    fn begin(&mut self, identity: u64, object: u64, plugin: u64, now: Instant) -> Todo {
        let denied = self.denied.get_mut(plugin).and_then(|at| *at);
        if denied.is_some_and(|at| now.duration_since(at) < DENIED_FOR) {
            return Todo::Drop;
        }
        let known = self.identities.get_mut(identity).is_some();
        if !known && !self.budgets.entry(object, || Budget::new(BURST, EVERY, now)).take(now) {
            return Todo::Drop;
        }
        let of_plugin = || Budget::new(PLUGIN_BURST, PLUGIN_EVERY, now);
        let written = self.identities.get_mut(identity).and_then(|entry| entry.at);
        let due = written.is_none_or(|at| now.duration_since(at) >= EVERY);
        if due && !self.plugins.entry(plugin, of_plugin).take(now) {
            // What is known is counted, and shown when there is room again.
            match self.identities.get_mut(identity) {
                Some(entry) => entry.pending = entry.pending.saturating_add(1),
                None => return Todo::Drop,
            }
            return Todo::Wait;
        }
        let entry = self.identities.entry(identity, Identity::default);
        entry.pending = entry.pending.saturating_add(1);
        if entry.at.is_some_and(|at| now.duration_since(at) < EVERY) {
            return Todo::Wait;
        }
        entry.at = Some(now);
        let count = entry.shown.saturating_add(entry.pending);
        if entry.shown == 0 { Todo::Post(count) } else { Todo::Raise(count) }
    }

    /// The Event object now shows `count`.
    fn shown(&mut self, identity: u64, count: u32) {
        if let Some(entry) = self.identities.get_mut(identity) {
            let before = entry.shown.saturating_add(entry.pending);
            // Occurrences that came while the request was on the wire stay pending.
            entry.pending = before.saturating_sub(count).min(entry.pending);
            entry.shown = count;
        }
    }

    /// The plugin may not publish Events.
    fn denied(&mut self, identity: u64, plugin: u64, now: Instant) {
        *self.denied.entry(plugin, || None) = Some(now);
        self.identities.remove(identity);
    }

    fn forget(&mut self, identity: u64) {
        self.identities.remove(identity);
    }
}

impl Budget {
    fn new(burst: u32, every: Duration, now: Instant) -> Self {
        Self { left: burst, at: now, burst, every }
    }

    fn take(&mut self, now: Instant) -> bool {
        let refill = now.duration_since(self.at).as_nanos() / self.every.as_nanos();
        if refill > 0 {
            self.left = u32::try_from(refill)
                .map_or(self.burst, |refill| self.left.saturating_add(refill).min(self.burst));
            self.at = now;
        }
        let has = self.left > 0;
        self.left = self.left.saturating_sub(1);
        has
    }
}

/// One Event, ready to be sent.
struct Publication<'a> {
    on: &'a EventTarget,
    notice: &'a Notice,
    reason: String,
    message: String,
    identity: u64,
}

impl Writer {
    /// Publishes an Event: see [`Apply::notify`](windlass_core::ports::Apply::notify).
    pub(crate) async fn publish(&self, on: &EventTarget, notice: &Notice, claim: &Claim) {
        let publication = Publication::new(on, notice);
        let identity = publication.identity;
        let plugin = hash64(on.plugin.as_ref().map_or("", PluginName::as_str).as_bytes());
        let todo = lock(&self.events).begin(identity, hash64(on.uid.as_bytes()), plugin, Instant::now());
        let sent = match todo {
            Todo::Wait => return,
            Todo::Drop => {
                debug!(object = %on.object, reason = publication.reason, "too many Events on this object or of this plugin");
                return;
            }
            Todo::Post(count) => self.post(&publication, count, claim).await,
            Todo::Raise(count) => self.raise(&publication, count, claim).await,
        };
        match sent {
            Ok(count) => lock(&self.events).shown(identity, count),
            Err(failed) if failed.class == Class::Fatal => {
                // Not sent at all: whoever leads next publishes it.
                lock(&self.events).forget(identity);
                debug!(object = %on.object, message = failed.message, "Event not published");
            }
            Err(failed) => {
                warn!(
                    object = %on.object, reason = publication.reason, message = failed.message, "Event not published"
                );
                if failed.missing.is_some() {
                    lock(&self.events).denied(identity, plugin, Instant::now());
                }
            }
        }
    }

    async fn post(&self, publication: &Publication<'_>, count: u32, claim: &Claim) -> Result<u32, Failed> {
        match self.make(publication, count, claim).await {
            // An earlier leader made it. What it counted is not worth two more
            // requests: the time of the last occurrence is what people read.
            Err(failed) if failed.code == Some(409) => self.patch(publication, count, claim).await,
            sent => sent,
        }
    }

    async fn raise(&self, publication: &Publication<'_>, count: u32, claim: &Claim) -> Result<u32, Failed> {
        match self.patch(publication, count, claim).await {
            // Events live an hour by default.
            Err(failed) if failed.code == Some(404) => self.make(publication, count, claim).await,
            sent => sent,
        }
    }

    async fn make(&self, publication: &Publication<'_>, count: u32, claim: &Claim) -> Result<u32, Failed> {
        let actor = publication.actor(&self.config.host_namespace, claim);
        let body = serde_json::to_vec(&publication.body(&self.config.identity, count))
            .map_err(RequestError::from)?;
        let call = Call::write(Method::POST, publication.collection()?, JSON, body);
        self.write(Verb::Event, call, &actor, claim).await.map(|_| count)
    }

    async fn patch(&self, publication: &Publication<'_>, count: u32, claim: &Claim) -> Result<u32, Failed> {
        let actor = publication.actor(&self.config.host_namespace, claim);
        let patch = json!({ "count": count, "lastTimestamp": now_text() });
        let path = format!("{}/{}", publication.collection()?, publication.name());
        let body = serde_json::to_vec(&patch).map_err(RequestError::from)?;
        let call = Call::write(Method::PATCH, path, MERGE, body);
        self.write(Verb::Event, call, &actor, claim).await.map(|_| count)
    }
}

impl<'a> Publication<'a> {
    fn new(on: &'a EventTarget, notice: &'a Notice) -> Self {
        let reason = printable(&notice.reason, REASON_MAX_BYTES - '…'.len_utf8());
        let message = printable(&notice.message, MESSAGE_MAX_BYTES - '…'.len_utf8());
        let parts = [&*on.uid, type_of(notice.severity), &reason, &message];
        let identity = hash64(parts.join("\0").as_bytes());
        Self { on, notice, reason, message, identity }
    }

    /// The account that publishes.
    fn actor<'s>(&'s self, host_namespace: &'s str, claim: &'s Claim) -> Actor<'s> {
        match &self.on.plugin {
            Some(name) => Actor::Plugin {
                host_namespace,
                name,
                digest: self.on.digest.as_ref(),
                claim,
                // What a plugin says in an Event is in the Event; a refusal need not say it once more.
                discreet: true,
            },
            None => Actor::Host,
        }
    }

    /// Events on cluster-scoped objects live in `default`: the API server demands it.
    fn namespace(&self) -> &str {
        if self.on.object.namespace.is_empty() { "default" } else { &self.on.object.namespace }
    }

    fn collection(&self) -> Result<String, RequestError> {
        let namespace = self.namespace();
        if !is_path_segment(namespace) {
            return Err(RequestError::Path(namespace.chars().take(64).collect()));
        }
        Ok(format!("/api/v1/namespaces/{namespace}/events"))
    }

    /// The same for every leader, so that equal Events meet.
    fn name(&self) -> String {
        // Names of some kinds (`system:node`) are not names of Events.
        let lower =
            |c: char| if c.is_ascii_alphanumeric() || c == '-' { c.to_ascii_lowercase() } else { '-' };
        let name: String = self.on.object.name.chars().take(NAME_MAX_BYTES).map(lower).collect();
        let name = name.trim_matches('-');
        let name = if name.is_empty() { "object" } else { name };
        format!("{name}.{:016x}", self.identity)
    }

    fn body(&self, host: &str, count: u32) -> Value {
        let object = &self.on.object;
        let now = now_text();
        let mut involved = json!({
            "apiVersion": object.gvk.api_version(),
            "kind": &*object.gvk.kind,
            "name": &*object.name,
            "uid": &*self.on.uid,
        });
        if !object.namespace.is_empty() {
            involved["namespace"] = json!(&*object.namespace);
        }
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": { "name": self.name(), "namespace": self.namespace() },
            "involvedObject": involved,
            "type": type_of(self.notice.severity),
            "reason": self.reason,
            "message": self.message,
            "count": count,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": { "component": "windlass" },
            "reportingComponent": "windlass",
            "reportingInstance": host,
        })
    }
}

fn type_of(severity: Severity) -> &'static str {
    match severity {
        Severity::Normal => "Normal",
        Severity::Warning => "Warning",
    }
}

fn now_text() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Api, claim, notice, primary};
    use http::StatusCode;

    fn on(plugin: bool) -> EventTarget {
        let primary = primary();
        EventTarget {
            object: primary.object,
            uid: primary.uid,
            plugin: plugin.then(|| windlass_core::name::PluginName::try_new("webapp").expect("valid")),
            digest: plugin.then(|| windlass_core::name::Digest::of(b"x")),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_not_publish_is_not_refused_with_each_pass() {
        let api = Api::new();
        let writer = api.writer();
        let said = r#"events is forbidden: User "x" cannot create resource "events" in API group "" in the namespace "n""#;
        api.always(StatusCode::FORBIDDEN, json!({"kind": "Status", "message": said}));
        for i in 0..20 {
            writer.publish(&on(true), &notice(&format!("Other{i}")), &claim()).await;
        }
        assert_eq!(api.requests().len(), 1);
        writer.publish(&on(false), &notice("Own"), &claim()).await;
        assert_eq!(api.requests().len(), 2, "the host's own are another account's");
        api.always(StatusCode::CREATED, json!({}));
        tokio::time::advance(DENIED_FOR).await;
        writer.publish(&on(true), &notice("Other1"), &claim()).await;
        assert_eq!(api.requests().len(), 3, "the right may be there by now");
    }

    #[tokio::test(start_paused = true)]
    async fn equal_events_are_one_object_written_once_a_minute() {
        let api = Api::new();
        let writer = api.writer();
        api.always(StatusCode::CREATED, json!({}));
        for _ in 0..10 {
            writer.publish(&on(true), &notice("Scaled"), &claim()).await;
        }
        tokio::time::advance(EVERY).await;
        writer.publish(&on(true), &notice("Scaled"), &claim()).await;
        let requests = api.requests();
        assert_eq!(requests.len(), 2);
        assert_eq!(requests[0].method, "POST");
        assert_eq!(requests[0].path, "/api/v1/namespaces/ns/events");
        let said = &requests[0].headers["impersonate-extra-windlass.dev%2fplugin"];
        let digest = windlass_core::name::Digest::of(b"x");
        assert_eq!(said.to_str().ok(), Some(&*format!("webapp@{digest}")), "who decided is on record");
        let made = &requests[0].body;
        assert_eq!(
            (&made["count"], &made["type"], &made["reason"]),
            (&json!(1), &json!("Warning"), &json!("Scaled"))
        );
        assert_eq!(
            made["involvedObject"],
            json!({"apiVersion": "example.com/v1", "kind": "WebApp", "namespace": "ns", "name": "a", "uid": "p1"})
        );
        assert_eq!(
            (&made["source"]["component"], &made["reportingComponent"]),
            (&json!("windlass"), &json!("windlass"))
        );
        assert_eq!(requests[1].method, "PATCH");
        assert_eq!(requests[1].body["count"], 11);
        let name = made["metadata"]["name"].as_str().expect("name");
        assert_eq!(requests[1].path, format!("/api/v1/namespaces/ns/events/{name}"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_of_an_earlier_leader_is_raised_and_an_expired_one_made_again() {
        let api = Api::new();
        let writer = api.writer();
        api.answer(StatusCode::CONFLICT, json!({"kind": "Status"}));
        api.answer(StatusCode::OK, json!({}));
        writer.publish(&on(true), &notice("Scaled"), &claim()).await;
        tokio::time::advance(EVERY).await;
        api.answer(StatusCode::NOT_FOUND, json!({"kind": "Status"}));
        api.answer(StatusCode::CREATED, json!({}));
        writer.publish(&on(true), &notice("Scaled"), &claim()).await;
        let methods: Vec<_> = api.requests().iter().map(|r| r.method.clone()).collect();
        assert_eq!(methods, ["POST", "PATCH", "PATCH", "POST"]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_object_cannot_flood_the_api_server_with_different_events() {
        let api = Api::new();
        let writer = api.writer();
        api.always(StatusCode::CREATED, json!({}));
        for number in 0..100 {
            writer.publish(&on(true), &notice(&format!("R{number}")), &claim()).await;
        }
        assert_eq!(api.requests().len(), 25);
        tokio::time::advance(EVERY * 3).await;
        for number in 100..200 {
            writer.publish(&on(true), &notice(&format!("R{number}")), &claim()).await;
        }
        assert_eq!(api.requests().len(), 28);
    }

    #[tokio::test(start_paused = true)]
    async fn one_plugin_cannot_flood_the_api_server_with_events_on_many_objects() {
        let api = Api::new();
        let writer = api.writer();
        api.always(StatusCode::CREATED, json!({}));
        let publish = async |object: u32, plugin: &str| {
            let mut target = on(true);
            target.uid = format!("p{object}").into();
            target.plugin = windlass_core::name::PluginName::try_new(plugin).ok();
            writer.publish(&target, &notice("Scaled"), &claim()).await;
        };
        for object in 0..1_000 {
            publish(object, "webapp").await;
        }
        assert_eq!(api.requests().len(), 500);
        publish(5_000, "other").await;
        assert_eq!(api.requests().len(), 501, "another plugin has its own");
        tokio::time::advance(PLUGIN_EVERY * 10).await;
        for object in 1_000..1_100 {
            publish(object, "webapp").await;
        }
        assert_eq!(api.requests().len(), 511);
        // What is shown already is counted meanwhile.
        tokio::time::advance(EVERY).await;
        for _ in 0..3 {
            publish(1, "webapp").await;
        }
        assert_eq!(api.requests()[511].body["count"], 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_was_not_sent_for_want_of_a_claim_is_published_when_it_is_back() {
        let api = Api::new();
        let writer = api.writer();
        api.always(StatusCode::CREATED, json!({}));
        api.gate.close();
        writer.publish(&on(true), &notice("Scaled"), &claim()).await;
        assert!(api.requests().is_empty());
        api.gate.open(claim(), windlass_core::claim::BootTime(0));
        writer.publish(&on(true), &notice("Scaled"), &claim()).await;
        assert_eq!(api.requests().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_event_is_no_failure_and_does_not_repeat_at_once() {
        let api = Api::new();
        let writer = api.writer();
        api.always(StatusCode::INTERNAL_SERVER_ERROR, json!({}));
        for _ in 0..5 {
            writer.publish(&on(true), &notice("Scaled"), &claim()).await;
        }
        assert_eq!(api.requests().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_scoped_object_has_its_events_in_default_under_a_valid_name() {
        let api = Api::new();
        let writer = api.writer();
        api.always(StatusCode::CREATED, json!({}));
        let mut target = on(false);
        target.object.namespace = "".into();
        target.object.name = "system:Node.x".into();
        writer.publish(&target, &notice("Scaled"), &claim()).await;
        let request = &api.requests()[0];
        assert_eq!(request.path, "/api/v1/namespaces/default/events");
        assert!(request.body["metadata"]["name"].as_str().expect("name").starts_with("system-node-x."));
        assert_eq!(request.body["involvedObject"].get("namespace"), None);
        assert!(!request.headers.contains_key("impersonate-user"), "no plugin, so the host itself");
    }
}

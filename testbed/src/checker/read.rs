//! The audit log as requests, and a run's bounds: where its records begin and end.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::etcd;
use super::history::{Answer, History, Kind, Object, Request, Verb, resource_of};
use super::judge::{CLAIM_ROLE, LEASE};
use crate::audit::{Audit, AuditEvent, Mark};
use crate::control_plane::ControlPlane;
use crate::options::Options;

/// All writes with both bodies and both stages, by everybody: a controller's deletion explains a revision as well as anybody's.
const POLICY: &str = r#"apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: None
  nonResourceURLs: ["/*"]
- level: None
  verbs: ["get", "list", "watch"]
- level: RequestResponse
"#;

/// How long the API server works on a request that says nothing of a timeout. Unit: seconds.
const DEFAULT_TIMEOUT_S: i64 = 60;

/// How often, and how many times, the log is read again while requests in it have no answer.
const AGAIN: (Duration, u32) = (Duration::from_millis(200), 10);

/// The options of a control plane whose history can be checked: full audit, no compaction. Everything else is as by default.
pub fn options() -> Options {
    Options {
        audit_policy: Some(POLICY.to_owned()),
        apiserver_flags: vec!["--etcd-compaction-interval=0".to_owned()],
        ..Options::default()
    }
}

/// Where the records of a run begin.
#[derive(Debug, Clone)]
pub struct Records {
    audits: Vec<(Audit, Mark)>,
    first: u64,
    kinds: Vec<Kind>,
    host_namespace: String,
}

impl Records {
    /// Begins here and now: what was written before is not judged. `kinds` are the primaries and children of the plugins that
    /// run; the claim Role and the Lease in `windlass-system` are followed in any case.
    ///
    /// # Errors
    /// If the control plane is external, or does not answer.
    pub async fn begin(plane: &ControlPlane, kinds: &[Kind]) -> Result<Self> {
        Self::begin_in(plane, kinds, "windlass-system").await
    }

    /// The same for a host in another namespace.
    ///
    /// # Errors
    /// As for [`begin`](Self::begin).
    pub async fn begin_in(plane: &ControlPlane, kinds: &[Kind], host_namespace: &str) -> Result<Self> {
        let audit = plane.audit()?;
        let mark = audit.mark()?;
        let mut kinds = kinds.to_vec();
        kinds.push(Kind::new("rbac.authorization.k8s.io", "roles").only(host_namespace, CLAIM_ROLE));
        kinds.push(Kind::new("coordination.k8s.io", "leases").only(host_namespace, LEASE));
        let first = etcd::revision(&plane.etcd_url()?).await? + 1;
        Ok(Self { audits: vec![(audit, mark)], first, kinds, host_namespace: host_namespace.to_owned() })
    }

    /// Adds the log of one more API server on the same etcd, from its beginning.
    #[must_use]
    pub fn and(mut self, audit: Audit) -> Self {
        self.audits.push((audit, Mark::default()));
        self
    }

    /// Everything until now.
    ///
    /// # Errors
    /// If etcd does not answer, or a log cannot be read.
    pub async fn read(&self, plane: &ControlPlane) -> Result<History> {
        let (changes, last) = etcd::changes(&plane.etcd_url()?, self.first, &self.kinds).await?;
        let mut requests = self.requests()?;
        let (pause, times) = AGAIN;
        for _ in 0..times {
            if requests.iter().all(|request| request.answer.is_some()) {
                break;
            }
            // The answer to what was committed just now is written in a moment.
            tokio::time::sleep(pause).await;
            requests = self.requests()?;
        }
        Ok(History { changes, requests, first: self.first, last, kinds: self.kinds.clone() })
    }

    /// What the plugins of the host asked for until now, whatever became of it.
    ///
    /// # Errors
    /// If a log cannot be read.
    pub fn plugin_requests(&self) -> Result<Vec<Request>> {
        self.requests_about(&[])
    }

    fn requests(&self) -> Result<Vec<Request>> {
        self.requests_about(&self.kinds)
    }

    fn requests_about(&self, kinds: &[Kind]) -> Result<Vec<Request>> {
        let mut all = Vec::new();
        for (audit, mark) in &self.audits {
            all.extend(requests(audit, *mark, kinds, &self.host_namespace)?);
        }
        Ok(all)
    }
}

/// The requests after a mark that may have changed an object of these kinds, or that a plugin of this host made.
///
/// Left out is what changed nothing for certain: dry runs, and everything that was refused, other than a plugin's 403.
///
/// # Errors
/// If the log cannot be read.
pub fn requests(audit: &Audit, mark: Mark, kinds: &[Kind], host_namespace: &str) -> Result<Vec<Request>> {
    let mut reader = Reader { kinds, plugins: plugin_prefix(host_namespace), found: HashMap::new() };
    audit.each(mark, |event| reader.see(&event))?;
    let refused = |request: &Request| request.answer.as_ref().is_some_and(|answer| answer.code == 403);
    let plugins = reader.plugins;
    let kept = |request: &Request| {
        request.is_lost()
            || request.succeeded().is_some()
            || (refused(request) && request.account.starts_with(&plugins))
    };
    Ok(reader.found.into_values().filter(kept).collect())
}

/// How the accounts of a host's plugins begin.
pub(crate) fn plugin_prefix(host_namespace: &str) -> String {
    format!("system:serviceaccount:{host_namespace}:plugin-")
}

struct Reader<'a> {
    kinds: &'a [Kind],
    plugins: String,
    found: HashMap<String, Request>,
}

impl Reader<'_> {
    /// The stages of one request may come in any order.
    fn see(&mut self, event: &AuditEvent) {
        let Some(request) = self.request(event) else { return };
        let entry = self.found.entry(event.audit_id.clone()).or_insert_with(|| request.clone());
        // The later stage knows more: the name of what was created, the bodies, the answer.
        if request.answer.is_some() {
            *entry = request;
        }
    }

    fn request(&self, event: &AuditEvent) -> Option<Request> {
        let verb = Verb::parse(&event.verb)?;
        let reference = event.object_ref.as_ref()?;
        if !matches!(reference.subresource.as_str(), "" | "status" | "scale" | "finalizers")
            || event.request_uri.contains("dryRun=")
        {
            return None;
        }
        let body: Body = parse(event.response_object.as_deref());
        let name = if reference.name.is_empty() && verb == Verb::Create {
            body.metadata.name.clone().unwrap_or_default()
        } else {
            reference.name.clone()
        };
        let resource = resource_of(&reference.api_group, &reference.resource);
        let object = Object { resource, namespace: reference.namespace.clone(), name };
        let account = event.acting_user().username.clone();
        if !account.starts_with(&self.plugins) && !self.kinds.iter().any(|kind| kind.follows(&object)) {
            return None;
        }
        let received_us = micros(&event.request_received_timestamp)?;
        Some(Request {
            audit_id: event.audit_id.clone(),
            verb,
            sender: sender(event),
            account,
            claim: event.extra("windlass.dev/claim").map(str::to_owned),
            plugin: event.extra("windlass.dev/plugin").map(str::to_owned),
            received_us,
            timeout_us: timeout_us(&event.request_uri),
            precondition: precondition(event.request_object.as_deref()),
            announces: announces(event, &object),
            answer: answer(event, body),
            object,
        })
    }
}

/// The pod that a token is bound to, else the token's id: several replicas share an account, but neither of those. A pod's token
/// changes while it lives.
fn sender(event: &AuditEvent) -> String {
    let known = |what: &str| event.user.extra.get(what).and_then(|names| names.first());
    let sender = known("authentication.kubernetes.io/pod-name")
        .or_else(|| known("authentication.kubernetes.io/credential-id"));
    sender.unwrap_or(&event.user.username).clone()
}

fn answer(event: &AuditEvent, body: Body) -> Option<Answer> {
    if !event.is_complete() && event.stage != "Panic" {
        return None;
    }
    let is_status = body.kind == "Status";
    let uid = if is_status { body.details.and_then(|details| details.uid) } else { body.metadata.uid };
    Some(Answer {
        at_us: micros(&event.stage_timestamp)?,
        // A panic is an answer that says nothing.
        code: if event.stage == "Panic" { 500 } else { event.code() },
        revision: body.metadata.resource_version.filter(|_| !is_status).and_then(|text| text.parse().ok()),
        uid,
        deleting: body.metadata.deletion_timestamp.is_some(),
    })
}

/// What matters of any answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    kind: String,
    metadata: Metadata,
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Details {
    uid: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    metadata: Metadata,
    preconditions: Metadata,
}

fn parse<'a, T: Deserialize<'a> + Default>(body: Option<&'a RawValue>) -> T {
    body.and_then(|body| serde_json::from_str(body.get()).ok()).unwrap_or_default()
}

fn precondition(body: Option<&RawValue>) -> Option<u64> {
    let asked: Asked = parse(body);
    let text = asked.metadata.resource_version.or(asked.preconditions.resource_version)?;
    text.parse().ok().filter(|version| *version > 0)
}

/// The claim that a write of the Role or of the Lease makes the current one; empty when it gives the Lease up. Nothing
/// when the log does not say.
fn announces(event: &AuditEvent, object: &Object) -> Option<String> {
    let body = if event.succeeded() { &event.response_object } else { &event.request_object };
    let body: serde_json::Value = parse(body.as_deref());
    match object.resource.as_str() {
        "roles.rbac.authorization.k8s.io" => body["rules"][0]["resourceNames"][0].as_str().map(str::to_owned),
        "leases.coordination.k8s.io" => {
            let spec = body["spec"].as_object()?;
            let holder = spec.get("holderIdentity").and_then(|holder| holder.as_str()).unwrap_or_default();
            if holder.is_empty() {
                return Some(String::new());
            }
            let term = body["metadata"]["annotations"]["windlass.dev/term"].as_str().unwrap_or("0");
            Some(format!("{holder}/{term}"))
        }
        _ => None,
    }
}

fn micros(timestamp: &str) -> Option<i64> {
    timestamp.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_microsecond)
}

/// `?timeout=1500ms`, as clients write durations: one number with one unit.
fn timeout_us(uri: &str) -> i64 {
    let value = uri.split(['?', '&']).find_map(|part| part.strip_prefix("timeout="));
    let parsed = value.and_then(|text| {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = text[..digits].parse().ok()?;
        let unit = match &text[digits..] {
            "ms" => 1_000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            _ => return None,
        };
        number.checked_mul(unit)
    });
    parsed.unwrap_or(DEFAULT_TIMEOUT_S * 1_000_000)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const RECEIVED: &str = r#"{"auditID":"1","stage":"RequestReceived","requestURI":"/api/v1/namespaces/a/configmaps?timeout=1500ms","verb":"create","user":{"username":"u","extra":{"authentication.kubernetes.io/credential-id":["JTI=x"]}},"impersonatedUser":{"username":"system:serviceaccount:windlass-system:plugin-webapp","extra":{"windlass.dev/claim":["p_1/7"],"windlass.dev/plugin":["webapp@sha256:0"]}},"objectRef":{"resource":"configmaps","namespace":"a","apiVersion":"v1"},"requestReceivedTimestamp":"2026-01-01T00:00:00.000001Z","stageTimestamp":"2026-01-01T00:00:00.000001Z"}"#;

    fn complete() -> String {
        RECEIVED
            .replace("RequestReceived", "ResponseComplete")
            .replace("\"stageTimestamp\":\"2026-01-01T00:00:00.000001Z\"", "\"stageTimestamp\":\"2026-01-01T00:00:00.002001Z\"")
            .replace("\"requestReceived", "\"responseStatus\":{\"code\":201},\"requestObject\":{\"metadata\":{\"name\":\"x\",\"resourceVersion\":\"5\"}},\"responseObject\":{\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"x\",\"uid\":\"u1\",\"resourceVersion\":\"12\"}},\"requestReceived")
    }

    fn read(lines: &[&str]) -> Vec<Request> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for line in lines {
            writeln!(file, "{line}").unwrap();
        }
        let kinds = [Kind::new("", "configmaps")];
        requests(&Audit::new(file.path()), Mark::default(), &kinds, "windlass-system").unwrap()
    }

    /// A release whose answer was lost says what it says all the same; a write of which nothing is on record does not.
    #[test]
    fn a_release_announces_nobody_and_no_body_announces_nothing() {
        let lease = Object::new("leases.coordination.k8s.io", "windlass-system", "windlass");
        let of = |object: &str| {
            let text = RECEIVED.replace("\"stageTimestamp\"", &format!("{object}\"stageTimestamp\""));
            announces(&serde_json::from_str(&text).unwrap(), &lease)
        };
        let lost = |spec: &str| {
            format!("\"responseStatus\":{{\"code\":504}},\"requestObject\":{{\"spec\":{spec}}},")
        };
        assert_eq!(of(&lost(r#"{"holderIdentity":""}"#)).as_deref(), Some(""));
        assert_eq!(of(&lost(r#"{"holderIdentity":"p_1"}"#)).as_deref(), Some("p_1/0"));
        assert_eq!(of(""), None);
    }

    #[test]
    fn the_stages_of_a_request_become_one_in_either_order() {
        let complete = complete();
        let forward = read(&[RECEIVED, &complete]);
        assert_eq!(forward, read(&[&complete, RECEIVED]));
        let [request] = &forward[..] else { panic!("{forward:?}") };
        assert_eq!(request.object, Object::new("configmaps", "a", "x"));
        assert_eq!((request.timeout_us, request.precondition), (1_500_000, Some(5)));
        assert_eq!(request.sender, "JTI=x");
        let answer = request.succeeded().unwrap();
        assert_eq!((answer.revision, answer.at_us - request.received_us), (Some(12), 2_000));
    }

    #[test]
    fn a_request_without_an_answer_is_kept_and_a_refused_one_only_if_a_plugin_made_it() {
        assert!(read(&[RECEIVED])[0].is_lost());
        let refused = complete().replace("\"code\":201", "\"code\":403");
        assert_eq!(read(&[&refused]).len(), 1);
        assert_eq!(read(&[&refused.replace("plugin-webapp", "other")]).len(), 0);
        assert_eq!(read(&[&complete().replace("timeout=", "dryRun=All&timeout=")]).len(), 0);
    }
}

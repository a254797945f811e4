//! The API server's audit log: who asked for what, and what came of it.
//!
//! It is the proof behind every claim about writes, because the API server wrote it and not we. Our policy keeps reads without
//! bodies (one event each, two for a watch: when it started and when it ended), writes with both bodies, and of each write also
//! the moment of its arrival. Probes are left out. The log is complete: a request whose event cannot be written fails.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::runtime::on_runtime;

/// Between two looks at the log while waiting for something to appear in it.
const POLL: Duration = Duration::from_millis(10);

/// How much of the log's end is looked at in one go; most lines are shorter, and a plugin's ConfigMap is longer.
const CHUNK_BYTES: usize = 64 * 1024;

/// One stage of one request, as the API server recorded it. Fields that a request lacks are empty.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEvent {
    /// The same for all stages of one request.
    #[serde(rename = "auditID")]
    pub audit_id: String,
    /// `RequestReceived`, `ResponseStarted`, `ResponseComplete` or `Panic`.
    pub stage: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or a lower-case HTTP method.
    pub verb: String,
    /// Path and query.
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    /// Who sent it, before impersonation.
    #[serde(default)]
    pub user: AuditUser,
    /// Whom the sender acted as.
    #[serde(default)]
    pub impersonated_user: Option<AuditUser>,
    /// What the client calls itself.
    #[serde(default)]
    pub user_agent: String,
    /// What it was about; absent for paths that are no resources.
    #[serde(default)]
    pub object_ref: Option<ObjectRef>,
    /// The answer; absent at `RequestReceived`.
    #[serde(default)]
    pub response_status: Option<ResponseStatus>,
    /// When the request arrived. RFC 3339 in UTC with exactly six digits of fraction, so comparing the texts compares the times.
    #[serde(default)]
    pub request_received_timestamp: String,
    /// When this stage was reached, in the same form.
    #[serde(default)]
    pub stage_timestamp: String,
    /// What was sent, as JSON; only for writes.
    #[serde(default)]
    pub request_object: Option<Box<RawValue>>,
    /// What was answered, as JSON; only for writes, and a `Status` when it failed.
    #[serde(default)]
    pub response_object: Option<Box<RawValue>>,
    /// Remarks of the authorizer and of admission.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// A user as the API server sees one.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct AuditUser {
    /// The user's name; empty for none.
    pub username: String,
    /// The user's groups.
    pub groups: Vec<String>,
    /// Extra attributes, with the keys in lower case, for example `windlass.dev/claim`.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The object of a request. Parts that do not apply are empty.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ObjectRef {
    /// The plural, lower-case resource.
    pub resource: String,
    /// Empty for a cluster-scoped object.
    pub namespace: String,
    /// Empty for lists, and for creates whose path has no name.
    pub name: String,
    /// `status`, `scale` and the like.
    pub subresource: String,
    /// Empty for the core group.
    pub api_group: String,
    /// The version in the path.
    pub api_version: String,
    /// The uid, when the request carried one.
    pub uid: String,
    /// The resourceVersion, when the request carried one.
    pub resource_version: String,
}

/// The outcome as HTTP and Kubernetes say it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ResponseStatus {
    /// The HTTP status.
    pub code: u16,
    /// `Conflict`, `NotFound` and the like; empty on success.
    pub reason: String,
    /// The sentence that went with a failure.
    pub message: String,
}

impl AuditEvent {
    /// Whether the request was to change something: create, update, patch, delete or deletecollection.
    pub fn is_write(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
    }

    /// Whether the request is over, which holds for one event of each request.
    pub fn is_complete(&self) -> bool {
        self.stage == "ResponseComplete"
    }

    /// The HTTP status, 0 while there is none.
    pub fn code(&self) -> u16 {
        self.response_status.as_ref().map_or(0, |status| status.code)
    }

    /// Whether the answer was 2xx.
    pub fn succeeded(&self) -> bool {
        (200..300).contains(&self.code())
    }

    /// Whom the API server held responsible: the impersonated user if there is one, else the sender.
    pub fn acting_user(&self) -> &AuditUser {
        self.impersonated_user.as_ref().unwrap_or(&self.user)
    }

    /// The first value of an extra attribute of the acting user, for example of `windlass.dev/claim`.
    pub fn extra(&self, key: &str) -> Option<&str> {
        self.acting_user().extra.get(key)?.first().map(String::as_str)
    }
}

/// A place in the log; events after it are news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mark(u64);

/// Which writes are asked for. Every part that is set has to fit; nothing set means all.
#[derive(Debug, Clone, Default)]
pub struct Writes {
    user: Option<String>,
    acting_as: Option<String>,
    agent: Option<String>,
    resource: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    succeeded: bool,
}

impl Writes {
    /// All writes of everybody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only those that this user sent.
    #[must_use]
    pub fn by(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Only those in this user's name, impersonated or not.
    #[must_use]
    pub fn acting_as(mut self, user: impl Into<String>) -> Self {
        self.acting_as = Some(user.into());
        self
    }

    /// Only those whose user agent starts like this.
    #[must_use]
    pub fn agent(mut self, prefix: impl Into<String>) -> Self {
        self.agent = Some(prefix.into());
        self
    }

    /// Only those to this resource: the plural in lower case, its subresources included.
    #[must_use]
    pub fn to(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// Only those in this namespace.
    #[must_use]
    pub fn within(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Only those to objects of this name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Only those that were answered with 2xx.
    #[must_use]
    pub fn succeeded(mut self) -> Self {
        self.succeeded = true;
        self
    }

    /// Whether the event is a write that is over and that fits.
    pub fn fits(&self, event: &AuditEvent) -> bool {
        let object = event.object_ref.as_ref();
        let of_object = |part: fn(&ObjectRef) -> &String| object.map_or("", |object| part(object).as_str());
        let is =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        event.is_write()
            && event.is_complete()
            && (event.succeeded() || !self.succeeded)
            && is(&self.user, &event.user.username)
            && is(&self.acting_as, &event.acting_user().username)
            && self.agent.as_deref().is_none_or(|agent| event.user_agent.starts_with(agent))
            && is(&self.resource, of_object(|object| &object.resource))
            && is(&self.namespace, of_object(|object| &object.namespace))
            && is(&self.name, of_object(|object| &object.name))
    }
}

/// A reader of one audit log. Cheap to clone; holds no open file.
#[derive(Debug, Clone)]
pub struct Audit {
    path: PathBuf,
}

impl Audit {
    /// Reads the log at this path, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The file that the API server appends to, one JSON object a line.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The end of the log as it is now.
    ///
    /// An event may be written a moment after its client has the answer. Where a test is about to act, its own events come after
    /// the mark in any case; where it has just acted, it should [`wait_for`](Self::wait_for) what it did first.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn mark(&self) -> Result<Mark> {
        self.end().map(Mark).context("the audit log cannot be read")
    }

    /// Every event since the control plane was started, in the order in which they were written.
    ///
    /// # Errors
    /// If the log cannot be read, or a line of it is no audit event.
    pub fn events(&self) -> Result<Vec<AuditEvent>> {
        self.since(Mark::default())
    }

    /// The events after a mark.
    ///
    /// # Errors
    /// As for [`events`](Self::events).
    pub fn since(&self, mark: Mark) -> Result<Vec<AuditEvent>> {
        self.advance(&mut { mark })
    }

    /// The events after a mark, which is moved behind them: what a loop calls that follows the log.
    ///
    /// # Errors
    /// As for [`events`](Self::events); the mark stays then.
    pub fn advance(&self, mark: &mut Mark) -> Result<Vec<AuditEvent>> {
        let (text, end) = self.read(*mark)?;
        let events = text
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("no audit event: {}", clip(line))))
            .collect::<Result<_>>()?;
        *mark = Mark(end);
        Ok(events)
    }

    /// Shows every event after a mark to `see`, one at a time: what a log needs that is larger than memory should be. Gives back
    /// where the last whole line ends.
    ///
    /// # Errors
    /// As for [`events`](Self::events).
    pub fn each(&self, mark: Mark, mut see: impl FnMut(AuditEvent)) -> Result<Mark> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(mark),
            file => file.context("the audit log cannot be read")?,
        };
        let (mut reader, mut line, mut end) =
            (BufReader::with_capacity(CHUNK_BYTES, file), Vec::new(), mark.0);
        reader.seek(SeekFrom::Start(end)).context("the audit log cannot be read")?;
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line).context("the audit log cannot be read")?;
            if line.last() != Some(&b'\n') {
                return Ok(Mark(end));
            }
            end += length as u64;
            let event = serde_json::from_slice(&line)
                .with_context(|| format!("no audit event: {}", clip(&String::from_utf8_lossy(&line))))?;
            see(event);
        }
    }

    /// The writes after a mark that are over and that fit.
    ///
    /// # Errors
    /// As for [`events`](Self::events).
    pub fn writes(&self, mark: Mark, filter: &Writes) -> Result<Vec<AuditEvent>> {
        Ok(self.since(mark)?.into_iter().filter(|event| filter.fits(event)).collect())
    }

    /// Waits until an event after the mark fits, and gives it back. Runs on real time, also where a test has paused tokio's.
    ///
    /// # Errors
    /// If nothing fits within `patience`, or the log cannot be read.
    ///
    /// # Cancel safety
    /// Dropping the future ends nothing but the waiting.
    pub async fn wait_for(
        &self,
        mark: Mark,
        patience: Duration,
        mut fits: impl FnMut(&AuditEvent) -> bool + Send + 'static,
    ) -> Result<AuditEvent> {
        let (audit, mut mark, started) = (self.clone(), mark, Instant::now());
        on_runtime(async move {
            loop {
                if let Some(found) = audit.advance(&mut mark)?.into_iter().find(&mut fits) {
                    return Ok(found);
                }
                if started.elapsed() > patience {
                    bail!("no such event in {} within {patience:?}", audit.path.display());
                }
                tokio::time::sleep(POLL).await;
            }
        })
        .await
    }

    /// Where the last whole line ends. Looks from behind, because the log of a long run is large.
    fn end(&self) -> std::io::Result<u64> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            file => file?,
        };
        let mut end = file.metadata()?.len();
        let mut chunk = vec![0; CHUNK_BYTES];
        while end > 0 {
            let start = end.saturating_sub(CHUNK_BYTES as u64);
            let part = &mut chunk[..usize::try_from(end - start).unwrap_or(CHUNK_BYTES)];
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(part)?;
            if let Some(newline) = part.iter().rposition(|byte| *byte == b'\n') {
                return Ok(start + newline as u64 + 1);
            }
            end = start;
        }
        Ok(0)
    }

    /// The whole lines after a mark, and where they end: the last line may be half written.
    fn read(&self, mark: Mark) -> Result<(String, u64)> {
        let mut bytes = Vec::new();
        match File::open(&self.path) {
            Ok(mut file) => {
                file.seek(SeekFrom::Start(mark.0)).context("the audit log cannot be read")?;
                file.read_to_end(&mut bytes).context("the audit log cannot be read")?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context("the audit log cannot be read"),
        }
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        bytes.truncate(whole);
        Ok((String::from_utf8(bytes).context("the audit log is no text")?, mark.0 + whole as u64))
    }
}

fn clip(line: &str) -> String {
    line.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const WRITE: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"RequestResponse","auditID":"1","stage":"ResponseComplete","requestURI":"/apis/apps/v1/namespaces/a/deployments/web?timeout=5s","verb":"patch","user":{"username":"windlass-0","groups":["g"]},"impersonatedUser":{"username":"system:serviceaccount:windlass-system:plugin-webapp","extra":{"windlass.dev/claim":["windlass-0/7"]}},"sourceIPs":["127.0.0.1"],"userAgent":"windlass/0.1.0","objectRef":{"resource":"deployments","namespace":"a","name":"web","apiGroup":"apps","apiVersion":"v1"},"responseStatus":{"metadata":{},"code":201},"requestObject":{"a":1},"requestReceivedTimestamp":"2026-01-01T00:00:00.000001Z","stageTimestamp":"2026-01-01T00:00:00.000002Z","annotations":{"authorization.k8s.io/decision":"allow"}}"#;

    fn log(content: &str) -> (tempfile::NamedTempFile, Audit) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        let audit = Audit::new(file.path());
        (file, audit)
    }

    #[test]
    fn an_event_says_who_did_what_in_whose_name() {
        let (_file, audit) = log(&format!("{WRITE}\n"));
        let event = audit.events().unwrap().remove(0);
        assert!(event.is_write() && event.is_complete() && event.succeeded());
        assert_eq!(event.user.username, "windlass-0");
        assert_eq!(event.extra("windlass.dev/claim"), Some("windlass-0/7"));
        assert_eq!(event.object_ref.as_ref().unwrap().api_group, "apps");
        assert_eq!(event.request_object.as_ref().unwrap().get(), "{\"a\":1}");
    }

    #[test]
    fn every_part_of_a_filter_has_to_fit() {
        let event: AuditEvent = serde_json::from_str(WRITE).unwrap();
        let fitting = Writes::new()
            .by("windlass-0")
            .to("deployments")
            .within("a")
            .named("web")
            .agent("windlass/")
            .succeeded();
        assert!(fitting.fits(&event) && Writes::new().fits(&event));
        assert!(
            fitting.clone().acting_as("system:serviceaccount:windlass-system:plugin-webapp").fits(&event)
        );
        assert!(!fitting.clone().acting_as("windlass-0").fits(&event));
        assert!(!fitting.named("other").fits(&event));
    }

    #[test]
    fn a_half_written_line_is_left_for_later() {
        let (mut file, audit) = log(&format!("{WRITE}\n{}", &WRITE[..40]));
        let mut mark = Mark::default();
        assert_eq!(audit.advance(&mut mark).unwrap().len(), 1);
        assert_eq!(audit.since(mark).unwrap().len(), 0);
        file.write_all(&WRITE.as_bytes()[40..]).unwrap();
        file.write_all(b"\n").unwrap();
        assert_eq!(audit.since(mark).unwrap().len(), 1);
    }

    #[test]
    fn events_seen_one_at_a_time_are_the_same() {
        let (_file, audit) = log(&format!("{WRITE}\n{WRITE}\n{}", &WRITE[..40]));
        let mut seen = 0;
        let end = audit.each(Mark::default(), |_| seen += 1).unwrap();
        assert_eq!((seen, end), (2, audit.mark().unwrap()));
        audit.each(end, |_| seen += 1).unwrap();
        assert_eq!(seen, 2);
    }

    #[test]
    fn a_mark_is_found_behind_a_long_unfinished_line() {
        let (_file, audit) = log(&format!("{WRITE}\n{}", "x".repeat(3 * CHUNK_BYTES)));
        assert_eq!(audit.mark().unwrap(), Mark(WRITE.len() as u64 + 1));
        assert_eq!(log("no line has ended").1.mark().unwrap(), Mark(0));
        assert_eq!(log("").1.mark().unwrap(), Mark(0));
    }

    #[test]
    fn a_log_that_is_not_there_yet_is_empty() {
        let audit = Audit::new("/nonexistent/audit.log");
        assert_eq!((audit.events().unwrap().len(), audit.mark().unwrap()), (0, Mark(0)));
    }
}

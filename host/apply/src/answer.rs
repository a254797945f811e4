//! What an answer of the API server means: a class, and a sentence that says what
//! to do.

use std::time::Duration;

use serde::Deserialize;
use windlass_core::claim::NotLeading;
use windlass_core::class::Class;
use windlass_core::code::{WITHHELD, printable};
use windlass_core::ports::ApplyError;
use windlass_core::rights::Missing;

use crate::request::{Actor, RequestError};
use crate::wire::{Broken, Reply};

/// How much of a server's own words is passed on, in bytes.
const MESSAGE_MAX_BYTES: usize = 512;
/// How long a sentence about a missing right may be, in bytes: an Event has room for 850. Names of ordinary length make 300.
const ADVICE_MAX_BYTES: usize = 800;
/// The longest pause that a body may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// Why one write was not accepted, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    /// Who should try again.
    pub(crate) class: Class,
    /// HTTP status; `None` when there was no answer.
    pub(crate) code: Option<u16>,
    /// The write may have been carried out all the same.
    pub(crate) unknown: bool,
    /// The fence refused exactly our claim.
    pub(crate) fenced: bool,
    /// One sentence, printable.
    pub(crate) message: String,
    /// How long the server asked to wait.
    pub(crate) retry_after: Option<Duration>,
    /// The right for want of which it was refused.
    pub(crate) missing: Option<Box<Missing>>,
}

impl Failed {
    /// A failure that the host found without asking.
    pub(crate) fn new(class: Class, message: impl Into<String>) -> Self {
        Self {
            class,
            code: None,
            unknown: false,
            fenced: false,
            message: message.into(),
            retry_after: None,
            missing: None,
        }
    }

    /// A 2xx answer whose body is not what it should be: who knows what answered.
    pub(crate) fn garbled(reply: &Reply, why: &str) -> Self {
        Self {
            code: Some(reply.code),
            unknown: true,
            ..Self::new(Class::Transient, format!("the answer is not from an API server: {why}"))
        }
    }

    /// The API server told this account to wait, and that is not over yet: nothing was sent.
    pub(crate) fn held(wait: Duration) -> Self {
        let seconds = wait.as_secs_f64().ceil();
        let message = format!("the API server asked to wait for another {seconds} s, nothing was sent");
        Self { retry_after: Some(wait), ..Self::new(Class::Transient, message) }
    }

    /// As the error of the step `what`.
    pub(crate) fn of_step(self, what: impl std::fmt::Display) -> ApplyError {
        ApplyError {
            class: self.class,
            refusal: None,
            message: format!("{what}: {}", self.message),
            retry_after: self.retry_after,
        }
    }
}

impl From<NotLeading> for Failed {
    fn from(why: NotLeading) -> Self {
        Self::new(Class::Fatal, why.to_string())
    }
}

impl From<RequestError> for Failed {
    fn from(why: RequestError) -> Self {
        Self::new(Class::Permanent, crate::wire::chain(&why))
    }
}

impl From<Broken> for Failed {
    fn from(why: Broken) -> Self {
        Self { unknown: matches!(why, Broken::Unknown(_)), ..Self::new(Class::Transient, why.to_string()) }
    }
}

/// A `meta/v1` Status, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
struct Status {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    details: Details,
}

#[derive(Debug, Default, Deserialize)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
    #[serde(default, rename = "retryAfterSeconds")]
    retry_after_seconds: u64,
}

#[derive(Debug, Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    field: String,
}

/// How long a key stays away from a namespace that is being emptied. Its primaries go
/// with it, so there is nothing to hurry for, and each attempt is refused again.
const WHILE_TERMINATING: Duration = Duration::from_secs(5);
/// How long to wait after a 429 that does not say: what priority and fairness says as a rule.
const UNSAID: Duration = Duration::from_secs(1);
const TERMINATING: &str = "namespace is terminating";

/// What a refused write means. `reply` is not a 2xx.
pub(crate) fn refused(reply: &Reply, actor: &Actor<'_>) -> Failed {
    let status = Status::of(reply);
    let said = status.words(reply);
    let fenced = reply.code == 403 && is_fenced(&said, actor);
    let shown = if actor.is_discreet() { status.discreet_words(reply.code, &said) } else { said.clone() };
    let terminates = reply.code == 403 && status.is_terminating(&said);
    let missing = Missing::of_refusal(&status.message).filter(|_| reply.code == 403);
    let (class, message) = match reply.code {
        403 if fenced => (Class::Fatal, format!("another replica leads: {shown}")),
        401 => (Class::Transient, format!("the host's credentials are not accepted: {shown}")),
        403 => match &missing {
            // It names kinds, accounts and verbs, and nothing that stands in an object.
            Some(missing) => lacking(missing),
            None if terminates => (Class::Permanent, format!("{TERMINATING}: {shown}")),
            None => (Class::Permanent, format!("forbidden: {shown}")),
        },
        404 => (Class::Conflict, format!("not found: {shown}")),
        409 | 410 => (Class::Conflict, format!("changed since it was looked at: {shown}")),
        408 => (Class::Transient, format!("timed out: {shown}")),
        429 => (Class::Transient, format!("too many requests: {shown}")),
        // A patch for another incarnation tries to change an immutable field.
        422 if status.has_cause(|cause| cause.field == "metadata.uid") => {
            (Class::Conflict, format!("another object has that name now: {shown}"))
        }
        400 | 422 => (Class::Permanent, format!("invalid, correct the object or the plugin: {shown}")),
        402..=499 => (Class::Permanent, format!("refused with {}: {shown}", reply.code)),
        _ => (Class::Transient, format!("the API server answered {}: {shown}", reply.code)),
    };
    let terminating = message.starts_with(TERMINATING).then_some(WHILE_TERMINATING);
    Failed {
        class,
        code: Some(reply.code),
        // A gateway's or etcd's timeout, or a crash half way; 503 and 429 are given before any work.
        unknown: matches!(reply.code, 408 | 500 | 502 | 504),
        fenced,
        message,
        retry_after: reply.retry_after.or(status.retry_after()).or(terminating),
        missing: missing.map(Box::new),
    }
}

/// How long the API server wants whoever wrote to wait, if it says that it has too much to do.
pub(crate) fn told_to_wait(reply: &Reply) -> Option<Duration> {
    let said = || reply.retry_after.or_else(|| Status::of(reply).retry_after());
    match reply.code {
        429 => Some(said().unwrap_or(UNSAID)),
        503 => said(),
        _ => None,
    }
}

/// Whether a 2xx body is a Status: the answer to a delete that left nothing.
pub(crate) fn is_status(reply: &Reply) -> bool {
    Status::of(reply).kind == "Status"
}

/// Refused for want of a right: whose, and the rule that is to be added. It is tried again by itself.
fn lacking(missing: &Missing) -> (Class, String) {
    // An API server that has just started says so until its RBAC is loaded.
    let class = if missing.is_impersonation() { Class::Transient } else { Class::Permanent };
    (class, printable(&format!("forbidden: {}", missing.advice()), ADVICE_MAX_BYTES))
}

/// The fence's own words about exactly our claim; nobody else's refusal can end a
/// pass as if leadership were lost.
fn is_fenced(said: &str, actor: &Actor<'_>) -> bool {
    let Actor::Plugin { claim, .. } = actor else { return false };
    said.contains("ValidatingAdmissionPolicy") && said.contains(&format!("denied request: fenced: {claim}"))
}

impl Status {
    fn of(reply: &Reply) -> Self {
        serde_json::from_slice(&reply.body).unwrap_or_default()
    }

    /// The server's message, printable and cut; without one what it sent instead.
    fn words(&self, reply: &Reply) -> String {
        let text = if self.kind == "Status" {
            let message = self.message.trim();
            if message.is_empty() { self.reason.clone() } else { message.to_owned() }
        } else {
            let start = &reply.body[..reply.body.len().min(MESSAGE_MAX_BYTES)];
            String::from_utf8_lossy(start).trim().to_owned()
        };
        if text.is_empty() { "no reason given".to_owned() } else { printable(&text, MESSAGE_MAX_BYTES) }
    }

    /// What may be repeated of `said` when a part of what was sent may be in it. RBAC refuses before it has looked at
    /// a body and names the request alone; of everything else there is the reason, a word of the API server's.
    fn discreet_words(&self, code: u16, said: &str) -> String {
        if code == 403 && said.contains(" is forbidden: User \"") && said.contains("\" cannot ") {
            return said.to_owned();
        }
        let reason = self.reason.as_str();
        match !reason.is_empty() && reason.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            true => format!("{}, {WITHHELD}", printable(reason, 64)),
            false => WITHHELD.to_owned(),
        }
    }

    fn is_terminating(&self, said: &str) -> bool {
        self.has_cause(|cause| cause.reason == "NamespaceTerminating")
            || said.contains("because it is being terminated")
    }

    fn has_cause(&self, fits: impl Fn(&Cause) -> bool) -> bool {
        self.details.causes.iter().any(fits)
    }

    fn retry_after(&self) -> Option<Duration> {
        let seconds = self.details.retry_after_seconds;
        (seconds > 0).then(|| Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use windlass_core::claim::{BootTime, Claim, Term};
    use windlass_core::name::PluginName;

    fn reply(code: u16, body: &Value) -> Reply {
        Reply { code, retry_after: None, warnings: Vec::new(), body: body.to_string().into() }
    }

    fn judged_as(discreet: bool, code: u16, body: &Value) -> Failed {
        let name = PluginName::try_new("webapp").expect("valid");
        let claim = Claim { holder: "a".into(), term: Term(3), ends: BootTime(0) };
        let actor =
            Actor::Plugin { host_namespace: "sys", name: &name, digest: None, claim: &claim, discreet };
        refused(&reply(code, body), &actor)
    }

    fn judged(code: u16, body: &Value) -> Failed {
        judged_as(false, code, body)
    }

    fn status(message: &str) -> Value {
        json!({"kind": "Status", "message": message, "reason": "Forbidden"})
    }

    #[test]
    fn each_code_has_its_class() {
        let table = [
            (400, Class::Permanent, false),
            (401, Class::Transient, false),
            (403, Class::Permanent, false),
            (404, Class::Conflict, false),
            (405, Class::Permanent, false),
            (408, Class::Transient, true),
            (409, Class::Conflict, false),
            (413, Class::Permanent, false),
            (415, Class::Permanent, false),
            (422, Class::Permanent, false),
            (429, Class::Transient, false),
            (500, Class::Transient, true),
            (502, Class::Transient, true),
            (503, Class::Transient, false),
            (504, Class::Transient, true),
            (302, Class::Transient, false),
            (599, Class::Transient, false),
        ];
        for (code, class, unknown) in table {
            let failed = judged(code, &status("because"));
            assert_eq!((failed.class, failed.unknown), (class, unknown), "{code}");
            assert!(failed.message.ends_with(": because"), "{code} {}", failed.message);
            assert_eq!(failed.code, Some(code));
        }
    }

    #[test]
    fn the_fence_means_that_another_leads_but_only_in_its_own_words() {
        let fence = "configmaps \"a\" is forbidden: ValidatingAdmissionPolicy 'windlass-fence' with binding \
                     'windlass-fence' denied request: fenced: a/3 is not the current claim";
        let fenced = judged(403, &status(fence));
        assert_eq!((fenced.class, fenced.fenced), (Class::Fatal, true));
        assert_eq!(judged(422, &status(fence)).class, Class::Permanent);
        assert_eq!(judged(403, &status("fenced: a/3 is not the current claim")).class, Class::Permanent);
        assert_eq!(judged(403, &status(&fence.replace("a/3", "b/3"))).class, Class::Permanent);
    }

    #[test]
    fn what_a_plugin_that_sees_secrets_has_sent_is_repeated_by_no_message() {
        let quoting = json!({
            "kind": "Status", "reason": "Invalid",
            "message": "Service \"a\" is invalid: spec.type: Unsupported value: \"hunter2\" cannot be",
            "details": {"causes": [{"reason": "FieldValueNotSupported", "message": "hunter2", "field": "spec.hunter2"}]},
        });
        for code in [400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 503] {
            let (open, discreet) = (judged(code, &quoting), judged_as(true, code, &quoting));
            assert!(!discreet.message.contains("hunter2"), "{}", discreet.message);
            assert!(
                discreet.message.contains("Invalid, what was found is not shown"),
                "{}",
                discreet.message
            );
            assert_eq!(
                (open.class, open.unknown, open.retry_after),
                (discreet.class, discreet.unknown, discreet.retry_after)
            );
        }
        let mut html = reply(502, &Value::Null);
        html.body = "hunter2".into();
        let name = PluginName::try_new("webapp").expect("valid");
        let claim = Claim { holder: "a".into(), term: Term(3), ends: BootTime(0) };
        let actor =
            Actor::Plugin { host_namespace: "sys", name: &name, digest: None, claim: &claim, discreet: true };
        assert!(!refused(&html, &actor).message.contains("hunter2"));
        let rights = "services \"a\" is forbidden: User \"system:serviceaccount:sys:plugin-webapp\" cannot patch resource \"services\"";
        assert!(judged_as(true, 403, &status(rights)).message.contains("cannot patch resource"));
    }

    #[test]
    fn a_starting_api_server_that_refuses_impersonation_is_asked_again() {
        let said = r#"serviceaccounts "plugin-webapp" is forbidden: User "host" cannot impersonate resource "serviceaccounts" in API group "" in the namespace "sys""#;
        let failed = judged(403, &status(said));
        assert_eq!(failed.class, Class::Transient);
        let rule = r#"- {apiGroups: [""], resources: [serviceaccounts], resourceNames: [plugin-webapp], verbs: [impersonate]}"#;
        assert!(failed.message.ends_with(rule), "{}", failed.message);
        assert!(failed.missing.is_some_and(|missing| missing.rule() == rule));
    }

    #[test]
    fn a_terminating_namespace_is_told_from_missing_rights() {
        let by_words = judged(
            403,
            &status("unable to create new content in namespace x because it is being terminated"),
        );
        assert!(by_words.message.starts_with("namespace is terminating"));
        assert_eq!(by_words.retry_after, Some(WHILE_TERMINATING), "it is left in peace");
        let by_cause = json!({"kind": "Status", "message": "no", "details": {"causes": [{"reason": "NamespaceTerminating"}]}});
        assert!(judged(403, &by_cause).message.starts_with("namespace is terminating"));
        let said = r#"configmaps "a" is forbidden: User "system:serviceaccount:sys:plugin-webapp" cannot patch resource "configmaps" in API group "" in the namespace "x""#;
        let rights = judged(403, &status(said));
        assert_eq!(rights.class, Class::Permanent);
        assert_eq!(
            rights.message,
            "forbidden: ServiceAccount sys/plugin-webapp may not patch configmaps in namespace x; add to a Role in \
             namespace x, or a ClusterRole, that is bound to ServiceAccount sys/plugin-webapp: \
             - {apiGroups: [\"\"], resources: [configmaps], verbs: [patch]}"
        );
        assert!(judged(409, &status(said)).missing.is_none(), "that is not why it was refused");
    }

    #[test]
    fn another_incarnation_is_a_conflict_and_not_an_invalid_object() {
        let body = |field: &str| json!({"kind": "Status", "message": "field is immutable", "details": {"causes": [{"field": field}]}});
        assert_eq!(judged(422, &body("metadata.uid")).class, Class::Conflict);
        assert_eq!(judged(422, &body("spec.selector")).class, Class::Permanent);
    }

    #[test]
    fn a_pause_may_stand_in_the_body() {
        let body = json!({"kind": "Status", "details": {"retryAfterSeconds": 7}});
        assert_eq!(judged(503, &body).retry_after, Some(Duration::from_secs(7)));
    }

    #[test]
    fn words_that_are_not_the_api_servers_are_cut_and_printable() {
        let mut html = reply(502, &Value::Null);
        html.body = format!("<html>\u{7}{}", "x".repeat(5000)).into();
        let failed = refused(&html, &Actor::Host);
        assert!(failed.message.len() < 700);
        assert!(!failed.message.chars().any(char::is_control));
        html.body = vec![0xff, 0xfe].into();
        assert_eq!(refused(&html, &Actor::Host).class, Class::Transient);
    }
}

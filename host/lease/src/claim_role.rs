//! The claim Role: the one object in which the API server reads who may write.
//!
//! Right after the Lease was acquired, the new leader writes its claim as the only
//! `resourceNames` of the Role `windlass-claim`; the admission policies of
//! `deploy/components/fence` ask the API server's authorizer about it at every write.
//! The Role is written even where those policies are not installed: they may be applied
//! at any time, and must find the claim that is current. Nobody ships the Role, or the
//! next `kubectl apply` would fence the leader off.
//!
//! A compare-and-swap on the copy that was seen last, so a takeover costs one exchange.
//! That exchange is slower than others: before a Role is written by somebody who may not
//! `escalate`, the API server lists bindings from caches that must first catch up with
//! etcd, which they do every 100 ms. Seen on 1.37.2: 90 ms at the median, where the same
//! write with `escalate` takes 4 ms. That right would let the host grant itself anything
//! in its namespace, so it does not have it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::rbac::v1::Role;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::client::Body;
use serde_json::{Value, json};
use windlass_core::claim::{BootClock, Claim, Term};
use windlass_core::rights::Missing;

use crate::hook::{AcquireHook, HookError};

/// The name of the Role, and of the RoleBinding that `deploy/base` ships for it.
pub const CLAIM_ROLE: &str = "windlass-claim";
/// The virtual resource that the authorizer is asked about: `write` on
/// `claims.windlass.dev`, named by the claim.
pub const CLAIM_GROUP: &str = "windlass.dev";

/// Reads and writes in one call, before the caller is told to pause.
const ATTEMPTS: u32 = 4;
/// A number with more digits was typed by somebody and counts as none. The policy
/// `windlass-claim` reads it in the same way.
const DIGITS_MAX: usize = 15;
/// The longest answer that is read, in bytes. The Role is below 2 KB.
const ANSWER_MAX_BYTES: usize = 1 << 20;
/// A watch is begun anew after this, so that a dead one costs a takeover one exchange
/// for at most that long.
const WATCH_SECONDS: u32 = 60;
/// Pauses between watches that failed.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Writes the claim Role when the Lease was acquired.
///
/// # Guarantees
/// * A claim whose number is not above the Role's is never written: the caller hears
///   [`HookError::Used`] and takes a higher one.
/// * Each write carries uid and resourceVersion of the copy that was judged, and ends,
///   at the API server too, inside the claim.
pub struct ClaimRole {
    namespace: Arc<str>,
    timeout: Duration,
    clock: Arc<dyn BootClock>,
    seen: Mutex<Option<Seen>>,
}

/// A state of the Role, and the version at which it was so.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    at: u64,
    role: Option<Copy>,
}

/// What matters of the Role.
#[derive(Clone, Debug, Default, PartialEq)]
struct Copy {
    uid: String,
    version: String,
    /// All `resourceNames` of all rules; exactly one when we wrote it.
    claims: Vec<String>,
    /// It says what a Role of ours for its claim says, and nothing else.
    whole: bool,
}

/// What a copy means for a claim.
#[derive(Debug, PartialEq)]
enum Judged {
    /// It names exactly this claim.
    Done,
    /// A number as high was used.
    Used(Term),
    /// It may be written.
    Free,
}

/// How an exchange ended that brought no Role.
enum Refused {
    /// There is no such Role.
    Absent,
    /// It has changed, or exists by now.
    Changed,
    /// Anything else, for people.
    Other(String),
}

impl ClaimRole {
    /// For the Role in `namespace`, which is the host's and not the Lease's. `timeout`
    /// bounds each request: [`Durations::request_timeout`](crate::durations::Durations::request_timeout).
    pub fn new(namespace: impl Into<Arc<str>>, timeout: Duration, clock: Arc<dyn BootClock>) -> Self {
        Self { namespace: namespace.into(), timeout, clock, seen: Mutex::default() }
    }

    /// The claim that the Role named when it was seen last, by a write, a read or
    /// [`follow`](Self::follow). Nothing when it names none or several.
    pub fn current(&self) -> Option<String> {
        let seen = self.lock();
        match seen.as_ref()?.role.as_ref()?.claims.as_slice() {
            [claim] => Some(claim.clone()),
            _ => None,
        }
    }

    /// Keeps the copy fresh for as long as it is polled, by a watch, so that a takeover
    /// need not read first. Without it the first write of each acquisition is preceded
    /// by a read. Failures are tried again with growing pauses and told at DEBUG: they
    /// cost a takeover one exchange and nothing else.
    ///
    /// Cancel safety: may be dropped at any time.
    pub async fn follow(&self, client: kube::Client) -> Infallible {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.watch(&client).await {
                Ok(()) => pause = FIRST_PAUSE,
                Err(error) => {
                    tracing::debug!(%error, "the Role {CLAIM_ROLE} cannot be watched; tried again in {pause:?}");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    async fn watch(&self, client: &kube::Client) -> Result<(), kube::Error> {
        let api: kube::Api<Role> = kube::Api::namespaced(client.clone(), &self.namespace);
        let only = format!("metadata.name={CLAIM_ROLE}");
        let patience = Duration::from_secs(u64::from(WATCH_SECONDS)) + self.timeout;
        let watching = async {
            let list = api.list(&ListParams::default().fields(&only)).await?;
            let at = list.metadata.resource_version.unwrap_or_default();
            self.learn(&at, list.items.first());
            let params = WatchParams::default().fields(&only).timeout(WATCH_SECONDS);
            let mut events = pin!(api.watch(&params, &at).await?);
            while let Some(event) = events.next().await {
                match event? {
                    WatchEvent::Added(role) | WatchEvent::Modified(role) => {
                        self.learn(
                            role.metadata.resource_version.as_deref().unwrap_or_default(),
                            Some(&role),
                        );
                    }
                    WatchEvent::Deleted(role) => {
                        self.learn(role.metadata.resource_version.as_deref().unwrap_or_default(), None);
                    }
                    WatchEvent::Bookmark(_) => {}
                    WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
                }
            }
            Ok(())
        };
        // A connection that says nothing for longer is dead; the next round lists again.
        tokio::time::timeout(patience, watching).await.unwrap_or(Ok(()))
    }

    fn learn(&self, at: &str, role: Option<&Role>) {
        // A typed Role always is JSON.
        let copy = role.map(|role| Copy::of(&serde_json::to_value(role).unwrap_or_default()));
        self.note(at, copy);
    }

    /// Keeps what is newer than what is known.
    fn note(&self, at: &str, role: Option<Copy>) {
        let Ok(at) = at.parse() else { return };
        let mut seen = self.lock();
        if seen.as_ref().is_none_or(|seen| seen.at <= at) {
            *seen = Some(Seen { at, role });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Seen>> {
        // No code panics while it holds this lock.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the claim, or says why not.
    async fn write(&self, client: &kube::Client, claim: &Claim) -> Result<(), HookError> {
        let failed = |step: &str, why: String| HookError::Failed(format!("{step} Role {CLAIM_ROLE}: {why}"));
        let mut fresh = false;
        for _ in 0..ATTEMPTS {
            let known = self.lock().as_ref().map(|seen| seen.role.clone());
            let Some(role) = known else {
                match self.exchange(client, Method::GET, None, claim).await {
                    Ok(()) => {}
                    // The version of nothing is not told; any event is newer.
                    Err(Refused::Absent) => *self.lock() = Some(Seen { at: 0, role: None }),
                    Err(Refused::Changed) => return Err(failed("read", "409".to_owned())),
                    Err(Refused::Other(why)) => return Err(failed("read", why)),
                }
                fresh = true;
                continue;
            };
            match role.as_ref().map_or(Judged::Free, |role| role.judge(claim)) {
                Judged::Done if fresh => return Ok(()),
                Judged::Used(term) if fresh => return Err(HookError::Used(term)),
                // It may have been deleted since.
                Judged::Done | Judged::Used(_) => {
                    *self.lock() = None;
                    continue;
                }
                Judged::Free => {}
            }
            let method = if role.is_some() { Method::PUT } else { Method::POST };
            match self.exchange(client, method, Some(role.as_ref()), claim).await {
                Ok(()) => return Ok(()),
                Err(why) => {
                    *self.lock() = None;
                    if let Refused::Other(why) = why {
                        return Err(failed("write", why));
                    }
                }
            }
        }
        Err(failed("write", format!("changed by somebody else {ATTEMPTS} times")))
    }

    /// One request; its answer becomes the copy. `write` is what a write is based on.
    async fn exchange(
        &self,
        client: &kube::Client,
        method: Method,
        write: Option<Option<&Copy>>,
        claim: &Claim,
    ) -> Result<(), Refused> {
        let other = |why: String| Refused::Other(why);
        let timeout = self.timeout.min(claim.ends.since(self.clock.now()));
        if timeout < Duration::from_millis(1) {
            return Err(other("the claim has ended".to_owned()));
        }
        let mut uri = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles", self.namespace);
        let creates = method == Method::POST;
        if !creates {
            uri = format!("{uri}/{CLAIM_ROLE}");
        }
        // The server gives up with us, so that a late commit is bounded too.
        uri = format!("{uri}?timeout={}ms", timeout.as_millis());
        let body = write.map(|base| role_for(&self.namespace, claim, base).to_string()).unwrap_or_default();
        let mut request = Request::builder().method(method).uri(uri);
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Body::from(body.into_bytes())).map_err(|e| other(e.to_string()))?;
        let answer = async {
            let response = client.send(request).await.map_err(|e| other(e.to_string()))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await;
            Ok((status, body.map_err(|e| other(e.to_string()))?.to_bytes()))
        };
        let (status, body) = tokio::time::timeout(timeout, answer)
            .await
            .unwrap_or_else(|_| Err(other(format!("no answer within {timeout:?}"))))?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        match status {
            status if status.is_success() => {
                let copy = Copy::of(&body);
                let at = copy.version.clone();
                if copy.uid.is_empty() || at.parse::<u64>().is_err() {
                    return Err(other("the answer is not a Role".to_owned()));
                }
                self.note(&at, Some(copy));
                Ok(())
            }
            // For a create it is the namespace that is missing.
            StatusCode::NOT_FOUND if !creates => Err(Refused::Absent),
            StatusCode::CONFLICT => Err(Refused::Changed),
            status => {
                let said = body["message"].as_str().unwrap_or_default();
                if let Some(missing) = Missing::of_refusal(said).filter(|_| status == StatusCode::FORBIDDEN) {
                    return Err(other(format!("{} {}", status.as_u16(), missing.advice())));
                }
                let said: String = said.chars().filter(|c| !c.is_control()).take(256).collect();
                Err(other(format!("{} {said}", status.as_u16())))
            }
        }
    }
}

impl AcquireHook for ClaimRole {
    fn acquired<'a>(
        &'a self,
        client: &'a kube::Client,
        claim: &'a Claim,
    ) -> Pin<Box<dyn Future<Output = Result<(), HookError>> + Send + 'a>> {
        Box::pin(self.write(client, claim))
    }
}

impl Copy {
    fn of(role: &Value) -> Self {
        let text = |field: &str| role["metadata"][field].as_str().unwrap_or_default().to_owned();
        let rules = role["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
        let names = rules.iter().filter_map(|rule| rule["resourceNames"].as_array()).flatten();
        let claims: Vec<String> = names.filter_map(|name| name.as_str().map(str::to_owned)).collect();
        let whole = match claims.as_slice() {
            [claim] => role["rules"] == rules_for(claim),
            _ => false,
        };
        Self { uid: text("uid"), version: text("resourceVersion"), claims, whole }
    }

    fn judge(&self, claim: &Claim) -> Judged {
        let ours = claim.to_string();
        if self.whole && self.claims[0] == ours {
            return Judged::Done;
        }
        // Our own claim among other things is put in order, not taken for somebody else's.
        let others = self.claims.iter().filter(|named| **named != ours);
        match others.filter_map(|named| number(named)).max() {
            Some(term) if term >= claim.term => Judged::Used(term),
            Some(_) | None => Judged::Free,
        }
    }
}

/// The number of a claim as the Role names it; nothing when it is nonsense.
fn number(claim: &str) -> Option<Term> {
    let (holder, number) = claim.rsplit_once('/')?;
    let digits = !holder.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
    (digits && number.len() <= DIGITS_MAX).then(|| number.parse().ok().map(Term)).flatten()
}

fn rules_for(claim: &str) -> Value {
    json!([{
        "apiGroups": [CLAIM_GROUP],
        "resources": ["claims"],
        "resourceNames": [claim],
        "verbs": ["write"],
    }])
}

/// The Role that names `claim`, to be written over `base`.
fn role_for(namespace: &str, claim: &Claim, base: Option<&Copy>) -> Value {
    let mut role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {
            "name": CLAIM_ROLE,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/part-of": "windlass"},
        },
        "rules": rules_for(&claim.to_string()),
    });
    if let Some(base) = base {
        role["metadata"]["uid"] = base.uid.clone().into();
        role["metadata"]["resourceVersion"] = base.version.clone().into();
    }
    role
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_core::claim::BootTime;

    fn claim(holder: &str, term: u64) -> Claim {
        Claim { holder: holder.into(), term: Term(term), ends: BootTime(0) }
    }

    fn copy(rules: Value) -> Copy {
        Copy::of(&json!({"metadata": {"uid": "u", "resourceVersion": "7"}, "rules": rules}))
    }

    #[test]
    fn a_claim_with_a_higher_number_is_the_only_one_that_is_written() {
        let of = |named: &str| copy(rules_for(named)).judge(&claim("b", 5));
        assert_eq!(of("a/4"), Judged::Free);
        assert_eq!(of("a/5"), Judged::Used(Term(5)));
        assert_eq!(of("a/6"), Judged::Used(Term(6)));
        assert_eq!(of("b/4"), Judged::Free);
        assert_eq!(of("b/5"), Judged::Done, "our answer was lost");
        assert_eq!(of("b/6"), Judged::Used(Term(6)));
    }

    #[test]
    fn nonsense_counts_as_nothing_and_is_overwritten() {
        for named in ["", "a", "a/", "/9", "a/-9", "a/9x", "a/1234567890123456", "a/ 9", "a/9/x"] {
            assert_eq!(copy(rules_for(named)).judge(&claim("b", 1)), Judged::Free, "{named:?}");
        }
        for rules in [Value::Null, json!([]), json!([{"verbs": ["write"]}]), json!("junk"), json!([7])] {
            assert_eq!(copy(rules.clone()).judge(&claim("b", 1)), Judged::Free, "{rules}");
        }
    }

    #[test]
    fn a_role_that_names_more_than_our_claim_is_put_in_order() {
        let mut rules = rules_for("b/5");
        rules[0]["resourceNames"] = json!(["b/5", "a/4"]);
        assert_eq!(copy(rules.clone()).judge(&claim("b", 5)), Judged::Free);
        rules[0]["resourceNames"] = json!(["b/5", "a/9"]);
        assert_eq!(copy(rules.clone()).judge(&claim("b", 5)), Judged::Used(Term(9)));
        rules[0]["resourceNames"] = json!(["b/5"]);
        rules[0]["verbs"] = json!(["read"]);
        assert_eq!(copy(rules).judge(&claim("b", 5)), Judged::Free, "it allows nothing");
    }

    #[test]
    fn a_write_says_which_copy_was_judged() {
        let base = copy(rules_for("a/4"));
        let role = role_for("sys", &claim("b", 5), Some(&base));
        assert_eq!(
            (&role["metadata"]["uid"], &role["metadata"]["resourceVersion"]),
            (&json!("u"), &json!("7"))
        );
        assert_eq!(role["rules"][0]["resourceNames"], json!(["b/5"]));
        assert_eq!(role_for("sys", &claim("b", 5), None)["metadata"]["uid"], Value::Null);
    }
}

//! Asks the API server who holds a token, and what they may do: for the port for metrics and debug views.
//!
//! A review is a create that stores nothing. The token is in the request's body and, since the API server repeats what it
//! was asked, in the answer's: neither is logged here, nor given to whoever logs what it cannot read.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{debug, warn};
use windlass_admin::{Reviews, Unanswered, User};

/// Between two lines about the same: scrapes come every few seconds.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// The API server, asked with the host's own account.
pub(crate) struct ApiReviews {
    client: kube::Client,
    audiences: Vec<String>,
    said: Mutex<Option<Instant>>,
}

/// A TokenReview's status, as far as it matters.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TokenStatus {
    authenticated: bool,
    user: User,
    audiences: Vec<String>,
}

/// A SubjectAccessReview's.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AccessStatus {
    allowed: bool,
    denied: bool,
}

impl ApiReviews {
    /// Asks with `client`, for tokens of one of `audiences`; of none for those of the API server.
    pub(crate) fn new(client: kube::Client, audiences: Vec<String>) -> Self {
        Self { client, audiences, said: Mutex::default() }
    }

    /// Whose token it is, if the API server accepts it for one of our audiences.
    async fn token(&self, token: &str) -> Result<Option<User>, Unanswered> {
        let mut spec = json!({ "token": token });
        if !self.audiences.is_empty() {
            spec["audiences"] = json!(self.audiences);
        }
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec});
        let status = self.post("/apis/authentication.k8s.io/v1/tokenreviews", &body).await?;
        let status: TokenStatus = read(status)?;
        // Who does not know audiences says none, and accepts tokens of any.
        let for_us = self.audiences.is_empty()
            || status.audiences.iter().any(|audience| self.audiences.contains(audience));
        Ok((status.authenticated && for_us).then_some(status.user))
    }

    async fn access(&self, user: &User, path: &str) -> Result<bool, Unanswered> {
        let spec = json!({
            "user": user.username, "uid": user.uid, "groups": user.groups, "extra": user.extra,
            "nonResourceAttributes": {"path": path, "verb": "get"},
        });
        let body =
            json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
        let status = self.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &body).await?;
        let status: AccessStatus = read(status)?;
        Ok(status.allowed && !status.denied)
    }

    /// The `status` of what the API server makes of `body`.
    async fn post(&self, path: &str, body: &Value) -> Result<Value, Unanswered> {
        let request = http::Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body.to_string().into_bytes())
            .map_err(|_| Unanswered)?;
        // As text: kube's own reading would log an answer that it cannot read, with the token in it.
        let answer =
            self.client.request_text(request).await.map_err(|error| self.unanswered(path, &error))?;
        let mut answer: Value = serde_json::from_str(&answer).map_err(|_| {
            debug!(path, "the answer is not from an API server");
            Unanswered
        })?;
        Ok(answer["status"].take())
    }

    fn unanswered(&self, path: &str, error: &kube::Error) -> Unanswered {
        let lacks_right = matches!(error, kube::Error::Api(status) if status.code == 403);
        if lacks_right && self.may_say() {
            warn!(
                path,
                "the host may not ask who may see metrics and debug views, so nobody may: \
                 install deploy/components/metrics-auth"
            );
        } else {
            debug!(path, %error, "a review was not answered");
        }
        Unanswered
    }

    fn may_say(&self) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let may = said.is_none_or(|at| at.elapsed() >= SAY_EVERY);
        if may {
            *said = Some(Instant::now());
        }
        may
    }
}

fn read<T: serde::de::DeserializeOwned>(status: Value) -> Result<T, Unanswered> {
    serde_json::from_value(status).map_err(|_| {
        debug!("a review without a status");
        Unanswered
    })
}

impl Reviews for ApiReviews {
    fn who<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, Unanswered>> {
        self.token(token).boxed()
    }

    fn may<'a>(&'a self, user: &'a User, path: &'a str) -> BoxFuture<'a, Result<bool, Unanswered>> {
        self.access(user, path).boxed()
    }
}

//! Who may get what: each request carries a bearer token, and the API server says whose it is and what they may do.
//!
//! The same two questions that controller-runtime's filter asks: a TokenReview, and a SubjectAccessReview for the
//! path as a nonResourceURL with the verb `get`. Answers are remembered for a short time ([`verdicts`](crate::verdicts)),
//! so that scrapes cost the API server little and go on while it is away for a moment. A token itself is never kept,
//! logged or repeated: what is remembered goes by its SHA-256.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::answer::Answer;
use crate::verdicts::{Mark, Verdict, Verdicts};

/// Questions to the API server at once; further requests wait for their turn within their deadline.
const ASKED_AT_ONCE: usize = 4;

/// Somebody, as a TokenReview describes them and a SubjectAccessReview takes them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct User {
    /// As in `system:serviceaccount:monitoring:prometheus`.
    pub username: String,
    /// Of the account.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The groups that they are in.
    pub groups: Vec<String>,
    /// Whatever else their authenticator says.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The API server did not answer, or not what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered;

/// The two questions. Whoever implements this says in its log why there is no answer, and repeats no token.
pub trait Reviews: Send + Sync + 'static {
    /// Whose token this is; nobody's if it is invalid, has ended or is for another audience.
    fn who<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, Unanswered>>;

    /// Whether they may `get` this path.
    fn may<'a>(&'a self, user: &'a User, path: &'a str) -> BoxFuture<'a, Result<bool, Unanswered>>;
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// 401: there is no token, or nobody's.
    Unauthenticated,
    /// 403: they may not get this path.
    Forbidden,
    /// 503: the API server did not say in time.
    Unavailable,
}

impl Refused {
    pub(crate) fn answer(self) -> Answer {
        match self {
            Self::Unauthenticated => {
                let text = "a bearer token is needed that the API server accepts\n";
                Answer::refusal(StatusCode::UNAUTHORIZED, text).with(WWW_AUTHENTICATE, "Bearer")
            }
            Self::Forbidden => Answer::refusal(StatusCode::FORBIDDEN, "this account may not get this path\n"),
            Self::Unavailable => {
                Answer::unavailable("the API server did not say whether you may; try again\n")
            }
        }
    }
}

/// Judges requests. At most 4 questions are with the API server at once.
pub struct Guard {
    reviews: Arc<dyn Reviews>,
    /// How long a request may wait for its verdict.
    within: Duration,
    turns: Semaphore,
    verdicts: Mutex<Verdicts>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("within", &self.within).finish_non_exhaustive()
    }
}

impl Guard {
    /// A guard that asks `reviews`, and gives each request this long for both answers.
    pub fn new(reviews: Arc<dyn Reviews>, within: Duration) -> Self {
        Self { reviews, within, turns: Semaphore::new(ASKED_AT_ONCE), verdicts: Mutex::default() }
    }

    /// Whether a request with these headers may get `path`.
    ///
    /// # Errors
    /// [`Refused`]; after Unavailable it is worth to try again.
    ///
    /// # Cancel safety
    /// May be dropped at any point; what the API server has said by then is remembered or asked again.
    pub async fn admit(&self, headers: &HeaderMap, path: &str) -> Result<(), Refused> {
        let token = bearer(headers).ok_or(Refused::Unauthenticated)?;
        let mark = Mark::of(token);
        if let Some(verdict) = self.verdicts().of(&mark, path, Instant::now()) {
            return judge(verdict);
        }
        match timeout(self.within, self.ask(token, &mark, path)).await {
            Ok(Ok(verdict)) => judge(verdict),
            Ok(Err(Unanswered)) => Err(Refused::Unavailable),
            Err(_) => {
                debug!(within = ?self.within, "the API server gave no verdict in time");
                Err(Refused::Unavailable)
            }
        }
    }

    async fn ask(&self, token: &str, mark: &Mark, path: &str) -> Result<Verdict, Unanswered> {
        let _turn = self.turns.acquire().await.map_err(|_| Unanswered)?;
        // Another request may have asked the same while this one waited.
        if let Some(verdict) = self.verdicts().of(mark, path, Instant::now()) {
            return Ok(verdict);
        }
        let known = self.verdicts().user(mark, Instant::now());
        let user = match known {
            Some(user) => user,
            None => {
                let asked = Instant::now();
                let Some(user) = self.reviews.who(token).await? else {
                    self.verdicts().is_nobody(mark, asked);
                    return Ok(Verdict::Nobody);
                };
                let user = Arc::new(user);
                self.verdicts().is_somebody(mark, user.clone(), asked);
                user
            }
        };
        let asked = Instant::now();
        let may = self.reviews.may(&user, path).await?;
        self.verdicts().may(mark, path, may, asked);
        Ok(if may { Verdict::Allowed } else { Verdict::Denied })
    }

    fn verdicts(&self) -> MutexGuard<'_, Verdicts> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn judge(verdict: Verdict) -> Result<(), Refused> {
    match verdict {
        Verdict::Allowed => Ok(()),
        Verdict::Denied => Err(Refused::Forbidden),
        Verdict::Nobody => Err(Refused::Unauthenticated),
    }
}

/// The token of `Authorization: Bearer <token>`, if there is exactly one such header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (Some(only), None) = (all.next(), all.next()) else { return None };
    let (scheme, token) = only.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests;

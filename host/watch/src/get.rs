//! One GET with deadlines: the only way in which this crate talks to the API server.
//!
//! The client below has no read timeout and, unless it was built without, retries
//! by itself for minutes. So each step has its own deadline here, every answer
//! that is not what was asked for is a typed error, and pauses belong to the caller.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use tokio::time::{Instant, timeout, timeout_at};
use windlass_core::class::Class;
use windlass_core::rights::Missing;

/// Until the head of an answer must be there. The API server sends the head of a
/// watch at once, and that of a list when the list is ready.
pub(crate) const HEAD_WITHIN: Duration = Duration::from_secs(15);
/// Longest silence within a body that is not a watch.
const CHUNK_WITHIN: Duration = Duration::from_secs(10);
/// Until a whole body that is not a watch must have arrived, counted from sending.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// Until the body of an error must have arrived; without it the status has to do.
const REASON_WITHIN: Duration = Duration::from_secs(2);
/// Largest body of an error that is read, in bytes.
const REASON_MAX_BYTES: usize = 64 << 10;
/// Longest pause that a server may ask for; above that it is a mistake.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// Why a GET gave nothing usable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GetError {
    /// The path or the query cannot be an address.
    #[error("build request")]
    Address(#[source] http::Error),
    /// No answer: refused, cut, TLS, credentials.
    #[error("send request")]
    Send(#[source] Box<kube::Error>),
    /// The named part of the answer did not come in time.
    #[error("no {part} within {after:?}")]
    Late {
        /// What was waited for.
        part: &'static str,
        /// For how long.
        after: Duration,
    },
    /// The server said no: as HTTP status, or as a Status object where data was due.
    #[error("answered {code} {reason}: {message}")]
    Refused {
        /// The HTTP status code that applies.
        code: u16,
        /// The Status object's reason; empty when there was none.
        reason: String,
        /// The Status object's message, or the start of whatever came, at most 256 characters.
        message: String,
        /// The pause that the server asked for, at most 60 s.
        retry_after: Option<Duration>,
        /// The right for want of which it was refused.
        missing: Option<Box<Missing>>,
    },
    /// The answer is not JSON by its own word: a proxy or a login page.
    #[error("answered with content type {0:?}, not application/json")]
    ContentType(String),
    /// The connection broke within the body.
    #[error("read body")]
    Body(#[source] Box<kube::Error>),
    /// A body or a line exceeds its bound.
    #[error("answer is longer than {0} bytes")]
    TooLong(usize),
    /// The body ended within a line.
    #[error("answer ends within a line")]
    Cut,
    /// The text is not the JSON that was expected.
    #[error("parse answer")]
    Json(#[source] serde_json::Error),
    /// JSON of another shape; names what is missing.
    #[error("answer has no {0}")]
    Shape(&'static str),
    /// A list is older than what was already seen: another, lagging server, or
    /// etcd was restored from a backup.
    #[error("list at version {list} is older than {seen}, which was seen already")]
    Older {
        /// The list's version.
        list: u64,
        /// The newest version that was seen.
        seen: u64,
    },
    /// A watch ended well, but so soon that asking again at once would spin.
    #[error("watch ended after {0:?}")]
    Brief(Duration),
}

impl GetError {
    /// Who should try again, and how soon.
    pub(crate) fn class(&self) -> Class {
        match self {
            Self::Refused { code, .. } => match code {
                // Credentials that were taken back are followed by new ones, which are found within a second.
                401 | 408 | 410 | 429 | 500.. => Class::Transient,
                409 => Class::Conflict,
                _ => Class::Permanent,
            },
            Self::Address(_) => Class::Permanent,
            Self::Send(_)
            | Self::Late { .. }
            | Self::ContentType(_)
            | Self::Body(_)
            | Self::TooLong(_)
            | Self::Cut
            | Self::Json(_)
            | Self::Shape(_)
            | Self::Older { .. }
            | Self::Brief(_) => Class::Transient,
        }
    }

    /// The status code, if the server gave one.
    pub(crate) fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The right for want of which it was refused.
    pub(crate) fn missing(&self) -> Option<&Missing> {
        match self {
            Self::Refused { missing, .. } => missing.as_deref(),
            _ => None,
        }
    }

    /// The pause that the server asked for.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The error and its sources in one line, cut to 256 characters, for logs and status.
    pub(crate) fn line(&self) -> String {
        let mut line = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            line.push_str(": ");
            line.push_str(&error.to_string());
            source = error.source();
        }
        short(&line)
    }
}

/// A Kubernetes Status object, as far as it matters here.
#[derive(Deserialize)]
struct Status<'a> {
    code: Option<u16>,
    #[serde(borrow, default)]
    reason: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    message: Option<Cow<'a, str>>,
    details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    #[serde(rename = "retryAfterSeconds")]
    retry_after_seconds: Option<u64>,
}

/// Sends a GET and waits for its head, for as long as `within`; the body has not been read yet.
///
/// # Errors
/// Everything but a 2xx answer that calls itself JSON.
pub(crate) async fn open(
    client: &Client,
    address: &str,
    accept: &str,
    within: Duration,
) -> Result<Response<Body>, GetError> {
    let request =
        Request::get(address).header(ACCEPT, accept).body(Body::empty()).map_err(GetError::Address)?;
    let answer = timeout(within, client.send(request))
        .await
        .map_err(|_| GetError::Late { part: "answer", after: within })?
        .map_err(|e| GetError::Send(Box::new(e)))?;
    if !answer.status().is_success() {
        return Err(refused(answer).await);
    }
    let content_type = answer.headers().get(CONTENT_TYPE).map_or(&b""[..], |v| v.as_bytes());
    if !content_type.starts_with(b"application/json") {
        return Err(GetError::ContentType(short(&String::from_utf8_lossy(content_type))));
    }
    Ok(answer)
}

/// Sends a GET and reads its whole body, of at most `max` bytes.
///
/// # Errors
/// As [`open`], and when the body is late, broken or too long.
pub(crate) async fn whole(
    client: &Client,
    address: &str,
    accept: &str,
    max: usize,
) -> Result<Vec<u8>, GetError> {
    collect(chunks(client, address, accept).await?, max).await
}

/// Sends a GET whose body is read as it arrives.
///
/// # Errors
/// As [`open`].
pub(crate) async fn chunks(client: &Client, address: &str, accept: &str) -> Result<Chunks, GetError> {
    let until = Instant::now() + BODY_WITHIN;
    let answer = open(client, address, accept, HEAD_WITHIN).await?;
    Ok(Chunks { body: answer.into_body(), until })
}

/// A body that is no watch's, as it arrives.
pub(crate) struct Chunks {
    body: Body,
    until: Instant,
}

impl Chunks {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// When they are late or the body is broken.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, GetError> {
        loop {
            let deadline = self.until.min(Instant::now() + CHUNK_WITHIN);
            let frame = match timeout_at(deadline, self.body.frame()).await {
                Ok(Some(frame)) => frame.map_err(|e| GetError::Body(Box::new(e)))?,
                Ok(None) => return Ok(None),
                Err(_) => return Err(GetError::Late { part: "further bytes", after: CHUNK_WITHIN }),
            };
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }
}

/// The error that a Status object stands for. `code` is the HTTP status, for
/// texts that are no Status object.
pub(crate) fn status_error(text: &str, code: u16) -> GetError {
    let status: Option<Status<'_>> = serde_json::from_str(text).ok();
    let Some(status) = status else {
        return GetError::Refused {
            code,
            reason: String::new(),
            message: short(text.trim()),
            retry_after: None,
            missing: None,
        };
    };
    let code = status.code.unwrap_or(code);
    let missing = status.message.as_deref().filter(|_| code == 403).and_then(Missing::of_refusal);
    GetError::Refused {
        code,
        missing: missing.map(Box::new),
        reason: short(&status.reason.unwrap_or_default()),
        message: short(&status.message.unwrap_or_default()),
        retry_after: status
            .details
            .and_then(|d| d.retry_after_seconds)
            .filter(|seconds| *seconds > 0)
            .map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX)),
    }
}

async fn refused(answer: Response<Body>) -> GetError {
    let http_code = answer.status().as_u16();
    let asked = answer
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    let until = Instant::now() + REASON_WITHIN;
    let chunks = Chunks { body: answer.into_body(), until };
    let body = collect(chunks, REASON_MAX_BYTES).await.unwrap_or_default();
    let mut error = status_error(&String::from_utf8_lossy(&body), http_code);
    if let GetError::Refused { code, retry_after, .. } = &mut error {
        // The HTTP status is what proxies and the server agree on.
        *code = http_code;
        *retry_after = asked.or(*retry_after);
    }
    error
}

async fn collect(mut chunks: Chunks, max: usize) -> Result<Vec<u8>, GetError> {
    let mut bytes = Vec::new();
    while let Some(data) = chunks.next().await? {
        if bytes.len() + data.len() > max {
            return Err(GetError::TooLong(max));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// The first 256 characters, on one line.
fn short(text: &str) -> String {
    text.chars().take(256).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_object_says_its_code_and_the_pause_it_asks_for() {
        let text = r#"{"kind":"Status","code":429,"reason":"TooManyRequests","message":"later","details":{"retryAfterSeconds":7}}"#;
        let error = status_error(text, 500);
        assert_eq!(error.code(), Some(429));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(error.class(), Class::Transient);
        assert_eq!(error.line(), "answered 429 TooManyRequests: later");
    }

    #[test]
    fn a_page_of_html_is_cut_and_kept_on_one_line() {
        let error = status_error(&format!("<html>\n{}", "x".repeat(1000)), 502);
        assert_eq!(error.code(), Some(502));
        assert!(error.line().len() < 300 && !error.line().contains('\n'));
    }
}

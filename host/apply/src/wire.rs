//! One request, one deadline, one answer. No second attempt.

use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Limited};
use kube::Client;
use kube::client::Body;
use windlass_core::code::printable;

/// The longest answer that is read, in bytes. An object is at most 1.5 MiB in etcd
/// by default; JSON with managedFields is a few times that.
const ANSWER_MAX_BYTES: usize = 16 * 1024 * 1024;
/// The longest pause that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// What the API server answered.
#[derive(Debug)]
pub(crate) struct Reply {
    /// HTTP status code.
    pub(crate) code: u16,
    /// `Retry-After`, in seconds, at most ten minutes.
    pub(crate) retry_after: Option<Duration>,
    /// Texts of `Warning` headers, printable and cut, at most eight.
    pub(crate) warnings: Vec<String>,
    /// The whole body.
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// The request never left: nobody listened, or no credentials could be had.
    #[error("not sent: {0}")]
    NotSent(String),
    /// The request may have been carried out.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// Sends `request` and reads the whole answer within `deadline`.
///
/// Cancel safe in this sense: a dropped call gives the request up, and then
/// nobody knows whether it was carried out.
pub(crate) async fn exchange(
    client: &Client,
    request: Request<Body>,
    deadline: Duration,
) -> Result<Reply, Broken> {
    match tokio::time::timeout(deadline, answer(client, request)).await {
        Ok(done) => done,
        Err(_) => Err(Broken::Unknown(format!("no answer within {} ms", deadline.as_millis()))),
    }
}

async fn answer(client: &Client, request: Request<Body>) -> Result<Reply, Broken> {
    let response = client.send(request).await.map_err(|error| broken(&error))?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_MAX_BYTES)
        .collect()
        .await
        .map_err(|error| Broken::Unknown(chain(&*error)))?;
    Ok(Reply {
        code: head.status.as_u16(),
        retry_after: retry_after(&head.headers),
        warnings: warnings(&head.headers),
        body: body.to_bytes(),
    })
}

fn broken(error: &kube::Error) -> Broken {
    if matches!(error, kube::Error::Auth(_)) || was_refused(error) {
        Broken::NotSent(chain(error))
    } else {
        Broken::Unknown(chain(error))
    }
}

/// Only `connect` is ever refused, so nothing can have been sent.
fn was_refused(error: &(dyn Error + 'static)) -> bool {
    sources(error).any(|e| {
        e.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused)
    })
}

fn sources<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |e: &&'a (dyn Error + 'static)| (*e).source())
}

/// An error and all its sources in one line; a text that the one before it
/// already ended with is left out.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut out = String::new();
    for error in sources(error).take(8) {
        let text = error.to_string();
        if out.ends_with(&text) {
            continue;
        }
        if !out.is_empty() {
            out.push_str(": ");
        }
        out.push_str(&text);
    }
    printable(&out, 512)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

fn warnings(headers: &HeaderMap) -> Vec<String> {
    let texts = headers.get_all(header::WARNING).into_iter().take(8);
    texts
        .filter_map(|value| value.to_str().ok())
        .map(|value| {
            // `299 - "text"`
            let text = value.splitn(3, ' ').nth(2).unwrap_or(value);
            printable(text.trim_matches('"'), 256)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_read_in_seconds_and_bounded() {
        let after = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().expect("header"));
            retry_after(&headers)
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("999999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), None);
        assert_eq!(after("-1"), None);
    }

    #[test]
    fn warnings_are_unquoted() {
        let mut headers = HeaderMap::new();
        headers.append(header::WARNING, r#"299 - "unknown field \"x\"""#.parse().expect("header"));
        assert_eq!(warnings(&headers), [r#"unknown field \"x\"#]);
    }
}

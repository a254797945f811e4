//! The watch on the one Lease: a release is seen when it happens, not at the next poll.
//!
//! It only ever hints. A watch that is cut, late or silent costs time, never safety:
//! the elector reads the Lease itself when it has not heard of it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use kube::client::Body;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::Instant;
use windlass_core::backoff::Backoff;

use crate::api::{Api, ApiError, LONGEST_BODY_BYTES, whole};
use crate::record::{Copy, Lease};
use crate::step::{Failure, Input};

/// The API server ends a watch after this long; a new one begins at once.
const WATCH_SECONDS: u32 = 300;

#[derive(Deserialize)]
struct List {
    metadata: ListMetadata,
    #[serde(default)]
    items: Option<Vec<Box<RawValue>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    #[serde(default)]
    resource_version: String,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// Lists and watches for ever, and tells what it sees. `silence`: a watch that says
/// nothing for this long is taken for dead.
///
/// Cancel safety: may be dropped at any point.
pub(crate) async fn watch(api: Api, tell: mpsc::Sender<Input>, silence: Duration) -> Infallible {
    let pauses =
        Backoff::try_new(Duration::from_millis(50), Duration::from_secs(2)).expect("50 ms is below 2 s");
    let mut failures = 0;
    loop {
        let begun = Instant::now();
        match once(&api, &tell, silence).await {
            Ok(()) => tracing::debug!("the watch of the Lease ended"),
            Err(error) => tracing::debug!(%error, "the watch of the Lease failed"),
        }
        failures = if begun.elapsed() >= silence { 1 } else { failures + 1 };
        tokio::time::sleep(pauses.pause(failures, rand::random())).await;
    }
}

/// One list and one watch from there on.
async fn once(api: &Api, tell: &mpsc::Sender<Input>, silence: Duration) -> Result<(), ApiError> {
    let version = within(silence, list(api, tell)).await?;
    let query =
        format!("watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={version}");
    let mut body = within(silence, api.collection_request(&query)).await?.into_body();
    let mut line = Vec::new();
    loop {
        let Some(bytes) = within(silence, next_bytes(&mut body)).await? else {
            return Ok(());
        };
        for &byte in &bytes {
            if byte != b'\n' {
                line.push(byte);
                continue;
            }
            let input = input(&line)?;
            line.clear();
            say(tell, input).await;
        }
        if line.len() > LONGEST_BODY_BYTES {
            return Err(failed("an event is too long"));
        }
    }
}

async fn list(api: &Api, tell: &mpsc::Sender<Input>) -> Result<String, ApiError> {
    let bytes = whole(api.collection_request("limit=1").await?).await?;
    let list: List = serde_json::from_slice(&bytes).map_err(failed)?;
    let version = list.metadata.resource_version;
    let copy = match list.items.unwrap_or_default().first() {
        Some(item) => present(item)?,
        None => Copy::Absent { at: version.parse().ok() },
    };
    say(tell, Input::Observed(copy)).await;
    Ok(version)
}

async fn next_bytes(body: &mut Body) -> Result<Option<bytes::Bytes>, ApiError> {
    match body.frame().await {
        None => Ok(None),
        Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
        Some(Err(error)) => Err(failed(error)),
    }
}

fn input(line: &[u8]) -> Result<Input, ApiError> {
    let event: Event<'_> = serde_json::from_slice(line).map_err(failed)?;
    match event.kind {
        "ADDED" | "MODIFIED" => Ok(Input::Observed(present(event.object)?)),
        "DELETED" => Ok(Input::Observed(Copy::Absent { at: present(event.object)?.version() })),
        "BOOKMARK" => Ok(Input::Heard),
        // 410 and its like: the next round lists again.
        _ => Err(failed(format!("the watch said {}", event.kind))),
    }
}

fn present(object: &RawValue) -> Result<Copy, ApiError> {
    let lease = Lease::from_json(object.get().as_bytes()).map_err(failed)?;
    Ok(Copy::Present(Arc::new(lease)))
}

async fn say(tell: &mpsc::Sender<Input>, input: Input) {
    // The other end lives as long as this future: both are parts of one task.
    let _ = tell.send(input).await;
}

async fn within<T>(time: Duration, of: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    match tokio::time::timeout(time, of).await {
        Ok(result) => result,
        Err(_) => Err(failed(format!("silent for {time:?}"))),
    }
}

fn failed(message: impl ToString) -> ApiError {
    ApiError { failure: Failure::Unknown, answered: false, message: message.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_become_inputs() {
        let line = br#"{"type":"MODIFIED","object":{"metadata":{"resourceVersion":"7"},"spec":{"holderIdentity":"a"}}}"#;
        let Ok(Input::Observed(Copy::Present(lease))) = input(line) else {
            panic!("a modified Lease is a copy");
        };
        assert_eq!((lease.version(), lease.holder()), (Some(7), Some("a")));
        let line = br#"{"type":"DELETED","object":{"metadata":{"resourceVersion":"9"},"spec":null}}"#;
        assert!(matches!(input(line), Ok(Input::Observed(Copy::Absent { at: Some(9) }))));
        let line = br#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}"#;
        assert!(matches!(input(line), Ok(Input::Heard)));
        assert!(input(br#"{"type":"ERROR","object":{"code":410}}"#).is_err());
        assert!(input(b"{").is_err());
    }
}

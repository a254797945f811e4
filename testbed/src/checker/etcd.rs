//! etcd's history, through its watch API as JSON over HTTP.
//!
//! The whole key space is watched, because then every revision is seen and the end is known for certain; what is kept is the
//! followed kinds, without their values.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{AsyncBufRead, AsyncBufReadExt};
use kube::Client;
use serde::Deserialize;

use super::history::{Change, Effect, Kind};
use crate::runtime::on_runtime;

/// How long etcd may be silent while there is more to read.
const SILENCE: Duration = Duration::from_secs(30);

/// The whole key space, in etcd's words: from the zero byte to the zero byte.
const EVERYTHING: &str = r#""key":"AA==","range_end":"AA==""#;

#[derive(Deserialize)]
struct Line {
    result: Option<Batch>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Batch {
    #[serde(default)]
    canceled: bool,
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(default, rename = "type")]
    kind: String,
    kv: KeyValue,
}

/// 64-bit numbers are texts in the JSON form of protobuf.
#[derive(Deserialize)]
struct KeyValue {
    key: String,
    mod_revision: String,
    #[serde(default)]
    version: String,
}

#[derive(Deserialize)]
struct Ranged {
    header: Header,
}

#[derive(Deserialize)]
struct Header {
    revision: String,
}

/// The revision that etcd stands at now.
///
/// # Errors
/// If etcd does not answer.
pub async fn revision(etcd_url: &str) -> Result<u64> {
    let url = etcd_url.to_owned();
    on_runtime(async move { current(&client(&url)?).await }).await
}

/// What was committed to objects of these kinds from revision `first` to the one that etcd stands at now, which is given back
/// as well.
///
/// # Errors
/// If etcd does not answer, or has compacted `first` away.
pub async fn changes(etcd_url: &str, first: u64, kinds: &[Kind]) -> Result<(Vec<Change>, u64)> {
    let (url, kinds) = (etcd_url.to_owned(), kinds.to_vec());
    on_runtime(async move {
        let client = client(&url)?;
        let last = current(&client).await?;
        if last < first {
            return Ok((Vec::new(), last));
        }
        let body = format!(r#"{{"create_request":{{{EVERYTHING},"start_revision":"{first}"}}}}"#);
        let lines =
            client.request_stream(post("/v3/watch", body)?).await.context("etcd refuses the watch")?;
        Ok((until(std::pin::pin!(lines), last, &kinds).await?, last))
    })
    .await
}

async fn until(mut lines: impl AsyncBufRead + Unpin, last: u64, kinds: &[Kind]) -> Result<Vec<Change>> {
    let mut found = Vec::new();
    let mut text = String::new();
    loop {
        text.clear();
        let read = tokio::time::timeout(SILENCE, lines.read_line(&mut text)).await;
        let read =
            read.context("etcd falls silent before the end of its history")?.context("etcd hangs up")?;
        ensure!(read > 0, "etcd ends the watch before the end of its history");
        let line: Line =
            serde_json::from_str(&text).context("etcd says something that is no watch answer")?;
        let Some(batch) = line.result.filter(|batch| !batch.canceled) else {
            bail!("etcd cancels the watch: {}", line.error.unwrap_or_default());
        };
        for event in batch.events {
            let revision: u64 = event.kv.mod_revision.parse().context("a revision is a number")?;
            if revision > last {
                return Ok(found);
            }
            found.extend(change(&event, revision, kinds)?);
            // Several keys may share the last revision only in transactions, and those come in one batch.
            if revision == last {
                return Ok(found);
            }
        }
    }
}

fn change(event: &Event, revision: u64, kinds: &[Kind]) -> Result<Option<Change>> {
    let key = String::from_utf8(STANDARD.decode(&event.kv.key).context("a key is base64")?)?;
    let effect = match (event.kind.as_str(), event.kv.version.as_str()) {
        ("DELETE", _) => Effect::Deleted,
        (_, "1") => Effect::Created,
        _ => Effect::Updated,
    };
    let object = kinds.iter().find_map(|kind| kind.object(&key));
    Ok(object.map(|object| Change { revision, object, effect }))
}

async fn current(client: &Client) -> Result<u64> {
    let body = format!(r#"{{{EVERYTHING},"count_only":true}}"#);
    let ranged: Ranged = client.request(post("/v3/kv/range", body)?).await.context("etcd does not answer")?;
    ranged.header.revision.parse().context("a revision is a number")
}

fn post(path: &str, body: String) -> Result<http::Request<Vec<u8>>> {
    Ok(http::Request::post(path).header("content-type", "application/json").body(body.into_bytes())?)
}

fn client(url: &str) -> Result<Client> {
    let mut config = kube::Config::new(url.parse().context("etcd's address is no URL")?);
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

//! Watches of the harness's own, so that every time comes from one observer's clock and never from a contender's.

use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt as _;
use kube::Client;
use serde_json::Value;
use tokio::task::JoinHandle;

/// The objects of a watch from now on. It ends when the connection does.
pub(crate) async fn watch(
    client: &Client,
    collection: &str,
) -> Result<impl futures::Stream<Item = Value> + Unpin + use<>> {
    let list: Value =
        client.request(http::Request::get(format!("{collection}?limit=1")).body(Vec::new())?).await?;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let uri = format!("{collection}?watch=true&timeoutSeconds=3600&resourceVersion={version}");
    let events = client.request_events::<Value>(http::Request::get(uri).body(Vec::new())?).await?;
    let events = events.take_while(|event| ready(event.is_ok()));
    let objects = events.filter_map(|event| async move {
        match event.ok()? {
            kube::core::WatchEvent::Added(object) | kube::core::WatchEvent::Modified(object) => Some(object),
            kube::core::WatchEvent::Deleted(_)
            | kube::core::WatchEvent::Bookmark(_)
            | kube::core::WatchEvent::Error(_) => None,
        }
    });
    Ok(Box::pin(objects))
}

/// A change as the observer saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// CLOCK_MONOTONIC.
    pub(crate) at: Instant,
    pub(crate) name: String,
    /// The resourceVersion, by which the audit log tells whose write it was.
    pub(crate) revision: u64,
    /// What the object carries: see [`Observer::start`].
    pub(crate) mark: String,
}

/// One watch that is kept up over outages, and all that it has shown. Dropping it ends it.
pub(crate) struct Observer {
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Observer {
    /// Watches a collection. `mark` reads from each object what identifies its content.
    ///
    /// # Errors
    /// If the first watch cannot be opened.
    pub(crate) async fn start(
        client: Client,
        collection: String,
        mark: fn(&Value) -> String,
    ) -> Result<Self> {
        let mut events = watch(&client, &collection).await.with_context(|| format!("watch {collection}"))?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let to = seen.clone();
        let task = tokio::spawn(async move {
            loop {
                while let Some(object) = events.next().await {
                    let at = Instant::now();
                    lock(&to).extend(read(at, &object, mark));
                }
                events = loop {
                    match watch(&client, &collection).await {
                        Ok(events) => break events,
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                };
            }
        });
        Ok(Self { seen, task })
    }

    /// Forgets what it has shown so far.
    pub(crate) fn clear(&self) {
        lock(&self.seen).clear();
    }

    /// All since the last [`clear`](Self::clear), in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }

    /// How many changes were seen after `from`.
    pub(crate) fn count_after(&self, from: Instant) -> usize {
        lock(&self.seen).iter().rev().take_while(|seen| seen.at > from).count()
    }

    /// When this content was first seen on this object.
    pub(crate) fn first(&self, name: &str, mark: &str) -> Option<Instant> {
        lock(&self.seen).iter().find(|seen| seen.name == name && seen.mark == mark).map(|seen| seen.at)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(seen: &Mutex<Vec<Seen>>) -> MutexGuard<'_, Vec<Seen>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(at: Instant, object: &Value, mark: fn(&Value) -> String) -> Option<Seen> {
    let meta = &object["metadata"];
    Some(Seen {
        at,
        name: meta["name"].as_str()?.to_owned(),
        revision: meta["resourceVersion"].as_str()?.parse().ok()?,
        mark: mark(object),
    })
}

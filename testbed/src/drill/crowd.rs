//! Many plugins with many objects, all of which the replicas have to carry within their limit of memory.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::Client;
use serde_json::Value;

use super::site::{Pod, Site, container_figure};
use crate::checker::Kind;
use crate::control_plane::ControlPlane;

/// Requests at once.
const AT_ONCE: usize = 16;

/// How long a new kind may take to be served.
const UNSERVED: Duration = Duration::from_secs(60);

/// Between two looks.
const POLL: Duration = Duration::from_millis(500);

/// A crowd, in the order in which it comes.
#[derive(Debug, Clone, Default)]
pub struct Crowd {
    /// Objects to be created, by the path of their collection: each group when the one before it is there.
    pub groups: Vec<Vec<(String, Value)>>,
    /// YAML to be applied after the first group: accounts and rights.
    pub rights: Vec<String>,
    /// The kinds of its primaries: what is written to them is judged too.
    pub kinds: Vec<Kind>,
    /// The collection in which each object of the last group gets a child, and nobody else has one.
    pub children: String,
    /// How many objects the collection has when all are there.
    pub count: u64,
}

impl Crowd {
    /// Creates everything.
    ///
    /// # Errors
    /// What the API server says of the first that it does not take.
    pub async fn bring(&self, control: &ControlPlane) -> Result<()> {
        let client = control.client()?;
        for (number, group) in self.groups.iter().enumerate() {
            let posts = group.iter().map(|(path, object)| create(&client, path, object));
            stream::iter(posts).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
            if number == 0 {
                for rights in &self.rights {
                    control.apply(rights).await?;
                }
            }
        }
        Ok(())
    }

    /// Waits until every object has its child.
    ///
    /// # Errors
    /// If one has none after `patience`.
    pub async fn served(&self, control: &ControlPlane, patience: Duration) -> Result<()> {
        let (client, began) = (control.client()?, Instant::now());
        loop {
            let request = http::Request::get(format!("{}?limit=1", self.children)).body(Vec::new())?;
            let list: Value = client.request(request).await.unwrap_or_default();
            let shown = list["items"].as_array().map_or(0, Vec::len) as u64;
            let there = shown + list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0);
            if there >= self.count {
                return Ok(());
            }
            ensure!(began.elapsed() < patience, "{there} of {} children within {patience:?}", self.count);
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Creates an object; its kind may not be served yet.
async fn create(client: &Client, path: &str, object: &Value) -> Result<()> {
    let began = Instant::now();
    loop {
        let request = http::Request::post(path).header("content-type", "application/json");
        match client.request::<Value>(request.body(object.to_string().into_bytes())?).await {
            Ok(_) => return Ok(()),
            // The answer to an earlier try was lost.
            Err(kube::Error::Api(status)) if status.code == 409 => return Ok(()),
            Err(_) if began.elapsed() < UNSERVED => tokio::time::sleep(POLL).await,
            Err(error) => return Err(error).with_context(|| format!("create in {path}")),
        }
    }
}

/// The most memory that any of these replicas has had so far. Unit: MiB.
///
/// # Errors
/// If one has ended since it was looked at, or its limit is none.
pub(super) async fn within_limit(site: &Site, before: &[Pod]) -> Result<u64> {
    let mut most = 0;
    let now = site.pods().await?;
    for before in before {
        let pod = now.iter().find(|pod| pod.uid == before.uid);
        let pod = pod.with_context(|| format!("{} is gone", before.name))?;
        ensure!(pod.restarts == before.restarts, "{} was ended for {:?}", pod.name, pod.last_end);
        let figure = |file| container_figure(site.cluster(), pod, &site.subject.program, "memory", file);
        let (peak, limit) = (figure("memory.max_usage_in_bytes")?, figure("memory.limit_in_bytes")?);
        ensure!(peak < limit, "{} had {peak} bytes of memory, as many as it may have", pod.name);
        most = most.max(peak);
    }
    Ok(most >> 20)
}

//! F4: what a takeover cannot be faster than. A watch event in one task is answered with one write of a Lease, and the
//! observer sees both.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt as _;
use kube::Client;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::bench::observe::{Observer, watch};

const ASKING: &str = "bench-floor-asks";
const ANSWERING: &str = "bench-floor-answers";
/// How often the floor is measured before each round.
pub(super) const TIMES: u64 = 10;
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The two Leases, who answers, and who looks on.
pub(super) struct Floor {
    client: Client,
    leases: String,
    observer: Observer,
    answering: JoinHandle<Result<()>>,
    next: u64,
}

impl Floor {
    pub(super) async fn start(client: Client, namespace: &str) -> Result<Self> {
        let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
        for name in [ASKING, ANSWERING] {
            let body = json!({ "metadata": { "name": name }, "spec": { "holderIdentity": "0" } });
            let request = http::Request::post(&leases)
                .header("content-type", "application/json")
                .body(body.to_string().into_bytes())?;
            client.request::<Value>(request).await.with_context(|| format!("create {name}"))?;
        }
        let observer = Observer::start(client.clone(), leases.clone(), |lease| {
            lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
        })
        .await?;
        let answering = tokio::spawn(answer(client.clone(), leases.clone()));
        Ok(Self { client, leases, observer, answering, next: 1 })
    }

    /// Event -> answer, some times over.
    pub(super) async fn measure(&mut self) -> Result<Vec<Duration>> {
        let mut times = Vec::new();
        for _ in 0..TIMES {
            if self.answering.is_finished() {
                // An outage ended its watch.
                self.answering = tokio::spawn(answer(self.client.clone(), self.leases.clone()));
            }
            self.observer.clear();
            let mark = self.next.to_string();
            self.next += 1;
            write(&self.client, &self.leases, ASKING, &mark).await?;
            let began = Instant::now();
            while began.elapsed() < PATIENCE {
                let seen = (self.observer.first(ASKING, &mark), self.observer.first(ANSWERING, &mark));
                if let (Some(asked), Some(answered)) = seen {
                    times.push(answered.saturating_duration_since(asked));
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        Ok(times)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

/// Answers each event with one write, until its watch ends.
async fn answer(client: Client, leases: String) -> Result<()> {
    let mut events = watch(&client, &leases).await?;
    while let Some(lease) = events.next().await {
        if lease["metadata"]["name"] == ASKING {
            let mark = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
            write(&client, &leases, ANSWERING, mark).await?;
        }
    }
    Ok(())
}

async fn write(client: &Client, leases: &str, name: &str, holder: &str) -> Result<()> {
    let body = json!({ "spec": { "holderIdentity": holder } }).to_string();
    let request = http::Request::patch(format!("{leases}/{name}"))
        .header("content-type", "application/merge-patch+json")
        .body(body.into_bytes())?;
    client.request::<Value>(request).await?;
    Ok(())
}

//! The WebApps of a turn, and the changes that are made to them whether anybody follows or not.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt as _;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use super::stage::Stage;
use crate::bench::observe::watch;

/// How many WebApps are changed in turn.
pub(super) const APPS: u64 = 20;
/// Changes that may be on the way at once; further ones are left out and counted.
const IN_FLIGHT: usize = 64;
/// WebApps that are changed at once while it is measured how much a contender can follow: as many as it may work on at once.
const AT_ONCE: u64 = 8;

/// Where WebApps of a namespace are.
pub(super) fn apps(namespace: &str) -> String {
    format!("/apis/apps.windlass.dev/v1alpha1/namespaces/{namespace}/webapps")
}

/// Where the children are that each change asks to be written.
pub(super) fn children(namespace: &str) -> String {
    format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses")
}

/// What an Ingress says, by which a change is known again.
pub(super) fn host_of(ingress: &Value) -> String {
    ingress["spec"]["rules"][0]["host"].as_str().unwrap_or_default().to_owned()
}

/// Creates the WebApps. None of them has pods: their rollouts would load the control plane, not the contender.
pub(super) async fn create(stage: &Stage, namespace: &str) -> Result<()> {
    let documents: Vec<_> = (0..APPS)
        .map(|app| {
            format!(
                "apiVersion: apps.windlass.dev/v1alpha1
kind: WebApp
metadata: {{ name: app-{app}, namespace: {namespace} }}
spec:
  image: nginxinc/nginx-unprivileged:1.29-alpine
  replicas: 0
  host: c0.example.com
  config: {{ GREETING: Hello }}
  resources: {{ requests: {{ cpu: 50m, memory: 32Mi }}, limits: {{ memory: 64Mi }} }}
"
            )
        })
        .collect();
    stage.demo.control.apply(&documents.join("---\n")).await
}

/// The host that change `number` asks for.
fn host(number: u64) -> String {
    format!("c{number}.example.com")
}

/// One change: a new host, which is a new Ingress and a new URL in the status, and nothing else.
async fn change(client: &Client, namespace: &str, number: u64) -> Result<()> {
    let path = format!("{}/app-{}", apps(namespace), number % APPS);
    let body = json!({ "spec": { "host": host(number) } }).to_string();
    let request = http::Request::patch(path)
        .header("content-type", "application/merge-patch+json")
        .body(body.into_bytes())?;
    client.request::<Value>(request).await?;
    Ok(())
}

/// One change more than the stream makes, at the moment of a fault: whoever takes over finds something to do, and a gap does not
/// depend on when the stream comes round.
pub(super) async fn one_more(client: &Client, namespace: &str) -> Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(1_000_000_000);
    change(client, namespace, NEXT.fetch_add(1, Ordering::Relaxed)).await
}

/// A steady, open-loop stream of changes. Dropping it ends it.
pub(super) struct Stream {
    task: JoinHandle<()>,
    counts: Arc<Counts>,
}

/// What became of the changes.
#[derive(Default)]
struct Counts {
    made: AtomicU64,
    failed: AtomicU64,
    left_out: AtomicU64,
}

impl Stream {
    /// Changes one WebApp each `every`, beginning with number 1.
    pub(super) fn start(client: Client, namespace: String, every: Duration) -> Self {
        let counts = Arc::new(Counts::default());
        let task = tokio::spawn(flow(client, namespace, every, counts.clone()));
        Self { task, counts }
    }

    /// Ends it; what is on the way is given up.
    pub(super) fn stop(self) -> Value {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let Counts { made, failed, left_out } = &*self.counts;
        json!({ "made": count(made), "failed": count(failed), "left_out": count(left_out) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn flow(client: Client, namespace: String, every: Duration, counts: Arc<Counts>) {
    let mut clock = tokio::time::interval(every);
    // After a stall of the harness itself: no burst.
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut on_the_way = JoinSet::new();
    for number in 1_u64.. {
        clock.tick().await;
        while on_the_way.try_join_next().is_some() {}
        if on_the_way.len() >= IN_FLIGHT {
            counts.left_out.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let (client, namespace, counts) = (client.clone(), namespace.clone(), counts.clone());
        on_the_way.spawn(async move {
            let result = change(&client, &namespace, number).await;
            let count = if result.is_ok() { &counts.made } else { &counts.failed };
            count.fetch_add(1, Ordering::Relaxed);
        });
    }
}

/// Makes a change only when the one before it has been followed, on a few WebApps at once. Gives back changes a second.
pub(super) async fn follow(client: &Client, namespace: &str, during: Duration) -> Result<f64> {
    let mut events = watch(client, &children(namespace)).await?;
    let (mut news, mut workers) = (HashMap::new(), JoinSet::new());
    let until = Instant::now() + during;
    for app in 0..AT_ONCE {
        let (client, namespace) = (client.clone(), namespace.to_owned());
        let (send, mut hosts) = mpsc::channel(1024);
        news.insert(format!("app-{app}"), send);
        workers.spawn(async move {
            let mut followed = 0_u64;
            // Numbers that lead to the same WebApp each time.
            for number in (app + APPS..).step_by(APPS as usize) {
                if Instant::now() > until {
                    break;
                }
                change(&client, &namespace, number).await?;
                let wanted = host(number);
                while hosts.recv().await.context("the watch ended")? != wanted {}
                followed += 1;
            }
            anyhow::Ok(followed)
        });
    }
    let began = Instant::now();
    let route = async {
        while let Some(ingress) = events.next().await {
            if let Some(to) = ingress["metadata"]["name"].as_str().and_then(|name| news.get(name)) {
                // A worker that is done no longer listens.
                to.send(host_of(&ingress)).await.ok();
            }
        }
    };
    let all = async {
        let mut followed = 0;
        while let Some(worker) = workers.join_next().await {
            followed += worker.context("a worker was lost")??;
        }
        anyhow::Ok(followed)
    };
    let followed = tokio::select! {
        followed = tokio::time::timeout(during * 10, all) => followed.context("a change is not followed")??,
        () = route => anyhow::bail!("the watch ended"),
    };
    Ok(followed as f64 / began.elapsed().as_secs_f64())
}

/// How many WebApps have an Ingress that does not say what they say.
pub(super) async fn behind(stage: &Stage, namespace: &str) -> Option<usize> {
    let (apps, ingresses) =
        (stage.demo.get(&apps(namespace)).await?, stage.demo.get(&children(namespace)).await?);
    let host = |app: &Value| {
        let ingress = ingresses["items"]
            .as_array()?
            .iter()
            .find(|i| i["metadata"]["name"] == app["metadata"]["name"])?;
        Some(host_of(ingress))
    };
    let items = apps["items"].as_array()?;
    Some(items.iter().filter(|app| host(app).as_deref() != app["spec"]["host"].as_str()).count())
}

/// Removes a turn's namespace, and waits until the WebApps and their children are gone.
pub(super) async fn remove(stage: &Stage, namespace: &str) -> Result<()> {
    stage.demo.delete(&apps(namespace)).await?;
    stage
        .demo
        .until("the children are collected", || async {
            let left = stage.demo.get(&children(namespace)).await?;
            left["items"].as_array()?.is_empty().then_some(())
        })
        .await?;
    stage.demo.delete(&format!("/api/v1/namespaces/{namespace}")).await
}

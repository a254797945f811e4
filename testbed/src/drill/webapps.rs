//! A steady stream of changes to WebApps: a new host name is a new Ingress and a new URL in the status, and nothing else.

use std::time::Duration;

use anyhow::Result;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// How many there are.
const APPS: u64 = 20;

/// They have no pods: their rollouts would load the nodes and not the operator.
pub(super) fn manifests(namespace: &str) -> String {
    let one = |app| {
        format!(
            "apiVersion: apps.windlass.dev/v1alpha1
kind: WebApp
metadata: {{ name: app-{app}, namespace: {namespace} }}
spec: {{ image: 'windlass.dev/hello:testbed', replicas: 0, host: c0.example.com }}
"
        )
    };
    (0..APPS).map(one).collect::<Vec<_>>().join("---\n")
}

/// The stream. Dropping it ends it.
pub(super) struct Changes {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Changes {
    pub(super) fn start(client: Client, namespace: String, rate: u32) -> Self {
        let (stop, stopped) = watch::channel(false);
        let every = Duration::from_secs_f64(1.0 / f64::from(rate.max(1)));
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            for number in 1_u64.. {
                ticks.tick().await;
                if *stopped.borrow() {
                    return;
                }
                // The API server may be away; then there is nothing to follow either.
                change(&client, &namespace, number).await.ok();
            }
        });
        Self { stop, task }
    }

    pub(super) async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.ok();
    }
}

async fn change(client: &Client, namespace: &str, number: u64) -> Result<()> {
    let name = number % APPS;
    let path = format!("/apis/apps.windlass.dev/v1alpha1/namespaces/{namespace}/webapps/app-{name}");
    // No two rounds ask for the same.
    let host = format!("c{number}-{:x}.example.com", rand::random::<u32>());
    let request = http::Request::patch(path)
        .header("content-type", "application/merge-patch+json")
        .body(json!({ "spec": { "host": host } }).to_string().into_bytes())?;
    client.request::<Value>(request).await?;
    Ok(())
}

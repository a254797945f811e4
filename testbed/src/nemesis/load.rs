//! A steady load: primaries are created, changed and deleted, and what is wanted in the end is known.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// How many change objects at the same time; each has objects of its own.
const WORKERS: u32 = 5;

/// How long a change is tried again that the API server does not take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is wanted of each object at the end: its text, or that it is gone.
pub(crate) type Wanted = BTreeMap<String, Option<String>>;

/// How much of it there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stream {
    /// Changes a second.
    pub(crate) rate: u32,
    /// How many objects are changed in turn.
    pub(crate) objects: u32,
    /// Decides on everything that is random here.
    pub(crate) seed: u64,
}

/// The load. Dropping it ends it.
pub(crate) struct Load {
    stop: watch::Sender<bool>,
    workers: JoinSet<Result<Wanted>>,
}

impl Load {
    pub(crate) fn start(client: kube::Client, namespace: &str, stream: Stream) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut workers = JoinSet::new();
        for number in 0..WORKERS {
            let worker = Worker {
                client: client.clone(),
                collection: format!("/apis/fixtures.windlass.dev/v1alpha1/namespaces/{namespace}/widgets"),
                names: (number..stream.objects.max(WORKERS))
                    .step_by(WORKERS as usize)
                    .map(|n| format!("w{n}"))
                    .collect(),
                dice: Xoshiro256PlusPlus::seed_from_u64(stream.seed ^ (u64::from(number) << 32)),
                wanted: Wanted::new(),
                changes: 0,
            };
            let pace = Duration::from_secs_f64(f64::from(WORKERS) / f64::from(stream.rate.max(1)));
            workers.spawn(worker.work(pace, stopped.clone()));
        }
        Self { stop, workers }
    }

    /// Ends it, and says what is wanted now.
    ///
    /// # Errors
    /// If the API server did not take a change for a minute.
    pub(crate) async fn stop(mut self) -> Result<Wanted> {
        self.stop.send_replace(true);
        let mut wanted = Wanted::new();
        while let Some(done) = self.workers.join_next().await {
            wanted.extend(done.context("the load was cut off")??);
        }
        Ok(wanted)
    }
}

struct Worker {
    client: kube::Client,
    collection: String,
    names: Vec<String>,
    dice: Xoshiro256PlusPlus,
    wanted: Wanted,
    changes: u64,
}

impl Worker {
    async fn work(mut self, pace: Duration, mut stopped: watch::Receiver<bool>) -> Result<Wanted> {
        let mut ticks = tokio::time::interval(pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stop| *stop) => return Ok(self.wanted),
                _ = ticks.tick() => {}
            }
            self.change().await?;
        }
    }

    /// Nine times of ten an object gets another text, being made first if it is not there; else it goes.
    async fn change(&mut self) -> Result<()> {
        let name = self.names[self.dice.random_range(0..self.names.len())].clone();
        self.changes += 1;
        let exists = self.wanted.get(&name).is_some_and(Option::is_some);
        let text = (!exists || self.dice.random_range(0..10) > 0).then(|| format!("{name}-{}", self.changes));
        let began = Instant::now();
        while let Err(error) = self.send(&name, text.as_deref()).await {
            if began.elapsed() > PATIENCE {
                return Err(error).with_context(|| format!("the load cannot change {name}"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.wanted.insert(name, text);
        Ok(())
    }

    async fn send(&self, name: &str, text: Option<&str>) -> kube::Result<()> {
        let path = format!("{}/{name}", self.collection);
        let request = match text {
            Some(text) => {
                let widget = json!({
                    "apiVersion": "fixtures.windlass.dev/v1alpha1", "kind": "Widget",
                    "metadata": { "name": name }, "spec": { "text": text },
                });
                http::Request::patch(format!("{path}?fieldManager=load&force=true"))
                    .header("content-type", "application/apply-patch+yaml")
                    .body(widget.to_string().into_bytes())
            }
            None => http::Request::delete(path).body(Vec::new()),
        };
        let request = request.map_err(kube::Error::HttpError)?;
        match self.client.request::<Value>(request).await {
            // An earlier attempt was carried out.
            Err(kube::Error::Api(status)) if status.code == 404 && text.is_none() => Ok(()),
            answer => answer.map(drop),
        }
    }
}

//! A control plane with many objects of one size, and programs that hold all of them: what `cache` and `coldstart` stand on.
//!
//! The objects are ConfigMaps with the labels and the `managedFields` of a pod (nobody owns them): built-in, so that each contender reads
//! them as its community does (typed), without a controller or an admission check that would act on pods. Windlass holds
//! them because a plugin's manifest reads the kind, the peers because a flag says so; all watch the whole cluster.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use windlass_testbed::{Replica, ReplicaOptions};

use super::crowd::{Crowd, Sizes};
use super::failover::Contender;
use super::proc::{Memory, cpu, peak_mib};
use super::stamp::Stamp;
use super::{Bench, peers};

/// Where the objects are.
const NAMESPACE: &str = "shelf";
/// Creates at once: as many as keep the API server busy.
const AT_ONCE: usize = 64;
/// Until a contender holds everything.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks whether it does.
const LOOK: Duration = Duration::from_millis(5);

/// The objects, and who may hold them.
pub(crate) struct Shelf {
    crowd: Crowd,
    contenders: Vec<(Contender, PathBuf)>,
    directory: tempfile::TempDir,
    /// Objects on it.
    pub(crate) count: usize,
    /// Bytes of JSON that each was made with.
    bytes: usize,
}

/// A contender that holds everything.
pub(crate) struct Holding {
    replica: Replica,
    /// The process that runs plugins, where there is one.
    worker: Option<u32>,
    /// From its start until it was ready.
    pub(crate) ready: Duration,
    /// CPU time that it had used then.
    pub(crate) cpu: Duration,
}

/// What a contender has of memory, in MiB.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Held {
    /// Of the process that holds the cache.
    pub(crate) cache: Memory,
    /// Its highest resident memory since its start.
    pub(crate) peak: f64,
    /// Private memory of all its processes.
    pub(crate) all: f64,
}

impl Shelf {
    /// An empty one, on a control plane without fsync and audit, with every contender built.
    ///
    /// # Errors
    /// If anything does not build or start.
    pub(crate) async fn start(bench: &Bench, binary: PathBuf) -> Result<Self> {
        let stamp = Stamp::build()?;
        let contenders = contenders(bench, &binary)?;
        let sizes = Sizes { plugins: 1, objects_each: 1, config_maps: 1 };
        let mut crowd = Crowd::start(binary, &stamp, sizes, None, &["--cache-limit=4Gi"]).await?;
        crowd.serve().await?;
        crowd.offer().await?;
        crowd.converged().await?;
        crowd.stop().await?;
        let namespace = json!({ "metadata": { "name": NAMESPACE } });
        super::crowd::post(&crowd.client, "/api/v1/namespaces", &namespace).await?;
        let directory = tempfile::tempdir().context("make a folder for logs")?;
        Ok(Self { crowd, contenders, directory, count: 0, bytes: 0 })
    }

    /// Who takes part, in the order of a round: every other round the other way round.
    pub(crate) fn contenders(&self, round: usize) -> Vec<Contender> {
        let mut order: Vec<_> = self.contenders.iter().map(|(contender, _)| *contender).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        order
    }

    /// Puts objects of this size on it until there are so many.
    ///
    /// # Errors
    /// If the API server refuses one.
    pub(crate) async fn fill(&mut self, count: usize, bytes: usize) -> Result<()> {
        eprintln!("{count} objects of {bytes} bytes");
        let (began, had) = (Instant::now(), self.count);
        let client = &self.crowd.client;
        let posts = (had..count).map(|number| async move {
            super::crowd::post(client, &collection(), &object(number, bytes)).await
        });
        stream::iter(posts).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        if count > had {
            eprintln!("made {:.0} a second", (count - had) as f64 / began.elapsed().as_secs_f64());
        }
        (self.count, self.bytes) = (count, bytes);
        Ok(())
    }

    /// Takes all objects off it.
    ///
    /// # Errors
    /// If the API server refuses.
    pub(crate) async fn clear(&mut self) -> Result<()> {
        let request = http::Request::delete(collection()).body(Vec::new()).context("build a request")?;
        self.crowd.client.request::<Value>(request).await.context("delete all objects")?;
        self.count = 0;
        Ok(())
    }

    /// Bytes of JSON of one object as a cache keeps it: without `managedFields`, with kind and version.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) async fn raw_bytes(&self) -> Result<f64> {
        let path = format!("{}/{}", collection(), name(0));
        let mut object = self.crowd.demo.get(&path).await.context("there is no object")?;
        object["metadata"].as_object_mut().context("it has no metadata")?.remove("managedFields");
        Ok(object.to_string().len() as f64)
    }

    /// The floor: a list of everything, page after page, of which nothing is kept or read.
    ///
    /// # Errors
    /// If the API server refuses.
    pub(crate) async fn bare_list(&self) -> Result<Duration> {
        let began = Instant::now();
        let mut token = String::new();
        loop {
            let address = format!("/api/v1/configmaps?limit=500{token}");
            let request = http::Request::get(address).body(Vec::new()).context("build a request")?;
            let text = self.crowd.client.request_text(request).await.context("list")?;
            // The token stands in front of the objects.
            let head = text.get(..4096.min(text.len())).unwrap_or(&text);
            let next = head.split_once("\"continue\":\"").and_then(|(_, rest)| rest.split('"').next());
            match next.filter(|next| !next.is_empty()) {
                Some(next) => token = format!("&continue={}", next.replace('+', "%2B").replace('=', "%3D")),
                None => return Ok(began.elapsed()),
            }
        }
    }

    /// Starts a contender and waits until it holds everything.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) async fn hold(&mut self, contender: Contender) -> Result<Holding> {
        let began = Instant::now();
        let replica = match contender {
            Contender::Ours => self.crowd.demo.replica("windlass-0")?,
            _ => self.peer(contender)?,
        };
        while !replica.is_ready().await {
            ensure!(
                began.elapsed() < PATIENCE,
                "{} is not ready after {PATIENCE:?}:\n{}",
                contender.title(),
                replica.log()
            );
            tokio::time::sleep(LOOK).await;
        }
        let (ready, cpu) = (began.elapsed(), cpu(replica.pid())?);
        let worker = if contender == Contender::Ours { Some(worker(&replica).await?) } else { None };
        let held = replica.metric("windlass_cache_objects{kind=\"v1/ConfigMap\"}").await;
        if let Some(held) = held {
            ensure!(held >= self.count as f64, "it is ready and holds {held} of {}", self.count);
        }
        Ok(Holding { replica, worker, ready, cpu })
    }

    fn peer(&self, contender: Contender) -> Result<Replica> {
        let tuned = matches!(contender, Contender::CrTuned | Contender::KubeRsTuned);
        let found = self.contenders.iter().find(|(of, _)| *of == contender);
        let binary = found.context("it does not take part")?.1.clone();
        let flag = |text: String| OsString::from(text);
        Replica::start(ReplicaOptions {
            binary,
            name: contender.name().to_owned(),
            namespace: NAMESPACE.to_owned(),
            kubeconfig: self.crowd.demo.control.kubeconfig_path().to_owned(),
            directory: self.directory.path().to_owned(),
            flags: vec![flag("--cache-only=true".into()), flag(format!("--tuned={tuned}"))],
            environment: Vec::new(),
        })
    }
}

impl Holding {
    /// Its memory now.
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) fn memory(&self) -> Result<Held> {
        let cache = Memory::of(self.replica.pid())?;
        let peak = peak_mib(self.replica.pid())?;
        let worker = self.worker.map(Memory::of).transpose()?.unwrap_or_default();
        Ok(Held { cache, peak, all: cache.private + worker.private })
    }

    /// Ends it.
    ///
    /// # Errors
    /// If it does not end.
    pub(crate) async fn end(self) -> Result<()> {
        self.replica.terminate(Duration::from_secs(30)).await.map(drop)
    }
}

/// Who takes part, and its binary: with `--quick`, and no `--peers`, Windlass alone, because peers take minutes to build.
fn contenders(bench: &Bench, ours: &std::path::Path) -> Result<Vec<(Contender, PathBuf)>> {
    use Contender::{Cr, CrTuned, KubeRs, KubeRsTuned, Ours};
    let asked = match &bench.peers {
        Some(asked) => asked.clone(),
        None if bench.quick => vec![Ours],
        None => vec![Ours, Cr, CrTuned, KubeRs, KubeRsTuned],
    };
    let binary = |contender| match contender {
        Ours => Ok(ours.to_owned()),
        Cr | CrTuned => peers::controller_runtime(),
        KubeRs | KubeRsTuned => peers::kube_rs(),
    };
    asked.into_iter().map(|contender| Ok((contender, binary(contender)?))).collect()
}

async fn worker(replica: &Replica) -> Result<u32> {
    let (_, view) = replica.ask("/debug/sandbox").await?;
    let view: Value = serde_json::from_str(&view).context("/debug/sandbox is no JSON")?;
    let pid = view["worker"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    pid.with_context(|| format!("/debug/sandbox names no worker: {view}"))
}

fn collection() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/configmaps")
}

fn name(number: usize) -> String {
    format!("web-7c9f8d7b6c-{number:06}")
}

/// An object of about so many bytes as it is stored; `managedFields` come on top.
fn object(number: usize, bytes: usize) -> Value {
    let object = |fill: &str| {
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": name(number),
                "labels": {
                    "app": format!("web-{}", number % 100),
                    "app.kubernetes.io/name": "web",
                    "app.kubernetes.io/part-of": "shop",
                    "pod-template-hash": "7c9f8d7b6c",
                    "tier": "front",
                },
                "annotations": { "prometheus.io/scrape": "true", "prometheus.io/port": "8080" },
            },
            "data": { "phase": "Running", "node": format!("node-{:03}", number % 500), "rest": fill },
        })
    };
    // Namespace, uid, version and time are the server's: about 150 bytes.
    let rest = bytes.saturating_sub(object("").to_string().len() + 150);
    // Words, not one letter: what compresses well is no measure.
    let words = (0..).map(|n: usize| {
        format!("{:x} ", (number + 1).wrapping_mul(2_654_435_761).wrapping_mul(n + 7) & 0xffff_ffff)
    });
    let mut fill: String = words.take(rest / 6 + 1).collect();
    fill.truncate(rest);
    object(&fill)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_about_as_large_as_asked_and_unlike_its_neighbours() {
        for bytes in [2_000, 4_400] {
            let (one, other) = (object(1, bytes), object(2, bytes));
            let size = one.to_string().len() + 150;
            assert!(size.abs_diff(bytes) < 32, "{size} for {bytes}");
            assert_ne!(one["data"], other["data"]);
        }
    }
}

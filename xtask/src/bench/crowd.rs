//! Many plugins with many objects on one control plane, and one host that serves all of them.

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::Client;
use serde_json::{Value, json};
use windlass_testbed::{Options, Replica};

use super::observe::Observer;
use super::scrape::Scrape;
use super::stamp::{Member, Stamp};
use super::stream::Target;
use crate::demo::Demo;

/// Where all objects and all that is read are.
pub(crate) const NAMESPACE: &str = "crowd";
/// Requests of ours at once.
const AT_ONCE: usize = 16;
/// How long anything here may take: compiling a hundred plugins takes minutes on a small machine.
const PATIENCE: Duration = Duration::from_secs(600);
/// And how much longer for each object: two or three writes, on a busy machine.
const PER_OBJECT: Duration = Duration::from_millis(20);
/// Nobody reads it, and it would cost the API server.
const NO_AUDIT: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n  - level: None\n";

/// By how many percent the API server's heap grows between two collections. With Go's own 100 there is one every seven seconds,
/// for 0.4 to 0.6 s of a processor, and whatever comes meanwhile waits for it: then that is the 99th percentile of everything.
/// For few objects only: with a hundred thousand the heap would be larger than the machine.
pub(crate) const RARE: Option<u32> = Some(1000);

/// How many of everything.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Sizes {
    pub(crate) plugins: u16,
    pub(crate) objects_each: usize,
    /// ConfigMaps that all plugins may read.
    pub(crate) config_maps: usize,
}

/// The plugins, and where they are served.
pub(crate) struct Crowd {
    pub(crate) demo: Demo,
    pub(crate) client: Client,
    pub(crate) members: Vec<Member>,
    pub(crate) sizes: Sizes,
    /// Compiled plugins: one folder a run, so that nothing of an earlier one is found.
    _artefacts: tempfile::TempDir,
}

impl Crowd {
    /// A control plane with everything but the plugins themselves and the host. Without etcd's fsync: what the host does to
    /// itself and to its plugins is asked here, and the disk's breath would drown it. For the same reason the API server collects
    /// its garbage as rarely as `gogc` says ([`RARE`]).
    ///
    /// # Errors
    /// If anything does not start.
    pub(crate) async fn start(
        binary: PathBuf,
        stamp: &Stamp,
        sizes: Sizes,
        gogc: Option<u32>,
        flags: &[&str],
    ) -> Result<Self> {
        let options = Options {
            kubelet: None,
            audit_policy: Some(NO_AUDIT.to_owned()),
            apiserver_gogc: gogc,
            ..Options::default()
        };
        let artefacts = tempfile::tempdir().context("make a folder for compiled plugins")?;
        let folder = format!("--artefact-dir={}", artefacts.path().display());
        let flags: Vec<&str> = ["--log=warn", &folder].into_iter().chain(flags.iter().copied()).collect();
        let demo = Demo::start(None, binary, options).await?.with_flags(&flags);
        let client = demo.control.client()?;
        let members: Vec<_> =
            (0..sizes.plugins).map(|number| stamp.member(number, 1)).collect::<Result<_>>()?;
        let crowd = Self { demo, client, members, sizes, _artefacts: artefacts };
        crowd.prepare().await?;
        Ok(crowd)
    }

    async fn prepare(&self) -> Result<()> {
        let Sizes { plugins, objects_each, config_maps } = self.sizes;
        eprintln!("{plugins} kinds, {objects_each} objects of each, {config_maps} ConfigMaps");
        post(&self.client, "/api/v1/namespaces", &json!({ "metadata": { "name": NAMESPACE } })).await?;
        let crds = self.members.iter().map(|member| {
            ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions".to_owned(), member.crd())
        });
        self.post_all(crds.collect()).await?;
        for some in self.members.chunks(20) {
            let rights: Vec<_> = some.iter().map(Member::rights).collect::<Result<_>>()?;
            self.demo.control.apply(&rights.join("---\n")).await?;
        }
        let shared = (0..config_maps).map(|number| (config_maps_path(), shared(number)));
        self.post_all(shared.collect()).await?;
        let objects = self.members.iter().enumerate().flat_map(|(m, member)| {
            (0..objects_each).map(move |o| {
                let spec = json!({ "text": "0", "source": shared_name((m * objects_each + o) % config_maps.max(1)) });
                (member.collection(NAMESPACE), member.object(&object_name(m, o), &spec))
            })
        });
        self.post_all(objects.collect()).await
    }

    /// Offers all plugins to the host.
    ///
    /// # Errors
    /// If the API server refuses one.
    pub(crate) async fn offer(&self) -> Result<()> {
        let maps = self.members.iter().map(|member| {
            Ok(("/api/v1/namespaces/windlass-system/configmaps".to_owned(), member.config_map()?))
        });
        self.post_all(maps.collect::<Result<_>>()?).await
    }

    /// Starts the host and waits until it leads and is ready.
    ///
    /// # Errors
    /// If it is not, for ten minutes.
    pub(crate) async fn serve(&mut self) -> Result<()> {
        let replica = self.demo.replica("windlass-0")?;
        self.demo.replicas.push(replica);
        let this = &*self;
        this.until("the host is ready", || async { this.host().ok()?.is_ready().await.then_some(()) })
            .await?;
        this.until("the host leads", || async { this.demo.leader().await }).await.map(drop)
    }

    /// Ends the host in order.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let replica = self.demo.replicas.pop().context("no host runs")?;
        replica.terminate(Duration::from_secs(30)).await.map(drop)
    }

    /// The host.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn host(&self) -> Result<&Replica> {
        self.demo.replicas.first().context("no host runs")
    }

    /// The process in which plugins run.
    ///
    /// # Errors
    /// If the host does not say, or it is being started again.
    pub(crate) async fn worker(&self) -> Result<u32> {
        let (_, view) = self.host()?.ask("/debug/sandbox").await?;
        let view: Value = serde_json::from_str(&view).context("/debug/sandbox is no JSON")?;
        let pid = view["worker"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.with_context(|| format!("/debug/sandbox names no worker: {view}"))
    }

    /// What the host says of the version of a plugin that serves; nothing when none does.
    pub(crate) async fn serving(&self, plugin: &str) -> Option<Value> {
        let (_, view) = self.host().ok()?.ask("/debug/plugins").await.ok()?;
        let view: Vec<Value> = serde_json::from_str(&view).ok()?;
        view.into_iter().find(|one| one["name"] == plugin)?.get("serving").cloned()
    }

    /// Waits until every object has been decided since the host's start.
    ///
    /// # Errors
    /// If they are not, for ten minutes and 20 ms an object.
    pub(crate) async fn decided(&self) -> Result<()> {
        let all = (self.members.len() * self.sizes.objects_each) as f64;
        self.until("every object is decided", || async {
            let scrape = Scrape::of(self.host().ok()?).await.ok()?;
            (scrape.sum("windlass_plugin_calls_total", None) >= all).then_some(())
        })
        .await
    }

    /// Waits until every object has its child and nothing has been written for a while.
    ///
    /// # Errors
    /// If they have not, for ten minutes and 20 ms an object.
    pub(crate) async fn converged(&self) -> Result<()> {
        // Those that are read, the one that each namespace has, and a child of each object.
        let all = self.sizes.config_maps + 1 + self.members.len() * self.sizes.objects_each;
        let children = format!("{}?limit=1", config_maps_path());
        self.until("every object has its child", || async {
            let list = self.demo.get(&children).await?;
            let left = list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0) as usize;
            (left + list["items"].as_array()?.len() >= all).then_some(())
        })
        .await?;
        let mut written = -1.0;
        loop {
            let now = Scrape::of(self.host()?).await?.sum("windlass_writes_total", None);
            if now <= written {
                return Ok(());
            }
            written = now;
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    }

    /// Objects to change and where their effects are, of the members with these numbers.
    pub(crate) fn targets(&self, members: std::ops::Range<usize>) -> Vec<Target> {
        let each = self.sizes.objects_each;
        let of = |m: usize| {
            let collection = self.members[m].collection(NAMESPACE);
            (0..each).map(move |o| Target {
                path: format!("{collection}/{}", object_name(m, o)),
                effect: format!("{}-idle", object_name(m, o)),
                change: |text| json!({ "spec": { "text": text } }),
            })
        };
        // Plugin by plugin in turn, not all objects of one after the other.
        let mut columns: Vec<_> = members.map(|m| of(m).collect::<Vec<_>>()).collect();
        let mut targets = Vec::new();
        for _ in 0..each {
            targets.extend(columns.iter_mut().filter_map(Vec::pop));
        }
        targets
    }

    /// Watches the effects: by what the objects' text says.
    ///
    /// # Errors
    /// If the watch cannot be opened.
    pub(crate) async fn observe(&self) -> Result<Observer> {
        self.watch(|map| map["data"]["text"].as_str().unwrap_or_default().to_owned()).await
    }

    /// Watches the effects by whatever `mark` reads.
    ///
    /// # Errors
    /// If the watch cannot be opened.
    pub(crate) async fn watch(&self, mark: fn(&Value) -> String) -> Result<Observer> {
        Observer::start(self.client.clone(), config_maps_path(), mark).await
    }

    /// Posts everything, a few at once.
    async fn post_all(&self, objects: Vec<(String, Value)>) -> Result<()> {
        let posts = objects.iter().map(|(path, object)| post(&self.client, path, object));
        stream::iter(posts).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.map(drop)
    }

    /// Asks every now and then until there is an answer.
    ///
    /// # Errors
    /// If there is none for ten minutes and 20 ms an object, or the host has ended; with the end of its log.
    pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        mut ask: impl FnMut() -> F,
    ) -> Result<T> {
        let patience = PATIENCE + PER_OBJECT * (self.members.len() * self.sizes.objects_each) as u32;
        let began = Instant::now();
        while began.elapsed() < patience {
            if let Some(answer) = ask().await {
                return Ok(answer);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let log = self.host().map(Replica::log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        bail!("not within {patience:?}: {what}\n{}", lines[lines.len().saturating_sub(15)..].join("\n"))
    }
}

/// Where ConfigMaps are: those that are read, and the plugins' children.
fn config_maps_path() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/configmaps")
}

fn shared_name(number: usize) -> String {
    format!("shared-{number:04}")
}

/// One of the ConfigMaps that are read: about as large as those that people have.
fn shared(number: usize) -> Value {
    let text = format!("value {number}: {}", "a line of configuration\n".repeat(20));
    json!({ "metadata": { "name": shared_name(number) }, "data": { "value": number.to_string(), "text": text } })
}

fn object_name(member: usize, object: usize) -> String {
    format!("m{member:03}-o{object:02}")
}

/// Creates an object; its kind may not be served yet.
///
/// # Errors
/// If the API server refuses for a minute.
pub(crate) async fn post(client: &Client, path: &str, object: &Value) -> Result<()> {
    let began = Instant::now();
    loop {
        let request = http::Request::post(path).header("content-type", "application/json");
        let answer = client.request::<Value>(request.body(serde_json::to_vec(object)?)?).await;
        match answer {
            Ok(_) => return Ok(()),
            Err(_) if began.elapsed() < Duration::from_secs(60) => {
                tokio::time::sleep(Duration::from_millis(200)).await
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("create {} in {path}", object["metadata"]["name"]));
            }
        }
    }
}

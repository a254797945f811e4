//! What `up` and `bench` stand on: a control plane, three replicas as processes,
//! the CRD and the plugin, and questions to the API server.

use std::future::Future;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kubectl_windlass::Package;
use serde_json::Value;
use windlass_testbed::drill::production;
use windlass_testbed::nodes::{Cluster, Images, Settings, is_ready};
use windlass_testbed::{ControlPlane, Options, Replica, ReplicaOptions};

/// How long any step may take before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster with Windlass on it. Dropping it ends the replicas and, if it is ours, the control plane.
pub(crate) struct Demo {
    pub(crate) replicas: Vec<Replica>,
    pub(crate) control: Home,
    client: kube::Client,
    host_kubeconfig: PathBuf,
    directory: tempfile::TempDir,
    binary: PathBuf,
    flags: Vec<String>,
    base: String,
    ours: bool,
}

/// What the cluster is made of.
pub(crate) enum Home {
    /// A control plane alone; the replicas are processes.
    Plane(Box<ControlPlane>),
    /// With nodes; the replicas are pods.
    Nodes(Box<Cluster>),
}

impl Deref for Home {
    type Target = ControlPlane;

    fn deref(&self) -> &ControlPlane {
        match self {
            Self::Plane(plane) => plane,
            Self::Nodes(cluster) => cluster.control(),
        }
    }
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) name: String,
    pub(crate) term: u64,
}

impl Demo {
    /// Starts a control plane, or uses the one behind `kubeconfig`, and installs the base.
    pub(crate) async fn start(kubeconfig: Option<&Path>, binary: PathBuf, options: Options) -> Result<Self> {
        let ours = kubeconfig.is_none();
        let control = match kubeconfig {
            Some(path) => ControlPlane::external(path).await?,
            None => ControlPlane::start(options).await?,
        };
        Self::in_cluster(Home::Plane(Box::new(control)), binary, ours, &[]).await
    }

    /// The same on real nodes, which have these images; the host is deployed as pods.
    pub(crate) async fn on_nodes(nodes: u8, images: Images) -> Result<Self> {
        Self::on_nodes_with(nodes, images, &[]).await
    }

    /// The same with components of `deploy/` on top of the production overlay.
    pub(crate) async fn on_nodes_with(nodes: u8, images: Images, components: &[String]) -> Result<Self> {
        let cluster = Cluster::start(Settings { nodes, ..Settings::default() }, &images).await?;
        Self::in_cluster(Home::Nodes(Box::new(cluster)), PathBuf::new(), true, components).await
    }

    async fn in_cluster(control: Home, binary: PathBuf, ours: bool, components: &[String]) -> Result<Self> {
        let directory = tempfile::tempdir().context("make a temporary directory")?;
        let mut demo = Self {
            replicas: Vec::new(),
            client: control.client()?,
            host_kubeconfig: control.kubeconfig_path().to_owned(),
            base: String::new(),
            control,
            directory,
            binary,
            flags: Vec::new(),
            ours,
        };
        demo.install_base(components).await?;
        Ok(demo)
    }

    /// The nodes, if there are some.
    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        match &self.control {
            Home::Plane(_) => None,
            Home::Nodes(cluster) => Some(cluster),
        }
    }

    /// `deploy/overlays/production`; without the Deployment where the replicas are processes.
    async fn install_base(&mut self, components: &[String]) -> Result<()> {
        let rendered = production(&self.control, components).await?;
        self.base = if self.cluster().is_some() { rendered } else { without_pods(&rendered) };
        self.control.apply(&self.base).await?;
        if self.ours {
            let token = self.control.service_account_token("windlass-system", "windlass").await?;
            self.host_kubeconfig = self.control.kubeconfig_with_token("windlass", &token)?;
        }
        Ok(())
    }

    /// Makes the replicas that are started from now on use a fresh token: one lasts an hour.
    pub(crate) async fn renew_token(&self) -> Result<()> {
        if self.ours {
            let token = self.control.service_account_token("windlass-system", "windlass").await?;
            self.control.kubeconfig_with_token("windlass", &token)?;
        }
        Ok(())
    }

    /// Further flags for every replica that is started from now on.
    pub(crate) fn with_flags(mut self, flags: &[&str]) -> Self {
        self.flags = flags.iter().map(|f| (*f).to_owned()).collect();
        self
    }

    /// Starts one replica.
    pub(crate) fn replica(&self, name: &str) -> Result<Replica> {
        self.replica_with(name, &[])
    }

    /// The same with further flags.
    pub(crate) fn replica_with(&self, name: &str, flags: &[&str]) -> Result<Replica> {
        Replica::start(ReplicaOptions {
            binary: self.binary.clone(),
            name: name.to_owned(),
            namespace: "windlass-system".to_owned(),
            kubeconfig: self.host_kubeconfig.clone(),
            directory: self.directory.path().to_owned(),
            flags: self
                .flags
                .iter()
                .map(String::as_str)
                .chain(flags.iter().copied())
                .map(Into::into)
                .collect(),
            environment: Vec::new(),
        })
    }

    /// Starts `count` replicas and waits until one leads and all are ready.
    pub(crate) async fn replicas(&mut self, count: usize) -> Result<Leader> {
        for i in 0..count {
            let replica = self.replica(&format!("windlass-{i}"))?;
            self.replicas.push(replica);
        }
        for i in 0..self.replicas.len() {
            let began = Instant::now();
            while !self.replicas[i].is_ready().await {
                self.replicas[i].check_alive()?;
                if began.elapsed() > PATIENCE {
                    bail!(
                        "{} is not ready after {PATIENCE:?}:\n{}",
                        self.replicas[i].name(),
                        self.replicas[i].log()
                    );
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        self.until("a replica leads", || self.leader()).await
    }

    /// Waits until so many pods of the host are ready and one leads.
    pub(crate) async fn pods(&self, count: usize) -> Result<Leader> {
        self.until("the host's pods are ready and one leads", || async {
            let ready = self.host_pods().await.into_iter().filter(is_ready).count();
            (ready == count).then_some(())?;
            self.leader().await
        })
        .await
    }

    /// The host's pods that are not on their way out.
    pub(crate) async fn host_pods(&self) -> Vec<Value> {
        let path = "/api/v1/namespaces/windlass-system/pods?labelSelector=app.kubernetes.io/name%3Dwindlass";
        let list = self.get(path).await.unwrap_or_default();
        let all = list["items"].as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect()
    }

    /// Takes the replica of this name out, to end it.
    pub(crate) fn take(&mut self, name: &str) -> Result<Replica> {
        let at = self.replicas.iter().position(|r| r.name() == name).context("no such replica")?;
        Ok(self.replicas.swap_remove(at))
    }

    /// Installs (or swaps) a plugin: CRD, rights, component.
    pub(crate) async fn install(&self, package: &Package) -> Result<()> {
        // With force: the tour plays a careless person with the same ConfigMap.
        let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        let output = self.control.kubectl_with_input(&apply, &package.yaml()?).await?;
        anyhow::ensure!(
            output.status.success(),
            "kubectl apply: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// The leader that the Lease names.
    pub(crate) async fn leader(&self) -> Option<Leader> {
        let lease =
            self.get("/apis/coordination.k8s.io/v1/namespaces/windlass-system/leases/windlass").await?;
        let holder = lease["spec"]["holderIdentity"].as_str().filter(|h| !h.is_empty())?;
        let term = lease["metadata"]["annotations"]["windlass.dev/term"].as_str()?.parse().ok()?;
        Some(Leader { name: holder.split('_').next()?.to_owned(), term })
    }

    /// The replica that leads, by the Lease.
    pub(crate) async fn leading(&self) -> Result<(&Replica, Leader)> {
        let leader = self.until("a replica leads", || self.leader()).await?;
        let replica = self.replicas.iter().find(|r| r.name() == leader.name);
        Ok((replica.context("the leader is none of ours")?, leader))
    }

    /// An object, if it exists.
    pub(crate) async fn get(&self, path: &str) -> Option<Value> {
        let request = http::Request::get(path).body(Vec::new()).ok()?;
        self.client.request(request).await.ok()
    }

    /// A merge patch, as a person would make it.
    pub(crate) async fn patch(&self, path: &str, change: Value) -> Result<Value> {
        let request = http::Request::patch(format!("{path}?fieldManager=kubectl-edit"))
            .header("content-type", "application/merge-patch+json")
            .body(change.to_string().into_bytes())?;
        self.client.request(request).await.with_context(|| format!("patch {path}"))
    }

    /// Deletes an object.
    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        let request = http::Request::delete(path).body(Vec::new())?;
        self.client.request::<Value>(request).await.map(drop).with_context(|| format!("delete {path}"))
    }

    /// Runs kubectl as the administrator and gives back what it printed.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.control.kubectl(arguments).await?;
        if !output.status.success() {
            bail!("kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Asks every few milliseconds until there is an answer.
    pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        mut ask: impl FnMut() -> F,
    ) -> Result<T> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(answer) = ask().await {
                return Ok(answer);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let logs: Vec<_> =
            self.replicas.iter().map(|r| format!("--- {}\n{}", r.name(), last_lines(&r.log()))).collect();
        bail!("not within {PATIENCE:?}: {what}\n{}", logs.join("\n"))
    }

    /// Takes back what was installed, when the cluster is somebody else's.
    pub(crate) async fn clean_up(self, package: &Package) -> Result<()> {
        drop(self.replicas);
        if !self.ours {
            let all = format!("{}\n---\n{}", package.yaml()?, self.base);
            let delete = ["delete", "--ignore-not-found", "--wait=false", "-f", "-"];
            self.control.kubectl_with_input(&delete, &all).await?;
        }
        Ok(())
    }
}

/// Manifests without what is about pods: the replicas are processes here.
fn without_pods(rendered: &str) -> String {
    let kept =
        |doc: &&str| !doc.contains("\nkind: Deployment\n") && !doc.contains("\nkind: PodDisruptionBudget\n");
    rendered.split("\n---\n").filter(kept).collect::<Vec<_>>().join("\n---\n")
}

fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

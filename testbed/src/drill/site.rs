//! Where the drill takes place: a cluster with two nodes, the host deployed on it, one plugin, and a namespace for the load.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kube::Client;
use serde_json::{Value, json};

use super::crowd::Crowd;
use super::subject::{Subject, Work};
use super::{Plan, deploy, webapps};
use crate::audit::Mark;
use crate::checker::{Kind, Records, options};
use crate::control_plane::ControlPlane;
use crate::manifests::{copy, may_act_as};
use crate::nemesis::HOST;
use crate::nemesis::load::Wanted;
use crate::nemesis::stage::{CRD, RIGHTS, install};
use crate::nodes::{Cluster, Settings, is_ready};

/// How long it may take until the deployment is whole.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks.
const POLL: Duration = Duration::from_millis(50);

/// A replica of the host.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its name, the beginning of its identity in the Lease.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Where it runs; empty while nobody has decided.
    pub node: String,
    /// Its address; empty while it has none.
    pub address: String,
    /// Whether it is ready and not on its way out.
    pub ready: bool,
    /// How often its container was started again.
    pub restarts: u64,
    /// Why its container ended the last time: `OOMKilled`, `Error`, `Completed`; empty if it never did.
    pub last_end: String,
    /// Its container's image.
    pub image: String,
}

/// Whom the claim names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) pod: String,
    pub(super) term: u64,
}

/// All of it. The fields are dropped in this order.
pub struct Site {
    /// The namespace of the load's objects.
    pub(super) namespace: String,
    pub(super) records: Records,
    /// What all loads so far want.
    pub(super) wanted: Wanted,
    pub(super) subject: Subject,
    client: Client,
    deployed_ms: u64,
    other_image: Option<String>,
    crowd: Option<Crowd>,
    cluster: Cluster,
}

impl Site {
    /// Starts everything, and waits until three replicas are ready and one leads.
    ///
    /// # Errors
    /// If something of it does not come about; the message says what the pods say.
    pub async fn set(plan: &Plan) -> Result<Self> {
        let mut images = vec![plan.image.clone()];
        images.extend(plan.other.iter().map(|image| image.archive.clone()));
        let cluster = Cluster::start(Settings { nodes: 2, control: options() }, &images).await?;
        let control = cluster.control();
        let client = control.client()?;
        // From before anybody leads, or the first term is unknown.
        let crowd = plan.crowd.iter().flat_map(|crowd| crowd.kinds.iter().cloned());
        let kinds: Vec<_> = kinds(&plan.work).into_iter().chain(crowd).collect();
        let records = Records::begin(control, &kinds).await?;
        let (began, subject) = (Instant::now(), plan.subject.clone());
        if subject.is_host() {
            control.apply(&production(control, &subject.components).await?).await?;
        }
        let mut namespace = String::new();
        match &plan.work {
            Work::Widgets => {
                control.apply(CRD).await?;
                control.apply(RIGHTS).await?;
                control.apply(&may_act_as(HOST, "greeter")).await?;
                install(&client).await?;
                namespace = control.namespace("drill").await?;
            }
            Work::WebApps(within) => {
                control.apply(&subject.manifests).await?;
                served(control, &webapps::manifests(within)).await?;
            }
        }
        let mut site = Self {
            namespace,
            records,
            subject,
            wanted: Wanted::new(),
            client,
            deployed_ms: 0,
            other_image: plan.other.as_ref().map(|image| image.name.clone()),
            crowd: plan.crowd.clone(),
            cluster,
        };
        site.whole().await?;
        site.deployed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if matches!(plan.work, Work::Widgets) {
            site.collected().await?;
        }
        Ok(site)
    }

    /// Waits until the garbage collector follows the kind that is new here: it looks for such every 30 s, and what is deleted before that
    /// keeps its children for as long, which is nobody's delay but its own.
    async fn collected(&self) -> Result<()> {
        let widgets = format!("/apis/fixtures.windlass.dev/v1alpha1/namespaces/{}/widgets", self.namespace);
        let widget = json!({
            "apiVersion": "fixtures.windlass.dev/v1alpha1", "kind": "Widget",
            "metadata": { "name": "first" }, "spec": { "text": "first" },
        });
        let request = http::Request::post(&widgets).header("content-type", "application/json");
        self.client.request::<Value>(request.body(widget.to_string().into_bytes())?).await?;
        let child = format!("/api/v1/namespaces/{}/configmaps/first-greeting", self.namespace);
        self.until(async || self.get(&child).await.ok())
            .await
            .context("nothing was made for a first widget")?;
        let delete = http::Request::delete(format!("{widgets}/first")).body(Vec::new())?;
        self.client.request::<Value>(delete).await?;
        let gone = async || self.get(&child).await.is_err().then_some(());
        self.until(gone).await.context("what was made for a first widget is not collected")
    }

    /// From `kubectl apply` to three ready replicas of which one leads. Unit: milliseconds.
    pub fn deployed_ms(&self) -> u64 {
        self.deployed_ms
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Its control plane.
    pub fn control(&self) -> &ControlPlane {
        self.cluster.control()
    }

    /// The administrator's client.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// The replicas that there are.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        pods(&self.client, &self.subject).await
    }

    /// The replica that leads.
    ///
    /// # Errors
    /// If nobody does for two minutes.
    pub async fn leading(&self) -> Result<Pod> {
        let found = self
            .until(async || {
                let claim = leader(&self.client, &self.subject).await?;
                self.pods().await.ok()?.into_iter().find(|pod| pod.name == claim.pod)
            })
            .await;
        match found {
            Some(pod) => Ok(pod),
            None => bail!("nobody leads\n{}", self.story().await),
        }
    }

    /// Waits until another term has begun than this one, held by a pod that is there.
    pub(super) async fn successor(&self, of: &Claim) -> Result<()> {
        let next = self
            .until(async || {
                let claim = leader(&self.client, &self.subject).await.filter(|claim| claim.term > of.term)?;
                self.pods().await.ok()?.into_iter().find(|pod| pod.name == claim.pod)
            })
            .await;
        next.map(drop).with_context(|| format!("nobody took over from {}", of.pod))
    }

    pub(super) async fn claim(&self) -> Result<Claim> {
        leader(&self.client, &self.subject).await.context("nobody leads")
    }

    /// Waits until as many replicas as are wanted are ready, all of the version that is wanted, and one of them leads.
    pub(super) async fn whole(&self) -> Result<()> {
        let whole = self
            .until(async || {
                let deployment = self.get(&self.subject.deployment()).await.ok()?;
                let wanted = deployment["spec"]["replicas"].as_u64()?;
                let status = &deployment["status"];
                let current = status["observedGeneration"] == deployment["metadata"]["generation"];
                let all = status["updatedReplicas"] == wanted && status["replicas"] == wanted;
                let pods = self.pods().await.ok()?;
                let ready = pods.len() as u64 == wanted && pods.iter().all(|pod| pod.ready);
                let claim = leader(&self.client, &self.subject).await?;
                (current && all && ready && pods.iter().any(|pod| pod.name == claim.pod)).then_some(())
            })
            .await;
        match whole {
            // Who is new is known to them now.
            Some(()) => self.policies().await,
            None => bail!("not whole again within {PATIENCE:?}\n{}", self.story().await),
        }
    }

    /// Enforces the NetworkPolicies that came with the deployment, for the pods that there are now.
    pub(super) async fn policies(&self) -> Result<()> {
        if self.subject.components.iter().any(|component| component == "network-policy") {
            self.cluster.enforce_policies().await?;
        }
        Ok(())
    }

    /// What the replicas warn of although nothing has happened yet: an operator would look for what is wrong.
    pub(super) async fn warnings(&self) -> Result<Vec<String>> {
        let selector = format!("app.kubernetes.io/name={}", self.subject.name);
        let said = self
            .kubectl(&[
                "logs",
                "--namespace",
                &self.subject.namespace,
                "--selector",
                &selector,
                "--tail",
                "-1",
            ])
            .await?;
        // An API server that has just begun, with kinds that are new to it, is tried again for a while.
        const OF_THE_API_SERVER: [&str; 6] = [
            "windlass_watch",
            "windlass_lease",
            "windlass::lead",
            "windlass::role",
            "windlass::fence",
            "windlass::rights",
        ];
        let lines = said.lines().filter(|line| {
            line.contains(" WARN ")
                && !OF_THE_API_SERVER.iter().any(|target| line.contains(&format!(" {target}")))
        });
        Ok(lines.map(|line| format!("a fresh deployment warns: {line}")).collect())
    }

    /// Sees to it that both nodes have replicas: after a drain all are on one, and nobody moves a pod that runs.
    pub(super) async fn spread(&self) -> Result<()> {
        let pods = self.pods().await?;
        let leader = self.leading().await?;
        if pods.len() < 2 || pods.iter().any(|pod| pod.node != leader.node) {
            return Ok(());
        }
        let standby = pods.iter().find(|pod| pod.name != leader.name).context("a standby")?;
        self.kubectl(&["delete", "pod", &standby.name, "--namespace", &self.subject.namespace]).await?;
        self.whole().await
    }

    /// An object.
    pub(super) async fn get(&self, path: &str) -> Result<Value> {
        Ok(self.client.request(http::Request::get(path).body(Vec::new())?).await?)
    }

    /// What kubectl calls the Deployment.
    pub(super) fn workload(&self) -> String {
        format!("deployment/{}", self.subject.name)
    }

    /// A merge patch of an object.
    pub(super) async fn merge(&self, path: &str, change: &Value) -> Result<()> {
        self.patch(path, "application/merge-patch+json", change).await
    }

    /// A JSON patch of an object.
    pub(super) async fn json_patch(&self, path: &str, changes: &Value) -> Result<()> {
        self.patch(path, "application/json-patch+json", changes).await
    }

    async fn patch(&self, path: &str, kind: &str, change: &Value) -> Result<()> {
        let request = http::Request::patch(format!("{path}?fieldManager=kubectl-edit"))
            .header("content-type", kind)
            .body(change.to_string().into_bytes())?;
        self.client.request::<Value>(request).await.map(drop).with_context(|| format!("patch {path}"))
    }

    /// The ids of the tokens that a pod has written with.
    pub(super) fn credentials_of(&self, pod: &str) -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        self.control().audit()?.each(Mark::default(), |event| {
            let one = |what: &str| event.user.extra.get(what).and_then(|names| names.first());
            if one("authentication.kubernetes.io/pod-name").is_some_and(|name| name == pod) {
                found.extend(one("authentication.kubernetes.io/credential-id").cloned());
            }
        })?;
        Ok(found)
    }

    /// The name of the other version's image, if the plan has one.
    pub(super) fn other_image(&self) -> Option<&str> {
        self.other_image.as_deref()
    }

    /// Who is to come.
    pub(super) fn crowd(&self) -> Result<&Crowd> {
        self.crowd.as_ref().context("this plan has no crowd")
    }

    /// kubectl, as the administrator.
    ///
    /// # Errors
    /// What it says.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.control().kubectl(arguments).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {}: {}", arguments.join(" "), said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Asks until there is an answer or patience has run out.
    pub(super) async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        mut ask: impl FnMut() -> F,
    ) -> Option<T> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(answer) = ask().await {
                return Some(answer);
            }
            tokio::time::sleep(POLL).await;
        }
        None
    }

    /// What the pods say, for an error.
    async fn story(&self) -> String {
        let mut story = String::new();
        let (namespace, selector) =
            (&*self.subject.namespace, format!("app.kubernetes.io/name={}", self.subject.name));
        let logs = ["logs", "--namespace", namespace, "--selector", &selector, "--prefix", "--tail", "8"];
        let pods = ["get", "pods", "--namespace", namespace, "--output", "wide"];
        let events = ["get", "events", "--namespace", namespace, "--sort-by", ".lastTimestamp"];
        for arguments in [&pods[..], &events[..], &logs[..]] {
            let said = self.kubectl(arguments).await.unwrap_or_else(|error| error.to_string());
            let lines: Vec<_> = said.lines().collect();
            story.push_str(&lines[lines.len().saturating_sub(30)..].join("\n"));
            story.push('\n');
        }
        story
    }
}

/// What the plugins write.
fn kinds(work: &Work) -> Vec<Kind> {
    let mut kinds = vec![Kind::new("", "configmaps"), Kind::new("", "events").expiring()];
    match work {
        Work::Widgets => kinds.push(Kind::new("fixtures.windlass.dev", "widgets")),
        Work::WebApps(_) => kinds.extend([
            Kind::new("apps.windlass.dev", "webapps"),
            Kind::new("apps", "deployments"),
            Kind::new("", "services"),
            Kind::new("networking.k8s.io", "ingresses"),
            Kind::new("policy", "poddisruptionbudgets"),
        ]),
    }
    kinds
}

/// Applies objects of a kind that may have been served a moment ago only.
async fn served(control: &ControlPlane, manifests: &str) -> Result<()> {
    let began = Instant::now();
    loop {
        match control.apply(manifests).await {
            Err(error) if began.elapsed() > Duration::from_secs(30) => return Err(error),
            Err(_) => tokio::time::sleep(POLL).await,
            Ok(()) => return Ok(()),
        }
    }
}

/// `deploy/overlays/production` as kustomize renders it, with components on top.
///
/// # Errors
/// If kustomize refuses it; the message is its own.
pub async fn production(control: &ControlPlane, components: &[String]) -> Result<String> {
    let folder = tempfile::tempdir().context("no temporary directory")?;
    copy(&deploy(), &folder.path().join("deploy"))?;
    let components: Vec<_> = components.iter().map(|name| format!("../deploy/components/{name}")).collect();
    let text =
        format!("resources: [../deploy/overlays/production]\ncomponents: [{}]\n", components.join(", "));
    let upper = folder.path().join("upper");
    std::fs::create_dir(&upper)?;
    std::fs::write(upper.join("kustomization.yaml"), text)?;
    let output = control.kubectl(&["kustomize", &upper.display().to_string()]).await?;
    ensure!(output.status.success(), "kustomize: {}", String::from_utf8_lossy(&output.stderr).trim());
    String::from_utf8(output.stdout).context("kustomize writes UTF-8")
}

/// The replicas that there are.
pub(super) async fn pods(client: &Client, subject: &Subject) -> Result<Vec<Pod>> {
    let list: Value = client.request(http::Request::get(subject.pods()).body(Vec::new())?).await?;
    Ok(list["items"].as_array().into_iter().flatten().map(pod).collect())
}

impl Pod {
    /// What an object says.
    pub fn of(object: &Value) -> Self {
        pod(object)
    }
}

/// A number out of a file of a container's control group: `memory.usage_in_bytes`, or one line of many: `cpu.stat:throttled_time`.
///
/// # Errors
/// If the pod runs no such program, or the file does not say.
pub fn container_figure(
    cluster: &Cluster,
    pod: &Pod,
    program: &str,
    hierarchy: &str,
    file: &str,
) -> Result<u64> {
    let group = cluster.container_group(&pod.node, &pod.uid, program, hierarchy)?;
    let (name, line) = file.split_once(':').unwrap_or((file, ""));
    let text = std::fs::read_to_string(group.join(name)).with_context(|| format!("read {name}"))?;
    let found = text.lines().find_map(|said| {
        if line.is_empty() { Some(said) } else { said.strip_prefix(line)?.strip_prefix(' ') }
    });
    found.and_then(|number| number.trim().parse().ok()).with_context(|| format!("{file} says {text:?}"))
}

fn pod(object: &Value) -> Pod {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let container = &object["status"]["containerStatuses"][0];
    Pod {
        name: text(&object["metadata"]["name"]),
        uid: text(&object["metadata"]["uid"]),
        node: text(&object["spec"]["nodeName"]),
        address: text(&object["status"]["podIP"]),
        ready: is_ready(object) && object["metadata"]["deletionTimestamp"].is_null(),
        restarts: container["restartCount"].as_u64().unwrap_or(0),
        last_end: text(&container["lastState"]["terminated"]["reason"]),
        image: text(&object["spec"]["containers"][0]["image"]),
    }
}

/// Who leads: whom the Lease names, and the claim Role too where there is one.
pub(super) async fn leader(client: &Client, subject: &Subject) -> Option<Claim> {
    let get = async |path: String| -> Option<Value> {
        client.request(http::Request::get(path).body(Vec::new()).ok()?).await.ok()
    };
    let (namespace, name) = (&subject.namespace, &subject.lease);
    let lease = get(format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}")).await?;
    let holder = lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty())?;
    let pod = holder.split('_').next()?.to_owned();
    if !subject.claims {
        return Some(Claim { pod, term: lease["spec"]["leaseTransitions"].as_u64()? });
    }
    let role = get(format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles/windlass-claim"))
        .await?;
    let (identity, term) = role["rules"][0]["resourceNames"][0].as_str()?.rsplit_once('/')?;
    (holder == identity).then_some(())?;
    Some(Claim { pod, term: term.parse().ok()? })
}

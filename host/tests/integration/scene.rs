//! What a test stands on: a control plane, replicas of the host, plugins, and
//! questions to the API server that are asked until the answer is right.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use windlass_core::name::{LABEL_PLUGIN, PluginName};
use windlass_testbed::{
    AuditEvent, Clocks, ControlPlane, Mark, Options, Replica, ReplicaOptions, Writes, component, may_act_as,
    shared,
};

/// Namespace of the host, as `deploy/` has it.
pub(crate) const HOST: &str = "windlass-system";
/// The user as whom the host writes.
pub(crate) const HOST_USER: &str = "system:serviceaccount:windlass-system:windlass";
/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Rights for all fixtures at once, in the shape that `kubectl windlass package` writes for one.
const FIXTURE_RIGHTS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: windlass-fixtures
rules:
  - {apiGroups: [fixtures.windlass.dev], resources: [widgets], verbs: [get, patch]}
  - {apiGroups: [fixtures.windlass.dev], resources: [widgets/status], verbs: [patch]}
  - {apiGroups: [fixtures.windlass.dev], resources: [widgets/finalizers], verbs: [update]}
  - {apiGroups: [''], resources: [configmaps], verbs: [create, delete, get, patch]}
  - {apiGroups: [''], resources: [events], verbs: [create, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: windlass-fixtures
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: windlass-fixtures}
subjects:
  - {apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:serviceaccounts:windlass-system'}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: windlass-fixtures-watches
  labels: {windlass.dev/aggregate-to-host: 'true'}
rules:
  - {apiGroups: [fixtures.windlass.dev], resources: [widgets], verbs: [get, list, watch]}
  - {apiGroups: [''], resources: [configmaps], verbs: [get, list, watch]}
";

/// A place for one test.
pub(crate) struct Scene {
    cluster: Cluster,
    /// Namespace for the test's own objects.
    pub(crate) namespace: String,
    client: kube::Client,
    directory: PathBuf,
    kubeconfig: PathBuf,
    replicas: Mutex<Vec<Replica>>,
    /// Accounts of plugins as which hosts may act.
    acts_as: Mutex<BTreeSet<String>>,
    _alone: Option<MutexGuard<'static, ()>>,
}

enum Cluster {
    Shared(&'static ControlPlane),
    Own(Box<ControlPlane>),
}

impl Scene {
    /// A namespace on the control plane and host that all ordinary tests share. The
    /// host has the plugins `webapp`, `greeter`, `sibling`, `finalizes` and `orphans`.
    pub(crate) async fn shared(prefix: &str) -> Self {
        static HOST_PROCESS: OnceCell<Replica> = OnceCell::const_new();
        let control = tokio::task::spawn_blocking(|| shared().expect("the control plane starts"));
        let control = control.await.expect("it does not panic");
        let scene = Self::on(Cluster::Shared(control), prefix, None).await.expect("a scene");
        HOST_PROCESS
            .get_or_init(|| async {
                scene.install_base().await.expect("the base installs");
                for name in ["greeter", "sibling", "finalizes", "orphans"] {
                    scene.install_fixture(name).await;
                }
                scene.install_webapp().await;
                let replica = scene.replica("windlass-shared", &[]).expect("the host starts");
                wait(|| async { replica.is_ready().await.then_some(()) }).await.expect("the host is ready");
                replica
            })
            .await;
        scene
    }

    /// A control plane of the test's own with the base and the CRDs installed, and no replica yet.
    pub(crate) async fn fresh(prefix: &str) -> Self {
        Self::fresh_with(prefix, Options::default()).await
    }

    /// The same, of another kind.
    pub(crate) async fn fresh_with(prefix: &str, options: Options) -> Self {
        let alone = alone().await;
        let control = ControlPlane::start(options).await.expect("a control plane");
        let scene = Self::on(Cluster::Own(Box::new(control)), prefix, Some(alone)).await.expect("a scene");
        scene.install_base().await.expect("the base installs");
        scene
    }

    /// The same with `deploy/base` alone: no fixtures, and no rights of theirs.
    pub(crate) async fn bare(prefix: &str, options: Options) -> Self {
        let alone = alone().await;
        let control = ControlPlane::start(options).await.expect("a control plane");
        let scene = Self::on(Cluster::Own(Box::new(control)), prefix, Some(alone)).await.expect("a scene");
        scene.install_deploy().await.expect("the base installs");
        scene
    }

    async fn on(cluster: Cluster, prefix: &str, alone: Option<MutexGuard<'static, ()>>) -> Result<Self> {
        let control = cluster.control();
        let namespace = control.namespace(prefix).await?;
        let directory = control.directory()?.to_owned();
        Ok(Self {
            client: control.client()?,
            kubeconfig: directory.join("host.kubeconfig"),
            directory,
            namespace,
            cluster,
            replicas: Mutex::default(),
            acts_as: Mutex::default(),
            _alone: alone,
        })
    }

    /// The control plane.
    pub(crate) fn control(&self) -> &ControlPlane {
        self.cluster.control()
    }

    /// The base, and the fixtures' CRD and rights.
    async fn install_base(&self) -> Result<()> {
        self.install_deploy().await?;
        self.control().apply(&read("plugins/fixtures/crd.yaml")).await?;
        self.control().apply(FIXTURE_RIGHTS).await
    }

    /// `deploy/base` as kustomize renders it, without what needs a kubelet, and a token of the host's.
    async fn install_deploy(&self) -> Result<()> {
        let rendered = self.kubectl(&["kustomize", &tree("deploy/base").display().to_string()]).await?;
        let documents = rendered.split("\n---\n").filter(|doc| !doc.contains("\nkind: Deployment\n"));
        let base = documents.collect::<Vec<_>>().join("\n---\n");
        self.control().apply(&base).await?;
        let token = self.control().service_account_token(HOST, "windlass").await?;
        let made = self.control().kubeconfig_with_token("host", &token)?;
        std::fs::copy(made, &self.kubeconfig)
            .or_else(|e| if self.kubeconfig.exists() { Ok(0) } else { Err(e) })?;
        Ok(())
    }

    /// Runs kubectl as the administrator.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.control().kubectl(arguments).await?;
        ensure!(output.status.success(), "kubectl: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Installs the WebApp operator: CRD, rights, component.
    pub(crate) async fn install_webapp(&self) {
        self.control().apply(&read("plugins/webapp/crd.yaml")).await.expect("the CRD applies");
        self.control().apply(&read("plugins/webapp/rbac.yaml")).await.expect("the rights apply");
        self.install("webapp", &built("webapp", None).await).await;
    }

    /// Installs the fixture in `examples/<name>.rs` under its own name.
    pub(crate) async fn install_fixture(&self, name: &str) {
        self.install(name, &built("windlass-fixtures", Some(name)).await).await;
    }

    /// Writes (or swaps) the ConfigMap of a plugin.
    pub(crate) async fn install(&self, name: &str, wasm: &[u8]) {
        let wasm =
            base64::engine::general_purpose::STANDARD.encode(zstd::encode_all(wasm, 3).expect("memory"));
        let labels = json!({"windlass.dev/plugin": name});
        self.apply(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("{name}-plugin"), "namespace": HOST, "labels": labels},
            "binaryData": {"plugin.wasm.zst": wasm},
        }))
        .await;
    }

    /// Starts a replica with short lease durations; further flags win.
    pub(crate) fn replica(&self, name: &str, flags: &[&str]) -> Result<Replica> {
        self.replica_with(name, &self.kubeconfig, flags)
    }

    /// The same with a kubeconfig of its own, such as one that goes through a proxy.
    pub(crate) fn replica_with(&self, name: &str, kubeconfig: &Path, flags: &[&str]) -> Result<Replica> {
        self.replica_in(name, kubeconfig, flags, Vec::new())
    }

    /// The same with clocks of its own.
    pub(crate) fn replica_by(&self, name: &str, clocks: &Clocks) -> Result<Replica> {
        self.replica_in(name, &self.kubeconfig, &[], clocks.environment())
    }

    fn replica_in(
        &self,
        name: &str,
        kubeconfig: &Path,
        flags: &[&str],
        environment: Vec<(OsString, OsString)>,
    ) -> Result<Replica> {
        let mut all = vec!["--lease-duration=3s", "--renew-deadline=2s", "--retry-period=400ms"];
        all.extend(["--request-timeout=2s", "--log=info,windlass=debug"]);
        all.extend(flags);
        Replica::start(ReplicaOptions {
            binary: env!("CARGO_BIN_EXE_windlass").into(),
            name: name.to_owned(),
            namespace: HOST.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            directory: self.directory.clone(),
            flags: all.into_iter().map(Into::into).collect(),
            environment,
        })
    }

    /// Starts `count` replicas and waits until each is ready and one leads.
    pub(crate) async fn replicas(&self, count: usize, flags: &[&str]) {
        for i in 0..count {
            self.start(&format!("windlass-{i}"), flags).await;
        }
        self.ready().await;
        self.leader().await;
    }

    /// Waits until each replica that the scene holds is ready.
    pub(crate) async fn ready(&self) {
        self.until("every replica is ready", || async {
            let mut replicas = self.replicas.lock().await;
            for replica in replicas.iter_mut() {
                replica.check_alive().expect("no replica ends");
                if !replica.is_ready().await {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// Takes a replica out of the scene's hands.
    pub(crate) async fn take(&self, name: &str) -> Replica {
        let mut replicas = self.replicas.lock().await;
        let at = replicas.iter().position(|r| r.name() == name).expect("such a replica runs");
        replicas.swap_remove(at)
    }

    /// Starts a replica that the scene holds.
    pub(crate) async fn start(&self, name: &str, flags: &[&str]) {
        self.keep(self.replica(name, flags).expect("the host starts")).await;
    }

    /// Has the scene hold a replica.
    pub(crate) async fn keep(&self, replica: Replica) {
        self.replicas.lock().await.push(replica);
    }

    /// All replicas that the scene holds, for a look at each.
    pub(crate) async fn all(&self) -> MutexGuard<'_, Vec<Replica>> {
        self.replicas.lock().await
    }

    /// The name of the replica that holds the Lease now.
    pub(crate) async fn leader(&self) -> String {
        self.until("a replica leads", || async { self.holder().await }).await
    }

    /// The replica that the Lease names, if any.
    pub(crate) async fn holder(&self) -> Option<String> {
        let lease =
            self.get(&format!("/apis/coordination.k8s.io/v1/namespaces/{HOST}/leases/windlass")).await?;
        let holder = lease["spec"]["holderIdentity"].as_str().filter(|h| !h.is_empty())?;
        Some(holder.split('_').next().unwrap_or(holder).to_owned())
    }

    /// Server-side apply as a person would, with force. A plugin's ConfigMap comes with the right to act as its account.
    pub(crate) async fn apply(&self, object: Value) -> Value {
        let metadata = &object["metadata"];
        if let (Some(plugin), Some(host)) =
            (metadata["labels"][LABEL_PLUGIN].as_str(), metadata["namespace"].as_str())
        {
            self.act_as(host, plugin).await;
        }
        let name = object["metadata"]["name"].as_str().expect("a name");
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or(&self.namespace);
        let path = path(object["kind"].as_str().expect("a kind"), namespace, name);
        self.apply_at(&path, &object).await
    }

    /// The same for a cluster-scoped object of the collection at `collection`.
    pub(crate) async fn apply_cluster(&self, collection: &str, object: Value) -> Value {
        let name = object["metadata"]["name"].as_str().expect("a name");
        self.apply_at(&format!("{collection}/{name}"), &object).await
    }

    /// As [`apply`](Self::apply) for an object of a namespace, by somebody who can be refused.
    pub(crate) async fn try_apply(&self, object: &Value) -> kube::Result<Value> {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let (kind, metadata) = (text(&object["kind"]), &object["metadata"]);
        self.send_apply(&path(&kind, &text(&metadata["namespace"]), &text(&metadata["name"])), object).await
    }

    /// Lets the host in this namespace act as a plugin's account, as the plugin's package would.
    async fn act_as(&self, host: &str, plugin: &str) {
        let fresh = self.acts_as.lock().await.insert(format!("{host}/{plugin}"));
        if fresh && PluginName::try_new(plugin).is_ok() {
            self.control().apply(&may_act_as(host, plugin)).await.expect("the Role applies");
        }
    }

    async fn apply_at(&self, path: &str, object: &Value) -> Value {
        self.send_apply(path, object).await.unwrap_or_else(|e| panic!("apply {path}: {e}"))
    }

    async fn send_apply(&self, path: &str, object: &Value) -> kube::Result<Value> {
        let uri = format!("{path}?fieldManager=tester&force=true");
        let request = http::Request::patch(uri).header("content-type", "application/apply-patch+yaml");
        self.send(request.body(object.to_string().into_bytes()).expect("a request")).await
    }

    /// Creates or changes a WebApp in the test's namespace.
    pub(crate) async fn webapp(&self, name: &str, spec: Value) -> Value {
        let mut whole = json!({"image": "registry.example/app:1", "replicas": 1});
        whole.as_object_mut().expect("object").extend(spec.as_object().expect("object").clone());
        self.apply(json!({"apiVersion": "apps.windlass.dev/v1alpha1", "kind": "WebApp",
            "metadata": {"name": name, "namespace": self.namespace}, "spec": whole}))
            .await
    }

    /// Creates or changes a Widget in the test's namespace.
    pub(crate) async fn widget(&self, name: &str, spec: Value) -> Value {
        self.apply(json!({"apiVersion": "fixtures.windlass.dev/v1alpha1", "kind": "Widget",
            "metadata": {"name": name, "namespace": self.namespace}, "spec": spec}))
            .await
    }

    /// A merge patch by a person, without force or preconditions.
    pub(crate) async fn patch(&self, path: &str, change: Value) -> Value {
        let uri = format!("{path}?fieldManager=somebody");
        let request = http::Request::patch(uri).header("content-type", "application/merge-patch+json");
        let request = request.body(change.to_string().into_bytes()).expect("a request");
        self.send(request).await.unwrap_or_else(|e| panic!("patch {path}: {e}"))
    }

    /// Deletes an object in the background.
    pub(crate) async fn delete(&self, path: &str) {
        self.try_delete(path).await.unwrap_or_else(|e| panic!("delete {path}: {e}"));
    }

    /// The same by somebody who can be refused.
    pub(crate) async fn try_delete(&self, path: &str) -> kube::Result<Value> {
        self.send(http::Request::delete(path).body(Vec::new()).expect("a request")).await
    }

    /// The same for an object of this uid and no other.
    pub(crate) async fn try_delete_only(&self, path: &str, uid: &Value) -> kube::Result<Value> {
        let body = json!({"preconditions": {"uid": uid}}).to_string().into_bytes();
        let request = http::Request::delete(path).header("content-type", "application/json");
        self.send(request.body(body).expect("a request")).await
    }

    /// An object, if it exists.
    pub(crate) async fn get(&self, path: &str) -> Option<Value> {
        self.send(http::Request::get(path).body(Vec::new()).expect("a request")).await.ok()
    }

    /// An object of any namespace, if it exists.
    pub(crate) async fn get_in(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        self.get(&path(kind, namespace, name)).await
    }

    /// An object of the test's own namespace, if it exists.
    pub(crate) async fn own(&self, kind: &str, name: &str) -> Option<Value> {
        self.get(&path(kind, &self.namespace, name)).await
    }

    /// Path of an object in the test's own namespace.
    pub(crate) fn path(&self, kind: &str, name: &str) -> String {
        path(kind, &self.namespace, name)
    }

    /// The items of a collection.
    pub(crate) async fn list(&self, kind: &str, query: &str) -> Vec<Value> {
        let collection = path(kind, &self.namespace, "");
        let list = self.get(&format!("{}?{query}", collection.trim_end_matches('/'))).await;
        list.and_then(|l| l["items"].as_array().cloned()).unwrap_or_default()
    }

    /// Waits for an Event on an object of the test's namespace whose message has `text`.
    pub(crate) async fn event(&self, object: &str, reason: &str, text: &str) -> Value {
        self.until(&format!("an Event {reason} on {object} says {text:?}"), || async {
            let events = self.list("Event", "").await;
            events.into_iter().find(|e| {
                e["involvedObject"]["name"] == object
                    && e["reason"] == reason
                    && e["message"].as_str().is_some_and(|m| m.contains(text))
            })
        })
        .await
    }

    async fn send(&self, request: http::Request<Vec<u8>>) -> kube::Result<Value> {
        self.client.request(request).await
    }

    /// Asks until there is an answer; a test that waits in vain shows the ends of the replicas' logs.
    pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        ask: impl FnMut() -> F,
    ) -> T {
        match wait(ask).await {
            Some(answer) => answer,
            None => panic!("not within {PATIENCE:?}: {what}\n{}", self.logs()),
        }
    }

    /// The ends of all logs.
    fn logs(&self) -> String {
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let logs = entries.map(|e| e.path()).filter(|p| {
            p.extension().is_some_and(|e| e == "log")
                && p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("windlass"))
        });
        logs.map(|path| {
            let text = std::fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<_> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(30)..].join("\n");
            format!("--- {}\n{tail}\n", path.display())
        })
        .collect()
    }

    /// Where the audit log stands now.
    pub(crate) fn mark(&self) -> Mark {
        self.control().audit().and_then(|audit| audit.mark()).expect("an audit log")
    }

    /// The host's own writes since `mark`, other than the election's: Lease, claim Role, label of its pod.
    pub(crate) fn writes_since(&self, mark: Mark) -> Vec<AuditEvent> {
        let writes = self.control().audit().and_then(|a| a.writes(mark, &Writes::new().by(HOST_USER)));
        let mut writes = writes.expect("an audit log");
        let of_the_election = ["leases", "roles", "pods"];
        writes.retain(|w| {
            w.object_ref.as_ref().is_none_or(|object| !of_the_election.contains(&&*object.resource))
        });
        writes
    }

    /// Waits until the host has written nothing but its Lease for a second.
    pub(crate) async fn silence(&self) {
        self.until("the host falls silent", || async {
            let mark = self.mark();
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.writes_since(mark).is_empty().then_some(())
        })
        .await;
    }
}

impl Cluster {
    fn control(&self) -> &ControlPlane {
        match self {
            Cluster::Shared(control) => control,
            Cluster::Own(control) => control,
        }
    }
}

/// Waits until no other test has a control plane of its own, and keeps it that way.
pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    ONE_AT_A_TIME.lock().await
}

/// `ordinary`, or `long` when `cargo xtask test --full` asks for what takes longer.
pub(crate) fn count(ordinary: usize, long: usize) -> usize {
    if std::env::var_os("WINDLASS_TEST_FULL").is_some() { long } else { ordinary }
}

/// Asks every 20 ms until there is an answer or patience has run out.
async fn wait<T, F: Future<Output = Option<T>>>(mut ask: impl FnMut() -> F) -> Option<T> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if let Some(answer) = ask().await {
            return Some(answer);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

/// The API path of an object of one of the kinds that tests look at.
pub(crate) fn path(kind: &str, namespace: &str, name: &str) -> String {
    let (root, plural) = match kind {
        "ConfigMap" => ("/api/v1", "configmaps"),
        "Service" => ("/api/v1", "services"),
        "Pod" => ("/api/v1", "pods"),
        "Event" => ("/api/v1", "events"),
        "Deployment" => ("/apis/apps/v1", "deployments"),
        "Ingress" => ("/apis/networking.k8s.io/v1", "ingresses"),
        "LimitRange" => ("/api/v1", "limitranges"),
        "NetworkPolicy" => ("/apis/networking.k8s.io/v1", "networkpolicies"),
        "ResourceQuota" => ("/api/v1", "resourcequotas"),
        "PodDisruptionBudget" => ("/apis/policy/v1", "poddisruptionbudgets"),
        "WebApp" => ("/apis/apps.windlass.dev/v1alpha1", "webapps"),
        "Widget" => ("/apis/fixtures.windlass.dev/v1alpha1", "widgets"),
        other => panic!("no path for {other}"),
    };
    format!("{root}/namespaces/{namespace}/{plural}/{name}")
}

/// The status of a condition.
pub(crate) fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|c| c["type"] == name)?["status"].as_str()
}

/// The bytes of a component that is built for this test run.
pub(crate) async fn built(package: &'static str, example: Option<&str>) -> Vec<u8> {
    let example = example.map(str::to_owned);
    let path = tokio::task::spawn_blocking(move || component(package, example.as_deref()));
    let path = path.await.expect("it does not panic").expect("the component builds");
    std::fs::read(&path).with_context(|| path.display().to_string()).expect("it is there")
}

/// A file of the tree.
pub(crate) fn read(file: &str) -> String {
    std::fs::read_to_string(tree(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// Where a file of the tree is.
pub(crate) fn tree(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)
}

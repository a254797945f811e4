//! What storm and latency stand on: a fresh control plane for whoever has its turn, WebApps that are the same for everybody,
//! and the requests that any operator has to make for them, ready to be sent.
//!
//! Controllers and scheduler are stopped once the base is installed: what they would do with the Deployments would load the API
//! server with work that is nobody's here. Services are made headless by a mutating policy, for floors and contenders alike:
//! cluster IPs are handed out so slowly that nothing else would be measured.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::Client;
use kube::client::Body;
use kubectl_windlass::Package;
use serde_json::{Value, json};
use windlass_testbed::{Mark, Options, Replica, ReplicaOptions, Server, Stop, User, Writes};

use super::failover::Contender;
use super::proc::cpu;
use crate::demo::Demo;

/// The group of the peers' users, which may do everything: what a peer is allowed is not what is measured.
const PEERS: &str = "windlass-bench:peers";
/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// Objects that the harness makes at once.
const AT_ONCE: usize = 16;
/// The claim under which prepared requests go through the fence.
const CLAIM: &str = "bench/1";

/// Writes without bodies: enough to count them.
const AUDIT_POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: Metadata, verbs: [create, update, patch, delete]}
  - {level: None}
";

const INSTALLED: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: bench-peers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'windlass-bench:peers'}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: bench-headless}
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints:
    resourceRules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [services]}]
  mutations:
    - patchType: ApplyConfiguration
      applyConfiguration: {expression: 'Object{spec: Object.spec{clusterIP: \"None\"}}'}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: bench-headless}
spec: {policyName: bench-headless}
";

/// A control plane of a turn's own.
pub(crate) struct Rig {
    pub(crate) demo: Demo,
    binaries: BTreeMap<Contender, PathBuf>,
    logs: tempfile::TempDir,
}

/// Where the WebApps of a namespace are.
pub(crate) fn apps(namespace: &str) -> String {
    format!("/apis/apps.windlass.dev/v1alpha1/namespaces/{namespace}/webapps")
}

/// Where its ConfigMaps are.
pub(crate) fn config_maps(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps")
}

/// Where its Ingresses are.
pub(crate) fn ingresses(namespace: &str) -> String {
    format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses")
}

impl Rig {
    /// Starts one. `package` is the plugin; peers only need its CRD.
    pub(crate) async fn start(binaries: &BTreeMap<Contender, PathBuf>, package: &Package) -> Result<Self> {
        let options = Options {
            users: vec![User::new("peer-0").in_group(PEERS)],
            // A figure without etcd's fsync would flatter everybody.
            unsafe_no_fsync: false,
            audit_policy: Some(AUDIT_POLICY.to_owned()),
            kubelet: None,
            ..Options::default()
        };
        let ours = binaries.get(&Contender::Ours).cloned().unwrap_or_default();
        let demo = Demo::start(None, ours, options).await?.with_flags(&["--log=warn"]);
        demo.install(package).await?;
        demo.control.apply(INSTALLED).await.context("rights and the policy that makes Services headless")?;
        let logs = tempfile::tempdir().context("make a temporary directory")?;
        let rig = Self { demo, binaries: binaries.clone(), logs };
        rig.headless().await?;
        rig.demo.control.stop(Server::ControllerManager, Stop::Kill).await?;
        Ok(rig)
    }

    /// Waits until the policy is heard of.
    async fn headless(&self) -> Result<()> {
        let client = self.client()?;
        let services = "/api/v1/namespaces/default/services";
        let began = Instant::now();
        loop {
            let body = json!({"metadata": {"name": "bench-probe"}, "spec": {"ports": [{"port": 80}]}});
            let made: Value =
                client.request(write(http::Method::POST, services, "application/json", &body)?).await?;
            let delete = http::Request::delete(format!("{services}/bench-probe")).body(Vec::new())?;
            client.request::<Value>(delete).await?;
            if made["spec"]["clusterIP"] == "None" {
                return Ok(());
            }
            ensure!(began.elapsed() < PATIENCE, "Services do not become headless");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A client that says at once what the server says.
    pub(crate) fn client(&self) -> Result<Client> {
        let mut config = self.demo.control.config()?;
        config.default_retry = false;
        Ok(Client::try_from(config)?)
    }

    /// Makes a namespace.
    pub(crate) async fn namespace(&self, name: &str) -> Result<()> {
        let body = json!({"metadata": {"name": name}});
        self.client()?
            .request::<Value>(write(http::Method::POST, "/api/v1/namespaces", "application/json", &body)?)
            .await?;
        Ok(())
    }

    /// Makes `count` WebApps, and gives them back as they are stored. None has pods.
    pub(crate) async fn create_apps(&self, namespace: &str, count: usize, host: bool) -> Result<Vec<Value>> {
        let client = self.client()?;
        let made = stream::iter((0..count).map(|number| {
            let mut spec = json!({
                "image": "nginxinc/nginx-unprivileged:1.29-alpine", "replicas": 0, "port": 8080,
                "config": {"GREETING": "Hello"},
                "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}},
            });
            if host {
                spec["host"] = "c0.example.com".into();
            }
            let body = json!({"apiVersion": "apps.windlass.dev/v1alpha1", "kind": "WebApp",
                "metadata": {"name": format!("app-{number:05}"), "namespace": namespace}, "spec": spec});
            let (client, path) = (client.clone(), apps(namespace));
            async move {
                let request = write(http::Method::POST, &path, "application/json", &body)?;
                client.request::<Value>(request).await.context("create a WebApp")
            }
        }));
        made.buffered(AT_ONCE).try_collect().await
    }

    /// Starts one replica of a contender, and waits until it is ready and leads.
    pub(crate) async fn contender(&self, contender: Contender, namespace: &str) -> Result<Replica> {
        self.contender_with(contender, namespace, &[]).await
    }

    /// The same with further flags.
    pub(crate) async fn contender_with(
        &self,
        contender: Contender,
        namespace: &str,
        more: &[&str],
    ) -> Result<Replica> {
        let replica = if contender.is_ours() {
            self.demo.replica_with("windlass-0", more)?
        } else {
            let mut flags = vec!["--leader-elect=true".into()];
            flags.extend(contender.is_tuned().then(|| "--tuned=true".into()));
            flags.extend(more.iter().map(Into::into));
            Replica::start(ReplicaOptions {
                binary: self.binaries.get(&contender).context("it was built")?.clone(),
                kubeconfig: self.demo.control.kubeconfig_for("peer-0")?,
                name: "peer-0".to_owned(),
                namespace: namespace.to_owned(),
                directory: self.logs.path().to_owned(),
                flags,
                environment: Vec::new(),
            })?
        };
        let lease_namespace = if contender.is_ours() { "windlass-system" } else { namespace };
        let lease =
            format!("/apis/coordination.k8s.io/v1/namespaces/{lease_namespace}/leases/{}", contender.lease());
        let began = Instant::now();
        loop {
            let holder =
                self.demo.get(&lease).await.and_then(|found| {
                    found["spec"]["holderIdentity"].as_str().map(|holder| !holder.is_empty())
                });
            if holder == Some(true) && replica.is_ready().await {
                return Ok(replica);
            }
            if began.elapsed() > PATIENCE {
                bail!("{} does not lead:\n{}", contender.title(), replica.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Writes to the children of a namespace and to its WebApps' status since `mark`, accepted or not.
    pub(crate) fn writes(&self, mark: Mark, namespace: &str) -> Result<usize> {
        let writes = self.demo.control.audit()?.writes(mark, &Writes::new().within(namespace))?;
        let counts = |resource: &str, subresource: &str| match resource {
            "configmaps" | "services" | "deployments" | "ingresses" | "poddisruptionbudgets" => true,
            "webapps" => subresource == "status",
            _ => false,
        };
        let of_operators = writes.iter().filter(|write| {
            write.object_ref.as_ref().is_some_and(|object| counts(&object.resource, &object.subresource))
        });
        Ok(of_operators.count())
    }

    /// Makes prepared requests with the fence's headers possible: there is a current claim, and it is the harness's.
    pub(crate) async fn claim(&self) -> Result<()> {
        let role = json!({
            "metadata": {"name": "windlass-claim", "namespace": "windlass-system"},
            "rules": [{"apiGroups": ["windlass.dev"], "resources": ["claims"], "verbs": ["write"],
                "resourceNames": [CLAIM]}],
        });
        let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/windlass-system/roles";
        self.client()?
            .request::<Value>(write(http::Method::POST, roles, "application/json", &role)?)
            .await
            .context("make the claim Role")?;
        // The API server hears of it within milliseconds; 18 at most were seen.
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(())
    }
}

/// One request that is ready to be sent.
#[derive(Clone)]
pub(crate) struct Prepared {
    path: String,
    body: Vec<u8>,
}

impl Prepared {
    /// A server-side apply as the host sends it.
    pub(crate) fn apply(path: &str, body: &Value) -> Self {
        let query = "force=true&fieldValidation=Warn&fieldManager=windlass%2Fwebapp&timeout=5000ms";
        Self { path: format!("{path}?{query}"), body: body.to_string().into_bytes() }
    }

    /// Sends it; `fenced` with impersonation and a claim, as the host does.
    ///
    /// # Errors
    /// If it is not accepted.
    pub(crate) async fn send(self, client: &Client, fenced: bool) -> Result<()> {
        let mut request = http::Request::patch(&self.path)
            .header("content-type", "application/apply-patch+yaml")
            .header("accept", "application/json");
        if fenced {
            request = request
                .header("impersonate-user", "system:serviceaccount:windlass-system:plugin-webapp")
                .header("impersonate-extra-windlass.dev%2fclaim", CLAIM)
                .header("impersonate-extra-windlass.dev%2fplugin", "webapp@bench");
        }
        let response = client.send(request.body(Body::from(self.body))?).await?;
        let code = response.status();
        let body = http_body(response).await?;
        ensure!(code.is_success(), "{} {}: {code} {}", "PATCH", self.path, String::from_utf8_lossy(&body));
        Ok(())
    }
}

async fn http_body(response: http::Response<Body>) -> Result<Vec<u8>> {
    Ok(response.into_body().collect_bytes().await?.to_vec())
}

/// The four requests that every operator has to make for a WebApp: three children, then the status. The bodies are those of
/// the plugin itself, with the host's marks on them.
///
/// # Errors
/// If the plugin does not decide.
pub(crate) fn requests_for(app: &Value) -> Result<Vec<Prepared>> {
    let meta = &app["metadata"];
    let (name, namespace) = (text(&meta["name"]), text(&meta["namespace"]));
    let snapshot = windlass::Snapshot::<webapp::WebApp>::new(app.clone(), Vec::new(), None);
    let snapshot = snapshot.map_err(|fault| anyhow::anyhow!("{fault}"))?;
    let decided = webapp::reconcile(&snapshot.with_time("2026-01-01T00:00:00Z"), &windlass::Cache::fixed());
    let decided = decided.map_err(|fault| anyhow::anyhow!("{fault}"))?;
    let mut requests = Vec::new();
    for child in decided.children {
        let mut body = child.into_value();
        let plural = format!("{}s", text(&body["kind"]).to_lowercase().replace("ingress", "ingresse"));
        let root = match text(&body["apiVersion"]) {
            "v1" => "/api/v1".to_owned(),
            other => format!("/apis/{other}"),
        };
        let marks = &mut body["metadata"];
        marks["namespace"] = namespace.into();
        marks["resourceVersion"] = "1".into();
        marks["labels"]["windlass.dev/owned-by"] = "webapp".into();
        marks["labels"]["windlass.dev/host"] = "windlass-system".into();
        marks["annotations"]["windlass.dev/primary"] = format!("{namespace}/{name}").into();
        marks["annotations"]["windlass.dev/applied"] = "0123456789abcdef".into();
        marks["ownerReferences"] = json!([{"apiVersion": "apps.windlass.dev/v1alpha1", "kind": "WebApp",
            "name": name, "uid": meta["uid"], "controller": true, "blockOwnerDeletion": true}]);
        requests.push(Prepared::apply(&format!("{root}/namespaces/{namespace}/{plural}/{name}"), &body));
    }
    let status = json!({"apiVersion": "apps.windlass.dev/v1alpha1", "kind": "WebApp",
        "metadata": {"name": name, "namespace": namespace, "uid": meta["uid"]}, "status": decided.status});
    requests.push(Prepared::apply(&format!("{}/{name}/status", apps(namespace)), &status));
    Ok(requests)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A request with a body.
///
/// # Errors
/// If the path is none.
pub(crate) fn write(
    method: http::Method,
    path: &str,
    content: &str,
    body: &Value,
) -> Result<http::Request<Vec<u8>>> {
    let request = http::Request::builder().method(method).uri(path).header("content-type", content);
    Ok(request.body(body.to_string().into_bytes())?)
}

/// CPU time of a process and of the processes that it has started and that still run.
///
/// # Errors
/// If it has ended.
pub(crate) fn cpu_of_all(pid: u32) -> Result<Duration> {
    let mut sum = cpu(pid)?;
    for entry in std::fs::read_dir("/proc").context("read /proc")?.flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{child}/stat")) else { continue };
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if parent == Some(pid) {
            sum += cpu_of_all(child).unwrap_or_default();
        }
    }
    Ok(sum)
}

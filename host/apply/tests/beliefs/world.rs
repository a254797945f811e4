//! A namespace on the shared control plane, with a primary kind, a plugin's account
//! and a writer that leads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::Request;
use kube::Client;
use serde_json::{Value, json};
use windlass_apply::{Config, Writer};
use windlass_core::claim::{BootClock, BootTime, Claim, Gate, Term};
use windlass_core::decision::{Decision, Verdict};
use windlass_core::guests::LoadId;
use windlass_core::key::Key;
use windlass_core::kind::{Gvk, Kind};
use windlass_core::manifest::{ChildRule, Manifest, Unwanted};
use windlass_core::memory::Memory;
use windlass_core::name::{Digest, PluginName};
use windlass_core::object::Object;
use windlass_core::plan::{Inputs, Plan, Policy, plan, prepare};
use windlass_core::ports::{Applied, Serving};
use windlass_testbed::{ControlPlane, shared};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const MANAGER: &str = "windlass/webapp";

const CRD: &str = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: { name: webapps.apply.windlass.dev }
spec:
  group: apply.windlass.dev
  scope: Namespaced
  names: { kind: WebApp, plural: webapps, singular: webapp }
  versions:
  - name: v1
    served: true
    storage: true
    subresources: { status: {} }
    schema: { openAPIV3Schema: { type: object, x-kubernetes-preserve-unknown-fields: true } }
";

/// An answer: HTTP status and body.
pub(crate) type Answer = (u16, Value);

pub(crate) struct World {
    pub(crate) plane: &'static ControlPlane,
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) writer: Writer,
    pub(crate) gate: Arc<Gate>,
    pub(crate) claim: Claim,
    pub(crate) memory: Memory,
    serving: Serving,
}

struct Boot(Instant);

impl BootClock for Boot {
    fn now(&self) -> BootTime {
        BootTime(0).plus(self.0.elapsed())
    }
}

pub(crate) fn gvk(text: &str) -> Gvk {
    text.parse().expect("a kind")
}

fn kind(text: &str, plural: &str) -> Kind {
    Kind { gvk: gvk(text), plural: plural.into(), namespaced: true, has_status: true }
}

impl World {
    /// With a plugin that may do everything in its namespace.
    pub(crate) async fn new(prefix: &str) -> Result<Self> {
        let world = Self::without_rights(prefix).await?;
        let namespace = &world.namespace;
        world
            .plane
            .apply(&format!(
                "apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{ name: webapp, namespace: {namespace} }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin }}
subjects: [{{ kind: ServiceAccount, name: plugin-webapp, namespace: {namespace} }}]"
            ))
            .await?;
        let account = format!("--as=system:serviceaccount:{namespace}:plugin-webapp");
        let began = Instant::now();
        while !world
            .plane
            .kubectl(&["auth", "can-i", "create", "events", "-n", namespace, &account])
            .await?
            .status
            .success()
        {
            ensure!(began.elapsed() < PATIENCE, "the binding has no effect");
        }
        Ok(world)
    }

    /// With a plugin that nobody has granted anything.
    pub(crate) async fn without_rights(prefix: &str) -> Result<Self> {
        let plane = shared()?;
        plane.apply(CRD).await?;
        let wait = ["wait", "--for=condition=Established", "--timeout=60s", "crd/webapps.apply.windlass.dev"];
        ensure!(plane.kubectl(&wait).await?.status.success(), "the primary's kind is not served");
        let namespace = plane.namespace(prefix).await?;
        let mut config = plane.config()?;
        config.default_retry = false;
        let client = Client::try_from(config)?;
        let claim = Claim {
            holder: "host-0".into(),
            term: Term(3),
            ends: BootTime(0).plus(Duration::from_secs(600)),
        };
        let gate = Gate::new();
        gate.open(claim.clone(), BootTime(0));
        let clock = Arc::new(Boot(Instant::now()));
        let writer = Writer::new(client.clone(), gate.clone(), clock, Config::new(&*namespace, "host-0"));
        let rule = |text, unwanted| ChildRule { kind: gvk(text), unwanted };
        let manifest = Manifest {
            name: PluginName::try_new("webapp")?,
            version: "1.0.0".to_owned(),
            primary: gvk("apply.windlass.dev/v1/WebApp"),
            children: vec![
                rule("v1/ConfigMap", Unwanted::Delete),
                rule("apps/v1/Deployment", Unwanted::Orphan),
            ],
            reads: Vec::new(),
            selects: windlass_core::scope::Scope::default(),
            strict: true,
            finalizes: true,
        };
        let serving = Serving {
            manifest: Arc::new(manifest),
            digest: Digest::of(b"x"),
            load: LoadId(1),
            settings: None,
            children_max: 100,
        };
        Ok(Self { plane, client, namespace, writer, gate, claim, memory: Memory::default(), serving })
    }

    /// The writer of another replica that leads.
    pub(crate) fn writer_of(&self, identity: &str) -> Result<Writer> {
        let clock = Arc::new(Boot(Instant::now()));
        let config = Config::new(&*self.namespace, identity);
        Ok(Writer::new(self.client.clone(), self.gate.clone(), clock, config))
    }

    /// The same writer through another connection, such as the host's own account's.
    pub(crate) fn writer_with(&self, client: Client) -> Writer {
        let clock = Arc::new(Boot(Instant::now()));
        Writer::new(client, self.gate.clone(), clock, Config::new(&*self.namespace, "host-0"))
    }

    pub(crate) fn key(&self) -> Key {
        Key::new(self.serving.manifest.name.clone(), &*self.namespace, "a")
    }

    pub(crate) fn path(&self, group: &str, plural: &str, name: &str) -> String {
        format!("{group}/namespaces/{}/{plural}/{name}", self.namespace)
    }

    pub(crate) fn config_map_path(&self, name: &str) -> String {
        self.path("/api/v1", "configmaps", name)
    }

    pub(crate) fn webapp_path(&self) -> String {
        self.path("/apis/apply.windlass.dev/v1", "webapps", "a")
    }

    /// Makes the primary and reads it.
    pub(crate) async fn primary(&self) -> Result<()> {
        let manifest = format!(
            "apiVersion: apply.windlass.dev/v1\nkind: WebApp\nmetadata: {{ name: a, namespace: {} }}\nspec: {{}}",
            self.namespace
        );
        self.plane.apply(&manifest).await
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> Result<Answer> {
        let (code, text) = self.send_for("application/json", method, path, content_type, body).await?;
        Ok((code, serde_json::from_str(&text).context("a JSON answer")?))
    }

    /// As [`send`](Self::send), asks for `accept`; the answer as it came.
    async fn send_for(
        &self,
        accept: &str,
        method: &str,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> Result<(u16, String)> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("accept", accept)
            .header("content-type", content_type)
            .body(kube::client::Body::from(serde_json::to_vec(body)?))?;
        let response = self.client.send(request).await?;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect_bytes().await?;
        Ok((code, String::from_utf8(bytes.into()).context("text")?))
    }

    pub(crate) async fn apply(&self, path: &str, body: &Value) -> Result<Answer> {
        let path = format!("{path}?fieldManager={}&force=true", MANAGER.replace('/', "%2F"));
        self.send("PATCH", &path, "application/apply-patch+yaml", body).await
    }

    /// The same; what is answered is the metadata, byte for byte.
    pub(crate) async fn apply_for_metadata(&self, path: &str, body: &Value) -> Result<(u16, String)> {
        let path = format!("{path}?fieldManager={}&force=true", MANAGER.replace('/', "%2F"));
        let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
        self.send_for(accept, "PATCH", &path, "application/apply-patch+yaml", body).await
    }

    pub(crate) async fn merge(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send("PATCH", path, "application/merge-patch+json", body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer> {
        self.send("GET", path, "application/json", &Value::Null).await
    }

    /// An object byte for byte.
    pub(crate) async fn text(&self, path: &str) -> Result<String> {
        Ok(self.send_for("application/json", "GET", path, "application/json", &Value::Null).await?.1)
    }

    pub(crate) async fn object(&self, of: &str, path: &str) -> Result<Object> {
        let (code, body) = self.get(path).await?;
        ensure!(code == 200, "{path}: {code} {body}");
        Ok(Object::parse(&gvk(of), &body.to_string())?)
    }

    /// The hash of our managedFields entry.
    pub(crate) async fn entry(&self, of: &str, path: &str) -> Result<Option<u64>> {
        Ok(self.object(of, path).await?.meta().entry(MANAGER, false))
    }

    /// Asks until the answer fits.
    pub(crate) async fn until(&self, path: &str, fits: impl Fn(&Answer) -> bool) -> Result<Answer> {
        let began = Instant::now();
        loop {
            let answer = self.get(path).await?;
            if fits(&answer) {
                return Ok(answer);
            }
            ensure!(began.elapsed() < PATIENCE, "{path} stays {answer:?}");
        }
    }

    /// What a pass over the primary would write for `children` and `status`, from a
    /// cache that shows exactly what the API server has.
    pub(crate) async fn plan(
        &self,
        known: &[(&str, String)],
        children: &[Value],
        status: Option<Value>,
    ) -> Result<Plan> {
        let decision = Decision {
            children: children.iter().map(Value::to_string).collect(),
            status: status.map(|status| status.to_string()),
            ..Decision::default()
        };
        self.inputs(known, |inputs| plan(inputs, Verdict::Decision(decision)))
            .await?
            .context("the decision is refused")
    }

    pub(crate) async fn prepare(&self) -> Result<Option<Plan>> {
        self.inputs(&[], prepare).await
    }

    pub(crate) async fn finalized(&self) -> Result<Plan> {
        self.inputs(&[], |inputs| plan(inputs, Verdict::Finalized)).await?.context("not refused")
    }

    async fn inputs<T>(&self, known: &[(&str, String)], then: impl FnOnce(&Inputs<'_>) -> T) -> Result<T> {
        let primary = self.object("apply.windlass.dev/v1/WebApp", &self.webapp_path()).await?;
        let mut observed = Vec::new();
        for (of, path) in known {
            observed.push(Arc::new(self.object(of, path).await?));
        }
        let kinds: HashMap<Gvk, Kind> =
            [kind("v1/ConfigMap", "configmaps"), kind("apps/v1/Deployment", "deployments")]
                .into_iter()
                .map(|kind| (kind.gvk.clone(), kind))
                .collect();
        let primary_kind = kind("apply.windlass.dev/v1/WebApp", "webapps");
        Ok(then(&Inputs {
            key: &self.key(),
            serving: &self.serving,
            host_namespace: &self.namespace,
            policy: &Policy { beside_host: true, ..Policy::default() },
            primary_kind: &primary_kind,
            primary: &primary,
            children: &observed,
            kinds: &|gvk| kinds.get(gvk).cloned(),
            memory: &self.memory,
        }))
    }

    /// Remembers what was applied, as the loop does.
    pub(crate) fn remember(&mut self, applied: &Applied) {
        for write in &applied.writes {
            if let Some((status, wanted, entry)) = &write.applied {
                self.memory.remember(&write.uid, *status, wanted, *entry);
            }
        }
    }
}

pub(crate) fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": value}})
}

pub(crate) fn deployment(name: &str, replicas: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "web", "image": "web", "resources": {"requests": {"cpu": "1000m"}}}]},
        },
    }})
}

//! Writes as a host makes them for a plugin, under any claim, and as everybody else makes them: what a fence must refuse and
//! what it must never touch.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use http::Request;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use crate::control_plane::ControlPlane;
use crate::manifests::may_act_as;

const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// An answer: HTTP status and body.
pub type Answer = (u16, Value);

/// Somebody who writes as the plugin `prober` of a host, with all rights that RBAC can give, so that only a fence can refuse.
/// It writes to a namespace of its own. Works on the runtime that it was made on.
#[derive(Clone)]
pub struct Prober {
    host: Client,
    admin: Client,
    host_namespace: String,
    namespace: String,
    fresh: std::sync::Arc<AtomicU32>,
}

impl Prober {
    /// Makes the plugin's account and a namespace. The host's account `windlass` must be there already.
    ///
    /// # Errors
    /// If the API server refuses one of them.
    pub async fn new(plane: &ControlPlane, host_namespace: &str) -> Result<Self> {
        let namespace = plane.namespace("prober").await?;
        plane
            .apply(&format!(
                "apiVersion: v1
kind: ServiceAccount
metadata: {{ name: plugin-prober, namespace: {host_namespace} }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{ name: prober-{namespace} }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin }}
subjects:
- {{ kind: ServiceAccount, name: plugin-prober, namespace: {host_namespace} }}
- {{ kind: ServiceAccount, name: default, namespace: {namespace} }}
"
            ))
            .await?;
        plane.apply(&may_act_as(host_namespace, "prober")).await?;
        let token = plane.service_account_token(host_namespace, "windlass").await?;
        Ok(Self {
            host: client(plane.config_with_token(&token)?)?,
            admin: client(plane.config()?)?,
            host_namespace: host_namespace.to_owned(),
            namespace,
            fresh: std::sync::Arc::default(),
        })
    }

    /// The same with other connections, for a second API server: the host's and the administrator's.
    ///
    /// # Errors
    /// If no client can be made of them.
    pub fn through(&self, host: kube::Config, admin: kube::Config) -> Result<Self> {
        Ok(Self { host: client(host)?, admin: client(admin)?, ..self.clone() })
    }

    /// Where its objects are.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A client with the host's own rights, without retries.
    pub fn host(&self) -> &Client {
        &self.host
    }

    /// A client with the administrator's rights, without retries.
    pub fn admin(&self) -> &Client {
        &self.admin
    }

    /// One request as the plugin, under `claim` if there is one.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn send(
        &self,
        claim: Option<&str>,
        method: &str,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> Result<Answer> {
        let user = format!("system:serviceaccount:{}:plugin-prober", self.host_namespace);
        let mut request = Request::builder().method(method).uri(path).header("content-type", content_type);
        request = request.header("impersonate-user", user);
        if let Some(claim) = claim {
            request = request.header("impersonate-extra-windlass.dev%2fclaim", claim);
        }
        answer(&self.host, request.body(body.to_string().into_bytes())?).await
    }

    /// Creates a new ConfigMap under `claim`: the plainest write there is.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn create(&self, claim: Option<&str>) -> Result<Answer> {
        let number = self.fresh.fetch_add(1, Ordering::Relaxed);
        let object = config_map(&format!("fresh-{number}"));
        self.send(claim, "POST", &self.path("/api/v1", "configmaps", ""), "application/json", &object).await
    }

    /// One write of each kind under `claim`, with objects that exist where that matters.
    ///
    /// # Errors
    /// If one gets no answer, or what they are about cannot be made.
    pub async fn every_write(&self, claim: Option<&str>) -> Result<Vec<(&'static str, Answer)>> {
        let kept = self.path("/api/v1", "configmaps", "kept");
        let gone = self.path("/api/v1", "configmaps", "gone");
        let deployment = self.path("/apis/apps/v1", "deployments", "kept");
        let number = self.fresh.fetch_add(1, Ordering::Relaxed);
        let force = |path: &str| format!("{path}?fieldManager=prober&force=true");
        for (path, object) in
            [(&kept, config_map("kept")), (&gone, config_map("gone")), (&deployment, self.deployment())]
        {
            let (code, body) = self.as_admin("PATCH", &force(path), APPLY, &object).await?;
            ensure!(code < 300, "{path}: {code} {body}");
        }
        let fresh = self.path("/api/v1", "configmaps", &format!("applied-{number}"));
        let data = json!({"data": {"n": number.to_string()}});
        let status = json!({"status": {"observedGeneration": 1}});
        let finalizer = json!({"metadata": {"finalizers": [format!("prober.example/f{number}")]}});
        let applied = config_map(&format!("applied-{number}"));
        let collection = self.path("/api/v1", "configmaps", "") + "?labelSelector=prober%3Dkept";
        let apply_kept = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}, "data": {"a": number.to_string()}});
        let none = json!({});
        let wanted = [
            ("create by apply", "PATCH", force(&fresh), APPLY, &applied),
            ("apply", "PATCH", force(&kept), APPLY, &apply_kept),
            ("patch", "PATCH", kept.clone(), MERGE, &data),
            ("status", "PATCH", format!("{deployment}/status"), MERGE, &status),
            ("finalizer", "PATCH", deployment.clone(), MERGE, &finalizer),
            ("delete", "DELETE", gone, "application/json", &none),
            ("deletecollection", "DELETE", collection, "application/json", &none),
        ];
        let mut answers = vec![("create", self.create(claim).await?)];
        for (what, method, path, content_type, body) in wanted {
            answers.push((what, self.send(claim, method, &path, content_type, body).await?));
        }
        // A deployment that keeps its finalizer would hold up the end of its namespace.
        self.as_admin("PATCH", &deployment, MERGE, &json!({"metadata": {"finalizers": null}})).await?;
        Ok(answers)
    }

    /// Fails unless every kind of write under `claim` is refused in the fence's words.
    ///
    /// # Errors
    /// With the first write that was not.
    pub async fn is_refused(&self, claim: Option<&str>) -> Result<()> {
        for (what, answer) in self.every_write(claim).await? {
            ensure!(is_fenced(&answer, claim), "{what} under {claim:?}: {answer:?}");
        }
        Ok(())
    }

    /// Fails unless every kind of write under `claim` is accepted.
    ///
    /// # Errors
    /// With the first write that was not.
    pub async fn is_accepted(&self, claim: &str) -> Result<()> {
        for (what, (code, body)) in self.every_write(Some(claim)).await? {
            ensure!(code < 300, "{what} under {claim}: {code} {body}");
        }
        Ok(())
    }

    /// Fails unless writes that are none of the host's business pass: by a person, by an account of another namespace, by
    /// the control plane's own accounts, Leases among them, and the host's own.
    ///
    /// # Errors
    /// With the first write that was refused.
    pub async fn others_pass(&self) -> Result<()> {
        let number = self.fresh.fetch_add(1, Ordering::Relaxed);
        let own = format!("system:serviceaccount:{}:default", self.namespace);
        let writers: [(&str, Option<&str>); 3] = [
            ("a person", None),
            ("an account", Some(&own)),
            ("a controller", Some("system:kube-controller-manager")),
        ];
        for (position, (who, user)) in writers.into_iter().enumerate() {
            let name = format!("other-{number}-{position}");
            let groups =
                user.is_some_and(|user| !user.contains("serviceaccount")).then_some("system:masters");
            let config_maps = self.path("/api/v1", "configmaps", "");
            let leases = self.path("/apis/coordination.k8s.io/v1", "leases", "");
            let in_kube_system = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases".to_owned();
            let lease =
                json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}});
            for (collection, object) in
                [(config_maps, config_map(&name)), (leases, lease.clone()), (in_kube_system, lease)]
            {
                let mut made = Request::post(&collection).header("content-type", "application/json");
                let mut removed = Request::delete(format!("{collection}/{name}"));
                for (header, value) in [("impersonate-user", user), ("impersonate-group", groups)] {
                    if let Some(value) = value {
                        made = made.header(header, value);
                        removed = removed.header(header, value);
                    }
                }
                let (code, body) = answer(&self.admin, made.body(object.to_string().into_bytes())?).await?;
                ensure!(code == 201, "{who} creates in {collection}: {code} {body}");
                let (code, body) = answer(&self.admin, removed.body(Vec::new())?).await?;
                ensure!(code == 200, "{who} deletes in {collection}: {code} {body}");
            }
        }
        let renewal = json!({"metadata": {"annotations": {"prober.example/n": number.to_string()}}});
        let lease =
            format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/windlass", self.host_namespace);
        let request = Request::patch(lease).header("content-type", MERGE);
        let (code, body) = answer(&self.host, request.body(renewal.to_string().into_bytes())?).await?;
        // Without a Lease there is nothing to renew; a refusal would come before that is found out.
        ensure!(code == 200 || code == 404, "the host renews its Lease: {code} {body}");
        Ok(())
    }

    /// One request as the administrator.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn as_admin(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> Result<Answer> {
        let request = Request::builder().method(method).uri(path).header("content-type", content_type);
        answer(&self.admin, request.body(body.to_string().into_bytes())?).await
    }

    /// The path of an object, or of a collection, in the prober's namespace.
    pub fn path(&self, group: &str, plural: &str, name: &str) -> String {
        let slash = if name.is_empty() { "" } else { "/" };
        format!("{group}/namespaces/{}/{plural}{slash}{name}", self.namespace)
    }

    fn deployment(&self) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "kept"},
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": {"app": "kept"}},
                "template": {
                    "metadata": {"labels": {"app": "kept"}},
                    "spec": {"containers": [{"name": "c", "image": "c"}]},
                },
            },
        })
    }
}

/// Whether an answer is the fence's refusal of exactly this claim.
pub fn is_fenced((code, body): &Answer, claim: Option<&str>) -> bool {
    let words = format!("denied request: fenced: {} is not the current claim", claim.unwrap_or("none"));
    *code == 403 && body["message"].as_str().is_some_and(|said| said.contains(&words))
}

fn config_map(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"prober": name}}, "data": {"k": "v"},
    })
}

fn client(mut config: kube::Config) -> Result<Client> {
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

async fn answer(client: &Client, request: Request<Vec<u8>>) -> Result<Answer> {
    let response = client.send(request.map(Body::from)).await?;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect_bytes().await?;
    Ok((code, serde_json::from_slice(&bytes).context("a JSON answer")?))
}

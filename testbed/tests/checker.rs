//! The checker against what a real API server and a real etcd record: order passes, late writes are found.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use windlass_testbed::ControlPlane;
use windlass_testbed::checker::{Breach, Kind, Outcome, Records, Rules, Verdict, check, options, timeline};

const HOST: &str = "windlass-system";

/// Two leaders by hand: each writes as a plugin under the claim that it says it has. No fence judges them.
struct Lab {
    plane: ControlPlane,
    client: kube::Client,
    namespace: String,
}

impl Lab {
    async fn start() -> Result<Self> {
        let plane = ControlPlane::start(options()).await?;
        plane.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {HOST} }}")).await?;
        let namespace = plane.namespace("history").await?;
        plane
            .apply(&format!(
                "apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{ name: plugin, namespace: {namespace} }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin }}
subjects: [{{ kind: ServiceAccount, name: plugin-p, namespace: {HOST} }}]"
            ))
            .await?;
        Ok(Self { client: plane.client()?, plane, namespace })
    }

    async fn role(&self, claim: &str) -> Result<()> {
        self.plane
            .apply(&format!(
                "apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{ name: windlass-claim, namespace: {HOST} }}
rules: [{{ apiGroups: [windlass.dev], resources: [claims], resourceNames: ['{claim}'], verbs: [write] }}]"
            ))
            .await
    }

    /// One request under a claim. The first ones may come before RBAC has heard of the binding.
    async fn send(&self, claim: &str, method: &str, name: &str, body: Value) -> Result<()> {
        let (query, kind) = match method {
            "PATCH" => ("?fieldManager=p&force=true&timeout=2s", "application/apply-patch+yaml"),
            "MERGE" => ("?timeout=2s", "application/merge-patch+json"),
            _ => ("?timeout=2s", "application/json"),
        };
        let path = format!("/api/v1/namespaces/{}/configmaps/{name}{query}", self.namespace);
        for _ in 0..500 {
            let request = http::Request::builder()
                .method(if method == "MERGE" { "PATCH" } else { method })
                .uri(&path)
                .header("content-type", kind)
                .header("impersonate-user", format!("system:serviceaccount:{HOST}:plugin-p"))
                .header("impersonate-extra-windlass.dev%2fclaim", claim)
                .header("impersonate-extra-windlass.dev%2fplugin", "p@sha256:00")
                .body(if body.is_null() { Vec::new() } else { body.to_string().into_bytes() })?;
            match self.client.request::<Value>(request).await {
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                answer => return answer.map(drop).with_context(|| format!("{method} {name}")),
            }
        }
        anyhow::bail!("{method} {name} stays forbidden")
    }

    async fn apply(&self, claim: &str, name: &str, value: &str) -> Result<()> {
        let body = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "by": value } });
        self.send(claim, "PATCH", name, body).await
    }

    async fn begin(&self) -> Result<Records> {
        Records::begin(&self.plane, &[Kind::new("", "configmaps")]).await
    }

    async fn judge(&self, records: &Records) -> Result<Verdict> {
        let history = records.read(&self.plane).await?;
        let verdict = check(&history, &Rules::new(HOST));
        assert!(timeline(&history, &verdict).contains("</svg>"));
        Ok(verdict)
    }
}

fn breaches(verdict: &Verdict) -> Vec<Breach> {
    verdict.violations.iter().map(|violation| violation.breach).collect()
}

#[tokio::test]
async fn real_late_writes_are_found_and_real_order_passes() -> Result<()> {
    let lab = Lab::start().await?;
    let records = lab.begin().await?;
    lab.role("a_1/1").await?;
    for name in ["x", "y", "z"] {
        lab.apply("a_1/1", name, "a").await?;
    }
    // Of each way to change or to lose an object one: what changes nothing, a deletion, a finalizer, somebody's collection.
    lab.apply("a_1/1", "x", "a").await?;
    lab.send("a_1/1", "MERGE", "y", json!({ "metadata": { "finalizers": ["windlass.dev/p"] } })).await?;
    lab.role("b_1/2").await?;
    lab.apply("b_1/2", "x", "b").await?;
    lab.send("b_1/2", "DELETE", "y", Value::Null).await?;
    lab.send("b_1/2", "MERGE", "y", json!({ "metadata": { "finalizers": null } })).await?;
    lab.send("b_1/2", "DELETE", "x", Value::Null).await?;
    lab.apply("b_1/2", "x", "b").await?;
    lab.plane.kubectl(&["delete", "configmaps", "--all", "-n", &lab.namespace]).await?;
    let verdict = lab.judge(&records).await?;
    assert_eq!(verdict.outcome, Outcome::Pass, "{}", verdict.summary());
    // Three and the mark of the finalizer; then x, the mark and the removal of y, x gone and made anew.
    assert_eq!((verdict.terms, verdict.writes), (2, 9), "{}", verdict.summary());

    // The same once more, and then the old leader goes on.
    let records = lab.begin().await?;
    lab.role("a_1/3").await?;
    lab.apply("a_1/3", "x", "a").await?;
    lab.role("b_1/4").await?;
    lab.apply("b_1/4", "x", "b").await?;
    lab.apply("a_1/3", "x", "late").await?;
    lab.apply("a_1/3", "new", "late").await?;
    lab.send("a_1/3", "DELETE", "x", Value::Null).await?;
    let verdict = lab.judge(&records).await?;
    let expected = [Breach::Late, Breach::Interleaved, Breach::Late, Breach::Late, Breach::Interleaved];
    assert_eq!(breaches(&verdict), expected, "{}", verdict.summary());
    Ok(())
}

#[tokio::test]
async fn two_real_writers_at_once_are_found() -> Result<()> {
    let lab = Lab::start().await?;
    let records = lab.begin().await?;
    lab.role("a_1/1").await?;
    // The old leader goes on for as long as its successor writes, however slow either is: order by luck would be no fault.
    let succeeded = Cell::new(false);
    let hammer = async |claim: &str, goes_on: &dyn Fn(usize) -> bool| -> Result<usize> {
        let mut written = 0;
        while goes_on(written) {
            lab.apply(claim, &format!("o{}", written % 5), &format!("{claim} {written}")).await?;
            written += 1;
        }
        Ok(written)
    };
    let successor = async {
        let role = lab.role("b_1/2").await;
        let written = hammer("b_1/2", &|written| written < 60).await;
        succeeded.set(true);
        role.and(written)
    };
    let alone = |_| !succeeded.get();
    let (first, second) = tokio::join!(hammer("a_1/1", &alone), successor);
    let writes = first? + second?;
    let verdict = lab.judge(&records).await?;
    assert!(verdict.failed() && verdict.late > 0 && verdict.interleaved > 0, "{}", verdict.summary());
    assert_eq!((verdict.hole_count, verdict.writes), (0, writes as u64), "{}", verdict.summary());
    Ok(())
}

//! What the tests of other crates rely on: a control plane that is real, quick, and shared by all tests of a process.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::Client;
use serde_json::Value;
use windlass_testbed::{ControlPlane, Writes, shared};

/// Long enough for a machine that compiles on all cores at the same time.
const PATIENCE: Duration = Duration::from_secs(60);

fn deployment(namespace: &str, name: &str, replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{ name: {name}, namespace: {namespace} }}
spec:
  replicas: {replicas}
  selector: {{ matchLabels: {{ app: {name} }} }}
  template:
    metadata: {{ labels: {{ app: {name} }} }}
    spec: {{ containers: [{{ name: web, image: web }}] }}
---
"
    )
}

/// Asks for a path until the answer fits; a missing object is `null`.
async fn until(client: &Client, path: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
    let started = Instant::now();
    loop {
        let answer = client.request::<Value>(http::Request::get(path).body(Vec::new())?).await;
        let found = match answer {
            Err(kube::Error::Api(status)) if status.code == 404 => Value::Null,
            answer => answer?,
        };
        if fits(&found) {
            return Ok(found);
        }
        ensure!(started.elapsed() < PATIENCE, "{path} stays {found:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn available(deployment: &Value) -> u64 {
    deployment["status"]["availableReplicas"].as_u64().unwrap_or(0)
}

fn items(list: &Value) -> usize {
    list["items"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn a_deployment_becomes_available_and_its_pods_go_with_it() -> Result<()> {
    let control_plane = shared()?;
    let namespace = control_plane.namespace("available").await?;
    let client = control_plane.client()?;
    let (path, pods) = (
        format!("/apis/apps/v1/namespaces/{namespace}/deployments/web"),
        format!("/api/v1/namespaces/{namespace}/pods"),
    );
    control_plane.apply(&deployment(&namespace, "web", 2)).await?;
    until(&client, &path, |found| available(found) == 2).await?;

    client.request::<Value>(http::Request::delete(&path).body(Vec::new())?).await?;
    until(&client, &format!("/apis/apps/v1/namespaces/{namespace}/replicasets"), |found| items(found) == 0)
        .await?;
    until(&client, &pods, |found| items(found) == 0).await?;
    Ok(())
}

#[tokio::test]
async fn a_pod_can_be_held_back_and_let_go() -> Result<()> {
    let control_plane = shared()?;
    let namespace = control_plane.namespace("held").await?;
    let client = control_plane.client()?;
    let path = format!("/api/v1/namespaces/{namespace}/pods/web");
    let pod = |ready: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: web, namespace: {namespace}, annotations: {{ windlass.dev/testbed-ready: '{ready}' }} }}\nspec: {{ containers: [{{ name: web, image: web }}] }}"
        )
    };
    let ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions
            .iter()
            .find(|condition| condition["type"] == "Ready")
            .map(|condition| condition["status"] == "True")
    };
    control_plane.apply(&pod("false")).await?;
    until(&client, &path, |found| found["status"]["phase"] == "Running" && ready(found) == Some(false))
        .await?;
    control_plane.apply(&pod("true")).await?;
    until(&client, &path, |found| ready(found) == Some(true)).await?;
    Ok(())
}

#[tokio::test]
async fn the_audit_log_says_who_wrote_what() -> Result<()> {
    let control_plane = shared()?;
    let namespace = control_plane.namespace("audit").await?;
    let binding = format!(
        "apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{ name: edit, namespace: {namespace} }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit }}
subjects: [{{ apiGroup: rbac.authorization.k8s.io, kind: Group, name: '{}' }}]",
        windlass_testbed::REPLICAS
    );
    control_plane.apply(&binding).await?;
    let audit = control_plane.audit()?;
    let mark = audit.mark()?;

    let client = Client::try_from(control_plane.config_for("windlass-1")?)?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let create =
        || http::Request::post(&path).body(br#"{"metadata":{"name":"a"},"data":{"k":"v"}}"#.to_vec());
    // RBAC hears of the binding a moment later.
    let started = Instant::now();
    while client.request::<Value>(create()?).await.is_err() {
        ensure!(started.elapsed() < PATIENCE, "the binding has no effect");
    }
    let filter = Writes::new().by("windlass-1").within(&namespace).succeeded();
    let event = audit.wait_for(mark, PATIENCE, move |event| filter.fits(event)).await?;
    assert_eq!((event.verb.as_str(), event.code()), ("create", 201));
    assert!(event.request_object.context("writes carry what was sent")?.get().contains("\"k\":\"v\""));
    assert_eq!(audit.writes(mark, &Writes::new().by("windlass-2"))?.len(), 0);

    client.request::<Value>(http::Request::get(&path).body(Vec::new())?).await?;
    let in_namespace = namespace.clone();
    let list = audit
        .wait_for(mark, PATIENCE, move |event| {
            event.verb == "list"
                && event.object_ref.as_ref().is_some_and(|object| object.namespace == in_namespace)
        })
        .await?;
    assert!(list.is_complete() && list.response_object.is_none());
    Ok(())
}

#[tokio::test]
async fn a_service_account_token_and_its_kubeconfig_are_believed() -> Result<()> {
    let control_plane = shared()?;
    let namespace = control_plane.namespace("token").await?;
    let token = control_plane.service_account_token(&namespace, "default").await?;
    let kubeconfig = control_plane.kubeconfig_with_token(&namespace, &token)?;
    let arguments = [
        "--kubeconfig",
        kubeconfig.to_str().context("a temporary path is text")?,
        "auth",
        "whoami",
        "-o",
        "name",
    ];
    let output = control_plane.kubectl(&arguments[2..4]).await?;
    assert!(String::from_utf8_lossy(&output.stdout).contains("admin"));
    let other = ControlPlane::external(&kubeconfig).await?;
    let config = other.config()?;
    let review =
        http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews").body(b"{}".to_vec())?;
    let answer: Value = Client::try_from(config)?.request(review).await?;
    assert_eq!(
        answer["status"]["userInfo"]["username"],
        format!("system:serviceaccount:{namespace}:default")
    );
    assert!(other.audit().unwrap_err().to_string().contains("external"));
    Ok(())
}

#[tokio::test]
async fn a_hundred_deployments_take_seconds() -> Result<()> {
    let control_plane = shared()?;
    let namespace = control_plane.namespace("many").await?;
    let client = control_plane.client()?;
    let all: String = (0..100).map(|number| deployment(&namespace, &format!("web-{number}"), 3)).collect();
    let started = Instant::now();
    control_plane.apply(&all).await?;
    let applied = started.elapsed();
    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
    until(&client, &path, |list| {
        list["items"].as_array().is_some_and(|all| all.iter().all(|one| available(one) == 3))
    })
    .await?;
    eprintln!(
        "100 deployments, 300 pods: applied in {applied:.1?}, available after {:.1?}",
        started.elapsed()
    );
    let started = Instant::now();
    let delete = http::Request::delete(&path).body(Vec::new())?;
    client.request::<Value>(delete).await?;
    until(&client, &format!("/api/v1/namespaces/{namespace}/pods"), |found| items(found) == 0).await?;
    eprintln!("collected after {:.1?}", started.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_namespace_goes_with_all_that_is_in_it() -> Result<()> {
    let control_plane = shared()?;
    let namespace = control_plane.namespace("gone").await?;
    let client = control_plane.client()?;
    control_plane.apply(&deployment(&namespace, "web", 2)).await?;
    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/web");
    until(&client, &path, |found| available(found) == 2).await?;
    let started = Instant::now();
    let path = format!("/api/v1/namespaces/{namespace}");
    client.request::<Value>(http::Request::delete(&path).body(Vec::new())?).await?;
    until(&client, &path, Value::is_null).await?;
    eprintln!("a namespace was removed in {:.1?}", started.elapsed());
    Ok(())
}

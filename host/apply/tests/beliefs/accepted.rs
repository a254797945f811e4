//! `deploy/components/signatures` as a real API server takes it: the host keeps what was
//! accepted in one Secret, and no plugin turns it back.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use http::Request;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use windlass_apply::{ACCEPTED_SECRET, Writer};
use windlass_core::accepted::{Accepted, AcceptedVersion, KeyId};
use windlass_core::class::Class;
use windlass_core::name::{Digest, PluginName};
use windlass_testbed::ControlPlane;

use crate::world::{PATIENCE, World};

fn version(sequence: u64) -> Accepted {
    let name = PluginName::try_new("webapp").expect("valid");
    let digest = Digest::of(&sequence.to_le_bytes());
    let since = "2026-11-23T00:00:00Z".to_owned();
    [(name, AcceptedVersion { sequence, digest, key: KeyId(7), since })].into_iter().collect()
}

/// The component's own documents: the rest of the base belongs to the cluster, and to other tests.
async fn install(plane: &ControlPlane, namespace: &str) -> Result<()> {
    let all = plane.manifests(namespace, &["signatures"]).await?;
    let ours = all.split("\n---\n").filter(|document| {
        document.contains("name: windlass-signatures") || document.contains("name: windlass-accepted")
    });
    plane.apply(&ours.collect::<Vec<_>>().join("\n---\n")).await
}

fn client_as(plane: &ControlPlane, namespace: &str, account: &str) -> Result<Client> {
    let mut config = plane.config()?;
    config.default_retry = false;
    config.auth_info.impersonate = Some(format!("system:serviceaccount:{namespace}:{account}"));
    Ok(Client::try_from(config)?)
}

async fn send(client: &Client, method: &str, path: &str, body: &Value) -> Result<(u16, Value)> {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    let response = client.send(request.body(Body::from(body.to_string().into_bytes()))?).await?;
    let code = response.status().as_u16();
    Ok((code, serde_json::from_slice(&response.into_body().collect_bytes().await?)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_kept_by_the_host_and_turned_back_by_no_plugin() -> Result<()> {
    let world = World::new("accepted").await?;
    let (plane, namespace) = (world.plane, world.namespace.as_str());
    let host = client_as(plane, namespace, "windlass")?;
    let writer = Arc::new(world.writer_with(host.clone()));
    let missing = world.writer.read_accepted().await.expect_err("not installed");
    assert_eq!(missing.class, Class::Permanent);
    install(plane, namespace).await?;
    until(|| async { Ok(writer.read_accepted().await.is_ok()) }).await?;
    assert_eq!(writer.read_accepted().await.expect("installed"), Accepted::default());

    // Sixteen at once: each comes again after a conflict, and the highest stays.
    let records = (1..=16).map(|sequence| {
        let (writer, claim) = (Arc::clone(&writer), world.claim.clone());
        tokio::spawn(async move { record(&writer, sequence, &claim).await })
    });
    for record in records.collect::<Vec<_>>() {
        record.await??;
    }
    assert_eq!(writer.read_accepted().await.expect("kept"), version(16));
    // An upgrade of the component leaves it alone.
    install(plane, namespace).await?;
    assert_eq!(writer.read_accepted().await.expect("kept"), version(16));

    // Not even a plugin that was given everything in this namespace turns it back.
    let path = format!("/api/v1/namespaces/{namespace}/secrets");
    let own = format!("{path}/{ACCEPTED_SECRET}");
    let plugin = client_as(plane, namespace, "plugin-webapp")?;
    until(|| async {
        let (code, body) = send(&plugin, "PATCH", &own, &json!({"metadata": {"labels": {"a": "b"}}})).await?;
        Ok(code == 403 && body["message"].as_str().is_some_and(|m| m.contains("what signatures rest on")))
    })
    .await?;
    for (method, path, body) in [
        ("DELETE", &own, json!({})),
        ("DELETE", &path, json!({})),
        ("POST", &path, json!({"metadata": {"name": "windlass-plugin-keys"}})),
    ] {
        let (code, body) = send(&plugin, method, path, &body).await?;
        assert_eq!(code, 403, "{method} {path}: {body}");
    }
    let (code, body) = send(&plugin, "POST", &path, &json!({"metadata": {"name": "its-own"}})).await?;
    assert_eq!(code, 201, "{body}");
    assert_eq!(writer.read_accepted().await.expect("kept"), version(16));

    // The host has this Secret and no other.
    for (method, path) in [
        ("GET", path.clone()),
        ("GET", format!("{path}/its-own")),
        ("POST", path.clone()),
        ("DELETE", own.clone()),
    ] {
        let (code, body) = send(&host, method, &path, &json!({"metadata": {"name": "x"}})).await?;
        assert_eq!(code, 403, "{method} {path}: {body}");
    }
    Ok(())
}

async fn record(writer: &Writer, sequence: u64, claim: &windlass_core::claim::Claim) -> Result<()> {
    let began = Instant::now();
    loop {
        match writer.record_accepted(&version(sequence), claim).await {
            Ok(_) => return Ok(()),
            Err(error) if error.class == Class::Conflict => {
                ensure!(began.elapsed() < PATIENCE, "{}", error.message);
            }
            Err(error) => anyhow::bail!("{:?} {}", error.class, error.message),
        }
    }
}

async fn until<F: Future<Output = Result<bool>>>(fits: impl Fn() -> F) -> Result<()> {
    let began = Instant::now();
    while !fits().await? {
        ensure!(began.elapsed() < PATIENCE, "not in time");
    }
    Ok(())
}

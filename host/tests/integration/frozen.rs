//! A leader that was frozen and wakes behind its successor: nothing that it still sends
//! reaches the cluster's state.

use std::time::Duration;

use serde_json::json;
use windlass_testbed::faultd::{Action, Faultd, Rule, Verb, Way};
use windlass_testbed::{AuditEvent, Signal};

use crate::scene::{HOST, PATIENCE, Scene, count};

/// The claim that a write was made under.
fn claim(write: &AuditEvent) -> Option<&str> {
    write.extra("windlass.dev/claim")
}

/// The fence of `deploy/`, on top of the base that every scene has.
async fn install_fence(scene: &Scene) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/overlays/production");
    let rendered = scene.kubectl(&["kustomize", folder]).await.expect("it renders");
    let documents = rendered.split("\n---\n").filter(|doc| !doc.contains("\nkind: Deployment\n"));
    scene.control().apply(&documents.collect::<Vec<_>>().join("\n---\n")).await.expect("it applies");
}

/// A write that has left the leader when it freezes, and arrives when another leads.
#[tokio::test]
async fn a_write_that_arrives_behind_the_successor_is_refused_by_the_api_server() {
    let scene = Scene::fresh("frozen").await;
    install_fence(&scene).await;
    scene.install_fixture("greeter").await;
    let faultd = Faultd::start(scene.control()).expect("a proxy");
    let token = scene.control().service_account_token(HOST, "windlass").await.expect("a token");
    let mut ports = Vec::new();
    for i in 0..3 {
        let name = format!("windlass-{i}");
        let port = faultd.listen().await.expect("a port");
        let kubeconfig = port.kubeconfig(scene.control(), &name, &token).expect("a kubeconfig");
        scene.keep(scene.replica_with(&name, &kubeconfig, &[]).expect("the host starts")).await;
        ports.push((name, port));
    }
    scene.ready().await;
    for round in 0..count(3, 20) {
        let old = scene.leader().await;
        let settled = format!("r{round}-settled");
        let greeting = format!("{settled}-greeting");
        scene.widget(&settled, json!({"text": "wanted"})).await;
        scene.until("the leader works", || scene.own("ConfigMap", &greeting)).await;
        scene.silence().await;
        let child = scene.own("ConfigMap", &greeting).await.expect("it is there");

        let (_, port) = ports.iter().find(|(name, _)| *name == old).expect("a port each");
        let mark = scene.mark();
        let held = Rule::new(Action::Hold(Way::Request)).verb(Verb::Patch).resource("configmaps").first(1);
        let held = port.rule(held);
        scene.widget(&settled, json!({"text": "wanted for a moment"})).await;
        held.hit(1, PATIENCE).await.expect("the leader sends a write");
        signal(&scene, &old, Signal::STOP).await;
        // Nothing is left to do for the object, so its version stays what the late write
        // expects: only the fence stands between it and the child.
        scene.widget(&settled, json!({"text": "wanted"})).await;
        let new = scene
            .until("another replica leads", || async { scene.holder().await.filter(|holder| *holder != old) })
            .await;
        let other = format!("r{round}-other");
        scene.widget(&other, json!({})).await;
        let other = format!("{other}-greeting");
        scene.until("it works", || scene.own("ConfigMap", &other)).await;
        held.release();
        held.land(1, PATIENCE).await.expect("the late write arrives");
        signal(&scene, &old, Signal::CONT).await;
        scene
            .until("the old leader stands by in place", || async {
                let replicas = scene.all().await;
                let replica = replicas.iter().find(|replica| replica.name() == old)?;
                let leads = replica.metric("leader_election_master_status").await;
                (leads == Some(0.0)).then_some(())
            })
            .await;
        tokio::time::sleep(Duration::from_millis(500)).await;

        let writes = scene.writes_since(mark);
        let of = |name: &str| {
            let prefix = format!("{name}_");
            writes.iter().filter(move |write| claim(write).is_some_and(|c| c.starts_with(&prefix)))
        };
        let late: Vec<_> = of(&old).collect();
        assert!(!late.is_empty(), "the held write is on record");
        for write in late {
            assert_eq!(write.code(), 403, "{write:?}");
            let said = write.response_status.as_ref().map_or("", |status| status.message.as_str());
            let words = format!("fenced: {} is not the current claim", claim(write).expect("it has one"));
            assert!(said.contains(&words), "{said}");
        }
        assert!(of(&new).any(AuditEvent::succeeded), "{new} leads and writes");
        let after = scene.own("ConfigMap", &greeting).await.expect("it is there");
        let version = |object: &serde_json::Value| object["metadata"]["resourceVersion"].clone();
        assert_eq!(version(&after), version(&child), "nothing was written behind the successor");
    }
    for replica in scene.all().await.iter_mut() {
        replica.check_alive().expect("no process restarts");
    }
}

async fn signal(scene: &Scene, name: &str, signal: Signal) {
    let replicas = scene.all().await;
    let replica = replicas.iter().find(|replica| replica.name() == name).expect("it runs");
    replica.signal(signal).expect("it runs");
}

//! What people see of leadership: the label and the Event on the leader's pod, metrics,
//! and `/debug/leadership`; and of the queue: objects that are stuck, in `/debug/queue`.

use serde_json::{Value, json};

use crate::scene::{HOST, Scene};

/// A pod as the Deployment would make it, for a replica that is a process here.
async fn pod(scene: &Scene, name: &str) {
    scene
        .apply(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": HOST, "labels": {"app.kubernetes.io/name": "windlass"}},
            "spec": {
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{"name": "windlass", "image": "windlass",
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
            },
        }))
        .await;
}

/// The pods with their roles, as `kubectl get pods -L windlass.dev/role` shows them.
async fn roles(scene: &Scene) -> Vec<(String, String)> {
    let list = scene.get(&format!("/api/v1/namespaces/{HOST}/pods")).await.unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pods = list["items"].as_array().cloned().unwrap_or_default();
    let role =
        |pod: &Value| (text(&pod["metadata"]["name"]), text(&pod["metadata"]["labels"]["windlass.dev/role"]));
    pods.iter().map(role).filter(|(name, _)| name.starts_with("windlass-")).collect()
}

/// Waits until exactly this pod is labelled as the leader and the others as standbys.
async fn leads(scene: &Scene, leader: &str, gone: Option<&str>) {
    scene
        .until(&format!("the label says that {leader} leads"), || async {
            let roles = roles(scene).await;
            let right = roles.iter().all(|(name, role)| match role.as_str() {
                // A process that was killed cannot take its label off.
                _ if Some(name.as_str()) == gone => true,
                "leader" => name == leader,
                "standby" => name != leader,
                _ => false,
            });
            right.then_some(())
        })
        .await;
}

#[tokio::test]
async fn people_see_who_leads_and_why() {
    let scene = Scene::fresh("visible").await;
    scene.install_fixture("greeter").await;
    for i in 0..3 {
        pod(&scene, &format!("windlass-{i}")).await;
    }
    scene.replicas(3, &[]).await;
    let first = scene.leader().await;
    leads(&scene, &first, None).await;
    let said = scene
        .until("an Event on the leader's pod says so", || async {
            let events = scene.get(&format!("/api/v1/namespaces/{HOST}/events")).await?;
            events["items"].as_array()?.iter().find_map(|event| {
                let on = &event["involvedObject"];
                let fits = on["kind"] == "Pod" && on["name"] == *first && event["reason"] == "LeaderElection";
                fits.then(|| event["message"].as_str().unwrap_or_default().to_owned())
            })
        })
        .await;
    assert!(said.starts_with(&first) && said.contains("leads in term"), "{said}");

    scene.widget("w", json!({})).await;
    scene.until("the child exists", || scene.own("ConfigMap", "w-greeting")).await;
    scene.take(&first).await.kill().await.expect("it ran");
    scene.widget("late", json!({})).await;
    scene.until("the new leader works", || scene.own("ConfigMap", "late-greeting")).await;
    let second = scene.leader().await;
    assert_ne!(second, first);
    leads(&scene, &second, Some(&first)).await;

    let replicas = scene.all().await;
    let leader = replicas.iter().find(|r| r.name() == second).expect("it runs");
    for (metric, least) in [
        ("leader_election_master_status{name=\"windlass\"}", 1.0),
        ("windlass_takeover_seconds_count{cause=\"died\"}", 1.0),
        ("windlass_takeover_first_write_seconds_count", 1.0),
        ("windlass_term", 2.0),
        ("windlass_fence{state=\"unknown\"}", 1.0),
    ] {
        let value = scene.until(metric, || async { leader.metric(metric).await }).await;
        assert!(value >= least, "{metric} is {value}");
    }
    scene
        .until("renewals are timed", || async {
            leader.metric("windlass_renew_seconds_count").await.filter(|count| *count >= 1.0)
        })
        .await;
    let (_, view) = leader.ask("/debug/leadership").await.expect("it answers");
    let view: Value = serde_json::from_str(&view).expect("JSON");
    let claim = format!("{}/{}", view["identity"].as_str().expect("text"), view["term"]);
    assert_eq!(view["current_claim"], claim, "{view:#}");
    assert_eq!(view["last_acquired"], "died", "{view:#}");
    assert_eq!(view["fence"]["state"], "unknown", "nobody granted a look: {view:#}");
    assert!(view["pulse"]["last_evidence"].as_str().is_some_and(|e| e.contains(&first)), "{view:#}");
    let standby = replicas.iter().find(|r| r.name() != second).expect("it runs");
    let (_, view) = standby.ask("/debug/leadership").await.expect("it answers");
    let view: Value = serde_json::from_str(&view).expect("JSON");
    assert_eq!(
        (&view["leading"], &view["pulse"]["peer_state"]),
        (&json!(false), &json!("verified")),
        "{view:#}"
    );
}

#[tokio::test]
async fn an_object_that_fails_again_and_again_is_listed_with_what_was_said_last() {
    let scene = Scene::fresh("stuck").await;
    scene.install_fixture("fails").await;
    scene.replicas(1, &[]).await;
    scene.widget("w", json!({"mode": "transient"})).await;
    scene.widget("fine", json!({"mode": ""})).await;
    let stuck = || async {
        let (_, view) = scene.all().await[0].ask("/debug/queue").await.ok()?;
        let view: Value = serde_json::from_str(&view).ok()?;
        view["stuck"].as_array().cloned()
    };
    let one = scene
        .until("the object is stuck", || async { stuck().await.filter(|stuck| !stuck.is_empty()) })
        .await;
    let key = format!("fails:{}/w", scene.namespace);
    assert_eq!((one.len(), &one[0]["key"]), (1, &json!(key)), "{one:?}");
    assert_eq!(one[0]["last_error"], "the moon is in the wrong phase", "{one:?}");
    assert!(one[0]["failures"].as_u64().is_some_and(|failures| failures >= 8), "{one:?}");
    let metric = || async { scene.all().await[0].metric("windlass_stuck_keys{name=\"fails\"}").await };
    assert_eq!(metric().await, Some(1.0));

    scene.widget("w", json!({"mode": ""})).await;
    scene.until("it is mended", || async { stuck().await.filter(|stuck| stuck.is_empty()) }).await;
    assert_eq!(metric().await, Some(0.0));
}

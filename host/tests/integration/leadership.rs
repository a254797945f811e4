//! Leaders die, end, and lose their API server; the work goes on.

use std::time::Duration;

use serde_json::json;
use windlass_testbed::Stop;

use crate::scene::{Scene, count};

#[tokio::test]
async fn a_killed_leader_is_followed_and_its_work_finished() {
    let scene = Scene::fresh("kill").await;
    scene.install_fixture("greeter").await;
    scene.replicas(3, &[]).await;
    let rounds = count(2, 20);
    for round in 0..rounds {
        let first = scene.leader().await;
        for i in 0..20 {
            scene.widget(&format!("r{round}-w{i}"), json!({})).await;
        }
        scene.take(&first).await.kill().await.expect("it ran");
        let late = format!("r{round}-late");
        scene.widget(&late, json!({})).await;
        let child = format!("{late}-greeting");
        scene.until("the new leader finishes", || scene.own("ConfigMap", &child)).await;
        assert_ne!(scene.leader().await, first);
        scene.start(&first, &[]).await;
    }
    scene
        .until("nothing is lost", || async {
            let children = scene.list("ConfigMap", "labelSelector=windlass.dev/owned-by=greeter").await;
            (children.len() == 21 * rounds).then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_stopped_leader_hands_over_at_once() {
    let scene = Scene::fresh("term").await;
    scene.install_fixture("greeter").await;
    // Durations that a handover by time could not meet.
    scene.replicas(2, &["--lease-duration=60s", "--renew-deadline=40s", "--retry-period=5s"]).await;
    let first = scene.leader().await;
    let leaving = scene.take(&first).await;
    let (status, took) = leaving.terminate(Duration::from_secs(20)).await.expect("it ran");
    assert_eq!(status.code(), Some(0), "a clean end");
    assert!(took < Duration::from_secs(10), "{took:?}");
    scene.widget("w", json!({})).await;
    scene.until("the successor works", || scene.own("ConfigMap", "w-greeting")).await;
    assert_ne!(scene.leader().await, first);
}

#[tokio::test]
async fn a_restarted_api_server_restarts_no_replica() {
    let scene = Scene::fresh("outage").await;
    scene.install_fixture("greeter").await;
    scene.replicas(2, &[]).await;
    scene.widget("before", json!({})).await;
    scene.until("the child exists", || scene.own("ConfigMap", "before-greeting")).await;
    scene.control().stop_apiserver(Stop::Kill).await.expect("it ran");
    // Longer than the lease: whoever led must have stopped by then.
    tokio::time::sleep(Duration::from_secs(5)).await;
    for replica in scene.all().await.iter() {
        assert!(replica.is_ready().await, "an outage blocks no rollout");
        let leads = replica.metric("leader_election_master_status").await;
        assert_eq!(leads, Some(0.0), "nobody leads without an API server");
    }
    scene.control().start_apiserver().await.expect("it starts");
    scene.widget("after", json!({})).await;
    scene.until("the work goes on", || scene.own("ConfigMap", "after-greeting")).await;
    for replica in scene.all().await.iter_mut() {
        replica.check_alive().expect("no process restarts");
    }
}

#[tokio::test]
async fn sigterm_ends_in_time_without_an_api_server() {
    let scene = Scene::fresh("cutoff").await;
    scene.install_fixture("greeter").await;
    scene.replicas(1, &["--shutdown-timeout=5s"]).await;
    scene.control().stop_apiserver(Stop::Kill).await.expect("it ran");
    let name = scene.all().await[0].name().to_owned();
    let replica = scene.take(&name).await;
    let (status, took) = replica.terminate(Duration::from_secs(30)).await.expect("it ran");
    assert!(took < Duration::from_secs(8), "{took:?} for a deadline of 5 s");
    assert!(status.code().is_some(), "it ended by itself: {status}");
}

#[tokio::test]
async fn without_election_one_host_runs_and_a_second_ends_with_72() {
    let scene = Scene::fresh("single").await;
    scene.install_fixture("greeter").await;
    scene.replicas(1, &["--leader-elect=false"]).await;
    scene.widget("w", json!({})).await;
    scene.until("it works", || scene.own("ConfigMap", "w-greeting")).await;
    let mut second = scene.replica("windlass-second", &["--leader-elect=false"]).expect("it starts");
    let error = scene
        .until("the second ends", || std::future::ready(second.check_alive().err().map(|e| e.to_string())))
        .await;
    assert!(error.contains("exit status: 72"), "{error}");
}

//! Many objects: nothing twice, nothing for nothing.

use std::collections::BTreeMap;

use futures::StreamExt;
use serde_json::json;

use crate::scene::{Scene, count};

#[tokio::test]
async fn five_hundred_objects_at_once_converge_without_a_duplicate() {
    let many = count(500, 5000);
    let scene = Scene::fresh("storm").await;
    scene.install_fixture("greeter").await;
    scene.replicas(2, &[]).await;
    let mark = scene.mark();
    let creates = (0..many).map(|i| {
        let scene = &scene;
        async move { scene.widget(&format!("w{i}"), json!({"text": format!("hi {i}")})).await }
    });
    futures::stream::iter(creates).buffer_unordered(32).collect::<Vec<_>>().await;
    scene
        .until("every object has its child and its status", || async {
            let widgets = scene.list("Widget", "").await;
            let done = widgets.iter().filter(|w| w["status"]["greeting"].is_string()).count();
            (done == many).then_some(())
        })
        .await;
    scene.silence().await;
    let children = scene.list("ConfigMap", "labelSelector=windlass.dev/owned-by=greeter").await;
    assert_eq!(children.len(), many);
    let mut creates = BTreeMap::new();
    for write in scene.writes_since(mark) {
        let Some(object) = &write.object_ref else { continue };
        if object.resource == "configmaps" && object.namespace == scene.namespace && write.code() == 201 {
            *creates.entry(object.name.clone()).or_insert(0) += 1;
        }
    }
    assert_eq!(creates.len(), many);
    assert!(creates.values().all(|n| *n == 1), "no child was made twice");
}

#[tokio::test]
async fn a_forced_resync_of_a_converged_fleet_writes_nothing() {
    let scene = Scene::fresh("resync").await;
    scene.install_webapp().await;
    scene.replicas(2, &["--sync-period=3s"]).await;
    let apps = (0..200).map(|i| {
        let scene = &scene;
        async move { scene.webapp(&format!("a{i}"), json!({"config": {"I": i.to_string()}})).await }
    });
    futures::stream::iter(apps).buffer_unordered(16).collect::<Vec<_>>().await;
    scene
        .until("the fleet converges", || async {
            let apps = scene.list("WebApp", "").await;
            let ready = apps.iter().filter(|a| crate::scene::condition(a, "Ready") == Some("True")).count();
            (ready == 200).then_some(())
        })
        .await;
    scene.silence().await;
    let leader = scene.leader().await;
    let passes = || async {
        let replicas = scene.all().await;
        let replica = replicas.iter().find(|r| r.name() == leader)?;
        replica.metric("controller_runtime_reconcile_total{controller=\"webapp\",result=\"success\"}").await
    };
    let (mark, before) = (scene.mark(), passes().await.expect("a metric"));
    scene
        .until("every object was looked at twice", || async {
            (passes().await? - before >= 400.0).then_some(())
        })
        .await;
    let writes = scene.writes_since(mark);
    assert!(writes.is_empty(), "{} writes: {:?}", writes.len(), writes.first());

    // The same after a takeover: what memory knew is known by value.
    scene.take(&leader).await.kill().await.expect("it ran");
    let successor =
        scene.until("a successor leads", || async { scene.holder().await.filter(|h| *h != leader) }).await;
    let mark = scene.mark();
    scene
        .until("the successor looked at everything", || async {
            let replicas = scene.all().await;
            let replica = replicas.iter().find(|r| r.name() == successor)?;
            let name = "controller_runtime_reconcile_total{controller=\"webapp\",result=\"success\"}";
            (replica.metric(name).await? >= 200.0).then_some(())
        })
        .await;
    let writes = scene.writes_since(mark);
    assert!(writes.is_empty(), "{} writes after a takeover: {:?}", writes.len(), writes.first());
}

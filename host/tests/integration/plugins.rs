//! Plugins come, change and go while the host runs.

use std::collections::BTreeSet;

use serde_json::json;

use crate::scene::{HOST, Scene, built, path, read};

#[tokio::test]
async fn a_plugin_may_come_before_its_crd() {
    let scene = Scene::fresh("early").await;
    scene.install("webapp", &built("webapp", None).await).await;
    scene.control().apply(&read("plugins/webapp/rbac.yaml")).await.expect("the rights apply");
    scene.replicas(1, &[]).await;
    scene.control().apply(&read("plugins/webapp/crd.yaml")).await.expect("the CRD applies");
    scene
        .until("the kind is served", || async {
            let list = scene.get("/apis/apps.windlass.dev/v1alpha1/webapps").await;
            list.map(drop)
        })
        .await;
    scene.webapp("app", json!({})).await;
    scene.until("the Deployment exists", || scene.own("Deployment", "app")).await;
}

#[tokio::test]
async fn a_swap_under_load_loses_nothing() {
    let scene = Scene::fresh("swap").await;
    scene.install_fixture("greeter").await;
    scene.replicas(2, &[]).await;
    let loud = built("windlass-fixtures", Some("greeter_loud")).await;
    for i in 0..60 {
        if i == 30 {
            scene.install("greeter", &loud).await;
        }
        scene.widget(&format!("w{i}"), json!({"text": format!("hi {i}")})).await;
    }
    scene
        .until("every child is what the new version wants", || async {
            let children = scene.list("ConfigMap", "labelSelector=windlass.dev/owned-by=greeter").await;
            let texts: BTreeSet<_> = children.iter().filter_map(|c| c["data"]["text"].as_str()).collect();
            (0..60).all(|i| texts.contains(&*format!("HI {i}"))).then_some(())
        })
        .await;
    for replica in scene.all().await.iter_mut() {
        replica.check_alive().expect("no replica restarts");
    }
}

#[tokio::test]
async fn a_removed_plugin_leaves_its_objects_and_drops_its_watches() {
    let scene = Scene::fresh("remove").await;
    scene.install_fixture("greeter").await;
    scene.replicas(1, &[]).await;
    scene.widget("w", json!({})).await;
    scene.until("the child exists", || scene.own("ConfigMap", "w-greeting")).await;
    scene.delete("/api/v1/namespaces/windlass-system/configmaps/greeter-plugin").await;
    scene
        .until("its watches are dropped", || async {
            let (_, watches) = scene.all().await[0].ask("/debug/watches").await.ok()?;
            (!watches.contains("Widget")).then_some(())
        })
        .await;
    scene.patch(&scene.path("ConfigMap", "w-greeting"), json!({"data": {"text": "theirs"}})).await;
    scene.silence().await;
    assert_eq!(scene.own("ConfigMap", "w-greeting").await.expect("it stays")["data"]["text"], "theirs");
    // It comes back, and so does its say.
    scene.install_fixture("greeter").await;
    scene
        .until("the plugin is back", || async {
            let child = scene.own("ConfigMap", "w-greeting").await?;
            (child["data"]["text"] == "hello").then_some(())
        })
        .await;
}

#[tokio::test]
async fn new_settings_reach_every_object() {
    let scene = Scene::fresh("settings").await;
    scene.install_fixture("greeter").await;
    scene.replicas(1, &[]).await;
    scene.widget("w", json!({})).await;
    scene.until("the child exists", || scene.own("ConfigMap", "w-greeting")).await;
    let plugin = "/api/v1/namespaces/windlass-system/configmaps/greeter-plugin";
    scene.patch(plugin, json!({"data": {"settings.yaml": "text: moin\n"}})).await;
    scene
        .until("the settings are followed", || async {
            let child = scene.own("ConfigMap", "w-greeting").await?;
            (child["data"]["text"] == "moin").then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_plugin_without_room_for_what_it_reads_waits_with_a_reason_and_comes_back_when_there_is_some() {
    let scene = Scene::fresh("room").await;
    scene.install_webapp().await;
    scene.replicas(1, &["--cache-limit=1Mi"]).await;
    scene.webapp("before", json!({})).await;
    scene.until("webapp serves", || scene.own("Deployment", "before")).await;
    let large = |i: usize| format!("large{i}");
    for i in 0..8 {
        scene
            .apply(json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"namespace": scene.namespace, "name": large(i)},
                "data": {"text": "x".repeat(256 << 10)}}))
            .await;
    }
    // It reads every ConfigMap; of those webapp only needs its own.
    scene.install_fixture("greeter").await;
    let annotation = async |name: &str| {
        let map = scene.get(&path("ConfigMap", HOST, "greeter-plugin")).await?;
        map["metadata"]["annotations"][name].as_str().map(str::to_owned)
    };
    let message = scene
        .until("greeter is told that there is no room", || async {
            let message = annotation("windlass.dev/message").await?;
            message.contains("E180").then_some(message)
        })
        .await;
    assert!(message.contains("1 MiB") && message.contains("--cache-limit"), "{message}");
    scene.webapp("after", json!({})).await;
    scene.until("webapp goes on", || scene.own("Deployment", "after")).await;
    for i in 0..8 {
        scene.delete(&scene.path("ConfigMap", &large(i))).await;
    }
    scene.widget("w", json!({})).await;
    scene.until("greeter serves", || scene.own("ConfigMap", "w-greeting")).await;
    scene.all().await[0].check_alive().expect("the host was never restarted");
}

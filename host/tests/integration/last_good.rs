//! Plugins whose newest version does not work: what served before goes on, even when every
//! process that knew it is gone; and plugins that fail too often are left alone.

use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};
use windlass_core::name::Digest;

use crate::scene::{HOST, Scene, built, path};

fn plugin_path(plugin: &str) -> String {
    path("ConfigMap", HOST, &format!("{plugin}-plugin"))
}

/// Waits until the plugin's ConfigMap says so.
async fn state(scene: &Scene, plugin: &str, state: &str, says: &str) -> Value {
    scene
        .until(&format!("the ConfigMap says {state}: {says}"), || async {
            let map = scene.get(&plugin_path(plugin)).await?;
            let note = &map["metadata"]["annotations"];
            let message = note["windlass.dev/message"].as_str().unwrap_or_default();
            (note["windlass.dev/state"] == state && message.contains(says)).then(|| map.clone())
        })
        .await
}

/// The copy that the host keeps, once it is there.
async fn copy(scene: &Scene, name: &str) -> Value {
    let path = path("ConfigMap", HOST, name);
    scene.until("a copy is kept", || scene.get(&path)).await
}

/// Waits until the widget's greeting is this.
async fn greets(scene: &Scene, widget: &str, text: &str) {
    let name = format!("{widget}-greeting");
    scene
        .until(&format!("{name} says {text:?}"), || async {
            (scene.own("ConfigMap", &name).await?["data"]["text"] == text).then_some(())
        })
        .await;
}

/// Kills every replica and starts as many others, which know nothing.
async fn replace_all(scene: &Scene, before: &[&str], after: &[&str]) {
    for name in before {
        scene.take(name).await.kill().await.expect("it ran");
    }
    for name in after {
        scene.start(name, &[]).await;
    }
    scene.ready().await;
}

async fn debug_view(scene: &Scene, at: usize) -> Value {
    let (_, text) = scene.all().await[at].ask("/debug/plugins").await.expect("it answers");
    serde_json::from_str(&text).expect("json")
}

#[tokio::test]
async fn three_new_replicas_serve_the_last_good_version_while_the_config_map_is_broken() {
    let scene = Scene::fresh("lastgood").await;
    scene.install_fixture("greeter").await;
    scene.patch(&plugin_path("greeter"), json!({"data": {"settings.yaml": "text: moin\n"}})).await;
    scene.replicas(3, &[]).await;
    scene.widget("w", json!({})).await;
    greets(&scene, "w", "moin").await;
    let kept = copy(&scene, "windlass-good-greeter").await;
    let labels = &kept["metadata"]["labels"];
    assert_eq!(
        (&labels["windlass.dev/good"], &labels["windlass.dev/plugin"]),
        (&json!("greeter"), &Value::Null)
    );
    let plugin = scene.get(&plugin_path("greeter")).await.expect("it is there");
    assert_eq!(kept["metadata"]["ownerReferences"][0]["uid"], plugin["metadata"]["uid"]);
    assert_eq!(kept["binaryData"], plugin["binaryData"]);

    scene.install("greeter", b"\x89PNG not a component").await;
    state(&scene, "greeter", "refused", "goes on serving").await;
    replace_all(
        &scene,
        &["windlass-0", "windlass-1", "windlass-2"],
        &["windlass-3", "windlass-4", "windlass-5"],
    )
    .await;
    for replica in 0..3 {
        let view = debug_view(&scene, replica).await;
        assert_eq!(view[0]["serving"]["lastGood"], true, "{view}");
        assert_eq!(view[0]["state"], "refused");
    }
    scene.leader().await;
    scene.widget("late", json!({})).await;
    greets(&scene, "late", "moin").await;
    let map = state(&scene, "greeter", "refused", "which the host had kept, goes on serving").await;
    let message = map["metadata"]["annotations"]["windlass.dev/message"].as_str().expect("a text");
    for part in [
        "E110 NotWasm",
        "plugin greeter",
        "ConfigMap windlass-system/greeter-plugin",
        "plugin.wasm.zst",
        "0.1.0 (",
    ] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert_eq!(
        copy(&scene, "windlass-good-greeter").await["metadata"]["resourceVersion"],
        kept["metadata"]["resourceVersion"],
        "what was kept is not touched"
    );

    scene.install("greeter", &built("windlass-fixtures", Some("greeter_loud")).await).await;
    state(&scene, "greeter", "serving", "version 0.2.0").await;
    greets(&scene, "late", "MOIN").await;
    scene
        .until("the new version is the last good one", || async {
            let now = scene.get(&path("ConfigMap", HOST, "windlass-good-greeter")).await?;
            (now["binaryData"] != kept["binaryData"]).then_some(())
        })
        .await;
}

/// Writes the ConfigMap of one of two parts.
async fn part(scene: &Scene, number: usize, bytes: &[u8], whole: &Digest) {
    let name = if number == 1 { "greeter-plugin".to_owned() } else { format!("greeter-plugin-{number}") };
    let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
    scene
        .apply(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": HOST, "labels": {"windlass.dev/plugin": "greeter"},
                "annotations": {"windlass.dev/part": format!("{number}-of-2"), "windlass.dev/whole": whole.as_str()}},
            "binaryData": {"plugin.wasm.zst": encoded},
        }))
        .await;
}

#[tokio::test]
async fn a_plugin_in_parts_comes_whole_goes_on_when_one_breaks_and_is_kept_part_by_part() {
    let scene = Scene::fresh("parts").await;
    let wasm = built("windlass-fixtures", Some("greeter")).await;
    let packed = zstd::encode_all(&wasm[..], 3).expect("in memory");
    let whole = Digest::of(&packed);
    let (first, second) = packed.split_at(packed.len() / 2);
    part(&scene, 1, first, &whole).await;
    scene.replicas(1, &[]).await;
    state(&scene, "greeter", "refused", "E118 PartsIncomplete").await;
    part(&scene, 2, second, &whole).await;
    state(&scene, "greeter", "serving", "version 0.1.0").await;
    scene.widget("w", json!({})).await;
    greets(&scene, "w", "hello").await;
    copy(&scene, "windlass-good-greeter").await;
    copy(&scene, "windlass-good-greeter.2").await;

    part(&scene, 2, b"nonsense", &whole).await;
    state(&scene, "greeter", "refused", "E132 DigestMismatch").await;
    replace_all(&scene, &["windlass-0"], &["windlass-1"]).await;
    assert_eq!(debug_view(&scene, 0).await[0]["serving"]["lastGood"], true);
    scene.leader().await;
    scene.widget("late", json!({})).await;
    greets(&scene, "late", "hello").await;
}

#[tokio::test]
async fn a_plugin_that_always_traps_is_quarantined_and_released_by_an_object_that_works() {
    let scene = Scene::fresh("quarantine").await;
    scene.install_fixture("traps").await;
    scene.install_fixture("greeter").await;
    scene.replicas(1, &[]).await;
    for i in 0..6 {
        scene.widget(&format!("bad{i}"), json!({"mode": "unreachable"})).await;
    }
    let map = state(
        &scene,
        "traps",
        "quarantined",
        "E201 Trap: plugin traps, ConfigMap windlass-system/traps-plugin",
    )
    .await;
    let message = map["metadata"]["annotations"]["windlass.dev/message"].as_str().expect("a text");
    assert!(message.contains("left alone until 20"), "{message}");
    let view = debug_view(&scene, 0).await;
    let traps =
        view.as_array().expect("a list").iter().find(|plugin| plugin["name"] == "traps").expect("known");
    assert_eq!(
        (&traps["state"], &traps["quarantine"]["refusal"]["code"]),
        (&json!("quarantined"), &json!("E201 Trap"))
    );
    let event = scene
        .until("an Event says it", || async {
            let events = scene.get(&format!("/api/v1/namespaces/{HOST}/events")).await?;
            let found = |event: &&Value| event["reason"] == "PluginQuarantined";
            events["items"].as_array()?.iter().find(found).cloned()
        })
        .await;
    assert_eq!(event["involvedObject"]["name"], "traps-plugin");
    let calls =
        || async { scene.all().await[0].metric("windlass_plugin_calls_total{plugin=\"traps\"").await };
    let before = calls().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(before.is_some_and(|calls| calls >= 5.0), "{before:?}");
    assert_eq!(before, calls().await, "nobody calls it");
    for i in 0..6 {
        let greeting = format!("bad{i}-greeting");
        scene.until("the greeter goes on", || scene.own("ConfigMap", &greeting)).await;
    }

    scene.widget("good", json!({})).await;
    scene
        .until("it is tried for an object that it has not failed on", || scene.own("ConfigMap", "good-traps"))
        .await;
    state(&scene, "traps", "serving", "version").await;
}

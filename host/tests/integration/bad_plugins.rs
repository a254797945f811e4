//! Plugins that fail: the object's Events say so, the rest of the host goes on.

use serde_json::json;

use crate::scene::{Scene, built, read};

#[tokio::test]
async fn a_failing_plugin_is_named_and_another_goes_on() {
    let scene = Scene::fresh("bad").await;
    scene.install_fixture("traps").await;
    scene.install_fixture("nonsense").await;
    scene.install_fixture("greeter").await;
    scene.replicas(1, &["--plugin-cpu-timeout=200ms"]).await;

    for (name, says) in [("trap", "E201 Trap"), ("overflow", "E206 StackOverflow")] {
        scene.widget(name, json!({"mode": name})).await;
        scene.event(name, "PassFailed", says).await;
        let greeting = format!("{name}-greeting");
        scene.until("the greeter goes on", || scene.own("ConfigMap", &greeting)).await;
        assert!(scene.own("ConfigMap", &format!("{name}-traps")).await.is_none());
    }
    // What a guest prints, a panic's text among it, is in the host's log with plugin, object and pass.
    let log = scene.all().await[0].log();
    let panic =
        log.lines().find(|line| line.contains("panics because spec.mode says so") && line.contains("pass="));
    let panic = panic.unwrap_or_else(|| panic!("no line with the panic:\n{log}"));
    assert!(panic.contains("traps") && panic.contains("/trap"), "{panic}");

    for (mode, says) in [
        ("invalid-json", "E220 InvalidJson"),
        ("foreign-kind", "E230 KindNotAllowed: v1/Secret"),
        ("other-namespace", "E233 NamespaceEscape"),
        ("reserved-annotation", "E235 ReservedField"),
        ("too-large", "E210 OutputTooLarge"),
    ] {
        scene.widget(mode, json!({"mode": mode})).await;
        let event = scene.event(mode, "PassFailed", says).await;
        let message = event["message"].as_str().expect("a text");
        assert!(message.starts_with("nonsense@") && message.contains("Next try in"), "{message}");
        let greeting = format!("{mode}-greeting");
        scene.until("the greeter goes on", || scene.own("ConfigMap", &greeting)).await;
    }

    // A mended object is reconciled at once, whatever its pause had grown to.
    scene.widget("trap", json!({"mode": ""})).await;
    scene.until("a mended object recovers", || scene.own("ConfigMap", "trap-traps")).await;
    for replica in scene.all().await.iter_mut() {
        replica.check_alive().expect("the host lives");
    }
}

#[tokio::test]
async fn a_looping_plugin_is_stopped_and_backs_off() {
    let scene = Scene::fresh("loop").await;
    scene.install_fixture("loops").await;
    scene.install_fixture("greeter").await;
    scene.replicas(1, &["--plugin-cpu-timeout=100ms"]).await;
    scene.widget("w", json!({})).await;
    scene.event("w", "PassFailed", "E202 Timeout").await;
    scene.until("the greeter goes on", || scene.own("ConfigMap", "w-greeting")).await;
    for (plugin, most) in [("loops", 1.0), ("greeter", 4.0)] {
        let metric = format!("controller_runtime_max_concurrent_reconciles{{controller=\"{plugin}\"}}");
        assert_eq!(scene.all().await[0].metric(&metric).await, Some(most), "{plugin}");
    }
    let errors =
        || async { scene.all().await[0].metric("windlass_plugin_errors_total{plugin=\"loops\"").await };
    let first = scene.until("the metric counts", errors).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let later = errors().await.expect("a metric");
    assert!(later - first <= 6.0, "pauses grow: {first} then {later} failures in 3 s");
}

#[tokio::test]
async fn a_loop_steps_back_behind_everybody_else() {
    let scene = Scene::fresh("nice").await;
    scene.install_fixture("loops").await;
    scene.replicas(1, &[]).await;
    scene.widget("w", json!({})).await;
    scene.until("its thread is nice", || async { levels(&scene).await?.contains(&10).then_some(()) }).await;
    scene.event("w", "PassFailed", "E202 Timeout").await;
    // Its lane goes on with a thread as it was before.
    scene.until("it loops again", || async { levels(&scene).await?.contains(&10).then_some(()) }).await;
    let over = || async { (levels(&scene).await? == [0]).then_some(()) };
    scene.until("the lane is as it was", over).await;
}

/// Nice levels of the threads that run calls.
async fn levels(scene: &Scene) -> Option<Vec<i32>> {
    let (_, view) = scene.all().await[0].ask("/debug/sandbox").await.ok()?;
    let view: serde_json::Value = serde_json::from_str(&view).ok()?;
    let tasks = std::fs::read_dir(format!("/proc/{}/task", view["worker"]["pid"])).ok()?;
    let level = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        let (before, after) = stat.rsplit_once(") ")?;
        // The level is the 19th field, and the state the third.
        before.ends_with("(lane").then(|| after.split(' ').nth(16)?.parse().ok())?
    };
    Some(tasks.filter_map(|task| level(task.ok()?)).collect())
}

#[tokio::test]
async fn a_broken_plugin_keeps_the_last_good_one_serving() {
    let scene = Scene::fresh("broken").await;
    scene.install_fixture("greeter").await;
    scene.replicas(1, &[]).await;
    scene.widget("w", json!({"text": "before"})).await;
    scene.until("the child exists", || scene.own("ConfigMap", "w-greeting")).await;
    let plugin = "/api/v1/namespaces/windlass-system/configmaps/greeter-plugin";
    let state = |state: &'static str, says: &'static str| {
        let scene = &scene;
        async move {
            scene
                .until(&format!("the ConfigMap says {state}: {says}"), || async {
                    let map = scene.get(plugin).await?;
                    let note = &map["metadata"]["annotations"];
                    let message = note["windlass.dev/message"].as_str().unwrap_or_default();
                    (note["windlass.dev/state"] == state && message.contains(says)).then_some(())
                })
                .await;
        }
    };
    state("serving", "").await;
    scene.install("greeter", b"\x89PNG not a component").await;
    state("refused", "E110 NotWasm").await;
    state("refused", "goes on serving").await;
    scene.widget("w", json!({"text": "after"})).await;
    scene
        .until("the last good version serves", || async {
            let child = scene.own("ConfigMap", "w-greeting").await?;
            (child["data"]["text"] == "after").then_some(())
        })
        .await;
    for (fixture, code) in [("needs_sockets", "E120 ForbiddenImport"), ("bad_manifest", "E170 BadManifest")] {
        scene.install("greeter", &built("windlass-fixtures", Some(fixture)).await).await;
        state("refused", code).await;
    }
    scene.install("greeter", &built("windlass-fixtures", Some("sibling")).await).await;
    state("refused", "E172 NameMismatch").await;
    scene.install("greeter", &built("windlass-fixtures", Some("greeter")).await).await;
    state("serving", "").await;
}

#[tokio::test]
async fn a_broken_plugin_and_a_missing_crd_leave_every_replica_ready() {
    let scene = Scene::fresh("ready").await;
    scene.install("broken", b"nonsense").await;
    // The WebApp CRD is not installed: its plugin serves, and waits for the kind.
    scene.control().apply(&read("plugins/webapp/rbac.yaml")).await.expect("the rights apply");
    scene.install("webapp", &built("webapp", None).await).await;
    scene.replicas(3, &[]).await;
    for replica in scene.all().await.iter() {
        let (_, plugins) = replica.ask("/debug/plugins").await.expect("it answers");
        assert!(plugins.contains("E110") && plugins.contains("serving"), "{plugins}");
    }
}

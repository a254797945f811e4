//! Rows that cannot happen, and what makes that so.

use std::time::Duration;

use serde_json::json;
use windlass_core::limits::Limits;
use windlass_core::name::PluginName;
use windlass_plugin::{Loader, Source};

use super::calls::KIND;
use super::guest::{Answer, Guest, importing};
use crate::scene::Scene;

fn load(component: &[u8]) -> Result<windlass_plugin::Plugin, windlass_core::code::Refusal> {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let name = PluginName::try_new("guest").expect("valid");
    loader.load(&Source::local(name.clone(), component.into(), None), &name)
}

/// B22: there is nothing in the host that a plugin could wait for. What would let it, in any of
/// the interfaces that might offer it, is no import that links; time spent otherwise is CPU time,
/// and ends with E202.
#[test]
fn a_plugin_cannot_wait_because_nothing_that_waits_is_linked() {
    for (package, interface) in [
        ("wasi:io@0.2.6", "poll"),
        ("wasi:sockets@0.2.6", "tcp"),
        ("wasi:sockets@0.2.6", "udp"),
        ("wasi:sockets@0.2.6", "ip-name-lookup"),
        ("wasi:http@0.2.6", "outgoing-handler"),
        ("wasi:filesystem@0.2.6", "types"),
        ("wasi:messaging@0.2.0", "consumer"),
        ("wasi:threads@0.2.0", "threads"),
    ] {
        let refusal = load(&importing(package, interface)).expect_err(package);
        assert!(refusal.code.to_string().starts_with("E120"), "{package}/{interface}: {refusal}");
    }
}

/// B41: each call gets an instance that nobody has used; what an earlier one wrote is gone.
#[tokio::test]
async fn a_plugin_cannot_remember_because_each_call_begins_anew() {
    let scene = Scene::fresh("anew").await;
    // It counts in the text of its child, which lies in its memory: 0 at first.
    let text = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "counter"},
        "data": {"calls": "#0"}})
    .to_string();
    let at = text.find("#0").expect("it is there") + 1;
    // The child is the first text after those of the manifest; found by its mark.
    let counting = format!(
        "(local $at i32)
         (local.set $at (i32.const 1024))
         (loop $on
           (local.set $at (i32.add (local.get $at) (i32.const 1)))
           (br_if $on (i32.ne (i32.load8_u (local.get $at)) (i32.const {mark}))))
         (local.set $at (i32.add (local.get $at) (i32.const 1)))
         (i32.store8 (local.get $at) (i32.add (i32.load8_u (local.get $at)) (i32.const 1)))",
        mark = text.as_bytes()[at - 1],
    );
    let guest = Guest {
        name: "counts",
        primary: KIND,
        body: &counting,
        answer: Answer::children([text]),
        ..Guest::default()
    };
    scene.install("counts", &guest.build()).await;
    scene.replicas(1, &[]).await;
    for turn in 0..10 {
        scene.widget("w", json!({"turn": turn})).await;
        scene
            .until("it has decided again", || async {
                let replicas = scene.all().await;
                let calls = replicas[0].metric("windlass_plugin_calls_total{plugin=\"counts\"").await?;
                (calls > f64::from(turn)).then_some(())
            })
            .await;
    }
    tokio::time::timeout(Duration::from_secs(10), scene.silence()).await.expect("it settles");
    let child = scene.own("ConfigMap", "counter").await.expect("it is there");
    assert_eq!(child["data"]["calls"], "#1", "each call was the first");
}

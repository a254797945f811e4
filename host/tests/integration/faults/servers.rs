//! Servers: the API server is gone or restarted, etcd is killed, frozen or full.

use std::time::{Duration, Instant};

use http::Request;
use serde_json::{Value, json};
use windlass_testbed::{Options, Server, Signal, Stop};

use super::stand::Stand;
use crate::scene::{HOST, count, path};

/// F09, F10: without an API server for a while, and again for as long as a restart takes.
#[tokio::test]
async fn an_api_server_that_goes_and_comes_is_caught_up_with_and_not_asked_for_everything() {
    let stand = Stand::new("f09").await;
    let control = stand.scene.control();
    control.stop_apiserver(Stop::Kill).await.expect("it ran");
    tokio::time::sleep(Duration::from_secs(u64::try_from(count(15, 600)).expect("small"))).await;
    assert!(stand.scene.all().await[0].is_ready().await, "an outage blocks no rollout");
    control.start_apiserver().await.expect("it starts");
    let ended = Instant::now();
    stand.stir().await;
    stand.settles("an outage", ended).await;

    let mark = stand.scene.mark();
    stand.stir().await;
    control.restart_apiserver(Stop::Term).await.expect("it restarts");
    let ended = Instant::now();
    stand.stir().await;
    stand.settles("a restart", ended).await;
    for kind in ["widgets", "configmaps"] {
        let lists = stand.lists(mark, kind);
        // ConfigMaps are watched twice: for plugins, and for the plugins themselves.
        let watches = if kind == "configmaps" { 2 } else { 1 };
        assert!(lists <= watches, "{lists} lists of {kind}, at most one for each of {watches} watches");
    }
}

/// F10: the garbage collector's watch ends with the API server's. When it lists again and finds an object of the same name it takes it for the
/// one that it knew, and what that one owned is never collected (60 of 60 tries, Kubernetes 1.37.2).
#[tokio::test]
async fn what_is_made_again_while_the_collector_looks_away_gets_children_of_its_own() {
    const NAMES: [&str; 4] = ["again-0", "again-1", "again-2", "again-3"];
    let stand = Stand::new("f10").await;
    let scene = &stand.scene;
    // It looks for new kinds every thirty seconds, and asks about each single owner until then.
    tokio::time::sleep(Duration::from_secs(32)).await;
    for name in NAMES {
        scene.widget(name, json!({"text": "before"})).await;
    }
    let said = async |name: &str, text: &str| {
        let child = scene.own("ConfigMap", &format!("{name}-greeting")).await?;
        let widget = scene.own("Widget", name).await?;
        let ours = child["metadata"]["ownerReferences"][0]["uid"] == widget["metadata"]["uid"];
        (child["data"]["text"] == text && ours).then_some(())
    };
    for name in NAMES {
        scene.until("a child", || said(name, "before")).await;
    }
    scene.control().restart_apiserver(Stop::Term).await.expect("it restarts");
    for name in NAMES {
        scene.delete(&path("Widget", &scene.namespace, name)).await;
        scene.widget(name, json!({"text": "after"})).await;
    }
    for name in NAMES {
        scene.until("a child of the new one", || said(name, "after")).await;
    }
}

/// F11: whoever wrote then does not know what became of it.
#[tokio::test]
async fn an_etcd_that_is_killed_or_frozen_costs_no_write_and_makes_none_twice() {
    let stand = Stand::new("f11").await;
    let control = stand.scene.control();
    let mark = stand.scene.mark();
    stand.stir().await;
    control.stop(Server::Etcd, Stop::Kill).await.expect("it ran");
    control.start_again(Server::Etcd).await.expect("it starts");
    let ended = Instant::now();
    stand.stir().await;
    stand.settles("a killed etcd", ended).await;

    stand.stir().await;
    control.signal(Server::Etcd, Signal::STOP).expect("it runs");
    tokio::time::sleep(Duration::from_secs(u64::try_from(count(12, 20)).expect("small"))).await;
    control.signal(Server::Etcd, Signal::CONT).expect("it runs");
    let ended = Instant::now();
    stand.stir().await;
    stand.settles("a frozen etcd", ended).await;
    stand.made_at_most(mark, "w0-greeting", 0);
    // Once each time that it was deleted.
    stand.made_at_most(mark, "w1-greeting", 4);
}

/// One call of etcd's own API, as JSON over HTTP.
async fn etcd(stand: &Stand, path: &str, body: Value) -> Value {
    let url = stand.scene.control().etcd_url().expect("an etcd of ours");
    let client = kube::Client::try_from(kube::Config::new(url.parse().expect("a URL"))).expect("a client");
    let request = Request::post(path).header("content-type", "application/json");
    let request = request.body(body.to_string().into_bytes()).expect("a request");
    client.request(request).await.unwrap_or_else(|e| panic!("etcd {path}: {e}"))
}

/// F13.
#[tokio::test]
async fn while_etcd_is_full_writes_are_tried_ever_more_rarely_and_then_made_good() {
    let quota = vec!["--quota-backend-bytes=25165824".to_owned()];
    let stand = Stand::with("f13", Options { etcd_flags: quota, ..Options::default() }).await;
    let filler = |i: usize| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"fill": "x".repeat(900_000)},
            "metadata": {"name": format!("filler-{i}"), "namespace": HOST}})
    };
    let mut filled = 0;
    while stand.scene.try_apply(&filler(filled)).await.is_ok() {
        filled += 1;
        assert!(filled < 60, "etcd is never full");
    }
    let mark = stand.scene.mark();
    // What is deleted can be deleted, and the child cannot be made again.
    let child = stand.scene.path("ConfigMap", "w1-greeting");
    stand.scene.try_delete(&child).await.expect("a delete needs no room");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let attempts = stand.writes_to(mark, "w1-greeting");
    eprintln!("F13: {} attempts in 10 s: {:?}", attempts.len(), attempts.first().map(|write| write.code()));
    assert!(attempts.len() <= 10, "{} attempts in 10 s", attempts.len());

    for i in 0..filled {
        let path = format!("/api/v1/namespaces/{HOST}/configmaps/filler-{i}");
        stand.scene.try_delete(&path).await.expect("a delete needs no room");
    }
    let range =
        etcd(&stand, "/v3/kv/range", json!({"key": "AA==", "range_end": "AA==", "count_only": true})).await;
    let revision = range["header"]["revision"].clone();
    etcd(&stand, "/v3/kv/compaction", json!({"revision": revision, "physical": true})).await;
    etcd(&stand, "/v3/maintenance/defragment", json!({})).await;
    let alarms = etcd(&stand, "/v3/maintenance/alarm", json!({"action": "GET"})).await;
    for alarm in alarms["alarms"].as_array().into_iter().flatten() {
        let member = &alarm["memberID"];
        let over = json!({"action": "DEACTIVATE", "memberID": member, "alarm": "NOSPACE"});
        etcd(&stand, "/v3/maintenance/alarm", over).await;
    }
    let ended = Instant::now();
    stand.stir().await;
    stand.settles("a full etcd", ended).await;
}

//! An API server that has too much to do says so to one plugin: that one waits, all others go on.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use windlass_testbed::AuditEvent;
use windlass_testbed::faultd::{Action, Faultd, Reply, Rule, Way};

use crate::scene::{HOST, Scene};

const ACCOUNT: &str = "system:serviceaccount:windlass-system:plugin-greeter";

#[tokio::test]
async fn a_plugin_that_is_told_to_wait_sends_nothing_before_that_and_the_others_go_on() {
    let scene = Scene::fresh("pressure").await;
    for name in ["greeter", "sibling"] {
        scene.install_fixture(name).await;
    }
    let faultd = Faultd::start(scene.control()).expect("a proxy");
    let token = scene.control().service_account_token(HOST, "windlass").await.expect("a token");
    let port = faultd.listen().await.expect("a port");
    let kubeconfig = port.kubeconfig(scene.control(), "windlass-0", &token).expect("a kubeconfig");
    scene.keep(scene.replica_with("windlass-0", &kubeconfig, &[]).expect("the host starts")).await;
    scene.ready().await;
    scene.leader().await;

    let wait = Duration::from_secs(4);
    let told = Reply::status(429).header("retry-after", "4");
    let once = Rule::new(Action::Answer(Way::Request, told)).path("fieldManager=windlass%2Fgreeter").first(1);
    let rule = port.rule(once);
    let mark = scene.mark();
    // One key alone finds it out: there is nothing on the wire beside it.
    let before = Timestamp::now();
    scene.widget("first", json!({"text": "hi"})).await;
    let heard = async || {
        let replicas = scene.all().await;
        replicas.iter().any(|replica| replica.log().contains("too many requests")).then_some(())
    };
    scene.until("the plugin is told to wait, and the host has heard it", heard).await;
    for i in 0..20 {
        scene.widget(&format!("w{i}"), json!({"text": "hi"})).await;
    }

    // What comes up meanwhile is the other plugin's alone.
    let lease = async || {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{HOST}/leases/windlass");
        Some(scene.get(&path).await?["spec"]["renewTime"].as_str()?.to_owned())
    };
    let renewed = lease().await;
    scene.widget("late", json!({"text": "hi"})).await;
    scene.until("the other plugin goes on", || scene.own("ConfigMap", "late-sibling")).await;
    scene.until("the Lease is renewed", async || (lease().await != renewed).then_some(())).await;
    scene.until("in the end all is as it should be", || scene.own("ConfigMap", "late-greeting")).await;
    for i in 0..20 {
        let name = format!("w{i}-greeting");
        scene.until(&format!("{name} exists"), || scene.own("ConfigMap", &name)).await;
    }

    let events = scene.control().audit().and_then(|audit| audit.since(mark)).expect("an audit log");
    let arrived = |event: &AuditEvent| event.request_received_timestamp.parse::<Timestamp>().expect("a time");
    let of_greeter = events
        .iter()
        .filter(|event| event.is_complete() && event.is_write() && event.acting_user().username == ACCOUNT);
    let over = before + wait;
    let early: Vec<_> = of_greeter
        .filter(|event| arrived(event) < over)
        .map(|event| format!("{} {}", event.request_received_timestamp, event.request_uri))
        .collect();
    assert!(early.is_empty(), "told after {before} to wait for {wait:?}: {early:#?}");
    assert_eq!(rule.hits(), 1);
}

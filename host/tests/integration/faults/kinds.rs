//! Kinds: a CRD goes and comes back otherwise, or its objects cannot be read.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_testbed::faultd::{Action, EventFault, Rule};

use super::stand::Stand;
use crate::scene::{PATIENCE, condition, read};

const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.fixtures.windlass.dev";

async fn replace(stand: &Stand, crd: &str, collection: &str) {
    stand.scene.delete(CRD).await;
    let gone = async || stand.scene.get(CRD).await.is_none().then_some(());
    stand.scene.until("the CRD is gone", gone).await;
    stand.scene.control().apply(crd).await.expect("the CRD applies");
    let served = async || stand.scene.get(collection).await;
    stand.scene.until("the kind is served again", served).await;
}

/// F27: first without namespaces, then as it was.
#[tokio::test]
async fn a_crd_that_comes_back_with_another_scope_is_believed_and_confuses_nobody() {
    let stand = Stand::new("f27").await;
    let crd = read("plugins/fixtures/crd.yaml");
    let root = "/apis/fixtures.windlass.dev/v1alpha1/widgets";
    replace(&stand, &crd.replace("scope: Namespaced", "scope: Cluster"), root).await;
    let mark = stand.scene.mark();
    let widget = json!({"apiVersion": "fixtures.windlass.dev/v1alpha1", "kind": "Widget",
        "metadata": {"name": "w0"}, "spec": {"text": "wide"}});
    stand.scene.apply_cluster(root, widget).await;
    let noticed = async || {
        let log = stand.scene.all().await[0].log();
        log.contains("namespaced=false").then_some(())
    };
    stand.scene.until("the host knows the new scope", noticed).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let made = stand.writes_to(mark, "w0-greeting");
    let made: Vec<_> = made.iter().filter(|write| write.code() == 201).map(|w| &w.request_uri).collect();
    assert!(made.is_empty(), "a child in a namespace for an object without one: {made:?}");

    replace(&stand, &crd, &stand.scene.path("Widget", "").trim_end_matches('/').to_owned()).await;
    let ended = Instant::now();
    for i in 0..4 {
        stand.say(&format!("w{i}"), "again").await;
    }
    stand.settles("a CRD that went and came back", ended).await;
}

/// F28: objects of one kind cannot be converted to the version that is asked for.
#[tokio::test]
async fn a_kind_that_cannot_be_listed_holds_up_no_other_kind() {
    let stand = Stand::new("f28").await;
    stand.scene.install_webapp().await;
    let ready = async |name: &str| {
        stand
            .scene
            .until("a WebApp is ready", async || {
                let app = stand.scene.own("WebApp", name).await?;
                (condition(&app, "Ready") == Some("True")).then_some(())
            })
            .await;
    };
    stand.scene.webapp("before", json!({})).await;
    ready("before").await;

    // Another version is what is stored from now on.
    let crd = stand.scene.get(CRD).await.expect("it is there");
    let mut newer = crd["spec"]["versions"][0].clone();
    newer["name"] = "v1beta1".into();
    let mut older = newer.clone();
    (older["name"], older["storage"]) = ("v1alpha1".into(), false.into());
    stand.scene.patch(CRD, json!({"spec": {"versions": [older, newer]}})).await;
    stand.say("w0", "stored anew").await;
    stand.settles("another version is stored", Instant::now()).await;
    let nobody = json!({"strategy": "Webhook", "webhook": {
        "conversionReviewVersions": ["v1"], "clientConfig": {"url": "https://127.0.0.1:1/convert"}}});
    stand.scene.patch(CRD, json!({"spec": {"conversion": nobody}})).await;
    let widgets = stand.scene.path("Widget", "").trim_end_matches('/').to_owned();
    let fails = async || stand.scene.get(&widgets).await.is_none().then_some(());
    stand.scene.until("the kind cannot be listed", fails).await;

    let mark = stand.scene.mark();
    let again = Rule::new(Action::Events(EventFault::Gone)).resource("widgets");
    let again = stand.port.rule(again.first(1));
    again.hit(1, PATIENCE).await.expect("a stream is open");
    stand.scene.webapp("beside", json!({})).await;
    ready("beside").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let lists = stand.lists(mark, "widgets");
    assert!((1..=12).contains(&lists), "{lists} lists of a kind that cannot be listed");

    stand
        .scene
        .patch(CRD, json!({"spec": {"conversion": {"strategy": "None", "webhook": Value::Null}}}))
        .await;
    let ended = Instant::now();
    stand.stir().await;
    stand.settles("a kind that cannot be listed", ended).await;
}

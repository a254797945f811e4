//! Kinds: a CRD goes and comes back otherwise, or its objects cannot be read.

use std::time::{Duration, Instant};

use serde_json::json;
use windlass_testbed::faultd::{Action, EventFault, Reply, Rule, Verb, Way};
use windlass_testbed::{AuditEvent, ConversionWebhook};

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

    replace(&stand, &crd, stand.scene.path("Widget", "").trim_end_matches('/')).await;
    let ended = Instant::now();
    for i in 0..4 {
        stand.say(&format!("w{i}"), "again").await;
    }
    stand.settles("a CRD that went and came back", ended).await;
}

/// F28, as a client sees it: objects of one kind cannot be converted to the version that is asked for, and lists of it fail.
#[tokio::test]
async fn a_kind_that_cannot_be_listed_holds_up_no_other_kind() {
    let stand = Stand::new("f28").await;
    stand.scene.install_webapp().await;
    stand.is_kept("webapp").await;
    let mark = stand.scene.mark();
    let fails = Rule::new(Action::Answer(Way::Request, Reply::status(500))).resource("widgets");
    let fails = stand.port.rule(fails.verb(Verb::List).verb(Verb::Watch));
    let again = Rule::new(Action::Events(EventFault::Gone)).resource("widgets");
    let again = stand.port.rule(again.first(1));
    again.hit(1, PATIENCE).await.expect("a stream is open");
    stand.stir().await;
    stand.scene.webapp("beside", json!({})).await;
    stand
        .scene
        .until("another kind goes on", async || {
            let app = stand.scene.own("WebApp", "beside").await?;
            (condition(&app, "Ready") == Some("True")).then_some(())
        })
        .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let asked = fails.hits();
    assert!((1..=20).contains(&asked), "{asked} attempts at a kind that cannot be listed");
    fails.remove();
    stand.settles("a kind that cannot be listed", Instant::now()).await;
    assert_eq!(stand.lists(mark, "widgets"), 1, "one list for all that was missed");
}

/// The widgets in a second version, in which all are stored, and which only a webhook can convert.
fn stored_otherwise(webhook: &ConversionWebhook) -> String {
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let text = |name: &str| json!({"type": "string", "description": name});
    let schema = json!({"type": "object", "properties": {"apiVersion": text("a"), "kind": text("k"),
        "metadata": {"type": "object"}, "spec": any, "status": any}});
    let second = json!({"name": "v1beta1", "served": true, "storage": true, "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": schema}});
    let crd = read("plugins/fixtures/crd.yaml").replace("storage: true", "storage: false");
    format!("{crd}\n    - {second}\n  conversion: {}\n", webhook.conversion())
}

/// F28: the storage version changes, and then what converts is down.
#[tokio::test]
async fn a_conversion_webhook_that_is_down_stops_its_own_kind_only_and_is_forgotten_when_it_is_back() {
    let stand = Stand::new("f28-webhook").await;
    stand.scene.install_webapp().await;
    stand.is_kept("webapp").await;
    let webhook =
        ConversionWebhook::start(stand.scene.control(), ("v1alpha1", "text"), ("v1beta1", "words")).await;
    let webhook = webhook.expect("a webhook");
    stand.scene.control().apply(&stored_otherwise(&webhook)).await.expect("the CRD applies");
    let second = format!("/apis/fixtures.windlass.dev/v1beta1/namespaces/{}/widgets", stand.scene.namespace);
    stand.scene.until("the second version is served", async || stand.scene.get(&second).await).await;
    stand.stir().await;
    stand.scene.patch(&format!("{second}/w1"), json!({"spec": {"words": "in other words"}})).await;
    stand.want("w1", Some("in other words"));
    stand.settles("another storage version", Instant::now()).await;
    assert!(webhook.asked() > 0, "what is stored is converted");

    webhook.set_up(false);
    // It can be stored, and the version that the plugin is about cannot be had of it.
    let made = json!({"apiVersion": "fixtures.windlass.dev/v1beta1", "kind": "Widget",
        "metadata": {"name": "beta", "namespace": stand.scene.namespace}, "spec": {"words": "meanwhile"}});
    stand.scene.apply_cluster(&second, made).await;
    stand.want("beta", Some("meanwhile"));
    let first = second.replace("v1beta1", "v1alpha1");
    let fails = async || stand.scene.get(&first).await.is_none().then_some(());
    stand.scene.until("the kind cannot be listed", fails).await;
    let mark = stand.scene.mark();
    let again = stand.port.rule(Rule::new(Action::Events(EventFault::Gone)).resource("widgets").first(1));
    again.hit(1, PATIENCE).await.expect("a stream is open");
    stand.scene.webapp("beside", json!({})).await;
    let beside = async || {
        let app = stand.scene.own("WebApp", "beside").await?;
        (condition(&app, "Ready") == Some("True")).then_some(())
    };
    stand.scene.until("another kind goes on", beside).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut requests = stand.requests(mark);
    requests.retain(|request| {
        !request.is_write() && request.object_ref.as_ref().is_some_and(|of| of.resource == "widgets")
    });
    let codes: Vec<u16> = requests.iter().map(AuditEvent::code).collect();
    eprintln!("F28: asked for the kind that cannot be converted, and answered {codes:?}");
    assert!(codes.len() <= 20 && codes.iter().any(|code| *code >= 429), "{codes:?}");
    assert!(stand.scene.all().await[0].is_ready().await, "one kind stops no rollout");
    webhook.set_up(true);
    stand.settles("a conversion webhook that was down", Instant::now()).await;
}

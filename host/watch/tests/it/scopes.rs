//! What of a kind is asked for, kept and routed when manifests select.

use windlass_core::code::Code;
use windlass_core::manifest::Manifest;
use windlass_core::name::Digest;
use windlass_core::ports::Cache as _;
use windlass_core::scope::Scope;

use crate::lab::*;

const PARTIAL: &str = "application/json;as=PartialObjectMetadata";

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|word| (*word).to_owned()).collect()
}

/// A plugin on Webs that reads Secrets within this scope.
fn reader(name: &str, scope: Scope) -> Manifest {
    let mut manifest = manifest(name, "x.dev/v1/Web", &[], &["v1/Secret"]);
    manifest.reads[0].scope = scope.sorted();
    manifest
}

/// Lists the Webs of a lab, of which there are none.
async fn no_webs(lab: &mut Lab) -> Stream {
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    lab.api.list(WEBS).await.objects(10, &[]);
    lab.api.watch(WEBS, "10").await.stream()
}

#[tokio::test(start_paused = true)]
async fn one_namespace_a_selector_and_bare_metadata_are_what_is_asked_for() {
    let mut lab = Lab::new();
    let scope = Scope {
        labels: vec![("tier".into(), Some("web".into())), ("team".into(), None)],
        namespaces: words(&["ns"]),
        metadata_only: true,
        ..Scope::default()
    };
    lab.want(&reader("p", scope));
    let _webs = no_webs(&mut lab).await;
    lab.api.call("/api/v1").await.json(CORE_GROUP);
    let path = "/api/v1/namespaces/ns/secrets?";
    let list = lab.api.list(path).await;
    assert_eq!(list.address, format!("{path}labelSelector=tier%3Dweb%2Cteam&limit=500"));
    assert!(list.accept.starts_with("application/json;as=PartialObjectMetadataList"), "{}", list.accept);
    let partial = labelled("s", 3, &[("tier", "web"), ("team", "a")]).replacen(
        '{',
        r#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","#,
        1,
    );
    list.objects(10, &[partial]);
    let watch = lab.api.watch(path, "10").await;
    assert!(watch.accept.starts_with(PARTIAL) && watch.address.contains("labelSelector=tier%3Dweb%2Cteam&"));
    let _watch = watch.stream();
    settle().await;
    let held = lab.cache().object(&reference("v1/Secret", "s")).expect("held");
    assert_eq!(held.gvk(), Some(gvk("v1/Secret")), "an object's own kind, not that of its form");
    assert_eq!(lab.status("v1/Secret").selector, "team,tier=web in namespace ns, metadata only");

    // Somebody needs the whole of it: listed again, and the same version is news.
    lab.want(&reader("q", Scope { namespaces: words(&["ns"]), ..Scope::default() }));
    assert!(!lab.cache().is_synced(&gvk("v1/Secret")), "a body that was not asked for is not there");
    lab.api.call("/api/v1").await.json(CORE_GROUP);
    let list = lab.api.list(path).await;
    assert_eq!(
        (list.address.as_str(), list.accept.as_str()),
        (&*format!("{path}limit=500"), "application/json")
    );
    let whole =
        labelled("s", 3, &[("tier", "web"), ("team", "a")]).replacen('{', r#"{"data":{"k":"dg=="},"#, 1);
    list.objects(11, &[whole]);
    let _watch = lab.api.watch(path, "11").await.stream();
    settle().await;
    let held = lab.cache().object(&reference("v1/Secret", "s")).expect("held");
    assert_eq!(held.value()["data"]["k"], "dg==");
}

#[tokio::test(start_paused = true)]
async fn what_lies_between_two_selectors_is_asked_for_and_not_kept() {
    let mut lab = Lab::new();
    let labelled_with = |value: &str| Scope::of_labels([("tier".to_owned(), value.to_owned())]);
    lab.want(&reader("p", labelled_with("web")));
    lab.want(&reader("q", labelled_with("db")));
    let _webs = no_webs(&mut lab).await;
    lab.api.call("/api/v1").await.json(CORE_GROUP);
    let path = "/api/v1/secrets?";
    let list = lab.api.list(path).await;
    assert_eq!(list.address, format!("{path}labelSelector=tier&limit=500"));
    let tier = |name: &str, version: u64, value: &str| labelled(name, version, &[("tier", value)]);
    list.objects(10, &[tier("a", 1, "web"), tier("b", 2, "db"), tier("c", 3, "none")]);
    let watch = lab.api.watch(path, "10").await.stream();
    settle().await;
    assert_eq!(lab.held("v1/Secret"), ["a@1", "b@2"]);
    watch.event("MODIFIED", &tier("a", 11, "none"));
    watch.event("MODIFIED", &tier("c", 12, "db"));
    settle().await;
    assert_eq!(lab.held("v1/Secret"), ["b@2", "c@12"]);
    watch.event("MODIFIED", &tier("a", 13, "web"));
    settle().await;
    assert_eq!(lab.held("v1/Secret"), ["a@13", "b@2", "c@12"]);
}

#[tokio::test(start_paused = true)]
async fn a_primary_brings_keys_of_those_that_select_it() {
    let mut lab = Lab::new();
    let one = |name: &str, value: &str| {
        let selects = Scope::of_labels([("tier".to_owned(), value.to_owned())]);
        Manifest { selects, ..manifest(name, "x.dev/v1/Web", &[], &[]) }
    };
    lab.want(&one("p", "web"));
    lab.want(&one("q", "db"));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    let list = lab.api.list(WEBS).await;
    assert_eq!(list.address, format!("{WEBS}labelSelector=tier&limit=500"));
    let tier = |version: u64, value: &str| labelled("a", version, &[("tier", value)]);
    list.objects(10, &[tier(1, "web")]);
    let webs = lab.api.watch(WEBS, "10").await.stream();
    let keys: std::collections::BTreeSet<String> = lab.keys.take().await.into_iter().collect();
    assert_eq!(keys.into_iter().collect::<Vec<_>>(), ["p:ns/a"]);
    webs.event("MODIFIED", &tier(11, "db"));
    assert_eq!(lab.keys.take().await, ["p:ns/a", "q:ns/a"], "who loses it and who wins it");
    webs.event("MODIFIED", &tier(12, "db"));
    assert_eq!(lab.keys.take().await, ["q:ns/a"]);
    lab.watches.resync(None);
    assert_eq!(lab.keys.take().await, ["q:ns/a"]);
}

#[tokio::test(start_paused = true)]
async fn who_has_children_is_looked_at_although_it_is_not_selected() {
    let mut lab = Lab::new();
    let selects = Scope::of_labels([("tier".to_owned(), "web".to_owned())]);
    lab.want(&Manifest { selects, ..manifest("p", "x.dev/v1/Web", &["v1/ConfigMap"], &[]) });
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    lab.api.call("/api/v1").await.json(CORE_GROUP);
    lab.api.list(WEBS).await.objects(10, &[]);
    let _webs = lab.api.watch(WEBS, "10").await.stream();
    lab.api.list(CONFIG_MAPS).await.objects(10, &[child("c", 5, "sys", "p", "left")]);
    let _children = lab.api.watch(CONFIG_MAPS, "10").await.stream();
    lab.keys.take().await;
    lab.watches.resync(None);
    assert_eq!(lab.keys.take().await, ["p:ns/left"]);
}

#[tokio::test(start_paused = true)]
async fn a_field_that_the_api_server_refuses_holds_who_named_it_and_nobody_else() {
    let mut lab = Lab::new();
    let scope = Scope { fields: vec![("spec.none".into(), "1".into())], ..Scope::default() };
    lab.want(&reader("p", scope));
    lab.want(&reader("q", Scope { labels: vec![("tier".into(), None)], ..Scope::default() }));
    let _webs = no_webs(&mut lab).await;
    lab.api.call("/api/v1").await.json(CORE_GROUP);
    let tried = lab.api.list("/api/v1/secrets?").await;
    assert_eq!(tried.address, "/api/v1/secrets?fieldSelector=spec.none%3D1&limit=1");
    let status = r#"{"kind":"Status","code":400,"reason":"BadRequest","message":"\"spec.none\" is not a known field selector"}"#;
    tried.answer_with(400, &[("content-type", "application/json")], status);
    let held = tokio::time::timeout(seconds(60), lab.watches.held()).await;
    let (held, refusal) = held.expect("it is told");
    assert_eq!((held.as_str(), refusal.code), ("p", Code::FieldNotSelectable));
    let said = "reads of v1/Secret: the API server does not select by the field spec.none: \"spec.none\" is not a known";
    assert!(refusal.message.contains(said), "{refusal}");
    assert_eq!(serde_json::to_value(lab.status("v1/Secret").state).expect("plain"), "field refused");
    tokio::time::sleep(seconds(10)).await;
    assert!(!lab.api.has_call("/api/v1/secrets").await, "no loop");
    assert!(lab.watches.room(&held, &Digest::of(b"1")).is_err(), "it waits");

    lab.watches.forget(&held);
    lab.api.call("/api/v1").await.json(CORE_GROUP);
    let list = lab.api.list("/api/v1/secrets?").await;
    assert_eq!(list.address, "/api/v1/secrets?labelSelector=tier&limit=500");
    list.objects(10, &[]);
    settle().await;
    assert!(lab.watches.is_ready(), "the other one goes on");
}

#[tokio::test(start_paused = true)]
async fn a_field_that_is_served_is_asked_for_with_the_list() {
    let mut lab = Lab::new();
    let fields = vec![("metadata.name".into(), "s".into()), ("type".into(), "Opaque".into())];
    lab.want(&reader("p", Scope { fields, metadata_only: true, ..Scope::default() }));
    let _webs = no_webs(&mut lab).await;
    lab.api.call("/api/v1").await.json(CORE_GROUP);
    let tried = lab.api.list("/api/v1/secrets?").await;
    assert_eq!(
        tried.address, "/api/v1/secrets?fieldSelector=type%3DOpaque&limit=1",
        "names are always served"
    );
    tried.objects(9, &[]);
    let list = lab.api.list("/api/v1/secrets?").await;
    assert_eq!(list.address, "/api/v1/secrets?fieldSelector=metadata.name%3Ds%2Ctype%3DOpaque&limit=500");
    list.objects(10, &[object("s", 3)]);
    settle().await;
    assert_eq!(lab.held("v1/Secret"), ["s@3"], "who has no body was judged by the API server");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_scoped_kind_has_nothing_in_a_namespace_and_that_is_said() {
    let mut lab = Lab::new();
    let mut reader = reader("p", Scope { namespaces: words(&["one", "two"]), ..Scope::default() });
    reader.reads[0].kind = gvk("v1/Node");
    lab.want(&reader);
    let _webs = no_webs(&mut lab).await;
    let nodes = r#"{"kind":"APIResourceList","resources":[{"name":"nodes","kind":"Node","namespaced":false,"verbs":["list","watch"]}]}"#;
    lab.api.call("/api/v1").await.json(nodes);
    lab.api.list("/api/v1/nodes?").await.objects(10, &[object("n", 3).replace(r#""namespace":"ns","#, "")]);
    settle().await;
    assert!(lab.held("v1/Node").is_empty() && lab.watches.is_ready());
    let said = lab.status("v1/Node").last_error.expect("it is said");
    assert_eq!(said, "kind is cluster-scoped: nothing of it is in any namespace");
}

//! Kinds that come and go, and wants that change.

use tokio::time::Instant;
use windlass_core::key::ObjectRef;
use windlass_core::ports::{Cache as _, Read, Written};

use crate::lab::*;

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_there_yet_is_waited_for_and_blocks_nobody() {
    let mut lab = Lab::new();
    lab.want(&manifest("p", "x.dev/v1/Web", &[], &[]));
    let start = Instant::now();
    lab.api.call("/apis/x.dev/v1").await.fail(404);
    settle().await;
    assert!(lab.watches.is_ready());
    assert!(lab.cache().kind(&gvk("x.dev/v1/Web")).is_none());
    // The group exists now, the kind does not.
    lab.api.call("/apis/x.dev/v1").await.json(r#"{"resources":[]}"#);
    assert_eq!(serde_json::to_value(lab.status("x.dev/v1/Web").state).expect("plain"), "waiting for kind");
    let mut looks = 2;
    while start.elapsed() < seconds(60) {
        lab.api.call("/apis/x.dev/v1").await.fail(404);
        looks += 1;
    }
    assert!((12..40).contains(&looks), "{looks} looks in a minute");
    let before = Instant::now();
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    assert!(before.elapsed() <= seconds(5));
    lab.api.list(WEBS).await.objects(10, &[object("a", 1)]);
    lab.api.watch(WEBS, "10").await;
    assert!(lab.keys.take().await.contains(&"p:ns/a".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_failing_discovery_is_no_proof_of_absence() {
    let (mut lab, stream) = Lab::with_webs(&[object("a", 1)]).await;
    stream.cut();
    lab.api.watch(WEBS, "10").await.fail(404);
    lab.api.call("/apis/x.dev/v1").await.fail(503);
    lab.api.call("/apis/x.dev/v1").await.json("<html>");
    drop(lab.api.call("/apis/x.dev/v1").await);
    assert_eq!(lab.held("x.dev/v1/Web"), ["a@1"]);
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    lab.api.list(WEBS).await.objects(12, &[object("a", 1)]);
    lab.api.watch(WEBS, "12").await;
    assert!(lab.keys.take().await.is_empty(), "nothing has changed");
}

#[tokio::test(start_paused = true)]
async fn when_a_kind_goes_its_objects_go_and_it_is_found_again() {
    let mut lab = Lab::new();
    lab.want(&manifest("p", "v1/ConfigMap", &["x.dev/v1/Web"], &[]));
    lab.api.call("/api/v1").await.json(CORE_GROUP);
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    lab.api.list(CONFIG_MAPS).await.objects(10, &[object("a", 1), object("b", 2)]);
    let _open = lab.api.watch(CONFIG_MAPS, "10").await.stream();
    lab.api.list(WEBS).await.objects(10, &[child("w", 5, "sys", "p", "a")]);
    let stream = lab.api.watch(WEBS, "10").await.stream();
    lab.keys.take().await;
    stream.cut();
    lab.api.watch(WEBS, "10").await.fail(404);
    lab.api.call("/apis/x.dev/v1").await.fail(404);
    assert!(lab.keys.take().await.contains(&"p:ns/a".to_owned()), "its child is gone");
    assert!(lab.held("x.dev/v1/Web").is_empty());
    assert!(lab.cache().kind(&gvk("x.dev/v1/Web")).is_none());
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    lab.api.list(WEBS).await.objects(20, &[]);
    lab.api.watch(WEBS, "20").await;
    assert_eq!(lab.keys.take().await, ["p:ns/a", "p:ns/b"], "its users look again");
}

#[tokio::test(start_paused = true)]
async fn a_wider_need_restarts_the_watch_and_what_is_held_stays_readable() {
    let mut lab = Lab::new();
    lab.want(&manifest("p", "x.dev/v1/Web", &["v1/ConfigMap"], &[]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    lab.api.call("/api/v1").await.json(CORE_GROUP);
    lab.api.list(WEBS).await.objects(10, &[object("a", 1)]);
    let _webs = lab.api.watch(WEBS, "10").await.stream();
    let list = lab.api.list(CONFIG_MAPS).await;
    assert_eq!(list.address, "/api/v1/configmaps?labelSelector=windlass.dev%2Fhost%3Dsys&limit=500");
    list.objects(10, &[child("c", 5, "sys", "p", "a")]);
    let narrow = lab.api.watch(CONFIG_MAPS, "10").await;
    assert!(narrow.address.contains("labelSelector=windlass.dev%2Fhost%3Dsys&"));
    let narrow = narrow.stream();
    lab.keys.take().await;

    let reader = manifest("q", "v1/ConfigMap", &[], &[]);
    lab.want(&reader);
    assert!(!lab.watches.is_ready());
    assert_eq!(lab.held("v1/ConfigMap"), ["c@5"]);
    assert_eq!(lab.keys.take().await, ["q:ns/c"], "what is held is offered at once");
    narrow.event("DELETED", &child("c", 11, "sys", "p", "a"));
    lab.api.call("/api/v1").await.json(CORE_GROUP);
    let list = lab.api.list(CONFIG_MAPS).await;
    assert_eq!(
        list.address,
        "/api/v1/configmaps?labelSelector=%21windlass.dev%2Fplugin%2C%21windlass.dev%2Fgood&limit=500"
    );
    assert_eq!(lab.held("v1/ConfigMap"), ["c@5"], "the old watch has no say any more");
    list.objects(12, &[child("c", 5, "sys", "p", "a"), object("d", 6)]);
    let _wide = lab.api.watch(CONFIG_MAPS, "12").await.stream();
    assert!(lab.watches.is_ready());
    assert!(lab.keys.take().await.contains(&"q:ns/d".to_owned()));

    lab.watches.forget(&reader.name);
    lab.api.call("/api/v1").await.json(CORE_GROUP);
    assert!(lab.watches.is_ready(), "less is needed than is held");
    let list = lab.api.list(CONFIG_MAPS).await;
    assert!(list.address.contains("labelSelector"));
    list.objects(14, &[child("c", 5, "sys", "p", "a")]);
    let again = lab.api.watch(CONFIG_MAPS, "14").await.stream();
    assert_eq!(lab.held("v1/ConfigMap"), ["c@5"]);
    assert!(lab.keys.take().await.iter().all(|key| key.starts_with("p:")), "q is forgotten");

    // And wide again: an object older than its own end must come back.
    lab.want(&reader);
    lab.api.call("/api/v1").await.json(CORE_GROUP);
    lab.api.list(CONFIG_MAPS).await.objects(15, &[child("c", 5, "sys", "p", "a"), object("d", 6)]);
    lab.api.watch(CONFIG_MAPS, "15").await;
    assert_eq!(lab.held("v1/ConfigMap"), ["c@5", "d@6"]);
    drop(again);
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_nobody_needs_any_more_is_dropped() {
    let (mut lab, stream) = Lab::with_webs(&[object("a", 1)]).await;
    lab.cache().add_read(&key("p", "a"), Read::Object(reference("x.dev/v1/Web", "b")));
    lab.watches.forget(&key("p", "a").plugin);
    stream.event("MODIFIED", &object("a", 11));
    drop(stream);
    tokio::time::sleep(seconds(60)).await;
    assert!(!lab.api.has_call("/").await, "nothing is asked any more");
    assert!(lab.watches.status().is_empty() && lab.held("x.dev/v1/Web").is_empty());
    assert_eq!(lab.cache().interested_keys(), 0);
    assert!(lab.keys.take().await.is_empty());
    lab.want(&manifest("p", "x.dev/v1/Web", &[], &[]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
}

#[tokio::test(start_paused = true)]
async fn one_watch_serves_all_plugins() {
    let (mut lab, stream) = Lab::with_webs(&[object("a", 1)]).await;
    lab.want(&manifest("q", "x.dev/v1/Web", &[], &[]));
    assert_eq!(lab.keys.take().await, ["q:ns/a"], "only the new plugin's");
    assert!(!lab.api.has_call("/").await, "the watch that is open will do");
    stream.event("MODIFIED", &object("a", 11));
    assert_eq!(lab.keys.take().await, ["p:ns/a", "q:ns/a"]);
    lab.want(&manifest("q", "x.dev/v1/Web", &[], &[]));
    assert!(lab.keys.take().await.is_empty(), "a new version of the same kind waits to be asked");
    lab.watches.resync(Some(&key("q", "").plugin));
    assert_eq!(lab.keys.take().await, ["q:ns/a"]);
    lab.watches.resync(None);
    assert_eq!(lab.keys.take().await, ["p:ns/a", "q:ns/a"]);
}

#[tokio::test(start_paused = true)]
async fn own_writes_are_caught_up_when_the_watch_has_passed_them() {
    let (lab, stream) = Lab::with_webs(&[object("a", 3)]).await;
    let cache = lab.cache();
    let write = |name: &str, uid: &str, version: Option<u64>| Written {
        object: reference("x.dev/v1/Web", name),
        uid: uid.into(),
        version,
        applied: None,
    };
    assert!(cache.caught_up(&write("a", "u-a", Some(3))), "a write that changed nothing");
    assert!(!cache.caught_up(&write("a", "u-a", Some(11))));
    assert!(!cache.caught_up(&write("new", "u-new", Some(12))), "absent, and not yet due");
    assert!(!cache.caught_up(&write("a", "u-a", None)), "deleted, and still here");
    assert!(cache.caught_up(&write("gone", "u-gone", None)));
    stream.event("MODIFIED", &object("a", 11));
    settle().await;
    assert!(cache.caught_up(&write("a", "u-a", Some(11))));
    assert!(!cache.caught_up(&write("new", "u-new", Some(12))));
    stream.bookmark(12);
    settle().await;
    assert!(!cache.caught_up(&write("new", "u-new", Some(12))), "its event is missing");
    stream.event("MODIFIED", &object("a", 15));
    settle().await;
    assert!(!cache.caught_up(&write("a", "u-a", Some(16))));
    stream.bookmark(17);
    settle().await;
    assert!(!cache.caught_up(&write("a", "u-a", Some(16))), "its event is missing");
    stream.event("ADDED", &object("new", 18));
    stream.event("DELETED", &object("new", 19));
    settle().await;
    assert!(
        cache.caught_up(&write("new", "u-new", Some(18))),
        "it came and went, or is not selected any more"
    );
    assert!(!cache.caught_up(&write("new", "u-new", Some(20))), "it ended before");
    stream.event("DELETED", &object("a", 23));
    settle().await;
    assert!(cache.caught_up(&write("a", "u-a", None)));
    stream.event("ADDED", &object("a", 24).replace("u-a", "u-2"));
    settle().await;
    assert!(cache.caught_up(&write("a", "u-a", None)), "another incarnation");
    assert!(!cache.caught_up(&write("a", "u-3", Some(30))), "an earlier incarnation proves nothing");
    let unwatched = ObjectRef { gvk: gvk("v1/Pod"), ..reference("x.dev/v1/Web", "a") };
    assert!(cache.caught_up(&Written { object: unwatched, ..write("a", "u", Some(99)) }));
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_may_not_be_read_keeps_no_replica_from_being_ready() {
    let mut lab = Lab::new();
    lab.want(&manifest("p", "x.dev/v1/Web", &[], &[]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    for _ in 0..3 {
        let list = lab.api.list(WEBS).await;
        assert!(!lab.watches.is_ready(), "a server that starts refuses for a moment");
        list.fail(403);
    }
    settle().await;
    assert!(lab.watches.is_ready());
    assert!(!lab.status("x.dev/v1/Web").synced, "nobody takes its objects for absent");
    let list = lab.api.list(WEBS).await;
    list.objects(10, &[object("a", 1)]);
    lab.api.watch(WEBS, "10").await;
    assert!(lab.watches.is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_served_in_another_way_is_noticed_without_a_404() {
    const WITHOUT_STATUS: &str = r#"{"resources":[
        {"name":"webs","kind":"Web","namespaced":true,"verbs":["list","watch"]}]}"#;
    let mut lab = Lab::new();
    lab.want(&manifest("p", "x.dev/v1/Web", &[], &[]));
    lab.api.call("/apis/x.dev/v1").await.json(WITHOUT_STATUS);
    lab.api.list(WEBS).await.objects(10, &[object("a", 1)]);
    let _open = lab.api.watch(WEBS, "10").await.stream();
    lab.keys.take().await;
    let has_status = |lab: &Lab| lab.cache().kind(&gvk("x.dev/v1/Web")).expect("known").has_status;
    assert!(!has_status(&lab));
    // Nothing has changed, no answer, and then the CRD has got its status subresource.
    asked(&mut lab, "/apis/x.dev/v1").await.json(WITHOUT_STATUS);
    asked(&mut lab, "/apis/x.dev/v1").await.fail(503);
    assert!(!has_status(&lab) && lab.keys.take().await.is_empty());
    asked(&mut lab, "/apis/x.dev/v1").await.json(WEB_GROUP);
    settle().await;
    assert!(has_status(&lab));
    assert_eq!(lab.keys.take().await, ["p:ns/a"], "whoever was refused for it is looked at again");
    asked(&mut lab, "/apis/x.dev/v1/webs?limit=500").await.objects(10, &[object("a", 1)]);
    lab.api.watch(WEBS, "10").await;
}

#[tokio::test(start_paused = true)]
async fn a_group_is_asked_for_once_for_all_kinds_of_it() {
    const GROUP: &str = "/apis/x.dev/v1";
    const SITES: &str = "/apis/x.dev/v1/sites?";
    let served = |sites_status: bool| {
        let more = r#",{"name":"sites/status","kind":"Site","namespaced":true,"verbs":["get"]}"#;
        format!(
            r#"{{"resources":[{{"name":"webs","kind":"Web","namespaced":true,"verbs":["list","watch"]}},
            {{"name":"sites","kind":"Site","namespaced":true,"verbs":["list","watch"]}}{}]}}"#,
            if sites_status { more } else { "" }
        )
    };
    let mut lab = Lab::new();
    lab.want(&manifest("p", "x.dev/v1/Web", &["x.dev/v1/Site"], &[]));
    let first = lab.api.call(GROUP).await;
    assert!(!lab.api.has_call(GROUP).await, "the other kind waits for the same answer");
    first.json(served(false));
    for kind in [WEBS, SITES] {
        lab.api.list(kind).await.objects(10, &[]);
    }
    let (_webs, _sites) =
        (lab.api.watch(WEBS, "10").await.stream(), lab.api.watch(SITES, "10").await.stream());
    let (began, mut asks) = (Instant::now(), 0);
    while began.elapsed() < seconds(100) {
        asked(&mut lab, GROUP).await.json(served(false));
        asks += 1;
    }
    assert!((4..=9).contains(&asks), "{asks} in 100 s");
    asked(&mut lab, GROUP).await.json(served(true));
    settle().await;
    let has_status = |kind: &str| lab.cache().kind(&gvk(kind)).expect("known").has_status;
    assert_eq!((has_status("x.dev/v1/Web"), has_status("x.dev/v1/Site")), (false, true));
    assert!(
        lab.api.has_call(SITES).await && !lab.api.has_call(WEBS).await,
        "what has changed is listed anew, and no more"
    );
}

/// The next request to exactly this address; watches that were silent meanwhile are dropped.
async fn asked(lab: &mut Lab, address: &str) -> Call {
    loop {
        let call = lab.api.call("/apis/x.dev/v1").await;
        if call.address == address {
            return call;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_secret_is_ever_asked_for_unless_a_manifest_names_the_kind() {
    let mut lab = Lab::new();
    lab.want(&manifest("p", "x.dev/v1/Web", &["v1/ConfigMap"], &[]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    lab.api.call("/api/v1").await.json(CORE_GROUP);
    lab.api.list(WEBS).await.objects(10, &[]);
    lab.api.list(CONFIG_MAPS).await.objects(10, &[]);
    let _webs = lab.api.watch(WEBS, "10").await.stream();
    let _maps = lab.api.watch(CONFIG_MAPS, "10").await.stream();
    lab.watches.resync(None);
    assert!(!lab.api.has_call("/api/v1/secrets").await);
    assert!(
        lab.cache()
            .list(&windlass_core::reads::Query { gvk: gvk("v1/Secret"), namespace: None, labels: vec![] })
            .is_empty()
    );
    assert!(!lab.cache().is_synced(&gvk("v1/Secret")), "it is not known, which is not the same as empty");
    lab.want(&manifest("q", "x.dev/v1/Web", &[], &["v1/Secret"]));
    lab.api.call("/api/v1").await.json(CORE_GROUP);
    lab.api.list("/api/v1/secrets?").await.objects(10, &[object("s", 1)]);
    lab.api.watch("/api/v1/secrets?", "10").await;
    lab.watches.forget(&windlass_core::name::PluginName::try_new("q").expect("valid"));
    settle().await;
    assert!(lab.held("v1/Secret").is_empty(), "nor kept for longer");
}

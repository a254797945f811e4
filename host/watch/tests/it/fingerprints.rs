//! What a pass stands on, as the cache names it: the same for as long as nothing happens, and another one then.

use std::sync::Arc;

use windlass_core::memo::Fingerprint;
use windlass_core::ports::Cache as _;
use windlass_core::reads::{Query, Reads};

use crate::lab::{
    CONFIG_MAPS, CORE_GROUP, Lab, Stream, WEB_GROUP, WEBS, child, gvk, key, labelled, manifest, object,
    reference, seconds, settle,
};

const WEB: &str = "x.dev/v1/Web";

/// What `p:ns/a` stands on now: asked for alone, and among all others.
fn seen(lab: &Lab) -> Fingerprint {
    let (of, cache, mut each) = (key("p", "a"), lab.cache(), Vec::new());
    let page = cache.page(&gvk(WEB), None, 100);
    let at = page.iter().position(|web| *web.meta().name == *of.name).expect("it is there");
    let mut seen = Fingerprint::default();
    seen.begin(&page[at]);
    cache.fingerprint(&of, &mut seen);
    cache.fingerprints(&of.plugin, &page, &mut each);
    assert_eq!(each[at], seen);
    seen
}

/// Plugin `p` with Web `a`, its child `c`, and a ConfigMap `m` that is in no list yet.
async fn with_children() -> (Lab, Stream, Stream) {
    let mut lab = Lab::new();
    lab.want(&manifest("p", WEB, &["v1/ConfigMap"], &["v1/ConfigMap"]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    lab.api.call("/api/v1").await.json(CORE_GROUP);
    lab.api.list(WEBS).await.objects(10, &[object("Z", 1), object("a", 1), object("b", 1)]);
    let webs = lab.api.watch(WEBS, "10").await.stream();
    lab.api.list(CONFIG_MAPS).await.objects(10, &[child("c", 2, "sys", "p", "a"), object("m", 3)]);
    let config_maps = lab.api.watch(CONFIG_MAPS, "10").await.stream();
    settle().await;
    (lab, webs, config_maps)
}

#[tokio::test(start_paused = true)]
async fn each_change_to_what_a_key_stands_on_is_another_fingerprint() {
    let (lab, _webs, maps) = with_children().await;
    let labels = vec![("in".to_owned(), "y".to_owned())];
    let query = Query { gvk: gvk("v1/ConfigMap"), namespace: Some("ns".into()), labels };
    let reads = Reads {
        objects: [reference("v1/ConfigMap", "m"), reference("v1/ConfigMap", "none")].into(),
        lists: [query].into(),
    };
    let mut before = seen(&lab);
    lab.cache().watch_reads(&key("p", "a"), reads);
    let listed = |name: &str, version| labelled(name, version, &[("in", "y")]);
    let gone = |name: &str, version| ("DELETED", object(name, version));
    let put = |text: String| ("MODIFIED", text);
    for (what, (event, text)) in [
        ("nothing but what is read", ("BOOKMARK", object("x", 11))),
        ("the child", put(child("c", 12, "sys", "p", "a"))),
        ("a child more", put(child("d", 13, "sys", "p", "a"))),
        ("what is read", put(object("m", 14))),
        ("what was not there", put(object("none", 15))),
        ("it is gone again", gone("none", 16)),
        ("a member", put(listed("l1", 17))),
        ("another member", put(listed("l2", 18))),
        ("a member's change", put(listed("l1", 19))),
        ("a member that leaves the list", put(object("l1", 20))),
        ("a member that is gone", gone("l2", 21)),
        ("a child that is gone", gone("c", 22)),
    ] {
        maps.event(event, &text);
        settle().await;
        assert_ne!(seen(&lab), before, "{what}");
        before = seen(&lab);
        for other in [object("stranger", 23), child("e", 24, "sys", "p", "b"), listed("l0", 0)] {
            maps.event(if other.contains("l0") { "DELETED" } else { "MODIFIED" }, &other);
        }
        settle().await;
        assert_eq!(seen(&lab), before, "{what}, and then nothing of its own");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_brings_nothing_new_changes_nothing() {
    let (mut lab, _webs, maps) = with_children().await;
    let (before, era) = (seen(&lab), lab.cache().era(&gvk("v1/ConfigMap")));
    maps.event("ERROR", r#"{"kind":"Status","code":410}"#);
    lab.api.list(CONFIG_MAPS).await.objects(40, &[child("c", 2, "sys", "p", "a"), object("m", 3)]);
    let _open = lab.api.watch(CONFIG_MAPS, "40").await.stream();
    settle().await;
    assert_eq!((seen(&lab), lab.cache().era(&gvk("v1/ConfigMap"))), (before, era));
}

/// After a restore from a backup the same version may have been given to something else.
#[tokio::test(start_paused = true)]
async fn a_past_that_was_rewritten_is_another_era_and_brings_every_object_anew() {
    let (mut lab, stream) = Lab::with_webs(&[object("a", 3)]).await;
    let number = |lab: &Lab| lab.cache().object(&reference(WEB, "a")).expect("held").number();
    let (before, era) = (number(&lab), lab.cache().era(&gvk(WEB)));
    stream.event("ERROR", r#"{"kind":"Status","code":410}"#);
    for _ in 0..3 {
        lab.api
            .list(WEBS)
            .await
            .objects(5, &[object("a", 3).replace("\"labels\":{}", "\"labels\":{\"k\":\"v\"}")]);
    }
    lab.api.watch(WEBS, "5").await;
    assert!(number(&lab) != before && lab.cache().era(&gvk(WEB)) != era);
    assert_eq!(lab.keys.take().await, ["p:ns/a"]);
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_served_in_another_way_or_not_at_all_is_in_another_era() {
    const CLUSTER_SCOPED: &str = r#"{"resources":[
        {"name":"webs","kind":"Web","namespaced":false,"verbs":["list","watch"]}]}"#;
    let (mut lab, stream) = Lab::with_webs(&[object("a", 3)]).await;
    let mut eras = vec![lab.cache().era(&gvk(WEB))];
    drop(stream);
    lab.api.call(WEBS).await.fail(404);
    lab.api.call("/apis/x.dev/v1").await.json(r#"{"resources":[]}"#);
    settle().await;
    eras.push(lab.cache().era(&gvk(WEB)));
    tokio::time::advance(seconds(10)).await;
    lab.api.call("/apis/x.dev/v1").await.json(CLUSTER_SCOPED);
    lab.api.list(WEBS).await.objects(30, &[]);
    settle().await;
    eras.push(lab.cache().era(&gvk(WEB)));
    assert!(eras.is_sorted() && eras[0] < eras[1] && eras[1] < eras[2], "{eras:?}");
    lab.watches.forget(&key("p", "").plugin);
    assert_eq!(lab.cache().era(&gvk(WEB)), 0);
    lab.want(&manifest("p", WEB, &[], &[]));
    assert!(lab.cache().era(&gvk(WEB)) > eras[2], "nobody knows what happened meanwhile");
}

#[tokio::test(start_paused = true)]
async fn pages_bring_every_object_once_and_in_order() {
    let in_namespace = |namespace: &str, name: &str| {
        object(name, 3).replace("\"ns\"", &format!("\"{namespace}\"")).replace("u-", namespace)
    };
    let all: Vec<String> = ["m", "a", "z", "ab"]
        .iter()
        .flat_map(|namespace| (0..5).map(move |n| in_namespace(namespace, &format!("w{n}"))))
        .collect();
    let (lab, _stream) = Lab::with_webs(&all).await;
    for most in [1, 2, 5, 7, 100] {
        let (mut found, mut last) = (Vec::new(), None::<(Arc<str>, Arc<str>)>);
        loop {
            let page = lab.cache().page(&gvk(WEB), last.as_ref(), most);
            assert!(page.len() <= most);
            let Some(object) = page.last() else { break };
            last = Some((object.meta().namespace.clone(), object.meta().name.clone()));
            found.extend(page.iter().map(|o| format!("{}/{}", o.meta().namespace, o.meta().name)));
        }
        assert_eq!((found.len(), found.is_sorted()), (20, true), "{most}: {found:?}");
    }
}

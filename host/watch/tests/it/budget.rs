//! A cache that is full: who waits, who goes on, and how it comes back.

use windlass_core::code::Code;
use windlass_core::name::{Digest, PluginName};
use windlass_core::ports::Cache as _;

use crate::lab::*;

fn plugin(name: &str) -> PluginName {
    PluginName::try_new(name).expect("valid")
}

/// An object whose JSON is about so many bytes.
fn large(name: &str, version: u64, bytes: usize) -> String {
    labelled(name, version, &[("fill", &"x".repeat(bytes))])
}

#[tokio::test(start_paused = true)]
async fn the_plugin_that_came_last_waits_and_the_others_go_on() {
    let mut lab = Lab::limited(Some(60 << 10));
    lab.want(&manifest("a", "x.dev/v1/Web", &[], &[]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    lab.api.list(WEBS).await.objects(10, &[large("w", 3, 10 << 10)]);
    let webs = lab.api.watch(WEBS, "10").await.stream();
    lab.want(&manifest("b", "x.dev/v1/Web", &[], &["v1/ConfigMap"]));
    lab.api.call("/api/v1").await.json(CORE_GROUP);
    let all: Vec<String> = (0..20).map(|n| large(&format!("c{n:02}"), 20 + n, 10 << 10)).collect();
    lab.api.list(CONFIG_MAPS).await.objects(50, &all);
    let (held, refusal) = lab.watches.held().await;
    assert_eq!((held.as_str(), refusal.code), ("b", Code::CacheLimit));
    let found = "there is no room for more objects of v1/ConfigMap";
    assert!(refusal.message.contains(found) && refusal.message.contains("60 KiB"), "{refusal}");
    assert!(!lab.cache().is_synced(&gvk("v1/ConfigMap")), "nobody decides on a part");
    assert!(!lab.api.has_call(CONFIG_MAPS).await, "no watch and no further page");
    assert_eq!(
        serde_json::to_value(lab.status("v1/ConfigMap").state).expect("plain"),
        "over the cache limit"
    );
    lab.watches.forget(&held);
    settle().await;
    assert!(lab.cache().is_synced(&gvk("x.dev/v1/Web")));
    assert!(lab.watches.is_ready(), "what is left has what it needs");
    lab.keys.take().await;
    webs.event("MODIFIED", &large("w", 11, 10 << 10));
    assert_eq!(lab.keys.take().await, ["a:ns/w"]);
    assert_eq!(lab.cache().bills().len(), 1);
    assert!(lab.watches.room(&held, &Digest::of(b"1")).is_err(), "it waits");
}

#[tokio::test(start_paused = true)]
async fn it_comes_back_when_there_is_room() {
    let mut lab = Lab::limited(Some(60 << 10));
    lab.want(&manifest("p", "x.dev/v1/Web", &[], &[]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    let many = |n: u64| (0..n).map(|n| large(&format!("w{n}"), n + 1, 10 << 10)).collect::<Vec<_>>();
    lab.api.list(WEBS).await.objects(10, &many(9));
    let (held, _) = lab.watches.held().await;
    lab.watches.forget(&held);
    settle().await;
    let digest = Digest::of(b"1");
    assert!(lab.watches.room(&held, &digest).is_err());
    tokio::time::sleep(seconds(16)).await;
    lab.watches.room(&held, &digest).expect("there is room for what it had");
    // Somebody has removed most of them.
    lab.want(&manifest("p", "x.dev/v1/Web", &[], &[]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    lab.api.list(WEBS).await.objects(20, &many(2));
    let _webs = lab.api.watch(WEBS, "20").await;
    assert_eq!(lab.held("x.dev/v1/Web"), ["w0@1", "w1@2"]);
    assert!(lab.watches.is_ready());
    assert!(lab.keys.take().await.contains(&"p:ns/w1".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_grows_while_it_is_watched_stops_as_well() {
    let mut lab = Lab::limited(Some(60 << 10));
    lab.want(&manifest("p", "x.dev/v1/Web", &[], &[]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    lab.api.list(WEBS).await.objects(10, &[large("w", 3, 20 << 10)]);
    let webs = lab.api.watch(WEBS, "10").await.stream();
    webs.event("MODIFIED", &large("w", 11, 25 << 10));
    settle().await;
    assert!(lab.watches.is_ready());
    webs.event("ADDED", &large("v", 12, 20 << 10));
    webs.event("MODIFIED", &large("w", 13, 50 << 10));
    assert_eq!(lab.watches.held().await.0, plugin("p"));
    assert!(!lab.watches.is_ready());
    assert!(lab.status("x.dev/v1/Web").bytes < 60 << 10);
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_several_use_is_split_among_them() {
    let mut lab = Lab::new();
    lab.want(&manifest("a", "x.dev/v1/Web", &[], &[]));
    lab.want(&manifest("b", "x.dev/v1/Web", &[], &[]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    lab.api.list(WEBS).await.objects(10, &[large("w", 3, 10 << 10)]);
    let _webs = lab.api.watch(WEBS, "10").await;
    let bytes = lab.status("x.dev/v1/Web").bytes;
    let bills: Vec<_> = lab.cache().bills().into_iter().map(|bill| (bill.plugin, bill.bytes)).collect();
    assert_eq!(bills, [(plugin("a"), bytes / 2), (plugin("b"), bytes / 2)]);
    lab.watches.forget(&plugin("a"));
    assert_eq!(lab.cache().bills()[0].bytes, bytes);
}

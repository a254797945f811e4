//! Which keys a change brings.

use windlass_core::ports::{Cache as _, Read};
use windlass_core::reads::{Query, Reads};
use windlass_core::urgency::Urgency;

use crate::lab::*;

/// Plugin `p` with Webs, ConfigMaps as children and Secrets to read; all listed.
async fn lab_with_all() -> (Lab, Stream, Stream) {
    let mut lab = Lab::new();
    lab.want(&manifest("p", "x.dev/v1/Web", &["v1/ConfigMap"], &["v1/Secret"]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    for _ in 0..2 {
        lab.api.call("/api/v1").await.json(CORE_GROUP);
    }
    lab.api.list(WEBS).await.objects(10, &[object("a", 1), object("b", 2)]);
    let _webs = lab.api.watch(WEBS, "10").await.stream();
    lab.api.list(CONFIG_MAPS).await.objects(10, &[]);
    let children = lab.api.watch(CONFIG_MAPS, "10").await.stream();
    let secrets = "/api/v1/secrets?";
    assert!(lab.keys.take().await.len() < 4, "not all kinds are listed");
    lab.api.list(secrets).await.objects(10, &[labelled("s", 3, &[("app", "x")])]);
    let reads = lab.api.watch(secrets, "10").await.stream();
    assert_eq!(lab.keys.take().await, ["p:ns/a", "p:ns/b"], "offered again: the last kind is listed");
    (lab, children, reads)
}

#[tokio::test(start_paused = true)]
async fn a_child_brings_its_owner_and_nobody_elses() {
    let (lab, children, _reads) = lab_with_all().await;
    children.event("ADDED", &child("c", 11, "sys", "p", "a"));
    assert_eq!(lab.keys.take().await, ["p:ns/a"]);
    assert_eq!(lab.cache().children(&key("p", "a")).len(), 1);
    children.event("MODIFIED", &child("c", 12, "sys", "p", "b"));
    assert_eq!(lab.keys.take().await, ["p:ns/a", "p:ns/b"], "the old owner and the new one");
    children.event("ADDED", &child("d", 13, "sys", "unknown", "a"));
    children.event("ADDED", &child("e", 14, "another-host", "p", "a"));
    children.event("ADDED", &object("f", 15));
    assert!(lab.keys.take().await.is_empty());
    children.event("DELETED", &child("c", 16, "sys", "p", "b"));
    assert_eq!(lab.keys.take().await, ["p:ns/b"]);
    assert!(lab.cache().children(&key("p", "b")).is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_read_brings_the_reader() {
    let (lab, _children, reads) = lab_with_all().await;
    let cache = lab.cache();
    cache.add_read(&key("p", "a"), Read::Object(reference("v1/Secret", "t")));
    let by_label = Query {
        gvk: gvk("v1/Secret"),
        namespace: Some("ns".into()),
        labels: vec![("app".into(), "x".into())],
    };
    assert_eq!(cache.list(&by_label).len(), 1);
    let lists = Reads { lists: [by_label].into(), ..Reads::default() };
    cache.watch_reads(&key("p", "b"), lists);
    reads.event("ADDED", &object("t", 11));
    assert_eq!(lab.keys.take().await, ["p:ns/a"], "an object that was looked for and absent");
    reads.event("MODIFIED", &labelled("s", 12, &[("app", "y")]));
    assert_eq!(lab.keys.take().await, ["p:ns/b"], "it leaves the list");
    reads.event("MODIFIED", &labelled("s", 13, &[("app", "y")]));
    assert!(lab.keys.take().await.is_empty());
    reads.event("MODIFIED", &labelled("s", 14, &[("app", "x")]));
    assert_eq!(lab.keys.take().await, ["p:ns/b"], "it enters the list");
    cache.watch_reads(&key("p", "b"), Reads::default());
    reads.event("DELETED", &labelled("s", 15, &[("app", "x")]));
    assert!(lab.keys.take().await.is_empty());
}

/// The one key that everything here is about, as urgent as that.
fn one(urgency: Urgency) -> [(String, Urgency); 1] {
    [("p:ns/a".to_owned(), urgency)]
}

#[tokio::test(start_paused = true)]
async fn a_resync_goes_behind_what_has_changed() {
    let (lab, stream) = Lab::with_webs(&[object("a", 1)]).await;
    stream.event("MODIFIED", &object("a", 11));
    assert_eq!(lab.keys.urgencies().await, one(Urgency::Change));
    lab.watches.resync(None);
    assert_eq!(lab.keys.urgencies().await, one(Urgency::Resync));
}

#[tokio::test(start_paused = true)]
async fn what_a_child_or_something_read_brings_is_less_urgent_than_a_change_of_the_primary() {
    let (lab, children, reads) = lab_with_all().await;
    children.event("ADDED", &child("c", 11, "sys", "p", "a"));
    assert_eq!(lab.keys.urgencies().await, one(Urgency::Related));
    lab.cache().add_read(&key("p", "a"), Read::Object(reference("v1/Secret", "t")));
    reads.event("ADDED", &object("t", 11));
    assert_eq!(lab.keys.urgencies().await, one(Urgency::Related));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_reads_itself_is_brought_once_and_as_a_change() {
    let (lab, stream) = Lab::with_webs(&[object("a", 1)]).await;
    lab.cache().add_read(&key("p", "a"), Read::Object(reference("x.dev/v1/Web", "a")));
    stream.event("MODIFIED", &object("a", 11));
    assert_eq!(lab.keys.urgencies().await, one(Urgency::Change));
}

#[tokio::test(start_paused = true)]
async fn what_the_first_list_of_a_kind_brings_goes_behind_everything() {
    let mut lab = Lab::new();
    lab.want(&manifest("p", "x.dev/v1/Web", &[], &[]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    lab.api.list(WEBS).await.objects(10, &[object("a", 1)]);
    let stream = lab.api.watch(WEBS, "10").await.stream();
    let first = lab.keys.urgencies().await;
    assert!(!first.is_empty() && first.iter().all(|(_, urgency)| *urgency == Urgency::Startup), "{first:?}");
    stream.event("MODIFIED", &object("a", 11));
    assert_eq!(lab.keys.urgencies().await, one(Urgency::Change));
    stream.cut();
}

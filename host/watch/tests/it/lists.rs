//! Lists: pages, refusals, and what a second list changes.

use tokio::time::Instant;
use windlass_core::ports::Cache as _;

use crate::lab::*;

#[tokio::test(start_paused = true)]
async fn a_kind_is_found_listed_and_then_watched() {
    let mut lab = Lab::new();
    assert!(lab.watches.is_ready(), "nothing is wanted");
    lab.want(&manifest("p", "x.dev/v1/Web", &[], &[]));
    assert!(!lab.watches.is_ready());
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    let list = lab.api.list(WEBS).await;
    assert_eq!(list.address, "/apis/x.dev/v1/webs?limit=500", "as new as etcd: no version is asked for");
    assert!(!lab.watches.is_ready());
    list.objects(10, &[object("a", 3), object("b", 9)]);
    let stream = lab.api.watch(WEBS, "10").await.stream();
    assert!(lab.keys.take().await.iter().all(|key| key == "p:ns/a" || key == "p:ns/b"));
    assert!(lab.watches.is_ready());
    assert_eq!(lab.held("x.dev/v1/Web"), ["a@3", "b@9"]);
    assert!(lab.cache().kind(&gvk("x.dev/v1/Web")).is_some_and(|kind| kind.has_status && kind.namespaced));
    stream.event("MODIFIED", &object("a", 11));
    stream.event("ADDED", &object("c", 12));
    stream.event("DELETED", &object("b", 13));
    assert_eq!(lab.keys.take().await, ["p:ns/a", "p:ns/b", "p:ns/c"]);
    assert_eq!(lab.held("x.dev/v1/Web"), ["a@11", "c@12"]);
    let status = serde_json::to_value(lab.status("x.dev/v1/Web")).expect("plain data");
    assert_eq!(
        (&status["state"], &status["events"], &status["lists"]),
        (&"watching".into(), &3.into(), &1.into())
    );
}

#[tokio::test(start_paused = true)]
async fn pages_are_followed_and_an_expired_token_begins_again() {
    let mut lab = Lab::new();
    lab.want(&manifest("p", "x.dev/v1/Web", &[], &[]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    lab.api.list(WEBS).await.page(10, "t/1=", &[object("a", 3)]);
    let second = lab.api.list(WEBS).await;
    assert_eq!(second.address, "/apis/x.dev/v1/webs?limit=500&continue=t%2F1%3D");
    second.fail(410);
    let again = lab.api.list(WEBS).await;
    assert_eq!(again.address, "/apis/x.dev/v1/webs?limit=500");
    assert!(!lab.watches.is_ready());
    again.page(12, "t2", &[object("a", 3)]);
    lab.api.list(WEBS).await.objects(12, &[object("b", 4)]);
    let _stream = lab.api.watch(WEBS, "12").await.stream();
    settle().await;
    assert_eq!(lab.held("x.dev/v1/Web"), ["a@3", "b@4"]);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_too_large_is_asked_for_in_smaller_parts() {
    let mut lab = Lab::new();
    lab.want(&manifest("p", "x.dev/v1/Web", &[], &[]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    lab.api.list(WEBS).await.json(vec![b' '; (32 << 20) + 1]);
    let smaller = lab.api.list(WEBS).await;
    assert!(smaller.address.ends_with("?limit=125"), "{}", smaller.address);
    smaller.objects(10, &[]);
    let _stream = lab.api.watch(WEBS, "10").await;
}

#[tokio::test(start_paused = true)]
async fn missing_rights_are_waited_for_ever_more_patiently() {
    let mut lab = Lab::new();
    lab.want(&manifest("p", "x.dev/v1/Web", &[], &[]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    let start = Instant::now();
    for _ in 0..10 {
        lab.api.list(WEBS).await.fail(403);
    }
    let list = lab.api.list(WEBS).await;
    assert!(start.elapsed() > seconds(60), "{:?} for 10 refusals", start.elapsed());
    assert!(start.elapsed() < seconds(300));
    assert_eq!(lab.status("x.dev/v1/Web").errors, 10);
    assert!(!lab.status("x.dev/v1/Web").synced);
    list.objects(10, &[]);
    settle().await;
    assert!(lab.status("x.dev/v1/Web").synced, "the right has come");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_a_long_outage_does_not_inherit_its_patience() {
    let mut lab = Lab::new();
    lab.want(&manifest("p", "x.dev/v1/Web", &[], &[]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    for _ in 0..20 {
        drop(lab.api.list(WEBS).await);
    }
    let list = lab.api.list(WEBS).await;
    let start = Instant::now();
    list.fail(403);
    lab.api.list(WEBS).await.objects(10, &[]);
    assert!(
        start.elapsed() <= seconds(1),
        "{:?}: a server that starts refuses for a moment",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn the_pause_that_the_server_asks_for_is_kept() {
    let mut lab = Lab::new();
    lab.want(&manifest("p", "x.dev/v1/Web", &[], &[]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    let list = lab.api.list(WEBS).await;
    let start = Instant::now();
    list.answer_with(429, &[("retry-after", "7")], "slow down");
    lab.api.list(WEBS).await.objects(10, &[]);
    assert!(start.elapsed() >= seconds(7) && start.elapsed() < seconds(8), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_no_list_are_errors_and_never_spin() {
    let mut lab = Lab::new();
    lab.want(&manifest("p", "x.dev/v1/Web", &[], &[]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    let start = Instant::now();
    let status = r#"{"kind":"Status","code":500,"message":"etcd"}"#;
    let cut = r#"{"metadata":{"resourceVersion":"9"},"items":[{"metadata""#;
    for (body, error) in [
        (status, "answered 500 : etcd"),
        (cut, "parse answer: EOF while parsing"),
        ("<html>", "parse answer: expected value"),
        ("{}", "answer has no metadata"),
    ] {
        lab.api.list(WEBS).await.json(body);
        settle().await;
        let last = lab.status("x.dev/v1/Web");
        assert!(last.last_error.as_deref().is_some_and(|e| e.starts_with(error)), "{last:?}");
        assert_eq!(serde_json::to_value(last.state).expect("plain"), "backing off");
    }
    lab.api.list(WEBS).await.answer_with(200, &[("content-type", "text/html")], "<html>");
    lab.api.list(WEBS).await.answer_with(502, &[("content-type", "text/html")], "<html>");
    // A refused connection: the call is dropped unanswered.
    drop(lab.api.list(WEBS).await);
    lab.api.list(WEBS).await.objects(10, &[object("a", 1)]);
    assert!(start.elapsed() > seconds(5), "{:?} for 7 failures", start.elapsed());
    assert!(lab.held("x.dev/v1/Web").is_empty());
    lab.api.watch(WEBS, "10").await;
    assert_eq!(lab.held("x.dev/v1/Web"), ["a@1"]);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_hangs_is_given_up_and_asked_for_again() {
    let mut lab = Lab::new();
    lab.want(&manifest("p", "x.dev/v1/Web", &[], &[]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    let start = Instant::now();
    let _no_head = lab.api.list(WEBS).await;
    let no_end = lab.api.list(WEBS).await.stream();
    no_end.send(r#"{"metadata":{"resourceVersion":"#);
    lab.api.list(WEBS).await.objects(10, &[]);
    assert!(start.elapsed() < seconds(27), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_item_that_is_no_object_does_not_cost_the_others() {
    let mut lab = Lab::new();
    lab.want(&manifest("p", "x.dev/v1/Web", &[], &[]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    lab.api.list(WEBS).await.objects(10, &["{}".into(), object("a", 1)]);
    lab.api.watch(WEBS, "10").await;
    assert_eq!(lab.held("x.dev/v1/Web"), ["a@1"]);
    assert_eq!(lab.status("x.dev/v1/Web").errors, 1);
}

#[tokio::test(start_paused = true)]
async fn an_older_list_is_doubted_and_then_believed() {
    let (mut lab, stream) = Lab::with_webs(&[object("a", 3), object("b", 9)]).await;
    stream.event("MODIFIED", &object("a", 50));
    stream.event("ERROR", r#"{"kind":"Status","code":410}"#);
    lab.keys.take().await;
    for _ in 0..2 {
        lab.api.list(WEBS).await.objects(20, &[object("a", 4)]);
        settle().await;
        assert_eq!(lab.held("x.dev/v1/Web"), ["a@50", "b@9"], "a lagging server proves nothing");
    }
    lab.api.list(WEBS).await.objects(20, &[object("a", 4)]);
    lab.api.watch(WEBS, "20").await;
    assert_eq!(lab.held("x.dev/v1/Web"), ["a@4"], "etcd was restored");
    assert_eq!(lab.keys.take().await, ["p:ns/a", "p:ns/b"]);
}

#[tokio::test(start_paused = true)]
async fn objects_are_taken_as_they_arrive_and_the_rest_of_a_broken_page_later() {
    let mut lab = Lab::new();
    lab.want(&manifest("p", "x.dev/v1/Web", &[], &[]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    let body = lab.api.list(WEBS).await.stream();
    body.send(format!(
        r#"{{"kind":"WebList","metadata":{{"resourceVersion":"10"}},"items":[{},"#,
        object("a", 1)
    ));
    settle().await;
    assert_eq!(lab.held("x.dev/v1/Web"), ["a@1"], "the page has not ended");
    assert!(!lab.status("x.dev/v1/Web").synced);
    body.send(object("b", 2)[..20].to_owned());
    body.cut();
    lab.api.list(WEBS).await.objects(11, &[object("b", 2)]);
    lab.api.watch(WEBS, "11").await;
    assert_eq!(lab.held("x.dev/v1/Web"), ["b@2"], "a was only in the list that broke");
}

#[tokio::test(start_paused = true)]
async fn objects_that_come_before_the_version_of_their_list_wait_for_it() {
    // So the API server writes lists of custom resources.
    let body = |version: u64, item: &str| {
        format!(
            r#"{{"apiVersion":"x.dev/v1","items":[{item}],"kind":"WebList","metadata":{{"resourceVersion":"{version}"}}}}"#
        )
    };
    let (mut lab, stream) = Lab::with_webs(&[object("a", 3)]).await;
    stream.event("MODIFIED", &object("a", 50));
    stream.event("ERROR", r#"{"kind":"Status","code":410}"#);
    lab.api.list(WEBS).await.json(body(20, &object("b", 4)));
    settle().await;
    assert_eq!(lab.held("x.dev/v1/Web"), ["a@50"], "an older list proves nothing, whatever is in it");
    lab.api.list(WEBS).await.json(body(60, &object("b", 55)));
    lab.api.watch(WEBS, "60").await;
    assert_eq!(lab.held("x.dev/v1/Web"), ["b@55"]);
}

#[tokio::test(start_paused = true)]
async fn items_that_are_no_json_make_the_list_an_error() {
    let mut lab = Lab::new();
    lab.want(&manifest("p", "x.dev/v1/Web", &[], &[]));
    lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
    for items in ["{},,{}", "{}}", "{\"a\":}", "[", "{},"] {
        lab.api
            .list(WEBS)
            .await
            .json(format!(r#"{{"metadata":{{"resourceVersion":"9"}},"items":[{items}]}}"#));
        settle().await;
        let last = lab.status("x.dev/v1/Web");
        assert!(
            last.last_error.as_deref().is_some_and(|e| e.starts_with("parse answer")),
            "{items}: {last:?}"
        );
        assert!(!last.synced);
    }
}

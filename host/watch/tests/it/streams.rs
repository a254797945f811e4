//! Watches: how they end, and that nothing is lost or invented when they do.

use tokio::time::Instant;

use crate::lab::*;

#[tokio::test(start_paused = true)]
async fn a_silent_watch_is_noticed_within_30_s() {
    let (mut lab, stream) = Lab::with_webs(&[]).await;
    let start = Instant::now();
    stream.bookmark(15);
    // The stream stays open and says nothing more.
    lab.api.watch(WEBS, "15").await;
    assert!(start.elapsed() < seconds(30), "{:?}", start.elapsed());
    assert!(start.elapsed() > seconds(20), "a live watch is left its time");
    let status = lab.status("x.dev/v1/Web");
    assert!(status.last_error.is_some_and(|e| e.starts_with("no end of the watch within")));
    drop(stream);
}

#[tokio::test(start_paused = true)]
async fn a_watch_without_a_head_is_noticed_within_30_s() {
    let (mut lab, stream) = Lab::with_webs(&[]).await;
    tokio::time::sleep(seconds(5)).await;
    drop(stream);
    let unanswered = lab.api.watch(WEBS, "10").await;
    let start = Instant::now();
    lab.api.watch(WEBS, "10").await;
    assert!(start.elapsed() < seconds(30), "{:?}", start.elapsed());
    drop(unanswered);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_in_time_goes_on_at_once_from_its_bookmark() {
    let (mut lab, stream) = Lab::with_webs(&[object("a", 1)]).await;
    tokio::time::sleep(seconds(20)).await;
    stream.bookmark(90);
    stream.bookmark(40);
    stream.bookmark(90);
    drop(stream);
    let start = Instant::now();
    let call = lab.api.watch(WEBS, "90").await;
    assert_eq!(start.elapsed(), seconds(0));
    let timeout = call.address.split("timeoutSeconds=").nth(1).and_then(|n| n.parse::<u64>().ok());
    assert!(timeout.is_some_and(|n| (20..=25).contains(&n)), "{}", call.address);
    let status = lab.status("x.dev/v1/Web");
    assert_eq!((status.errors, status.alive_age_ms), (0, Some(0)));
}

#[tokio::test(start_paused = true)]
async fn watches_that_end_at_once_never_spin() {
    let (mut lab, stream) = Lab::with_webs(&[object("a", 1)]).await;
    drop(stream);
    let start = Instant::now();
    let mut calls = 0;
    while start.elapsed() < seconds(60) {
        let stream = lab.api.watch(WEBS, "10").await.stream();
        // Neither an old bookmark nor a repeated event is progress.
        stream.bookmark(10);
        stream.event("ADDED", &object("a", 1));
        calls += 1;
    }
    assert!(calls < 30, "{calls} watches in a minute");
    assert!(lab.keys.take().await.is_empty());
}

/// What an object's absence from the list after a 410 leads to.
async fn relists_after(lab: &mut Lab) {
    lab.api.list(WEBS).await.objects(30, &[object("a", 1), object("b", 25), object("d", 28)]);
    let _stream = lab.api.watch(WEBS, "30").await.stream();
    assert_eq!(
        lab.keys.take().await,
        ["p:ns/b", "p:ns/c", "p:ns/d"],
        "changed, gone and new; not what stayed"
    );
    assert_eq!(lab.held("x.dev/v1/Web"), ["a@1", "b@25", "d@28"]);
    assert_eq!(lab.status("x.dev/v1/Web").lists, 2);
}

#[tokio::test(start_paused = true)]
async fn a_410_in_the_stream_relists_and_removes_phantoms() {
    let (mut lab, stream) = Lab::with_webs(&[object("a", 1), object("b", 2), object("c", 3)]).await;
    stream.event("ERROR", r#"{"kind":"Status","code":410,"reason":"Expired","message":"too old"}"#);
    relists_after(&mut lab).await;
}

#[tokio::test(start_paused = true)]
async fn a_410_as_http_status_relists_and_removes_phantoms() {
    let (mut lab, stream) = Lab::with_webs(&[object("a", 1), object("b", 2), object("c", 3)]).await;
    stream.cut();
    lab.api.watch(WEBS, "10").await.fail(410);
    relists_after(&mut lab).await;
}

#[tokio::test(start_paused = true)]
async fn a_version_that_the_server_does_not_know_is_given_up_after_three_tries() {
    let (mut lab, stream) = Lab::with_webs(&[object("a", 1), object("b", 2), object("c", 3)]).await;
    stream.cut();
    for _ in 0..3 {
        lab.api.watch(WEBS, "10").await.fail(504);
    }
    relists_after(&mut lab).await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_resumes_from_where_it_began() {
    let (mut lab, stream) = Lab::with_webs(&[object("a", 1)]).await;
    stream.event("MODIFIED", &object("a", 11));
    settle().await;
    stream.cut();
    let start = Instant::now();
    while start.elapsed() < seconds(600) {
        drop(lab.api.watch(WEBS, "11").await);
    }
    let status = lab.status("x.dev/v1/Web");
    assert!(status.errors > 100 && status.errors < 250, "{} tries in ten minutes", status.errors);
    assert_eq!(lab.held("x.dev/v1/Web"), ["a@11"], "the cache stays readable");
    let _stream = lab.api.watch(WEBS, "11").await.stream();
    assert_eq!(lab.status("x.dev/v1/Web").lists, 1);
}

#[tokio::test(start_paused = true)]
async fn garbage_in_the_stream_is_an_error_and_relists_when_it_stays() {
    let (mut lab, stream) = Lab::with_webs(&[object("a", 1), object("b", 2), object("c", 3)]).await;
    stream.event("ADDED", &object("z", 11));
    stream.event("DELETED", &object("z", 12));
    stream.send("<html>502 Bad Gateway</html>\n");
    lab.keys.take().await;
    let cut = lab.api.watch(WEBS, "12").await.stream();
    cut.send("{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"na");
    drop(cut);
    lab.api.watch(WEBS, "12").await.stream().event("SURPRISE", "{}");
    relists_after(&mut lab).await;
    assert_eq!(lab.status("x.dev/v1/Web").errors, 3);
}

#[tokio::test(start_paused = true)]
async fn a_watch_answered_with_html_or_a_status_is_an_error() {
    let (mut lab, stream) = Lab::with_webs(&[]).await;
    stream.cut();
    lab.api.watch(WEBS, "10").await.answer_with(200, &[("content-type", "text/html")], "<html>");
    let status = "{\"kind\":\"Status\",\"code\":503,\"message\":\"starting\"}\n";
    lab.api.watch(WEBS, "10").await.json(status);
    lab.api.watch(WEBS, "10").await;
    let status = lab.status("x.dev/v1/Web");
    assert_eq!(status.last_error.as_deref(), Some("answered 503 : starting"));
    assert_eq!(status.errors, 3);
}

#[tokio::test(start_paused = true)]
async fn a_line_that_never_ends_is_given_up() {
    let (mut lab, stream) = Lab::with_webs(&[]).await;
    for _ in 0..17 {
        stream.send(vec![b'x'; 1 << 20]);
    }
    lab.api.watch(WEBS, "10").await;
    let error = lab.status("x.dev/v1/Web").last_error;
    assert_eq!(error.as_deref(), Some("answer is longer than 16777216 bytes"));
}

#[tokio::test(start_paused = true)]
async fn repeated_and_reordered_events_change_nothing() {
    let (lab, stream) = Lab::with_webs(&[object("a", 1), object("b", 2)]).await;
    stream.event("MODIFIED", &object("a", 12));
    stream.event("DELETED", &object("b", 13));
    assert_eq!(lab.keys.take().await, ["p:ns/a", "p:ns/b"]);
    stream.event("MODIFIED", &object("a", 12));
    stream.event("MODIFIED", &object("a", 11));
    stream.event("MODIFIED", &object("b", 11));
    stream.event("ADDED", &object("b", 2));
    stream.event("DELETED", &object("a", 5));
    stream.event("DELETED", &object("never-seen", 14));
    assert!(lab.keys.take().await.is_empty());
    assert_eq!(lab.held("x.dev/v1/Web"), ["a@12"]);
    stream.event("ADDED", &object("b", 15));
    assert_eq!(lab.keys.take().await, ["p:ns/b"]);
}

/// Somebody else has seen the API server gone for a moment.
#[tokio::test(start_paused = true)]
async fn a_watch_that_is_doubted_is_asked_for_again_where_it_was_and_dead_connections_are_left_behind_soon() {
    let (mut lab, stream) = Lab::with_webs(&[object("a", 1)]).await;
    stream.event("MODIFIED", &object("a", 30));
    settle().await;
    tokio::time::sleep(seconds(5)).await;
    let (start, lists) = (Instant::now(), lab.status("x.dev/v1/Web").lists);
    lab.watches.doubt().cast();
    settle().await;
    assert_eq!(lab.status("x.dev/v1/Web").alive_age_ms, Some(5000), "a doubt is no sign of life");
    // Kept connections that are as dead as the one of the stream.
    let dead = [lab.api.watch(WEBS, "30").await, lab.api.watch(WEBS, "30").await];
    let alive = lab.api.watch(WEBS, "30").await.stream();
    assert!(start.elapsed() < seconds(8), "{:?}", start.elapsed());
    alive.event("MODIFIED", &object("a", 31));
    settle().await;
    assert_eq!(lab.held("x.dev/v1/Web"), ["a@31"]);
    assert_eq!(lab.status("x.dev/v1/Web").lists, lists, "nothing was listed");
    assert!(!lab.api.has_call(WEBS).await, "and it is believed from now on");

    // A server that is slow for good is not asked more often than one that is not doubted.
    lab.watches.doubt().cast();
    let start = Instant::now();
    let mut unanswered = Vec::new();
    while start.elapsed() < seconds(120) {
        unanswered.push(lab.api.watch(WEBS, "31").await);
    }
    assert!(unanswered.len() <= 14, "{} attempts in two minutes", unanswered.len());
    drop((stream, dead));
}

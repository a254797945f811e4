//! A list that somebody asks for, because the watch did not bring what it should have.

use windlass_core::ports::{Cache as _, Written};

use crate::lab::{Lab, WEBS, gvk, object, reference, seconds, settle};

const WEB: &str = "x.dev/v1/Web";

fn write(name: &str, version: u64) -> Written {
    let (object, uid) = (reference(WEB, name), format!("u-{name}").into());
    Written { object, uid, version: Some(version), applied: None }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_asked_for_brings_what_the_watch_has_hidden() {
    let (mut lab, stream) = Lab::with_webs(&[object("a", 3)]).await;
    let at = std::time::Instant::now();
    stream.event("MODIFIED", &object("a", 20));
    settle().await;
    // The API server accepted a write of `a` at 15 and of `b` at 16; no event tells of the latter.
    assert!(lab.cache().caught_up(&write("a", 15)) && !lab.cache().caught_up(&write("b", 16)));
    let before = lab.status(WEB).lists;
    assert!(lab.cache().relist(&gvk(WEB)), "the first one who asks");
    assert!(!lab.cache().relist(&gvk(WEB)), "the same list will do");
    let list = lab.api.list(WEBS).await;
    assert!(!lab.cache().listed_since(&gvk(WEB), at), "it has not ended");
    assert!(lab.cache().is_synced(&gvk(WEB)), "what is held stays readable");
    tokio::time::advance(seconds(1)).await;
    list.objects(21, &[object("a", 20), object("b", 16)]);
    let _open = lab.api.watch(WEBS, "21").await.stream();
    assert_eq!(lab.held(WEB), ["a@20", "b@16"]);
    assert!(lab.cache().caught_up(&write("b", 16)));
    assert_eq!(
        (lab.keys.take().await, lab.status(WEB).lists - before),
        (vec!["p:ns/a".into(), "p:ns/b".into()], 1)
    );
    assert!(lab.cache().relist(&gvk(WEB)), "another one");
}

#[tokio::test(start_paused = true)]
async fn what_a_list_of_a_later_version_does_not_bring_has_ended_whenever_that_list_began() {
    let (mut lab, stream) = Lab::with_webs(&[object("a", 3)]).await;
    lab.cache().relist(&gvk(WEB));
    lab.api.list(WEBS).await.objects(21, &[object("a", 3)]);
    let open = lab.api.watch(WEBS, "21").await.stream();
    settle().await;
    // Made at 16 and deleted before 21; its answer came late, its events never.
    assert!(lab.cache().caught_up(&write("b", 16)) && lab.cache().caught_up(&write("b", 21)));
    assert!(!lab.cache().caught_up(&write("b", 22)), "the list knows nothing of it");
    drop((stream, open));
}

#[tokio::test(start_paused = true)]
async fn only_a_list_that_began_later_and_is_complete_proves_anything() {
    let (mut lab, stream) = Lab::with_webs(&[object("a", 3)]).await;
    let since = |lab: &Lab, at: tokio::time::Instant| lab.cache().listed_since(&gvk(WEB), at.into_std());
    tokio::time::advance(seconds(1)).await;
    let before = tokio::time::Instant::now();
    assert!(!since(&lab, before), "the first list is older");
    tokio::time::advance(seconds(1)).await;
    lab.cache().relist(&gvk(WEB));
    let list = lab.api.list(WEBS).await;
    tokio::time::advance(seconds(1)).await;
    let meanwhile = tokio::time::Instant::now();
    tokio::time::advance(seconds(1)).await;
    list.page(21, "more", &[object("a", 3)]);
    let rest = lab.api.list(WEBS).await;
    assert!(!since(&lab, before));
    rest.fail(503);
    settle().await;
    assert!(!since(&lab, before), "it broke");
    lab.api.list(WEBS).await.objects(22, &[object("a", 3)]);
    let again = lab.api.watch(WEBS, "22").await.stream();
    settle().await;
    assert!(since(&lab, before));
    assert!(since(&lab, meanwhile), "the one that is complete began after the first had failed");
    assert!(!since(&lab, tokio::time::Instant::now()));
    drop((stream, again));
}

/// A server behind the others may answer with less than was seen: that is asked for again.
#[tokio::test(start_paused = true)]
async fn no_list_takes_an_object_back_to_an_older_version() {
    let (mut lab, stream) = Lab::with_webs(&[object("a", 3)]).await;
    stream.event("MODIFIED", &object("a", 30));
    settle().await;
    lab.cache().relist(&gvk(WEB));
    lab.api.list(WEBS).await.objects(20, &[object("a", 20)]);
    settle().await;
    assert_eq!(lab.held(WEB), ["a@30"]);
    // As new as what was seen, and yet with an object that is older: the API server does not do that.
    lab.api.list(WEBS).await.objects(31, &[object("a", 20)]);
    let stream = lab.api.watch(WEBS, "31").await.stream();
    assert_eq!(lab.held(WEB), ["a@30"]);
    stream.event("MODIFIED", &object("a", 25));
    stream.event("DELETED", &object("a", 26));
    settle().await;
    assert_eq!(lab.held(WEB), ["a@30"]);
}

#[tokio::test(start_paused = true)]
async fn a_kind_whose_watch_is_down_is_listed_as_soon_as_it_answers() {
    let (mut lab, stream) = Lab::with_webs(&[object("a", 3)]).await;
    stream.cut();
    lab.api.watch(WEBS, "10").await.fail(503);
    lab.cache().relist(&gvk(WEB));
    loop {
        let call = lab.api.call(WEBS).await;
        if !call.address.contains("watch=1") {
            call.objects(40, &[object("b", 33)]);
            break;
        }
        call.fail(503);
    }
    lab.api.watch(WEBS, "40").await;
    assert_eq!(lab.held(WEB), ["b@33"]);
    assert!(!lab.cache().relist(&gvk("v1/Pod")), "nobody watches it");
}

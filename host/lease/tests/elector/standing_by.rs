//! A standby: how long it waits, for what, and what it writes then.

use std::sync::Arc;

use windlass_core::claim::Term;
use windlass_lease::record::{Copy, Lease};
use windlass_lease::step::{Failure, Input, Leadership, Order, Purpose};

use crate::desk::{Desk, at, has_requests, lease, present, read, write};

#[test]
fn a_standby_waits_for_a_whole_lease_after_it_saw_a_change() {
    let mut desk = Desk::standby(true);
    // The watch is not silent, but nothing changes.
    for second in 1..=14 {
        assert!(!has_requests(&desk.tell(second * 1_000, Input::Heard)));
    }
    // A renewal at 14 s: everything begins anew, whatever its timestamps say.
    assert!(!has_requests(&desk.tell(14_000, Input::Observed(present(51, "other")))));
    for second in 15..29 {
        assert!(!has_requests(&desk.tell(second * 1_000, Input::Heard)));
    }
    let wake_at = desk.wake_at.unwrap();
    assert!(!has_requests(&desk.tick(28_999)));
    assert!(wake_at >= at(29_000) && wake_at <= at(29_010), "{wake_at:?}");
    let taking = write(&desk.tick(29_010));
    assert_eq!((taking.purpose, taking.term), (Purpose::Acquire, Term(8)));
    assert_eq!(taking.base.as_ref().and_then(|base| base.version()), Some(51), "the copy that was judged");
}

#[test]
fn reading_the_same_lease_again_is_no_change() {
    let mut desk = Desk::standby(true);
    let mut ms = 3_000;
    while ms < 15_000 {
        let id = read(&desk.tick(ms));
        desk.tell(ms + 5, Input::Answered { id, result: Ok(lease(50, "other", 15, "7")) });
        ms += 3_005;
    }
    assert_eq!(write(&desk.tick(15_010)).term, Term(8));
}

#[test]
fn a_longer_lease_is_respected_and_a_shorter_one_is_not_believed() {
    for (seconds, free_ms) in [(60, 60_000), (1, 15_000), (0, 15_000), (-5, 15_000), (i64::MAX, 600_000)] {
        let mut desk = Desk::new(true);
        let id = read(&desk.tick(0));
        desk.tell(0, Input::Answered { id, result: Ok(lease(50, "other", seconds, "7")) });
        desk.tell(free_ms - 1, Input::Heard);
        assert!(desk.wake_at.unwrap() >= at(free_ms), "{seconds}");
        assert_eq!(write(&desk.tick(free_ms + 10)).purpose, Purpose::Acquire, "{seconds}");
    }
}

#[test]
fn a_release_is_taken_within_two_milliseconds() {
    let mut desk = Desk::standby(true);
    let released = Copy::Present(lease(51, "", 1, "7"));
    desk.tell(1_000, Input::Observed(released));
    let wake_at = desk.wake_at.unwrap();
    assert!(wake_at <= at(1_002), "{wake_at:?}");
    assert_eq!(write(&desk.tick(1_010)).term, Term(8));
}

#[test]
fn a_holder_that_was_emptied_by_hand_is_waited_for() {
    let mut desk = Desk::standby(true);
    desk.tell(1_000, Input::Observed(Copy::Present(lease(51, "", 15, "7"))));
    desk.tell(15_999, Input::Heard);
    assert!(desk.wake_at.unwrap() >= at(16_000));
    assert_eq!(write(&desk.tick(16_010)).term, Term(8));
}

#[test]
fn a_lease_that_nobody_ever_held_is_free() {
    let mut desk = Desk::new(true);
    let id = read(&desk.tick(0));
    let shipped = Lease::from_json(
        br#"{"metadata":{"name":"windlass","resourceVersion":"3","annotations":null},"spec":null}"#,
    );
    desk.tell(0, Input::Answered { id, result: Ok(Arc::new(shipped.unwrap())) });
    assert_eq!(write(&desk.tick(10)).term, Term(1));
}

#[test]
fn a_deleted_lease_is_waited_for_by_standbys() {
    let mut desk = Desk::standby(true);
    desk.tell(1_000, Input::Observed(Copy::Absent { at: Some(60) }));
    desk.tell(15_999, Input::Heard);
    assert!(desk.wake_at.unwrap() >= at(16_000));
    let making = write(&desk.tick(16_010));
    assert_eq!((making.base, making.term), (None, Term(8)), "the term goes on where it was");
}

#[test]
fn an_absence_that_was_asked_for_before_the_lease_was_seen_is_asked_for_again() {
    let mut desk = Desk::new(true);
    let first = read(&desk.tick(0));
    desk.tell(20, Input::Observed(present(50, "other")));
    // From before the Lease was made, and slower than the watch.
    let second = read(&desk.fail(26, first, Failure::Absent));
    // It may have been renewed until now, and is deleted.
    desk.fail(2_000, second, Failure::Absent);
    desk.tell(15_030, Input::Heard);
    assert!(desk.wake_at.unwrap() >= at(17_000), "a lease time after it was seen to be gone");
    assert_eq!(write(&desk.tick(17_010)).base, None);
}

#[test]
fn a_create_that_is_refused_shows_that_somebody_holds_it() {
    let mut desk = Desk::new(true);
    let id = read(&desk.tick(0));
    desk.fail(0, id, Failure::Absent);
    let making = write(&desk.tick(10));
    let looking = read(&desk.fail(20, making.id, Failure::Conflict));
    assert!(
        !has_requests(&desk.fail(30, looking, Failure::Absent)),
        "deleted at once, and held all the same"
    );
    desk.tell(15_000, Input::Heard);
    assert!(desk.wake_at.unwrap() >= at(15_020));
    assert_eq!(write(&desk.tick(15_030)).base, None);
}

#[test]
fn junk_in_the_term_is_no_term() {
    for junk in ["", "seven", "-3", "99999999999999999999999", "18446744073709551615", "1e3"] {
        let mut desk = Desk::new(true);
        let id = read(&desk.tick(0));
        desk.tell(0, Input::Answered { id, result: Ok(lease(50, "", 1, junk)) });
        assert_eq!(write(&desk.tick(10)).term, Term(1), "{junk:?}");
    }
}

#[test]
fn a_term_is_above_the_highest_ever_seen() {
    let mut desk = Desk::standby(true);
    desk.tell(100, Input::Observed(Copy::Present(lease(51, "other", 15, "junk"))));
    desk.tell(200, Input::TermSeen(Term(41)));
    desk.tell(300, Input::Observed(Copy::Present(lease(52, "", 1, "9"))));
    assert_eq!(write(&desk.tick(310)).term, Term(42));
}

#[test]
fn a_silent_watch_is_replaced_by_reading() {
    let mut desk = Desk::standby(true);
    assert_eq!(desk.wake_at, Some(at(3_000)));
    assert!(!has_requests(&desk.tick(2_999)));
    let id = read(&desk.tick(3_000));
    desk.tell(3_010, Input::Answered { id, result: Ok(lease(51, "", 1, "7")) });
    write(&desk.tick(3_020));
}

#[test]
fn a_loser_of_the_race_reads_and_stands_by() {
    let mut desk = Desk::standby(true);
    desk.tell(1_000, Input::Observed(Copy::Present(lease(51, "", 1, "7"))));
    let taking = write(&desk.tick(1_010));
    let id = read(&desk.fail(1_020, taking.id, Failure::Conflict));
    let orders = desk.tell(1_025, Input::Answered { id, result: Ok(lease(52, "third", 15, "8")) });
    assert_eq!(orders, [Order::Announce(Leadership::Standby { holder: Some("third".into()) })]);
}

#[test]
fn a_write_keeps_what_others_put_on_the_lease() {
    let mut desk = Desk::standby(true);
    let json = r#"{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"windlass","namespace":"ns","uid":"u-1",
        "resourceVersion":"51","labels":{"a":"b"},"managedFields":[{"manager":"x"}],"annotations":{"team":"blue"}},
        "spec":{"holderIdentity":"","leaseDurationSeconds":1,"leaseTransitions":4,"strategy":"OldestEmulationVersion"}}"#;
    desk.tell(1_000, Input::Observed(Copy::Present(Arc::new(Lease::from_json(json.as_bytes()).unwrap()))));
    let write = write(&desk.tick(1_010));
    let lease = Lease::written(&write, "ns", "windlass", "2026-11-22T17:41:31.0000425Z".parse().unwrap());
    let json = serde_json::to_value(lease).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": "windlass", "namespace": "ns", "uid": "u-1", "resourceVersion": "51", "labels": { "a": "b" },
                "annotations": { "team": "blue", "windlass.dev/term": "8" } },
            "spec": { "holderIdentity": "me", "leaseDurationSeconds": 15, "leaseTransitions": 5,
                "acquireTime": "2026-11-22T17:41:31.000042Z", "renewTime": "2026-11-22T17:41:31.000042Z",
                "strategy": "OldestEmulationVersion" },
        })
    );
}

#[test]
fn a_create_that_lands_after_others_held_the_lease_opens_nothing() {
    let mut desk = Desk::new(true);
    let id = read(&desk.tick(0));
    desk.fail(0, id, Failure::Absent);
    let making = write(&desk.tick(10));
    // While it is on its way another one leads, and the Lease is deleted.
    desk.tell(100, Input::Observed(present(50, "other")));
    desk.tell(200, Input::Observed(Copy::Absent { at: Some(60) }));
    let orders = desk.accept(300, &making);
    assert!(!has_requests(&orders), "{orders:?}");
    assert!(!orders.iter().any(|o| matches!(o, Order::Prepare(_))), "the other one may not know yet");
    desk.tell(15_299, Input::Heard);
    let taking = write(&desk.tick(15_310));
    assert_eq!((taking.term, taking.base.is_some()), (Term(8), true));
}

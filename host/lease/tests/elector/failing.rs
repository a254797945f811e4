//! Terms that come to nothing: fenced, never prepared, or held by two processes at once.

use std::sync::Arc;

use windlass_core::claim::Term;
use windlass_lease::record::{Copy, Lease};
use windlass_lease::step::{Failure, Input, Leadership, Order, Purpose, StepDown};

use crate::desk::{Desk, at, closed, ends, has_requests, lease, present, read, write, writes};

/// The elector's next write comes, at the latest, at `until`; what time it was then.
fn next_write(desk: &mut Desk, until: u64) -> (u64, windlass_lease::step::Write) {
    let ms = (desk.wake_at.unwrap().0 - at(0).0).div_ceil(1_000_000);
    assert!(ms <= until, "{ms}");
    let orders = desk.tick(ms);
    (ms, write(&orders))
}

#[test]
fn a_fenced_term_ends_and_the_next_one_is_new() {
    let mut desk = Desk::leader();
    let orders = desk.tell(500, Input::Fenced(Term(1)));
    assert_eq!(closed(&orders), Some(StepDown::Fenced));
    assert!(!has_requests(&orders), "first a pause");
    let (ms, taking) = next_write(&mut desk, 510);
    assert_eq!((ms, taking.purpose, taking.term), (510, Purpose::Acquire, Term(2)));
    desk.accept(511, &taking);
    assert_eq!(ends(&desk.tell(512, Input::Prepared { term: Term(2), done: true })), Some(10_510));
}

#[test]
fn a_refusal_of_another_term_means_nothing() {
    let mut desk = Desk::leader();
    assert!(desk.tell(500, Input::Fenced(Term(2))).is_empty());
    assert!(desk.tell(501, Input::Fenced(Term(0))).is_empty());
    let mut standby = Desk::standby(true);
    assert!(standby.tell(500, Input::Fenced(Term(7))).is_empty());
}

#[test]
fn terms_that_are_fenced_again_and_again_are_taken_more_and_more_slowly() {
    let mut desk = Desk::leader();
    let (mut ms, mut pauses) = (500, Vec::new());
    for term in 1..=12 {
        assert_eq!(closed(&desk.tell(ms, Input::Fenced(Term(term)))), Some(StepDown::Fenced));
        let (taken, taking) = next_write(&mut desk, ms + 2_000);
        pauses.push(taken - ms);
        desk.accept(taken + 1, &taking);
        desk.tell(taken + 2, Input::Prepared { term: Term(term + 1), done: true });
        ms = taken + 10;
    }
    assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1_280, 2_000, 2_000, 2_000, 2_000]);
}

#[test]
fn a_term_that_lasted_makes_the_pauses_short_again() {
    let mut desk = Desk::leader();
    desk.tell(500, Input::Fenced(Term(1)));
    let (ms, taking) = next_write(&mut desk, 510);
    desk.accept(ms + 1, &taking);
    desk.tell(ms + 2, Input::Prepared { term: Term(2), done: true });
    for _ in 0..6 {
        let (ms, renewal) = next_write(&mut desk, 20_000);
        assert_eq!(renewal.purpose, Purpose::Renew);
        desk.accept(ms + 1, &renewal);
    }
    let ms = 12_600;
    assert_eq!(closed(&desk.tell(ms, Input::Fenced(Term(2)))), Some(StepDown::Fenced));
    assert_eq!(next_write(&mut desk, ms + 10).0, ms + 10);
}

#[test]
fn a_fenced_lease_that_another_one_took_is_left_alone() {
    let mut desk = Desk::leader();
    desk.tell(500, Input::Fenced(Term(1)));
    let orders = desk.tell(505, Input::Observed(present(150, "other")));
    assert_eq!(orders, [Order::Announce(Leadership::Standby { holder: Some("other".into()) })]);
    assert!(!has_requests(&desk.tick(510)));
}

#[test]
fn a_shutdown_after_a_fenced_term_still_waits_for_its_writes() {
    let mut desk = Desk::leader();
    desk.tell(500, Input::Fenced(Term(1)));
    let orders = desk.tell(505, Input::Shutdown);
    assert_eq!(orders, [Order::WaitDrain]);
    assert!(!has_requests(&desk.tick(10_019)));
    assert_eq!(write(&desk.tick(10_020)).purpose, Purpose::Release);
}

/// A candidate that got the Lease at 10 ms and whose preparation fails for ever.
fn unlucky() -> Desk {
    let mut desk = Desk::new(true);
    let id = read(&desk.tick(0));
    desk.fail(0, id, Failure::Absent);
    let taking = write(&desk.tick(10));
    desk.accept(10, &taking);
    desk
}

/// Lets preparations fail and renewals succeed until the orders close the gate.
fn fail_until_closed(desk: &mut Desk, term: u64) -> (u64, StepDown) {
    loop {
        let ms = (desk.wake_at.unwrap().0 - at(0).0).div_ceil(1_000_000);
        let orders = desk.tick(ms);
        if let Some(reason) = closed(&orders) {
            let release = write(&orders);
            assert_eq!(release.purpose, Purpose::Release);
            desk.accept(ms + 1, &release);
            return (ms, reason);
        }
        for order in &orders {
            match order {
                Order::Write(renewal) => drop(desk.accept(ms, renewal)),
                Order::Prepare(_) => drop(desk.tell(ms, Input::Prepared { term: Term(term), done: false })),
                _ => {}
            }
        }
    }
}

#[test]
fn a_claim_that_is_never_prepared_is_given_back_after_a_renew_deadline() {
    let mut desk = unlucky();
    desk.tell(12, Input::Prepared { term: Term(1), done: false });
    assert_eq!(fail_until_closed(&mut desk, 1), (10_010, StepDown::Unprepared));
    // Others get their chance: a retry period first, then twice that.
    let (ms, taking) = next_write(&mut desk, 13_000);
    assert_eq!((ms, taking.purpose, taking.term), (12_010, Purpose::Acquire, Term(2)));
    desk.accept(ms, &taking);
    desk.tell(ms + 1, Input::Prepared { term: Term(2), done: false });
    let (ms, reason) = fail_until_closed(&mut desk, 2);
    assert_eq!((ms, reason), (22_010, StepDown::Unprepared));
    desk.tell(24_000, Input::Heard);
    assert_eq!(next_write(&mut desk, 27_000).0, 26_010);
}

#[test]
fn a_preparation_that_never_answers_is_given_up_too() {
    let mut desk = unlucky();
    let mut renewed = 10;
    while renewed < 10_000 {
        let (ms, renewal) = next_write(&mut desk, 10_000);
        desk.accept(ms, &renewal);
        renewed = ms + 2_000;
    }
    assert_eq!(desk.wake_at, Some(at(10_010)));
    assert_eq!(closed(&desk.tick(10_010)), Some(StepDown::Unprepared));
}

#[test]
fn a_lease_that_was_given_back_unprepared_is_anothers_to_take() {
    let mut desk = unlucky();
    desk.tell(12, Input::Prepared { term: Term(1), done: false });
    let (ms, _) = fail_until_closed(&mut desk, 1);
    let orders = desk.tell(ms + 20, Input::Observed(present(150, "other")));
    assert!(orders.contains(&Order::Announce(Leadership::Standby { holder: Some("other".into()) })));
    assert!(!has_requests(&desk.tell(ms + 14_000, Input::Heard)));
}

/// The Lease in this replica's name, with a `renewTime` of somebody else's.
fn forged(version: u64, renewed: &str) -> Arc<Lease> {
    let mut lease = (*lease(version, "me", 15, "1")).clone();
    lease.spec.renew_time = Some(renewed.to_owned());
    Arc::new(lease)
}

/// What the desk's API server stored last, with another version: as `kubectl annotate` leaves it.
fn annotated(desk: &Desk, version: u64) -> Arc<Lease> {
    let mut lease = (**desk.last.as_ref().unwrap()).clone();
    lease.metadata.resource_version = Some(version.to_string());
    Arc::new(lease)
}

#[test]
fn a_renewal_in_our_name_that_is_not_ours_ends_the_term() {
    let mut desk = Desk::leader();
    let orders = desk.tell(500, Input::Observed(Copy::Present(forged(150, "2026-02-02T00:00:00.000000Z"))));
    assert_eq!(closed(&orders), Some(StepDown::Impostor));
    assert!(!has_requests(&orders));
    // It renews on: that one is left alone as any other leader is.
    for second in 1..40_u64 {
        let renewed = format!("2026-02-02T00:00:{second:02}.000000Z");
        let copy = Copy::Present(forged(150 + second, &renewed));
        assert!(!has_requests(&desk.tell(500 + second * 1_000, Input::Observed(copy))));
    }
    desk.tell(54_499, Input::Heard);
    let taking = write(&desk.tick(54_510));
    assert_eq!((taking.purpose, taking.term), (Purpose::Acquire, Term(2)), "when it has stopped");
}

#[test]
fn somebody_who_annotates_the_lease_is_no_impostor() {
    let mut desk = Desk::leader();
    let copy = annotated(&desk, 150);
    assert!(desk.tell(500, Input::Observed(Copy::Present(copy))).is_empty());
}

#[test]
fn an_own_renewal_with_a_lost_answer_is_no_impostors() {
    let mut desk = Desk::leader();
    let renewal = write(&desk.tick(2_020));
    desk.fail(7_020, renewal.id, Failure::Unknown);
    let stored = forged(150, "2026-02-02T00:00:00.000000Z");
    let orders = desk.tell(7_100, Input::Observed(Copy::Present(stored)));
    assert_eq!(closed(&orders), None);
}

#[test]
fn an_own_renewal_that_was_sent_twice_is_no_impostors() {
    let mut desk = Desk::leader();
    let renewal = write(&desk.tick(2_020));
    // The first one was carried out, the answer is that to the second.
    let id = read(&desk.fail(2_030, renewal.id, Failure::Conflict));
    let stored = forged(150, "2026-02-02T00:00:00.000000Z");
    let renewal = write(&desk.tell(2_040, Input::Answered { id, result: Ok(stored) }));
    desk.version = 150;
    assert_eq!(ends(&desk.accept(2_050, &renewal)), Some(12_040));
}

/// Requests that are carried out and answered too late, for as long as a fault lasts: each
/// acquisition changes the Lease, and whoever waits for it to rest would wait for ever.
#[test]
fn a_lease_that_is_taken_without_an_answer_is_left_to_others_after_the_second_time() {
    let mut desk = Desk::standby(true);
    let mut ms = 15_020;
    let mut orders = desk.tick(ms);
    for _ in 0..2 {
        let taking = write(&orders);
        let stored = desk.stored(&taking);
        desk.fail(ms + 5_000, taking.id, Failure::Unknown);
        ms += 7_000;
        let id = read(&desk.tick(ms));
        orders = desk.tell(ms, Input::Answered { id, result: Ok(stored) });
    }
    assert!(writes(&orders).is_empty(), "it is our own, and it is left alone");
    let unanswered = ms - 2_000;
    // Another one takes it within its lease duration and a little; until then nothing is written.
    for ms in (ms..unanswered + 17_000).step_by(500) {
        for order in desk.tick(ms) {
            match order {
                Order::Read { id, .. } => {
                    let lease = desk.last.clone().unwrap();
                    assert!(writes(&desk.tell(ms, Input::Answered { id, result: Ok(lease) })).is_empty());
                }
                order => panic!("{order:?} at {ms}"),
            }
        }
    }
    let again = desk.tick(unanswered + 17_000);
    assert_eq!(write(&again).purpose, Purpose::Acquire, "nobody did, so it is tried again");
}

#[test]
fn one_acquisition_without_an_answer_costs_no_more_than_a_look() {
    let mut desk = Desk::standby(true);
    let taking = write(&desk.tick(15_020));
    let stored = desk.stored(&taking);
    desk.fail(20_020, taking.id, Failure::Unknown);
    let id = read(&desk.tick(22_020));
    let again = write(&desk.tell(22_020, Input::Answered { id, result: Ok(stored) }));
    assert_eq!((again.purpose, again.term), (Purpose::Acquire, Term(9)), "in a new term");
}

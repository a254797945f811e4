//! A leader: what its claim is counted from, and what it does when things go wrong.

use std::time::Duration;

use windlass_core::claim::Term;
use windlass_lease::record::Copy;
use windlass_lease::step::{Failure, Input, Leadership, Order, Purpose, StepDown, Write};

use crate::desk::{Desk, at, closed, ends, has_requests, lease, present, read, write};

#[test]
fn a_claim_is_counted_from_before_the_write_was_sent() {
    let mut desk = Desk::leader();
    let renewal = write(&desk.tick(2_020));
    assert_eq!((renewal.purpose, renewal.term), (Purpose::Renew, Term(1)));
    // Committed at once, answered three seconds later.
    let orders = desk.accept(5_000, &renewal);
    assert_eq!(ends(&orders), Some(12_020));
    // The next renewal is due a retry period after the last was sent: now.
    write(&orders);
}

#[test]
fn a_renewal_that_is_answered_after_the_claims_end_opens_nothing() {
    let mut desk = Desk::leader();
    let renewal = write(&desk.tick(9_000));
    assert_eq!(renewal.timeout, Duration::from_millis(1_020), "a request ends inside the claim");
    assert_eq!(desk.wake_at, Some(at(10_020)));
    assert_eq!(closed(&desk.tick(10_020)), Some(StepDown::Expired));
    let orders = desk.accept(10_500, &renewal);
    assert_eq!(ends(&orders), None);
    // Nobody took the Lease meanwhile, so it is taken again, in a new term.
    let again = write(&orders);
    assert_eq!((again.purpose, again.term), (Purpose::Acquire, Term(2)));
}

#[test]
fn an_answer_and_the_claims_end_together_are_the_end() {
    let mut desk = Desk::leader();
    let renewal = write(&desk.tick(9_000));
    let orders = desk.accept(10_020, &renewal);
    assert_eq!(closed(&orders), Some(StepDown::Expired));
    assert_eq!(ends(&orders), None);
}

#[test]
fn a_lost_answer_is_looked_up_before_anything_is_written() {
    let mut desk = Desk::leader();
    let renewal = write(&desk.tick(2_020));
    let stored = desk.stored(&renewal);
    assert!(!has_requests(&desk.fail(7_020, renewal.id, Failure::Unknown)), "first a pause");
    let pause_ends = desk.wake_at.unwrap();
    assert!(pause_ends >= at(7_520) && pause_ends <= at(8_520), "{pause_ends:?}");
    let id = read(&desk.tick(8_520));
    let renewal = write(&desk.tell(8_530, Input::Answered { id, result: Ok(stored.clone()) }));
    assert_eq!(renewal.base, Some(stored), "the swap is against what was read");
    // Reading proves nothing about when it was sent: only the new renewal moves the end.
    assert_eq!(ends(&desk.accept(8_540, &renewal)), Some(18_530));
}

#[test]
fn a_conflict_is_read_at_once_and_renewed_from_there() {
    let mut desk = Desk::leader();
    let renewal = write(&desk.tick(2_020));
    let id = read(&desk.fail(2_025, renewal.id, Failure::Conflict));
    // Somebody put an annotation on it.
    let edited = lease(150, "me", 15, "1");
    let renewal = write(&desk.tell(2_030, Input::Answered { id, result: Ok(edited.clone()) }));
    assert_eq!(renewal.base, Some(edited));
    desk.version = 150;
    assert_eq!(ends(&desk.accept(2_040, &renewal)), Some(12_030));
}

#[test]
fn a_conflict_that_shows_another_holder_closes_the_gate() {
    let mut desk = Desk::leader();
    let renewal = write(&desk.tick(2_020));
    let id = read(&desk.fail(2_025, renewal.id, Failure::Conflict));
    let orders = desk.tell(2_030, Input::Answered { id, result: Ok(lease(150, "other", 15, "2")) });
    assert_eq!(closed(&orders), Some(StepDown::Taken("other".into())));
    assert!(orders.contains(&Order::Announce(Leadership::Standby { holder: Some("other".into()) })));
    assert!(!has_requests(&orders));
}

#[test]
fn a_watch_event_that_shows_another_holder_closes_the_gate_at_once() {
    let mut desk = Desk::leader();
    assert_eq!(
        closed(&desk.tell(500, Input::Observed(present(90, "old")))),
        None,
        "older than our own write"
    );
    assert_eq!(
        closed(&desk.tell(501, Input::Observed(present(150, "other")))),
        Some(StepDown::Taken("other".into()))
    );
}

#[test]
fn a_deleted_lease_is_made_again_by_its_leader_in_a_new_term() {
    let mut desk = Desk::leader();
    let renewal = write(&desk.tick(2_020));
    let orders = desk.fail(2_025, renewal.id, Failure::Absent);
    assert_eq!(closed(&orders), Some(StepDown::Deleted));
    let making = write(&orders);
    assert_eq!((making.purpose, &making.base, making.term), (Purpose::Acquire, &None, Term(2)));
    let orders = desk.accept(2_030, &making);
    assert!(orders.iter().any(|o| matches!(o, Order::Prepare(claim) if claim.term == Term(2))));
}

#[test]
fn a_former_leader_makes_a_deleted_lease_again_only_while_its_claim_would_have_lasted() {
    let mut desk = Desk::leader();
    let orders = desk.tell(9_000, Input::Observed(Copy::Absent { at: Some(200) }));
    assert_eq!(closed(&orders), Some(StepDown::Deleted));
    desk.fail(9_010, write(&orders).id, Failure::Unknown);
    let id = read(&desk.tick(11_000));
    assert!(!has_requests(&desk.fail(11_010, id, Failure::Absent)), "others may have waited long enough");
    for second in 12..24 {
        let orders = desk.tell(second * 1_000, Input::Heard);
        assert!(!has_requests(&orders), "{second}: {orders:?}");
    }
    assert_eq!(write(&desk.tick(24_010)).base, None);
}

#[test]
fn an_outage_is_survived_by_taking_the_lease_again() {
    let mut desk = Desk::leader();
    let mut ms = 2_020;
    let mut closes = Vec::new();
    while ms < 60_000 {
        let orders = desk.tick(ms);
        closes.extend(closed(&orders));
        for order in &orders {
            match order {
                Order::Read { id, .. } => drop(desk.fail(ms, *id, Failure::Unknown)),
                Order::Write(write) => drop(desk.fail(ms, write.id, Failure::Unknown)),
                _ => {}
            }
        }
        ms += 100;
    }
    assert_eq!(closes, [StepDown::Expired]);
    let id = read(&desk.tick(62_000));
    let taking = write(&desk.tell(62_001, Input::Answered { id, result: Ok(lease(101, "me", 15, "1")) }));
    assert_eq!((taking.purpose, taking.term), (Purpose::Acquire, Term(2)));
}

#[test]
fn a_used_number_is_raised_before_the_gate_opens() {
    let mut desk = Desk::new(true);
    let id = read(&desk.tick(0));
    desk.fail(0, id, Failure::Absent);
    let taking = write(&desk.tick(10));
    desk.accept(10, &taking);
    let renewal = write(&desk.tell(12, Input::TermSeen(Term(5))));
    assert_eq!((renewal.purpose, renewal.term), (Purpose::Renew, Term(6)));
    assert_eq!(ends(&desk.tell(13, Input::Prepared { term: Term(1), done: false })), None);
    let orders = desk.accept(14, &renewal);
    assert!(orders.iter().any(|o| matches!(o, Order::Prepare(claim) if claim.term == Term(6))), "{orders:?}");
    assert_eq!(
        ends(&desk.tell(15, Input::Prepared { term: Term(1), done: true })),
        None,
        "a late word of the old term"
    );
    assert_eq!(ends(&desk.tell(16, Input::Prepared { term: Term(6), done: true })), Some(10_012));
}

#[test]
fn the_lease_is_renewed_while_the_claim_is_prepared() {
    let mut desk = Desk::new(true);
    let id = read(&desk.tick(0));
    desk.fail(0, id, Failure::Absent);
    let taking = write(&desk.tick(10));
    let orders = desk.accept(11, &taking);
    assert_eq!(ends(&orders), None);
    let renewal = write(&desk.tick(2_010));
    assert_eq!(ends(&desk.accept(2_011, &renewal)), None, "still not prepared");
    assert!(desk.tell(2_012, Input::Prepared { term: Term(1), done: false }).is_empty());
    let retry = desk.wake_at.unwrap();
    assert!(retry <= at(3_512));
    assert!(desk.tick(3_512).iter().any(|o| matches!(o, Order::Prepare(_))));
    assert_eq!(ends(&desk.tell(3_600, Input::Prepared { term: Term(1), done: true })), Some(12_010));
}

#[test]
fn answers_to_forgotten_requests_are_ignored() {
    let mut desk = Desk::leader();
    let renewal = write(&desk.tick(2_020));
    let stored = desk.stored(&renewal);
    desk.fail(2_100, renewal.id, Failure::Unknown);
    let orders = desk.tell(2_200, Input::Answered { id: renewal.id, result: Ok(stored) });
    assert!(orders.is_empty(), "{orders:?}");
}

#[test]
fn an_api_server_that_comes_and_goes_every_second_does_not_cost_the_lease() {
    let mut desk = Desk::leader();
    let mut lease = Some(lease(101, "me", 15, "1"));
    for ms in (100..600_000).step_by(10) {
        let up = (ms / 1_000) % 2 == 1;
        let mut orders = desk.tick(ms);
        while let Some(order) =
            orders.iter().find(|o| matches!(o, Order::Read { .. } | Order::Write(_))).cloned()
        {
            orders = match order {
                Order::Write(write) if up => {
                    lease = Some(desk.stored(&write));
                    let result = lease.clone().ok_or(Failure::Absent);
                    desk.tell(ms + 1, Input::Answered { id: write.id, result })
                }
                Order::Read { id, .. } if up => {
                    let result = lease.clone().ok_or(Failure::Absent);
                    desk.tell(ms + 1, Input::Answered { id, result })
                }
                Order::Write(Write { id, .. }) | Order::Read { id, .. } => {
                    desk.fail(ms + 1, id, Failure::Unknown)
                }
                _ => unreachable!("only requests are picked"),
            };
            assert_eq!(closed(&orders), None, "at {ms} ms");
        }
        assert_eq!(closed(&orders), None, "at {ms} ms");
    }
}

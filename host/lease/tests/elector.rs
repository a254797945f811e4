//! The elector's rules on pure values: one candidate, every answer given by hand.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use windlass_core::claim::{BootTime, Term};
use windlass_lease::durations::Durations;
use windlass_lease::elector::{Elector, Settings};
use windlass_lease::record::{Copy, Lease};
use windlass_lease::step::{Failure, HeldByAnother, Input, Leadership, Order, Purpose, StepDown, Write};

/// Drives one elector and answers for the API server.
struct Desk {
    elector: Elector,
    now: BootTime,
    wake_at: Option<BootTime>,
    version: u64,
}

fn at(ms: u64) -> BootTime {
    BootTime(1_000_000_000_000 + ms * 1_000_000)
}

fn lease(version: u64, holder: &str, seconds: i64, term: &str) -> Arc<Lease> {
    let json = serde_json::json!({
        "metadata": { "name": "windlass", "namespace": "ns", "uid": "u", "resourceVersion": version.to_string(),
            "annotations": { "windlass.dev/term": term, "other": "kept" } },
        "spec": { "holderIdentity": holder, "leaseDurationSeconds": seconds, "acquireTime": "2020-01-01T00:00:00.000000Z",
            "renewTime": "2020-01-01T00:00:00.000000Z", "leaseTransitions": 4 },
    });
    Arc::new(Lease::from_json(json.to_string().as_bytes()).unwrap())
}

fn present(version: u64, holder: &str) -> Copy {
    Copy::Present(lease(version, holder, 15, "7"))
}

impl Desk {
    fn new(elect: bool) -> Self {
        let settings = Settings {
            identity: "me".into(),
            durations: Durations::default(),
            elect,
            seed: 1,
            pulse: None,
            mutant: None,
        };
        Self { elector: Elector::new(settings, at(0)), now: at(0), wake_at: None, version: 100 }
    }

    fn tell(&mut self, ms: u64, input: Input) -> Vec<Order> {
        self.now = at(ms);
        let step = self.elector.step(self.now, input);
        self.wake_at = step.wake_at;
        step.orders
    }

    fn tick(&mut self, ms: u64) -> Vec<Order> {
        self.tell(ms, Input::Tick)
    }

    /// The Lease as the API server stores it after `write`.
    fn stored(&mut self, write: &Write) -> Arc<Lease> {
        self.version += 1;
        let mut lease = Lease::written(write, "ns", "windlass", "2026-01-01T00:00:00Z".parse().unwrap());
        lease.metadata.resource_version = Some(self.version.to_string());
        Arc::new(lease)
    }

    fn accept(&mut self, ms: u64, write: &Write) -> Vec<Order> {
        let lease = self.stored(write);
        self.tell(ms, Input::Answered { id: write.id, result: Ok(lease) })
    }

    fn fail(&mut self, ms: u64, id: u64, failure: Failure) -> Vec<Order> {
        self.tell(ms, Input::Answered { id, result: Err(failure) })
    }

    /// A leader since `ms` 0 whose acquisition was sent then, with everything answered at once.
    fn leader() -> Self {
        let mut desk = Self::new(true);
        let id = read(&desk.tick(0));
        desk.fail(0, id, Failure::Absent);
        let write = write(&desk.tick(20));
        desk.accept(20, &write);
        let orders = desk.tell(20, Input::Prepared { term: Term(1), done: true });
        assert_eq!(ends(&orders), Some(10_020));
        desk
    }

    /// A standby that saw `other` hold the Lease at `ms` 0.
    fn standby(elect: bool) -> Self {
        let mut desk = Self::new(elect);
        let id = read(&desk.tick(0));
        let orders = desk.tell(0, Input::Answered { id, result: Ok(lease(50, "other", 15, "7")) });
        assert_eq!(orders, [Order::Announce(Leadership::Standby { holder: Some("other".into()) })]);
        desk
    }
}

fn read(orders: &[Order]) -> u64 {
    let reads: Vec<_> =
        orders.iter().filter_map(|o| if let Order::Read { id, .. } = o { Some(*id) } else { None }).collect();
    assert_eq!(reads.len(), 1, "one read in {orders:?}");
    reads[0]
}

fn writes(orders: &[Order]) -> Vec<Write> {
    orders
        .iter()
        .filter_map(|o| if let Order::Write(write) = o { Some(write.clone()) } else { None })
        .collect()
}

fn write(orders: &[Order]) -> Write {
    let writes = writes(orders);
    assert_eq!(writes.len(), 1, "one write in {orders:?}");
    writes[0].clone()
}

fn has_requests(orders: &[Order]) -> bool {
    orders.iter().any(|o| matches!(o, Order::Write(_) | Order::Read { .. }))
}

/// The end, in ms, to which the orders open the gate.
fn ends(orders: &[Order]) -> Option<u64> {
    orders.iter().find_map(|o| {
        if let Order::OpenGate(claim) = o { Some((claim.ends.0 - at(0).0) / 1_000_000) } else { None }
    })
}

fn closed(orders: &[Order]) -> Option<StepDown> {
    orders.iter().find_map(|o| if let Order::CloseGate(reason) = o { Some(reason.clone()) } else { None })
}

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
fn a_release_is_taken_within_ten_milliseconds() {
    let mut desk = Desk::standby(true);
    let released = Copy::Present(lease(51, "", 1, "7"));
    desk.tell(1_000, Input::Observed(released));
    let wake_at = desk.wake_at.unwrap();
    assert!(wake_at <= at(1_010), "{wake_at:?}");
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
fn a_shutdown_releases_after_the_last_write() {
    let mut desk = Desk::leader();
    let orders = desk.tell(1_000, Input::Shutdown);
    assert_eq!(closed(&orders), Some(StepDown::Shutdown));
    assert_eq!(orders.last(), Some(&Order::WaitDrain));
    assert!(!has_requests(&orders));
    assert_eq!(desk.wake_at, Some(at(10_020)), "or when the claim has ended");
    let release = write(&desk.tell(1_500, Input::Drained));
    assert_eq!((release.purpose, release.term), (Purpose::Release, Term(1)));
    let stored = desk.stored(&release);
    assert!(stored.is_released());
    assert_eq!(stored.term(), Some(Term(1)), "the number stays");
    let orders = desk.tell(1_510, Input::Answered { id: release.id, result: Ok(stored) });
    assert_eq!(orders, [Order::End(Ok(()))]);
}

#[test]
fn a_shutdown_waits_no_longer_than_the_claim() {
    let mut desk = Desk::leader();
    desk.tell(1_000, Input::Shutdown);
    assert!(!has_requests(&desk.tick(10_019)));
    assert_eq!(write(&desk.tick(10_020)).purpose, Purpose::Release);
}

#[test]
fn a_shutdown_during_a_renewal_releases_what_the_renewal_wrote() {
    let mut desk = Desk::leader();
    let renewal = write(&desk.tick(2_020));
    desk.tell(2_021, Input::Shutdown);
    assert!(!has_requests(&desk.tell(2_022, Input::Drained)), "one request at a time");
    let release = write(&desk.accept(2_030, &renewal));
    assert_eq!(release.base.as_ref().and_then(|base| base.version()), Some(102));
    // The answer is lost: look, and if it is released, end.
    desk.fail(2_100, release.id, Failure::Unknown);
    let id = read(&desk.tick(3_700));
    let orders = desk.tell(3_701, Input::Answered { id, result: Ok(lease(110, "", 1, "1")) });
    assert_eq!(orders.last(), Some(&Order::End(Ok(()))));
}

#[test]
fn a_standby_ends_at_once_and_leaves_the_lease_alone() {
    let mut desk = Desk::standby(true);
    assert_eq!(desk.tell(100, Input::Shutdown), [Order::End(Ok(()))]);
    assert_eq!(desk.wake_at, None);
    assert!(desk.tick(20_000).is_empty());
}

#[test]
fn an_acquisition_that_meets_a_shutdown_is_given_back() {
    let mut desk = Desk::standby(true);
    desk.tell(1_000, Input::Observed(Copy::Present(lease(51, "", 1, "7"))));
    let taking = write(&desk.tick(1_010));
    assert!(desk.tell(1_011, Input::Shutdown).is_empty());
    let release = write(&desk.accept(1_020, &taking));
    assert_eq!(release.purpose, Purpose::Release);
}

#[test]
fn an_acquisition_with_a_lost_answer_is_looked_up_at_shutdown() {
    let mut desk = Desk::standby(true);
    desk.tell(1_000, Input::Observed(Copy::Present(lease(51, "", 1, "7"))));
    let taking = write(&desk.tick(1_010));
    desk.tell(1_011, Input::Shutdown);
    desk.fail(1_100, taking.id, Failure::Unknown);
    let id = read(&desk.tick(2_700));
    let release = write(&desk.tell(2_701, Input::Answered { id, result: Ok(lease(52, "me", 15, "8")) }));
    assert_eq!(release.purpose, Purpose::Release);
}

#[test]
fn without_election_a_living_holder_ends_the_process() {
    let mut desk = Desk::standby(false);
    let orders = desk.tell(2_000, Input::Observed(present(51, "other")));
    assert!(orders.contains(&Order::End(Err(HeldByAnother { holder: "other".into() }))));
}

#[test]
fn without_election_a_dead_holder_is_waited_out() {
    let mut desk = Desk::standby(false);
    desk.tell(14_999, Input::Heard);
    let taking = write(&desk.tick(15_010));
    desk.accept(15_020, &taking);
    desk.tell(15_020, Input::Prepared { term: Term(8), done: true });
    write(&desk.tick(17_010));
    let orders = desk.tell(17_500, Input::Observed(present(500, "other")));
    assert_eq!(closed(&orders), Some(StepDown::Taken("other".into())));
    assert_eq!(orders.last(), Some(&Order::End(Err(HeldByAnother { holder: "other".into() }))));
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

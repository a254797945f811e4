//! Evidence of a death: what is taken at once, and what is not believed.

use windlass_core::claim::Term;
use windlass_lease::record::Copy;
use windlass_lease::step::{Cause, Failure, Input, Leadership, Order, Purpose, StepDown};

use crate::desk::{Desk, at, closed, has_requests, lease, present, read, write};

fn died(identity: &str) -> Input {
    Input::Died(identity.into())
}

#[test]
fn a_dead_holders_lease_is_taken_at_once() {
    let mut desk = Desk::standby(true);
    let taking = write(&desk.tell(1_000, died("other")));
    assert_eq!((taking.purpose, taking.term), (Purpose::Acquire, Term(8)));
    assert_eq!(taking.base.as_ref().and_then(|base| base.version()), Some(50), "a swap as ever");
    assert_eq!(desk.elector.vacancy(), Some((Cause::Died, at(1_000))));
    let orders = desk.accept(1_003, &taking);
    assert!(orders.iter().any(|order| matches!(order, Order::Prepare(claim) if claim.term == Term(8))));
}

#[test]
fn silence_is_no_evidence() {
    let mut desk = Desk::standby(true);
    for ms in [10, 1_000, 2_900] {
        assert!(desk.tell(ms, Input::Silent("other".into())).is_empty());
    }
    assert!(!has_requests(&desk.tell(14_999, Input::Heard)));
}

#[test]
fn evidence_about_somebody_else_frees_nothing_yet() {
    let mut desk = Desk::standby(true);
    assert!(desk.tell(100, died("third")).is_empty());
    // The copy that names it comes later.
    let orders = desk.tell(150, Input::Observed(present(51, "third")));
    assert_eq!(write(&orders).base.as_ref().and_then(|base| base.version()), Some(51));
}

#[test]
fn only_the_latest_evidence_is_remembered() {
    let mut desk = Desk::standby(true);
    desk.tell(100, died("third"));
    desk.tell(110, died("fourth"));
    assert!(!has_requests(&desk.tell(150, Input::Observed(present(51, "third")))));
}

#[test]
fn what_the_dead_wrote_last_is_read_and_taken() {
    let mut desk = Desk::standby(true);
    let taking = write(&desk.tell(1_000, died("other")));
    let id = read(&desk.fail(1_003, taking.id, Failure::Conflict));
    // A renewal that was on its way when the process was killed.
    let orders = desk.tell(1_005, Input::Answered { id, result: Ok(lease(51, "other", 15, "7")) });
    assert_eq!(write(&orders).base.as_ref().and_then(|base| base.version()), Some(51));
}

#[test]
fn the_second_of_two_standbys_reads_and_stands_by() {
    let mut desk = Desk::standby(true);
    let taking = write(&desk.tell(1_000, died("other")));
    let id = read(&desk.fail(1_003, taking.id, Failure::Conflict));
    let orders = desk.tell(1_005, Input::Answered { id, result: Ok(lease(51, "third", 15, "8")) });
    assert_eq!(orders, [Order::Announce(Leadership::Standby { holder: Some("third".into()) })]);
    assert!(!has_requests(&desk.tell(1_100, died("other"))), "old news");
    assert!(!has_requests(&desk.tell(15_000, Input::Heard)));
}

#[test]
fn a_process_does_not_believe_in_its_own_death() {
    let mut desk = Desk::leader();
    assert!(desk.tell(500, died("me")).is_empty());
    desk.tell(501, died("third"));
    let orders = desk.tell(502, Input::Observed(present(150, "third")));
    assert_eq!(closed(&orders), Some(StepDown::Taken("third".into())), "it stops, whoever took it");
    assert_eq!(write(&orders).term, Term(8), "and takes it back from the dead");
}

#[test]
fn without_election_a_dead_holder_need_not_be_waited_out() {
    let mut desk = Desk::standby(false);
    assert_eq!(write(&desk.tell(1_000, died("other"))).purpose, Purpose::Acquire);
}

/// The holder is declared dead, another one takes over, and then the dead one is back.
fn lied_to(desk: &mut Desk, ms: u64, version: u64) {
    let taking = write(&desk.tell(ms, died("other")));
    let id = read(&desk.fail(ms + 1, taking.id, Failure::Conflict));
    desk.tell(ms + 2, Input::Answered { id, result: Ok(lease(version, "third", 15, "8")) });
    assert!(!has_requests(&desk.tell(ms + 3, Input::Observed(present(version + 1, "other")))));
}

#[test]
fn whoever_comes_back_from_the_dead_is_not_declared_dead_again_soon() {
    let mut desk = Desk::standby(true);
    lied_to(&mut desk, 1_000, 51);
    for ms in (1_100..16_000).step_by(500) {
        desk.version += 1;
        let alive = Copy::Present(lease(desk.version, "other", 15, "9"));
        assert!(!has_requests(&desk.tell(ms, Input::Observed(alive))));
        assert!(!has_requests(&desk.tell(ms + 1, died("other"))), "at {ms}: deaf for a lease duration");
    }
    // Once more, and it is deaf for twice as long.
    let version = desk.version + 1;
    lied_to(&mut desk, 16_500, version);
    desk.tell(45_000, Input::Observed(present(version + 2, "other")));
    assert!(!has_requests(&desk.tell(45_001, died("other"))));
    desk.tell(46_600, Input::Observed(present(version + 3, "other")));
    write(&desk.tell(46_601, died("other")));
}

#[test]
fn a_lease_in_the_name_of_the_dead_that_is_gone_is_waited_for() {
    let mut desk = Desk::standby(true);
    desk.tell(100, Input::Observed(Copy::Absent { at: Some(60) }));
    assert!(!has_requests(&desk.tell(200, died("other"))), "nobody knows what else was written there");
}

#[test]
fn the_pulse_is_written_with_the_lease_and_removed_with_the_release() {
    let mut desk = Desk::with_pulse("10.0.0.7:8082/me");
    let id = read(&desk.tick(0));
    let orders = desk.tell(0, Input::Answered { id, result: Ok(lease(50, "", 1, "7")) });
    assert!(!has_requests(&orders));
    let taking = write(&desk.tick(10));
    let stored = desk.stored(&taking);
    assert_eq!(stored.pulse(), Some("10.0.0.7:8082/me"));
    desk.tell(12, Input::Answered { id: taking.id, result: Ok(stored) });
    desk.tell(13, Input::Prepared { term: Term(8), done: true });
    let renewal = write(&desk.tick(2_010));
    assert_eq!(desk.stored(&renewal).pulse(), Some("10.0.0.7:8082/me"));
    desk.accept(2_012, &renewal);
    desk.tell(2_020, Input::Shutdown);
    let release = write(&desk.tell(2_021, Input::Drained));
    assert_eq!(desk.stored(&release).pulse(), None);
}

#[test]
fn a_replica_without_a_pulse_does_not_keep_that_of_the_one_before() {
    let mut desk = Desk::standby(true);
    let mut before = (*lease(51, "", 1, "7")).clone();
    before.metadata.annotations.insert("windlass.dev/pulse".to_owned(), "10.0.0.7:8082/other".to_owned());
    desk.tell(1_000, Input::Observed(Copy::Present(before.into())));
    let taking = write(&desk.tick(1_010));
    assert_eq!(desk.stored(&taking).pulse(), None);
}

//! The end of a process: the Lease is given up after the last write.

use windlass_core::claim::Term;
use windlass_lease::record::Copy;
use windlass_lease::step::{Failure, Input, Order, Purpose, StepDown};

use crate::desk::{Desk, at, closed, has_requests, lease, read, write};

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

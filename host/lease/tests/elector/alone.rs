//! Without election.

use windlass_core::claim::Term;
use windlass_lease::step::{HeldByAnother, Input, Order, StepDown};

use crate::desk::{Desk, closed, present, write};

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

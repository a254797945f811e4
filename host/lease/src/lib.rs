//! Leadership: who may write, in which term, until when.
//!
//! [`Elector`](elector::Elector) is a pure state machine: clock readings, copies of the
//! Lease and answers go in, orders come out. [`LeaseDriver`](driver::LeaseDriver) carries
//! them out on a thread, a runtime and a connection of its own, so that a busy host cannot
//! starve its own renewals. What is absent here: any trust in another machine's clock,
//! and any write that is not a compare-and-swap on the copy that was judged.

pub mod claim_role;
pub mod clock;
mod contact;
pub mod driver;
pub mod durations;
pub mod elector;
pub mod fence;
pub mod hook;
pub mod mutant;
pub mod observe;
pub mod pulse;
pub mod record;
pub mod status;
pub mod step;

mod api;
mod run;
mod seen;
mod watch;

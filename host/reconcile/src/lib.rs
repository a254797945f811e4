//! The loop: Key -> Snapshot -> Decision -> Plan -> Outcome, generic over ports.
//!
//! A [`Reconciler`] takes keys from the queue, a few at a time. For each it looks
//! at the cache, asks the plugin, lets [`plan`](windlass_core::plan::plan) judge the
//! answer, has the plan applied under the claim that held when the pass began, and
//! says when the key comes back.
//!
//! # Guarantees
//! * Nothing is written or published without a claim, nor under another term than the
//!   one in which the pass began.
//! * A pass without a claim is a standby's: it looks, asks and plans as a leader's does.
//!   If nothing is left to do its key is settled, if not it waits for this replica to
//!   lead. What it found is never written: the leader decides anew. With
//!   [`Config::standby_decides`] off no pass begins without a claim.
//! * The plugin is not asked while the cache lacks one of our own writes for the key. After
//!   [`Config::unseen_most`] the kind is listed anew, and what that list says counts.
//! * A pass is not run to its end if nothing that it could see has changed since one that had
//!   nothing to do ([`memo`](windlass_core::memo)); it ends as that one did, with what is left of
//!   its requeue.
//! * Whatever a plugin read brings its key back when it changes: it is watched
//!   before the answer is given.
//! * A pass that fails, or panics, costs its own key a pause and nobody else
//!   anything.
//!
//! # Assumptions
//! * The queue hears from whoever follows the election when this replica leads and when
//!   it does not. Without that everything stays correct, and keys return a little later.
//! * Everyone whose answer is awaited here keeps a deadline of its own; the plugin
//!   is given [`Config::decide_most`].
//!
//! # Absent
//! No task is spawned: [`Reconciler::run`] is a future, and passes run inside it.
//! Nothing here knows which event brought a key.

mod again;
mod left;
mod memos;
mod observer;
mod pass;
mod recorder;
mod report;
mod resync;
mod run;
mod traces;

pub use observer::{Finished, Observer, Silent};
pub use resync::Resynced;
pub use run::{Config, Ports, Reconciler};

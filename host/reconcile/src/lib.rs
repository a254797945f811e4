//! The loop: Key -> Snapshot -> Decision -> Plan -> Outcome, generic over ports.
//!
//! A [`Reconciler`] takes keys from the queue, a few at a time. For each it looks
//! at the cache, asks the plugin, lets [`plan`](windlass_core::plan::plan) judge the
//! answer, has the plan applied under the claim that held when the pass began, and
//! says when the key comes back.
//!
//! # Guarantees
//! * No pass begins without a claim, and none writes under another term than the
//!   one in which it began.
//! * The plugin is not asked while the cache lacks one of our own writes for the
//!   key, up to [`Config::unseen_most`].
//! * Whatever a plugin read brings its key back when it changes: it is watched
//!   before the answer is given.
//! * A pass that fails, or panics, costs its own key a pause and nobody else
//!   anything.
//!
//! # Assumptions
//! * The queue is paused while this replica does not lead, and resumed when it
//!   does. Without that everything stays correct, and keys return a little later.
//! * Everyone whose answer is awaited here keeps a deadline of its own; the plugin
//!   is given [`Config::decide_most`].
//!
//! # Absent
//! No task is spawned: [`Reconciler::run`] is a future, and passes run inside it.
//! Nothing here knows which event brought a key.

mod observer;
mod pass;
mod recorder;
mod report;
mod run;
mod traces;

pub use observer::{Finished, Observer, Silent};
pub use run::{Config, Ports, Reconciler};

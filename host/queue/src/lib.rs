//! The work queue: one entry a [`Key`](windlass_core::key::Key), never two passes
//! of one key at once.
//!
//! Three small machines, each pure and each in its own file, answer one question:
//! *which* key is next (`lanes`: a fair share of time between plugins, and a share of
//! turns for each urgency within one), *when* a key is due and *whether* it may run (`state`: one entry a
//! key, backoff, delays). [`Queue`] puts a lock, a clock and chance around them.
//! *How many* run at once is asked by whoever calls [`Queue::next`].
//!
//! # Guarantees
//! * A key that was offered is handed out after the offer, unless its plugin is
//!   forgotten in between. A key that is offered while it runs runs again.
//! * A key is not handed out again before its [`Running`] is finished or dropped.
//! * [`offer`](windlass_core::ports::Sink::offer) never waits and never fails.
//!
//! # Failures and events
//! A key that failed waits with growing pauses. An event for it brings it forward,
//! because what made it fail may have been mended by just that event; if it was not, that
//! failure does not make the pauses longer, because no pause was waited for. So that an
//! object that changes all the time cannot turn its failures into a hot loop, the
//! pause after a failure has a floor that no event gets below, and the floor grows
//! while each failure follows an event ([`Config::hurry`]).
//!
//! A key that fails again and again is *stuck* ([`STUCK_FAILURES`], [`STUCK_AFTER`]):
//! [`Queue::snapshot`] lists it with its last error.
//!
//! # Urgency
//! Of the keys of one plugin the most urgent is next ([`Urgency`]), and of every sixteen turns
//! four, two and one belong to the three lower urgencies: each key is handed out after at most
//! sixteen turns of its plugin for each key before it that is as urgent. Only what waits for a
//! takeover is before all of them, once. A key that several things want is as urgent as the most
//! urgent of them, until a pass for it has ended well.
//!
//! # Standing by
//! A standby's keys are handed out too, so that its passes find out what a leader would
//! have to do. A key that is as it should be leaves the queue; one that is not rests
//! ([`Next::WhenLeading`](windlass_core::outcome::Next)) until [`Queue::lead`] hands it
//! out first, or until it changes and is looked at again.
//!
//! # Fairness
//! The plugin whose passes have taken the least time is next, and among equals they take turns.
//! A pass that runs counts as what its plugin's passes took of late, and as what it did take when
//! it has ended. A plugin that had no work begins where those are that had least, and no two are
//! more than a minute apart: nobody saves up time, or owes more than that.
//!
//! While there are several plugins none has more keys in work than its bound
//! ([`Config::per_plugin`], [`Queue::bound`]), and the last slot is only for one that has
//! none ([`Config::slots`]). So a key of a plugin with none in work is handed out at once
//! beside any number of keys and passes of any length of others, as long as there are fewer
//! such plugins than slots; beside more of them it gets the next slot that comes free, unless its
//! plugin has had more time than others that wait.
//! A plugin may have a rate, too ([`Config::rate`]): above it, it waits for itself alone.
//! A pass that runs is never ended by the queue: how long it may take is the business
//! of whoever runs it.
//!
//! # Bounds
//! One entry for each key that somebody offered and that has not been worked off:
//! at most one for each primary object; besides, one account and one bucket a plugin, and the
//! errors of at most a thousand keys. While the queue is paused nothing is
//! worked off, and what rests on a standby is not either; [`Queue::waiting`] and [`Queue::discard`] let its owner drop keys
//! whose object is gone.

mod entry;
mod lanes;
mod queue;
#[cfg(test)]
mod random;
mod running;
#[cfg(test)]
mod schedule;
mod state;
mod trouble;
mod view;

pub use lanes::Rate;
pub use queue::{Config, Observer, Queue, Silent, half_of};
pub use running::Running;
pub use state::{Stats, Waiting};
pub use trouble::{STUCK_AFTER, STUCK_FAILURES};
pub use view::{ROWS_MAX, Row, RowState, STUCK_MAX, Stuck, View};
pub use windlass_core::urgency::Urgency;

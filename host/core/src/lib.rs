//! The nouns of Windlass and the pure functions over them.
//!
//! Every stage of the host speaks in these types and knows no other stage:
//! [`Key`](key::Key) -> [`Snapshot`](snapshot::Snapshot) ->
//! [`Decision`](decision::Decision) -> [`Plan`](plan::Plan) ->
//! [`Outcome`](outcome::Outcome), and [`Claim`](claim::Claim), which every write
//! demands. What is absent here: tokio, kube, wasmtime, clocks, files, sockets.
//! A rule that can be stated on values belongs here, where a table can test it.

pub mod accepted;
pub mod backoff;
pub mod breaker;
pub mod claim;
pub mod class;
pub mod code;
pub mod decision;
pub mod equal;
pub mod flood;
pub mod guests;
pub mod json;
pub mod key;
pub mod kind;
pub mod limits;
pub mod loops;
pub mod manifest;
pub mod memo;
pub mod memory;
pub mod name;
pub mod object;
pub mod outcome;
pub mod pace;
pub mod plan;
pub mod ports;
pub mod probation;
pub mod reads;
pub mod rights;
pub mod sampling;
pub mod scope;
pub mod snapshot;
pub mod urgency;

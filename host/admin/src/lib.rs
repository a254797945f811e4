//! Probes, metrics and debug views over HTTP.
//!
//! Three types for three states of a server: an address in the flags, a [`Bound`]
//! listener, and the future that serves it. What is served is the caller's
//! [`Routes`]: this crate knows HTTP and the names of metrics, nobody's state.
//! Absent: TLS, request bodies, anything that changes state.

pub mod metrics;
mod server;

pub use server::{Answer, Bound, Routes};

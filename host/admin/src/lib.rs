//! Probes, metrics and debug views over HTTP.
//!
//! Three types for three states of a server: an address in the flags, a [`Bound`]
//! listener, and the future that serves it. What is served is the caller's
//! [`Routes`]: this crate knows HTTP, TLS and the names of metrics, nobody's state; and it asks
//! whoever implements [`Reviews`] who may see what. Absent: request bodies, anything that changes state.
//!
//! | module | what |
//! |---|---|
//! | `server` | a listener and its bounds |
//! | `guard` | who may get what; `verdicts` remembers it for a short time |
//! | `certificates` | what the server shows, read again when it changes |
//! | `metrics` | the names |

mod answer;
mod certificates;
mod guard;
pub mod metrics;
mod server;
mod verdicts;

pub use answer::Answer;
pub use certificates::{CertificateNow, Certificates};
pub use guard::{Guard, Refused, Reviews, Unanswered, User};
pub use server::{Bound, Entry, Routes};

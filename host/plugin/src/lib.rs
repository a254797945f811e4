//! ConfigMap -> checked, compiled, linked component -> Decision.
//!
//! [`Offer`] is what a ConfigMap says before anything is decoded, [`Source`] its
//! bytes and settings, [`Loader`] makes a [`Plugin`] of them, [`Registry`] knows
//! which version of which plugin serves. A plugin is asked with
//! [`Plugin::decide`], which blocks its thread for at most its deadline.
//!
//! # Guarantees
//! A guest has no clock that runs, no entropy, no file, no network and no state
//! between calls; what it may use of CPU, memory, stack and output is bounded
//! before its first instruction. Native code is never taken from a ConfigMap.
//!
//! # Caveats
//! Guests and the compiler run in this process: a fault of the engine itself is a
//! fault of the host.
//!
//! What is absent: tokio, kube, files and sockets.

mod bindings;
mod budget;
mod call;
mod check;
mod config_map;
mod convert;
mod counts;
mod decompress;
mod engine;
mod entropy;
mod failure;
mod imports;
mod limiter;
mod loader;
mod lookups;
mod output;
mod plugin;
mod registry;
mod signature;
mod source;
mod status;
mod ticker;
pub mod verify;
mod wasi;

pub use config_map::Offer;
pub use counts::{Counts, CountsNow};
pub use engine::EngineError;
pub use loader::Loader;
pub use plugin::{Answer, Plugin};
pub use registry::{Begun, Change, Registry, Ticket};
pub use source::Source;
pub use status::{
    ANNOTATION_DIGEST, ANNOTATION_MESSAGE, ANNOTATION_SINCE, ANNOTATION_STATE, PluginView, Refused,
    ServingView, State, Status,
};

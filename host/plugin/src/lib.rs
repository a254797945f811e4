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
//! # Two sides
//! [`Engine`] and [`compile_to`] parse, compile and run what strangers wrote: they belong into
//! processes without powers. Everything else is the host's side and reads only plain values.
//!
//! What is absent: tokio, kube and sockets; files only for artefacts.

mod artefact;
mod artefacts;
mod bindings;
mod budget;
mod cache;
mod call;
mod check;
mod compile;
mod config_map;
mod counts;
mod courtesy;
mod decompress;
mod engine;
mod entropy;
mod failure;
#[cfg(feature = "fuzzing")]
mod fuzzing;
mod guests;
mod imports;
mod lifecycle;
mod limiter;
mod limits;
mod loader;
mod lookups;
mod measure;
mod output;
mod parts;
mod plugin;
mod proof;
mod rest;
mod signature;
mod source;
mod teardown;
mod ticker;
mod tiers;
pub mod verify;
mod wasi;
mod worlds;

pub use artefacts::{Artefacts, CompileInto, Kept, Scratch};
pub use cache::{Cache, CacheError, CacheStats, Fingerprint};
pub use compile::{CompileHere, compile_to};
pub use config_map::{ANNOTATION_PART, ANNOTATION_WHOLE, Offer};
pub use counts::{Counts, CountsNow};
pub use courtesy::Courtesy;
pub use engine::{EngineError, compatibility};
#[cfg(feature = "fuzzing")]
pub use fuzzing::check_component;
pub use guests::Engine;
pub use lifecycle::{
    ANNOTATION_DIGEST, ANNOTATION_MESSAGE, ANNOTATION_SINCE, ANNOTATION_STATE, Agenda, Begun, Change, Item,
    LATEST, PluginView, QUIET, Quarantined, Refused, Registry, ServingView, Share, State, Status, Step,
    Ticket, Version,
};
pub use limits::{ANNOTATION_LIMIT, LimitMaxima, limits_of, set_default};
pub use loader::{Loader, Setup};
pub use parts::{Offered, PART_BYTES, PARTS_MAX, Parts, PartsNow, Slice, cut};
pub use plugin::{Asked, Plugin, Sample, UnderWay, publish};
pub use source::{Origin, Packed, Source, Whole};

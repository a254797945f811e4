//! The life of a plugin: when its ConfigMap is looked at, which version serves, what is said.
//!
//! Values all the way: no clock, no thread, no request. [`Agenda`] says what is looked at when,
//! [`Registry`] which version serves; the host tells both what happened and carries out what
//! they answer.

mod agenda;
mod entry;
mod registry;
mod status;
mod version;

pub use agenda::{Agenda, Item, LATEST, QUIET};
pub use registry::{Begun, Change, Registry, Step, Ticket};
pub use status::{
    ANNOTATION_DIGEST, ANNOTATION_MESSAGE, ANNOTATION_SINCE, ANNOTATION_STATE, PluginView, Quarantined,
    Refused, ServingView, Share, State, Status,
};
pub use version::Version;

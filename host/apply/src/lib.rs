//! Every write to the API server that is not the lease's: server-side apply,
//! prune, status, finalizer, Events.
//!
//! A write happens here only under a [`Permit`](windlass_core::claim::Permit) of
//! the [`Gate`](windlass_core::claim::Gate), taken immediately before the request is
//! sent and held until its answer has been read or its deadline has passed. What
//! is deliberately absent: retries (the queue brings the key back), decisions
//! (a [`Plan`](windlass_core::plan::Plan) has made them) and caches.
//!
//! | file | what it does |
//! |---|---|
//! | `writer` | the [`Writer`], and one write under a permit |
//! | `request` | URLs, headers and bodies, from checked parts |
//! | `pressure` | how many writes at once, and who waits because the API server said so |
//! | `wire` | one request, one deadline, one answer |
//! | `answer` | what an answer means: a [`Class`](windlass_core::class::Class) and a sentence |
//! | `steps` | one function for each [`Step`](windlass_core::plan::Step) |
//! | `execute` | the order of the steps, and when to stop |
//! | `events` | Kubernetes Events, merged and limited |
//! | `announce` | a plugin's state on its ConfigMap |
//! | `accepted` | what was accepted of signed plugins, in a Secret |
//! | `good` | the last good version of a plugin, in ConfigMaps of the host's own |
//! | `role` | the label on this replica's own pod |

mod accepted;
mod announce;
mod answer;
mod events;
mod execute;
mod good;
mod pressure;
mod recent;
mod request;
mod role;
mod steps;
mod wire;
mod writer;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use accepted::ACCEPTED_SECRET;
pub use announce::{Announcement, PluginConfigMap};
pub use good::{Good, LastGood};
pub use request::service_account;
pub use role::Role;
pub use windlass_core::name::LABEL_GOOD;
pub use writer::{Config, FENCE_SETTLES, Observe, Verb, Writer};

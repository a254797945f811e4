//! List and watch over raw JSON: a cache of objects, and Keys for what may have changed.
//!
//! ```text
//! discovery -> list -> watch -> objects -> Keys -> Sink
//!                  \____ 410 ____/   \-> Cache
//! ```
//!
//! [`Watches`](watches::Watches) keeps one watch a kind for all plugins and feeds
//! a [`ClusterCache`](cache::ClusterCache), which the loop asks. [`watch_one`](one::watch_one)
//! is the same machinery for one selection and a caller of its own.
//!
//! What is absent here: types of Kubernetes objects (everything stays JSON text),
//! writes, tasks (the host spawns), and any memory of events: a change becomes a
//! Key and is forgotten.

mod anew;
mod budget;
pub mod cache;
mod discovery;
pub mod doubt;
mod fields;
mod get;
mod interest;
mod items;
mod kind_cache;
mod lines;
mod list;
mod needs;
mod objects;
pub mod one;
mod owned;
mod part;
pub mod progress;
mod reflect;
pub mod selection;
mod served;
mod stream;
pub mod watches;

pub use needs::NAMESPACES_MAX;

//! Write Kubernetes reconcilers as pure functions; Windlass runs them.
//!
//! # A decision, not a controller
//!
//! A reconciler looks at one object, the *primary*, and says what should exist because of it. It
//! is one function. There is no client, no queue, no watch, no leader check and no finalizer
//! bookkeeping in it: the host calls it whenever something that it saw may have changed, applies
//! what differs, and removes what is no longer wanted.
//!
//! ```
//! use serde::Deserialize;
//! use windlass::{Cache, Decision, Fault, Primary, Snapshot, json, kind};
//!
//! /// What we reconcile: the spec of our CRD, as plain Rust.
//! #[derive(Primary, Deserialize)]
//! #[primary(group = "apps.example.com", version = "v1", kind = "WebApp")]
//! struct WebApp {
//!     spec: Spec,
//! }
//!
//! #[derive(Deserialize)]
//! struct Spec {
//!     image: String,
//!     replicas: u32,
//! }
//!
//! /// The whole operator.
//! #[windlass::reconciler(children = ["apps/v1/Deployment"])]
//! fn reconcile(app: &Snapshot<WebApp>, _cache: &Cache) -> Result<Decision, Fault> {
//!     let ready = app
//!         .child(kind::DEPLOYMENT, app.name())
//!         .map_or(0, |deployment| deployment.number("/status/readyReplicas"));
//!     Ok(Decision::new()
//!         .child(json!({
//!             "apiVersion": "apps/v1",
//!             "kind": "Deployment",
//!             "metadata": { "name": app.name(), "labels": app.labels() },
//!             "spec": {
//!                 "replicas": app.spec.replicas,
//!                 "selector": { "matchLabels": app.selector() },
//!                 "template": {
//!                     "metadata": { "labels": app.labels() },
//!                     "spec": { "containers": [{ "name": "app", "image": app.spec.image }] },
//!                 },
//!             },
//!         }))
//!         .status(json!({ "ready": ready })))
//! }
//!
//! // In a test, natively, in milliseconds:
//! let app = Snapshot::of(json!({ "spec": { "image": "nginx", "replicas": 3 } }));
//! let decision = reconcile(&app, &Cache::fixed())?;
//! assert_eq!(MANIFEST.check(&decision), Ok(()));
//! assert_eq!(decision.wanted_status().number("/ready"), 0);
//! # Ok::<(), Fault>(())
//! ```
//!
//! The crate is a `cdylib`; `cargo build --target wasm32-wasip2` makes the component.
//!
//! # What it knows
//!
//! * [`Snapshot`]: the primary as the author's struct, its metadata, the children that this plugin
//!   made for it, and the plugin's settings.
//! * [`Cache`]: other objects, of the kinds that the attribute lists under `reads`. What a pass
//!   reads is watched from then on.
//! * The time, through [`Snapshot::now`]. It stands still during a pass.
//!
//! Nothing is kept between calls, and nothing else can be reached: no network, no files, no
//! environment.
//!
//! # What it wants
//!
//! * [`Decision`]: every child that should exist, the status, Events, and when to look again. It is
//!   the whole of what is wanted; leaving a child out is how it is removed.
//! * [`Fault`]: why a pass could not decide. What exists stays as it is.
//! * [`Finalization`]: how far a clean-up has come, for reconcilers with `finalize = path`. Most
//!   need none, as Kubernetes removes the children of a deleted primary.
//!
//! # Equal inputs, equal bytes
//!
//! The host skips a pass whose inputs have not changed, and sends nothing when nothing would
//! change. Both rest on a reconciler that answers the same to the same. Avoid the order of a
//! `HashMap` and the clock; [`Conditions`] reads the clock only when a condition changes, and
//! [`hash_of`] gives data a name that stays.
//!
//! # What it says
//!
//! [`info!`], [`warn!`](crate::warn!), [`debug!`] and [`error!`] write into the host's log with
//! plugin, object and pass; so do `println!` and panics.

// The macros write `::windlass::...`, in this crate's own tests as well.
extern crate self as windlass;

pub mod cache;
mod conditions;
mod decision;
mod decode;
mod fault;
mod hash;
pub mod kind;
pub mod log;
pub mod manifest;
mod object;
#[doc(hidden)]
pub mod raw;
mod snapshot;
mod time;

pub use cache::{Cache, Query};
pub use conditions::{Conditions, Truth};
pub use decision::{Decision, Finalization, Notice};
pub use fault::Fault;
pub use hash::hash_of;
pub use kind::Kind;
pub use manifest::Manifest;
pub use object::{Meta, Object};
pub use serde_json::{Value, json};
pub use snapshot::{Labels, Primary, Snapshot};
pub use windlass_macros::{Primary, reconciler};

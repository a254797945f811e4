//! A real Kubernetes control plane for tests and the demo.
//!
//! etcd, kube-apiserver and kube-controller-manager as child processes on 127.0.0.1, without containers and without root. Fakes
//! would prove that we agree with ourselves; fencing, watches and server-side apply are only worth what a real API server says.
//!
//! ```no_run
//! # async fn doc() -> anyhow::Result<()> {
//! let control_plane = windlass_testbed::shared()?;
//! let namespace = control_plane.namespace("scaling").await?;
//! let mark = control_plane.audit()?.mark()?;
//! control_plane.apply(&format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: a, namespace: {namespace} }}")).await?;
//! let writes = control_plane.audit()?.writes(mark, &windlass_testbed::Writes::new().within(&namespace))?;
//! assert_eq!(writes.len(), 1);
//! # Ok(()) }
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`binaries`] | finds or builds the programs |
//! | [`control_plane`] | starts, disturbs and ends them |
//! | [`audit`] | reads what the API server recorded |
//! | [`checker`] | judges a run by what was recorded |
//! | [`kubelet`] | makes pods Ready without containers |
//! | [`Replica`] | one host process |
//! | [`faultd`] | stands between clients and the API server and fails on request |
//! | [`SecondApiserver`] | one more API server on the same etcd |
//! | [`prober`] | writes that a fence must refuse, and writes that it must not touch |
//! | [`SlowWebhook`] | an admission webhook that takes its time |
//! | [`nemesis`] | loses leaders under load, again and again |
//! | [`components`] | builds the plugins that tests load |
//! | [`nodes`] | real nodes beside the control plane: kubelets, containers, a network between them |
//! | [`drill`] | does to a deployment on nodes what production does |
//! | [`image`] | writes images without a containers engine |

mod access;
pub mod audit;
pub mod binaries;
pub mod checker;
pub mod clocks;
pub mod components;
pub mod control_plane;
mod conversion;
pub mod drill;
pub mod faultd;
mod gobuild;
mod https;
pub mod image;
pub mod kubelet;
mod layout;
mod manifests;
pub mod nemesis;
pub mod nodes;
mod options;
mod pki;
pub mod prober;
mod process;
pub mod progress;
mod replica;
mod runtime;
mod second;
mod servers;
mod webhook;

pub use audit::{Audit, AuditEvent, Mark, Writes};
pub use binaries::Binaries;
pub use clocks::Clocks;
pub use components::component;
pub use control_plane::{ControlPlane, shared};
pub use conversion::ConversionWebhook;
pub use faultd::Faultd;
pub use kubelet::Placement;
pub use manifests::may_act_as;
pub use options::{Options, REPLICAS, User};
pub use pki::{Authority, Identity};
pub use prober::Prober;
pub use process::Signal;
pub use replica::{Replica, ReplicaOptions};
pub use second::SecondApiserver;
pub use servers::{Server, Stop};
pub use webhook::SlowWebhook;

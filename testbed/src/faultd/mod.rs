//! A proxy between clients and the API server that fails on request.
//!
//! Each replica gets a port of its own. A port speaks TLS with a certificate of the control plane's own authority, h2 and
//! HTTP/1.1, and passes everything on, the client's token and all headers included, until it is told otherwise: by rules, which
//! fall on requests ([`Rule`]), or by switches for the whole port ([`Port::cut`], [`Port::mute`], [`Port::refuse`],
//! [`Port::reset`], and [`Port::heal`]).
//!
//! ```no_run
//! # async fn doc(control_plane: &windlass_testbed::ControlPlane) -> anyhow::Result<()> {
//! use std::time::Duration;
//! use windlass_testbed::faultd::{Action, Faultd, Rule, Verb, Way};
//!
//! let faultd = Faultd::start(control_plane)?;
//! let port = faultd.listen().await?;
//! let kubeconfig = port.kubeconfig(control_plane, "windlass-0", control_plane.token_for("windlass-0")?)?;
//! let held = port.rule(Rule::new(Action::Hold(Way::Request)).verb(Verb::Patch).first(1));
//! // ... start a client with the kubeconfig ...
//! held.hit(1, Duration::from_secs(10)).await?;
//! held.release();
//! held.land(1, Duration::from_secs(10)).await?;
//! # Ok(()) }
//! ```
//!
//! Requests are read whole before they are passed on, so that one which is held can be carried out after its client has given
//! up; answers are streamed. Upgraded connections (exec, port-forward) do not pass.

mod active;
mod body;
mod carry;
mod events;
mod gate;
mod port;
mod request;
mod rule;
mod tasks;
mod upstream;

use std::sync::Arc;

use anyhow::Result;
use rustls::{ClientConfig, ServerConfig};

pub use active::Active;
pub use port::Port;
pub use request::Verb;
pub use rule::{Action, EventFault, Reply, Rule, Way};

use crate::control_plane::ControlPlane;
use crate::runtime::on_runtime;
use tasks::Tasks;

/// The proxy in front of one control plane. Dropping it ends all ports and everything that is held or on its way.
#[derive(Debug)]
pub struct Faultd {
    server: String,
    roots: Arc<ClientConfig>,
    acceptor: Arc<ServerConfig>,
    tasks: Tasks,
}

impl Faultd {
    /// Makes a proxy without ports.
    ///
    /// # Errors
    /// If the cluster is external: its authority signs nothing for us.
    pub fn start(control_plane: &ControlPlane) -> Result<Self> {
        Self::before(control_plane, control_plane.server_url())
    }

    /// The same in front of another API server of the same control plane.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub fn before(control_plane: &ControlPlane, server_url: &str) -> Result<Self> {
        let identity = control_plane.issue_serving_certificate(&["127.0.0.1", "localhost"])?;
        Ok(Self {
            server: server_url.to_owned(),
            roots: upstream::client_config(control_plane.ca_pem())?,
            acceptor: upstream::server_config(&identity)?,
            tasks: Tasks::new()?,
        })
    }

    /// Opens a port of its own for one client.
    ///
    /// # Errors
    /// If no port is free.
    pub async fn listen(&self) -> Result<Port> {
        let (server, roots) = (self.server.clone(), self.roots.clone());
        let (acceptor, tasks) = (self.acceptor.clone(), self.tasks.clone());
        on_runtime(Port::open(server, roots, acceptor, tasks)).await
    }
}

impl Drop for Faultd {
    fn drop(&mut self) {
        self.tasks.end();
    }
}

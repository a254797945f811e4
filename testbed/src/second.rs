//! A second API server on the same etcd, as a cluster with several control plane nodes has them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::Client;

use crate::access::{Access, Credential};
use crate::audit::Audit;
use crate::control_plane::ControlPlane;
use crate::layout::{Layout, free_ports};
use crate::process::{Process, Signal};
use crate::runtime::{blocking, on_runtime};
use crate::servers::Stop;

/// How long a start may take, as for the first one.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at it while it starts.
const POLL: Duration = Duration::from_millis(20);
/// How long it may take to end in order before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Another API server of a control plane: an address, a log and an audit log of its own, everything else shared. Dropping it
/// kills it; it must not outlive its control plane.
#[derive(Debug)]
pub struct SecondApiserver {
    access: Access,
    audit: Audit,
    process: Mutex<Option<Process>>,
}

impl SecondApiserver {
    pub(crate) async fn start(layout: &Layout, access: &Access) -> Result<Self> {
        let [port] = free_ports();
        let name = format!("kube-apiserver-{port}");
        let log = layout.path(&format!("{name}.log"));
        let audit_log = layout.path(&format!("{name}.audit.log"));
        let mut command = layout.apiserver();
        // The last of several wins.
        command.args([
            format!("--secure-port={port}"),
            format!("--cert-dir={}", layout.path(&format!("{name}.certs")).display()),
            format!("--audit-log-path={}", audit_log.display()),
        ]);
        let access = access.at(format!("https://127.0.0.1:{port}"));
        let process = Process::spawn("second kube-apiserver", command, &log)?;
        let second = Self { access, audit: Audit::new(audit_log), process: Mutex::new(Some(process)) };
        second.await_ready().await?;
        Ok(second)
    }

    async fn await_ready(&self) -> Result<()> {
        let mut config = self.config()?;
        config.default_retry = false;
        let started = Instant::now();
        loop {
            let config = config.clone();
            let ready = on_runtime(async move {
                let client = Client::try_from(config)?;
                let ask = client.request_text(http::Request::get("/readyz").body(Vec::new())?);
                // A question may hang, on a server that accepts and does not answer yet.
                Ok(tokio::time::timeout(Duration::from_secs(5), ask).await.is_ok_and(|answer| answer.is_ok()))
            });
            if ready.await? {
                return Ok(());
            }
            {
                let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
                let process = process.as_mut().context("it was just started")?;
                process.check_alive()?;
                if started.elapsed() > START_PATIENCE {
                    return Err(process.with_log("the second API server does not become ready"));
                }
            }
            on_runtime(async {
                tokio::time::sleep(POLL).await;
                Ok(())
            })
            .await?;
        }
    }

    /// `https://127.0.0.1:<port>`.
    pub fn server_url(&self) -> &str {
        self.access.server()
    }

    /// As [`ControlPlane::config`], through this server.
    ///
    /// # Errors
    /// Never with a server of ours: its address is a URL.
    pub fn config(&self) -> Result<kube::Config> {
        self.access.config(self.access.admin())
    }

    /// As [`ControlPlane::config_with_token`], through this server.
    ///
    /// # Errors
    /// As for [`config`](Self::config).
    pub fn config_with_token(&self, token: &str) -> Result<kube::Config> {
        self.access.config(&Credential::Token(token.to_owned()))
    }

    /// What this server has on record; the first one has a log of its own.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Ends it and waits until its process is gone.
    ///
    /// # Errors
    /// If it was stopped before.
    pub async fn stop(&self, how: Stop) -> Result<()> {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        ensure!(process.is_some(), "the second API server does not run");
        let signal = match how {
            Stop::Term => Signal::TERM,
            Stop::Kill => Signal::KILL,
        };
        blocking(move || process.map_or(Ok(()), |process| process.stop(signal, STOP_PATIENCE).map(drop)))
            .await
    }
}

impl ControlPlane {
    /// Starts one more API server on this control plane's etcd and waits until it is ready, about five seconds.
    ///
    /// # Errors
    /// If the cluster is external, or the server does not come up.
    pub async fn second_apiserver(&self) -> Result<SecondApiserver> {
        SecondApiserver::start(self.layout()?, self.access()).await
    }
}

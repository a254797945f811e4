//! The three servers of a control plane of ours: started in order, watched while they start, stopped and started again by tests.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::Client;
use serde_json::Value;

use crate::layout::Layout;
use crate::process::{Process, Signal};

/// How long a start may take. An idle machine needs about five seconds; one that compiles on every core needs several times that.
const START_PATIENCE: Duration = Duration::from_secs(120);

/// How long a server may take to end in order before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at a server that starts.
const POLL: Duration = Duration::from_millis(20);

/// One of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The database.
    Etcd,
    /// The API server.
    Apiserver,
    /// The controllers.
    ControllerManager,
}

/// How a server is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGTERM, and SIGKILL after 30 s.
    Term,
    /// SIGKILL at once.
    Kill,
}

/// The servers that run, and what is needed to run them again.
#[derive(Debug, Clone)]
pub(crate) struct Servers {
    layout: Arc<Layout>,
    running: Arc<Mutex<Running>>,
}

#[derive(Debug, Default)]
struct Running {
    etcd: Option<Process>,
    apiserver: Option<Process>,
    controllers: Option<Process>,
}

impl Server {
    fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Apiserver => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
        }
    }

    fn command(self, layout: &Layout) -> Command {
        match self {
            Self::Etcd => layout.etcd(),
            Self::Apiserver => layout.apiserver(),
            Self::ControllerManager => layout.controller_manager(),
        }
    }
}

impl Running {
    fn slot(&mut self, server: Server) -> &mut Option<Process> {
        match server {
            Server::Etcd => &mut self.etcd,
            Server::Apiserver => &mut self.apiserver,
            Server::ControllerManager => &mut self.controllers,
        }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Process> {
        [&mut self.etcd, &mut self.apiserver, &mut self.controllers].into_iter().flatten()
    }
}

impl Servers {
    pub(crate) fn new(layout: Layout) -> Self {
        Self { layout: Arc::new(layout), running: Arc::default() }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file that the server's output goes to.
    pub(crate) fn log(&self, server: Server) -> PathBuf {
        self.layout.path(&format!("{}.log", server.name()))
    }

    /// Starts the process, without waiting for what it serves.
    pub(crate) fn spawn(&self, server: Server) -> Result<()> {
        let mut running = self.running();
        let slot = running.slot(server);
        ensure!(slot.is_none(), "{} runs already", server.name());
        *slot = Some(Process::spawn(server.name(), server.command(&self.layout), &self.log(server))?);
        Ok(())
    }

    /// Ends a server and reaps it. Blocks until it is gone.
    pub(crate) fn stop(&self, server: Server, how: Stop) -> Result<()> {
        let process =
            self.running().slot(server).take().with_context(|| format!("{} does not run", server.name()))?;
        let signal = match how {
            Stop::Term => Signal::TERM,
            Stop::Kill => Signal::KILL,
        };
        process.stop(signal, STOP_PATIENCE).map(drop)
    }

    pub(crate) fn signal(&self, server: Server, signal: Signal) -> Result<()> {
        self.running()
            .slot(server)
            .as_ref()
            .with_context(|| format!("{} does not run", server.name()))?
            .signal(signal)
    }

    pub(crate) fn id(&self, server: Server) -> Option<u32> {
        self.running().slot(server).as_ref().map(Process::id)
    }

    /// Kills everything that runs, all at once, and reaps it.
    pub(crate) fn end(&self) {
        let mut running = self.running();
        for process in running.all() {
            // It has ended by itself, then; dropping reaps it.
            drop(process.signal(Signal::KILL));
        }
        *running = Running::default();
    }

    /// Whether one of the servers found its port taken: ports are chosen free and may be lost before they are bound.
    pub(crate) fn lost_a_port(&self) -> bool {
        self.running().all().any(|process| process.log_contains("address already in use"))
    }

    /// Waits for etcd to accept connections, so that the API server need not poll for it, at intervals of its own.
    pub(crate) async fn await_etcd(&self) -> Result<()> {
        let address = self.layout.etcd_url().replace("http://", "");
        self.await_until(Server::Etcd, "accepts connections", || {
            let address = address.clone();
            async move { tokio::net::TcpStream::connect(address).await.is_ok() }
        })
        .await
    }

    /// Waits until the API server says that it is ready.
    pub(crate) async fn await_apiserver(&self, client: &Client) -> Result<()> {
        self.await_until(Server::Apiserver, "is ready", || async {
            let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else { return false };
            client.request_text(request).await.is_ok()
        })
        .await
    }

    /// Waits for what only running controllers bring about: the default service account, and rules in an aggregated role.
    pub(crate) async fn await_controllers(&self, client: &Client) -> Result<()> {
        let read = |path: &'static str| async move {
            client.request::<Value>(http::Request::get(path).body(Vec::new()).ok()?).await.ok()
        };
        self.await_until(Server::ControllerManager, "has done its first work", || async move {
            let account = read("/api/v1/namespaces/default/serviceaccounts/default").await;
            let role = read("/apis/rbac.authorization.k8s.io/v1/clusterroles/admin").await;
            account.is_some()
                && role.is_some_and(|role| role["rules"].as_array().is_some_and(|rules| !rules.is_empty()))
        })
        .await
    }

    /// Asks again and again until the answer is yes, a server has ended, or patience has.
    async fn await_until<F: Future<Output = bool>>(
        &self,
        server: Server,
        what: &str,
        ask: impl Fn() -> F,
    ) -> Result<()> {
        let started = Instant::now();
        // A single question may hang, on a server that accepts and never answers.
        while !tokio::time::timeout(Duration::from_secs(5), ask()).await.unwrap_or(false) {
            self.check_starting(server, what, started)?;
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Fails if waiting for a server has become pointless.
    fn check_starting(&self, server: Server, what: &str, started: Instant) -> Result<()> {
        let mut running = self.running();
        running.all().try_for_each(Process::check_alive)?;
        let process =
            running.slot(server).as_ref().with_context(|| format!("{} does not run", server.name()))?;
        if started.elapsed() > START_PATIENCE {
            let sentence = format!(
                "{} was started {START_PATIENCE:?} ago, and nothing shows that it {what}",
                server.name()
            );
            return Err(process.with_log(&sentence));
        }
        Ok(())
    }
}

//! One replica of the host as a real process: started, asked, signalled and reaped.
//!
//! Tests kill and freeze it, the demo shows it. It cannot outlive us (see `process`).

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::layout::free_ports;
use crate::process::{Process, Signal};
use crate::runtime::blocking;

/// How long one question over HTTP may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What to start.
#[derive(Clone, Debug)]
pub struct ReplicaOptions {
    /// The binary `windlass`.
    pub binary: PathBuf,
    /// The replica's pod name.
    pub name: String,
    /// The host's namespace.
    pub namespace: String,
    /// How it reaches the API server.
    pub kubeconfig: PathBuf,
    /// Where its log goes: `<directory>/<name>.log`, appended to.
    pub directory: PathBuf,
    /// Further flags of `windlass run`; they win over ours.
    pub flags: Vec<OsString>,
    /// Further environment.
    pub environment: Vec<(OsString, OsString)>,
}

/// A running replica. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Replica {
    name: String,
    process: Process,
    probes: SocketAddr,
    metrics: SocketAddr,
    pulse: SocketAddr,
    log: PathBuf,
}

impl Replica {
    /// Starts the process. It is not ready yet when this returns.
    ///
    /// # Errors
    /// If the binary does not start or no port is free.
    pub fn start(options: ReplicaOptions) -> Result<Self> {
        let [probes, metrics, pulse] = free_ports().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let log = options.directory.join(format!("{}.log", options.name));
        let mut command = Command::new(&options.binary);
        command
            .arg("run")
            .args(["--pod-name", &options.name, "--namespace", &options.namespace])
            .arg("--kubeconfig")
            .arg(&options.kubeconfig)
            .args(["--health-probe-bind-address", &probes.to_string()])
            .args(["--metrics-bind-address", &metrics.to_string()])
            .args(["--pulse-bind-address", &pulse.to_string()])
            .args(&options.flags)
            // Asked on this machine alone. As a variable, so that contenders without this flag start too.
            .env("WINDLASS_METRICS_SECURE", "false")
            .envs(options.environment)
            .env_remove("POD_NAME")
            .env_remove("POD_IP")
            .env_remove("POD_NAMESPACE");
        let process = Process::spawn("windlass", command, &log)?;
        Ok(Self { name: options.name, process, probes, metrics, pulse, log })
    }

    /// Its pod name, the beginning of its identity in the Lease.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Where the probes are.
    pub fn probes_address(&self) -> SocketAddr {
        self.probes
    }

    /// Where the pulse is.
    pub fn pulse_address(&self) -> SocketAddr {
        self.pulse
    }

    /// Where `/metrics` and `/debug` are, in plain HTTP unless the flags say otherwise.
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    /// Where its log is.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Fails, with the end of its log, if the process has ended.
    ///
    /// # Errors
    /// If it has.
    pub fn check_alive(&mut self) -> Result<()> {
        self.process.check_alive()
    }

    /// Sends a signal: `Signal::STOP` freezes it, `Signal::CONT` resumes it.
    ///
    /// # Errors
    /// If it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Kills it as a crash would, and reaps it.
    ///
    /// # Errors
    /// If it had ended before.
    pub async fn kill(self) -> Result<ExitStatus> {
        blocking(move || self.process.stop(Signal::KILL, Duration::from_secs(5))).await
    }

    /// Asks it to end as a kubelet does, and kills it when patience has run out.
    ///
    /// # Errors
    /// If it had ended before.
    pub async fn terminate(self, patience: Duration) -> Result<(ExitStatus, Duration)> {
        blocking(move || {
            let asked = Instant::now();
            let status = self.process.stop(Signal::TERM, patience)?;
            Ok((status, asked.elapsed()))
        })
        .await
    }

    /// Asks a path of the probes' port: the status and the body.
    ///
    /// # Errors
    /// If nobody answers within 5 s.
    pub async fn probe(&self, path: &str) -> Result<(u16, String)> {
        get(self.probes, path).await
    }

    /// Asks a path of the port for metrics and debug views.
    ///
    /// # Errors
    /// If nobody answers within 5 s.
    pub async fn ask(&self, path: &str) -> Result<(u16, String)> {
        get(self.metrics, path).await
    }

    /// Whether `/readyz` says yes.
    pub async fn is_ready(&self) -> bool {
        matches!(self.probe("/readyz").await, Ok((200, _)))
    }

    /// The value of a metric: the first sample whose name and labels begin with `prefix`.
    pub async fn metric(&self, prefix: &str) -> Option<f64> {
        let (_, text) = self.ask("/metrics").await.ok()?;
        let line = text.lines().find(|line| line.starts_with(prefix))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

/// One GET, as small as HTTP/1.0 allows.
async fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(ANSWER_WITHIN, asked)
        .await
        .with_context(|| format!("{address}{path} did not answer within {ANSWER_WITHIN:?}"))?
        .with_context(|| format!("{address}{path} cannot be asked"))?;
    let answer = String::from_utf8_lossy(&answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("{address}{path} answered no HTTP");
    };
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.context("an answer without a status")?, body.to_owned()))
}

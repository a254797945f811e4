//! A WebApp operator on kube-rs: the same job as `plugins/webapp`, written as its community writes operators.
//!
//! It exists to be measured beside Windlass, so nothing here is meant to make it slow. Without `--tuned` the Lease has the
//! defaults of kube-lease-manager (30 s, renewed 5 s before the end) and every pass applies every child. With `--tuned` the
//! Lease lasts 15 s like everybody else's here, and only children that differ from what the reflectors show are applied.
//! A process that loses the Lease ends, and its supervisor starts it again.

mod cache;
mod children;
mod flags;
mod probes;
mod reconcile;
mod status;
mod webapp;

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube_lease_manager::LeaseManagerBuilder;
use tokio::signal::unix::{SignalKind, signal};

use crate::flags::Flags;

/// Whether the process has reached the API server and joined the election.
static READY: AtomicBool = AtomicBool::new(false);

#[tokio::main]
async fn main() -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::new("warn");
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let flags = Flags::read(std::env::args().skip(1));
    let probes = tokio::spawn(probes::serve(flags.text("health-probe-bind-address").to_owned()));
    let client = client(&flags).await?;
    tokio::select! {
        result = run(&flags, client) => result,
        result = probes => result?,
    }
}

async fn client(flags: &Flags) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(flags.text("kubeconfig")).context("read the kubeconfig")?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Joins the election, works while leading, and gives the Lease back on SIGTERM.
async fn run(flags: &Flags, client: Client) -> Result<()> {
    let namespace = flags.text("namespace");
    if flags.on("cache-only") {
        return cache::hold(client, flags.on("tuned")).await;
    }
    // The random part keeps a restarted process apart from the one before it.
    let unique = RandomState::new().build_hasher().finish();
    let mut builder = LeaseManagerBuilder::new(client.clone(), "webapp")
        .with_namespace(namespace)
        .with_identity(format!("{}_{unique:016x}", flags.text("pod-name")));
    if flags.on("tuned") {
        builder = builder.with_duration(15).with_grace(5);
    }
    let (mut leading, election) = builder.build().await?.watch().await;
    READY.store(true, Ordering::Relaxed);

    // Whole seconds, as `30s`: what the others understand too.
    let again = flags.text("sync-period").strip_suffix('s').and_then(|seconds| seconds.parse().ok());
    let again = again.map(std::time::Duration::from_secs);
    let mut terminate = signal(SignalKind::terminate())?;
    let work = async {
        while !*leading.borrow_and_update() {
            leading.changed().await.context("the election ended")?;
        }
        tokio::select! {
            () = reconcile::run(client, namespace, flags.on("tuned"), again) => bail!("the controller ended"),
            _ = leading.wait_for(|leads| !leads) => bail!("the lease was lost"),
        }
    };
    tokio::select! {
        result = work => return result,
        _ = terminate.recv() => {}
    }
    // Closing the channel ends the election, which releases the Lease.
    drop(leading);
    election.await??;
    Ok(())
}

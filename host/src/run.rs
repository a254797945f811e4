//! The wiring: makes every part, introduces them to each other, starts the tasks,
//! waits for an end, and ends in order.

use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};
use windlass_admin::{Bound, Certificates, Entry};
use windlass_apply::Writer;
use windlass_core::claim::{BootClock, Gate};
use windlass_core::plan::Policy;
use windlass_core::ports::Sink;
use windlass_lease::clock::Boottime;
use windlass_lease::driver::{self, DriverError, Handle};
use windlass_lease::durations::Durations;
use windlass_queue::{Queue, Rate};
use windlass_reconcile::{Ports, Reconciler};
use windlass_watch::watches::Watches;
use windlass_worker::confine::hide;

use crate::access::Access;
use crate::args::Run;
use crate::decide::Catalogue;
use crate::election::Election;
use crate::end::End;
use crate::lead::Standby;
use crate::observe::{Observed, QueueTimes};
use crate::plugins::Plugins;
use crate::role::Label;
use crate::sandbox::{Prepared, Sandbox, verifier};
use crate::tasks::Tasks;
use crate::told::Told;
use crate::trust::Trusts;
use crate::views::{Inside, Probes, Views};
use crate::watchdog::Watchdog;
use crate::{endpoint, fence, lead, logs, memory, rights};

/// Of the time that a shutdown may take, the share that the Lease gets; the rest is for the tasks.
const LEASE_SHARE: f64 = 0.75;

/// Refused terms that the election has not heard of yet; one is enough to make it look.
const REFUSALS_MAX: usize = 4;

/// Runs the host until it is told to end or has to.
pub(crate) fn run(flags: Run) -> End {
    let durations = Durations::try_new(flags.lease_duration, flags.renew_deadline, flags.retry_period);
    let durations = match durations {
        Ok(durations) => durations,
        Err(sentence) => return End::Unusable(sentence.to_string()),
    };
    if let Err(sentence) = logs::start(flags.log_format, &flags.log) {
        return End::Unusable(sentence);
    }
    memory::give_back();
    // Before anything secret is read: the worker has this process's user, and without Landlock
    // only this keeps it from looking in here.
    if !hide() {
        warn!("this process cannot be hidden from others of its user");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("host").build() {
        Ok(runtime) => runtime,
        Err(error) => return End::Unusable(format!("the system gives no threads: {error}")),
    };
    let end = runtime.block_on(serve(flags, durations));
    // A guest may still run to its deadline on a blocking thread; nothing waits for it.
    runtime.shutdown_background();
    end
}

/// The loop with everyone whom it talks to.
type Loop = Reconciler<windlass_watch::cache::ClusterCache, Catalogue, Writer, Boottime>;

/// Everything that runs, and who has to be told to stop.
struct Host {
    tasks: Tasks,
    lease: Arc<Handle>,
    stop: watch::Sender<bool>,
    shutdown_timeout: Duration,
    sandbox: Arc<Sandbox>,
    _watchdog: Watchdog,
}

async fn serve(flags: Run, durations: Durations) -> End {
    let (mut terminate, mut interrupt) =
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => {
                return End::Early(format!("signals cannot be received: {error}"));
            }
        };
    let mut host = match Host::start(&flags, durations).await {
        Ok(host) => host,
        Err(end) => return end,
    };
    let lease_ended = host.lease.ended();
    let end = tokio::select! {
        _ = terminate.recv() => End::Clean,
        _ = interrupt.recv() => End::Clean,
        ended = host.tasks.first_to_end() => End::Early(ended.to_string()),
        ended = lease_ended => lease_end(ended),
    };
    info!(reason = ?end, "ending");
    host.stop(end).await
}

fn lease_end(ended: Result<(), DriverError>) -> End {
    match ended {
        Err(DriverError::HeldByAnother(held)) => End::HeldByAnother(held.to_string()),
        Err(error) => End::Early(error.to_string()),
        Ok(()) => End::Early("the election ended early".into()),
    }
}

impl Host {
    async fn start(flags: &Run, durations: Durations) -> Result<Self, End> {
        let prepared = Prepared::new(flags)?;
        let cache_limit = flags.plugins.cache_limit.or(prepared.cache_limit());
        // What a start waits for longest: whatever needs no guest goes on beside it.
        let sandbox = tokio::task::spawn_blocking(|| prepared.start());
        let agent = format!("windlass/{} ({})", env!("CARGO_PKG_VERSION"), flags.pod_name);
        let access = Access::new(flags.kubeconfig.clone(), flags.request_timeout, &agent);
        let said = access.read().await.map_err(End::Unusable)?;
        let client = access.client(said.clone()).map_err(|e| End::Unusable(e.to_string()))?;
        let probes = bind("--health-probe-bind-address", flags.health_probe_bind_address).await?;
        let metrics = bind("--metrics-bind-address", flags.metrics.metrics_bind_address).await?;
        let entry = endpoint::entry(flags, &client).await?;
        // One for manifests and for plans: what a plugin was let in with is what it may write.
        let policy = {
            let namespaces = flags.reach.namespaces();
            namespaces.and_then(|served| flags.plugins.exceptions.policy(served)).map_err(End::Unusable)?
        };
        let identity = driver::identity(&flags.pod_name);
        let gate = Gate::new();
        let (refused, heard) = mpsc::channel(REFUSALS_MAX);
        let observed = Arc::new(Observed::new(refused, flags.plugins.bounds.quarantine()));
        let standby = if flags.standby_decides { Standby::Decides } else { Standby::Rests };
        let queue = Queue::observed(queue_config(flags, standby), QueueTimes(observed.clone()));
        observed.narrows(&queue);
        let limit = cache_limit.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let sink = queue.clone() as Arc<dyn Sink>;
        let watches = Arc::new(Watches::within(
            client.clone(),
            &flags.namespace,
            policy.namespaces.clone(),
            sink,
            limit,
        ));
        let told_of = Arc::new(Told::new(observed.clone(), flags.plugins.sampled()));
        let catalogue = Arc::new(Catalogue::new(observed.quarantine.clone(), told_of.clone()));
        let trusts = Arc::new(Trusts::new(verifier(flags)?, observed.clone()));
        let plugins = Plugins::new(catalogue.clone(), trusts.clone(), watches.clone(), queue.clone());
        let writer = writer(flags, &client, &gate, &identity, &observed);

        let (stop, stopped) = watch::channel(false);
        let mut tasks = Tasks::default();
        // These write nothing, so no claim is needed, and no guest before there is one to load.
        tasks.spawn(
            "plugin watch",
            until(&stopped, plugins.clone().watch(client.clone(), flags.namespace.clone())),
        );
        let (all, doubt) = (watches.clone(), watches.doubt());
        tasks.spawn("watches", until(&stopped, async move { all.run().await }));
        tasks.spawn("plugin loader", until(&stopped, plugins.clone().load(writer.clone())));

        let sandbox = sandbox.await.map_err(|error| End::Early(format!("starting the worker: {error}")))?;
        let sandbox = Arc::new(sandbox?);
        plugins.load_with(sandbox.loader(flags, policy.clone())?);
        let election = Election::prepare(flags, durations, identity.clone())?;
        let claim_role = election.claim_role();
        let lease = election.start(&access, said, &gate, heard, observed.clone())?;
        let reconciler = reconciler(flags, policy, &watches, &catalogue, &writer, &gate, &queue, &observed);
        let views = Arc::new(Views {
            plugins: plugins.clone(),
            queue: queue.clone(),
            watches: watches.clone(),
            lease: lease.clone(),
            claim_role: claim_role.clone(),
            lease_name: flags.lease_name.clone(),
            max_concurrent: flags.max_concurrent_reconciles,
            observed: observed.clone(),
            sandbox: sandbox.clone(),
            trusts: trusts.clone(),
            certificates: entry.certificates.clone(),
            was_ready: AtomicBool::new(false),
        });

        let sync_period = flags.sync_period;
        let own = client.clone();
        tasks.spawn("claim role", until(&stopped, async move { match claim_role.follow(own).await {} }));
        let lacking =
            rights::follow(observed.clone(), watches.clone(), plugins.clone(), writer.clone(), gate.clone());
        tasks.spawn("rights", until(&stopped, lacking));
        let namespace = flags.namespace.clone();
        tasks.spawn(
            "fence",
            until(&stopped, async move { fence::follow(&observed, client, namespace).await }),
        );
        let judged = plugins.clone();
        let trusted = trusts
            .follow(writer.clone(), gate.clone(), move |plugin, turn| judged.trust_turned(plugin, turn));
        tasks.spawn("trust", until(&stopped, trusted));
        let label = Label::new(writer.clone(), &flags.pod_name);
        tasks.spawn("plugin states", until(&stopped, plugins.announce(writer, gate.clone())));
        tasks.spawn("pod label", returned(label.follow(lease.leading(), told(&stopped))));
        tasks.spawn("leadership", until(&stopped, lead::follow(lease.leading(), queue, watches, standby)));
        tasks.spawn("contact", until(&stopped, lead::doubt(lease.contacts(), doubt)));
        tasks.spawn("floods", until(&stopped, told_of.sum_up()));
        tasks.spawn("resync", until(&stopped, resync(reconciler.clone(), sync_period)));
        tasks.spawn("reconcile", returned(reconciler.run(told(&stopped))));
        let (asked, inside) = (Arc::new(Probes(views.clone())), Arc::new(Inside(views)));
        tasks.spawn("probes", returned(probes.serve(asked, Entry::open(), told(&stopped))));
        tasks.spawn("certificate", until(&stopped, follow(entry.certificates.clone())));
        tasks.spawn("metrics", returned(metrics.serve(inside, entry, told(&stopped))));
        let watchdog = Watchdog::start(gate, overdue);
        let watchdog = watchdog.map_err(|e| End::Early(format!("no thread for the watchdog: {e}")))?;
        Ok(Self {
            tasks,
            lease,
            stop,
            shutdown_timeout: flags.shutdown_timeout,
            sandbox,
            _watchdog: watchdog,
        })
    }

    /// Ends in order: no new pass, no new write, the Lease, then everything else.
    async fn stop(self, end: End) -> End {
        let began = tokio::time::Instant::now();
        self.stop.send_replace(true);
        let for_lease = self.shutdown_timeout.mul_f64(LEASE_SHARE);
        match self.lease.shutdown(for_lease).await {
            Ok(()) => {}
            Err(error @ DriverError::OutOfTime) => {
                warn!(%error, "others take over when its time has passed");
            }
            Err(error @ DriverError::Stuck) => return End::Overdue(error.to_string()),
            Err(error) => warn!(%error, "the election did not end well"),
        }
        // What the Lease did not need is the tasks' too: passes may drain for longer.
        let rest = self.shutdown_timeout.saturating_sub(began.elapsed());
        let joined = self.tasks.join_all(rest).await;
        let sandbox = self.sandbox;
        if tokio::task::spawn_blocking(move || sandbox.shutdown()).await.is_err() {
            warn!("the processes that run plugins were not ended in order; they end with this one");
        }
        match joined {
            Ok(()) => end,
            Err(names) => {
                End::Overdue(format!("these tasks did not end within {rest:?}: {}", names.join(", ")))
            }
        }
    }
}

/// Keeps the certificate up to date, if there is one.
async fn follow(certificates: Option<Arc<Certificates>>) {
    match certificates {
        Some(certificates) => certificates.follow().await,
        None => std::future::pending().await,
    }
}

/// Looks at every object again once a period, so that nothing depends on an event for ever.
async fn resync(reconciler: Arc<Loop>, period: Duration) {
    if period.is_zero() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(period).await;
        let found = reconciler.resync().await;
        debug!(offered = found.offered, skipped = found.skipped, "looked at every object");
    }
}

/// Resolves when the process has begun to end.
fn told(stopped: &watch::Receiver<bool>) -> impl Future<Output = ()> + Send + use<> {
    let mut stopped = stopped.clone();
    async move {
        // An error means that the sender is gone, and so is the host.
        let _ = stopped.wait_for(|stop| *stop).await;
    }
}

/// A task that never ends by itself, cut off when the process ends.
fn until<F: Future<Output = ()> + Send + 'static>(
    stopped: &watch::Receiver<bool>,
    work: F,
) -> impl Future<Output = Result<(), String>> + Send + use<F> {
    let told = told(stopped);
    async move {
        tokio::select! {
            () = told => Ok(()),
            () = work => Err("it returned".to_owned()),
        }
    }
}

/// A task that ends by itself when the process ends.
async fn returned(work: impl Future<Output = ()> + Send) -> Result<(), String> {
    work.await;
    Ok(())
}

fn writer(
    flags: &Run,
    client: &kube::Client,
    gate: &Arc<Gate>,
    identity: &Arc<str>,
    observed: &Arc<Observed>,
) -> Arc<Writer> {
    let config = windlass_apply::Config {
        request_timeout: flags.request_timeout,
        claim_extras: flags.reach.claim_extras,
        ..windlass_apply::Config::new(flags.namespace.as_str(), identity.clone())
    };
    let clock: Arc<dyn BootClock> = Arc::new(Boottime);
    Arc::new(Writer::new(client.clone(), gate.clone(), clock, config).observed(observed.clone()))
}

/// Ends the process from the watchdog's thread: what should have stopped did not, so no
/// other part of it can be asked to end in order.
fn overdue(why: String) {
    std::process::exit(i32::from(End::Overdue(why).say()));
}

#[expect(clippy::too_many_arguments, reason = "it introduces everyone to the loop")]
fn reconciler(
    flags: &Run,
    policy: Policy,
    watches: &Arc<Watches>,
    catalogue: &Arc<Catalogue>,
    writer: &Arc<Writer>,
    gate: &Arc<Gate>,
    queue: &Arc<Queue>,
    observed: &Arc<Observed>,
) -> Arc<Loop> {
    let ports = Ports {
        cache: watches.cache(),
        decide: catalogue.clone(),
        apply: writer.clone(),
        clock: Arc::new(Boottime),
        gate: gate.clone(),
        queue: queue.clone(),
        observer: observed.clone(),
    };
    let defaults = windlass_reconcile::Config::new(flags.namespace.as_str());
    let config = windlass_reconcile::Config {
        concurrency: flags.max_concurrent_reconciles.into(),
        // A pass that is dropped gives its write up while it is still on the wire.
        drain: flags.request_timeout.max(defaults.drain),
        standby_decides: flags.standby_decides,
        policy,
        ..defaults
    };
    Reconciler::new(ports, config)
}

/// What the flags say of the queue.
fn queue_config(flags: &Run, standby: Standby) -> windlass_queue::Config {
    windlass_queue::Config {
        paused: standby == Standby::Rests,
        standby: standby == Standby::Decides,
        slots: NonZeroUsize::new(flags.max_concurrent_reconciles.into()),
        per_plugin: Some(per_plugin(flags)),
        rate: flags.plugins.max_rate_per_plugin.map(|per_second| Rate { per_second }),
        ..windlass_queue::Config::default()
    }
}

/// Passes of one plugin that may run at once.
fn per_plugin(flags: &Run) -> NonZeroUsize {
    match flags.plugins.max_concurrent_per_plugin {
        Some(most) => most.into(),
        None => windlass_queue::half_of(flags.max_concurrent_reconciles.into()),
    }
}

async fn bind(flag: &str, address: std::net::SocketAddr) -> Result<Bound, End> {
    let bound = Bound::bind(address).await;
    let bound = bound.map_err(|error| End::Unusable(format!("{flag} {address} cannot be used: {error}")))?;
    if let Ok(address) = bound.local_addr() {
        info!(flag, %address, "listening");
    }
    Ok(bound)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn config(flags: &[&str]) -> windlass_queue::Config {
        let words = ["windlass", "run"].iter().chain(flags);
        let cli = Cli::try_parse_from(words).expect("valid flags");
        let Command::Run(run) = cli.command else { panic!("{cli:?}") };
        queue_config(&run, Standby::Decides)
    }

    #[test]
    fn bounds_and_rates_of_plugins_are_what_the_flags_say() {
        let number = |n: Option<NonZeroUsize>| n.map(NonZeroUsize::get);
        let default = config(&[]);
        assert_eq!(
            (number(default.slots), number(default.per_plugin), default.rate),
            (Some(8), Some(4), None)
        );
        let other = config(&["--max-concurrent-per-plugin", "3", "--max-rate-per-plugin", "50"]);
        assert_eq!(number(other.per_plugin), Some(3));
        assert_eq!(other.rate.map(|rate| rate.per_second.get()), Some(50));
    }
}

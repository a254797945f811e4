//! The loop itself: takes keys, keeps a bounded number of passes going, ends well.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{Instrument as _, debug, error, info_span};
use windlass_core::claim::{BootClock, Gate};
use windlass_core::class::Class;
use windlass_core::key::{Key, ObjectRef};
use windlass_core::loops::Rules;
use windlass_core::memo::Memos;
use windlass_core::outcome::{Failure, Outcome, WAITING};
use windlass_core::plan::Policy;
use windlass_core::ports::{Apply, Cache, Decide};
use windlass_queue::{Queue, Running, Urgency};

use crate::observer::{Finished, Observer};
use crate::pass::Attempt;
use crate::report::Quota;
use crate::traces::Traces;

/// How a loop behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// The namespace of this host: part of each child's inventory.
    pub host_namespace: Arc<str>,
    /// What plugins may do here beyond the rules. Default nothing.
    pub policy: Policy,
    /// When writes to one object are a loop, and for how long its key then rests.
    pub write_loop: Rules,
    /// Passes that may be under way at once; at least 1. Default 8.
    pub concurrency: usize,
    /// How long a plugin may take to decide, waiting for a worker included. The
    /// plugin stage has tighter limits of its own; this is the net. Default 30 s.
    pub decide_most: Duration,
    /// How long the cache may lack one of our own writes before the kind is listed anew. Its key
    /// waits until then, and for that list. Longer than a dead watch needs to be noticed (30 s).
    /// Default 45 s.
    pub unseen_most: Duration,
    /// How long passes may go on after shutdown has begun. Default 5 s.
    pub drain: Duration,
    /// Whether passes look and decide while this replica does not lead, so that a takeover
    /// works on nothing but what is not where it should be. Whoever follows the election
    /// tells the queue then ([`Queue::lead`], [`Queue::stand_by`]); if not, it pauses the
    /// queue on a standby, and offers every key at a takeover. Default true.
    pub standby_decides: bool,
    /// Whether a pass is skipped when nothing that it could see has changed. Off, each one asks
    /// its plugin, to compare with. Default true.
    pub skip_unchanged: bool,
}

impl Config {
    /// The defaults, for the host in this namespace.
    pub fn new(host_namespace: impl Into<Arc<str>>) -> Self {
        Self {
            host_namespace: host_namespace.into(),
            policy: Policy::default(),
            write_loop: Rules::default(),
            concurrency: 8,
            decide_most: Duration::from_secs(30),
            unseen_most: Duration::from_secs(45),
            drain: Duration::from_secs(5),
            standby_decides: true,
            skip_unchanged: true,
        }
    }
}

/// Everyone whom the loop talks to.
pub struct Ports<C, D, A, K> {
    /// What is known of the cluster.
    pub cache: Arc<C>,
    /// Who decides.
    pub decide: Arc<D>,
    /// Who writes.
    pub apply: Arc<A>,
    /// The clock by which claims end.
    pub clock: Arc<K>,
    /// Where the claim is kept.
    pub gate: Arc<Gate>,
    /// Where keys come from.
    pub queue: Arc<Queue>,
    /// Who counts.
    pub observer: Arc<dyn Observer>,
}

/// The loop. One a process: it owns what is remembered between passes.
pub struct Reconciler<C, D, A, K> {
    pub(crate) ports: Ports<C, D, A, K>,
    pub(crate) config: Config,
    pub(crate) quota: Mutex<Quota>,
    traces: Mutex<Traces>,
    memos: Mutex<Memos>,
    passes: AtomicU64,
}

/// How often keys are looked for whose object or plugin is gone.
const SWEEP: Duration = Duration::from_secs(60);
/// How often the gate is looked at after a pass found it closed although the
/// queue was not paused.
const CLOSED: Duration = Duration::from_millis(50);

impl<C: Cache, D: Decide, A: Apply, K: BootClock> Reconciler<C, D, A, K> {
    /// A loop that has not begun.
    pub fn new(ports: Ports<C, D, A, K>, config: Config) -> Arc<Self> {
        Arc::new(Self {
            ports,
            quota: Mutex::default(),
            traces: Mutex::new(Traces::new(config.write_loop)),
            memos: Mutex::default(),
            config,
            passes: AtomicU64::new(0),
        })
    }

    /// Runs passes until `shutdown` completes; those under way then get
    /// [`Config::drain`] to end. Never returns before that.
    ///
    /// # Cancel safety
    /// A dropped call drops its passes; their keys go back into the queue.
    pub async fn run(self: Arc<Self>, shutdown: impl Future<Output = ()>) {
        let mut passes = FuturesUnordered::new();
        let mut shutdown = pin!(shutdown);
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leading = true;
        loop {
            let room = leading && passes.len() < self.config.concurrency.max(1);
            tokio::select! {
                () = &mut shutdown => break,
                Some(leads) = passes.next(), if !passes.is_empty() => leading &= leads,
                running = self.ports.queue.next(), if room => passes.push(self.clone().work(running)),
                () = self.claimed(), if !leading => leading = true,
                _ = sweep.tick() => self.sweep(),
            }
        }
        let drained = async { while passes.next().await.is_some() {} };
        if timeout(self.config.drain, drained).await.is_err() {
            debug!(passes = passes.len(), "passes did not end in time and are dropped");
        }
    }

    /// One pass from its key to the key's return. Answers whether others may follow: not
    /// if it was told to stop writing, and nobody decides without a claim.
    async fn work(self: Arc<Self>, running: Running) -> bool {
        let number = self.passes.fetch_add(1, Ordering::Relaxed) + 1;
        let key = running.key();
        let object = format!("{}/{}", key.namespace, key.name);
        let span = info_span!("pass", plugin = %key.plugin, key = %object, pass = number);
        self.worked(running, number).instrument(span).await
    }

    async fn worked(&self, mut running: Running, number: u64) -> bool {
        let began = Instant::now();
        let mut pass = Attempt::new(running.key().clone(), number, running.failures());
        self.ports.observer.pass_started(&pass.key);
        let outcome = AssertUnwindSafe(self.attempt(&mut pass)).catch_unwind().await;
        let outcome = outcome.unwrap_or_else(|_| panicked());
        pass.at_most.into_iter().for_each(|most| running.pause_at_most(most));
        pass.at_least.into_iter().for_each(|least| running.pause_at_least(least));
        self.report(&mut pass, &outcome, running.pause()).await;
        self.ports.observer.pass_finished(&Finished {
            key: &pass.key,
            outcome: &outcome,
            standby: pass.standby,
            skipped: pass.skipped,
            took: began.elapsed(),
            decided: pass.decided,
            warnings: &pass.warnings,
        });
        if let Outcome::Failed(failure) = &outcome {
            running.fails_because(&failure.message);
        }
        match &outcome {
            Outcome::Waiting => running.postpone(pass.wait.unwrap_or(WAITING)),
            // Events may be late; writes are what a takeover is for.
            Outcome::Planned { steps: 0 } => running.park(Urgency::Resync),
            Outcome::Gone
            | Outcome::Converged { .. }
            | Outcome::Overtaken { .. }
            | Outcome::Planned { .. }
            | Outcome::Failed(_) => running.finish(outcome.next()),
        }
        let stopped = matches!(&outcome, Outcome::Failed(failure) if failure.class == Class::Fatal);
        self.config.standby_decides || !stopped
    }

    /// Waits until this replica holds a claim.
    async fn claimed(&self) {
        while self.ports.gate.claim(self.ports.clock.now()).is_none() {
            sleep(CLOSED).await;
        }
    }

    /// Drops what nobody else drops. On a standby, keys that rest and whose primary is
    /// gone: its queue holds no more keys than there are objects. And what is
    /// kept for keys that no pass will come to any more: their plugin is gone, or has
    /// another primary kind now.
    fn sweep(&self) {
        if self.ports.queue.is_paused() || self.ports.queue.is_standing_by() {
            for waiting in self.ports.queue.waiting() {
                if self.is_gone(&waiting.key) && self.ports.queue.discard(&waiting) {
                    self.forget(&waiting.key);
                }
            }
        }
        let over: Vec<Key> = self.traces().keys().filter(|key| self.is_gone(key)).cloned().collect();
        over.iter().for_each(|key| self.forget(key));
        self.memos().retain(|plugin| self.ports.decide.serving(plugin).is_some());
    }

    /// Whether the primary is known not to exist, or nobody decides for it.
    fn is_gone(&self, key: &Key) -> bool {
        let Some(serving) = self.ports.decide.serving(&key.plugin) else {
            return true;
        };
        let primary = primary_of(key, &serving.manifest.primary);
        self.ports.cache.is_synced(&primary.gvk) && self.ports.cache.object(&primary).is_none()
    }

    /// Drops everything that is kept for a key.
    pub(crate) fn forget(&self, key: &Key) {
        self.ports.cache.watch_reads(key, windlass_core::reads::Reads::default());
        self.traces().forget(key);
        self.memos().forget(key);
    }

    pub(crate) fn memos(&self) -> MutexGuard<'_, Memos> {
        // As below.
        self.memos.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn traces(&self) -> MutexGuard<'_, Traces> {
        // Entries are independent of each other; whoever panicked left at most its own behind.
        self.traces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The object that a key is about.
pub(crate) fn primary_of(key: &Key, gvk: &windlass_core::kind::Gvk) -> ObjectRef {
    ObjectRef { gvk: gvk.clone(), namespace: key.namespace.clone(), name: key.name.clone() }
}

/// A mistake of ours, in this pass only: its key backs off, everyone else goes on.
fn panicked() -> Outcome {
    error!("the pass panicked; this is a bug in windlass, please report it with this log");
    Outcome::Failed(Failure {
        class: Class::Transient,
        code: None,
        message: "the host made a mistake; its log has the details".into(),
    })
}

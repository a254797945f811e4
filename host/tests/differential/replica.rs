//! One replica: the real stages watch, queue, reconcile and apply, introduced to each other as the host does it.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;
use windlass_apply::Writer;
use windlass_core::claim::{BootClock, BootTime, Claim, Gate, Term};
use windlass_queue::Queue;
use windlass_reconcile::{Ports, Reconciler, Silent};
use windlass_watch::watches::Watches;

use crate::api::Api;
use crate::brain::Brain;
use crate::mutant::{Broken, BrokenSink, BrokenWriter, Mutant};

/// The host's namespace.
pub(crate) const HOST: &str = "sys";

/// One replica that runs until it is dropped.
pub(crate) struct Replica {
    number: usize,
    gate: Arc<Gate>,
    queue: Arc<Queue>,
    pub(crate) watches: Arc<Watches>,
    clock: Arc<Clock>,
    mutant: Mutant,
    tasks: [AbortHandle; 2],
}

/// Virtual time as the time since boot.
struct Clock(Instant);

impl BootClock for Clock {
    fn now(&self) -> BootTime {
        BootTime(0).plus(self.0.elapsed())
    }
}

impl Replica {
    /// Starts a replica, a standby at first.
    pub(crate) fn start(number: usize, api: &Api, brain: &Arc<Brain>, mutant: Mutant) -> Self {
        let client = api.client(number);
        let (gate, clock) = (Gate::new(), Arc::new(Clock(Instant::now())));
        let queue = Queue::new(windlass_queue::Config { standby: true, ..windlass_queue::Config::default() });
        let sink = Arc::new(BrokenSink::new(queue.clone(), mutant));
        let watches = Arc::new(Watches::new(client.clone(), HOST, sink, None));
        watches.want(&brain.manifest().name, brain.manifest());
        let config = windlass_apply::Config::new(HOST, format!("host-{number}"));
        let writer = Writer::new(client, gate.clone(), clock.clone(), config);
        let ports = Ports {
            cache: Arc::new(Broken::new(watches.cache(), mutant)),
            decide: brain.clone(),
            apply: Arc::new(BrokenWriter::new(writer, mutant)),
            clock: clock.clone(),
            gate: gate.clone(),
            queue: queue.clone(),
            observer: Arc::new(Silent),
        };
        let reconciler = Reconciler::new(ports, windlass_reconcile::Config::new(HOST));
        let watching = watches.clone();
        let tasks = [
            tokio::spawn(async move { watching.run().await }).abort_handle(),
            tokio::spawn(reconciler.run(std::future::pending())).abort_handle(),
        ];
        Self { number, gate, queue, watches, clock, mutant, tasks }
    }

    /// Leads from now on, in this term. Says how its writes name their claim.
    pub(crate) fn lead(&self, term: u64) -> String {
        let now = self.clock.now();
        let ends = now.plus(Duration::from_secs(1_000_000));
        let claim = Claim { holder: format!("host-{}", self.number).into(), term: Term(term), ends };
        let said = claim.to_string();
        self.gate.open(claim, now);
        if self.mutant != Mutant::ForgetsToLead {
            self.queue.lead();
        }
        said
    }

    /// Leads no more.
    pub(crate) fn stand_by(&self) {
        self.gate.close();
        self.queue.stand_by();
    }

    /// The plugin has other settings: every object is looked at again.
    pub(crate) fn resync(&self) {
        self.watches.resync(None);
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

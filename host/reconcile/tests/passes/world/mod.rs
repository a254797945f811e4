//! Fakes for every port: a cluster that is its own cache and API server, a plugin
//! that is a closure, and a claim that tests open and close.

mod brain;
mod cluster;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use windlass_core::claim::{BootClock, BootTime, Claim, Gate, Term};
use windlass_core::code::Refusal;
use windlass_core::decision::{Decision, Verdict};
use windlass_core::guests::LoadId;
use windlass_core::key::{Key, ObjectRef};
use windlass_core::kind::Gvk;
use windlass_core::manifest::{ChildRule, Manifest, ReadRule, Unwanted};
use windlass_core::name::{Digest, PluginName};
use windlass_core::ports::{CallError, Pass, Reader, Serving, Sink as _};
use windlass_core::snapshot::Snapshot;
use windlass_queue::{Config as QueueConfig, Queue};
use windlass_reconcile::{Config, Finished, Observer, Ports, Reconciler};

pub(crate) use brain::Brain;
pub(crate) use cluster::Cluster;

pub(crate) const HOST: &str = "windlass-system";

pub(crate) const WEB: &str = "x.dev/v1/Web";
pub(crate) const CONFIG_MAP: &str = "v1/ConfigMap";

pub(crate) type Reply = Result<Verdict, CallError>;

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn gvk(text: &str) -> Gvk {
    text.parse().expect("a kind")
}

pub(crate) fn plugin(name: &str) -> PluginName {
    PluginName::try_new(name).expect("a name")
}

pub(crate) fn key(name: &str) -> Key {
    Key::new(plugin("web"), "ns", name)
}

pub(crate) fn object(kind: &str, name: &str) -> ObjectRef {
    ObjectRef { gvk: gvk(kind), namespace: "ns".into(), name: name.into() }
}

/// A plugin that reconciles `x.dev/v1/Web` into ConfigMaps and reads Nodes of a kind.
pub(crate) fn serving(name: &str, finalizes: bool) -> Serving {
    let manifest = Manifest {
        name: plugin(name),
        version: "1.0.0".into(),
        primary: gvk("x.dev/v1/Web"),
        children: vec![ChildRule { kind: gvk("v1/ConfigMap"), unwanted: Unwanted::Delete }],
        reads: vec![ReadRule {
            kind: gvk("v1/LimitRange"),
            scope: windlass_core::scope::Scope::of_labels([("open".into(), "yes".into())]),
        }],
        selects: windlass_core::scope::Scope::default(),
        strict: true,
        finalizes,
    };
    Serving {
        manifest: Arc::new(manifest),
        digest: Digest::of(name.as_bytes()),
        load: LoadId(1),
        settings: None,
        children_max: 100,
    }
}

/// The plugin `web` with another manifest.
pub(crate) fn serving_with(change: impl FnOnce(&mut Manifest)) -> Serving {
    let mut serving = serving("web", false);
    let mut manifest = Manifest::clone(&serving.manifest);
    change(&mut manifest);
    serving.manifest = Arc::new(manifest);
    serving
}

pub(crate) fn decision(children: &[Value]) -> Reply {
    let children = children.iter().map(Value::to_string).collect();
    Ok(Verdict::Decision(Decision { children, ..Decision::default() }))
}

/// The decision for one ConfigMap with this name and data.
pub(crate) fn config_map(name: &str, data: &str) -> Reply {
    decision(&[serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": data}
    })])
}

pub(crate) fn refused(code: windlass_core::code::Code) -> Reply {
    Err(CallError::Refused(Refusal::new(code, "as the test wants")))
}

/// CLOCK_BOOTTIME on tokio's paused time.
pub(crate) struct Clock(Instant);

impl BootClock for Clock {
    fn now(&self) -> BootTime {
        BootTime(1).plus(self.0.elapsed())
    }
}

/// Counts passes by their result, a standby's apart from a leader's.
#[derive(Default)]
pub(crate) struct Counts(Mutex<(usize, Results)>, AtomicUsize, AtomicUsize);

type Results = BTreeMap<(bool, &'static str), usize>;

impl Observer for Counts {
    fn pass_started(&self, _key: &Key) {
        self.0.lock().expect("nobody panics here").0 += 1;
    }

    fn pass_finished(&self, pass: &Finished<'_>) {
        let mut counts = self.0.lock().expect("nobody panics here");
        counts.0 -= 1;
        self.1.fetch_add(usize::from(pass.skipped), Relaxed);
        *counts.1.entry((pass.standby, pass.outcome.result())).or_default() += 1;
    }

    fn relisted(&self, _: &Gvk) {
        self.2.fetch_add(1, Relaxed);
    }

    fn skipped(&self, _: &PluginName, keys: usize) {
        self.1.fetch_add(keys, Relaxed);
    }
}

impl Counts {
    /// Passes that were skipped, by a resync too.
    pub(crate) fn skipped(&self) -> usize {
        self.1.load(Relaxed)
    }

    /// Kinds that were listed anew for our own writes.
    pub(crate) fn relisted(&self) -> usize {
        self.2.load(Relaxed)
    }

    /// Passes under way.
    pub(crate) fn active(&self) -> usize {
        self.0.lock().expect("nobody panics here").0
    }

    /// Passes of a leader that ended with this result.
    pub(crate) fn of(&self, result: &'static str) -> usize {
        self.count(false, result)
    }

    /// Passes of a standby that ended with this result.
    pub(crate) fn of_standby(&self, result: &'static str) -> usize {
        self.count(true, result)
    }

    fn count(&self, standby: bool, result: &'static str) -> usize {
        self.0.lock().expect("nobody panics here").1.get(&(standby, result)).copied().unwrap_or(0)
    }
}

type Loop = Reconciler<Cluster, Brain, Cluster, Clock>;

/// A host without a cluster. The loop runs from the beginning, without a claim.
pub(crate) struct World {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) brain: Arc<Brain>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) reconciler: Arc<Loop>,
    clock: Arc<Clock>,
    standby_decides: bool,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl World {
    /// A standby with the plugin `web`.
    pub(crate) fn standby(
        decide: impl Fn(&Pass, &Snapshot, &dyn Reader) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::with(decide, Config::new(HOST))
    }

    /// A leader with the plugin `web`.
    pub(crate) fn leader(
        decide: impl Fn(&Pass, &Snapshot, &dyn Reader) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let world = Self::standby(decide);
        world.lead(1);
        world
    }

    pub(crate) fn with(
        decide: impl Fn(&Pass, &Snapshot, &dyn Reader) -> Reply + Send + Sync + 'static,
        config: Config,
    ) -> Self {
        let standby_decides = config.standby_decides;
        let queue = Queue::new(QueueConfig {
            paused: !standby_decides,
            standby: standby_decides,
            ..QueueConfig::default()
        });
        let (gate, clock) = (Gate::new(), Arc::new(Clock(Instant::now())));
        let cluster = Arc::new(Cluster::new(queue.clone(), gate.clone(), clock.clone()));
        let (brain, counts) = (Arc::new(Brain::new(decide)), Arc::new(Counts::default()));
        brain.serve(serving("web", false));
        let ports = Ports {
            cache: cluster.clone(),
            decide: brain.clone(),
            apply: cluster.clone(),
            clock: clock.clone(),
            gate: gate.clone(),
            queue: queue.clone(),
            observer: counts.clone(),
        };
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let stopped = async move {
            // A dropped sender also ends the loop.
            let _ = stopped.await;
        };
        let reconciler = Reconciler::new(ports, config);
        let task = tokio::spawn(reconciler.clone().run(stopped));
        Self {
            cluster,
            brain,
            queue,
            gate,
            counts,
            reconciler,
            clock,
            standby_decides,
            stop: Some(stop),
            task,
        }
    }

    /// As the elector does: the gate first, then the queue.
    pub(crate) fn lead(&self, term: u64) {
        self.open_gate(term);
        match self.standby_decides {
            true => self.queue.lead(),
            false => self.queue.resume(),
        }
    }

    pub(crate) fn open_gate(&self, term: u64) {
        let now = self.clock.now();
        let ends = now.plus(Duration::from_secs(365 * 24 * 3600));
        self.gate.open(Claim { holder: "me".into(), term: Term(term), ends }, now);
    }

    pub(crate) fn step_down(&self) {
        self.gate.close();
        match self.standby_decides {
            true => self.queue.stand_by(),
            false => self.queue.pause(),
        }
    }

    /// Lets this much time pass.
    pub(crate) async fn run_for(&self, time: Duration) {
        sleep(time).await;
    }

    /// Lets time pass until `done`, for an hour at most.
    pub(crate) async fn until(&self, done: impl Fn(&World) -> bool) {
        for _ in 0..360_000 {
            if done(self) {
                return;
            }
            sleep(ms(10)).await;
        }
        panic!("it never happened; written so far: {:?}", self.cluster.log());
    }

    /// Ends the loop and answers how long that took.
    pub(crate) async fn shut_down(&mut self) -> Duration {
        let began = Instant::now();
        let _ = self.stop.take().expect("shut down once").send(());
        (&mut self.task).await.expect("the loop does not panic");
        began.elapsed()
    }

    pub(crate) fn offer(&self, name: &str) {
        self.queue.offer(key(name));
    }
}

/// A leader whose plugin wants one ConfigMap of the primary's name.
pub(crate) fn one_child() -> World {
    World::leader(|pass, _, _| config_map(&pass.key.name, "v"))
}

impl Drop for World {
    fn drop(&mut self) {
        // Here, because a panic inside a pass is caught.
        assert!(std::thread::panicking() || self.brain.twice() == 0, "a key ran twice at once");
    }
}

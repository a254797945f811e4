//! Two hosts with the same plugin in the same cluster, of which one skips passes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use windlass_core::class::Class;
use windlass_core::decision::{Decision, Verdict};
use windlass_core::guests::LoadId;
use windlass_core::kind::Gvk;
use windlass_core::name::{ANNOTATION_APPLIED, Digest};
use windlass_core::ports::{Cache as _, Reader, Serving};
use windlass_core::reads::Query;
use windlass_core::snapshot::Snapshot;
use windlass_reconcile::Config;

use crate::world::{CONFIG_MAP, HOST, Reply, WEB, World, gvk, ms, object, serving};

/// Primaries, and objects that are read: the first by its name, the others only in a list.
const NAMES: [&str; 3] = ["a", "b", "c"];
const RANGES: [&str; 3] = ["s0", "s1", "s2"];
/// How long the clock of a plugin that reads it stands still.
const TICK: Duration = Duration::from_secs(600);
/// Within how long everything settles once nothing changes any more; keys that wait for an own write that
/// is not shown, or back off, included.
const SETTLED: Duration = Duration::from_secs(400);
/// How late a key may be asked for that wanted to be.
const LATE: Duration = Duration::from_secs(3);

/// Something that happens to both hosts.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Primary(usize, u8),
    NoPrimary(usize),
    Range {
        name: usize,
        open: bool,
        listed: bool,
        data: u8,
    },
    NoRange(usize),
    /// Somebody else writes a child.
    Child(usize, u8),
    NoChild(usize),
    Component {
        version: u8,
        clock: bool,
    },
    Limits,
    Settings(u8),
    Status(bool),
    Offer(usize),
    Resync,
    Wait(u32),
    Hold,
    Show,
    StepDown,
    Lead,
    Fail,
    Trial(bool),
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    let (name, range) = (0..NAMES.len(), 0..RANGES.len());
    let mostly = || prop::bool::weighted(0.75);
    let waits = prop_oneof![Just(1), 1..3_000u32, Just(60_000), Just(700_000)];
    prop_oneof![
        5 => (name.clone(), 0..6u8).prop_map(|(name, spec)| Op::Primary(name, spec)),
        1 => name.clone().prop_map(Op::NoPrimary),
        5 => (range.clone(), mostly(), mostly(), 0..3u8)
            .prop_map(|(name, open, listed, data)| Op::Range { name, open, listed, data }),
        2 => range.prop_map(Op::NoRange),
        2 => (name.clone(), 0..3u8).prop_map(|(name, data)| Op::Child(name, data)),
        2 => name.clone().prop_map(Op::NoChild),
        2 => (0..3u8, any::<bool>()).prop_map(|(version, clock)| Op::Component { version, clock }),
        1 => Just(Op::Limits),
        2 => (0..3u8).prop_map(Op::Settings),
        1 => any::<bool>().prop_map(Op::Status),
        4 => name.prop_map(Op::Offer),
        3 => Just(Op::Resync),
        9 => waits.prop_map(Op::Wait),
        1 => Just(Op::Hold),
        2 => Just(Op::Show),
        1 => Just(Op::StepDown),
        2 => Just(Op::Lead),
        1 => Just(Op::Fail),
        1 => any::<bool>().prop_map(Op::Trial),
    ]
}

/// What is wrong on purpose with the host that skips passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Its plugin reads the clock, and nobody is told.
    Clock,
    /// The memo leaves something out.
    #[cfg(feature = "mutants")]
    Memo(windlass_core::memo::mutant::Blind),
}

/// What decides, and what it was asked.
#[derive(Default)]
struct Plugin {
    version: u8,
    clock: bool,
    load: u64,
    settings: Option<u8>,
    /// For each name when it was asked for last, and when it wanted to be again.
    asked: BTreeMap<String, (Instant, Option<Duration>)>,
}

struct Side {
    world: World,
    plugin: Arc<Mutex<Plugin>>,
    broken: Option<Broken>,
}

/// Both hosts.
pub(crate) struct Pair {
    sides: [Side; 2],
    term: u64,
    leads: bool,
}

impl Pair {
    /// The first host runs every pass; the second skips some, and may be broken.
    pub(crate) fn new(broken: Option<Broken>) -> Self {
        let sides = [Side::new(false, None), Side::new(true, broken)];
        let pair = Self { sides, term: 1, leads: true };
        pair.each(|side| {
            side.world.lead(1);
            side.serve();
        });
        pair
    }

    fn each(&self, f: impl Fn(&Side)) {
        self.sides.iter().for_each(f);
    }

    pub(crate) async fn apply(&mut self, op: &Op) {
        match op {
            Op::Wait(time) => sleep(ms(u64::from(*time))).await,
            Op::Resync => self.resync().await,
            Op::Lead => self.lead(),
            Op::StepDown => {
                self.leads = false;
                self.each(|side| side.world.step_down());
            }
            Op::Fail => self.each(|side| side.world.cluster.fail(Class::Transient, 1, None)),
            op => self.each(|side| side.apply(op)),
        }
    }

    fn lead(&mut self) {
        if !self.leads {
            (self.leads, self.term) = (true, self.term + 1);
            self.each(|side| side.world.lead(self.term));
        }
    }

    async fn resync(&self) {
        for side in &self.sides {
            side.world.reconciler.resync().await;
        }
    }

    /// Lets everything settle, has everything looked at once more, and compares.
    pub(crate) async fn judge(&mut self) -> Result<(), String> {
        self.lead();
        self.each(|side| {
            side.world.cluster.show();
            side.world.cluster.recover();
            side.world.brain.on_trial(false);
            side.collect_garbage();
        });
        sleep(SETTLED).await;
        if self.sides[0].failing() != self.sides[1].failing() {
            return Err(format!("{:?} fail, and {:?}", self.sides[0].failing(), self.sides[1].failing()));
        }
        self.each(|side| {
            if side.world.cluster.kind(&gvk(WEB)).is_some_and(|kind| !kind.has_status) {
                side.apply(&Op::Status(true));
            }
        });
        sleep(SETTLED).await;
        self.resync().await;
        sleep(SETTLED).await;
        let [all, some] = &self.sides;
        if all.state() != some.state() {
            let (all, some) = (all.state(), some.state());
            let of =
                all.keys().chain(some.keys()).find(|of| all.get(*of) != some.get(*of)).expect("they differ");
            return Err(format!("the states differ: {of} is {:?} and {:?}", all.get(of), some.get(of)));
        }
        // After a failure pauses are random, and with them what falls into one pass.
        let failed = all.world.counts.of("error") + some.world.counts.of("error") > 0;
        if !failed && all.written() != some.written() {
            return Err(format!("the writes differ: {:?} {:?}", all.written(), some.written()));
        }
        let (clock, due) = {
            let plugin = some.plugin();
            (plugin.clock, plugin.asked.values().filter(|(_, again)| again.is_some()).count())
        };
        let left = some.world.reconciler.resync().await.offered;
        if left > due && !clock {
            return Err(format!("everything is as it should be, and {left} keys are not remembered"));
        }
        all.overdue().or_else(|| some.overdue()).map_or(Ok(()), Err)
    }
}

impl Side {
    fn new(skips: bool, broken: Option<Broken>) -> Self {
        let plugin = Arc::new(Mutex::new(Plugin::default()));
        let (decides, began) = (plugin.clone(), Instant::now());
        let config = Config { skip_unchanged: skips, ..Config::new(HOST) };
        let decide = move |pass: &windlass_core::ports::Pass, snapshot: &Snapshot, reader: &dyn Reader| {
            let mut plugin = decides.lock().expect("no test panics with it");
            let name = pass.key.name.to_string();
            let decision = plugin.decide(&name, snapshot, reader, began.elapsed());
            plugin.asked.insert(name, (Instant::now(), decision.requeue_after));
            Reply::Ok(Verdict::Decision(decision))
        };
        let world = World::with(decide, config);
        #[cfg(feature = "mutants")]
        if let Some(Broken::Memo(blind)) = broken {
            world.reconciler.be_blind(blind);
        }
        Self { world, plugin, broken }
    }

    fn serve(&self) {
        let plugin = self.plugin();
        let settings = plugin.settings.map(|settings| settings.to_string().into());
        let digest = Digest::of(&[plugin.version, u8::from(plugin.clock)]);
        let clock = plugin.clock && self.broken != Some(Broken::Clock);
        // As the plugin stage has it: a component with its limits has a number of its own.
        let load = LoadId(plugin.load << 16 | u64::from(plugin.version) << 1 | u64::from(plugin.clock));
        drop(plugin);
        self.world.brain.reads_clock(clock);
        self.world.brain.serve(Serving { digest, settings, load, ..serving("web", false) });
        self.offer_all();
    }

    fn offer_all(&self) {
        NAMES.iter().for_each(|name| self.world.offer(name));
    }

    fn apply(&self, op: &Op) {
        let cluster = &self.world.cluster;
        match *op {
            Op::Primary(name, spec) => {
                cluster.put(&object(WEB, NAMES[name]), json!({"metadata": {}, "spec": spec}));
            }
            Op::NoPrimary(name) => {
                cluster.delete(&object(WEB, NAMES[name]));
                // The garbage collector.
                children(name).iter().for_each(|child| cluster.delete(&object(CONFIG_MAP, child)));
            }
            Op::Range { name, open, listed, data } => {
                let yes = |yes| if yes { "yes" } else { "no" };
                let labels = json!({"open": yes(open), "listed": yes(listed && name > 0)});
                let body = json!({"metadata": {"labels": labels}, "data": data});
                cluster.put(&object("v1/LimitRange", RANGES[name]), body);
            }
            Op::NoRange(name) => cluster.delete(&object("v1/LimitRange", RANGES[name])),
            Op::Child(name, data) => {
                let child = object(CONFIG_MAP, NAMES[name]);
                if let Some(mut body) = cluster.stored(&child) {
                    body["data"]["k"] = format!("foreign {data}").into();
                    body["metadata"]["managedFields"] = json!([]);
                    cluster.put(&child, body);
                }
            }
            Op::NoChild(name) => cluster.delete(&object(CONFIG_MAP, NAMES[name])),
            Op::Component { version, clock } => {
                let mut plugin = self.plugin();
                (plugin.version, plugin.clock) = (version, clock);
                drop(plugin);
                self.serve();
            }
            Op::Limits => {
                self.plugin().load += 1;
                self.serve();
            }
            Op::Settings(settings) => {
                self.plugin().settings = Some(settings);
                self.serve();
            }
            Op::Status(has_status) => {
                cluster.set_status(WEB, has_status);
                self.offer_all();
            }
            Op::Offer(name) => self.world.offer(NAMES[name]),
            Op::Hold => cluster.hold(),
            Op::Show => cluster.show(),
            Op::Trial(on_trial) => self.world.brain.on_trial(on_trial),
            Op::Wait(_) | Op::Resync | Op::Lead | Op::StepDown | Op::Fail => unreachable!("for both at once"),
        }
    }

    /// What a late write made for a primary that is gone goes too.
    fn collect_garbage(&self) {
        let all = self.world.cluster.all();
        let is_there = |uid: &Value| all.iter().any(|(_, body)| body["metadata"]["uid"] == *uid);
        let owner = |body: &Value| body["metadata"]["ownerReferences"][0]["uid"].clone();
        let orphans = all.iter().filter(|(of, body)| of.gvk == gvk(CONFIG_MAP) && !is_there(&owner(body)));
        orphans.for_each(|(of, _)| self.world.cluster.delete(of));
    }

    /// All objects, without what the API server gives them and what hashes that.
    fn state(&self) -> BTreeMap<String, Value> {
        let mut state = BTreeMap::new();
        for (of, mut body) in self.world.cluster.all() {
            for field in ["uid", "resourceVersion", "ownerReferences"] {
                body["metadata"].as_object_mut().expect("an object").remove(field);
            }
            if let Some(annotations) = body["metadata"]["annotations"].as_object_mut() {
                annotations.remove(ANNOTATION_APPLIED);
            }
            state.insert(of.to_string(), body);
        }
        state
    }

    /// Whose last pass failed.
    fn failing(&self) -> BTreeSet<String> {
        let rows = self.world.queue.snapshot().rows.into_iter();
        rows.filter(|row| row.failures > 0).map(|row| row.key.to_string()).collect()
    }

    /// What was written how often.
    fn written(&self) -> BTreeMap<String, usize> {
        let mut written = BTreeMap::new();
        for line in self.world.cluster.log() {
            *written.entry(line).or_default() += 1;
        }
        written
    }

    /// Whoever wanted to be asked again, and was not.
    fn overdue(&self) -> Option<String> {
        let plugin = self.plugin();
        let is_there = |name: &str| self.world.cluster.stored(&object(WEB, name)).is_some();
        let mut late = plugin.asked.iter().filter(|(name, (at, again))| {
            is_there(name) && again.is_some_and(|again| at.elapsed() > again + LATE)
        });
        late.next().map(|(name, asked)| format!("{name} is overdue: {asked:?}"))
    }

    fn plugin(&self) -> std::sync::MutexGuard<'_, Plugin> {
        self.plugin.lock().expect("no test panics with it")
    }
}

impl Plugin {
    /// Depends on all that a plugin may depend on.
    fn decide(&self, name: &str, snapshot: &Snapshot, reader: &dyn Reader, time: Duration) -> Decision {
        let spec = snapshot.primary.value()["spec"].as_u64().unwrap_or(0);
        let data = |object: &windlass_core::object::Object| object.value()["data"].to_string();
        let read: Vec<String> = RANGES[..1]
            .iter()
            .map(|range| reader.get(&object("v1/LimitRange", range)).expect("allowed"))
            .map(|range| range.map_or("absent".into(), |range| data(&range)))
            .collect();
        let labels = vec![("listed".to_owned(), "yes".to_owned())];
        let query = Query { gvk: range(), namespace: Some("ns".into()), labels };
        let list = reader.list(&query).expect("allowed");
        let list: Vec<String> =
            list.iter().map(|range| format!("{}={}", range.meta().name, data(range))).collect();
        let time = if self.clock { time.as_secs() / TICK.as_secs() } else { 0 };
        let text = json!([spec, read, list, self.version, self.settings, time]).to_string();
        let child = |name: String, text: &str| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": text}})
                .to_string()
        };
        let mut children = vec![child(name.to_owned(), &text)];
        if spec % 2 == 1 {
            children.push(child(format!("{name}-2"), "second"));
        }
        let status = (spec != 4).then(|| json!({"children": snapshot.children.len()}).to_string());
        let requeue_after = (spec == 5).then(|| Duration::from_secs(30));
        Decision { children, status, requeue_after, ..Decision::default() }
    }
}

fn range() -> Gvk {
    gvk("v1/LimitRange")
}

fn children(name: usize) -> [String; 2] {
    [NAMES[name].to_owned(), format!("{}-2", NAMES[name])]
}

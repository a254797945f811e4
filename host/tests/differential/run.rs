//! One seed: the schedule, what came of it, and what a run without any of it comes to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::api::Api;
use crate::api::store::{Kind, NAMESPACE, Name, Preconditions};
use crate::api::streams::{Mishap, Scramble};
use crate::api::weather::Weather;
use crate::brain::Brain;
use crate::mutant::Mutant;
use crate::replica::{HOST, Replica};
use crate::schedule::{Edit, Op, Schedule};

/// How long after the last fault everything may take to be as it should be.
const CONVERGES: Duration = Duration::from_secs(30);
/// For how long nothing is written then.
const SILENT: Duration = Duration::from_secs(45);
/// Requests of one replica in that time that are no writes: four kinds, each with a watch every 20 s at the least and a look
/// at discovery every 12.5 s at the least.
const QUIET_READS: usize = 4 * (3 + 4);
/// How often a change is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// What a run took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// From the last fault until everything was as it should be.
    pub(crate) converged: Duration,
    /// Writes that were sent before.
    pub(crate) writes: usize,
}

/// A scene: a server, a plugin, replicas, and the present term.
struct Scene {
    api: Api,
    brain: Arc<Brain>,
    mutant: Mutant,
    /// The first one leads.
    replicas: Vec<Replica>,
    started: usize,
    term: u64,
}

/// Everything that the host is answerable for, by kind and name.
type Outcome = BTreeMap<Name, Value>;

/// Runs a seed, in virtual time.
///
/// # Errors
/// What is not as it should be, with all that happened.
pub(crate) fn run(seed: u64, mutant: Mutant) -> Result<Figures, String> {
    let schedule = Schedule::of(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let mut scene = Scene::new(seed, &schedule, mutant);
        match scene.play(&schedule).await {
            Ok(figures) => Ok(figures),
            Err(why) => Err(format!("{}\n{why}", scene.api.with(|state| state.trace()))),
        }
    })
}

impl Scene {
    fn new(seed: u64, schedule: &Schedule, mutant: Mutant) -> Self {
        let api = Api::new(seed);
        let brain = Arc::new(Brain::new(schedule.finalizes));
        let mut scene = Self { api, brain, mutant, replicas: Vec::new(), started: 0, term: 0 };
        scene.collect();
        for _ in 0..schedule.replicas {
            scene.start();
        }
        scene.lead();
        scene
    }

    /// The garbage collector.
    fn collect(&self) {
        let api = self.api.clone();
        tokio::spawn(async move {
            loop {
                sleep(Duration::from_millis(700)).await;
                api.with(|state| state.store.collect());
            }
        });
    }

    fn start(&mut self) {
        let replica = Replica::start(self.started, &self.api, &self.brain, self.mutant);
        self.started += 1;
        self.replicas.push(replica);
    }

    /// The first replica leads, in a new term.
    fn lead(&mut self) {
        self.term += 1;
        let claim = self.replicas[0].lead(self.term);
        self.api.with(|state| state.claim = Some(claim));
    }

    async fn play(&mut self, schedule: &Schedule) -> Result<Figures, String> {
        for (pause, op) in &schedule.ops {
            sleep(*pause).await;
            self.api.with(|state| state.say(format!("{op:?}")));
            self.suffer(op).await;
        }
        let ended = Instant::now();
        self.calm().await;
        let wanted = self.clean().await?;
        let writes = self.api.with(|state| state.writes);
        let (began, mut looked_at, mut converged) = (Instant::now(), 0, None);
        while began.elapsed() < CONVERGES {
            let version = self.api.with(|state| state.store.version);
            if version != looked_at {
                looked_at = version;
                converged = (self.outcome(&wanted) == wanted).then(|| ended.elapsed());
            }
            sleep(LOOK).await;
        }
        let Some(converged) = converged else {
            return Err(format!(
                "not as it should be after {CONVERGES:?}:\n{}",
                difference(&wanted, &self.outcome(&wanted))
            ));
        };
        self.silence(&wanted).await?;
        Ok(Figures { converged, writes })
    }

    /// Nothing is written, nothing changes, and nothing is asked more often than watches ask.
    async fn silence(&self, wanted: &Outcome) -> Result<(), String> {
        let counts = || self.api.with(|state| (state.writes, state.reads));
        let before = counts();
        self.api.with(|state| state.say("silence".into()));
        sleep(SILENT).await;
        let after = counts();
        if after.0 != before.0 {
            return Err(format!("{} writes after all was well", after.0 - before.0));
        }
        let (reads, most) = (after.1 - before.1, QUIET_READS * self.replicas.len());
        if reads > most {
            return Err(format!("{reads} reads after all was well, at most {most}"));
        }
        let outcome = self.outcome(wanted);
        if outcome != *wanted {
            return Err(format!("it was well and is no more:\n{}", difference(wanted, &outcome)));
        }
        Ok(())
    }

    async fn suffer(&mut self, op: &Op) {
        let api = self.api.clone();
        match op {
            Op::Web(name, spec) => put(&api, (Kind::Web, (*name).to_owned()), spec),
            Op::Palette(name, color) => {
                put(&api, (Kind::Palette, (*name).to_owned()), &json!({"color": color}))
            }
            Op::Delete(name) => delete(&api, (Kind::Web, (*name).to_owned())),
            Op::NoPalette(name) => delete(&api, (Kind::Palette, (*name).to_owned())),
            Op::Settings(settings) => {
                self.brain.set(settings);
                self.replicas.iter().for_each(Replica::resync);
            }
            Op::Child(number, change) => edit(&api, *number, *change, self.brain.manifest().finalizes),
            Op::Status(name) => {
                let name = (Kind::Web, (*name).to_owned());
                let nonsense = |value: &mut Value| value["status"] = json!({"parts": 99, "foreign": true});
                // It may not be there.
                let _ = api.with(|s| s.store.update(&name, "somebody", Preconditions::default(), nonsense));
            }
            Op::Lookalike(name) => lookalike(&api, name),
            Op::Streams(kind, mishap) => api.with(|state| state.streams.suffer(*kind, *mishap)),
            Op::Hold(kind, long) => {
                api.with(|state| state.streams.hold(*kind));
                let long = *long;
                tokio::spawn(async move {
                    sleep(long).await;
                    api.with(|state| state.streams.release());
                });
            }
            Op::Gap(name) => {
                let child = (Kind::ConfigMap, format!("{name}-0"));
                delete(&api, child.clone());
                api.with(|state| state.streams.hold(Some(Kind::ConfigMap)));
                sleep(Duration::from_millis(50)).await;
                delete(&api, child);
                api.with(|state| state.streams.suffer(Some(Kind::ConfigMap), Mishap::Gone));
            }
            Op::Scramble(scramble) => api.with(|state| state.streams.scramble(*scramble)),
            Op::Compact => api.with(|state| state.compact()),
            Op::Weather(weather) => api.with(|state| {
                state.weather = *weather;
                if weather.outage {
                    state.streams.suffer(None, Mishap::Reset);
                }
            }),
            Op::Crash(pause) => {
                self.replicas.remove(0);
                // With one replica that which starts is the next leader.
                self.start();
                sleep(*pause).await;
                self.lead();
            }
            Op::HandOver(pause) => {
                let old = self.replicas.remove(0);
                old.stand_by();
                self.replicas.push(old);
                sleep(*pause).await;
                self.lead();
            }
        }
    }

    /// The faults end. What is on its way arrives; watches that lost events are told to list again, as no server would lose
    /// events without.
    async fn calm(&self) {
        self.api.with(|state| {
            state.say("calm".into());
            state.weather = Weather::default();
            state.streams.scramble(Scramble::default());
            state.streams.release();
            if state.streams.lossy {
                state.compact();
                state.streams.suffer(None, Mishap::Gone);
            }
        });
        while self.api.with(|state| state.late > 0) {
            sleep(LOOK).await;
        }
        self.api.with(|state| state.say("all has arrived".into()));
    }

    /// What a run comes to in which nothing happens but that the final objects are made, each with the uid that it has here.
    async fn clean(&self) -> Result<Outcome, String> {
        let clean = Api::new(0);
        for kind in [Kind::Palette, Kind::Web] {
            let objects = self.api.with(|state| {
                let alive = state.store.of_kind(kind).filter(|(_, stored)| !stored.is_ending());
                let alive = alive.map(|(name, stored)| (name.to_owned(), stored.clone()));
                alive.collect::<Vec<_>>()
            });
            for (name, stored) in objects {
                let body = json!({"spec": stored.value["spec"]});
                clean.with(|state| state.store.create(&(kind, name), Some(stored.uid()), &body));
            }
        }
        let brain = Arc::new(Brain::new(self.brain.manifest().finalizes));
        brain.set(&self.brain.settings());
        let mut scene =
            Self { api: clean, brain, mutant: Mutant::None, replicas: Vec::new(), started: 0, term: 0 };
        scene.start();
        scene.lead();
        let mut before = usize::MAX;
        loop {
            sleep(Duration::from_secs(3)).await;
            let writes = scene.api.with(|state| state.writes);
            if writes == before {
                break;
            }
            before = writes;
        }
        if before > 200 {
            return Err(format!("{before} writes in a run without faults"));
        }
        Ok(scene.outcome(&Outcome::new()))
    }

    /// What there is. An object whose marks a stranger took off is nobody's, and stays when it is not wanted any more.
    fn outcome(&self, wanted: &Outcome) -> Outcome {
        self.api.with(|state| {
            let all = state.store.objects.iter().filter(|(name, stored)| match name.0 {
                Kind::Palette => false,
                Kind::Web => true,
                Kind::Box | Kind::ConfigMap => wanted.contains_key(*name) || is_marked(&stored.value),
            });
            all.map(|(name, stored)| (name.clone(), plain(&stored.value))).collect()
        })
    }
}

/// An object without what only the server sets and what only strangers added.
fn plain(value: &Value) -> Value {
    let mut plain = value.clone();
    if let Some(metadata) = plain["metadata"].as_object_mut() {
        for name in ["resourceVersion", "generation"] {
            metadata.remove(name);
        }
        if value["kind"] != "Web" {
            metadata.remove("uid");
        }
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("foreign");
        }
    }
    if let Some(status) = plain.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("foreign");
    }
    plain
}

/// Whether an object says that it is a child of ours, and whose.
fn is_marked(value: &Value) -> bool {
    let metadata = &value["metadata"];
    metadata["labels"]["windlass.dev/host"].is_string()
        && metadata["annotations"]["windlass.dev/primary"].is_string()
}

fn difference(wanted: &Outcome, found: &Outcome) -> String {
    let mut lines = String::new();
    for name in wanted.keys().chain(found.keys().filter(|name| !wanted.contains_key(*name))) {
        let (wanted, found) = (wanted.get(name), found.get(name));
        if wanted != found {
            let show = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
            lines += &format!("{name:?}\n  wanted {}\n  found  {}\n", show(wanted), show(found));
        }
    }
    lines
}

/// Makes an object or gives it another spec; one that is being deleted is left alone.
fn put(api: &Api, name: Name, spec: &Value) {
    api.with(|state| match state.store.get(&name).cloned() {
        None => state.store.create(&name, None, &json!({"spec": spec})),
        Some(live) if live.is_ending() => {}
        Some(_) => {
            let change = |value: &mut Value| value["spec"] = spec.clone();
            let changed = state.store.update(&name, "somebody", Preconditions::default(), change);
            changed.expect("it is there");
        }
    });
}

fn delete(api: &Api, name: Name) {
    // It may not be there.
    let _ = api.with(|state| state.store.delete(&name, Preconditions::default()));
}

/// What a stranger does to the nth child.
///
/// One that nothing would say any more whose it is would be the stranger's own: so labels or owner reference stay. Without its
/// owner reference nobody collects it but a plugin that finalizes.
fn edit(api: &Api, number: usize, change: Edit, finalizes: bool) {
    api.with(|state| {
        let children: Vec<Name> =
            state.store.objects.keys().filter(|(kind, _)| Kind::CHILDREN.contains(kind)).cloned().collect();
        let Some(name) = children.get(number % children.len().max(1)) else { return };
        if change == Edit::Delete {
            let _ = state.store.delete(name, Preconditions::default());
            return;
        }
        let child = &state.store.objects[name].value;
        let (marked, owned) = (is_marked(child), child["metadata"]["ownerReferences"].is_array());
        let field = if name.0 == Kind::Box { ("spec", "size") } else { ("data", "text") };
        let apply = |value: &mut Value| match change {
            Edit::Change => value[field.0][field.1] = "edited".into(),
            Edit::Remove => remove(&mut value[field.0], field.1),
            Edit::Add => value["metadata"]["annotations"]["foreign"] = "yes".into(),
            Edit::Unlabel if owned => remove(&mut value["metadata"], "labels"),
            Edit::Unannotate if owned => remove(&mut value["metadata"], "annotations"),
            Edit::Disown if marked && finalizes => remove(&mut value["metadata"], "ownerReferences"),
            Edit::Unlabel | Edit::Unannotate | Edit::Disown | Edit::Delete => {}
        };
        state.store.update(name, "somebody", Preconditions::default(), apply).expect("it is there");
    });
}

fn remove(from: &mut Value, name: &str) {
    if let Some(fields) = from.as_object_mut() {
        fields.remove(name);
    }
}

/// An object that carries all our marks and that no decision asked for.
fn lookalike(api: &Api, of: &str) {
    api.with(|state| {
        let Some(web) = state.store.get(&(Kind::Web, of.to_owned())).cloned() else { return };
        let name = (Kind::ConfigMap, format!("{of}-lookalike"));
        if web.is_ending() || state.store.get(&name).is_some() {
            return;
        }
        let owner = json!({"apiVersion": "x.dev/v1", "kind": "Web", "name": of, "uid": web.uid(), "controller": true});
        let body = json!({"metadata": {
            "labels": {"windlass.dev/owned-by": "web", "windlass.dev/host": HOST},
            "annotations": {"windlass.dev/primary": format!("{NAMESPACE}/{of}")},
            "ownerReferences": [owner],
        }});
        state.store.create(&name, None, &body);
    });
}

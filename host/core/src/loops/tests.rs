//! Loops and what only looks like one, on a clock of the test's own.

use serde_json::{Value, json};

use super::*;
use crate::decision::{Decision, Verdict};
use crate::guests::LoadId;
use crate::kind::Kind;
use crate::manifest::{ChildRule, Manifest, Unwanted};
use crate::memory::Memory;
use crate::name::{Digest, PluginName};
use crate::plan::{Inputs, Policy, plan};

const SECOND: Duration = Duration::from_secs(1);

/// A plugin with one primary, whose passes write what they plan.
struct World {
    now: Instant,
    loops: Loops,
    serving: Serving,
    generation: i64,
    version: u64,
    children: Vec<Arc<Object>>,
    status: Value,
}

fn gvk(text: &str) -> Gvk {
    text.parse().expect("a kind")
}

fn config(name: &str, data: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": data}})
}

impl World {
    fn new() -> Self {
        let manifest = Manifest {
            name: PluginName::try_new("web").expect("valid"),
            version: "1".into(),
            primary: gvk("x.dev/v1/Web"),
            children: vec![ChildRule { kind: gvk("v1/ConfigMap"), unwanted: Unwanted::Delete }],
            reads: vec![],
            selects: crate::scope::Scope::default(),
            strict: true,
            finalizes: false,
        };
        World {
            now: Instant::now(),
            loops: Loops::default(),
            serving: Serving {
                manifest: Arc::new(manifest),
                digest: Digest::of(b"1"),
                load: LoadId(1),
                settings: None,
                children_max: 100,
            },
            generation: 1,
            version: 10,
            children: vec![],
            status: Value::Null,
        }
    }

    fn key(&self) -> Key {
        Key::new(self.serving.manifest.name.clone(), "ns", "a")
    }

    fn primary(&self) -> Object {
        let primary = json!({"metadata": {"name": "a", "namespace": "ns", "uid": "p", "resourceVersion": "1",
            "generation": self.generation}, "status": self.status});
        Object::parse(&gvk("x.dev/v1/Web"), &primary.to_string()).expect("an object")
    }

    fn paused(&mut self) -> Option<Paused> {
        let cause = Cause::new(&self.serving, &self.primary());
        self.loops.paused(self.now, &self.key(), &cause)
    }

    /// A pass that wants this; everything that it plans is accepted, and seen by the next.
    fn pass(&mut self, children: &[Value], status: Option<Value>) -> Option<Paused> {
        let (key, primary) = (self.key(), self.primary());
        let decision = Decision {
            children: children.iter().map(Value::to_string).collect(),
            status: status.map(|status| status.to_string()),
            ..Decision::default()
        };
        let kind =
            |of: &Gvk| Kind { gvk: of.clone(), plural: "things".into(), namespaced: true, has_status: true };
        let inputs = Inputs {
            key: &key,
            serving: &self.serving,
            host_namespace: "windlass-system",
            policy: &Policy::default(),
            primary_kind: &kind(&gvk("x.dev/v1/Web")),
            primary: &primary,
            children: &self.children,
            kinds: &|of| Some(kind(of)),
            memory: &Memory::default(),
        };
        let plan = plan(&inputs, Verdict::Decision(decision)).expect("allowed");
        let seen = self.children.clone();
        let writes: Vec<_> = plan.steps().iter().map(|step| self.carry_out(&plan, step)).collect();
        let cause = Cause::new(&self.serving, &primary);
        let wrote = Wrote { cause, plan: &plan, writes: &writes, primary: &primary, children: &seen };
        self.loops.wrote(self.now, &wrote)
    }

    fn carry_out(&mut self, plan: &Plan, step: &Step) -> Written {
        self.version += 1;
        let object = match step {
            Step::Create { object, body, .. } => {
                self.store(object, body.clone());
                object
            }
            Step::Update { target, body, .. } => {
                self.store(&target.object, body.clone());
                &target.object
            }
            Step::Delete { target } => {
                self.children.retain(|child| child.meta().uid != target.uid);
                &target.object
            }
            Step::Status { body, .. } => {
                self.status = body["status"].clone();
                &plan.primary().object
            }
            Step::Orphan { .. } | Step::Finalizers { .. } => panic!("not in these tests: {step:?}"),
        };
        Written { object: object.clone(), uid: "u".into(), version: Some(self.version), applied: None }
    }

    fn store(&mut self, object: &ObjectRef, mut body: Value) {
        body["metadata"]["uid"] = object.name.to_string().into();
        body["metadata"]["resourceVersion"] = self.version.to_string().into();
        let stored = Arc::new(Object::parse(&object.gvk, &body.to_string()).expect("an object"));
        self.children.retain(|child| child.meta().name != object.name);
        self.children.push(stored);
    }

    /// Passes with `wants(n)`, one a second; the first pause and how many passes it took.
    fn until_paused(
        &mut self,
        most: usize,
        wants: impl Fn(usize) -> (Vec<Value>, Option<Value>),
    ) -> Option<(usize, Paused)> {
        for n in 1..=most {
            self.now += SECOND;
            let (children, status) = wants(n);
            if let Some(paused) = self.pass(&children, status) {
                return Some((n, paused));
            }
        }
        None
    }
}

#[test]
fn a_decision_that_flips_is_paused_and_the_field_is_named() {
    let mut world = World::new();
    let (passes, paused) =
        world.until_paused(100, |n| (vec![config("c", &(n % 2).to_string())], None)).expect("a loop");
    assert_eq!((passes, paused.left), (31, 60 * SECOND));
    assert_eq!(
        paused.refusal.to_string(),
        "E250 WriteLoop: v1/ConfigMap ns/c was written 31 times within 60 s, /data/k differing each time: \
         another writer disagrees, or the decision never settles; paused for 60 s"
    );
    world.now += 59 * SECOND;
    assert_eq!(world.paused().map(|p| (p.left, p.refusal)), Some((SECOND, paused.refusal)));
    world.now += SECOND;
    assert_eq!(world.paused(), None);
}

#[test]
fn thirty_writes_a_minute_are_no_loop() {
    let mut world = World::new();
    for n in 0..300 {
        world.now += 2 * SECOND;
        assert_eq!(world.pass(&[config("c", &n.to_string())], None), None, "write {n}");
    }
}

#[test]
fn pauses_grow_while_the_loop_goes_on_and_start_again_after_calm() {
    let mut world = World::new();
    let flips = |n: usize| (vec![config("c", &n.to_string())], None);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let (_, paused) = world.until_paused(100, flips).expect("a loop");
        pauses.push(paused.left.as_secs() / 60);
        world.now += paused.left;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    world.now += 600 * SECOND;
    assert_eq!(world.until_paused(100, flips).expect("a loop").1.left, 60 * SECOND);
}

#[test]
fn a_cure_ends_the_pause() {
    let cures: [fn(&mut World); 3] = [
        |world| world.generation += 1,
        |world| world.serving.digest = Digest::of(b"2"),
        |world| world.serving.settings = Some("{}".into()),
    ];
    for cure in cures {
        let mut world = World::new();
        world.until_paused(100, |n| (vec![config("c", &n.to_string())], None)).expect("a loop");
        assert!(world.paused().is_some());
        cure(&mut world);
        assert_eq!(world.paused(), None);
    }
}

#[test]
fn ever_new_names_are_a_loop_too() {
    let mut world = World::new();
    let (passes, paused) =
        world.until_paused(100, |n| (vec![config(&format!("c{n}"), "v")], None)).expect("a loop");
    assert_eq!(passes, 31);
    assert!(
        paused.refusal.message.starts_with("objects of v1/ConfigMap were made or removed 31 times"),
        "{paused:?}"
    );
}

#[test]
fn a_hundred_children_made_at_once_are_no_loop() {
    let mut world = World::new();
    let children: Vec<_> = (0..100).map(|n| config(&format!("c{n}"), "v")).collect();
    assert_eq!(world.pass(&children, None), None);
    assert_eq!(world.pass(&[], None), None);
}

#[test]
fn a_status_with_the_time_in_it_is_a_loop_and_one_that_follows_its_children_is_none() {
    let mut world = World::new();
    let (passes, paused) = world.until_paused(100, |n| (vec![], Some(json!({"at": n})))).expect("a loop");
    assert!((31..=32).contains(&passes), "{passes}");
    assert!(paused.refusal.message.contains("x.dev/v1/Web ns/a was written"), "{paused:?}");
    assert!(paused.refusal.message.contains("/status/at"), "{paused:?}");

    let mut world = World::new();
    world.pass(&[config("c", "v")], None);
    for n in 0..200 {
        // A rollout: the child's own status moves on, and the primary's counts it.
        let mut child = world.children[0].value();
        child["metadata"]["resourceVersion"] = (1000 + n).to_string().into();
        world.children =
            vec![Arc::new(Object::parse(&gvk("v1/ConfigMap"), &child.to_string()).expect("an object"))];
        world.now += SECOND / 10;
        assert_eq!(world.pass(&[config("c", "v")], Some(json!({"ready": n}))), None, "step {n}");
    }
}

#[test]
fn what_is_long_ago_is_forgotten() {
    let mut world = World::new();
    world.pass(&[config("c", "v")], None);
    assert_eq!(world.loops.len(), 1);
    world.now += 120 * SECOND;
    world.loops.sweep(world.now);
    assert!(world.loops.is_empty());
    world.until_paused(100, |n| (vec![config("c", &n.to_string())], None)).expect("a loop");
    world.loops.forget(&world.key());
    assert!(world.loops.is_empty());
}

//! What a pass waits for, with guests that answer when they are told to.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use serde_json::json;
use windlass_core::breaker::Rules;
use windlass_core::decision::{Decision, Verdict};
use windlass_core::guests::{Call, Called, Compile, Guests, Load, Pending, Texts, Tier};
use windlass_core::key::{Key, ObjectRef};
use windlass_core::limits::Limits;
use windlass_core::manifest::Manifest;
use windlass_core::object::Object;
use windlass_core::plan::Policy;
use windlass_core::reads::Query;
use windlass_plugin::{LimitMaxima, Loader, Scratch, Setup, Source};

use super::*;
use crate::observe::Observed;

/// Waits before each call until it is let go, and answers with what it is then given.
struct Gated {
    gate: Mutex<Receiver<&'static str>>,
    read_clock: bool,
    /// Whether first calls are tasks, which wait for nothing and all have the same answer.
    tasks: bool,
}

struct Nothing;

impl Guests for Gated {
    fn load(&self, load: &Load) -> Result<Manifest, Refusal> {
        Ok(Manifest {
            name: load.plugin.clone(),
            version: "1.0.0".into(),
            primary: "example.com/v1/Probe".parse().expect("a kind"),
            selects: windlass_core::scope::Scope::default(),
            children: Vec::new(),
            reads: Vec::new(),
            strict: true,
            finalizes: false,
        })
    }

    fn call(&self, _: &Call<'_>, _: Arc<dyn Texts>) -> Called {
        // Gone: the test is over.
        let status = self.gate.lock().expect("nobody panics").recv().unwrap_or("{}");
        let result = Ok(Verdict::Decision(decision(status)));
        let read_clock = self.read_clock;
        Called {
            result,
            read_clock,
            ..Called::failed(CallError::NotServing(PluginName::try_new("x").expect("valid")))
        }
    }

    fn begin(&self, _: &Call<'_>, _: &Arc<dyn Texts>) -> Option<Pending> {
        let read_clock = self.read_clock;
        let called = Called {
            result: Ok(Verdict::Decision(decision(r#"{"n":1}"#))),
            read_clock,
            ..Called::failed(CallError::NotServing(PluginName::try_new("x").expect("valid")))
        };
        self.tasks.then(|| Box::pin(std::future::ready(Some(called))) as Pending)
    }

    fn unload(&self, _: LoadId) {}
}

fn decision(status: &str) -> Decision {
    Decision { status: Some(status.into()), ..Decision::default() }
}

impl Compile for Nothing {
    fn compile(&self, _: &[u8], _: &Limits, into: &Path) -> Result<Tier, Refusal> {
        std::fs::write(into, "code").expect("written");
        Ok(Tier::Optimised)
    }
}

impl Reader for Nothing {
    fn get(&self, _: &ObjectRef) -> Result<Option<Arc<Object>>, Refusal> {
        Ok(None)
    }

    fn list(&self, _: &Query) -> Result<Vec<Arc<Object>>, Refusal> {
        Ok(Vec::new())
    }
}

/// A catalogue in which every call of `probe` is asked twice, and what lets calls go.
fn catalogue(name: &PluginName, read_clock: bool) -> (Catalogue, SyncSender<&'static str>, Arc<Observed>) {
    catalogue_of(name, read_clock, false)
}

fn catalogue_of(
    name: &PluginName,
    read_clock: bool,
    tasks: bool,
) -> (Catalogue, SyncSender<&'static str>, Arc<Observed>) {
    let (go, gate) = sync_channel(8);
    let loader = Loader::new(Setup {
        guests: Arc::new(Gated { gate: Mutex::new(gate), read_clock, tasks }),
        compile: Arc::new(Nothing),
        artefacts: Arc::new(Scratch::new().expect("a directory")),
        defaults: Limits::default(),
        maxima: LimitMaxima::default(),
        policy: Policy::default(),
    });
    let source = Source::local(name.clone(), b"component".as_slice().into(), None);
    let plugin = loader.load(&source, name).expect("loads");
    let (refused, _) = tokio::sync::mpsc::channel(1);
    let observed = Arc::new(Observed::new(refused, Rules::default()));
    let told = Told::new(observed.clone(), Some(NonZeroU32::MIN));
    let catalogue = Catalogue::new(observed.quarantine.clone(), Arc::new(told));
    catalogue.put(name.clone(), Arc::new(plugin));
    (catalogue, go, observed)
}

fn snapshot() -> Snapshot {
    let text = json!({"metadata": {"name": "a", "namespace": "ns", "uid": "u"}}).to_string();
    let primary = Object::parse(&"example.com/v1/Probe".parse().expect("a kind"), &text).expect("an object");
    Snapshot { primary: Arc::new(primary), children: Vec::new(), settings: None }
}

fn pass(name: &PluginName) -> Pass {
    Pass { key: Key::new(name.clone(), "ns", "a"), number: 1, finalize: false }
}

#[tokio::test]
async fn a_pass_does_not_wait_for_the_second_call_of_a_sample() {
    let name = PluginName::try_new("probe").expect("valid");
    let (catalogue, go, _) = catalogue(&name, false);
    go.send("{}").expect("the first call goes");
    // The second never does while this waits.
    let decided = catalogue.decide(pass(&name), snapshot(), Arc::new(Nothing));
    let answer = tokio::time::timeout(Duration::from_secs(20), decided).await;
    drop(go);
    assert_eq!(answer, Ok(Ok(Answer { verdict: Verdict::Decision(decision("{}")), repeatable: true })));
}

#[tokio::test]
async fn what_answers_the_same_question_in_two_ways_is_never_skipped_again() {
    let name = PluginName::try_new("probe").expect("valid");
    let (catalogue, go, _) = catalogue(&name, false);
    for (second, may_skip) in [(r#"{"n":1}"#, true), (r#"{"n":2}"#, false)] {
        go.send(r#"{"n":1}"#).expect("the first call goes");
        catalogue.decide(pass(&name), snapshot(), Arc::new(Nothing)).await.expect("decided");
        assert!(catalogue.may_skip(&name), "nobody knows yet");
        go.send(second).expect("the second call goes");
        let seen = async {
            while catalogue.may_skip(&name) != may_skip {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), seen).await.expect("it is known in time");
    }
    catalogue.remove(&name);
    assert!(catalogue.doubted.all().is_empty());
}

/// A runtime whose only thread that may block waits until what is given back with it is dropped.
fn without_threads() -> (tokio::runtime::Runtime, std::sync::mpsc::Sender<()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(1).build().expect("a runtime");
    let (free, taken) = std::sync::mpsc::channel();
    runtime.spawn_blocking(move || taken.recv());
    (runtime, free)
}

#[test]
fn a_decision_needs_no_thread_that_blocks() {
    let (runtime, _free) = without_threads();
    runtime.block_on(async {
        let name = PluginName::try_new("probe").expect("valid");
        let (catalogue, _go, _) = catalogue_of(&name, false, true);
        let decided = catalogue.decide(pass(&name), snapshot(), Arc::new(Nothing));
        let answer = tokio::time::timeout(Duration::from_secs(20), decided).await;
        let verdict = Verdict::Decision(decision(r#"{"n":1}"#));
        assert_eq!(answer, Ok(Ok(Answer { verdict, repeatable: true })));
    });
}

#[tokio::test]
async fn the_second_call_of_a_sample_is_judged_when_the_first_was_a_task() {
    let name = PluginName::try_new("probe").expect("valid");
    let (catalogue, go, observed) = catalogue_of(&name, false, true);
    for (second, may_skip) in [(r#"{"n":1}"#, true), (r#"{"n":2}"#, false)] {
        catalogue.decide(pass(&name), snapshot(), Arc::new(Nothing)).await.expect("decided");
        assert!(catalogue.may_skip(&name), "nobody knows yet");
        go.send(second).expect("the second call goes");
        let seen = async {
            while catalogue.may_skip(&name) != may_skip {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), seen).await.expect("it is known in time");
    }
    assert!(observed.metrics.text().contains("W310"));
}

#[tokio::test]
async fn what_goes_by_the_time_is_not_repeatable_and_says_nothing_of_other_decisions() {
    let name = PluginName::try_new("probe").expect("valid");
    let (catalogue, go, observed) = catalogue(&name, true);
    for status in [r#"{"n":1}"#, r#"{"n":2}"#] {
        go.send(status).expect("a call goes");
    }
    let answer = catalogue.decide(pass(&name), snapshot(), Arc::new(Nothing)).await.expect("decided");
    assert!(!answer.repeatable);
    // It is warned of when the second call has ended.
    let warned = async {
        while !observed.metrics.text().contains("W310") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), warned).await.expect("it is known in time");
    assert!(catalogue.may_skip(&name));
}

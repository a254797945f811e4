//! Real components: what the SDK and the compiler make of the workspace's plugins.
//!
//! They are built when this runs, so it needs a minute the first time.

mod support;

use std::sync::Arc;

use serde_json::{Value, json};
use support::{Objects, name, object, pass, snapshot, source_of, tight};
use windlass_core::code::{Code, Refusal};
use windlass_core::decision::{Decision, Fault, Verdict};
use windlass_core::key::ObjectRef;
use windlass_core::limits::Limits;
use windlass_core::ports::CallError;
use windlass_core::snapshot::Snapshot;
use windlass_plugin::{Loader, Plugin, Source};
use windlass_testbed::components::component;

const WIDGET: &str = "fixtures.windlass.dev/v1alpha1/Widget";

fn bytes(package: &str, example: Option<&str>) -> Vec<u8> {
    std::fs::read(component(package, example).expect("it builds")).expect("it was built")
}

fn fixture(loader: &Loader, example: &str, plugin: &str) -> Result<Plugin, Refusal> {
    let source = Source {
        limits: loader.limits().clone(),
        ..source_of(plugin, &bytes("windlass-fixtures", Some(example)), None)
    };
    loader.load(&source, &source.plugin)
}

fn widget(spec: &Value) -> Snapshot {
    let metadata = json!({"name": "x", "namespace": "ns", "uid": "u-1", "resourceVersion": "1"});
    snapshot(WIDGET, &json!({"metadata": metadata, "spec": spec}))
}

fn decide(plugin: &Plugin, spec: &Value) -> Result<Decision, CallError> {
    match plugin.decide(
        &pass(plugin.manifest().name.as_str()),
        &widget(spec),
        Arc::new(Objects::default()),
    )? {
        Verdict::Decision(decision) => Ok(decision),
        Verdict::Finalized => panic!("nobody asked for that"),
    }
}

#[test]
fn webapp_loads_and_decides_what_should_exist() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let source =
        Source { limits: loader.limits().clone(), ..source_of("webapp", &bytes("webapp", None), None) };
    let plugin = loader.load(&source, &name("webapp")).expect("it loads");
    let primary = json!({
        "metadata": {"name": "shop", "namespace": "ns", "uid": "u-1", "resourceVersion": "1", "generation": 1},
        "spec": {"image": "example.com/shop:1", "replicas": 2, "port": 8080},
    });
    let snapshot = snapshot(&plugin.manifest().primary.to_string(), &primary);
    let verdict = plugin.decide(&pass("webapp"), &snapshot, Arc::new(Objects::default()));
    let Ok(Verdict::Decision(decision)) = verdict else {
        panic!("{verdict:?}");
    };
    let kinds: Vec<Value> = decision
        .children
        .iter()
        .map(|child| serde_json::from_str::<Value>(child).expect("json")["kind"].clone())
        .collect();
    assert!(kinds.contains(&json!("Deployment")), "{kinds:?}");
}

#[test]
fn each_broken_fixture_gets_its_code() {
    let patient = Loader::in_process(Limits::default()).expect("an engine");
    let hurried = Loader::in_process(tight()).expect("an engine");
    for (example, plugin, code, says) in [
        ("needs_sockets", "needs-sockets", Code::ForbiddenImport, "wasi:sockets/"),
        ("bad_manifest", "bad-manifest", Code::BadManifest, "Bad-Manifest"),
        (
            "traps_at_start",
            "traps-at-start",
            Code::InitTrap,
            "this plugin panics when it is asked what it is",
        ),
        ("loops_at_start", "loops-at-start", Code::InitTimeout, "s of CPU time"),
        ("greeter", "somebody", Code::NameMismatch, "the manifest's name is greeter"),
    ] {
        let loader = if code == Code::InitTimeout { &hurried } else { &patient };
        let refusal = fixture(loader, example, plugin).expect_err(example);
        assert_eq!(refusal.code, code, "{example}: {refusal}");
        assert!(refusal.message.contains(says), "{example}: {refusal}");
    }
}

#[test]
fn each_fault_of_a_fixture_gets_its_code_and_the_next_call_works() {
    // Who is to meet another limit must not meet that of time before: megabytes are dear on a busy machine.
    let patient = Loader::in_process(Limits::default()).expect("an engine");
    let hurried = Loader::in_process(tight()).expect("an engine");
    for (example, mode, code, says) in [
        ("traps", "trap", Code::Trap, "this plugin panics because spec.mode says so"),
        ("traps", "index", Code::Trap, "index out of bounds: the len is 3 but the index is 7"),
        ("traps", "divide", Code::Trap, "attempt to divide by zero"),
        ("traps", "unreachable", Code::Trap, "unreachable"),
        ("traps", "memory", Code::Trap, "out of bounds memory access"),
        ("traps", "abort", Code::Trap, "wasm trap"),
        ("traps", "exit", Code::Trap, "the plugin ended itself"),
        ("traps", "overflow", Code::StackOverflow, "the stack"),
        ("loops", "tight", Code::Timeout, "limits 100ms"),
        ("loops", "copy", Code::Timeout, "limits 100ms"),
        ("loops", "allocate", Code::Timeout, "limits 100ms"),
        ("hungry", "pieces", Code::MemoryLimit, "limit 65536 KiB"),
        ("hungry", "small", Code::MemoryLimit, "limit 65536 KiB"),
        ("hungry", "one", Code::MemoryLimit, "limit 65536 KiB"),
        ("nonsense", "too-large", Code::OutputTooLarge, "4096 KiB"),
        ("nonsense", "too-large-together", Code::OutputTooLarge, "4096 KiB"),
        ("nonsense", "very-many-children", Code::OutputTooLarge, "4096 KiB"),
        ("reads_undeclared", "", Code::ReadNotAllowed, "v1/Secret"),
        ("reads_undeclared", "list", Code::ReadNotAllowed, "v1/Secret"),
    ] {
        let loader = if code == Code::Timeout { &hurried } else { &patient };
        let plugin = fixture(loader, example, &example.replace('_', "-")).expect(example);
        match decide(&plugin, &json!({"mode": mode})) {
            Err(CallError::Refused(refusal)) => {
                assert_eq!(refusal.code, code, "{example} {mode}: {refusal}");
                assert!(refusal.message.contains(says), "{example} {mode}: {refusal}");
            }
            other => panic!("{example} {mode}: {other:?}"),
        }
        decide(&plugin, &json!({"mode": "calm"})).expect(example);
    }
}

#[test]
fn what_the_sdk_says_of_scopes_arrives() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let plugin = fixture(&loader, "scoped", "scoped").expect("loads");
    let manifest = plugin.manifest();
    assert_eq!(manifest.selects.to_string(), "labels scoped; namespaces scoped-one, scoped-two");
    let reads: Vec<String> =
        manifest.reads.iter().map(|read| format!("{}: {}", read.kind, read.scope)).collect();
    assert_eq!(
        reads,
        [
            "v1/Secret: labels tier=web; namespaces scoped-one; fields type=Opaque; metadata only",
            "v1/ConfigMap: labels tier; namespaces scoped-one, scoped-two"
        ]
    );
    let plugin = fixture(&loader, "unselectable", "unselectable").expect("loads: only the API server knows");
    assert_eq!(plugin.manifest().reads[0].scope.to_string(), "fields data.tier=web");
}

#[test]
fn a_flood_of_output_does_not_stop_a_decision() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let plugin = fixture(&loader, "noisy", "noisy").expect("loads");
    assert_eq!(decide(&plugin, &json!({})).expect("decides").children.len(), 1);
}

#[test]
fn a_plugins_own_fault_is_its_answer_and_not_a_refusal() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let plugin = fixture(&loader, "fails", "fails").expect("loads");
    let fault = |mode: &str| match decide(&plugin, &json!({"mode": mode})) {
        Err(CallError::Fault(fault)) => fault,
        other => panic!("{other:?}"),
    };
    assert_eq!(fault("transient"), Fault::Transient("the moon is in the wrong phase".to_owned()));
    let Fault::Permanent(long) = fault("long") else {
        panic!("permanent");
    };
    assert!(long.len() <= 1024 + '…'.len_utf8());
    let counts = plugin.counts().read();
    assert_eq!((counts.calls, counts.faults, counts.traps), (2, 2, 0));
}

#[test]
fn randomness_is_a_function_of_the_uid_and_a_look_at_the_clock_is_told() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let plugin = fixture(&loader, "restless", "restless").expect("loads");
    let answer = |mode: &str| {
        let snapshot = widget(&json!({"mode": mode}));
        plugin.answer(&pass("restless"), &snapshot, Arc::new(Objects::default())).expect("decides")
    };
    let random = answer("random");
    assert_eq!(random, answer("random"));
    assert!(random.repeatable);
    assert!(!answer("clock").repeatable);
}

#[test]
fn a_greeter_reads_what_its_spec_names_and_its_settings() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let component = bytes("windlass-fixtures", Some("greeter"));
    let source = Source {
        limits: loader.limits().clone(),
        ..source_of("greeter", &component, Some(r#"{"text":"moin"}"#))
    };
    let plugin = loader.load(&source, &name("greeter")).expect("loads");
    let config_map = "v1/ConfigMap";
    let read = object(
        config_map,
        &json!({"metadata": {"name": "other", "namespace": "ns", "uid": "u-2"}, "data": {"k": "copied"}}),
    );
    let of =
        ObjectRef { gvk: config_map.parse().expect("valid"), namespace: "ns".into(), name: "other".into() };
    let snapshot = Snapshot { settings: plugin.serving().settings, ..widget(&json!({"source": "other"})) };
    let reader = Arc::new(Objects([(of, read)].into()));
    let verdict = plugin.decide(&pass("greeter"), &snapshot, reader).expect("decides");
    let text = format!("{verdict:?}");
    assert!(text.contains("moin") && text.contains("copied"), "{text}");
}

#[test]
fn a_clean_up_is_asked_for_with_finalize() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let plugin = fixture(&loader, "finalizes", "finalizes").expect("loads");
    assert!(plugin.manifest().finalizes);
    let deleting = windlass_core::ports::Pass { finalize: true, ..pass("finalizes") };
    let verdict = plugin.decide(&deleting, &widget(&json!({})), Arc::new(Objects::default()));
    assert_eq!(verdict, Ok(Verdict::Finalized));
}

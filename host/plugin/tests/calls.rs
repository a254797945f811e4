//! What a guest does while it decides, and what it gets.

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::{Guest, NOTHING, Objects, answer, any_snapshot, load, pass, refused, tight};
use windlass_core::code::{Code, Refusal};
use windlass_core::decision::{Decision, Verdict};
use windlass_core::guests::{Call, Called, Guests, Load, LoadId, Text, Texts};
use windlass_core::key::ObjectRef;
use windlass_core::limits::Limits;
use windlass_core::manifest::Manifest;
use windlass_core::plan::Policy;
use windlass_core::reads::Query;
use windlass_plugin::{CompileHere, Courtesy, Engine, LimitMaxima, Loader, Plugin, Scratch, Setup};
use windlass_worker::frame::Buffer;
use windlass_worker::message::Said;

fn plugin(loader: &Loader, guest: &Guest<'_>) -> Plugin {
    load(loader, &guest.build()).expect("a good component")
}

fn reconciling(loader: &Loader, body: &str) -> Plugin {
    plugin(loader, &Guest { reconcile: body, ..Guest::default() })
}

#[test]
fn each_fault_has_its_code_and_the_next_call_is_not_touched_by_it() {
    let patient = Loader::in_process(Limits::default()).expect("an engine");
    let hurried = Loader::in_process(tight()).expect("an engine");
    let good = reconciling(&patient, NOTHING);
    let recursion = "(call $reconcile (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5) (local.get 6))";
    let copying =
        "(loop (memory.copy (i32.const 8192) (i32.const 70000) (i32.const 50000)) (br 0)) unreachable";
    for (what, body, code, says) in [
        ("unreachable", "unreachable", Code::Trap, "wasm trap: wasm `unreachable` instruction executed; at "),
        ("division", "(i32.div_u (i32.const 1) (i32.const 0))", Code::Trap, "integer divide by zero"),
        ("bounds", "(i32.load (i32.const -4))", Code::Trap, "out of bounds memory access"),
        ("tight loop", "(loop (br 0)) unreachable", Code::Timeout, "s of CPU time"),
        ("copying", copying, Code::Timeout, "s of CPU time"),
        ("recursion", recursion, Code::StackOverflow, "limit 512 KiB"),
        (
            "one bite",
            "(drop (memory.grow (i32.const 1024))) unreachable",
            Code::MemoryLimit,
            "limit 65536 KiB",
        ),
        (
            "many bites",
            "(loop (drop (memory.grow (i32.const 1))) (br 0)) unreachable",
            Code::MemoryLimit,
            "asked for 64 KiB on top of 65536 KiB",
        ),
        ("beyond 32 bits", "(drop (memory.grow (i32.const -1))) unreachable", Code::MemoryLimit, ""),
        ("pointer", "i32.const -4", Code::BadAbiValue, ""),
        ("unaligned", "i32.const 4097", Code::BadAbiValue, ""),
        ("tag", &answer(&[7]), Code::BadAbiValue, ""),
        ("tag of a fault", &answer(&[1, 9]), Code::BadAbiValue, ""),
        ("list out of bounds", &answer(&[0, 0, 1_000_000]), Code::BadAbiValue, ""),
        ("length overflow", &answer(&[0, 8, -1]), Code::BadAbiValue, ""),
        ("string out of bounds", &answer(&[1, 0, 100_000, 100_000]), Code::BadAbiValue, ""),
    ] {
        let loader = if code == Code::Timeout { &hurried } else { &patient };
        let refusal = refused(&reconciling(loader, body), &any_snapshot());
        assert_eq!(refusal.code, code, "{what}: {refusal}");
        assert!(refusal.message.contains(says), "{what}: {refusal}");
        let verdict = good.decide(&pass("probe"), &any_snapshot(), Arc::new(Objects::default()));
        assert_eq!(verdict, Ok(Verdict::Decision(Decision::default())), "after {what}");
    }
}

#[test]
fn text_that_is_no_utf8_is_a_bad_value() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let guest = Guest {
        fields: r#"(data (i32.const 8192) "\ff\fe\c0")"#,
        reconcile: &answer(&[1, 0, 8192, 3]),
        ..Guest::default()
    };
    assert_eq!(refused(&plugin(&loader, &guest), &any_snapshot()).code, Code::BadAbiValue);
}

#[test]
fn a_snapshot_that_is_too_large_is_not_handed_over() {
    let loader = Loader::in_process(Limits { snapshot_bytes: 50, ..Limits::default() }).expect("an engine");
    let refusal = refused(&reconciling(&loader, NOTHING), &any_snapshot());
    assert_eq!(refusal.code, Code::InputTooLarge);
}

#[test]
fn nothing_is_left_of_an_earlier_call() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    // Counts calls in its memory and asks to be called again after that many milliseconds.
    let guest = Guest {
        fields: "(global $calls (mut i32) (i32.const 0))",
        reconcile: "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
            (i32.store (i32.const 8192) (i32.add (i32.load (i32.const 8192)) (i32.const 1)))
            (i32.store (i32.const 4128) (i32.const 1))
            (i32.store (i32.const 4132) (i32.add (global.get $calls) (i32.load (i32.const 8192))))
            i32.const 4096",
        ..Guest::default()
    };
    let plugin = plugin(&loader, &guest);
    for _ in 0..3 {
        let verdict = plugin.decide(&pass("probe"), &any_snapshot(), Arc::new(Objects::default()));
        let Ok(Verdict::Decision(decision)) = verdict else {
            panic!("{verdict:?}");
        };
        assert_eq!(decision.requeue_after, Some(Duration::from_millis(2)));
    }
}

#[test]
fn a_deadline_is_kept_and_other_calls_go_on() {
    let loader = Loader::in_process(tight()).expect("an engine");
    let looping = reconciling(&loader, "(loop (br 0)) unreachable");
    let good = reconciling(&loader, NOTHING);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let looping = scope.spawn(|| refused(&looping, &any_snapshot()).code);
        for _ in 0..100 {
            good.decide(&pass("probe"), &any_snapshot(), Arc::new(Objects::default())).expect("decides");
        }
        assert_eq!(looping.join().expect("no panic"), Code::Timeout);
    });
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let counts = looping.counts().read();
    assert_eq!((counts.calls, counts.traps, counts.faults), (1, 1, 0));
    assert_eq!(good.counts().read().calls, 100);
    assert!(counts.decision_seconds_last >= 0.1, "{counts:?}");
}

#[test]
fn of_megabytes_of_log_only_the_limit_goes_to_the_host() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    // Twenty thousand lines of 5 bytes, and the last forty of 65,000.
    let memory = format!(
        "(import \"windlass:operator/log@{}\" \"write\" (func $log (param i32 i32 i32)))
        (memory (export \"memory\") 2)",
        version()
    );
    let guest = Guest {
        memory: &memory,
        reconcile: "(local $n i32)
            (loop $on
                (call $log (i32.const 3) (i32.const 256)
                    (select (i32.const 65000) (i32.const 5) (i32.ge_u (local.get $n) (i32.const 19960))))
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $on (i32.lt_u (local.get $n) (i32.const 20000))))
            i32.const 4096",
        ..Guest::default()
    };
    let (plugin, limit) = (plugin(&loader, &guest), Limits::default().log_bytes);
    let mut frame = Buffer::default();
    plugin.ask(&pass("probe"), &any_snapshot(), Arc::new(Objects::default()), false, |asked| {
        let called = asked.called;
        assert!(called.result.is_ok(), "{called:?}");
        assert_eq!(called.used.log_bytes, 40 * 65_000 + 19_960 * 5, "all of it is counted");
        assert_eq!(called.dropped_bytes + kept(&called), called.used.log_bytes);
        frame.encode(&Said::Called(&called), 64 << 20).expect("a frame");
    });
    // Beside the text each line has its level and length.
    assert!(frame.body().len() < 2 * limit, "{} bytes for a limit of {limit}", frame.body().len());
}

/// The version of the contract that guests of these tests are built for.
fn version() -> String {
    let wit = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit/windlass.wit");
    let text = std::fs::read_to_string(wit).expect("the contract");
    let package = text.lines().find_map(|line| line.strip_prefix("package windlass:operator@"));
    package.expect("a package").trim_end_matches(';').to_owned()
}

/// Bytes of the lines that are handed on.
fn kept(called: &Called) -> u64 {
    called.lines.iter().map(|line| line.text.len() as u64).sum()
}

/// On a busy machine wall time, twice that, must not be over before the call has taken long.
fn a_second() -> Limits {
    Limits { cpu: Duration::from_secs(1), ..Limits::default() }
}

fn courteous(step_back: fn(Instant, Duration)) -> Engine {
    let engine = Engine::new(&LimitMaxima::default().largest(&a_second())).expect("an engine");
    engine.courteous(Courtesy { after: Courtesy::AFTER, step_back }).expect("a thread")
}

fn loading(guests: Arc<dyn Guests>) -> Loader {
    Loader::new(Setup {
        guests,
        compile: Arc::new(CompileHere),
        artefacts: Arc::new(Scratch::new().expect("a directory")),
        defaults: a_second(),
        maxima: LimitMaxima::default(),
        policy: Policy::default(),
    })
}

#[test]
fn a_guest_that_loops_steps_back_and_one_that_does_not_never_does() {
    static STEPPED_BACK: AtomicU32 = AtomicU32::new(0);
    let step_back = |until: Instant, used: Duration| {
        assert!(until > Instant::now() && used >= Courtesy::AFTER, "{used:?}");
        STEPPED_BACK.fetch_add(1, Ordering::Relaxed);
    };
    let loader = loading(Arc::new(courteous(step_back)));
    let good = reconciling(&loader, NOTHING);
    let bad = reconciling(&loader, "(loop (br 0)) unreachable");
    let asked = || good.decide(&pass("probe"), &any_snapshot(), Arc::new(Objects::default()));
    asked().expect("decides");
    assert_eq!(STEPPED_BACK.load(Ordering::Relaxed), 0);
    assert_eq!(refused(&bad, &any_snapshot()).code, Code::Timeout);
    assert_eq!(STEPPED_BACK.load(Ordering::Relaxed), 1, "once a call");
    asked().expect("decides");
    assert_eq!(STEPPED_BACK.load(Ordering::Relaxed), 1);
}

/// An engine that says on which thread the last of each call was dropped.
struct Watched {
    engine: Engine,
    dropped_on: Arc<Mutex<Vec<String>>>,
}

/// What a call reads from; the last of it to go.
struct Last {
    texts: Arc<dyn Texts>,
    dropped_on: Arc<Mutex<Vec<String>>>,
}

impl Drop for Last {
    fn drop(&mut self) {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        self.dropped_on.lock().expect("sound").push(name);
    }
}

impl Texts for Last {
    fn get(&self, of: &ObjectRef) -> Result<Option<Text>, Refusal> {
        self.texts.get(of)
    }

    fn list(&self, query: &Query) -> Result<Vec<Text>, Refusal> {
        self.texts.list(query)
    }
}

impl Guests for Watched {
    fn load(&self, load: &Load) -> Result<Manifest, Refusal> {
        self.engine.load(load)
    }

    fn call(&self, call: &Call<'_>, texts: Arc<dyn Texts>) -> Called {
        self.engine.call(call, Arc::new(Last { texts, dropped_on: Arc::clone(&self.dropped_on) }))
    }

    fn unload(&self, id: LoadId) {
        self.engine.unload(id);
    }
}

#[test]
fn what_is_left_of_a_call_that_stepped_back_is_dropped_at_normal_priority() {
    let dropped_on = Arc::<Mutex<Vec<String>>>::default();
    let engine = courteous(|_, _| {});
    let loader = loading(Arc::new(Watched { engine, dropped_on: Arc::clone(&dropped_on) }));
    let good = reconciling(&loader, NOTHING);
    let bad = reconciling(&loader, "(loop (br 0)) unreachable");
    good.decide(&pass("probe"), &any_snapshot(), Arc::new(Objects::default())).expect("decides");
    assert_eq!(refused(&bad, &any_snapshot()).code, Code::Timeout);
    let here = std::thread::current().name().expect("a test").to_owned();
    assert_eq!(*dropped_on.lock().expect("sound"), [here, "teardown".to_owned()]);
}

#[test]
fn a_named_function_is_named_in_the_trap() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let guest = Guest {
        fields: "(func $deep_inside unreachable) (func $outside (call $deep_inside))",
        reconcile: "(call $outside) i32.const 4096",
        ..Guest::default()
    };
    let refusal = refused(&plugin(&loader, &guest), &any_snapshot());
    assert!(refusal.message.contains("; at deep_inside < outside < "), "{refusal}");
}

#[test]
fn too_many_memories_are_a_memory_limit() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let more = "(memory 0)".repeat(70);
    let guest = Guest { fields: &more, ..Guest::default() };
    let refusal = load(&loader, &guest.build()).expect_err("70 memories");
    assert_eq!(refusal.code, Code::MemoryLimit, "{refusal}");
}

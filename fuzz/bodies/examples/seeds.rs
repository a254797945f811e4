//! Writes the seeds of the corpus that are no text: run it again when a format has changed.
//!
//! `cargo run -p windlass-fuzz --example seeds`

use std::path::Path;
use std::time::Duration;

use windlass_core::code::{Code, Refusal};
use windlass_core::decision::{Decision, Fault, Notice, Severity, Verdict};
use windlass_core::guests::{Called, Level, Line};
use windlass_core::key::ObjectRef;
use windlass_core::manifest::{ChildRule, Manifest, ReadRule, Unwanted};
use windlass_core::name::PluginName;
use windlass_core::ports::CallError;
use windlass_core::reads::Query;
use windlass_fuzz::Mutator;
use windlass_worker::frame::Buffer;
use windlass_worker::message::{Ask, FRAME_MAX_BYTES, Said};

const COMPONENTS: &[(&str, &str)] = &[
    ("empty", "(component)"),
    ("core-module", "(module (func (export \"f\")))"),
    ("memory", "(component (core module (memory (export \"m\") 1) (data (i32.const 0) \"x\")))"),
    ("import", "(component (import \"windlass:operator/log@0.1.0\" (instance)))"),
    ("sockets", "(component (import \"wasi:sockets/tcp@0.2.0\" (instance)))"),
    ("other-world", "(component (import \"windlass:operator/cache@9.0.0\" (instance)))"),
    (
        "lifted",
        "(component (core module $m (func (export \"f\") (result i32) i32.const 1))
           (core instance $i (instantiate $m)) (func $f (result u32) (canon lift (core func $i \"f\")))
           (export \"reconcile\" (func $f)))",
    ),
    ("nested", "(component (component (component (component (core module)))))"),
    (
        "types",
        "(component (type (record (field \"a\" string) (field \"b\" (list u8)))) (type (variant (case \"x\") (case \"y\" u32))))",
    ),
];

fn main() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    let write = |folder: &str, name: &str, bytes: &[u8]| {
        std::fs::write(corpus.join(folder).join(name), bytes).expect("the folder is there");
    };
    for (name, text) in COMPONENTS {
        write("load", name, &wat::parse_str(text).expect(name));
    }
    write("load", "text", COMPONENTS[0].1.as_bytes());
    write("load", "native", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for seed in 0..6 {
        let mut mutator = Mutator::new(seed);
        let bytes: Vec<u8> = (0..200).map(|_| mutator.random() as u8).collect();
        write("plan", &format!("random-{seed}"), &bytes);
    }
    let mut buffer = Buffer::default();
    let mut frame = |name: &str, said: &Said<'_>| {
        buffer.encode(said, FRAME_MAX_BYTES).expect("it fits");
        write("frames", name, buffer.body());
    };
    frame("loaded", &Said::Loaded(&Ok(manifest())));
    frame("refused", &Said::Loaded(&Err(Refusal::new(Code::InitTrap, "unreachable"))));
    frame("decided", &Said::Called(&called(Ok(Verdict::Decision(decision())))));
    frame("finalized", &Said::Called(&called(Ok(Verdict::Finalized))));
    frame("fault", &Said::Called(&called(Err(CallError::Fault(Fault::Transient("not yet".into()))))));
    frame("get", &Said::Ask(Ask::Get(&object())));
    let query =
        Query { gvk: object().gvk, namespace: Some("ns".into()), labels: vec![("a".into(), "b".into())] };
    frame("list", &Said::Ask(Ask::List(&query)));
}

fn object() -> ObjectRef {
    ObjectRef { gvk: "v1/ConfigMap".parse().expect("a kind"), namespace: "ns".into(), name: "c".into() }
}

fn manifest() -> Manifest {
    Manifest {
        name: PluginName::try_new("web").expect("valid"),
        version: "1.0.0".into(),
        primary: "x.dev/v1/Web".parse().expect("a kind"),
        children: vec![ChildRule { kind: object().gvk, unwanted: Unwanted::Orphan }],
        reads: vec![ReadRule {
            kind: object().gvk,
            scope: windlass_core::scope::Scope::of_labels([("a".into(), "b".into())]),
        }],
        selects: windlass_core::scope::Scope::default(),
        strict: true,
        finalizes: true,
    }
}

fn decision() -> Decision {
    Decision {
        children: vec!["{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"c\"}}".into()],
        status: Some("{}".into()),
        notices: vec![Notice { severity: Severity::Normal, reason: "Made".into(), message: "it".into() }],
        requeue_after: Some(Duration::from_secs(60)),
    }
}

fn called(result: Result<Verdict, CallError>) -> Called {
    let lines = vec![Line { level: Level::Warn, text: "a line".into() }];
    Called {
        result,
        lines,
        read_clock: true,
        dropped_bytes: 7,
        ..Called::failed(CallError::Fault(Fault::Permanent(String::new())))
    }
}

//! The table, second half: plugins that serve and then do wrong (B20 to B41).
//!
//! Each fails on every object of its kind, so each has a kind with few others: the API server's
//! Events are rationed an object.

use serde_json::{Value, json};

use super::guest::{Answer, Guest, Kind};
use super::offer::{annotated, signed};
use super::row::{Kit, Row, Seen, name_of};

/// What plugins are about that need no kind of their own.
pub(crate) const KIND: Kind<'static> = ("fixtures.windlass.dev", "v1alpha1", "Widget");
/// Group of the kinds of these rows.
pub(crate) const GROUP: &str = "rows.windlass.dev";
/// The kinds: one for [`ROWS_A_KIND`] rows.
pub(crate) const KINDS: [&str; 7] = ["Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Gorse"];
/// See [`KINDS`]; an object has room for 25 Events.
const ROWS_A_KIND: usize = 10;
/// The ConfigMap in each namespace of the objects that belongs to nobody.
pub(crate) const THEIRS: &str = "theirs";

/// The child over which a person and a plugin disagree.
pub(crate) const CONTESTED: &str = "contested";
/// The child that two plugins want.
const SHARED: &str = "shared";

/// One row before it has a kind.
struct Call {
    what: &'static str,
    code: &'static str,
    says: Vec<&'static str>,
    seen: Seen,
    guest: Guest<'static>,
    annotation: Option<(&'static str, &'static str)>,
    /// A plugin about the same kind that serves before.
    before: Option<(&'static str, Guest<'static>)>,
}

impl Call {
    fn new(what: &'static str, code: &'static str, says: &'static str, guest: Guest<'static>) -> Self {
        Self { what, code, says: vec![says], seen: Seen::Quarantined, guest, annotation: None, before: None }
    }

    fn seen(self, seen: Seen) -> Self {
        Self { seen, ..self }
    }
}

/// Everything that is wrong once it is called.
pub(crate) fn rows(kit: &Kit) -> Vec<Row> {
    let calls =
        [traps(), endless(), hungry(), outputs(), abi(), texts(), objects(), policy(), warned(), said()];
    let calls = calls.into_iter().flatten().enumerate();
    let rows = calls.map(|(i, call)| {
        let kind = KINDS[i / ROWS_A_KIND];
        let name = name_of(call.what);
        let guest = Guest { name: &name, primary: (GROUP, "v1", kind), ..call.guest };
        let mut map = signed(&kit.signer, &name, &guest.build(), 1);
        if let Some((annotation, value)) = call.annotation {
            map = annotated(map, annotation, value);
        }
        let before = call.before.map(|(what, guest)| {
            let name = name_of(what);
            let guest = Guest { name: &name, primary: (GROUP, "v1", kind), ..guest };
            signed(&kit.signer, &name, &guest.build(), 1)
        });
        let row = Row::new(call.what, call.seen, call.code, &call.says, vec![map]);
        row.after(before.into_iter().collect())
    });
    rows.collect()
}

/// What is to run out of time has little of it; whatever is to meet another limit has plenty, on a busy machine too.
fn hurried(what: &'static str, code: &'static str, says: &'static str, guest: Guest<'static>) -> Call {
    Call { annotation: Some(("limit-cpu", "200ms")), ..Call::new(what, code, says, guest) }
}

fn body(text: &'static str) -> Guest<'static> {
    Guest { body: text, ..Guest::default() }
}

fn answers(answer: Answer) -> Guest<'static> {
    Guest { answer, ..Guest::default() }
}

/// A guest that wants this child, whatever it is about.
fn wants(child: impl Into<String>) -> Guest<'static> {
    answers(Answer::children([child]))
}

/// A child that is all right but for what `change` does to it.
fn child(name: &str, change: impl FnOnce(&mut Value)) -> Guest<'static> {
    let mut child = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"text": "nonsense"},
    });
    change(&mut child);
    wants(child.to_string())
}

/// B20: traps.
fn traps() -> Vec<Call> {
    let named = Guest {
        fields: "(func $deep_inside unreachable) (func $outside (call $deep_inside))",
        body: "(call $outside)",
        ..Guest::default()
    };
    let table =
        Guest { fields: "(table 1 funcref)", body: "(call_indirect (i32.const 0))", ..Guest::default() };
    vec![
        Call::new(
            "B20 unreachable",
            "E201 Trap",
            "`unreachable` instruction executed; at ",
            body("unreachable"),
        ),
        Call::new(
            "B20 division",
            "E201 Trap",
            "divide by zero",
            body("(drop (i32.div_u (i32.const 1) (i32.const 0)))"),
        ),
        Call::new(
            "B20 bounds",
            "E201 Trap",
            "out of bounds memory access",
            body("(drop (i32.load (i32.const -4)))"),
        ),
        Call::new("B20 no function", "E201 Trap", "uninitialized element", table),
        Call::new("B20 by name", "E201 Trap", "; at deep_inside < outside < ", named),
    ]
}

/// B21, B25: calls without an end.
fn endless() -> Vec<Call> {
    let recursion = "(drop (call $reconcile (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5) (local.get 6)))";
    let copies = Guest {
        pages: 4,
        ..body("(loop $on (memory.copy (i32.const 8192) (i32.const 70000) (i32.const 50000)) (br $on))")
    };
    let asks = Guest {
        imports: r#"(import "windlass:operator/log@0.1.0" "write" (func $log (param i32 i32 i32)))"#,
        fields: r#"(data (i32.const 16) "again")"#,
        ..body("(loop $on (call $log (i32.const 0) (i32.const 16) (i32.const 5)) (br $on))")
    };
    vec![
        hurried("B21 tight loop", "E202 Timeout", "CPU time", body("(loop $on (br $on))")),
        hurried("B21 copies", "E202 Timeout", "CPU time", copies),
        hurried("B21 logs", "E202 Timeout", "CPU time", asks),
        Call::new("B25 recursion", "E206 StackOverflow", "limit 512 KiB", body(recursion)),
    ]
}

/// B23: more memory than there is.
fn hungry() -> Vec<Call> {
    let table = Guest {
        fields: "(table $t 1 funcref)",
        ..body("(drop (table.grow $t (ref.null func) (i32.const 1000000)))")
    };
    let little = Call {
        annotation: Some(("limit-memory", "1Mi")),
        ..Call::new(
            "B23 its own limit",
            "E204 MemoryLimit",
            "limit 1024 KiB",
            body("(drop (memory.grow (i32.const 20)))"),
        )
    };
    vec![
        Call::new(
            "B23 one bite",
            "E204 MemoryLimit",
            "limit 65536 KiB",
            body("(drop (memory.grow (i32.const 1024)))"),
        ),
        Call::new(
            "B23 many bites",
            "E204 MemoryLimit",
            "asked for 64 KiB on top of 65536 KiB",
            body("(loop $on (drop (memory.grow (i32.const 1))) (br $on))"),
        ),
        Call::new("B23 table", "E204 MemoryLimit", "more table elements", table),
        little,
    ]
}

/// B26: more output than anybody wants. The memory is there and full of zeros.
fn outputs() -> Vec<Call> {
    let large = |words: Vec<i64>| Guest { pages: 980, answer: Answer::Words(words), ..Guest::default() };
    // One child, whose text is described at 1,000,000.
    let one = |bytes: u32| Guest {
        body: match bytes {
            60 => {
                "(i32.store (i32.const 1000000) (i32.const 1000064)) (i32.store (i32.const 1000004) (i32.const 60000000))"
            }
            _ => {
                "(i32.store (i32.const 1000000) (i32.const 1000064)) (i32.store (i32.const 1000004) (i32.const 5000000))"
            }
        },
        ..large(vec![0, 1_000_000, 1])
    };
    let many = answers(Answer::children((0..101).map(|i| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("b26-{i}")}}).to_string()
    })));
    vec![
        Call::new("B26 text of 5 MB", "E210 OutputTooLarge", "4096 KiB", one(5)),
        Call::new("B26 text of 60 MB", "E210 OutputTooLarge", "4096 KiB", one(60)),
        Call::new(
            "B26 a million children",
            "E210 OutputTooLarge",
            "4096 KiB",
            large(vec![0, 2_000_000, 1_000_000]),
        ),
        Call::new("B26 children", "E232 TooManyChildren", "101 children, at most 100", many),
    ]
}

/// B27: values that are none.
fn abi() -> Vec<Call> {
    let words = |words: &[i64]| answers(Answer::Words(words.to_vec()));
    let not_utf8 = Guest { fields: r#"(data (i32.const 40) "\ff\fe\c0")"#, ..words(&[1, 0, 40, 3]) };
    vec![
        Call::new("B27 pointer", "E211 BadAbiValue", "", body("(return (i32.const -4))")),
        Call::new("B27 unaligned", "E211 BadAbiValue", "", body("(return (i32.const 4097))")),
        Call::new("B27 tag", "E211 BadAbiValue", "", words(&[7])),
        Call::new("B27 tag of a fault", "E211 BadAbiValue", "", words(&[1, 9])),
        Call::new("B27 list", "E211 BadAbiValue", "", words(&[0, 8, 1_000_000])),
        Call::new("B27 length", "E211 BadAbiValue", "", words(&[0, 8, -1])),
        Call::new("B27 text", "E211 BadAbiValue", "", words(&[1, 0, 100_000_000, 100_000])),
        Call::new("B27 no utf-8", "E211 BadAbiValue", "", not_utf8),
    ]
}

/// B28: texts that are no JSON, or more than JSON.
fn texts() -> Vec<Call> {
    let with = |data: &str| {
        wants(format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"b28"}},"data":{{"text":{data}}}}}"#
        ))
    };
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let status = Answer::Decision { children: Vec::new(), status: Some("{".into()), requeue_ms: None };
    vec![
        Call::new(
            "B28 cut off",
            "E220 InvalidJson",
            "children[0] at 1:",
            wants(r#"{"apiVersion":"v1","kin"#),
        ),
        Call::new("B28 nothing", "E220 InvalidJson", "at 1:", wants("")),
        Call::new("B28 trailing", "E220 InvalidJson", "at 1:", wants("{} {}")),
        Call::new("B28 NaN", "E220 InvalidJson", "at 1:", with("NaN")),
        Call::new("B28 huge number", "E220 InvalidJson", "at 1:", with("1e400")),
        Call::new("B28 surrogate", "E220 InvalidJson", "at 1:", with("\"\\ud800\"")),
        Call::new("B28 byte order mark", "E220 InvalidJson", "at 1:", wants("\u{feff}{}")),
        Call::new("B28 status", "E220 InvalidJson", "status at 1:", answers(status)),
        Call::new("B28 deep", "E221 TooDeep", "inside each other", with(&deep)),
        Call::new("B28 key twice", "E222 DuplicateKey", "is there twice", with(r#""a","text":"b""#)),
    ]
}

/// B29: values that are no object of Kubernetes.
fn objects() -> Vec<Call> {
    vec![
        Call::new("B29 number", "E223 NotAnObject", "expected a JSON object, found 7", wants("7")),
        Call::new(
            "B29 no kind",
            "E223 NotAnObject",
            "kind is missing",
            child("b29", |c| c["kind"] = Value::Null),
        )
        .says("kind is "),
        Call::new(
            "B29 no version",
            "E223 NotAnObject",
            "apiVersion is missing",
            child("b29", |c| c["apiVersion"] = json!("")),
        ),
        Call::new("B29 no name", "E223 NotAnObject", "metadata.name is missing", child("", |_| ())),
        Call::new(
            "B29 list",
            "E223 NotAnObject",
            "is a list",
            wants(r#"{"apiVersion":"v1","kind":"List","items":[]}"#),
        ),
    ]
}

impl Call {
    /// Expects another text.
    fn says(mut self, text: &'static str) -> Self {
        self.says = vec![text];
        self
    }
}

/// B30 to B34: what a plugin may not write, wherever it tries.
fn policy() -> Vec<Call> {
    let kind = |api: &'static str, kind: &'static str| {
        wants(json!({"apiVersion": api, "kind": kind, "metadata": {"name": "b34"}}).to_string())
    };
    let twice = |text: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b33"}, "data": {"text": text}})
            .to_string()
    };
    let metadata = |field: &'static str, value: Value| child("b32", move |c| c["metadata"][field] = value);
    let foreign = json!([{"apiVersion": "v1", "kind": "Namespace", "name": "kube-system",
        "uid": "00000000-0000-4000-8000-00000000dead"}]);
    // The key's kind, namespace and name: v1, Secret, ns, name.
    let secret = Guest {
        imports: r#"(import "windlass:operator/cache@0.1.0" "get"
            (func $get (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))"#,
        fields: r#"(data (i32.const 16) "v1Secretnsname")"#,
        ..body(
            "(call $get (i32.const 0) (i32.const 0) (i32.const 16) (i32.const 2) (i32.const 18) (i32.const 6)
              (i32.const 24) (i32.const 2) (i32.const 26) (i32.const 4) (i32.const 64))",
        )
    };
    let failed = |what, code, says, guest| Call::new(what, code, says, guest).seen(Seen::Failed);
    vec![
        Call::new(
            "B30 foreign kind",
            "E230 KindNotAllowed",
            "v1/Secret is not among its children",
            kind("v1", "Secret"),
        ),
        Call::new("B31 reads undeclared", "E231 ReadNotAllowed", "v1/Secret", secret),
        Call::new(
            "B32 namespace",
            "E233 NamespaceEscape",
            "kube-system",
            metadata("namespace", json!("kube-system")),
        ),
        failed("B32 not its own", "E234 NotOwner", "does not belong to plugin", child(THEIRS, |_| ())),
        Call::new("B32 owner", "E235 ReservedField", "ownerReferences", metadata("ownerReferences", foreign)),
        Call::new(
            "B32 finalizers",
            "E235 ReservedField",
            "finalizers",
            metadata("finalizers", json!(["example.com/hold"])),
        ),
        Call::new(
            "B32 label",
            "E235 ReservedField",
            "windlass.dev/owned-by",
            metadata("labels", json!({"windlass.dev/owned-by": "x"})),
        ),
        Call::new(
            "B32 annotation",
            "E235 ReservedField",
            "windlass.dev/applied",
            metadata("annotations", json!({"windlass.dev/applied": "x"})),
        ),
        Call::new(
            "B32 system label",
            "E235 ReservedField",
            "system:x",
            metadata("labels", json!({"system:x": "y"})),
        ),
        Call::new(
            "B33 child twice",
            "E236 DuplicateChild",
            "twice",
            answers(Answer::children([twice("a"), twice("b")])),
        ),
        Call::new(
            "B33 name",
            "E237 BadName",
            "cannot be an object's name",
            child("Not A Name/../etc", |_| ()),
        ),
        Call::new(
            "B33 generated name",
            "E239 UnsupportedField",
            "generateName",
            metadata("generateName", json!("b33-")),
        ),
        Call::new(
            "B34 rights",
            "E238 ReservedKind",
            "ClusterRoleBinding",
            kind("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
        ),
        Call::new(
            "B34 webhook",
            "E238 ReservedKind",
            "no plugin may write",
            kind("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
        ),
        Call::new(
            "B34 lease",
            "E238 ReservedKind",
            "no plugin may write",
            kind("coordination.k8s.io/v1", "Lease"),
        ),
        Call::new(
            "B34 definition",
            "E238 ReservedKind",
            "no plugin may write",
            kind("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
        ),
    ]
}

/// B35, B38, B39: what is put right, and said.
fn warned() -> Vec<Call> {
    let server = child("b35", |c| {
        c["metadata"]["uid"] = json!("00000000-0000-4000-8000-00000000dead");
        c["metadata"]["managedFields"] = json!([]);
        c["status"] = json!({"forged": true});
    });
    let requeue = |ms| answers(Answer::Decision { children: Vec::new(), status: None, requeue_ms: Some(ms) });
    let floods = Guest {
        imports: r#"(import "windlass:operator/log@0.1.0" "write" (func $log (param i32 i32 i32)))"#,
        fields: r#"(data (i32.const 16) "\1b[31mred\0d\0aERROR windlass: forged") (global $left (mut i32) (i32.const 4000))"#,
        ..body(
            "(loop $on (call $log (i32.const 3) (i32.const 16) (i32.const 33))
              (global.set $left (i32.sub (global.get $left) (i32.const 1)))
              (br_if $on (global.get $left)))",
        )
    };
    let warned = |what, code, says, guest| Call::new(what, code, says, guest).seen(Seen::Warned);
    vec![
        warned("B35 fields of the server", "W301 ServerFieldDropped", "metadata.uid", server),
        warned("B38 at once", "W311 RequeueClamped", "made 1 s", requeue(0)),
        warned("B38 in 49 days", "W311 RequeueClamped", "to be asked again after", requeue(u32::MAX)),
        warned("B39 flood", "W320 LogDropped", "lines", floods),
    ]
}

/// B40, and what is too much to hand over: no reason to leave a plugin alone.
fn said() -> Vec<Call> {
    let failed = |what, code, says, guest| Call::new(what, code, says, guest).seen(Seen::Failed);
    let small = Call {
        annotation: Some(("limit-snapshot", "1Ki")),
        ..failed("E212 its own limit", "E212 InputTooLarge", "", Guest::default())
    };
    let second = Call {
        before: Some(("E141 the first of two", child(SHARED, |_| ()))),
        ..failed(
            "E141 the second of two",
            "E141 OwnershipOverlap",
            "two plugins want one child",
            child(SHARED, |_| ()),
        )
    };
    vec![
        second,
        failed("B37 two writers", "E250 WriteLoop", "another writer disagrees", child(CONTESTED, |_| ())),
        failed(
            "B40 says no",
            "E260 PluginError",
            "the moon is full",
            answers(Answer::Fault("the moon is full")),
        ),
        small,
    ]
}

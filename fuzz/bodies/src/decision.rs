//! Decisions out of bytes: as a guest's texts, and put together from good and hostile parts.

use std::time::Duration;

use serde_json::{Map, Value, json};
use windlass_core::decision::{Decision, Notice, Severity, Verdict};
use windlass_core::plan::{Plan, PlanError};

use crate::choices::Choices;
use crate::invariants::check;
use crate::json::compare;
use crate::world::{HOST, World};

/// The bytes are the texts of a decision: children with `---` lines between them, and the
/// status after `status:`. Both JSON readers have to agree, and the plan has to hold.
pub fn decode_decision(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut decision = Decision::default();
    for part in text.split("\n---\n") {
        match part.strip_prefix("status:") {
            Some(status) => decision.status = Some(status.to_owned()),
            None => decision.children.push(part.to_owned()),
        }
        compare(part.strip_prefix("status:").unwrap_or(part));
    }
    drop(judged(&World::new(&mut Choices::new(&[])), Verdict::Decision(decision)));
}

/// The bytes choose a world and a decision. The plan has to hold, and be the same again.
pub fn plan(data: &[u8]) {
    let mut choices = Choices::new(data);
    let world = World::new(&mut choices);
    let verdict = match choices.rarely() {
        true => Verdict::Finalized,
        false => Verdict::Decision(decision(&mut choices)),
    };
    drop(judged(&world, verdict));
}

/// Has a verdict judged, twice.
fn judged(world: &World, verdict: Verdict) -> Result<Plan, PlanError> {
    let planned = world.plan(verdict.clone());
    check(world, &planned);
    assert_eq!(planned, world.plan(verdict), "judged differently");
    planned
}

fn decision(choices: &mut Choices<'_>) -> Decision {
    let count = choices.one(&[0, 1, 1, 2, 2, 3, 4, 5, 6]);
    let mut decision = Decision {
        children: (0..count).map(|_| text(choices)).collect(),
        status: choices.maybe().then(|| status(choices)),
        ..Decision::default()
    };
    if choices.rarely() && !decision.children.is_empty() {
        decision.children.push(decision.children[0].clone());
    }
    for _ in 0..choices.one(&[0, 0, 1, 20]) {
        let reason = String::from_utf8_lossy(choices.bytes(200)).into_owned();
        let message = String::from_utf8_lossy(choices.bytes(200)).repeat(choices.one(&[1, 20]));
        decision.notices.push(Notice { severity: Severity::Warning, reason, message });
    }
    decision.requeue_after = choices.maybe().then(|| Duration::from_millis(choices.number().into()));
    decision
}

/// One child as text, now and then damaged.
fn text(choices: &mut Choices<'_>) -> String {
    let mut text = child(choices).to_string();
    if choices.rarely() {
        let mut at = choices.number() as usize % (text.len() + 1);
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        match choices.one(&[0, 1, 2, 3, 4]) {
            0 => text.truncate(at),
            1 => text.insert_str(at, &String::from_utf8_lossy(choices.bytes(64))),
            2 => text.insert(0, '\u{feff}'),
            3 => text = text.replacen('{', "{\"kind\":\"Role\",", 1),
            _ => {
                let (open, close) = ("[".repeat(70), "]".repeat(70));
                text = text.replacen('{', &format!("{{\"deep\":{open}{close},"), 1);
            }
        }
    }
    text
}

const KINDS: &[(&str, &str)] =
    &[("v1", "ConfigMap"), ("v1", "Service"), ("v1", "Secret"), ("apps/v1", "Deployment")];
const BAD_KINDS: &[(&str, &str)] = &[
    ("v1", "Pod"),
    ("v1", "List"),
    ("v1", "ConfigMapList"),
    ("v2", "ConfigMap"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("x.dev/v1", "Cluster"),
    ("x.dev/v1", "Missing"),
    ("x.dev/v1", "Web"),
    ("coordination.k8s.io/v1", "Lease"),
    ("../v1", "ConfigMap"),
    ("", ""),
];
const NAMES: &[&str] = &["a", "b", "c", "seen", "svc", "web-1"];
const BAD_NAMES: &[&str] = &[
    "..",
    ".",
    "../../x",
    "a/b",
    "a%2fb",
    "A",
    "a_b",
    "windlass",
    "taken",
    "going",
    "",
    "ü",
    "a\n",
    "a\u{202e}",
    "x.y",
];
const NAMESPACES: &[&str] = &["ns", "other", HOST, "kube-system", "", "..", "a/b", "NS"];
const KEYS: &[&str] = &["app", "app.kubernetes.io/name", "example.com/x", "a-b_c.d"];
const BAD_KEYS: &[&str] = &[
    "windlass.dev/owned-by",
    "windlass.dev/x",
    "WINDLASS.dev/host",
    "x.windlass.dev/y",
    "system:x",
    "a/system:x",
    "",
    "a/b/c",
    "/",
    "-",
    "kubectl.kubernetes.io/last-applied-configuration",
    "ü",
];
const FIELDS: &[&str] = &[
    "uid",
    "resourceVersion",
    "managedFields",
    "creationTimestamp",
    "generateName",
    "finalizers",
    "ownerReferences",
    "selfLink",
    "deletionTimestamp",
    "unknown",
    "windlass.dev/x",
];

fn child(choices: &mut Choices<'_>) -> Value {
    let (api_version, kind) = if choices.rarely() { choices.one(BAD_KINDS) } else { choices.one(KINDS) };
    let mut body = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata(choices)});
    let fields = body.as_object_mut().expect("made here");
    if choices.maybe() {
        fields.insert("data".into(), value(choices, 3));
    }
    if choices.rarely() {
        fields.insert("status".into(), value(choices, 1));
    }
    if choices.rarely() {
        let types = ["Opaque", "kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"];
        fields.insert("type".into(), choices.one(&types).into());
    }
    if choices.rarely() {
        fields.insert(
            choices.one(&["stringData", "spec", "items", "kind", "metadata"]).into(),
            value(choices, 2),
        );
    }
    if choices.rarely() {
        fields.remove(choices.one(&["apiVersion", "kind", "metadata"]));
    }
    body
}

fn metadata(choices: &mut Choices<'_>) -> Map<String, Value> {
    let mut metadata = Map::new();
    let name = if choices.rarely() { choices.one(BAD_NAMES) } else { choices.one(NAMES) };
    metadata.insert("name".into(), if choices.rarely() { value(choices, 1) } else { name.into() });
    if choices.rarely() {
        metadata.insert("namespace".into(), choices.one(NAMESPACES).into());
    }
    for field in ["labels", "annotations"] {
        if choices.maybe() {
            metadata.insert(field.into(), keys(choices));
        }
    }
    if choices.rarely() {
        metadata.insert(choices.one(FIELDS).into(), value(choices, 2));
    }
    if choices.rarely() {
        let owner = choices.one(&["p", "another", ""]);
        metadata.insert("ownerReferences".into(), json!([{"uid": owner, "kind": "Web", "name": "a"}]));
    }
    metadata
}

fn keys(choices: &mut Choices<'_>) -> Value {
    let mut map = Map::new();
    for _ in 0..choices.one(&[0, 1, 2]) {
        let key = if choices.rarely() { choices.one(BAD_KEYS) } else { choices.one(KEYS) };
        let text = choices.one(&["", "x", "1.2.3", "a-b", "v"]);
        map.insert(key.into(), if choices.rarely() { value(choices, 1) } else { text.into() });
    }
    Value::Object(map)
}

fn value(choices: &mut Choices<'_>, depth: usize) -> Value {
    match choices.one(&[0, 1, 2, 3, 4, 5, 6, 7]) {
        0 => Value::Null,
        1 => choices.maybe().into(),
        2 => choices.number().into(),
        3 => String::from_utf8_lossy(choices.bytes(16)).into(),
        4 => json!({}),
        5 if depth > 0 => (0..choices.one(&[0, 1, 3])).map(|_| value(choices, depth - 1)).collect(),
        6 | 7 if depth > 0 => {
            let keys = ["k", "spec", "metadata", "windlass.dev/x", ""];
            let fields = (0..choices.one(&[1, 2, 9]))
                .map(|_| (choices.one(&keys).to_owned(), value(choices, depth - 1)));
            Value::Object(fields.collect())
        }
        _ => "v".into(),
    }
}

fn status(choices: &mut Choices<'_>) -> String {
    match choices.rarely() {
        true => String::from_utf8_lossy(choices.bytes(64)).into_owned(),
        false => json!({"ready": choices.one(&[0, 1, 2]), "x": value(choices, 2)}).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use windlass_core::plan::Step;

    use super::*;
    use crate::mutate::Mutator;

    /// Properties of plans are worth something only if there are plans, and refusals.
    #[test]
    fn random_decisions_meet_every_step_and_every_rule() {
        let mut mutator = Mutator::new(1);
        let (mut allowed, mut steps, mut codes) = (0, BTreeSet::new(), BTreeSet::new());
        for _ in 0..6_000 {
            let bytes: Vec<u8> = (0..300).map(|_| mutator.random() as u8).collect();
            let mut choices = Choices::new(&bytes);
            let world = World::new(&mut choices);
            match judged(&world, Verdict::Decision(decision(&mut choices))) {
                Ok(plan) => {
                    allowed += 1;
                    steps.extend(plan.steps().iter().map(named));
                    codes.extend(plan.warnings().iter().map(|warning| warning.code as u16));
                }
                Err(error) => codes.extend(error.code().map(|code| code as u16)),
            }
        }
        assert!((600..5_400).contains(&allowed), "{allowed} of 6,000 were allowed");
        assert_eq!(steps.into_iter().collect::<Vec<_>>(), ["create", "delete", "orphan", "status", "update"]);
        for code in [220, 221, 222, 223, 230, 232, 233, 235, 236, 237, 238, 239, 301, 311, 320] {
            assert!(codes.contains(&code), "no decision was refused with {code}: {codes:?}");
        }
    }

    fn named(step: &Step) -> &'static str {
        match step {
            Step::Create { .. } => "create",
            Step::Update { .. } => "update",
            Step::Delete { .. } => "delete",
            Step::Orphan { .. } => "orphan",
            Step::Status { .. } => "status",
            Step::Finalizers { .. } => "finalizers",
        }
    }
}

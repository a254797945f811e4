//! The steps from what is there to what is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::child::{Child, Reading, child, hash_of, refuse};
use super::{Inputs, Plan, PlanError, Step, Target};
use crate::code::{Code, Refusal, printable};
use crate::decision::{Decision, Notice};
use crate::equal::{covers, same};
use crate::key::ObjectRef;
use crate::kind::Kind;
use crate::limits::{NOTICES_MAX, REQUEUE_MAX, REQUEUE_MIN};
use crate::manifest::Unwanted;
use crate::memory::Recall;
use crate::name::{ANNOTATION_APPLIED, ANNOTATION_PRIMARY, LABEL_HOST, LABEL_OWNED_BY};
use crate::object::Object;

/// The reason of a notice that has none, or none that an Event can carry.
const UNNAMED: &str = "Notice";

/// A plan without steps.
pub(super) fn empty(inputs: &Inputs<'_>) -> Plan {
    let object = inputs.primary.reference(&inputs.primary_kind.gvk);
    Plan {
        key: inputs.key.clone(),
        digest: inputs.serving.digest.clone(),
        primary: target(inputs.primary_kind.clone(), object, inputs.primary),
        steps: Vec::new(),
        notices: Vec::new(),
        requeue_after: None,
        warnings: Vec::new(),
        discreet: inputs.serving.manifest.sees_secrets(),
    }
}

/// The plan that ends a primary's life: our finalizer goes.
pub(super) fn finalized(inputs: &Inputs<'_>) -> Plan {
    let mut plan = empty(inputs);
    let ours = inputs.key.plugin.finalizer();
    let meta = inputs.primary.meta();
    if meta.has_finalizer(&ours) {
        let rest = meta.finalizers().filter(|f| *f != ours).map(str::to_owned);
        plan.steps.push(Step::Finalizers { finalizers: rest.collect() });
    }
    plan
}

/// The plan for a decision.
pub(super) fn desired(inputs: &Inputs<'_>, decision: &Decision) -> Result<Plan, PlanError> {
    let mut plan = empty(inputs);
    let mut reading = Reading::default();
    let wanted = wanted_children(inputs, decision, &mut reading)?;
    let names: BTreeSet<_> = wanted.iter().map(|child| one_object(&child.object)).collect();
    let mut unwanted = Vec::new();
    let mut uids = BTreeSet::new();
    for seen in inputs.children {
        let Some(gvk) = seen.gvk() else { continue };
        let object = seen.reference(&gvk);
        if !names.contains(&one_object(&object)) && uids.insert(&seen.meta().uid) {
            unwanted.extend(unwanted_step(inputs, seen, object));
        }
    }
    for child in wanted {
        match child_step(inputs, child)? {
            // Of an earlier self; what is wanted is made when its end has been seen.
            Some(step @ Step::Delete { .. }) => unwanted.push(step),
            step => plan.steps.extend(step),
        }
    }
    plan.steps.extend(unwanted);
    if let Some(text) = &decision.status {
        plan.steps.extend(status_step(inputs, text, &mut reading)?);
    }
    plan.notices = decision.notices.iter().take(NOTICES_MAX).map(bounded_notice).collect();
    if decision.notices.len() > NOTICES_MAX {
        let found = decision.notices.len();
        reading.warn(Code::LogDropped, format!("{found} notices, the first {NOTICES_MAX} are published"));
    }
    plan.requeue_after = decision.requeue_after.map(|after| bounded_requeue(after, &mut reading));
    plan.warnings = reading.into_warnings();
    Ok(plan)
}

/// What tells one object from another: a kind's versions are views of the same objects.
fn one_object(object: &ObjectRef) -> (Arc<str>, Arc<str>, Arc<str>, Arc<str>) {
    let ObjectRef { gvk, namespace, name } = object;
    (gvk.group.clone(), gvk.kind.clone(), namespace.clone(), name.clone())
}

fn wanted_children(
    inputs: &Inputs<'_>,
    decision: &Decision,
    reading: &mut Reading,
) -> Result<Vec<Child>, PlanError> {
    let most = inputs.serving.children_max;
    if decision.children.len() > most {
        return refuse(
            Code::TooManyChildren,
            format!("{} children, at most {most}", decision.children.len()),
        );
    }
    let mut names = BTreeMap::new();
    let mut wanted = Vec::with_capacity(decision.children.len());
    for (index, text) in decision.children.iter().enumerate() {
        let child = child(inputs, index, text, reading)?;
        if let Some(before) = names.insert(one_object(&child.object), index) {
            let object = &child.object;
            return refuse(
                Code::DuplicateChild,
                format!("{object} is in the decision twice, as children[{before}] and children[{index}]"),
            );
        }
        wanted.push(child);
    }
    Ok(wanted)
}

fn child_step(inputs: &Inputs<'_>, child: Child) -> Result<Option<Step>, PlanError> {
    let Child { kind, object, body, wanted } = child;
    let seen = inputs.children.iter().find(|seen| {
        seen.meta().name == object.name
            && seen.meta().namespace == object.namespace
            && seen.is_of(&object.gvk)
    });
    let Some(seen) = seen else {
        return Ok(Some(Step::Create { kind, object, body, wanted }));
    };
    let meta = seen.meta();
    if belongs_to_another(inputs, seen) {
        return left_behind(inputs, seen, object);
    }
    // What is being deleted cannot be changed into what is wanted; its end brings the key back.
    if meta.deleting || is_as_wanted(inputs, seen, &body, &wanted) {
        return Ok(None);
    }
    let target = target(kind, object, seen);
    Ok(Some(Step::Update { target, body, wanted }))
}

/// The child is there and has another controller: an earlier primary of this name, or somebody else.
fn left_behind(
    inputs: &Inputs<'_>,
    seen: &Arc<Object>,
    object: ObjectRef,
) -> Result<Option<Step>, PlanError> {
    if !of_an_earlier_self(inputs, seen) {
        let value = seen.value();
        let owner = controller(&value);
        let text = |field: &str| owner.and_then(|owner| owner[field].as_str()).unwrap_or_default();
        let (kind, name) = (printable(text("kind"), 64), printable(text("name"), 253));
        let why = format!("{object} is controlled by {kind} {name}");
        return Err(PlanError::Refused(Refusal::new(Code::NotOwner, why)));
    }
    match unwanted_step(inputs, seen, object.clone()) {
        Some(step @ Step::Delete { .. }) => Ok(Some(step)),
        // Its end brings the key back.
        None if seen.meta().deleting => Ok(None),
        _ => Err(PlanError::Collecting(object)),
    }
}

fn controller(object: &Value) -> Option<&Value> {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().find(|owner| owner["controller"] == true)
}

/// Whether a child belongs to an earlier primary of this name, which is gone. It is removed here, because the garbage collector
/// does not always: where its watch misses that the earlier one went and shows the new one in its place, as after a restart of the API
/// server, it takes the two for one object and never comes back to what the earlier one owned
/// (`host/tests/integration/faults/servers.rs` shows it).
fn of_an_earlier_self(inputs: &Inputs<'_>, seen: &Object) -> bool {
    let value = seen.value();
    let Some(owner) = controller(&value) else { return false };
    let primary = &inputs.primary_kind.gvk;
    let group =
        owner["apiVersion"].as_str().unwrap_or_default().rsplit_once('/').map_or("", |(group, _)| group);
    belongs_to_another(inputs, seen)
        && group == &*primary.group
        && owner["kind"] == *primary.kind
        && owner["name"] == *inputs.primary.meta().name
}

/// Whether nothing would change: by memory if this process applied it, else by value.
/// A child that carries the hash of another configuration is not even looked at: our
/// entry's hash covers which fields are ours, not what is in them.
fn is_as_wanted(inputs: &Inputs<'_>, seen: &Object, body: &Value, wanted: &str) -> bool {
    let meta = seen.meta();
    if meta.applied() != Some(wanted) {
        return false;
    }
    let entry = meta.entry(&inputs.key.plugin.field_manager(), false);
    match inputs.memory.recall(&meta.uid, false, wanted, entry) {
        Recall::Untouched => true,
        Recall::Changed => false,
        Recall::Unknown => covers(body, &seen.value()),
    }
}

fn unwanted_step(inputs: &Inputs<'_>, seen: &Arc<Object>, object: ObjectRef) -> Option<Step> {
    let another = belongs_to_another(inputs, seen);
    if seen.meta().deleting || (another && !of_an_earlier_self(inputs, seen)) {
        return None;
    }
    let rule = inputs.serving.manifest.child(&object.gvk)?;
    let kind = (inputs.kinds)(&object.gvk)?;
    let target = target(kind, object, seen);
    Some(match rule.unwanted {
        Unwanted::Delete => Step::Delete { target },
        // Whoever let go of the earlier one's children did so when it went.
        Unwanted::Orphan if another => return None,
        Unwanted::Orphan => Step::Orphan { patch: let_go(inputs, seen), target },
    })
}

/// A merge patch that takes our inventory and the owner reference off a child.
fn let_go(inputs: &Inputs<'_>, seen: &Object) -> Value {
    let mine = &*inputs.primary.meta().uid;
    let mut owners = seen.value()["metadata"]["ownerReferences"].take();
    if let Value::Array(list) = &mut owners {
        list.retain(|owner| owner["uid"] != mine);
    }
    json!({"metadata": {
        "labels": {LABEL_OWNED_BY: null, LABEL_HOST: null},
        "annotations": {ANNOTATION_PRIMARY: null, ANNOTATION_APPLIED: null},
        "ownerReferences": owners,
    }})
}

fn status_step(inputs: &Inputs<'_>, text: &str, reading: &mut Reading) -> Result<Option<Step>, PlanError> {
    let status = Value::Object(reading.object("status", text)?);
    let gvk = &inputs.primary_kind.gvk;
    if !inputs.primary_kind.has_status {
        return refuse(
            Code::UnsupportedField,
            format!("{gvk} has no status subresource; enable it in the CRD"),
        );
    }
    let meta = inputs.primary.meta();
    let wanted = hash_of(&status);
    let entry = meta.entry(&inputs.key.plugin.field_manager(), true);
    let as_wanted = match inputs.memory.recall(&meta.uid, true, &wanted, entry) {
        Recall::Untouched => true,
        Recall::Changed => false,
        Recall::Unknown => same(&status, &inputs.primary.value()["status"]),
    };
    if as_wanted {
        return Ok(None);
    }
    let mut metadata = Map::new();
    metadata.insert("name".into(), (*meta.name).into());
    if !meta.namespace.is_empty() {
        metadata.insert("namespace".into(), (*meta.namespace).into());
    }
    let body = json!({
        "apiVersion": gvk.api_version(),
        "kind": &*gvk.kind,
        "metadata": metadata,
        "status": status,
    });
    Ok(Some(Step::Status { body, wanted }))
}

/// Whether a child's controller is another object than this primary: an earlier one
/// of the same name, or somebody else.
fn belongs_to_another(inputs: &Inputs<'_>, seen: &Object) -> bool {
    seen.meta().controller_uid.as_ref().is_some_and(|uid| *uid != inputs.primary.meta().uid)
}

fn target(kind: Kind, object: ObjectRef, seen: &Object) -> Target {
    Target { kind, object, uid: seen.meta().uid.clone(), version: seen.meta().resource_version.clone() }
}

fn bounded_notice(notice: &Notice) -> Notice {
    let reason: String = notice.reason.chars().filter(char::is_ascii_alphanumeric).take(128).collect();
    Notice {
        severity: notice.severity,
        reason: if reason.is_empty() { UNNAMED.to_owned() } else { reason },
        message: printable(&notice.message, 1024),
    }
}

fn bounded_requeue(after: Duration, reading: &mut Reading) -> Duration {
    let bounded = after.clamp(REQUEUE_MIN, REQUEUE_MAX);
    if bounded != after {
        let found = format!("to be asked again after {after:?}: made {} s", bounded.as_secs());
        reading.warn(Code::RequeueClamped, found);
    }
    bounded
}

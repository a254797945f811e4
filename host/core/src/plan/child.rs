//! One child of a decision: from a guest's text to a configuration that may be applied.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::identity::{identity, kind_of, metadata_of};
use super::metadata::metadata;
use super::policy::{kind_is_free, object_is_free, place_is_served};
use super::{Inputs, PlanError};
use crate::code::{Code, Refusal, printable};
use crate::json::{Room, parse};
use crate::key::ObjectRef;
use crate::kind::Kind;
use crate::name::ANNOTATION_APPLIED;
use crate::object::hash64;

/// One object as text, in bytes: what etcd takes in one request.
const CHILD_MAX_BYTES: usize = 3 << 19;
/// Warnings of one decision; further ones are left out.
const WARNINGS_MAX: usize = 16;

/// A checked child with our labels, annotations and owner reference on it.
pub(super) struct Child {
    pub(super) kind: Kind,
    pub(super) object: ObjectRef,
    pub(super) body: Value,
    pub(super) wanted: String,
}

/// What is left of the room for a decision, and what its author should know.
#[derive(Default)]
pub(super) struct Reading {
    room: Room,
    warnings: Vec<Refusal>,
}

impl Reading {
    pub(super) fn warn(&mut self, code: Code, message: impl AsRef<str>) {
        if self.warnings.len() < WARNINGS_MAX {
            self.warnings.push(Refusal::new(code, message));
        }
    }

    pub(super) fn into_warnings(self) -> Vec<Refusal> {
        self.warnings
    }

    /// Reads text that must be one JSON object.
    pub(super) fn object(&mut self, what: &str, text: &str) -> Result<Map<String, Value>, PlanError> {
        match parse(text, &mut self.room) {
            Ok(Value::Object(fields)) => Ok(fields),
            Ok(other) => refuse(
                Code::NotAnObject,
                format!("{what}: expected a JSON object, found {}", printable(&other.to_string(), 64)),
            ),
            Err(e) => Err(PlanError::Refused(e.refusal(what))),
        }
    }
}

/// Checks the child at `index` of a decision and completes it.
pub(super) fn child(
    inputs: &Inputs<'_>,
    index: usize,
    text: &str,
    reading: &mut Reading,
) -> Result<Child, PlanError> {
    let what = format!("children[{index}]");
    if text.len() > CHILD_MAX_BYTES {
        let most = CHILD_MAX_BYTES >> 10;
        let why = format!("{what}: an object of {} KiB, at most {most} KiB can be stored", text.len() >> 10);
        return refuse(Code::OutputTooLarge, why);
    }
    let mut body = reading.object(&what, text)?;
    let kind = allowed_kind(inputs, &what, &body)?;
    let object = identity(inputs, &kind, metadata_of(&what, &body)?)?;
    place_is_served(inputs, &object)?;
    object_is_free(inputs, &object, &body)?;
    if &*object.gvk.kind == "Secret" && object.gvk.group.is_empty() && body.contains_key("stringData") {
        return refuse(
            Code::UnsupportedField,
            format!("{object}: stringData is written only, so drift cannot be seen; use data with base64"),
        );
    }
    let mut dropped = Vec::new();
    let given = match body.remove("metadata") {
        Some(Value::Object(given)) => given,
        _ => Map::new(),
    };
    let metadata = metadata(inputs, &object, given, &mut dropped)?;
    body.insert("metadata".into(), Value::Object(metadata));
    if body.remove("status").is_some_and(|status| !says_nothing(&status)) {
        dropped.push("status".into());
    }
    left_out(inputs, &object, &dropped, reading)?;
    Ok(finish(kind, object, body))
}

/// The kind of a child as discovery knows it, if this plugin may write it.
fn allowed_kind(inputs: &Inputs<'_>, what: &str, body: &Map<String, Value>) -> Result<Kind, PlanError> {
    let gvk = kind_of(what, body)?;
    kind_is_free(inputs, &gvk)?;
    let manifest = &inputs.serving.manifest;
    if manifest.child(&gvk).is_none() {
        let allowed: Vec<_> = manifest.children.iter().map(|c| c.kind.to_string()).collect();
        return refuse(
            Code::KindNotAllowed,
            format!("{gvk} is not among its children ({})", allowed.join(", ")),
        );
    }
    (inputs.kinds)(&gvk).ok_or(PlanError::NoKind(gvk))
}

/// Says what was left out because only the server sets it; in strict mode nothing is.
fn left_out(
    inputs: &Inputs<'_>,
    object: &ObjectRef,
    dropped: &[String],
    reading: &mut Reading,
) -> Result<(), PlanError> {
    if dropped.is_empty() {
        return Ok(());
    }
    let fields = dropped.join(", ");
    if inputs.policy.strict {
        return refuse(
            Code::UnsupportedField,
            format!("{object}: only the server sets {fields}; leave it out"),
        );
    }
    reading.warn(Code::ServerFieldDropped, format!("{object}: only the server sets {fields}: left out"));
    Ok(())
}

/// What typed objects write for a status that they do not have.
fn says_nothing(status: &Value) -> bool {
    match status {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => false,
    }
}

fn finish(kind: Kind, object: ObjectRef, body: Map<String, Value>) -> Child {
    let mut body = Value::Object(body);
    let wanted = hash_of(&body);
    body["metadata"]["annotations"][ANNOTATION_APPLIED] = wanted.clone().into();
    Child { kind, object, body, wanted }
}

/// A hash of a value that does not depend on the order of its fields. It is kept on objects
/// (`windlass.dev/applied`): another one for the same value would write all of them anew.
pub(super) fn hash_of(value: &Value) -> String {
    let mut text = Vec::with_capacity(1024);
    write_sorted(value, &mut text);
    format!("{:016x}", hash64(&text))
}

/// Without a text for each part: each child of each decision comes through here.
fn write_sorted(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(fields) => {
            out.push(b'{');
            if fields.keys().is_sorted() {
                fields.iter().for_each(|(name, value)| write_field(name, value, out));
            } else {
                let sorted: BTreeMap<_, _> = fields.iter().collect();
                sorted.into_iter().for_each(|(name, value)| write_field(name, value, out));
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for item in items {
                write_sorted(item, out);
                out.push(b',');
            }
            out.push(b']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => write_json(value, out),
    }
}

fn write_field(name: &str, value: &Value, out: &mut Vec<u8>) {
    write_json(name, out);
    out.push(b':');
    write_sorted(value, out);
    out.push(b',');
}

fn write_json<T: Serialize + ?Sized>(scalar: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(out, scalar).expect("a text or a number can be written, and a vector takes all");
}

/// A name of a guest's in a message: in quotes, printable, short.
pub(super) fn shown(text: &str) -> String {
    format!("\"{}\"", printable(text, 64))
}

/// Ends a check with a refusal.
pub(super) fn refuse<T>(code: Code, message: impl AsRef<str>) -> Result<T, PlanError> {
    Err(PlanError::Refused(Refusal::new(code, message)))
}

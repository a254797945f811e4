//! A child's metadata: what the guest may say, and the inventory that the host adds.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::child::{refuse, shown};
use super::policy::is_reserved_key;
use super::{Inputs, PlanError};
use crate::code::{Code, printable};
use crate::key::ObjectRef;
use crate::name::{ANNOTATION_PRIMARY, LABEL_HOST, LABEL_OWNED_BY, is_dns_label};

/// Metadata that only the server sets.
const SERVER_SET: &[&str] = &[
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
];
/// Annotations of one object, keys and values together, in bytes: the API server's bound.
const ANNOTATIONS_MAX_BYTES: usize = 256 << 10;
/// A label's value, and a key after its domain, in bytes: the API server's bound.
const LABEL_MAX_BYTES: usize = 63;
/// A key's domain, in bytes: the API server's bound.
const DOMAIN_MAX_BYTES: usize = 253;

/// The metadata to apply: the guest's labels and annotations, ours, and the owner. Adds to
/// `dropped` what was left out because only the server sets it.
pub(super) fn metadata(
    inputs: &Inputs<'_>,
    object: &ObjectRef,
    given: Map<String, Value>,
    dropped: &mut Vec<String>,
) -> Result<Map<String, Value>, PlanError> {
    let mut labels = Map::new();
    let mut annotations = Map::new();
    for (name, value) in given {
        match (name.as_str(), value) {
            ("name" | "namespace" | "generateName", _) | (_, Value::Null) => {}
            ("labels", value) => labels = strings(object, "labels", value)?,
            ("annotations", value) => annotations = strings(object, "annotations", value)?,
            ("ownerReferences", value) => owned_by_primary(inputs, object, &value)?,
            ("finalizers", _) => {
                let why = format!("{object}: metadata.finalizers would outlive the plugin; leave it out");
                return refuse(Code::ReservedField, why);
            }
            (name, _) if SERVER_SET.contains(&name) => dropped.push(format!("metadata.{name}")),
            (name, _) => {
                let name = printable(name, 64);
                let why = format!("{object}: metadata.{name} is no field that can be applied; leave it out");
                return refuse(Code::UnsupportedField, why);
            }
        }
    }
    labels.insert(LABEL_OWNED_BY.into(), inputs.key.plugin.as_str().into());
    labels.insert(LABEL_HOST.into(), inputs.host_namespace.into());
    annotations.insert(ANNOTATION_PRIMARY.into(), inputs.key.primary().into());
    let mut metadata = Map::new();
    metadata.insert("name".into(), (*object.name).into());
    if !object.namespace.is_empty() {
        metadata.insert("namespace".into(), (*object.namespace).into());
    }
    metadata.insert("labels".into(), labels.into());
    metadata.insert("annotations".into(), annotations.into());
    metadata.insert("ownerReferences".into(), json!([owner_reference(inputs)]));
    Ok(metadata)
}

fn owner_reference(inputs: &Inputs<'_>) -> Value {
    json!({
        "apiVersion": inputs.primary_kind.gvk.api_version(),
        "kind": &*inputs.primary_kind.gvk.kind,
        "name": &*inputs.primary.meta().name,
        "uid": &*inputs.primary.meta().uid,
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// A guest may name the primary as the owner, which the host does anyway, and nobody else.
fn owned_by_primary(inputs: &Inputs<'_>, object: &ObjectRef, owners: &Value) -> Result<(), PlanError> {
    let primary = &*inputs.primary.meta().uid;
    let is_primary = |owner: &Value| owner.get("uid").and_then(Value::as_str) == Some(primary);
    match owners.as_array() {
        Some(owners) if !owners.is_empty() && owners.iter().all(is_primary) => Ok(()),
        _ => refuse(
            Code::ReservedField,
            format!("{object}: metadata.ownerReferences is the host's to set; leave it out"),
        ),
    }
}

/// Labels or annotations of a guest: texts only, as the API server takes them, none of ours.
fn strings(object: &ObjectRef, field: &str, value: Value) -> Result<Map<String, Value>, PlanError> {
    let Value::Object(map) = value else {
        return refuse(Code::NotAnObject, format!("{object}: metadata.{field} is not an object"));
    };
    let mut bytes = 0;
    for (key, value) in &map {
        let at = || format!("{object}: metadata.{field} {}", shown(key));
        if is_reserved_key(key) {
            return refuse(Code::ReservedField, format!("{} is not a plugin's to set; leave it out", at()));
        }
        // Of annotations the API server judges the key in lower case.
        let judged = match field {
            "labels" => Cow::Borrowed(key.as_str()),
            _ => Cow::Owned(key.to_ascii_lowercase()),
        };
        if !is_qualified(&judged) {
            let expected = "[domain/]name, the name of letters, digits, '-', '_' and '.', at most 63 bytes";
            return refuse(Code::UnsupportedField, format!("{} is no key: expected {expected}", at()));
        }
        let Some(text) = value.as_str() else {
            return refuse(Code::NotAnObject, format!("{} is not a text; quote it", at()));
        };
        if field == "labels" && !text.is_empty() && !is_label(text) {
            let expected = "letters, digits, '-', '_' and '.', at most 63 bytes";
            let found = shown(text);
            return refuse(
                Code::UnsupportedField,
                format!("{}: {found} is no label's value: expected {expected}", at()),
            );
        }
        bytes += key.len() + text.len();
    }
    if field == "annotations" && bytes > ANNOTATIONS_MAX_BYTES {
        let most = ANNOTATIONS_MAX_BYTES >> 10;
        let why = format!("{object}: metadata.annotations has {bytes} bytes, at most {most} KiB");
        return refuse(Code::UnsupportedField, why);
    }
    Ok(map)
}

/// Whether the API server takes this as the key of a label or an annotation.
fn is_qualified(key: &str) -> bool {
    match key.split_once('/') {
        None => is_label(key),
        Some((domain, name)) => {
            domain.len() <= DOMAIN_MAX_BYTES
                && domain.split('.').all(|part| is_dns_label(part, DOMAIN_MAX_BYTES))
                && is_label(name)
        }
    }
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= LABEL_MAX_BYTES
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

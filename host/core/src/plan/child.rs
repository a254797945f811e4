//! One child of a decision: from a guest's text to a configuration that may be applied.

use serde_json::{Map, Value, json};

use super::Inputs;
use crate::code::{Code, Refusal, printable};
use crate::key::ObjectRef;
use crate::kind::{Gvk, Kind};
use crate::manifest::is_reserved;
use crate::name::{
    ANNOTATION_APPLIED, ANNOTATION_PRIMARY, DOMAIN, LABEL_HOST, LABEL_OWNED_BY, is_dns_label, is_path_segment,
};
use crate::object::hash64;

use super::PlanError;

/// A checked child with our labels, annotations and owner reference on it.
pub(super) struct Child {
    pub(super) kind: Kind,
    pub(super) object: ObjectRef,
    pub(super) body: Value,
    pub(super) wanted: String,
}

/// Metadata that a guest may set; what only the server sets is dropped.
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

/// Checks one child of a decision and completes it.
pub(super) fn child(inputs: &Inputs<'_>, text: &str) -> Result<Child, PlanError> {
    let mut body = parse_object(text, "a child")?;
    let gvk = kind_of(&body)?;
    let rule = inputs.serving.manifest.child(&gvk);
    if is_reserved(&gvk) {
        return refuse(Code::ReservedKind, format!("{gvk} is a kind that no plugin may write"));
    }
    if rule.is_none() {
        let allowed: Vec<_> = inputs.serving.manifest.children.iter().map(|c| c.kind.to_string()).collect();
        return refuse(
            Code::KindNotAllowed,
            format!("{gvk} is not among its children ({})", allowed.join(", ")),
        );
    }
    let kind = (inputs.kinds)(&gvk).ok_or_else(|| PlanError::NoKind(gvk.clone()))?;
    let object = identity(inputs, &kind, &body)?;
    body.remove("status");
    if &*gvk.kind == "Secret" && gvk.group.is_empty() && body.contains_key("stringData") {
        return refuse(
            Code::UnsupportedField,
            format!("{object}: stringData is written only, so drift cannot be seen; use data with base64"),
        );
    }
    let metadata = metadata(inputs, &object, &body)?;
    body.insert("metadata".into(), Value::Object(metadata));
    Ok(finish(kind, object, body))
}

fn finish(kind: Kind, object: ObjectRef, body: Map<String, Value>) -> Child {
    let mut body = Value::Object(body);
    let wanted = hash_of(&body);
    body["metadata"]["annotations"][ANNOTATION_APPLIED] = wanted.clone().into();
    Child { kind, object, body, wanted }
}

/// A hash of a value that does not depend on the order of its fields.
pub(super) fn hash_of(value: &Value) -> String {
    let mut text = String::new();
    write_sorted(value, &mut text);
    format!("{:016x}", hash64(text.as_bytes()))
}

fn write_sorted(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<_> = fields.keys().collect();
            names.sort_unstable();
            out.push('{');
            for name in names {
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                write_sorted(&fields[name], out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                write_sorted(item, out);
                out.push(',');
            }
            out.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            out.push_str(&value.to_string())
        }
    }
}

/// Parses text that must be one JSON object.
pub(super) fn parse_object(text: &str, what: &str) -> Result<Map<String, Value>, PlanError> {
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => refuse(
            Code::NotAnObject,
            format!("{what}: expected a JSON object, found {}", printable(&other.to_string(), 64)),
        ),
        Err(e) => refuse(
            Code::InvalidJson,
            format!("{what} at {}:{}: {}", e.line(), e.column(), printable(text, 64)),
        ),
    }
}

fn kind_of(body: &Map<String, Value>) -> Result<Gvk, PlanError> {
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        return refuse(Code::NotAnObject, "a child: apiVersion or kind is missing");
    };
    match Gvk::from_api_version(api_version, kind) {
        Ok(gvk)
            if !kind.ends_with("List") || body.contains_key("metadata") && !body.contains_key("items") =>
        {
            Ok(gvk)
        }
        Ok(gvk) => refuse(Code::NotAnObject, format!("{gvk} is a list; return each object by itself")),
        Err(e) => refuse(Code::NotAnObject, format!("a child: {e}")),
    }
}

fn identity(inputs: &Inputs<'_>, kind: &Kind, body: &Map<String, Value>) -> Result<ObjectRef, PlanError> {
    let metadata = body.get("metadata").and_then(Value::as_object);
    let text = |name: &str| metadata.and_then(|m| m.get(name)).and_then(Value::as_str);
    let Some(name) = text("name").filter(|n| !n.is_empty()) else {
        return refuse(Code::NotAnObject, format!("{}: metadata.name is missing", kind.gvk));
    };
    if !is_path_segment(name) {
        return refuse(Code::BadName, format!("{}: {name:?} cannot be an object's name", kind.gvk));
    }
    let of_primary = &*inputs.primary.meta().namespace;
    let namespace = match (kind.namespaced, text("namespace").filter(|n| !n.is_empty())) {
        (false, _) if inputs.primary_kind.namespaced => {
            return refuse(
                Code::NamespaceEscape,
                format!("{} {name} is cluster-scoped, its primary is not: it could not be owned", kind.gvk),
            );
        }
        (false, _) => "",
        (true, None) if of_primary.is_empty() => {
            return refuse(
                Code::NamespaceEscape,
                format!("{} {name}: metadata.namespace is missing, and the primary has none", kind.gvk),
            );
        }
        (true, None) => of_primary,
        (true, Some(ns)) if !of_primary.is_empty() && ns != of_primary => {
            return refuse(
                Code::NamespaceEscape,
                format!("{} {name} is for namespace {ns:?}, its primary is in {of_primary:?}", kind.gvk),
            );
        }
        (true, Some(ns)) if !is_dns_label(ns, 63) => {
            return refuse(Code::BadName, format!("{ns:?} cannot be a namespace"));
        }
        (true, Some(ns)) => ns,
    };
    Ok(ObjectRef { gvk: kind.gvk.clone(), namespace: namespace.into(), name: name.into() })
}

fn metadata(
    inputs: &Inputs<'_>,
    object: &ObjectRef,
    body: &Map<String, Value>,
) -> Result<Map<String, Value>, PlanError> {
    let mut metadata = Map::new();
    let mut labels = Map::new();
    let mut annotations = Map::new();
    let given = body.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    for (name, value) in given {
        match (name.as_str(), value) {
            ("name" | "namespace", _) => {}
            ("labels", value) => labels = strings(object, "labels", value)?,
            ("annotations", value) => annotations = strings(object, "annotations", value)?,
            (name, _) if SERVER_SET.contains(&name) => {}
            (_, Value::Null) => {}
            (name, _) => {
                return refuse(
                    Code::ReservedField,
                    format!("{object}: metadata.{name} is the host's to set; leave it out"),
                );
            }
        }
    }
    labels.insert(LABEL_OWNED_BY.into(), inputs.key.plugin.as_str().into());
    labels.insert(LABEL_HOST.into(), inputs.host_namespace.into());
    annotations.insert(ANNOTATION_PRIMARY.into(), inputs.key.primary().into());
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

/// Labels or annotations of a guest: strings only, and none of ours.
fn strings(object: &ObjectRef, field: &str, value: Value) -> Result<Map<String, Value>, PlanError> {
    let map = match value {
        Value::Null => return Ok(Map::new()),
        Value::Object(map) => map,
        _ => {
            return refuse(Code::NotAnObject, format!("{object}: metadata.{field} is not an object"));
        }
    };
    for (name, value) in &map {
        let ours = name.split('/').next().is_some_and(|domain| name.contains('/') && domain == DOMAIN);
        if ours {
            return refuse(
                Code::ReservedField,
                format!("{object}: metadata.{field} {name:?} is the host's to set; leave it out"),
            );
        }
        if !value.is_string() {
            return refuse(
                Code::NotAnObject,
                format!("{object}: metadata.{field} {name:?} is not a string; quote it"),
            );
        }
    }
    Ok(map)
}

/// Ends a check with a refusal.
pub(super) fn refuse<T>(code: Code, message: impl AsRef<str>) -> Result<T, PlanError> {
    Err(PlanError::Refused(Refusal::new(code, message)))
}

//! Which object a child is: kind, scope, namespace and name, all from checked parts.

use serde_json::{Map, Value};

use super::child::{refuse, shown};
use super::{Inputs, PlanError};
use crate::code::Code;
use crate::key::ObjectRef;
use crate::kind::{Gvk, Kind};
use crate::name::{is_dns_label, is_path_segment};

/// The kind that a child says it is of.
pub(super) fn kind_of(what: &str, body: &Map<String, Value>) -> Result<Gvk, PlanError> {
    let text = |name: &str| match body.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        Some(Value::String(_)) | None => refuse(Code::NotAnObject, format!("{what}: {name} is missing")),
        Some(_) => refuse(Code::NotAnObject, format!("{what}: {name} is not a text")),
    };
    let (api_version, kind) = (text("apiVersion")?, text("kind")?);
    let gvk = Gvk::from_api_version(api_version, kind);
    let gvk = gvk.or_else(|e| refuse(Code::NotAnObject, format!("{what}: {e}")))?;
    if kind.ends_with("List") && (body.contains_key("items") || !body.contains_key("metadata")) {
        return refuse(Code::NotAnObject, format!("{what}: {gvk} is a list; return each object by itself"));
    }
    Ok(gvk)
}

/// A child's metadata; nothing when it has none.
pub(super) fn metadata_of<'a>(
    what: &str,
    body: &'a Map<String, Value>,
) -> Result<Option<&'a Map<String, Value>>, PlanError> {
    match body.get("metadata") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(metadata)) => Ok(Some(metadata)),
        Some(_) => refuse(Code::NotAnObject, format!("{what}: metadata is not an object")),
    }
}

/// The name of a child of this kind, in a namespace where it may be.
pub(super) fn identity(
    inputs: &Inputs<'_>,
    kind: &Kind,
    metadata: Option<&Map<String, Value>>,
) -> Result<ObjectRef, PlanError> {
    let gvk = &kind.gvk;
    let text = |field: &str| match metadata.and_then(|m| m.get(field)) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => refuse(Code::NotAnObject, format!("{gvk}: metadata.{field} is not a text; quote it")),
    };
    if text("generateName")?.is_some() {
        return refuse(
            Code::UnsupportedField,
            format!(
                "{gvk}: with metadata.generateName each pass would make another object; set metadata.name"
            ),
        );
    }
    let Some(name) = text("name")? else {
        return refuse(Code::NotAnObject, format!("{gvk}: metadata.name is missing"));
    };
    if let Some(expected) = name_fault(gvk, name) {
        return refuse(
            Code::BadName,
            format!("{gvk}: {} cannot be an object's name: expected {expected}", shown(name)),
        );
    }
    let namespace = namespace(inputs, kind, name, text("namespace")?)?;
    Ok(ObjectRef { gvk: gvk.clone(), namespace: namespace.into(), name: name.into() })
}

/// What the API server expects of a name, when this one is not so.
fn name_fault(gvk: &Gvk, name: &str) -> Option<&'static str> {
    if !is_path_segment(name) {
        return Some("letters, digits, '-', '.', ':' and '_', at most 253 bytes");
    }
    // Of other groups only the server knows; it takes no more than a path segment.
    let known = !gvk.group.contains('.') || gvk.group.ends_with(".k8s.io");
    if &*gvk.kind == "Service" && gvk.group.is_empty() {
        let letter = name.as_bytes()[0].is_ascii_lowercase();
        let expected = "a-z, 0-9 and '-', a letter first, no '-' at the end, at most 63 bytes";
        return (!letter || !is_dns_label(name, 63)).then_some(expected);
    }
    let subdomain = name.split('.').all(|part| is_dns_label(part, 253));
    let granted = &*gvk.group == "rbac.authorization.k8s.io";
    (known && !granted && !subdomain).then_some(
        "a-z, 0-9, '-' and '.', with a letter or digit at the ends of each part, at most 253 bytes",
    )
}

fn namespace<'a>(
    inputs: &'a Inputs<'_>,
    kind: &Kind,
    name: &str,
    given: Option<&'a str>,
) -> Result<&'a str, PlanError> {
    let gvk = &kind.gvk;
    let of_primary = &*inputs.primary.meta().namespace;
    let why = match (kind.namespaced, given) {
        (false, _) if inputs.primary_kind.namespaced => {
            format!("{gvk} {name} is cluster-scoped, its primary is not: it could not be owned")
        }
        (false, Some(_)) => format!("{gvk} {name} is cluster-scoped; leave metadata.namespace out"),
        (false, None) => return Ok(""),
        (true, None) if of_primary.is_empty() => {
            format!("{gvk} {name}: metadata.namespace is missing, and the primary has none")
        }
        (true, None) => return Ok(of_primary),
        (true, Some(ns)) if !of_primary.is_empty() && ns != of_primary => {
            format!("{gvk} {name} is for namespace {}, its primary is in {of_primary}", shown(ns))
        }
        (true, Some(ns)) if !is_dns_label(ns, 63) => {
            let expected = "a-z, 0-9 and '-', at most 63 bytes";
            let why = format!("{gvk} {name}: {} cannot be a namespace: expected {expected}", shown(ns));
            return refuse(Code::BadName, why);
        }
        (true, Some(ns)) => return Ok(ns),
    };
    refuse(Code::NamespaceEscape, why)
}

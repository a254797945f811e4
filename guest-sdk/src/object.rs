//! Any Kubernetes object, without its Rust type.
//!
//! Typed models of Kubernetes' own kinds are large, and a reconciler looks at three fields of
//! them. So an object stays JSON, with accessors for what reconcilers look at. One that the host hands over stays text
//! until somebody looks at more of it than its kind: of most children nobody does, and values would be most of
//! the work of a pass.

use crate::{Fault, decode};
use serde::{Deserialize, Serialize, Serializer, de::DeserializeOwned};
use serde_json::Value;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fmt;

/// A Kubernetes object as JSON.
///
/// ```
/// use windlass::{Object, json};
///
/// let deployment = Object::from(json!({
///     "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "hello" },
///     "status": { "readyReplicas": 2 },
/// }));
/// assert_eq!(deployment.name(), "hello");
/// assert_eq!(deployment.number("/status/readyReplicas"), 2);
/// assert_eq!(deployment.number("/status/updatedReplicas"), 0);
/// ```
#[derive(Clone)]
pub struct Object(Form);

/// How the JSON is there.
#[derive(Clone)]
enum Form {
    /// As the host handed it over.
    Text(Box<Text>),
    /// As values.
    Tree(Value),
}

/// An object as text.
#[derive(Clone)]
struct Text {
    text: String,
    /// It as values, once somebody has asked for them.
    tree: OnceCell<Value>,
}

impl Object {
    /// What the host says an object is; `whose` names it in the fault.
    ///
    /// # Errors
    /// Permanent if it is no JSON; the contract promises that it does not happen.
    pub(crate) fn parse(text: String, whose: &str) -> Result<Self, Fault> {
        match types(&text) {
            Some(_) => Ok(Self(Form::Text(Box::new(Text { text, tree: OnceCell::new() })))),
            None => decode::parse(&text, whose).map(Self::from),
        }
    }

    /// `apiVersion` and `kind`, as far as they are known without values.
    fn types(&self) -> Option<(&str, &str)> {
        match &self.0 {
            Form::Text(text) => types(&text.text),
            Form::Tree(_) => None,
        }
    }

    /// The `apiVersion`; empty if there is none.
    #[must_use]
    pub fn api_version(&self) -> &str {
        self.types().map_or_else(|| self.text("/apiVersion").unwrap_or_default(), |(version, _)| version)
    }

    /// The `kind`; empty if there is none.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.types().map_or_else(|| self.text("/kind").unwrap_or_default(), |(_, kind)| kind)
    }

    /// The name; empty if there is none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text("/metadata/name").unwrap_or_default()
    }

    /// The namespace; empty for a cluster-scoped object, and for a child that leaves it out.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.text("/metadata/namespace").unwrap_or_default()
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.as_value().get("metadata")?.get("labels")?.get(key)?.as_str()
    }

    /// The value of an annotation.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.as_value().get("metadata")?.get("annotations")?.get(key)?.as_str()
    }

    /// What stands at a JSON pointer (RFC 6901) such as `/spec/ports/0/port`.
    #[must_use]
    pub fn at(&self, pointer: &str) -> Option<&Value> {
        self.as_value().pointer(pointer)
    }

    /// The text at a JSON pointer; nothing if there is none or it is no text.
    #[must_use]
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.at(pointer)?.as_str()
    }

    /// The whole number at a JSON pointer; 0 if there is none, which is what Kubernetes means by
    /// leaving a counter out.
    #[must_use]
    pub fn number(&self, pointer: &str) -> i64 {
        self.at(pointer).and_then(Value::as_i64).unwrap_or(0)
    }

    /// What stands at a JSON pointer as a Rust value; an empty pointer is the whole object.
    ///
    /// # Errors
    /// Permanent, with the path of the value that does not fit. A missing value is read as `null`.
    pub fn read<T: DeserializeOwned>(&self, pointer: &str) -> Result<T, Fault> {
        let value = self.at(pointer).unwrap_or(&Value::Null);
        let whose = format!("{} {}{pointer}", self.kind(), self.name());
        match (self.api_version(), self.kind()) {
            ("v1", "Secret") => decode::decode_quietly(value, &whose),
            _ => decode::decode(value, &whose),
        }
    }

    /// The status of a condition: `Some(true)` for `True`, `Some(false)` for `False`, nothing if
    /// it is unknown or absent.
    #[must_use]
    pub fn condition(&self, name: &str) -> Option<bool> {
        let conditions = self.at("/status/conditions")?.as_array()?;
        let found = conditions.iter().find(|each| each.get("type").and_then(Value::as_str) == Some(name))?;
        match found.get("status").and_then(Value::as_str)? {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        }
    }

    /// Whether the object's own controller has seen its latest spec: `status.observedGeneration`
    /// has reached `metadata.generation`. What the status says before that is about an older spec.
    #[must_use]
    pub fn observed(&self) -> bool {
        self.number("/status/observedGeneration") >= self.number("/metadata/generation")
    }

    /// The JSON itself.
    #[must_use]
    pub fn as_value(&self) -> &Value {
        match &self.0 {
            Form::Text(text) => text.tree.get_or_init(|| values(&text.text)),
            Form::Tree(value) => value,
        }
    }

    /// The JSON itself, by value.
    #[must_use]
    pub fn into_value(self) -> Value {
        match self.0 {
            Form::Text(text) => text.tree.into_inner().unwrap_or_else(|| values(&text.text)),
            Form::Tree(value) => value,
        }
    }
}

/// `apiVersion` and `kind` of an object whose text begins with them, as all do that the host hands over. Neither has
/// anything in it that would have to be escaped.
fn types(text: &str) -> Option<(&str, &str)> {
    let (api_version, rest) = text.strip_prefix(r#"{"apiVersion":""#)?.split_once('"')?;
    let (kind, _) = rest.strip_prefix(r#","kind":""#)?.split_once('"')?;
    (!api_version.contains('\\') && !kind.contains('\\')).then_some((api_version, kind))
}

/// The values of an object's text.
///
/// # Panics
/// If it is no JSON; the contract promises that it does not happen.
fn values(text: &str) -> Value {
    match decode::parse(text, "an object of the host") {
        Ok(value) => value,
        Err(fault) => panic!("{fault}"),
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Object").field(self.as_value()).finish()
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.as_value() == other.as_value()
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_value().serialize(serializer)
    }
}

impl From<Value> for Object {
    fn from(value: Value) -> Self {
        Self(Form::Tree(value))
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        object.into_value()
    }
}

/// What a reconciler usually needs of `metadata`; absent fields are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct Meta {
    /// Name of the object, at most 253 bytes.
    pub name: String,
    /// Namespace; empty for a cluster-scoped object.
    pub namespace: String,
    /// Unique among all objects that ever were, unlike the name.
    pub uid: String,
    /// Counts changes of the spec, from 1.
    pub generation: i64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// When it was created, in RFC 3339.
    #[serde(rename = "creationTimestamp")]
    pub created: String,
    /// When its deletion was asked for, in RFC 3339; only there in a finalize step.
    #[serde(rename = "deletionTimestamp")]
    pub deleted: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    fn deployment() -> Object {
        Object::from(json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": "hello", "generation": 3,
                "labels": { "app.kubernetes.io/name": "webapp" },
                "annotations": { "note": "x" },
            },
            "status": {
                "observedGeneration": 2,
                "conditions": [
                    { "type": "Available", "status": "True" },
                    { "type": "Progressing", "status": "False" },
                    { "type": "Odd", "status": "Unknown" },
                ],
            },
        }))
    }

    #[test]
    fn metadata_with_slashes_and_dots_is_found() {
        let object = deployment();
        assert_eq!(object.label("app.kubernetes.io/name"), Some("webapp"));
        assert_eq!(object.annotation("note"), Some("x"));
        assert_eq!(object.annotation("none"), None);
        assert_eq!(object.namespace(), "");
    }

    #[test]
    fn text_of_the_host_is_the_object_that_its_values_are() {
        let values = deployment();
        let text = Object::parse(values.as_value().to_string(), "a child").expect("an object");
        assert_eq!((text.api_version(), text.kind()), ("apps/v1", "Deployment"));
        assert!(matches!(&text.0, Form::Text(text) if text.tree.get().is_none()), "so much is known without");
        assert_eq!((text.name(), text.namespace()), ("hello", ""));
        assert_eq!(text.label("app.kubernetes.io/name"), Some("webapp"));
        assert_eq!(text, values);
        assert_eq!(text.into_value(), values.into_value());
    }

    #[test]
    fn text_that_begins_otherwise_is_read_all_the_same() {
        for odd in [
            r#"{"kind":"A","apiVersion":"v1"}"#,
            r#"{"apiVersion":"v1","kind":7,"metadata":null}"#,
            r#"{"apiVersion":"v\u0031","kind":"A"}"#,
            r#" {"apiVersion":"v1","kind":"A"}"#,
            "[]",
        ] {
            let object = Object::parse(odd.to_owned(), "a child").expect("JSON");
            let values = Object::from(serde_json::from_str::<Value>(odd).expect("JSON"));
            assert_eq!((object.api_version(), object.kind()), (values.api_version(), values.kind()), "{odd}");
            assert_eq!(object, values);
        }
        let fault = Object::parse("{".to_owned(), "a child").expect_err("no JSON");
        assert!(fault.to_string().starts_with("a child: EOF"), "{fault}");
    }

    #[test]
    fn a_status_about_an_older_spec_is_recognised() {
        let object = deployment();
        assert!(!object.observed());
        assert_eq!(object.condition("Available"), Some(true));
        assert_eq!(object.condition("Progressing"), Some(false));
        assert_eq!(object.condition("Odd"), None);
        assert_eq!(object.condition("Absent"), None);
    }

    #[test]
    fn what_a_secret_holds_is_in_no_fault() {
        let secret = Object::from(serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"}, "data": {"port": "aHVudGVyMg=="},
        }));
        let fault = secret.read::<BTreeMap<String, u16>>("/data").expect_err("text is no number");
        assert_eq!(
            fault,
            Fault::permanent(
                "Secret login/data does not fit: at `port`: not of the expected type; what a Secret holds is not shown"
            )
        );
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named_with_its_path() {
        let object = deployment();
        let names: BTreeMap<String, String> = object.read("/metadata/labels").expect("text");
        assert_eq!(names.len(), 1);
        let fault = object.read::<BTreeMap<String, u32>>("/metadata/labels").expect_err("text is no number");
        assert_eq!(
            fault,
            Fault::permanent(
                "Deployment hello/metadata/labels does not fit: at `app.kubernetes.io/name`: invalid type: string \"webapp\", expected u32"
            )
        );
    }
}

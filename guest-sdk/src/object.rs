//! Any Kubernetes object, without its Rust type.
//!
//! Typed models of Kubernetes' own kinds are large, and a reconciler looks at three fields of
//! them. So an object stays JSON, with accessors for what reconcilers look at.

use crate::{Fault, decode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::collections::BTreeMap;

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
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Object(Value);

impl Object {
    /// The `apiVersion`; empty if there is none.
    #[must_use]
    pub fn api_version(&self) -> &str {
        self.text("/apiVersion").unwrap_or_default()
    }

    /// The `kind`; empty if there is none.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.text("/kind").unwrap_or_default()
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
        self.0.get("metadata")?.get("labels")?.get(key)?.as_str()
    }

    /// The value of an annotation.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.0.get("metadata")?.get("annotations")?.get(key)?.as_str()
    }

    /// What stands at a JSON pointer (RFC 6901) such as `/spec/ports/0/port`.
    #[must_use]
    pub fn at(&self, pointer: &str) -> Option<&Value> {
        self.0.pointer(pointer)
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
        decode::decode(value, &whose)
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
        &self.0
    }

    /// The JSON itself, by value.
    #[must_use]
    pub fn into_value(self) -> Value {
        self.0
    }
}

impl From<Value> for Object {
    fn from(value: Value) -> Self {
        Self(value)
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        object.0
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
    fn a_status_about_an_older_spec_is_recognised() {
        let object = deployment();
        assert!(!object.observed());
        assert_eq!(object.condition("Available"), Some(true));
        assert_eq!(object.condition("Progressing"), Some(false));
        assert_eq!(object.condition("Odd"), None);
        assert_eq!(object.condition("Absent"), None);
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

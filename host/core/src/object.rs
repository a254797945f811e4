//! Observed objects: their JSON without `managedFields`, and the few metadata
//! fields that the host needs, read once.
//!
//! Nothing here knows a kind's Go or Rust type: an object of any kind costs its
//! bytes and a small header. `managedFields`, often half of an object, is dropped;
//! of it only a hash of each of *our* entries stays, which changes exactly when
//! somebody else takes over a field that we own.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::key::{Key, ObjectRef};
use crate::kind::Gvk;
use crate::name::{ANNOTATION_APPLIED, ANNOTATION_PRIMARY, LABEL_HOST, LABEL_OWNED_BY};

/// One object as last seen. Shared, never changed.
#[derive(Debug)]
pub struct Object {
    json: Box<str>,
    meta: Meta,
}

/// The metadata that the host reads. Strings are as the API server wrote them.
#[derive(Debug, Default)]
pub struct Meta {
    /// Name.
    pub name: Arc<str>,
    /// Namespace; empty when cluster-scoped.
    pub namespace: Arc<str>,
    /// Unique for this incarnation of the name.
    pub uid: Arc<str>,
    /// Changes with each write; the newest of two is the greater number.
    pub resource_version: Arc<str>,
    /// Counts changes of the spec; 0 when the kind does not count.
    pub generation: i64,
    /// Whether deletion has begun.
    pub deleting: bool,
    /// Labels.
    pub labels: BTreeMap<Box<str>, Box<str>>,
    /// Our annotations (`windlass.dev/…`) only.
    pub annotations: BTreeMap<Box<str>, Box<str>>,
    /// Finalizers.
    pub finalizers: Vec<Box<str>>,
    /// The uid of the owner whose reference says `controller: true`.
    pub controller_uid: Option<Arc<str>>,
    /// Hash of each managedFields entry of an Apply by a manager `windlass/…`.
    pub entries: Vec<Entry>,
}

/// One of our own managedFields entries, as a hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The field manager, `windlass/<plugin>`.
    pub manager: Box<str>,
    /// Whether it is the entry for the status subresource.
    pub status: bool,
    /// Hash of its `fieldsV1`.
    pub hash: u64,
}

/// Why a text is not an object.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// Not JSON, or `metadata` has another shape.
    #[error("parse object")]
    Parse(#[from] serde_json::Error),
    /// A field that every stored object has is missing.
    #[error("object has no {0}")]
    Missing(&'static str),
}

#[derive(Deserialize)]
struct RawMeta<'a> {
    name: Option<Arc<str>>,
    namespace: Option<Arc<str>>,
    uid: Option<Arc<str>>,
    #[serde(rename = "resourceVersion")]
    resource_version: Option<Arc<str>>,
    generation: Option<i64>,
    #[serde(rename = "deletionTimestamp", borrow)]
    deletion_timestamp: Option<&'a RawValue>,
    labels: Option<BTreeMap<Box<str>, Box<str>>>,
    #[serde(borrow)]
    annotations: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
    finalizers: Option<Vec<Box<str>>>,
    #[serde(rename = "ownerReferences")]
    owner_references: Option<Vec<RawOwner>>,
    #[serde(rename = "managedFields", borrow)]
    managed_fields: Option<Vec<RawEntry<'a>>>,
}

#[derive(Deserialize)]
struct RawOwner {
    uid: Arc<str>,
    #[serde(default)]
    controller: bool,
}

#[derive(Deserialize)]
struct RawEntry<'a> {
    #[serde(default)]
    manager: Cow<'a, str>,
    #[serde(default)]
    operation: Cow<'a, str>,
    #[serde(default)]
    subresource: Cow<'a, str>,
    #[serde(rename = "fieldsV1", borrow)]
    fields: Option<&'a RawValue>,
}

impl Object {
    /// Reads one object. Items of a list carry no `apiVersion` and `kind` of their
    /// own: they are filled in from `gvk`, so that a plugin always sees them.
    ///
    /// # Errors
    /// [`ObjectError`] when it is not JSON or lacks `metadata` with a name.
    pub fn parse(gvk: &Gvk, text: &str) -> Result<Self, ObjectError> {
        let fields: Fields<'_> = serde_json::from_str(text)?;
        let metadata = fields.get("metadata").ok_or(ObjectError::Missing("metadata"))?;
        let meta = Meta::from_raw(serde_json::from_str(metadata.get())?)?;
        let mut json = String::with_capacity(text.len());
        json.push('{');
        for (name, text) in [("apiVersion", gvk.api_version()), ("kind", gvk.kind.to_string())] {
            push_field(&mut json, name, &format!("\"{text}\""));
        }
        for (name, value) in &fields.0 {
            match &**name {
                "apiVersion" | "kind" => {}
                "metadata" => push_field(&mut json, name, &without_managed_fields(value.get())?),
                _ => push_field(&mut json, name, value.get()),
            }
        }
        json.push('}');
        Ok(Self { json: json.into_boxed_str(), meta })
    }

    /// The object as JSON text, without `managedFields`.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The metadata that was read when the object arrived.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The object as a value; for pure code that compares fields.
    pub fn value(&self) -> serde_json::Value {
        serde_json::from_str(&self.json).unwrap_or_default()
    }

    /// This object's name as one of kind `gvk`.
    pub fn reference(&self, gvk: &Gvk) -> ObjectRef {
        ObjectRef { gvk: gvk.clone(), namespace: self.meta.namespace.clone(), name: self.meta.name.clone() }
    }

    /// Its kind, as it says in its own text.
    pub fn gvk(&self) -> Option<Gvk> {
        #[derive(Deserialize)]
        struct Types<'a> {
            #[serde(rename = "apiVersion", borrow)]
            api_version: Cow<'a, str>,
            #[serde(borrow)]
            kind: Cow<'a, str>,
        }
        let types: Types<'_> = serde_json::from_str(&self.json).ok()?;
        Gvk::from_api_version(&types.api_version, &types.kind).ok()
    }
}

impl Meta {
    fn from_raw(raw: RawMeta<'_>) -> Result<Self, ObjectError> {
        Ok(Self {
            name: raw.name.ok_or(ObjectError::Missing("metadata.name"))?,
            namespace: raw.namespace.unwrap_or_default(),
            uid: raw.uid.unwrap_or_default(),
            resource_version: raw.resource_version.unwrap_or_default(),
            generation: raw.generation.unwrap_or(0),
            deleting: raw.deletion_timestamp.is_some(),
            labels: raw.labels.unwrap_or_default(),
            annotations: raw
                .annotations
                .unwrap_or_default()
                .into_iter()
                .filter(|(name, _)| name.starts_with("windlass.dev/"))
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            finalizers: raw.finalizers.unwrap_or_default(),
            controller_uid: raw
                .owner_references
                .unwrap_or_default()
                .into_iter()
                .find(|owner| owner.controller)
                .map(|owner| owner.uid),
            entries: raw.managed_fields.unwrap_or_default().iter().filter_map(RawEntry::ours).collect(),
        })
    }

    /// The key of the primary that this object is a child of, by our inventory
    /// for the host in `host_namespace`; nothing for everybody else's objects.
    pub fn owner(&self, host_namespace: &str) -> Option<Key> {
        if self.labels.get(LABEL_HOST).map(|v| &**v) != Some(host_namespace) {
            return None;
        }
        Key::from_child(self.labels.get(LABEL_OWNED_BY)?, self.annotations.get(ANNOTATION_PRIMARY)?)
    }

    /// Hash of the configuration that was applied last, from its annotation.
    pub fn applied(&self) -> Option<&str> {
        self.annotations.get(ANNOTATION_APPLIED).map(|v| &**v)
    }

    /// Hash of our Apply entry for the object itself or for its status.
    pub fn entry(&self, manager: &str, status: bool) -> Option<u64> {
        self.entries.iter().find(|e| &*e.manager == manager && e.status == status).map(|e| e.hash)
    }

    /// `resourceVersion` as a number; 0 when it is not one. The API server promises
    /// that versions of one kind compare as integers.
    pub fn version(&self) -> u64 {
        version_number(&self.resource_version)
    }

    /// Whether the object carries all these labels.
    pub fn has_labels(&self, wanted: &[(String, String)]) -> bool {
        wanted.iter().all(|(k, v)| self.labels.get(&**k).is_some_and(|have| **have == **v))
    }
}

impl RawEntry<'_> {
    fn ours(&self) -> Option<Entry> {
        if self.operation != "Apply" || !self.manager.starts_with("windlass/") {
            return None;
        }
        Some(Entry {
            manager: self.manager.as_ref().into(),
            status: self.subresource == "status",
            hash: hash64(self.fields.map_or("", |f| f.get()).as_bytes()),
        })
    }
}

/// A `resourceVersion` as a number; 0 when it is not one.
pub fn version_number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

/// The first eight bytes of a sha256: stable across processes and versions.
pub fn hash64(bytes: &[u8]) -> u64 {
    let sum = Sha256::digest(bytes);
    u64::from_be_bytes([sum[0], sum[1], sum[2], sum[3], sum[4], sum[5], sum[6], sum[7]])
}

fn without_managed_fields(metadata: &str) -> Result<String, serde_json::Error> {
    let fields: Fields<'_> = serde_json::from_str(metadata)?;
    let mut out = String::with_capacity(metadata.len());
    out.push('{');
    for (name, value) in fields.0.iter().filter(|(name, _)| name != "managedFields") {
        push_field(&mut out, name, value.get());
    }
    out.push('}');
    Ok(out)
}

fn push_field(out: &mut String, name: &str, value: &str) {
    if out.len() > 1 {
        out.push(',');
    }
    // Names came out of a JSON parser; escape them again for the rare odd one.
    out.push_str(&serde_json::Value::from(name).to_string());
    out.push(':');
    out.push_str(value);
}

/// The fields of one JSON object in order, their values unparsed.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| *v)
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> serde::de::Visitor<'de> for Visit {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    fields.push((name.0, value));
                }
                Ok(Fields(fields))
            }
        }
        from.deserialize_map(Visit)
    }
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    const CHILD: &str = r#"{"metadata":{"name":"a-cfg","namespace":"ns","uid":"u1","resourceVersion":"42","generation":3,
        "labels":{"windlass.dev/owned-by":"webapp","windlass.dev/host":"windlass-system","x":"y"},
        "annotations":{"windlass.dev/primary":"ns/a","windlass.dev/applied":"h1","other":"dropped from the header"},
        "ownerReferences":[{"uid":"p0"},{"uid":"p1","controller":true}],
        "managedFields":[{"manager":"windlass/webapp","operation":"Apply","fieldsV1":{"f:data":{}}},
                         {"manager":"windlass/webapp","operation":"Apply","subresource":"status","fieldsV1":{}},
                         {"manager":"kubectl","operation":"Update","fieldsV1":{"f:x":{}}}]},
        "data":{"k":"v \u00fc"}}"#;

    fn config_map() -> Gvk {
        "v1/ConfigMap".parse().expect("valid")
    }

    #[test]
    fn managed_fields_are_dropped_and_everything_else_kept() {
        let object = Object::parse(&config_map(), CHILD).expect("valid");
        let mut want: serde_json::Value = serde_json::from_str(CHILD).expect("valid");
        want["apiVersion"] = "v1".into();
        want["kind"] = "ConfigMap".into();
        want["metadata"].as_object_mut().expect("object").remove("managedFields");
        assert_eq!(object.value(), want);
        assert_eq!(object.gvk(), Some(config_map()));
    }

    #[test]
    fn the_header_holds_what_the_host_needs() {
        let object = Object::parse(&config_map(), CHILD).expect("valid");
        let meta = object.meta();
        assert_eq!((&*meta.name, meta.version(), meta.generation), ("a-cfg", 42, 3));
        assert_eq!(meta.controller_uid.as_deref(), Some("p1"));
        assert_eq!(meta.applied(), Some("h1"));
        assert_eq!(meta.owner("windlass-system").map(|k| k.to_string()), Some("webapp:ns/a".into()));
        assert_eq!(meta.owner("another-host"), None);
        assert_eq!(meta.entries.len(), 2);
        assert_ne!(meta.entry("windlass/webapp", false), meta.entry("windlass/webapp", true));
        assert_eq!(meta.annotations.len(), 2);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for bad in ["", "[]", "{}", r#"{"metadata":{}}"#, r#"{"metadata":{"name":"a"}"#, "\u{feff}{}"] {
            assert!(Object::parse(&config_map(), bad).is_err(), "{bad}");
        }
    }
}

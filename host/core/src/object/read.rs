//! Reading an object's text, once: every event and every answer to a write comes through here.
//!
//! The fields stay the text that they are, but for `metadata`: of that the host needs a few, and `managedFields`,
//! often half of the text, is read where it stands and nowhere kept. So no byte of the body is looked at twice.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::packed::Packed;
use super::{Meta, ObjectError, hash64};

/// A text that is borrowed from the JSON where nothing in it was escaped. (Derived code
/// borrows a `Cow` by itself only where it is a field, not within a map or a list.)
#[derive(Deserialize, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// The fields of one JSON object in order, their values unparsed.
pub(super) struct Fields<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

/// One object: all its fields in order, and what `metadata` says.
pub(super) struct Whole<'a> {
    /// `None` stands where `metadata` does; if it is there twice, where the last one does.
    pub(super) fields: Vec<(Cow<'a, str>, Option<&'a RawValue>)>,
    metadata: Option<Metadata<'a>>,
}

/// The fields of `metadata`.
pub(super) struct Metadata<'a> {
    /// All but `managedFields`, in order.
    pub(super) fields: Fields<'a>,
    managed: Vec<RawEntry<'a>>,
}

/// Fields for which there is room at first: few objects have more, in themselves or in their metadata.
const FIELDS: usize = 12;

/// Whether fields beside `metadata` are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of them.
    All,
    /// None: they are passed over.
    Metadata,
}

#[derive(Deserialize)]
struct RawOwner<'a> {
    #[serde(borrow)]
    uid: Text<'a>,
    #[serde(default)]
    controller: bool,
}

#[derive(Deserialize)]
struct RawEntry<'a> {
    #[serde(borrow, default)]
    manager: Text<'a>,
    #[serde(borrow, default)]
    operation: Text<'a>,
    #[serde(borrow, default)]
    subresource: Text<'a>,
    #[serde(rename = "fieldsV1", borrow)]
    fields: Option<&'a RawValue>,
}

impl<'a> Whole<'a> {
    /// Reads one JSON object, and nothing beside it. Its metadata is given apart.
    ///
    /// # Errors
    /// [`ObjectError`] when it is not one, or `metadata` is missing or has another shape.
    pub(super) fn read(text: &'a str, wanted: Wanted) -> Result<(Self, Metadata<'a>), ObjectError> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let mut whole = wanted.deserialize(&mut reader)?;
        reader.end()?;
        let metadata = whole.metadata.take().ok_or(ObjectError::Missing("metadata"))?;
        Ok((whole, metadata))
    }
}

impl<'a> Fields<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        // The last one, as every JSON parser of Kubernetes has it.
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, v)| *v)
    }

    /// The value of a field; nothing when it is absent or null.
    fn read<T: Deserialize<'a>>(&self, name: &str) -> Result<Option<T>, serde_json::Error> {
        self.get(name).map_or(Ok(None), |value| serde_json::from_str(value.get()))
    }

    fn text(&self, name: &str) -> Result<Option<Arc<str>>, serde_json::Error> {
        Ok(self.read::<Text<'a>>(name)?.map(|text| Arc::from(&*text.0)))
    }
}

impl Metadata<'_> {
    /// What the host needs of it.
    ///
    /// # Errors
    /// [`ObjectError`] when there is no name, or a field has another shape.
    pub(super) fn meta(&self) -> Result<Meta, ObjectError> {
        type Texts<'a> = BTreeMap<Text<'a>, Text<'a>>;
        let fields = &self.fields;
        let labels: Texts<'_> = fields.read("labels")?.unwrap_or_default();
        let mut annotations: Texts<'_> = fields.read("annotations")?.unwrap_or_default();
        annotations.retain(|name, _| name.0.starts_with("windlass.dev/"));
        let finalizers: Vec<Text<'_>> = fields.read("finalizers")?.unwrap_or_default();
        let owners: Vec<RawOwner<'_>> = fields.read("ownerReferences")?.unwrap_or_default();
        let ours = || self.managed.iter().filter(|entry| entry.is_ours());
        Ok(Meta {
            name: fields.text("name")?.ok_or(ObjectError::Missing("metadata.name"))?,
            namespace: fields.text("namespace")?.unwrap_or_default(),
            uid: fields.text("uid")?.unwrap_or_default(),
            resource_version: fields.text("resourceVersion")?.unwrap_or_default(),
            generation: fields.read("generation")?.unwrap_or(0),
            deleting: fields.read::<IgnoredAny>("deletionTimestamp")?.is_some(),
            metadata_only: false,
            controller_uid: owners
                .iter()
                .find(|owner| owner.controller)
                .map(|owner| Arc::from(&*owner.uid.0)),
            packed: Packed::new(
                labels.iter().map(|(name, value)| (&*name.0, &*value.0)),
                annotations.iter().map(|(name, value)| (&*name.0, &*value.0)),
                finalizers.iter().map(|finalizer| &*finalizer.0),
                ours().map(|entry| &*entry.manager.0),
            ),
            entries: ours().map(|entry| (entry.subresource.0 == "status", entry.hash())).collect(),
        })
    }
}

impl RawEntry<'_> {
    fn is_ours(&self) -> bool {
        self.operation.0 == "Apply" && self.manager.0.starts_with("windlass/")
    }

    fn hash(&self) -> u64 {
        hash64(self.fields.map_or("", |f| f.get()).as_bytes())
    }
}

impl<'de> DeserializeSeed<'de> for Wanted {
    type Value = Whole<'de>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Whole<'de>, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted {
    type Value = Whole<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Whole<'de>, A::Error> {
        let mut fields = Vec::with_capacity(if self == Wanted::All { FIELDS } else { 0 });
        let mut metadata = None;
        while let Some(Text(name)) = map.next_key()? {
            if name == "metadata" {
                fields.retain(|(_, value): &(_, Option<_>)| value.is_some());
                metadata = Some(map.next_value()?);
                fields.push((name, None));
            } else if self == Wanted::All {
                fields.push((name, Some(map.next_value()?)));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Whole { fields, metadata })
    }
}

impl<'de> Deserialize<'de> for Metadata<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Metadata<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("metadata as a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(FIELDS);
                let mut managed = None;
                while let Some(Text(name)) = map.next_key()? {
                    if name != "managedFields" {
                        fields.push((name, map.next_value()?));
                    } else if managed.replace(map.next_value::<Option<Vec<RawEntry<'de>>>>()?).is_some() {
                        return Err(A::Error::duplicate_field("managedFields"));
                    }
                }
                Ok(Metadata { fields: Fields(fields), managed: managed.flatten().unwrap_or_default() })
            }
        }
        from.deserialize_map(Visit)
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                    fields.push((name.0, value));
                }
                Ok(Fields(fields))
            }
        }
        from.deserialize_map(Visit)
    }
}

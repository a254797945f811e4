//! JSON values into the author's types, with the path of what does not fit.
//!
//! `serde_json` says line and column, which nobody who wrote YAML has ever seen. Here the path is
//! put together while an error travels outwards, so that nothing is paid when all is well.

use crate::Fault;
use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value, map};
use std::fmt;
use std::slice;

/// Deserializes a value; `whose` names it in the fault.
///
/// # Errors
/// Permanent: `<whose> does not fit: at `spec.ports[0]`: invalid type: ...`.
pub(crate) fn decode<T: DeserializeOwned>(value: &Value, whose: &str) -> Result<T, Fault> {
    T::deserialize(At(value)).map_err(|Misfit { path, message }| {
        let place = if path.is_empty() { String::new() } else { format!("at `{path}`: ") };
        Fault::permanent(format!("{whose} does not fit: {place}{message}"))
    })
}

/// As [`decode`], for values of a Secret: the fault names the path and repeats nothing that stands there.
///
/// # Errors
/// Permanent: `<whose> does not fit: at `port`: ...`.
pub(crate) fn decode_quietly<T: DeserializeOwned>(value: &Value, whose: &str) -> Result<T, Fault> {
    T::deserialize(At(value)).map_err(|Misfit { path, .. }| {
        let place = if path.is_empty() { String::new() } else { format!("at `{path}`: ") };
        Fault::permanent(format!(
            "{whose} does not fit: {place}not of the expected type; what a Secret holds is not shown"
        ))
    })
}

/// What does not fit, and where.
#[derive(Debug)]
struct Misfit {
    /// Path from the value that was decoded, such as `spec.ports[0]`.
    path: String,
    /// What serde says about it.
    message: String,
}

impl Misfit {
    /// The same, seen from the object that holds it.
    fn under_key(mut self, key: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{key}{dot}{}", self.path);
        self
    }

    /// The same, seen from the list that holds it.
    fn under_index(mut self, index: usize) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("[{index}]{dot}{}", self.path);
        self
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Misfit {}

impl de::Error for Misfit {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: String::new(), message: message.to_string() }
    }

    // The two that follow say what serde would say, in JSON's words and without printing
    // fractions, whose code would be a tenth of a component.
    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!("invalid type: {}, expected {expected}", Found(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!("invalid value: {}, expected {expected}", Found(found)))
    }
}

/// What was found, as a message says it.
struct Found<'a>(Unexpected<'a>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Unexpected::Bool(value) => write!(out, "boolean `{value}`"),
            Unexpected::Unsigned(value) => write!(out, "integer `{value}`"),
            Unexpected::Signed(value) => write!(out, "integer `{value}`"),
            Unexpected::Float(_) => out.write_str("a number with a fraction"),
            Unexpected::Str(text) => write!(out, "string {text:?}"),
            Unexpected::Unit | Unexpected::Option => out.write_str("null"),
            Unexpected::Seq => out.write_str("a list"),
            Unexpected::Map => out.write_str("an object"),
            Unexpected::UnitVariant => out.write_str("a variant without content"),
            Unexpected::Other(what) => out.write_str(what),
            _ => out.write_str("something else"),
        }
    }
}

/// A value to read from.
struct At<'a>(&'a Value);

impl<'de> Deserializer<'de> for At<'de> {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => {
                if let Some(value) = number.as_u64() {
                    visitor.visit_u64(value)
                } else if let Some(value) = number.as_i64() {
                    visitor.visit_i64(value)
                } else {
                    visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN))
                }
            }
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(list) => visitor.visit_seq(List { rest: list.iter(), index: 0 }),
            Value::Object(map) => visitor.visit_map(Fields { rest: map.iter(), current: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::String(variant) => visitor.visit_enum(Choice { variant, content: None }),
            Value::Object(map) => visitor.visit_enum(only_entry(map)?),
            other => Err(de::Error::invalid_type(unexpected(other), &"the name of a variant")),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier
    }
}

/// `{"variant": content}`.
fn only_entry(map: &Map<String, Value>) -> Result<Choice<'_>, Misfit> {
    let mut entries = map.iter();
    match (entries.next(), entries.next()) {
        (Some((variant, content)), None) => Ok(Choice { variant, content: Some(content) }),
        _ => Err(de::Error::invalid_value(Unexpected::Map, &"an object with exactly one field, the variant")),
    }
}

/// What serde calls the value in a message.
fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(value) => Unexpected::Bool(*value),
        Value::Number(_) => Unexpected::Other("a number"),
        Value::String(text) => Unexpected::Str(text),
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
    }
}

/// A list being read.
struct List<'a> {
    rest: slice::Iter<'a, Value>,
    /// Index of the next element.
    index: usize,
}

impl<'de> SeqAccess<'de> for List<'de> {
    type Error = Misfit;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Misfit> {
        let Some(value) = self.rest.next() else {
            return Ok(None);
        };
        let index = self.index;
        self.index += 1;
        seed.deserialize(At(value)).map(Some).map_err(|misfit| misfit.under_index(index))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// An object being read.
struct Fields<'a> {
    rest: map::Iter<'a>,
    /// The field whose key was handed out.
    current: Option<(&'a str, &'a Value)>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Misfit;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Misfit> {
        let Some((key, value)) = self.rest.next() else {
            return Ok(None);
        };
        self.current = Some((key, value));
        seed.deserialize(Key(key)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Misfit> {
        let (key, value) = self
            .current
            .take()
            .ok_or_else(|| <Misfit as de::Error>::custom("a value was read before its key"))?;
        seed.deserialize(At(value)).map_err(|misfit| misfit.under_key(key))
    }
}

/// The key of a field. Kubernetes has maps with numbers as keys, which JSON spells as text.
struct Key<'a>(&'a str);

impl<'de> Deserializer<'de> for Key<'de> {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        StrDeserializer::<Misfit>::new(self.0).deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// One variant of an enum.
struct Choice<'a> {
    variant: &'a str,
    /// What it holds; nothing for `"variant"`.
    content: Option<&'a Value>,
}

impl<'de> EnumAccess<'de> for Choice<'de> {
    type Error = Misfit;
    type Variant = Content<'de>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Content<'de>), Misfit> {
        let variant = seed.deserialize(Key(self.variant))?;
        Ok((variant, Content { variant: self.variant, content: self.content }))
    }
}

/// What a variant holds.
struct Content<'a> {
    variant: &'a str,
    content: Option<&'a Value>,
}

impl<'de> Content<'de> {
    /// The content; it must be there.
    fn required(&self) -> Result<At<'de>, Misfit> {
        self.content
            .map(At)
            .ok_or_else(|| de::Error::invalid_type(Unexpected::UnitVariant, &"a variant with content"))
    }
}

impl<'de> VariantAccess<'de> for Content<'de> {
    type Error = Misfit;

    fn unit_variant(self) -> Result<(), Misfit> {
        match self.content {
            None => Ok(()),
            Some(value) => {
                Deserialize::deserialize(At(value)).map_err(|misfit| misfit.under_key(self.variant))
            }
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Misfit> {
        seed.deserialize(self.required()?).map_err(|misfit| misfit.under_key(self.variant))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Misfit> {
        self.required()?.deserialize_any(visitor).map_err(|misfit| misfit.under_key(self.variant))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        self.tuple_variant(0, visitor)
    }
}

/// Parses text that the host handed over.
///
/// # Errors
/// Permanent, naming `whose` text it is; the contract promises that it does not happen.
pub(crate) fn parse(text: &str, whose: &str) -> Result<Value, Fault> {
    serde_json::from_str(text).map_err(|error| Fault::permanent(format!("{whose}: {error}")))
}

/// The JSON of a value. Not by its `Display`, which takes longer.
pub(crate) fn written(value: &Value) -> String {
    // Every value has one: this cannot fail.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;
    use std::collections::BTreeMap;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Port {
        number: u16,
        #[serde(default)]
        protocol: Protocol,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    enum Protocol {
        #[default]
        Tcp,
        Udp,
        Custom {
            id: u8,
        },
        Named(String),
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Spec {
        ports: Vec<Port>,
        #[serde(default)]
        weights: BTreeMap<String, f64>,
        note: Option<String>,
    }

    fn misfit(value: Value) -> String {
        decode::<Spec>(&value, "it").expect_err("refused").to_string()
    }

    #[test]
    fn every_shape_is_read() {
        let spec: Spec = decode(
            &json!({
                "ports": [
                    { "number": 80 },
                    { "number": 81, "protocol": "Udp", "unknown": [{}] },
                    { "number": 82, "protocol": { "Custom": { "id": 7 } } },
                    { "number": 83, "protocol": { "Named": "sctp" } },
                ],
                "weights": { "a": 1, "b": -2, "c": 0.5 },
                "note": null,
            }),
            "it",
        )
        .expect("fits");
        assert_eq!(spec.ports[0].protocol, Protocol::Tcp);
        assert_eq!(spec.ports[1].protocol, Protocol::Udp);
        assert_eq!(spec.ports[2].protocol, Protocol::Custom { id: 7 });
        assert_eq!(spec.ports[3].protocol, Protocol::Named("sctp".into()));
        assert_eq!(spec.weights["b"], -2.0);
        assert_eq!(spec.note, None);
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_path() {
        assert_eq!(
            misfit(json!({ "ports": [{ "number": 80 }, { "number": "eighty" }] })),
            "it does not fit: at `ports[1].number`: invalid type: string \"eighty\", expected u16"
        );
        assert_eq!(
            misfit(json!({ "ports": [{}] })),
            "it does not fit: at `ports[0]`: missing field `number`"
        );
        assert_eq!(misfit(json!({})), "it does not fit: missing field `ports`");
        assert_eq!(
            misfit(json!({ "ports": [{ "number": 70000 }] })),
            "it does not fit: at `ports[0].number`: invalid value: integer `70000`, expected u16"
        );
        assert_eq!(
            misfit(json!({ "ports": [{ "number": 0.5 }] })),
            "it does not fit: at `ports[0].number`: invalid type: a number with a fraction, expected u16"
        );
        for (protocol, expected) in [
            (json!("Tpc"), "at `ports[0].protocol`: unknown variant `Tpc`"),
            (json!(7), "at `ports[0].protocol`: invalid type: a number"),
            (json!({}), "at `ports[0].protocol`: invalid value: an object"),
            (json!({ "Custom": { "id": 300 } }), "at `ports[0].protocol.Custom.id`: invalid value"),
            (json!("Named"), "at `ports[0].protocol"),
        ] {
            let message = misfit(json!({ "ports": [{ "number": 1, "protocol": protocol }] }));
            assert!(message.contains(expected), "{message}");
        }
    }
}

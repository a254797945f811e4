//! The parts of a plugin's ConfigMap that matter, and whether they changed.
//!
//! Cheap: nothing is decoded here. A registry asks this first, so that a ConfigMap
//! whose state alone was touched (by the host itself) costs a hash.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;
use windlass_core::code::{Code, Refusal, printable};
use windlass_core::name::{Digest, LABEL_PLUGIN, PluginName};

use crate::limits::ANNOTATION_LIMIT;

/// Annotation on a ConfigMap that holds one part of a component: `2-of-5`.
pub const ANNOTATION_PART: &str = "windlass.dev/part";
/// Annotation on each part: digest of the packed bytes of all parts together, the same on all.
pub const ANNOTATION_WHOLE: &str = "windlass.dev/whole";

/// What a ConfigMap says before anything in it is decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// `<namespace>/<name>` of the ConfigMap.
    pub config_map: String,
    /// The plugin's name, from the label `windlass.dev/plugin`.
    pub plugin: PluginName,
    /// `metadata.creationTimestamp`, as written: RFC 3339 in UTC sorts as text.
    /// Empty when absent.
    pub created: String,
    /// Changes exactly when the label, `data`, `binaryData` or an annotation that
    /// means something to the plugin change: limits and parts, not the host's own.
    pub content: Digest,
}

impl Offer {
    /// Reads the metadata of a ConfigMap and fingerprints its content.
    ///
    /// # Errors
    /// E170 when the text is no ConfigMap or the label `windlass.dev/plugin` is
    /// missing or cannot name a plugin.
    pub fn from_config_map(json: &str) -> Result<Self, Refusal> {
        Self::of(&ConfigMap::parse(json)?)
    }

    pub(crate) fn of(map: &ConfigMap) -> Result<Self, Refusal> {
        let plugin = map.plugin_name()?;
        let mut text = format!("{plugin}\n");
        let annotations = map.annotations().iter().filter(|(key, _)| is_input(key));
        let annotations = annotations.map(|(key, value)| ("annotations", key, value));
        let data = map.data.iter().map(|(key, value)| ("data", key, value));
        let binary = map.binary_data.iter().map(|(key, value)| ("binaryData", key, value));
        for (section, key, value) in annotations.chain(data).chain(binary) {
            writeln!(text, "{section}\0{key}\0{}\0{value}", value.len())
                .expect("writing to a String cannot fail");
        }
        Ok(Self {
            config_map: map.reference(),
            created: map.metadata.creation_timestamp.clone(),
            content: Digest::of(text.as_bytes()),
            plugin,
        })
    }
}

/// Whether an annotation is the author's, not the host's own word.
fn is_input(annotation: &str) -> bool {
    annotation.starts_with(ANNOTATION_LIMIT) || [ANNOTATION_PART, ANNOTATION_WHOLE].contains(&annotation)
}

/// A ConfigMap as far as plugins are concerned.
#[derive(Deserialize)]
pub(crate) struct ConfigMap {
    #[serde(default)]
    pub(crate) metadata: Metadata,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(crate) data: BTreeMap<String, String>,
    #[serde(rename = "binaryData", default, deserialize_with = "null_is_empty")]
    pub(crate) binary_data: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Metadata {
    name: String,
    namespace: String,
    creation_timestamp: String,
    #[serde(deserialize_with = "null_is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_empty")]
    annotations: BTreeMap<String, String>,
}

impl ConfigMap {
    pub(crate) fn parse(json: &str) -> Result<Self, Refusal> {
        serde_json::from_str(json)
            .map_err(|e| Refusal::new(Code::BadManifest, format!("this is not a ConfigMap: {e}")))
    }

    /// `<namespace>/<name>`, for messages.
    pub(crate) fn reference(&self) -> String {
        format!("{}/{}", self.metadata.namespace, self.metadata.name)
    }

    pub(crate) fn annotations(&self) -> &BTreeMap<String, String> {
        &self.metadata.annotations
    }

    pub(crate) fn plugin_name(&self) -> Result<PluginName, Refusal> {
        let Some(label) = self.metadata.labels.get(LABEL_PLUGIN) else {
            return Err(Refusal::new(
                Code::BadManifest,
                format!("ConfigMap {} has no label {LABEL_PLUGIN}", self.reference()),
            ));
        };
        PluginName::try_new(label)
            .map_err(|e| Refusal::new(Code::BadManifest, format!("label {LABEL_PLUGIN}: {e}")))
    }

    /// Every key that is there, for messages.
    pub(crate) fn keys(&self) -> String {
        let found: Vec<&str> = self.binary_data.keys().chain(self.data.keys()).map(String::as_str).collect();
        if found.is_empty() { "nothing".to_owned() } else { printable(&found.join(", "), 128) }
    }
}

/// The API server may write `null` where a map is empty.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(json: &str) -> Offer {
        Offer::from_config_map(json).expect(json)
    }

    #[test]
    fn what_the_host_says_changes_nothing_and_what_the_author_says_changes_the_content() {
        let plain = r#"{"metadata":{"namespace":"n","name":"x","creationTimestamp":"2026-01-01T00:00:00Z","labels":{"windlass.dev/plugin":"p"}},"binaryData":{"plugin.wasm":"AA=="},"data":null}"#;
        let annotated =
            plain.replace(r#""name":"x""#, r#""name":"x","resourceVersion":"9","annotations":{"a":"b"}"#);
        let changed = plain.replace("AA==", "AQ==");
        assert_eq!(offer(plain), offer(&annotated));
        for ours in ["state", "digest", "message", "since"] {
            let said = annotated.replace(r#""a":"b""#, &format!(r#""windlass.dev/{ours}":"x""#));
            assert_eq!(offer(plain), offer(&said), "{ours}");
        }
        for (annotation, value) in [("limit-memory", "1Mi"), ("part", "1-of-2"), ("whole", "sha256:")] {
            let asked = annotated.replace(r#""a":"b""#, &format!(r#""windlass.dev/{annotation}":"{value}""#));
            assert_ne!(offer(plain).content, offer(&asked).content, "{annotation}");
        }
        assert_ne!(offer(plain).content, offer(&changed).content);
        assert_eq!(offer(plain).config_map, "n/x");
    }

    #[test]
    fn a_label_that_cannot_name_a_plugin_is_refused() {
        for (json, found) in [
            (r#"{"metadata":{"namespace":"n","name":"x"}}"#, "no label"),
            (r#"{"metadata":{"labels":{"windlass.dev/plugin":""}}}"#, "DNS label"),
            (r#"{"metadata":{"labels":{"windlass.dev/plugin":"Web App"}}}"#, "DNS label"),
            ("7", "not a ConfigMap"),
        ] {
            let refusal = Offer::from_config_map(json).expect_err(json);
            assert_eq!(refusal.code, Code::BadManifest);
            assert!(refusal.message.contains(found), "{refusal}");
        }
    }
}

//! Sources: a plugin's bytes and settings, out of its ConfigMap.
//!
//! Everything here is bounded before it is allocated: whoever may write a
//! ConfigMap may write a decompression bomb. What the bytes mean is
//! [`check`](crate::check)'s business.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use windlass_core::code::{Code, Refusal};
use windlass_core::limits::Limits;
use windlass_core::name::{Digest, PluginName};

use crate::config_map::ConfigMap;
use crate::decompress::{Packing, decompress};

/// Keys of `binaryData` that may hold the component, and how each is packed.
const KEYS: [(&str, Packing); 3] =
    [("plugin.wasm", Packing::Plain), ("plugin.wasm.zst", Packing::Zstd), ("plugin.wasm.gz", Packing::Gzip)];

/// Key of `data` that holds the settings.
const SETTINGS: &str = "settings.yaml";

/// A plugin as offered: uncompressed component, digest, settings. Nothing in it
/// has been parsed yet.
#[derive(Clone)]
pub struct Source {
    /// `<namespace>/<name>` of the ConfigMap.
    pub config_map: String,
    /// The plugin's name, from the ConfigMap's label.
    pub plugin: PluginName,
    /// The component, uncompressed; at most [`Limits::decompressed_bytes`].
    pub component: Arc<[u8]>,
    /// sha256 of [`component`](Self::component).
    pub digest: Digest,
    /// `settings.yaml` as JSON text; `None` when the key is absent or holds
    /// nothing but comments.
    pub settings: Option<Arc<str>>,
}

impl Source {
    /// Takes the component and the settings out of a ConfigMap's JSON.
    ///
    /// # Errors
    /// E101 no component or several, E102 not binary, E113 does not decompress,
    /// E116 more than [`Limits::component_bytes`], E117 decompresses to too much,
    /// E170 bad label, E173 settings that are not YAML. None passes by itself: the
    /// ConfigMap has to change.
    pub fn from_config_map(json: &str, limits: &Limits) -> Result<Self, Refusal> {
        let map = ConfigMap::parse(json)?;
        let plugin = map.plugin_name()?;
        let (key, packing, text) = only_key(&map)?;
        let packed = decode(&map, key, text, limits)?;
        let component = decompress(packing, key, packed, limits)?;
        Ok(Self {
            config_map: map.reference(),
            plugin,
            digest: Digest::of(&component),
            component: component.into(),
            settings: map.data.get(SETTINGS).map(|text| settings(text)).transpose()?.flatten(),
        })
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("config_map", &self.config_map)
            .field("plugin", &self.plugin)
            .field("digest", &self.digest)
            .field("bytes", &self.component.len())
            .finish_non_exhaustive()
    }
}

/// The one key that holds the component.
fn only_key(map: &ConfigMap) -> Result<(&'static str, Packing, &str), Refusal> {
    let mut found =
        KEYS.iter().filter_map(|(key, packing)| Some((*key, *packing, map.binary_data.get(*key)?.as_str())));
    let Some(first) = found.next() else {
        return Err(no_key(map));
    };
    if let Some(second) = found.next() {
        return Err(Refusal::new(
            Code::NoPluginBytes,
            format!(
                "ConfigMap {} has both {} and {}: exactly one of plugin.wasm, plugin.wasm.zst and plugin.wasm.gz is expected",
                map.reference(),
                first.0,
                second.0
            ),
        ));
    }
    Ok(first)
}

fn no_key(map: &ConfigMap) -> Refusal {
    match KEYS.iter().find(|(key, _)| map.data.contains_key(*key)) {
        Some((key, _)) => Refusal::new(
            Code::NotBinary,
            format!(
                "ConfigMap {} has {key} in data, which is text: put the component in binaryData \
                 (kubectl create configmap --from-file does)",
                map.reference()
            ),
        ),
        None => Refusal::new(
            Code::NoPluginBytes,
            format!(
                "ConfigMap {} has none of plugin.wasm, plugin.wasm.zst and plugin.wasm.gz in binaryData; found {}",
                map.reference(),
                map.keys()
            ),
        ),
    }
}

fn decode(map: &ConfigMap, key: &str, text: &str, limits: &Limits) -> Result<Vec<u8>, Refusal> {
    if text.is_empty() {
        return Err(Refusal::new(
            Code::NoPluginBytes,
            format!("key {key} in ConfigMap {} is empty", map.reference()),
        ));
    }
    let most = limits.component_bytes;
    if text.len() / 4 * 3 > most + 3 {
        return Err(Refusal::new(
            Code::TooComplex,
            format!("key {key} holds {} KiB, at most {} KiB", text.len() / 4 * 3 / 1024, most / 1024),
        ));
    }
    STANDARD.decode(text).map_err(|e| {
        Refusal::new(
            Code::NotBinary,
            format!("key {key} in ConfigMap {}: binaryData is not base64: {e}", map.reference()),
        )
    })
}

/// YAML to JSON text. Nothing but comments is the same as no settings.
fn settings(yaml: &str) -> Result<Option<Arc<str>>, Refusal> {
    // As YAML 1.2 has it: a country code `no` is a text.
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    let value: serde_json::Value = serde_saphyr::from_str_with_options(yaml, options).map_err(|e| {
        Refusal::new(Code::BadSettings, format!("{SETTINGS} does not parse: {}", first_line(&e.to_string())))
    })?;
    Ok((!value.is_null()).then(|| value.to_string().into()))
}

fn first_line(text: &str) -> &str {
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config_map(binary: serde_json::Value, data: serde_json::Value) -> String {
        json!({
            "metadata": {"name": "x", "namespace": "ns", "labels": {"windlass.dev/plugin": "webapp"}},
            "binaryData": binary, "data": data,
        })
        .to_string()
    }

    fn refused(json: &str) -> Refusal {
        Source::from_config_map(json, &Limits::default()).expect_err(json)
    }

    #[test]
    fn a_component_is_the_same_however_it_is_packed() {
        let bytes = b"\0asm\x0d\0\x01\0 and more".repeat(50);
        let gz = crate::decompress::tests::gzip(&bytes);
        let zst = zstd::encode_all(&bytes[..], 3).expect("in memory");
        for (key, packed) in [("plugin.wasm", &bytes), ("plugin.wasm.gz", &gz), ("plugin.wasm.zst", &zst)] {
            let json =
                config_map(json!({key: STANDARD.encode(packed)}), json!({"settings.yaml": "a: [1, x]\n"}));
            let source = Source::from_config_map(&json, &Limits::default()).expect(key);
            assert_eq!(source.digest, Digest::of(&bytes), "{key}");
            assert_eq!(source.config_map, "ns/x");
            assert_eq!(source.plugin.as_str(), "webapp");
            assert_eq!(source.settings.as_deref(), Some(r#"{"a":[1,"x"]}"#));
        }
    }

    #[test]
    fn what_is_not_a_component_in_binary_data_is_refused_with_its_code() {
        let wasm = STANDARD.encode(b"\0asm\x0d\0\x01\0");
        let nothing = json!(null);
        for (json, code, says) in [
            (config_map(nothing.clone(), nothing.clone()), Code::NoPluginBytes, "found nothing"),
            (
                config_map(json!({"app.wasm": wasm}), json!({"k": "v"})),
                Code::NoPluginBytes,
                "found app.wasm, k",
            ),
            (config_map(json!({"plugin.wasm": ""}), nothing.clone()), Code::NoPluginBytes, "ns/x is empty"),
            (
                config_map(json!({"plugin.wasm": wasm, "plugin.wasm.gz": wasm}), nothing.clone()),
                Code::NoPluginBytes,
                "both plugin.wasm and plugin.wasm.gz",
            ),
            (config_map(nothing.clone(), json!({"plugin.wasm": wasm})), Code::NotBinary, "binaryData"),
            (config_map(json!({"plugin.wasm": "%%%"}), nothing.clone()), Code::NotBinary, "not base64"),
            (
                config_map(json!({"plugin.wasm": "A".repeat(1_400_004)}), nothing),
                Code::TooComplex,
                "1025 KiB, at most 1024 KiB",
            ),
        ] {
            let refusal = refused(&json);
            assert_eq!(refusal.code, code, "{refusal}");
            assert!(refusal.message.contains(says), "{refusal}");
        }
    }

    #[test]
    fn settings_are_yaml_or_refused_in_one_line() {
        assert_eq!(settings("# nothing yet\n").expect("empty"), None);
        assert_eq!(settings("").expect("empty"), None);
        assert_eq!(settings("x: on\n").expect("text").as_deref(), Some(r#"{"x":"on"}"#));
        let bomb = format!("a: &a [x,x,x,x,x,x,x,x,x]\n{}", ('b'..='k').fold(String::new(), |mut text, name| {
            let before = (name as u8 - 1) as char;
            text.push_str(&format!("{name}: &{name} [*{before},*{before},*{before},*{before},*{before},*{before},*{before},*{before},*{before}]\n"));
            text
        }));
        for bad in ["a: [1, 2\n", "a: 1\na: 2\n", "a: b: c\n", "--- 1\n--- 2\n", &"[".repeat(100_000), &bomb]
        {
            let refusal = settings(bad).expect_err(&bad[..8.min(bad.len())]);
            assert_eq!(refusal.code, Code::BadSettings);
            assert!(!refusal.message.contains('\n'));
        }
    }
}

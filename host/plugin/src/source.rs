//! Sources: a plugin's bytes and settings, out of its ConfigMap or ConfigMaps.
//!
//! Everything here is bounded before it is allocated: whoever may write a
//! ConfigMap may write a decompression bomb. What the bytes mean is
//! [`check`](crate::check)'s business.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use windlass_core::code::{Code, Refusal};
use windlass_core::limits::Limits;
use windlass_core::name::{Digest, PluginName};

use crate::config_map::{ANNOTATION_WHOLE, ConfigMap};
use crate::decompress::{Packing, decompress};
use crate::limits::{ANNOTATION_LIMIT, LimitMaxima, limits_of};
use crate::verify::signature_text;

/// Keys of `binaryData` that may hold the component, and how each is packed.
const KEYS: [(&str, Packing); 3] =
    [("plugin.wasm", Packing::Plain), ("plugin.wasm.zst", Packing::Zstd), ("plugin.wasm.gz", Packing::Gzip)];

/// Key of `data` that holds the settings.
const SETTINGS: &str = "settings.yaml";

/// A plugin as offered: uncompressed component, digest, settings. Nothing in it
/// has been parsed yet.
#[derive(Clone)]
pub struct Source {
    /// `<namespace>/<name>` of the ConfigMap; of part 1 when there are several.
    pub config_map: String,
    /// The key under which the component was found.
    pub key: &'static str,
    /// The plugin's name, from the ConfigMap's label.
    pub plugin: PluginName,
    /// The component, uncompressed; at most [`Limits::decompressed_bytes`].
    pub component: Arc<[u8]>,
    /// sha256 of [`component`](Self::component).
    pub digest: Digest,
    /// `settings.yaml` as JSON text; `None` when the key is absent or holds
    /// nothing but comments.
    pub settings: Option<Arc<str>>,
    /// What its calls may use: the host's defaults and the ConfigMap's annotations.
    pub limits: Limits,
    /// The text of `plugin.sig`; nothing is known of whether it is good.
    pub signature: Option<Arc<str>>,
}

impl Source {
    /// Takes the component and the settings out of the JSON of a ConfigMap that holds all of it.
    ///
    /// # Errors
    /// As [`Whole::source`].
    pub fn from_config_map(json: &str, limits: &Limits) -> Result<Self, Refusal> {
        Whole::single(json.into())?.source(limits, &LimitMaxima::default())
    }

    /// A component that came from no ConfigMap, with the default limits: for tools and tests.
    pub fn local(plugin: PluginName, component: Arc<[u8]>, settings: Option<Arc<str>>) -> Self {
        Self {
            config_map: format!("local/{plugin}"),
            key: KEYS[0].0,
            plugin,
            digest: Digest::of(&component),
            component,
            settings,
            limits: Limits::default(),
            signature: None,
        }
    }

    /// Where it came from, for messages.
    pub fn origin(&self) -> Origin {
        Origin {
            plugin: self.plugin.clone(),
            config_map: self.config_map.clone(),
            key: Some(self.key),
            digest: Some(self.digest.clone()),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("config_map", &self.config_map)
            .field("plugin", &self.plugin)
            .field("digest", &self.digest)
            .field("bytes", &self.component.len())
            .finish_non_exhaustive()
    }
}

/// Where a component came from: the beginning of every message about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The plugin's name, from the label.
    pub plugin: PluginName,
    /// `<namespace>/<name>` of the ConfigMap.
    pub config_map: String,
    /// The key of `binaryData`, once that is known.
    pub key: Option<&'static str>,
    /// The component, once that is known.
    pub digest: Option<Digest>,
}

impl Origin {
    /// The same refusal, with a message that says what it is about.
    #[must_use]
    pub fn says(&self, refusal: &Refusal) -> Refusal {
        Refusal::new(refusal.code, format!("{self}: {}", refusal.message))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plugin {}, ConfigMap {}", self.plugin, self.config_map)?;
        if let Some(key) = self.key {
            write!(f, ", key {key}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, " ({})", digest.short())?;
        }
        Ok(())
    }
}

/// All ConfigMaps of one version of a plugin, nothing in them decoded. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    plugin: PluginName,
    config_map: String,
    /// Part 1 first.
    texts: Vec<Arc<str>>,
    /// What the parts announce as the digest of their bytes together.
    announced: Option<Digest>,
}

/// The bytes under the key of a component, as they came, all parts together.
#[derive(Clone, PartialEq, Eq)]
pub struct Packed {
    /// Which key, which says how they are packed.
    pub key: &'static str,
    /// At most [`Limits::decompressed_bytes`].
    pub bytes: Vec<u8>,
    packing: Packing,
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packed").field("key", &self.key).field("bytes", &self.bytes.len()).finish()
    }
}

impl Whole {
    /// One ConfigMap that holds everything.
    ///
    /// # Errors
    /// E170 when the text is no ConfigMap or its label cannot name a plugin.
    pub fn single(json: Arc<str>) -> Result<Self, Refusal> {
        let map = ConfigMap::parse(&json)?;
        Ok(Self::new(map.plugin_name()?, map.reference(), vec![json], None))
    }

    /// All texts in their order. They have been found to belong together.
    pub(crate) fn new(
        plugin: PluginName,
        config_map: String,
        texts: Vec<Arc<str>>,
        announced: Option<Digest>,
    ) -> Self {
        Self { plugin, config_map, texts, announced }
    }

    /// Its ConfigMaps as JSON, in the order of their parts.
    pub fn config_maps(&self) -> &[Arc<str>] {
        &self.texts
    }

    /// How many ConfigMaps it takes.
    pub fn parts(&self) -> usize {
        self.texts.len()
    }

    /// Decodes, assembles and unpacks: the component and its settings.
    ///
    /// # Errors
    /// E101 no component or several, E102 not binary, E113 does not decompress, E116 more than
    /// [`Limits::component_bytes`] in one ConfigMap, E117 decompresses to too much, E118 parts
    /// that are packed differently, E130 a signature that is no text, E132 parts that are not
    /// the whole that they announce, E170 and E171 for the limits, E173 settings that are not
    /// YAML. Each says where it was found. None passes by itself: a ConfigMap has to change.
    pub fn source(&self, defaults: &Limits, maxima: &LimitMaxima) -> Result<Source, Refusal> {
        self.said(self.unpack(defaults, maxima))
    }

    /// The bytes as they came: for whoever keeps a copy.
    ///
    /// # Errors
    /// E101, E102, E116, E117, E118 and E132 as [`source`](Self::source).
    pub fn packed(&self, limits: &Limits) -> Result<Packed, Refusal> {
        self.said(self.assemble(limits))
    }

    fn said<T>(&self, result: Result<T, Refusal>) -> Result<T, Refusal> {
        let origin = || Origin {
            plugin: self.plugin.clone(),
            config_map: self.config_map.clone(),
            key: None,
            digest: None,
        };
        result.map_err(|refusal| origin().says(&refusal))
    }

    fn unpack(&self, defaults: &Limits, maxima: &LimitMaxima) -> Result<Source, Refusal> {
        let first = ConfigMap::parse(self.texts.first().map_or("", |text| text))?;
        let limits = limits_of(first.annotations(), defaults, maxima)?;
        let settings = first.data.get(SETTINGS).map(|text| settings(text)).transpose()?.flatten();
        let signature = signature_text(&first.data, &first.binary_data)?;
        let Packed { key, bytes, packing } = self.assemble(defaults)?;
        let component = decompress(packing, key, bytes, defaults)?;
        Ok(Source {
            config_map: self.config_map.clone(),
            key,
            plugin: self.plugin.clone(),
            digest: Digest::of(&component),
            component,
            settings,
            limits,
            signature: signature.map(Into::into),
        })
    }

    fn assemble(&self, limits: &Limits) -> Result<Packed, Refusal> {
        let mut packed: Option<Packed> = None;
        for (i, text) in self.texts.iter().enumerate() {
            let map = ConfigMap::parse(text)?;
            let (key, packing, encoded) = only_key(&map).map_err(|refusal| self.in_part(i, &map, refusal))?;
            let slice = decode(key, encoded, limits).map_err(|refusal| self.in_part(i, &map, refusal))?;
            let Some(packed) = &mut packed else {
                packed = Some(Packed { key, bytes: slice, packing });
                continue;
            };
            only_bytes(&map).map_err(|refusal| self.in_part(i, &map, refusal))?;
            if packed.key != key {
                let text = format!("the key is {key}, in part 1 it is {}: pack all parts alike", packed.key);
                return Err(self.in_part(i, &map, Refusal::new(Code::PartsIncomplete, text)));
            }
            if packed.bytes.len() + slice.len() > limits.decompressed_bytes {
                return Err(Refusal::new(
                    Code::DecompressedTooLarge,
                    format!("the parts hold more than {} MiB", limits.decompressed_bytes >> 20),
                ));
            }
            packed.bytes.extend_from_slice(&slice);
        }
        let packed = packed.ok_or_else(|| Refusal::new(Code::NoPluginBytes, "there is no ConfigMap"))?;
        self.as_announced(&packed)?;
        Ok(packed)
    }

    /// Says which part a refusal is about, when there are several.
    fn in_part(&self, index: usize, map: &ConfigMap, refusal: Refusal) -> Refusal {
        if self.texts.len() == 1 {
            return refusal;
        }
        let text = format!("part {} (ConfigMap {}): {}", index + 1, map.reference(), refusal.message);
        Refusal::new(refusal.code, text)
    }

    fn as_announced(&self, packed: &Packed) -> Result<(), Refusal> {
        let Some(announced) = &self.announced else {
            return Ok(());
        };
        let found = Digest::of(&packed.bytes);
        if found == *announced {
            return Ok(());
        }
        Err(Refusal::new(
            Code::DigestMismatch,
            format!(
                "the {} parts together are {} bytes with digest {}, annotation {ANNOTATION_WHOLE} says {}: apply \
                 all parts of one version",
                self.texts.len(),
                packed.bytes.len(),
                found.short(),
                announced.short()
            ),
        ))
    }
}

/// A part other than the first carries bytes and nothing else: what it said would be lost.
fn only_bytes(map: &ConfigMap) -> Result<(), Refusal> {
    if map.data.contains_key(SETTINGS) {
        return Err(Refusal::new(Code::BadSettings, format!("{SETTINGS} belongs into part 1")));
    }
    match map.annotations().keys().find(|key| key.starts_with(ANNOTATION_LIMIT)) {
        Some(key) => Err(Refusal::new(Code::BadManifest, format!("annotation {key} belongs on part 1"))),
        None => Ok(()),
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
                "there are both {} and {}: exactly one of plugin.wasm, plugin.wasm.zst and plugin.wasm.gz is \
                 expected",
                first.0, second.0
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
                "{key} is in data, which is text: put the component in binaryData (kubectl create configmap \
                 --from-file does)"
            ),
        ),
        None => Refusal::new(
            Code::NoPluginBytes,
            format!(
                "expected one of plugin.wasm, plugin.wasm.zst and plugin.wasm.gz in binaryData; found {}",
                map.keys()
            ),
        ),
    }
}

fn decode(key: &str, text: &str, limits: &Limits) -> Result<Vec<u8>, Refusal> {
    if text.is_empty() {
        return Err(Refusal::new(Code::NoPluginBytes, format!("key {key} is empty")));
    }
    let most = limits.component_bytes;
    if text.len() / 4 * 3 > most + 3 {
        return Err(Refusal::new(
            Code::TooComplex,
            format!(
                "key {key} holds {} KiB, at most {} KiB in one ConfigMap: compress it with zstd -19, or split \
                 it into parts",
                text.len() / 4 * 3 / 1024,
                most / 1024
            ),
        ));
    }
    STANDARD
        .decode(text)
        .map_err(|e| Refusal::new(Code::NotBinary, format!("key {key}: binaryData is not base64: {e}")))
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
            (
                config_map(json!({"plugin.wasm": ""}), nothing.clone()),
                Code::NoPluginBytes,
                "plugin webapp, ConfigMap ns/x: key plugin.wasm is empty",
            ),
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

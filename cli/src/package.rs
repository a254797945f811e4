//! A plugin and everything that has to be applied for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use windlass_core::code::{Code, Refusal};
use windlass_core::limits::Limits;
use windlass_core::manifest::Manifest;
use windlass_core::name::{Digest, LABEL_PLUGIN, PluginName};
use windlass_plugin::verify::SIGNATURE_KEY;
use windlass_plugin::{Loader, Parts, Slice, Source, cut};

use crate::input::Beside;
use crate::kinds::{Kinds, ask_cluster};
use crate::manifests;
use crate::place::{HOST_NAMESPACE, Place};
use crate::rights::{Rights, fits_namespaces, kinds_of};

/// Key of the component in its ConfigMap.
pub(crate) const COMPONENT_KEY: &str = "plugin.wasm.zst";
/// Key of the settings in its ConfigMap.
pub(crate) const SETTINGS_KEY: &str = "settings.yaml";
/// Bytes of compressed component above which client-side `kubectl apply` fails: its annotation holds a
/// copy in base64 and may have 256 KiB.
const CLIENT_SIDE_MAX: usize = 180 * 1024;

/// A component that the host's own checks have accepted, and what belongs to it.
#[derive(Clone, Debug)]
pub struct Package {
    /// What the component says of itself.
    pub manifest: Arc<Manifest>,
    /// sha256 of the component.
    pub digest: Digest,
    /// The component.
    pub wasm: Vec<u8>,
    /// The component as its ConfigMaps carry it.
    pub compressed: Vec<u8>,
    /// CRDs and settings.
    pub beside: Beside,
    /// The text of `plugin.sig`.
    pub signature: Option<String>,
    /// Whose, and where.
    pub place: Place,
    /// What is known of its kinds.
    pub kinds: Kinds,
}

impl Package {
    /// Compresses a component and takes it through the host's checks, compilation included. Blocks for
    /// seconds.
    ///
    /// # Errors
    /// The refusal (E1xx) that a host would give, or a file beside the component that cannot be used.
    pub fn of(wasm: Vec<u8>, beside: Beside) -> Result<Self> {
        let kinds = beside.kinds()?;
        if wasm.is_empty() {
            return Err(Refusal::new(Code::NoPluginBytes, "the component is empty").into());
        }
        let compressed = zstd::encode_all(&*wasm, 19).context("compress")?;
        // The component's own manifest is the truth; its label is not known before it is asked.
        let loader = Loader::in_process(Limits::default()).context("start the sandbox")?;
        let maps = config_maps(&Carried {
            name: None,
            namespace: HOST_NAMESPACE,
            compressed: &compressed,
            data: data(&beside, None),
        });
        let manifest = loader.inspect(&taken(&maps, &loader)?)?;
        let (digest, place) = (Digest::of(&wasm), Place::default());
        Ok(Self { manifest, digest, wasm, compressed, beside, signature: None, place, kinds })
    }

    /// Has kubectl ask about kinds that are not known.
    ///
    /// # Errors
    /// When the cluster does not know them either.
    pub fn ask_cluster(&mut self) -> Result<()> {
        ask_cluster(&mut self.kinds, &kinds_of(&self.manifest).into_iter().collect::<Vec<_>>())
    }

    /// The rights that it needs where it is to go.
    ///
    /// # Errors
    /// When a kind is not known well enough, or it cannot live in single namespaces.
    pub fn rights(&self) -> Result<Rights> {
        let rights = Rights::of(&self.manifest, &self.kinds)?;
        fits_namespaces(&self.manifest, &self.kinds, &self.place)?;
        Ok(rights)
    }

    /// The rights as YAML, each line explained.
    ///
    /// # Errors
    /// As [`rights`](Self::rights).
    pub fn rights_yaml(&self) -> Result<String> {
        Ok(manifests::rights(&self.manifest, &self.rights()?, &self.place))
    }

    /// The ConfigMap that carries the component, or several when it is too large for one.
    pub fn config_maps(&self) -> Vec<Value> {
        config_maps(&Carried {
            name: Some(&self.manifest.name),
            namespace: &self.place.host_namespace,
            compressed: &self.compressed,
            data: data(&self.beside, self.signature.as_deref()),
        })
    }

    /// Everything that has to be applied, as one YAML text: CRDs first.
    ///
    /// # Errors
    /// As [`rights`](Self::rights).
    pub fn yaml(&self) -> Result<String> {
        let mut documents: Vec<String> = self.beside.crds.iter().map(|file| lines(&file.text)).collect();
        documents.push(self.rights_yaml()?);
        for map in self.config_maps() {
            documents.push(lines(&serde_json::to_string_pretty(&map)?));
        }
        Ok(documents.join("---\n"))
    }

    /// What somebody who applies it should know.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.compressed.len() > CLIENT_SIDE_MAX {
            notes.push(format!(
                "{} KB compressed: apply it with --server-side, client-side kubectl apply cannot carry it",
                self.compressed.len() / 1000
            ));
        }
        for child in &self.manifest.children {
            if windlass_core::manifest::is_reserved(&child.kind) {
                notes.push(format!(
                    "a host refuses it (E238) unless it runs with --allow-reserved-kind={}",
                    child.kind
                ));
            }
        }
        notes
    }
}

/// A document that ends with one line break and begins without a separator.
fn lines(text: &str) -> String {
    let text = text.trim();
    format!("{}\n", text.strip_prefix("---").unwrap_or(text).trim())
}

/// What ConfigMaps hold.
struct Carried<'a> {
    /// Not known while the component has not been asked.
    name: Option<&'a PluginName>,
    namespace: &'a str,
    compressed: &'a [u8],
    data: BTreeMap<&'static str, &'a str>,
}

/// What stands beside the component in its (first) ConfigMap.
fn data<'a>(beside: &'a Beside, signature: Option<&'a str>) -> BTreeMap<&'static str, &'a str> {
    let settings = beside.settings.as_deref().map(|text| (SETTINGS_KEY, text));
    settings.into_iter().chain(signature.map(|text| (SIGNATURE_KEY, text))).collect()
}

fn config_maps(carried: &Carried<'_>) -> Vec<Value> {
    let name = carried.name.map_or("unnamed", PluginName::as_str);
    let slices = cut(carried.compressed);
    let one = slices.len() == 1;
    let map = |(i, slice): (usize, &Slice<'_>)| {
        let mut map = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": config_map_name(name, i, one),
                "namespace": carried.namespace,
                "labels": {LABEL_PLUGIN: name},
            },
            "binaryData": {COMPONENT_KEY: STANDARD.encode(slice.bytes)},
        });
        if i == 0 && !carried.data.is_empty() {
            map["data"] = json!(carried.data);
        }
        if !one {
            let annotations: BTreeMap<&str, &str> =
                slice.annotations.iter().map(|(key, value)| (*key, value.as_str())).collect();
            map["metadata"]["annotations"] = json!(annotations);
        }
        map
    };
    slices.iter().enumerate().map(map).collect()
}

/// `<plugin>-plugin`, or with a number behind it for the part at `i`.
pub(crate) fn config_map_name(plugin: &str, i: usize, is_only: bool) -> String {
    if is_only { format!("{plugin}-plugin") } else { format!("{plugin}-plugin-{}", i + 1) }
}

/// What the host takes out of ConfigMaps.
fn taken(maps: &[Value], loader: &Loader) -> Result<Source> {
    let mut parts = Parts::default();
    let mut offered = Vec::new();
    for map in maps {
        offered = parts.offer(map.to_string().into())?.offered;
    }
    let whole = offered.pop().context("a component takes at least one ConfigMap")?.whole?;
    Ok(whole.source(loader.limits(), loader.maxima())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_plugin::PART_BYTES;

    fn carried<'a>(compressed: &'a [u8], data: BTreeMap<&'static str, &'a str>) -> Vec<Value> {
        config_maps(&Carried { name: None, namespace: "ops", compressed, data })
    }

    #[test]
    fn a_large_component_is_cut_into_config_maps_that_say_which_part_they_are() {
        let bytes: Vec<u8> = (0..PART_BYTES as u32 + 1).map(|i| i.to_le_bytes()[0]).collect();
        let maps = carried(&bytes, BTreeMap::from([(SETTINGS_KEY, "a: 1")]));
        assert_eq!(maps.len(), 2);
        for (i, map) in maps.iter().enumerate() {
            assert_eq!(map["metadata"]["name"], format!("unnamed-plugin-{}", i + 1));
            assert_eq!(map["metadata"]["namespace"], "ops");
            assert_eq!(map["metadata"]["annotations"]["windlass.dev/part"], format!("{}-of-2", i + 1));
            let digest = Digest::of(&bytes);
            assert_eq!(map["metadata"]["annotations"]["windlass.dev/whole"], digest.as_str());
        }
        assert_eq!(maps[0]["data"]["settings.yaml"], "a: 1");
        assert!(maps[1]["data"].is_null(), "what a host takes from part 1 stands only there");
        let small = carried(b"small", BTreeMap::new());
        assert_eq!(small[0]["metadata"]["name"], "unnamed-plugin");
        assert!(small[0]["metadata"]["annotations"].is_null() && small[0]["data"].is_null());
    }

    #[test]
    fn documents_are_joined_whatever_they_begin_and_end_with() {
        assert_eq!(lines("---\na: 1\n\n"), "a: 1\n");
        assert_eq!(lines("a: 1\n---\nb: 2"), "a: 1\n---\nb: 2\n");
    }
}

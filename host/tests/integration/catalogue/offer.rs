//! What authors apply: the ConfigMaps of a plugin, signed or not.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign::KeyPair;
use serde_json::{Value, json};
use windlass_core::name::Digest;
use windlass_plugin::cut;
use windlass_plugin::verify::{SIGNATURE_KEY, signed_text};

use crate::scene::HOST;

/// A pair of keys, and what is done with it.
pub(crate) struct Signer(KeyPair);

impl Signer {
    pub(crate) fn new() -> Self {
        Self(KeyPair::generate_unencrypted_keypair().expect("randomness"))
    }

    /// The public key as a file, under a comment that may limit it.
    pub(crate) fn public(&self, comment: &str) -> String {
        format!("untrusted comment: {comment}\n{}\n", self.0.pk.to_base64())
    }

    /// A signature for a component under a statement.
    pub(crate) fn signs(&self, component: &[u8], statement: &str) -> String {
        let text = Cursor::new(signed_text(&Digest::of(component)).into_bytes());
        let made = minisign::sign(Some(&self.0.pk), &self.0.sk, text, Some(statement), Some("anything"));
        made.expect("it signs").into_string()
    }

    /// What lets a component be this plugin, for a number that rises.
    pub(crate) fn vouches(&self, plugin: &str, component: &[u8], sequence: u64) -> String {
        self.signs(component, &format!("windlass plugin={plugin} sequence={sequence}"))
    }
}

/// The ConfigMap `<plugin>-plugin` with nothing in it.
pub(crate) fn empty(plugin: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "namespace": HOST,
            "name": format!("{plugin}-plugin"),
            "labels": {"windlass.dev/plugin": plugin},
            "annotations": {},
        },
        "data": {},
        "binaryData": {},
    })
}

/// A ConfigMap that holds these bytes under a key.
pub(crate) fn holding(plugin: &str, key: &str, bytes: &[u8]) -> Value {
    let mut map = empty(plugin);
    map["binaryData"][key] = STANDARD.encode(bytes).into();
    map
}

/// A ConfigMap with a component as authors are told to make it: compressed and signed.
pub(crate) fn signed(signer: &Signer, plugin: &str, component: &[u8], sequence: u64) -> Value {
    let mut map = holding(plugin, "plugin.wasm.zst", &zstd(component));
    map["data"][SIGNATURE_KEY] = signer.vouches(plugin, component, sequence).into();
    map
}

/// The same with another text instead of the signature.
pub(crate) fn with_signature(mut map: Value, signature: Option<String>) -> Value {
    map["data"][SIGNATURE_KEY] = signature.into();
    if map["data"][SIGNATURE_KEY].is_null() {
        map["data"] = json!({});
    }
    map
}

/// The same with an annotation.
pub(crate) fn annotated(mut map: Value, annotation: &str, value: &str) -> Value {
    map["metadata"]["annotations"][format!("windlass.dev/{annotation}")] = value.into();
    map
}

/// A component that takes five ConfigMaps.
pub(crate) fn in_parts(signer: &Signer, plugin: &str, component: &[u8]) -> Vec<Value> {
    let packed = zstd(component);
    let slices = cut(&packed);
    let parts = slices.iter().enumerate().map(|(i, slice)| {
        let mut map = holding(plugin, "plugin.wasm.zst", slice.bytes);
        map["metadata"]["name"] = format!("{plugin}-part-{}", i + 1).into();
        for (key, value) in &slice.annotations {
            map["metadata"]["annotations"][*key] = value.clone().into();
        }
        if i == 0 {
            map["data"][SIGNATURE_KEY] = signer.vouches(plugin, component, 1).into();
        }
        map
    });
    parts.collect()
}

/// Bytes as zstd packs them.
pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("in memory")
}

//! A hundred plugins from one build: other names, other kinds and other code of the same length, written into its bytes.
//!
//! A hundred builds would take an hour and say the same: what a plugin costs depends on its size and on what it does, not on who
//! compiled it.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use kubectl_windlass::{Beside, Kinds, Place, Plural, Rights, rights_yaml};
use serde_json::{Value, json};
use windlass_core::kind::Gvk;
use windlass_core::manifest::Manifest;
use windlass_core::name::PluginName;
use windlass_testbed::checker::Kind;
use windlass_testbed::drill::Crowd;

use crate::plugin;

/// What the fixture is called before anything is written over it.
const NAME: &str = "idle-placeholder-000";
const KIND: &str = "IdlePlaceholder000";
/// The number in its code that tells one build from another; its upper 16 bits stay.
const MARK: u64 = 0x5eed_0000_0000_0001;
/// Group and version of all of them.
const GROUP: &str = "fixtures.windlass.dev";
const VERSION: &str = "v1alpha1";

/// The build that all come from.
pub(crate) struct Stamp {
    wasm: Vec<u8>,
    manifest: Manifest,
}

/// One of many plugins.
pub(crate) struct Member {
    pub(crate) name: PluginName,
    /// Under which name the API server has its kind.
    pub(crate) plural: String,
    /// What its children say of the build that made them.
    pub(crate) mark: String,
    pub(crate) wasm: Vec<u8>,
    kind: String,
    manifest: Manifest,
}

impl Stamp {
    /// Builds the fixture, which has to be at least as large as the example operator.
    ///
    /// # Errors
    /// If it does not build, is smaller, or does not hold what is to be written over.
    pub(crate) fn build() -> Result<Self> {
        let size = |path: &PathBuf| path.metadata().map(|data| data.len());
        let (ours, webapp) = (component("windlass-fixtures", Some("idle"))?, component("webapp", None)?);
        let (found, least) = (size(&ours)?, size(&webapp)?);
        ensure!(found >= least, "the fixture idle has {found} bytes, webapp {least}: it has to do more");
        let package = plugin::of(&ours, Beside::default())?;
        let stamp = Self { manifest: (*package.manifest).clone(), wasm: package.wasm };
        // The copies are checked by the host only; one is checked here, so that a mistake is said at once.
        stamp.member(1, 1)?.check()?;
        Ok(stamp)
    }

    /// The plugin with this number, below 1,000, in one of its builds.
    ///
    /// # Errors
    /// If the fixture does not hold what is to be written over.
    pub(crate) fn member(&self, number: u16, build: u16) -> Result<Member> {
        let (name, kind) = (format!("idle-placeholder-{number:03}"), format!("IdlePlaceholder{number:03}"));
        let mark = (MARK & (0xffff << 48)) | (u64::from(number) << 16) | u64::from(build);
        let mut wasm = self.wasm.clone();
        replace(&mut wasm, NAME.as_bytes(), name.as_bytes()).context("the name")?;
        replace(&mut wasm, KIND.as_bytes(), kind.as_bytes()).context("the kind")?;
        replace(&mut wasm, &signed_leb128(MARK), &signed_leb128(mark)).context("the mark")?;
        let name = PluginName::try_new(&name)?;
        let manifest = Manifest {
            name: name.clone(),
            primary: Gvk::try_new(GROUP, VERSION, &kind)?,
            ..self.manifest.clone()
        };
        Ok(Member {
            name,
            plural: format!("{}s", kind.to_lowercase()),
            mark: format!("{mark:016x}"),
            wasm,
            kind,
            manifest,
        })
    }

    /// Bytes of each.
    pub(crate) fn bytes(&self) -> usize {
        self.wasm.len()
    }
}

impl Member {
    /// Where objects of its kind are.
    pub(crate) fn collection(&self, namespace: &str) -> String {
        format!("/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{}", self.plural)
    }

    /// An object of its kind.
    pub(crate) fn object(&self, name: &str, spec: &Value) -> Value {
        json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": self.kind,
            "metadata": { "name": name },
            "spec": spec,
        })
    }

    /// Its kind.
    pub(crate) fn crd(&self) -> Value {
        let any = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": { "name": format!("{}.{GROUP}", self.plural) },
            "spec": {
                "group": GROUP,
                "scope": "Namespaced",
                "names": {
                    "kind": self.kind, "listKind": format!("{}List", self.kind),
                    "plural": self.plural, "singular": self.kind.to_lowercase(),
                },
                "versions": [{
                    "name": VERSION, "served": true, "storage": true, "subresources": { "status": {} },
                    "schema": { "openAPIV3Schema": {
                        "type": "object",
                        "properties": { "metadata": { "type": "object" }, "spec": any, "status": any },
                    } },
                }],
            },
        })
    }

    /// Its account and what that may do, as YAML.
    ///
    /// # Errors
    /// If it names a kind that nobody knows.
    pub(crate) fn rights(&self) -> Result<String> {
        let mut kinds = Kinds::default();
        kinds.learn_plural(&format!("{GROUP}/{}={}", self.kind, self.plural).parse::<Plural>()?);
        Ok(rights_yaml(&self.manifest, &Rights::of(&self.manifest, &kinds)?, &Place::default()))
    }

    /// The ConfigMap that carries it.
    ///
    /// # Errors
    /// If it cannot be compressed.
    pub(crate) fn config_map(&self) -> Result<Value> {
        Ok(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": self.config_map_name(),
                "namespace": "windlass-system",
                "labels": { "windlass.dev/plugin": self.name },
            },
            "binaryData": self.data()?,
        }))
    }

    /// What its ConfigMap is called.
    pub(crate) fn config_map_name(&self) -> String {
        format!("{}-plugin", self.name)
    }

    /// The ConfigMap's data.
    ///
    /// # Errors
    /// If it cannot be compressed.
    pub(crate) fn data(&self) -> Result<Value> {
        // Quickly: there are a hundred.
        let compressed = zstd::encode_all(&*self.wasm, 3).context("compress")?;
        Ok(json!({ "plugin.wasm.zst": base64::engine::general_purpose::STANDARD.encode(compressed) }))
    }

    /// Whether the component says of itself what was written into it.
    fn check(&self) -> Result<()> {
        let file = tempfile::NamedTempFile::new().context("make a file")?;
        std::fs::write(file.path(), &self.wasm).context("write a component")?;
        let found = plugin::of(file.path(), Beside::default())
            .context("a fixture that was written over is no plugin any more")?;
        let (found, wanted) = (&*found.manifest, &self.manifest);
        ensure!(found == wanted, "written over the fixture: {wanted:?}, but it says {found:?}");
        Ok(())
    }
}

/// Plugins for pods, each with so many objects, all in one namespace of that name.
///
/// # Errors
/// If one cannot be compressed, or names a kind that nobody knows.
pub(crate) fn deployed(members: &[Member], each: usize, namespace: &str) -> Result<Crowd> {
    let maps = "/api/v1/namespaces/windlass-system/configmaps";
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let first = ("/api/v1/namespaces".to_owned(), json!({ "metadata": { "name": namespace } }));
    let kinds = members.iter().map(|member| (crds.to_owned(), member.crd()));
    let plugins = members.iter().map(|member| Ok((maps.to_owned(), member.config_map()?)));
    let objects = members.iter().enumerate().flat_map(|(number, member)| {
        (0..each).map(move |object| {
            let spec = json!({ "text": "0" });
            (member.collection(namespace), member.object(&deployed_name(number, object), &spec))
        })
    });
    let mut rights = Vec::new();
    for some in members.chunks(20) {
        rights.push(some.iter().map(Member::rights).collect::<Result<Vec<_>>>()?.join("---\n"));
    }
    Ok(Crowd {
        groups: vec![
            std::iter::once(first).chain(kinds).collect(),
            plugins.collect::<Result<_>>()?,
            objects.collect(),
        ],
        rights,
        kinds: members.iter().map(|member| Kind::new(GROUP, &member.plural)).collect(),
        children: format!("/api/v1/namespaces/{namespace}/configmaps"),
        // One is the namespace's own.
        count: (members.len() * each) as u64 + 1,
    })
}

/// What an object of theirs is called.
pub(crate) fn deployed_name(member: usize, object: usize) -> String {
    format!("m{member:03}-o{object:04}")
}

/// Builds a component of the workspace.
pub(crate) fn component(package: &str, example: Option<&str>) -> Result<PathBuf> {
    windlass_testbed::component(package, example)
}

/// Writes `with` over each place that holds `what`.
fn replace(bytes: &mut [u8], what: &[u8], with: &[u8]) -> Result<()> {
    ensure!(what.len() == with.len(), "the lengths differ: {} and {}", what.len(), with.len());
    let mut at = 0;
    let mut found = 0;
    while let Some(next) = bytes[at..].windows(what.len()).position(|window| window == what) {
        at += next;
        bytes[at..at + with.len()].copy_from_slice(with);
        at += with.len();
        found += 1;
    }
    ensure!(found > 0, "the fixture does not hold {}", String::from_utf8_lossy(what));
    Ok(())
}

/// A number as the immediate of `i64.const`.
fn signed_leb128(number: u64) -> Vec<u8> {
    let mut left = number.cast_signed();
    let mut bytes = Vec::new();
    loop {
        let seven = left.to_le_bytes()[0] & 0x7f;
        left >>= 7;
        let last = if seven & 0x40 == 0 { left == 0 } else { left == -1 };
        bytes.push(if last { seven } else { seven | 0x80 });
        if last {
            return bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_written_over_and_none_is_an_error() {
        let mut bytes = *b"-ab-abab-";
        replace(&mut bytes, b"ab", b"xy").expect("is there");
        assert_eq!(&bytes, b"-xy-xyxy-");
        assert!(replace(&mut bytes, b"ab", b"xy").is_err());
        assert!(replace(&mut bytes, b"xy", b"x").is_err());
    }

    #[test]
    fn an_immediate_is_encoded_as_the_format_says() {
        assert_eq!(signed_leb128(2), [2]);
        assert_eq!(signed_leb128(64), [0xc0, 0]);
        assert_eq!(signed_leb128(624_485), [0xe5, 0x8e, 0x26]);
        assert_eq!(signed_leb128((-123_456_i64).cast_unsigned()), [0xc0, 0xbb, 0x78]);
        let length = |number: u64| signed_leb128(MARK & (0xffff << 48) | number).len();
        assert_eq!((length(1), length(0xffff_ffff_ffff)), (10, 10));
    }
}

//! `cargo xtask plugin <dir>`: one plugin, built, checked as the host would check
//! it, and written as one file to apply.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use serde::Deserialize;
use windlass_core::kind::Gvk;
use windlass_core::limits::Limits;
use windlass_core::manifest::{Manifest, is_reserved};
use windlass_core::name::PluginName;
use windlass_plugin::verify::SIGNATURE_KEY;
use windlass_plugin::{Loader, PART_BYTES, Parts, Slice, Source, cut};

use crate::sign::Sign;
use crate::{rights, root};

/// Bytes of compressed component above which client-side `kubectl apply` fails:
/// its annotation holds a copy in base64 and may have 256 KiB.
const CLIENT_SIDE_MAX: usize = 180 * 1024;

/// What to build and where to write.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of the plugin's crate, such as plugins/webapp.
    dir: PathBuf,
    /// Where the YAML goes; default dist/<plugin>.yaml. `-` for standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write <dir>/rbac.yaml, <dir>/plugin.wasm.zst and, when signed, <dir>/plugin.sig instead, for a kustomization there.
    #[arg(long)]
    kustomize: bool,
    #[command(flatten)]
    sign: Sign,
}

/// A plugin that was built and accepted by the host's own checks.
pub(crate) struct Package {
    pub(crate) manifest: std::sync::Arc<Manifest>,
    pub(crate) digest: String,
    pub(crate) compressed: Vec<u8>,
    pub(crate) wasm: Vec<u8>,
    crd: Option<String>,
    /// The text of `plugin.sig`.
    signature: Option<String>,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let mut package = Package::build(&self.dir)?;
        package.signature = self.sign.signature(&package.manifest.name, &package.digest.parse()?)?;
        if self.kustomize {
            return package.write_for_kustomize(&self.dir);
        }
        let yaml = package.yaml()?;
        let path = self.output.unwrap_or_else(|| root().join(format!("dist/{}.yaml", package.manifest.name)));
        if path == Path::new("-") {
            print!("{yaml}");
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        }
        fs::write(&path, yaml).with_context(|| format!("write {}", path.display()))?;
        println!(
            "{} {} ({}, {} KB compressed) -> {}\n  kubectl apply --server-side -f {}",
            package.manifest.name,
            package.manifest.version,
            &package.digest[..19],
            package.compressed.len() / 1000,
            path.display(),
            path.display(),
        );
        Ok(())
    }
}

impl Package {
    /// Builds the crate in `dir` and asks the component for its manifest.
    pub(crate) fn build(dir: &Path) -> Result<Self> {
        let component = windlass_testbed::component(&crate_name(dir)?, None)?;
        let crd = dir.join("crd.yaml");
        let crd = crd.exists().then(|| fs::read_to_string(&crd)).transpose().context("read crd.yaml")?;
        Self::of(&component, crd)
    }

    /// Checks a built component.
    pub(crate) fn of(component: &Path, crd: Option<String>) -> Result<Self> {
        let wasm = fs::read(component).with_context(|| format!("read {}", component.display()))?;
        let compressed = zstd::encode_all(&*wasm, 19).context("compress")?;
        if compressed.len() > CLIENT_SIDE_MAX {
            eprintln!(
                "note: {} KB compressed: apply it with --server-side, client-side kubectl apply cannot carry it",
                compressed.len() / 1000
            );
        }
        // The component's own manifest is the truth; its label is not known before it is asked.
        let loader = Loader::in_process(Limits::default()).context("start the sandbox")?;
        let source = taken(&config_maps(None, &compressed), &loader)?;
        let manifest = loader.inspect(&source)?;
        for child in manifest.children.iter().filter(|child| is_reserved(&child.kind)) {
            eprintln!(
                "note: a host refuses it (E238) unless it runs with --allow-reserved-kind={}",
                child.kind
            );
        }
        let digest = windlass_core::name::Digest::of(&wasm).to_string();
        Ok(Self { manifest, digest, wasm, compressed, crd, signature: None })
    }

    /// The same plugin as another build of it: one more custom section, so another digest.
    pub(crate) fn rebuilt(&self) -> Result<Vec<u8>> {
        let name = b"rebuilt";
        let mut wasm = self.wasm.clone();
        wasm.extend([0, u8::try_from(name.len() + 1)?, u8::try_from(name.len())?]);
        wasm.extend(name);
        zstd::encode_all(&*wasm, 19).context("compress")
    }

    /// The ConfigMap that carries the component, or several when it is too large for one.
    pub(crate) fn config_maps(&self) -> Vec<serde_json::Value> {
        let mut maps = config_maps(Some(&self.manifest.name), &self.compressed);
        if let (Some(first), Some(signature)) = (maps.first_mut(), &self.signature) {
            first["data"] = serde_json::json!({SIGNATURE_KEY: signature});
        }
        maps
    }

    /// The rights, with plurals from the plugin's own CRD.
    pub(crate) fn rights(&self) -> Result<String> {
        let plurals = self.crd.as_deref().map(plurals).transpose()?.unwrap_or_default();
        Ok(rights::yaml(&self.manifest, &plurals))
    }

    /// Everything that has to be applied, as one YAML text.
    pub(crate) fn yaml(&self) -> Result<String> {
        let mut parts = Vec::new();
        parts.extend(self.crd.clone());
        parts.push(self.rights()?);
        for map in self.config_maps() {
            parts.push(format!("{}\n", serde_json::to_string_pretty(&map)?));
        }
        Ok(parts.join("---\n"))
    }

    /// Whether the rights in the tree are those that the manifest needs.
    ///
    /// # Errors
    /// One sentence that says how to mend it.
    pub(crate) fn check_rights(&self, dir: &Path) -> Result<()> {
        let path = dir.join("rbac.yaml");
        let found = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        if found != self.rights()? {
            bail!(
                "{} is not what the manifest needs; run `cargo xtask plugin {} --kustomize` and commit it",
                path.display(),
                dir.display()
            );
        }
        Ok(())
    }

    /// What `<dir>/kustomization.yaml` takes in.
    ///
    /// # Errors
    /// Also for a component that is too large for one ConfigMap, which is all that kustomize makes.
    pub(crate) fn write_for_kustomize(&self, dir: &Path) -> Result<()> {
        if self.compressed.len() > PART_BYTES {
            bail!(
                "{} KB compressed take {} ConfigMaps, and kustomize makes one: run `cargo xtask plugin {}` \
                 without --kustomize and apply what it writes",
                self.compressed.len() / 1000,
                self.compressed.len().div_ceil(PART_BYTES),
                dir.display()
            );
        }
        let rbac = dir.join("rbac.yaml");
        let text = self.rights()?;
        if fs::read_to_string(&rbac).ok().as_deref() != Some(&text) {
            fs::write(&rbac, text).with_context(|| format!("write {}", rbac.display()))?;
        }
        if let Some(signature) = &self.signature {
            let path = dir.join(SIGNATURE_KEY);
            fs::write(&path, signature).with_context(|| format!("write {}", path.display()))?;
        }
        let binary = dir.join("plugin.wasm.zst");
        fs::write(&binary, &self.compressed).with_context(|| format!("write {}", binary.display()))
    }
}

/// What the host takes out of ConfigMaps.
fn taken(maps: &[serde_json::Value], loader: &Loader) -> Result<Source> {
    let mut parts = Parts::default();
    let mut offered = Vec::new();
    for map in maps {
        offered = parts.offer(map.to_string().into())?.offered;
    }
    let whole = offered.pop().context("a component takes at least one ConfigMap")?.whole?;
    Ok(whole.source(loader.limits(), loader.maxima())?)
}

fn config_maps(name: Option<&PluginName>, compressed: &[u8]) -> Vec<serde_json::Value> {
    let name = name.map_or("unnamed", PluginName::as_str);
    let slices = cut(compressed);
    let one = slices.len() == 1;
    let map = |(i, slice): (usize, &Slice<'_>)| {
        let mut map = serde_json::json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": if one { format!("{name}-plugin") } else { format!("{name}-plugin-{}", i + 1) },
                "namespace": "windlass-system",
                "labels": {"windlass.dev/plugin": name},
            },
            "binaryData": {"plugin.wasm.zst": base64::engine::general_purpose::STANDARD.encode(slice.bytes)},
        });
        if !one {
            let annotations: BTreeMap<&str, &str> =
                slice.annotations.iter().map(|(key, value)| (*key, value.as_str())).collect();
            map["metadata"]["annotations"] = serde_json::json!(annotations);
        }
        map
    };
    slices.iter().enumerate().map(map).collect()
}

fn crate_name(dir: &Path) -> Result<String> {
    let path = dir.join("Cargo.toml");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("{} is not the folder of a crate: no Cargo.toml", dir.display()))?;
    let name = text.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    name.map(str::to_owned).with_context(|| format!("{} names no package", path.display()))
}

/// The plurals of the kinds in a file of CRDs.
fn plurals(yaml: &str) -> Result<BTreeMap<Gvk, String>> {
    #[derive(Deserialize)]
    struct Crd {
        spec: Spec,
    }
    #[derive(Deserialize)]
    struct Spec {
        group: String,
        names: Names,
        versions: Vec<Version>,
    }
    #[derive(Deserialize)]
    struct Names {
        kind: String,
        plural: String,
    }
    #[derive(Deserialize)]
    struct Version {
        name: String,
    }
    let crds: Vec<Crd> =
        serde_saphyr::from_multiple(yaml).context("crd.yaml is not a CustomResourceDefinition")?;
    let mut plurals = BTreeMap::new();
    for Crd { spec } in crds {
        for version in &spec.versions {
            let Ok(gvk) = Gvk::try_new(&spec.group, &version.name, &spec.names.kind) else {
                bail!("crd.yaml: {}/{}/{} is not a kind", spec.group, version.name, spec.names.kind);
            };
            plurals.insert(gvk, spec.names.plural.clone());
        }
    }
    Ok(plurals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_component_is_cut_into_config_maps_that_say_which_part_they_are() {
        let bytes: Vec<u8> = (0..PART_BYTES as u32 + 1).map(|i| i.to_le_bytes()[0]).collect();
        let maps = config_maps(None, &bytes);
        assert_eq!(maps.len(), 2);
        for (i, map) in maps.iter().enumerate() {
            assert_eq!(map["metadata"]["name"], format!("unnamed-plugin-{}", i + 1));
            assert_eq!(map["metadata"]["annotations"]["windlass.dev/part"], format!("{}-of-2", i + 1));
            let digest = windlass_core::name::Digest::of(&bytes);
            assert_eq!(map["metadata"]["annotations"]["windlass.dev/whole"], digest.as_str());
        }
        let small = config_maps(None, b"small");
        assert_eq!(small[0]["metadata"]["name"], "unnamed-plugin");
        assert!(small[0]["metadata"]["annotations"].is_null());
    }
}

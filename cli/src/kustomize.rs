//! A package as a folder that kustomize takes: `kubectl apply --server-side -k <folder>`.
//!
//! The component stays a file of its own, so that the folder can be looked at, patched and kept in git
//! without it. What is written here is written anew each time; a `kustomization.yaml` that somebody has
//! made their own is left alone.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use windlass_core::name::LABEL_PLUGIN;
use windlass_plugin::verify::SIGNATURE_KEY;
use windlass_plugin::{Slice, cut};

use crate::manifests::{MARK, scalar};
use crate::package::{COMPONENT_KEY, Package, SETTINGS_KEY, config_map_name};

const KUSTOMIZATION: &str = "kustomization.yaml";
const RIGHTS: &str = "rbac.yaml";

/// What was written, and what was not.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Written {
    /// Files that are new or changed, in the order in which they were written.
    pub files: Vec<PathBuf>,
    /// Whether there was a `kustomization.yaml` of somebody's own, which was left as it is.
    pub kept_kustomization: bool,
}

impl Package {
    /// Writes the package into `folder`, which is made when it is not there.
    ///
    /// # Errors
    /// As [`Package::rights`], and when a file cannot be written.
    pub fn write_kustomize(&self, folder: &Path) -> Result<Written> {
        let rights = self.rights_yaml()?;
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let mut written = Written::default();
        let mut resources = Vec::new();
        for file in &self.beside.crds {
            resources.push(bring(folder, &file.path, &file.text, &mut written)?);
        }
        written.write(&folder.join(RIGHTS), rights.as_bytes())?;
        resources.push(RIGHTS.to_owned());
        let mut data = Vec::new();
        for (key, text) in [(SETTINGS_KEY, &self.beside.settings), (SIGNATURE_KEY, &self.signature)] {
            if let Some(text) = text {
                written.write(&folder.join(key), text.as_bytes())?;
                data.push(key);
            }
        }
        let slices = cut(&self.compressed);
        remove_parts(folder)?;
        for (i, slice) in slices.iter().enumerate() {
            written.write(&folder.join(part_file(i, slices.len())), slice.bytes)?;
        }
        let path = folder.join(KUSTOMIZATION);
        let theirs = fs::read_to_string(&path).is_ok_and(|text| !text.starts_with(MARK));
        if theirs {
            written.kept_kustomization = true;
        } else {
            written.write(&path, self.kustomization(&resources, &data, &slices).as_bytes())?;
        }
        Ok(written)
    }

    fn kustomization(&self, resources: &[String], data: &[&str], slices: &[Slice<'_>]) -> String {
        let mut yaml = format!(
            "{MARK}\n# No name suffix: a new build is an update of the same ConfigMap, and so a swap.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
"
        );
        let mut line = |text: String| writeln!(yaml, "{text}").expect("writing to a String cannot fail");
        for resource in resources {
            line(format!("  - {resource}"));
        }
        line("configMapGenerator:".to_owned());
        for (i, slice) in slices.iter().enumerate() {
            let (plugin, is_only) = (self.manifest.name.as_str(), slices.len() == 1);
            line(format!("  - name: {}", config_map_name(plugin, i, is_only)));
            line(format!("    namespace: {}\n    files:", scalar(&self.place.host_namespace)));
            let file = part_file(i, slices.len());
            line(if is_only { format!("      - {file}") } else { format!("      - {COMPONENT_KEY}={file}") });
            for key in data.iter().filter(|_| i == 0) {
                line(format!("      - {key}"));
            }
            line(format!(
                "    options:\n      disableNameSuffixHash: true\n      labels:\n        {LABEL_PLUGIN}: {plugin}"
            ));
            if !is_only {
                line("      annotations:".to_owned());
                for (key, value) in &slice.annotations {
                    line(format!("        {key}: {value}"));
                }
            }
        }
        yaml
    }
}

impl Written {
    fn write(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        if fs::read(path).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        }
        fs::write(path, bytes).with_context(|| format!("write {}", path.display()))?;
        self.files.push(path.to_owned());
        Ok(())
    }
}

/// Makes a file a part of `folder`, since kustomize takes none from outside; says how it is called there.
fn bring(folder: &Path, path: &Path, text: &str, written: &mut Written) -> Result<String> {
    let whole = |path: &Path| path.canonicalize().with_context(|| path.display().to_string());
    let (inside, path) = (whole(folder)?, whole(path)?);
    if let Ok(inner) = path.strip_prefix(&inside) {
        return Ok(inner.display().to_string());
    }
    let name = format!("crds/{}", path.file_name().context("a file has a name")?.to_string_lossy());
    written.write(&folder.join(&name), text.as_bytes())?;
    Ok(name)
}

/// The component's file, or that of the part at `i`.
fn part_file(i: usize, of: usize) -> String {
    if of == 1 { COMPONENT_KEY.to_owned() } else { format!("{COMPONENT_KEY}.{}", i + 1) }
}

/// An earlier version may have had more parts, or another number of them.
fn remove_parts(folder: &Path) -> Result<()> {
    let prefix = format!("{COMPONENT_KEY}.");
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let number = name.strip_prefix(&prefix);
        if number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())) {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

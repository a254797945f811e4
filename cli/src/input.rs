//! What is on the command line, as bytes: a component, and what lies beside it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::crates::Crate;
use crate::kinds::{GroupKind, Kinds, Plural};
use crate::package::Package;

/// Which plugin, and what is known of its kinds.
#[derive(Clone, Debug, clap::Args)]
pub struct Input {
    /// The plugin: the folder of its crate, which is built, or a component (.wasm), which is taken as it is.
    #[arg(value_name = "CRATE|COMPONENT")]
    pub plugin: PathBuf,
    /// Cargo profile with which a crate is built.
    #[arg(long, value_name = "NAME", default_value = "release")]
    pub profile: String,
    /// A file or a folder with the plugin's CRDs, packaged with it. Default: crd.yaml and crds/ beside the plugin.
    #[arg(long, value_name = "PATH")]
    pub crds: Option<PathBuf>,
    #[command(flatten)]
    said: Said,
}

/// What a person says of kinds that nothing else says.
#[derive(Clone, Debug, Default, clap::Args)]
struct Said {
    /// The plural of a kind that neither Kubernetes nor the plugin brings, as RBAC needs it:
    /// cert-manager.io/Certificate=certificates.
    #[arg(long, value_name = "GROUP/KIND=PLURAL")]
    plural: Vec<Plural>,
    /// Objects of this kind are in namespaces. Asked for only by --namespace.
    #[arg(long, value_name = "GROUP/KIND")]
    namespaced_kind: Vec<GroupKind>,
    /// Have kubectl ask the current cluster about kinds that are not known.
    #[arg(long)]
    from_cluster: bool,
}

/// One file of CRDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrdFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

/// What lies beside a plugin and belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Its CRDs, in the order of their names.
    pub crds: Vec<CrdFile>,
    /// The text of `settings.yaml`.
    pub settings: Option<String>,
}

impl Beside {
    /// Looks into the folder of a crate or a component.
    ///
    /// # Errors
    /// When something is there and cannot be read.
    pub fn of(folder: &Path) -> Result<Self> {
        let mut crds = Vec::new();
        for path in [folder.join("crd.yaml"), folder.join("crds")] {
            if path.exists() {
                crds.extend(crd_files(&path)?);
            }
        }
        let settings = folder.join("settings.yaml");
        let settings = settings.exists().then(|| read(&settings)).transpose()?;
        Ok(Self { crds, settings })
    }

    /// All that its CRDs say of kinds.
    ///
    /// # Errors
    /// When one is no CRD; the message names the file.
    pub fn kinds(&self) -> Result<Kinds> {
        let mut kinds = Kinds::default();
        for file in &self.crds {
            kinds.learn_crds(&file.text).with_context(|| file.path.display().to_string())?;
        }
        Ok(kinds)
    }
}

impl Said {
    /// Adds it to what is known.
    fn teach(&self, kinds: &mut Kinds) -> Result<()> {
        for plural in &self.plural {
            kinds.learn_plural(plural);
        }
        for kind in &self.namespaced_kind {
            kinds.learn_namespaced(kind)?;
        }
        Ok(())
    }
}

impl Input {
    /// Builds the crate, if it is one, and reads the component. Blocks for as long as the compiler takes.
    ///
    /// # Errors
    /// When it does not build or cannot be read.
    pub fn component(&self) -> Result<Vec<u8>> {
        let path = if self.plugin.is_dir() {
            Crate::find(&self.plugin)?.build(&self.profile)?
        } else {
            self.plugin.clone()
        };
        fs::read(&path).with_context(|| format!("read {}", path.display()))
    }

    /// What lies beside it.
    ///
    /// # Errors
    /// As [`Beside::of`].
    pub fn beside(&self) -> Result<Beside> {
        let mut beside = Beside::of(self.folder())?;
        if let Some(path) = &self.crds {
            beside.crds = crd_files(path)?;
        }
        Ok(beside)
    }

    /// Adds what the flags say of kinds to what the package knows.
    ///
    /// # Errors
    /// When a kind is named whose plural is not known, or a cluster was to be asked and does not know either.
    pub fn teach(&self, package: &mut Package) -> Result<()> {
        self.said.teach(&mut package.kinds)?;
        if self.said.from_cluster {
            package.ask_cluster()?;
        }
        Ok(())
    }

    /// The crate's folder, or the component's.
    fn folder(&self) -> &Path {
        if self.plugin.is_dir() {
            return &self.plugin;
        }
        match self.plugin.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        }
    }
}

/// The file, or all YAML files of the folder.
fn crd_files(path: &Path) -> Result<Vec<CrdFile>> {
    if !path.is_dir() {
        return Ok(vec![CrdFile { path: path.to_owned(), text: read(path)? }]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).with_context(|| format!("read {}", path.display()))? {
        let path = entry?.path();
        let is_kustomization = path.file_stem().is_some_and(|name| name == "kustomization");
        if path.extension().is_some_and(|end| end == "yaml" || end == "yml") && !is_kustomization {
            files.push(CrdFile { text: read(&path)?, path });
        }
    }
    if files.is_empty() {
        bail!("{} has no .yaml file", path.display());
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beside_a_plugin_is_found_in_the_order_of_names() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Beside::of(folder.path()).expect("nothing is there"), Beside::default());
        let write = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, name).expect("written");
        };
        for name in [
            "crds/b.yaml",
            "crds/a.yml",
            "crds/README.md",
            "crds/kustomization.yaml",
            "crd.yaml",
            "settings.yaml",
        ] {
            write(name);
        }
        let beside = Beside::of(folder.path()).expect("readable");
        let texts: Vec<_> = beside.crds.iter().map(|file| &*file.text).collect();
        assert_eq!(texts, ["crd.yaml", "crds/a.yml", "crds/b.yaml"]);
        assert_eq!(beside.settings.as_deref(), Some("settings.yaml"));
        let error = format!("{:#}", beside.kinds().expect_err("no CRDs"));
        assert!(error.contains("crd.yaml: "), "{error}");
    }
}

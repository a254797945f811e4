//! What a host would say of a plugin, said at the desk: the same checks in the same order with the same
//! codes, compilation included.
//!
//! Not asked are the things that only a host knows: which signatures it demands (E130 to E134), which other
//! plugins it runs (E140, E141), what its cache has room for and its API server selects by (E180, E181), and
//! how long and in how much memory it lets a compiler work (E150, E151).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;
use windlass_core::code::Refusal;
use windlass_core::kind::Gvk;
use windlass_core::limits::Limits;
use windlass_core::name::LABEL_PLUGIN;
use windlass_core::plan::Policy;
use windlass_plugin::{CompileHere, Engine, LimitMaxima, Loader, Offered, Parts, Scratch, Setup};

use crate::about::About;
use crate::explain::{Explained, explain};
use crate::input::{Beside, CrdFile, Input};
use crate::kinds::lacks_version;
use crate::package::Package;
use crate::place::Place;

/// What was found out about one plugin.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What a host would refuse it for; nothing: it serves.
    pub refused: Option<Finding>,
    /// What is no reason to refuse it, and should be known.
    pub notes: Vec<String>,
    /// What it is, as far as that is known.
    pub plugin: Option<About>,
}

/// One reason to refuse a plugin.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// Code and name: `E112 CoreModule`.
    pub code: String,
    /// What was found here.
    pub message: String,
    /// What the code means in general, and what to do.
    #[serde(flatten)]
    pub explained: Option<Explained>,
}

impl From<&Refusal> for Finding {
    fn from(refusal: &Refusal) -> Self {
        Self {
            code: refusal.code.to_string(),
            message: refusal.message.clone(),
            explained: explain(refusal.code),
        }
    }
}

/// Checks a crate, a component or a package, as a host would that allows these reserved kinds and serves the
/// namespaces of the place.
///
/// # Errors
/// When it could not be looked at: it does not build, cannot be read, or something beside it is no CRD.
pub fn check(input: &Input, place: &Place, unreserved: &BTreeSet<Gvk>) -> Result<Report> {
    let (unreserved, namespaces) = (unreserved.clone(), place.namespaces.clone());
    let policy = Policy { unreserved, namespaces, ..Policy::default() };
    let found = if is_package(&input.plugin) {
        of_package(&input.plugin, &policy)?
    } else {
        let (component, beside) = (input.component()?, input.beside()?);
        beside.kinds()?;
        refused(Package::of(component, beside))?
    };
    let mut package = match found {
        Ok(package) => package,
        Err(refusal) => {
            return Ok(Report { refused: Some((&refusal).into()), notes: Vec::new(), plugin: None });
        }
    };
    package.place = place.clone();
    let said = input.teach(&mut package);
    let within = (*package.manifest).clone().within(&policy.namespaces);
    let permitted = within.and_then(|manifest| manifest.permit(&policy));
    let mut notes = notes(&package)?;
    let rights = said.and_then(|()| package.rights());
    notes.extend(rights.as_ref().err().map(|error| format!("it cannot be packaged yet: {error:#}")));
    Ok(Report {
        refused: permitted.as_ref().err().map(Finding::from),
        notes,
        plugin: Some(About::of(&package, rights.as_ref().ok())),
    })
}

/// Tells what a host refuses from what went wrong here.
fn refused(made: Result<Package>) -> Result<Result<Package, Refusal>> {
    match made {
        Ok(package) => Ok(Ok(package)),
        Err(error) => Ok(Err(error.downcast::<Refusal>()?)),
    }
}

fn notes(package: &Package) -> Result<Vec<String>> {
    let mut notes = package.notes();
    for file in &package.beside.crds {
        notes.extend(lacks_version(&file.text, &package.manifest.primary)?);
    }
    Ok(notes)
}

fn is_package(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "yaml" || end == "yml")
}

/// What `kubectl windlass package` has written, or somebody by hand: everything that a host takes from
/// ConfigMaps is judged.
fn of_package(path: &Path, policy: &Policy) -> Result<Result<Package, Refusal>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text).with_context(|| format!("{} is no YAML", path.display()))?;
    let is_plugin = |document: &&Value| {
        document["kind"] == "ConfigMap" && document["metadata"]["labels"][LABEL_PLUGIN].is_string()
    };
    let maps: Vec<&Value> = documents.iter().filter(is_plugin).collect();
    ensure!(!maps.is_empty(), "{} has no ConfigMap with the label {LABEL_PLUGIN}", path.display());
    let mut crds = Vec::new();
    for crd in documents.iter().filter(|document| document["kind"] == "CustomResourceDefinition") {
        crds.push(CrdFile { path: path.to_owned(), text: crd.to_string() });
    }
    let loader = loader(policy)?;
    let (mut parts, mut offered) = (Parts::default(), None);
    for map in maps {
        match parts.offer(map.to_string().into()) {
            Ok(mut now) => offered = now.offered.pop().or(offered),
            Err(refusal) => return Ok(Err(refusal)),
        }
    }
    let offered = offered.with_context(|| format!("{} has no part 1 of its component", path.display()))?;
    Ok(loaded(offered, &loader, Beside { crds, settings: None }))
}

fn loaded(offered: Offered, loader: &Loader, beside: Beside) -> Result<Package, Refusal> {
    let whole = offered.whole?;
    let source = whole.source(loader.limits(), loader.maxima())?;
    let manifest = loader.inspect(&source)?;
    // Judged as a host does it: name and policy, after what the component says of itself.
    loader.load(&source, &offered.offer.plugin)?;
    let kinds = beside.kinds().unwrap_or_default();
    Ok(Package {
        manifest,
        digest: source.digest.clone(),
        wasm: source.component.to_vec(),
        compressed: whole.packed(loader.limits())?.bytes,
        beside,
        signature: source.signature.as_deref().map(str::to_owned),
        place: Place::default(),
        kinds,
    })
}

fn loader(policy: &Policy) -> Result<Loader> {
    let (defaults, maxima) = (Limits::default(), LimitMaxima::default());
    Ok(Loader::new(Setup {
        guests: Arc::new(Engine::new(&maxima.largest(&defaults)).context("start the sandbox")?),
        compile: Arc::new(CompileHere),
        artefacts: Arc::new(Scratch::new().context("make a temporary directory")?),
        defaults,
        maxima,
        policy: policy.clone(),
    }))
}

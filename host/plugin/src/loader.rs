//! The loader: source -> compiled artefact -> loaded -> asked what it is.
//!
//! It parses nothing of a component and runs nothing of it: compiling and running are the
//! business of whoever is behind the two seams of [`windlass_core::guests`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use windlass_core::code::{Code, Refusal};
use windlass_core::guests::{Compile, Guests, Load, LoadId};
use windlass_core::limits::Limits;
use windlass_core::manifest::Manifest;
use windlass_core::name::{Digest, PluginName};
use windlass_core::plan::Policy;

use crate::artefacts::{Artefacts, Kept, Scratch};
use crate::compile::CompileHere;
use crate::engine::EngineError;
use crate::guests::Engine;
use crate::lifecycle::Step;
use crate::limits::LimitMaxima;
use crate::plugin::{Loaded, Plugin};
use crate::source::Source;

/// Who does what a loader does not do itself.
pub struct Setup {
    /// Runs guests.
    pub guests: Arc<dyn Guests>,
    /// Compiles components.
    pub compile: Arc<dyn Compile>,
    /// Keeps what was compiled.
    pub artefacts: Arc<dyn Artefacts>,
    /// What a plugin may use that asks for nothing else.
    pub defaults: Limits,
    /// What a plugin may ask for.
    pub maxima: LimitMaxima,
    /// By what manifests are judged. Plans have to be made under the same.
    pub policy: Policy,
}

/// Makes plugins.
pub struct Loader {
    setup: Setup,
    /// The limits of a plugin that asks for the most: they shape the compiled code.
    largest: Limits,
    loads: AtomicU64,
    /// What is loaded now and in use somewhere.
    loaded: Mutex<HashMap<(Digest, Limits), Weak<Loaded>>>,
}

impl Loader {
    /// A loader that works through `setup`.
    pub fn new(setup: Setup) -> Self {
        let largest = setup.maxima.largest(&setup.defaults);
        Self { setup, largest, loads: AtomicU64::new(0), loaded: Mutex::default() }
    }

    /// A loader that compiles and runs guests in this process: for tests and tools. A host that
    /// cares about itself does neither.
    ///
    /// # Errors
    /// [`EngineError`]: this machine or these limits cannot run plugins at all.
    pub fn in_process(limits: Limits) -> Result<Self, EngineError> {
        let maxima = LimitMaxima::default();
        Ok(Self::new(Setup {
            guests: Arc::new(Engine::new(&maxima.largest(&limits))?),
            compile: Arc::new(CompileHere),
            artefacts: Arc::new(Scratch::new().map_err(EngineError::Scratch)?),
            defaults: limits,
            maxima,
            policy: Policy::default(),
        }))
    }

    /// The limits of a plugin that asks for none of its own.
    pub fn limits(&self) -> &Limits {
        &self.setup.defaults
    }

    /// What a plugin may ask for.
    pub fn maxima(&self) -> &LimitMaxima {
        &self.setup.maxima
    }

    /// Compiles unless that was done before, loads, and asks for the manifest. Blocks for up to
    /// minutes. A component that is in use already is not loaded again: a change of settings
    /// alone costs nothing.
    ///
    /// # Errors
    /// E110 to E123 from the check, E150 to E152 from the compiler, E160 and E161 when the
    /// plugin fails to say what it is, E170 and E238 for what it says, E172 when its name is not
    /// `name`, E203 and E205 when the process that runs it fails.
    pub fn load(&self, source: &Source, name: &PluginName) -> Result<Plugin, Refusal> {
        self.load_in_steps(source, name, &mut |_| {})
    }

    /// As [`load`](Self::load), and says how far it has come: [`Step::Compiled`], [`Step::Warmed`].
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_in_steps(
        &self,
        source: &Source,
        name: &PluginName,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Plugin, Refusal> {
        let loaded = match self.in_use(&source.digest, &source.limits) {
            Some(loaded) => loaded,
            None => self.share(self.make(source, progress)?),
        };
        progress(Step::Warmed);
        if loaded.manifest.name != *name {
            return Err(Refusal::new(
                Code::NameMismatch,
                format!(
                    "the manifest's name is {}, the ConfigMap's label windlass.dev/plugin says {name}",
                    loaded.manifest.name
                ),
            ));
        }
        loaded.manifest.permit(&self.setup.policy)?;
        Ok(Plugin::new(loaded, source.settings.clone()))
    }

    /// Compiles and loads, and gives back what the component says of itself, under whatever
    /// name and policy: for tools that package it. Blocks for up to minutes.
    ///
    /// # Errors
    /// As [`load`](Self::load), without E172 and E238.
    pub fn inspect(&self, source: &Source) -> Result<Arc<Manifest>, Refusal> {
        Ok(Arc::clone(&self.make(source, &mut |_| {})?.manifest))
    }

    fn in_use(&self, digest: &Digest, limits: &Limits) -> Option<Arc<Loaded>> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.get(&(digest.clone(), limits.clone())).and_then(Weak::upgrade)
    }

    /// Remembers it for as long as somebody uses it.
    fn share(&self, new: Loaded) -> Arc<Loaded> {
        let new = Arc::new(new);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|_, known| known.strong_count() > 0);
        loaded.insert((new.digest.clone(), new.limits.clone()), Arc::downgrade(&new));
        new
    }

    fn make(&self, source: &Source, progress: &mut dyn FnMut(Step)) -> Result<Loaded, Refusal> {
        if let Some(kept) = self.setup.artefacts.find(&source.digest) {
            progress(Step::Compiled);
            match self.open(source, &kept) {
                // Another version of this host made it, or another processor.
                Err(refusal) if refusal.code == Code::CompileFailed => {
                    self.setup.artefacts.discard(&source.digest);
                }
                other => return other,
            }
        }
        let Setup { compile, artefacts, .. } = &self.setup;
        let kept = artefacts
            .keep(&source.digest, &mut |into| compile.compile(&source.component, &self.largest, into))?;
        progress(Step::Compiled);
        self.open(source, &kept)
    }

    fn open(&self, source: &Source, kept: &Kept) -> Result<Loaded, Refusal> {
        let load = Load {
            id: LoadId(self.loads.fetch_add(1, Ordering::Relaxed)),
            plugin: source.plugin.clone(),
            digest: source.digest.clone(),
            artefact: kept.path.clone(),
            limits: source.limits.clone(),
        };
        // Judged again: whoever asked the guest ran a stranger's code.
        let served = &self.setup.policy.namespaces;
        let manifest = self.setup.guests.load(&load).and_then(Manifest::check);
        let manifest = manifest.and_then(|manifest| manifest.within(served));
        let manifest = manifest.inspect_err(|_| self.setup.guests.unload(load.id))?;
        Ok(self.loaded(load, kept, manifest))
    }

    fn loaded(&self, load: Load, kept: &Kept, manifest: Manifest) -> Loaded {
        Loaded {
            id: load.id,
            guests: Arc::clone(&self.setup.guests),
            limits: load.limits,
            digest: load.digest,
            kept: kept.clone(),
            manifest: Arc::new(manifest),
        }
    }
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").field("limits", &self.setup.defaults).finish_non_exhaustive()
    }
}

//! Guests in this process: what the worker runs inside, and tests.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use windlass_core::code::{Code, Refusal};
use windlass_core::guests::{Call, Called, Guests, Load, LoadId, Texts};
use windlass_core::limits::Limits;
use windlass_core::manifest::Manifest;
use windlass_core::ports::CallError;

use crate::artefact;
use crate::call::Given;
use crate::courtesy::Courtesy;
use crate::engine::{EngineError, Sandbox};
use crate::lookups::NothingToRead;
use crate::rest::{Pages, Rest};
use crate::worlds::{Guest, SERVED, World};

/// Runs guests on the threads that ask. One a process: it holds the engine and its ticker.
pub struct Engine {
    sandbox: Sandbox,
    loaded: Arc<RwLock<HashMap<LoadId, Arc<Loaded>>>>,
    rest: Rest,
}

/// A component that is mapped and linked.
struct Loaded {
    limits: Limits,
    linked: Box<dyn Guest>,
    pages: Arc<Pages>,
}

impl Engine {
    /// An engine for plugins whose limits are at most `maxima`, and its ticker thread.
    ///
    /// # Errors
    /// [`EngineError`]: this machine or these limits cannot run plugins at all.
    pub fn new(maxima: &Limits) -> Result<Self, EngineError> {
        Self::serving(maxima, SERVED)
    }

    /// The same with courtesy towards calls that take less. To be called at normal priority.
    ///
    /// # Errors
    /// [`EngineError::Teardown`]: no further thread.
    pub fn courteous(mut self, courtesy: Courtesy) -> Result<Self, EngineError> {
        self.sandbox.be_courteous(courtesy)?;
        Ok(self)
    }

    /// The same for other versions of the contract.
    pub(crate) fn serving(maxima: &Limits, worlds: &'static [&'static World]) -> Result<Self, EngineError> {
        let sandbox = Sandbox::new(maxima, worlds)?;
        let loaded = Arc::<RwLock<HashMap<LoadId, Arc<Loaded>>>>::default();
        let all = Arc::clone(&loaded);
        let rest = Rest::start(move || {
            let all = all.read().unwrap_or_else(PoisonError::into_inner);
            all.values().map(|loaded| Arc::clone(&loaded.pages)).collect()
        });
        Ok(Self { sandbox, loaded, rest })
    }

    fn loaded(&self, id: LoadId) -> Option<Arc<Loaded>> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn manifest(&self, load: &Load, loaded: &Loaded) -> Result<Manifest, Refusal> {
        let given = Given { seed: load.plugin.as_str(), now: Duration::ZERO, texts: Arc::new(NothingToRead) };
        loaded.linked.manifest(&self.sandbox, &loaded.limits, given).map_err(at_start)
    }
}

impl Guests for Engine {
    fn load(&self, load: &Load) -> Result<Manifest, Refusal> {
        let component = artefact::map(self.sandbox.engine(), &load.artefact)?;
        let linked = self.sandbox.link(&component).map_err(|e| not_linked(&e))?;
        let pages = Arc::new(Pages::mapped(component));
        self.rest.touch(&pages);
        let loaded = Arc::new(Loaded { limits: load.limits.clone(), linked, pages });
        let manifest = self.manifest(load, &loaded)?;
        self.loaded.write().unwrap_or_else(PoisonError::into_inner).insert(load.id, loaded);
        Ok(manifest)
    }

    fn call(&self, asked: &Call<'_>, texts: Arc<dyn Texts>) -> Called {
        let Some(loaded) = self.loaded(asked.load) else {
            let text = format!("load {} is not known to the process that runs guests", asked.load.0);
            return Called::failed(CallError::Refused(Refusal::new(Code::WorkerDied, text)));
        };
        let Loaded { limits, linked, pages } = &*loaded;
        self.rest.touch(pages);
        let given = Given { seed: &asked.seed, now: asked.now, texts };
        linked.decide(&self.sandbox, limits, given, asked)
    }

    fn unload(&self, id: LoadId) {
        self.loaded.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// An interface that is on the list, used in a way that the host does not know.
/// Exports have been checked before, so it is always an import.
fn not_linked(error: &wasmtime::Error) -> Refusal {
    Refusal::new(Code::ForbiddenImport, format!("{error:#}"))
}

/// The same failure has another code before a plugin serves: nothing ran for an object.
fn at_start(refusal: Refusal) -> Refusal {
    let code = match refusal.code {
        Code::Trap => Code::InitTrap,
        Code::Timeout => Code::InitTimeout,
        other => other,
    };
    Refusal { code, ..refusal }
}

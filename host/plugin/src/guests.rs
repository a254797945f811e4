//! Guests in this process: what the worker runs inside, and tests.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use windlass_core::code::{Code, Refusal};
use windlass_core::decision::Verdict;
use windlass_core::guests::{Call, Called, Guests, Load, LoadId, Texts};
use windlass_core::limits::Limits;
use windlass_core::manifest::Manifest;
use windlass_core::ports::CallError;

use crate::artefact;
use crate::bindings::contract::windlass::operator::types;
use crate::bindings::contract::{self, ReconcilerPre};
use crate::call::{Ended, Given, Inside, call};
use crate::convert;
use crate::engine::{EngineError, Sandbox};
use crate::lookups::NothingToRead;

/// Runs guests on the threads that ask. One a process: it holds the engine and its ticker.
pub struct Engine {
    sandbox: Sandbox,
    loaded: RwLock<HashMap<LoadId, Arc<Loaded>>>,
}

/// A component that is mapped and linked.
struct Loaded {
    limits: Limits,
    linked: ReconcilerPre<Inside>,
}

impl Engine {
    /// An engine for plugins whose limits are at most `maxima`, and its ticker thread.
    ///
    /// # Errors
    /// [`EngineError`]: this machine or these limits cannot run plugins at all.
    pub fn new(maxima: &Limits) -> Result<Self, EngineError> {
        Ok(Self { sandbox: Sandbox::new(maxima)?, loaded: RwLock::default() })
    }

    fn loaded(&self, id: LoadId) -> Option<Arc<Loaded>> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn manifest(&self, load: &Load, loaded: &Loaded) -> Result<Manifest, Refusal> {
        let given =
            Given { seed: load.plugin.as_str(), now: Duration::ZERO, texts: Arc::new(NothingToRead) };
        let ended = call(&self.sandbox, &loaded.limits, &loaded.linked, given, |guest, store| {
            guest.call_manifest(store)
        });
        convert::manifest(ended.result.map_err(at_start)?)
    }
}

impl Guests for Engine {
    fn load(&self, load: &Load) -> Result<Manifest, Refusal> {
        let component = artefact::map(self.sandbox.engine(), &load.artefact)?;
        let linked = self.sandbox.link(&component).map_err(|e| not_linked(&e))?;
        let loaded = Arc::new(Loaded { limits: load.limits.clone(), linked });
        let manifest = self.manifest(load, &loaded)?;
        self.loaded.write().unwrap_or_else(PoisonError::into_inner).insert(load.id, loaded);
        Ok(manifest)
    }

    fn call(&self, asked: &Call<'_>, texts: Arc<dyn Texts>) -> Called {
        let Some(loaded) = self.loaded(asked.load) else {
            let text = format!("load {} is not known to the process that runs guests", asked.load.0);
            return Called::failed(CallError::Refused(Refusal::new(Code::WorkerDied, text)));
        };
        let Loaded { limits, linked } = &*loaded;
        let children: Vec<&str> = asked.children.iter().map(|child| &**child).collect();
        let snapshot = contract::Snapshot {
            primary: &asked.primary,
            children: &children,
            settings: asked.settings.as_deref(),
        };
        let given = Given { seed: &asked.seed, now: asked.now, texts };
        let most = limits.decision_bytes;
        if asked.finalize {
            let ended = call(&self.sandbox, limits, linked, given, |guest, store| {
                guest.call_finalize(store, snapshot)
            });
            settle(ended, |finalization| convert::finalization(finalization, most))
        } else {
            let ended = call(&self.sandbox, limits, linked, given, |guest, store| {
                guest.call_reconcile(store, snapshot)
            });
            settle(ended, |decision| convert::decision(decision, most).map(Verdict::Decision))
        }
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

/// Layers of an answer, from the call to the plugin's own word.
fn settle<T>(
    ended: Ended<Result<T, types::Fault>>,
    verdict: impl FnOnce(T) -> Result<Verdict, Refusal>,
) -> Called {
    let Ended { result, read_clock, lines, dropped_bytes, mut used } = ended;
    let result = match result {
        Err(refusal) => Err(CallError::Refused(refusal)),
        Ok(Err(fault)) => Err(CallError::Fault(convert::fault(&fault))),
        Ok(Ok(value)) => verdict(value).map_err(CallError::Refused),
    };
    if let Ok(Verdict::Decision(decision)) = &result {
        used.decision_bytes = convert::bytes_of(decision) as u64;
    }
    Called { result, read_clock, lines, dropped_bytes, used }
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

//! The loader: source -> checked -> compiled -> linked -> asked what it is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use windlass_core::code::{Code, Refusal};
use windlass_core::limits::Limits;
use windlass_core::manifest::Manifest;
use windlass_core::name::{Digest, PluginName};

use crate::bindings::contract::ReconcilerPre;
use crate::call::{Caller, Inside, call};
use crate::check;
use crate::convert;
use crate::engine::{EngineError, Sandbox};
use crate::lookups::NothingToRead;
use crate::output::Speaker;
use crate::plugin::{Compiled, Plugin};
use crate::source::Source;

/// Makes plugins. One a process: it holds the engine and its ticker, which live
/// on in every plugin it has made.
pub struct Loader {
    sandbox: Arc<Sandbox>,
    limits: Arc<Limits>,
    /// What is compiled now and in use somewhere.
    compiled: Mutex<HashMap<Digest, Weak<Compiled>>>,
}

impl Loader {
    /// An engine for plugins within `limits`, and its ticker thread.
    ///
    /// # Errors
    /// [`EngineError`]: this machine or these limits cannot run plugins at all.
    pub fn new(limits: Limits) -> Result<Self, EngineError> {
        Ok(Self {
            sandbox: Arc::new(Sandbox::new(&limits)?),
            limits: Arc::new(limits),
            compiled: Mutex::default(),
        })
    }

    /// The limits that every call of every plugin runs in.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Checks, compiles, links and asks for the manifest. Blocks for up to seconds.
    /// A component that is in use already is not compiled again: a change of
    /// settings alone costs nothing.
    ///
    /// # Errors
    /// E110 to E122 from the check, E113, E115 and E152 from the compiler, E160 and
    /// E161 when the plugin fails to say what it is, E170 and E238 for what it says,
    /// E172 when its name is not `name`. None passes by itself.
    pub fn load(&self, source: &Source, name: &PluginName) -> Result<Plugin, Refusal> {
        let compiled = match self.in_use(&source.digest) {
            Some(compiled) => compiled,
            None => self.keep(self.compile(source)?),
        };
        if compiled.manifest.name != *name {
            return Err(Refusal::new(
                Code::NameMismatch,
                format!(
                    "the manifest's name is {}, the ConfigMap's label windlass.dev/plugin says {name}",
                    compiled.manifest.name
                ),
            ));
        }
        Ok(Plugin::new(compiled, source.settings.clone()))
    }

    /// Checks and compiles, and gives back what the component says of itself, under
    /// whatever name: for tools that package it. Blocks for up to seconds.
    ///
    /// # Errors
    /// As [`load`](Self::load), without E172.
    pub fn inspect(&self, source: &Source) -> Result<Arc<Manifest>, Refusal> {
        Ok(Arc::clone(&self.compile(source)?.manifest))
    }

    fn in_use(&self, digest: &Digest) -> Option<Arc<Compiled>> {
        let compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        compiled.get(digest).and_then(Weak::upgrade)
    }

    /// Remembers it for as long as somebody uses it.
    fn keep(&self, new: Compiled) -> Arc<Compiled> {
        let new = Arc::new(new);
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        compiled.retain(|_, known| known.strong_count() > 0);
        compiled.insert(new.digest.clone(), Arc::downgrade(&new));
        new
    }

    fn compile(&self, source: &Source) -> Result<Compiled, Refusal> {
        let features = self.sandbox.features();
        check::check(&source.component, features)?;
        let component = self
            .sandbox
            .compile(&source.component)
            .map_err(|e| check::compile_failure(&source.component, features, &e))?;
        let linked = self.sandbox.link(&component).map_err(|e| not_linked(&e))?;
        Ok(Compiled {
            manifest: Arc::new(self.ask(&linked, &source.plugin)?),
            sandbox: Arc::clone(&self.sandbox),
            limits: Arc::clone(&self.limits),
            digest: source.digest.clone(),
            linked,
        })
    }

    fn ask(&self, linked: &ReconcilerPre<Inside>, plugin: &PluginName) -> Result<Manifest, Refusal> {
        let caller = Caller {
            speaker: Speaker { plugin: plugin.clone(), key: String::new(), pass: 0 },
            seed: plugin.as_str(),
            reader: Arc::new(NothingToRead),
        };
        let called =
            call(&self.sandbox, &self.limits, linked, caller, |guest, store| guest.call_manifest(store));
        convert::manifest(called.result.map_err(at_start)?)
    }
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").field("limits", &self.limits).finish_non_exhaustive()
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

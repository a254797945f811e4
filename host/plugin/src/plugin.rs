//! Plugins: loaded, linked and ready to decide.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use windlass_core::code::{Code, Refusal};
use windlass_core::decision::Verdict;
use windlass_core::limits::Limits;
use windlass_core::manifest::Manifest;
use windlass_core::name::Digest;
use windlass_core::ports::{CallError, Pass, Reader, Serving};
use windlass_core::snapshot::Snapshot;

use crate::bindings::contract::windlass::operator::types;
use crate::bindings::contract::{self, ReconcilerPre};
use crate::call::{Called, Caller, Inside, call};
use crate::convert;
use crate::counts::{Counts, Ended};
use crate::engine::Sandbox;
use crate::output::Speaker;

/// A component that has been checked, compiled and linked, with what it said of
/// itself. Shared by all plugins with the same digest.
pub(crate) struct Compiled {
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) digest: Digest,
    pub(crate) linked: ReconcilerPre<Inside>,
    pub(crate) manifest: Arc<Manifest>,
}

/// One version of one plugin with its settings, ready to decide. Decisions may
/// be asked for on any number of threads at once; each runs by itself.
pub struct Plugin {
    compiled: Arc<Compiled>,
    settings: Option<Arc<str>>,
    counts: Arc<Counts>,
}

/// A verdict and what else the host must know of how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the plugin decided.
    pub verdict: Verdict,
    /// Whether it asked what time it is: then the same inputs may give another
    /// verdict later, and the pass must not be remembered.
    pub read_clock: bool,
}

impl Plugin {
    pub(crate) fn new(compiled: Arc<Compiled>, settings: Option<Arc<str>>) -> Self {
        Self { compiled, settings, counts: Arc::default() }
    }

    /// Goes on with the counters of the version that this one replaces.
    pub(crate) fn continue_counts(&mut self, of: &Plugin) {
        self.counts = Arc::clone(&of.counts);
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.compiled.manifest
    }

    /// Which component decides.
    pub fn digest(&self) -> &Digest {
        &self.compiled.digest
    }

    /// Its settings as JSON text.
    pub fn settings(&self) -> Option<&Arc<str>> {
        self.settings.as_ref()
    }

    /// What it has cost so far, earlier versions included.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The plugin as the rest of the host sees it.
    pub fn serving(&self) -> Serving {
        Serving {
            manifest: Arc::clone(&self.compiled.manifest),
            digest: self.compiled.digest.clone(),
            settings: self.settings.clone(),
        }
    }

    /// Asks `reconcile`, or `finalize` if `pass` says so. Blocks this thread for
    /// tens of microseconds as a rule and for twice [`Limits::cpu`] at most, so it
    /// belongs on a thread that may block. The guest runs on this thread's stack: it
    /// needs [`Limits::stack_bytes`] and some 256 KiB for the host's own frames.
    ///
    /// # Errors
    /// [`CallError::Fault`] is the plugin's own answer; [`CallError::Refused`] says
    /// which rule it broke (E201 to E212, E231). Nothing is left of the call either way.
    pub fn decide(
        &self,
        pass: &Pass,
        snapshot: &Snapshot,
        reader: Arc<dyn Reader>,
    ) -> Result<Verdict, CallError> {
        self.answer(pass, snapshot, reader).map(|answer| answer.verdict)
    }

    /// As [`decide`](Self::decide), and says whether the clock was read.
    ///
    /// # Errors
    /// As [`decide`](Self::decide).
    pub fn answer(
        &self,
        pass: &Pass,
        snapshot: &Snapshot,
        reader: Arc<dyn Reader>,
    ) -> Result<Answer, CallError> {
        let begun = Instant::now();
        let answer = self.ask(pass, snapshot, reader);
        let ended = match &answer {
            Ok(_) => Ended::Decided,
            Err(CallError::Fault(_)) => Ended::Fault,
            Err(CallError::Refused(_) | CallError::NotServing(_)) => Ended::Refused,
        };
        self.counts.add(ended, begun.elapsed());
        answer
    }

    fn ask(&self, pass: &Pass, snapshot: &Snapshot, reader: Arc<dyn Reader>) -> Result<Answer, CallError> {
        let Compiled { sandbox, limits, linked, .. } = &*self.compiled;
        fits(snapshot, limits).map_err(CallError::Refused)?;
        let children: Vec<&str> = snapshot.children.iter().map(|child| child.json()).collect();
        let given = contract::Snapshot {
            primary: snapshot.primary.json(),
            children: &children,
            settings: snapshot.settings.as_deref(),
        };
        let caller = Caller {
            speaker: Speaker { plugin: pass.key.plugin.clone(), key: pass.key.primary(), pass: pass.number },
            seed: &snapshot.primary.meta().uid,
            reader,
        };
        let most = limits.decision_bytes;
        if pass.finalize {
            let called =
                call(sandbox, limits, linked, caller, |guest, store| guest.call_finalize(store, given));
            settle(called, |finalization| convert::finalization(finalization, most))
        } else {
            let called =
                call(sandbox, limits, linked, caller, |guest, store| guest.call_reconcile(store, given));
            settle(called, |decision| convert::decision(decision, most).map(Verdict::Decision))
        }
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.compiled.manifest.name)
            .field("version", &self.compiled.manifest.version)
            .field("digest", &self.compiled.digest)
            .finish_non_exhaustive()
    }
}

/// Layers of an answer, from the call to the plugin's own word.
fn settle<T>(
    called: Called<Result<T, types::Fault>>,
    verdict: impl FnOnce(T) -> Result<Verdict, Refusal>,
) -> Result<Answer, CallError> {
    let said = called.result.map_err(CallError::Refused)?;
    let value = said.map_err(|fault| CallError::Fault(convert::fault(&fault)))?;
    Ok(Answer { verdict: verdict(value).map_err(CallError::Refused)?, read_clock: called.read_clock })
}

/// # Errors
/// E212 when the snapshot is more than a plugin is handed.
fn fits(snapshot: &Snapshot, limits: &Limits) -> Result<(), Refusal> {
    let bytes = snapshot.bytes();
    if bytes <= limits.snapshot_bytes {
        return Ok(());
    }
    Err(Refusal::new(
        Code::InputTooLarge,
        format!(
            "the primary and its {} children are {} KiB, at most {} KiB",
            snapshot.children.len(),
            bytes / 1024,
            limits.snapshot_bytes / 1024
        ),
    ))
}

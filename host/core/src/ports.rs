//! The seams between the stages: what `reconcile` asks of the others.
//!
//! Each trait is implemented once for real and once or more in tests. None names
//! a type of tokio, kube or wasmtime.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::claim::Claim;
use crate::class::Class;
use crate::code::Refusal;
use crate::decision::{Fault, Notice, Verdict};
use crate::guests::LoadId;
use crate::key::{Key, ObjectRef};
use crate::kind::{Gvk, Kind};
use crate::manifest::Manifest;
use crate::memo::Fingerprint;
use crate::memory::Recall;
use crate::name::{Digest, PluginName};
use crate::object::Object;
use crate::plan::Plan;
use crate::reads::{Query, Reads};
use crate::snapshot::Snapshot;
use crate::urgency::Urgency;

/// What is known of the cluster. Answers come from memory and never wait.
pub trait Cache: Send + Sync + 'static {
    /// What discovery says about a kind; nothing until it has been found.
    fn kind(&self, gvk: &Gvk) -> Option<Kind>;
    /// Whether this kind has been listed, so that absence means absence.
    fn is_synced(&self, gvk: &Gvk) -> bool;
    /// One object.
    fn object(&self, of: &ObjectRef) -> Option<Arc<Object>>;
    /// The children that the inventory holds for a key, ordered by kind and name.
    fn children(&self, of: &Key) -> Vec<Arc<Object>>;
    /// The objects that match, ordered by namespace and name.
    fn list(&self, query: &Query) -> Vec<Arc<Object>>;
    /// Whether the cache has seen this write of our own: the object at that version
    /// or a later one, or its end since, or after a delete its absence or another incarnation.
    fn caught_up(&self, write: &Written) -> bool;
    /// Has a kind read anew from the API server, beside the watch that should have brought what is
    /// missing. Answers whether that is news: until the list has begun, all who ask mean the same one.
    fn relist(&self, gvk: &Gvk) -> bool;
    /// Whether a kind was listed to the end by a list that began after `at`: then all that the API
    /// server had accepted until `at` has been seen.
    fn listed_since(&self, gvk: &Gvk, at: Instant) -> bool;
    /// Names the time for which what is known of a kind holds together: it changes when the kind
    /// is served in another way or not any more, and when its past was rewritten. Never given twice.
    fn era(&self, gvk: &Gvk) -> u64;
    /// Adds the children of `of`, ordered as [`children`](Self::children) has them, and then
    /// everything that it is said to read ([`watch_reads`](Self::watch_reads)), objects before
    /// lists and each ordered, as they are now.
    fn fingerprint(&self, of: &Key, into: &mut Fingerprint);
    /// As [`fingerprint`](Self::fingerprint), for the keys of one plugin that have these primaries, ordered by namespace and
    /// name: one for each, begun with the primary. `into` is only room to put them, and may hold others behind them.
    /// A resync asks for thousands.
    fn fingerprints(&self, plugin: &PluginName, primaries: &[Arc<Object>], into: &mut Vec<Fingerprint>) {
        begin_each(primaries, into);
        for (primary, into) in primaries.iter().zip(into) {
            let meta = primary.meta();
            self.fingerprint(&Key::new(plugin.clone(), meta.namespace.clone(), meta.name.clone()), into);
        }
    }
    /// At most `most` objects of a kind, ordered by namespace and name, those behind `after` only.
    fn page(&self, gvk: &Gvk, after: Option<&(Arc<str>, Arc<str>)>, most: usize) -> Vec<Arc<Object>>;
    /// The keys of a plugin that have children of this kind, each once.
    fn owners(&self, gvk: &Gvk, plugin: &PluginName) -> Vec<Key>;
    /// From now on a change to anything in `reads` brings `key` back. Replaces
    /// what was said before for this key; empty reads forget it.
    fn watch_reads(&self, key: &Key, reads: Reads);
    /// Adds to what is watched for `key`, while its pass still runs.
    fn add_read(&self, key: &Key, read: Read);
}

/// One fingerprint for each of these primaries, begun with it. What is in `into` behind them is room for later.
pub fn begin_each(primaries: &[Arc<Object>], into: &mut Vec<Fingerprint>) {
    into.resize_with(into.len().max(primaries.len()), Fingerprint::default);
    primaries.iter().zip(into).for_each(|(primary, into)| into.begin(primary));
}

/// One question that a pass asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// For one object.
    Object(ObjectRef),
    /// For a list.
    List(Query),
}

/// What a guest may ask for while it decides. Restricted to its manifest.
pub trait Reader: Send + Sync {
    /// One object.
    ///
    /// # Errors
    /// E231 when the manifest does not declare it: the pass ends.
    fn get(&self, of: &ObjectRef) -> Result<Option<Arc<Object>>, Refusal>;
    /// All objects that match.
    ///
    /// # Errors
    /// E231 when the manifest does not declare it: the pass ends.
    fn list(&self, query: &Query) -> Result<Vec<Arc<Object>>, Refusal>;
}

/// A plugin that serves, as the rest of the host sees it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Serving {
    /// What it said of itself.
    pub manifest: Arc<Manifest>,
    /// Which component decides.
    pub digest: Digest,
    /// How it was loaded: with which component and which limits. Never used twice by a process.
    pub load: LoadId,
    /// Its settings as JSON text.
    pub settings: Option<Arc<str>>,
    /// Children that one of its decisions may have.
    pub children_max: usize,
}

/// One call into a plugin.
#[derive(Clone, Debug)]
pub struct Pass {
    /// For which key.
    pub key: Key,
    /// Counts passes of this process; appears in log lines.
    pub number: u64,
    /// Whether the primary is being deleted and `finalize` is asked.
    pub finalize: bool,
}

/// What a plugin decided, and how far that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it decided.
    pub verdict: Verdict,
    /// Whether the same inputs give the same verdict at any other time: it did not ask what time
    /// it is, and was not found to answer differently. Otherwise the pass is not remembered.
    pub repeatable: bool,
}

/// Why a call into a plugin gave no verdict.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum CallError {
    /// The plugin answered with a fault of its own.
    #[error("plugin answered {0}")]
    Fault(Fault),
    /// The plugin broke a rule: trap, deadline, memory, bad value.
    #[error("{0}")]
    Refused(Refusal),
    /// The plugin is no longer serving; its keys are gone with it.
    #[error("plugin {0} is not serving")]
    NotServing(PluginName),
    /// The plugin is quarantined, or its failures on this object have cost too much of late: ask again after this long.
    #[error("the plugin is left alone for another {} s", .0.as_secs_f64().ceil())]
    Resting(Duration),
}

/// Plugins, as the loop asks them.
pub trait Decide: Send + Sync + 'static {
    /// The version of `plugin` that serves now.
    fn serving(&self, plugin: &PluginName) -> Option<Serving>;
    /// All plugins that serve now.
    fn plugins(&self) -> Vec<PluginName>;
    /// Whether what this plugin decided earlier may stand for what it would decide now. Not while
    /// a call shows whether it works again.
    fn may_skip(&self, plugin: &PluginName) -> bool;
    /// Asks the plugin. Cancel safe: a dropped call has no effect.
    fn decide(
        &self,
        pass: Pass,
        snapshot: Snapshot,
        reader: Arc<dyn Reader>,
    ) -> impl Future<Output = Result<Answer, CallError>> + Send;
}

/// One write that the API server accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// To which object.
    pub object: ObjectRef,
    /// Its uid afterwards (before, for a delete).
    pub uid: Arc<str>,
    /// Its version afterwards; `None` when the object is gone.
    pub version: Option<u64>,
    /// For an apply: whether it was the status, the wanted hash, and our entry's hash.
    pub applied: Option<(bool, String, Option<u64>)>,
}

/// Why a plan was not carried out to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApplyError {
    /// Who should try again.
    pub class: Class,
    /// A refusal that the plugin's author or the object's owner must hear of.
    pub refusal: Option<Refusal>,
    /// Which step failed and why, one sentence.
    pub message: String,
    /// How long the server asked to wait (`Retry-After`).
    pub retry_after: Option<Duration>,
}

/// All that a plan came to: also when it failed half way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Writes that were accepted, in order.
    pub writes: Vec<Written>,
    /// How it ended.
    pub result: Result<(), ApplyError>,
}

/// Carries out plans.
pub trait Apply: Send + Sync + 'static {
    /// How long the API server wants this plugin to wait before it writes again. Asked before a
    /// pass begins, so that not every key finds it out by itself. Never by default.
    fn held(&self, plugin: &PluginName) -> Option<Duration> {
        let _ = plugin;
        None
    }
    /// How long a plan should wait that holds nothing but a status, because one of the same object
    /// was written a moment ago: what changes meanwhile becomes one write. Never by default.
    fn status_held(&self, plan: &Plan) -> Option<Duration> {
        let _ = plan;
        None
    }
    /// Sends what the plan holds, each write under `claim`: children before the status, and those
    /// that need no order at once.
    fn execute(&self, plan: &Plan, claim: &Claim) -> impl Future<Output = Applied> + Send;
    /// An object as the API server has it now, read by name and without a claim; `None`: there is none. By
    /// default nothing is known of any object.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(
        &self,
        kind: &Kind,
        object: &ObjectRef,
    ) -> impl Future<Output = Result<Option<Object>, ApplyError>> + Send {
        let _ = (kind, object);
        async { Ok(None) }
    }
    /// Publishes an Event on an object. Never fails a pass: a lost Event is logged.
    fn notify(&self, on: &EventTarget, notice: &Notice, claim: &Claim) -> impl Future<Output = ()> + Send;
}

/// The object that an Event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EventTarget {
    /// Which object.
    pub object: ObjectRef,
    /// Its uid.
    pub uid: Arc<str>,
    /// The plugin in whose name it is published, if any.
    pub plugin: Option<PluginName>,
    /// The component that decided, if one did: the audit log keeps it with the Event.
    pub digest: Option<Digest>,
}

/// Takes keys that something may have changed for. Never waits.
pub trait Sink: Send + Sync + 'static {
    /// Queues a key. Merges with an equal one that is queued already: the two are then as
    /// urgent as the more urgent of them.
    fn offer_as(&self, key: Key, urgency: Urgency);
    /// As [`offer_as`](Self::offer_as), for a change of the primary.
    fn offer(&self, key: Key) {
        self.offer_as(key, Urgency::Change);
    }
}

/// What the memory of our own applies says; asked by [`plan`](crate::plan::plan).
pub trait Recalls {
    /// As [`Memory::recall`](crate::memory::Memory::recall).
    fn recall(&self, uid: &Arc<str>, status: bool, wanted: &str, entry: Option<u64>) -> Recall;
}

impl Recalls for crate::memory::Memory {
    fn recall(&self, uid: &Arc<str>, status: bool, wanted: &str, entry: Option<u64>) -> Recall {
        crate::memory::Memory::recall(self, uid, status, wanted, entry)
    }
}

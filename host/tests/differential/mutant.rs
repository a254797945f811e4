//! Mistakes made on purpose at the seams between the stages. A test that does not find them proves nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use windlass_apply::Writer;
use windlass_core::claim::Claim;
use windlass_core::decision::Notice;
use windlass_core::key::{Key, ObjectRef};
use windlass_core::kind::{Gvk, Kind};
use windlass_core::memo::Fingerprint;
use windlass_core::name::PluginName;
use windlass_core::object::Object;
use windlass_core::plan::Plan;
use windlass_core::ports::{Applied, Apply, ApplyError, Cache, EventTarget, Read, Sink, Written};
use windlass_core::reads::{Query, Reads};
use windlass_core::urgency::Urgency;
use windlass_queue::Queue;
use windlass_watch::cache::ClusterCache;

/// A mistake, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Everything is as it should be.
    None,
    /// One key in six that something has changed for never reaches the queue.
    LosesOffers,
    /// What a pass read is not watched.
    ForgetsReads,
    /// A primary is shown as it was seen first.
    KeepsStalePrimaries,
    /// A child that was seen once is shown for ever.
    IgnoresDeletes,
    /// A child is never seen although it is there.
    HidesBoxes,
    /// One plan in ten is said to be carried out, and is not.
    ForgetsWrites,
    /// What was found while another replica led is not looked at by the new leader.
    ForgetsToLead,
}

impl Mutant {
    pub(crate) const ALL: [Self; 7] = [
        Self::LosesOffers,
        Self::ForgetsReads,
        Self::KeepsStalePrimaries,
        Self::IgnoresDeletes,
        Self::HidesBoxes,
        Self::ForgetsWrites,
        Self::ForgetsToLead,
    ];
}

/// Between the watches and the queue.
pub(crate) struct BrokenSink {
    queue: Arc<Queue>,
    mutant: Mutant,
    offers: AtomicUsize,
}

impl BrokenSink {
    pub(crate) fn new(queue: Arc<Queue>, mutant: Mutant) -> Self {
        Self { queue, mutant, offers: AtomicUsize::new(0) }
    }
}

impl Sink for BrokenSink {
    fn offer_as(&self, key: Key, urgency: Urgency) {
        let number = self.offers.fetch_add(1, Ordering::Relaxed);
        let lost = self.mutant == Mutant::LosesOffers && number % 6 == 5 && urgency != Urgency::Resync;
        if !lost {
            self.queue.offer_as(key, urgency);
        }
    }
}

/// By name.
type Children = HashMap<Arc<str>, Arc<Object>>;

/// Between the cache and the passes.
pub(crate) struct Broken {
    cache: Arc<ClusterCache>,
    mutant: Mutant,
    first: Mutex<HashMap<ObjectRef, Arc<Object>>>,
    seen: Mutex<HashMap<Key, Children>>,
}

impl Broken {
    pub(crate) fn new(cache: Arc<ClusterCache>, mutant: Mutant) -> Self {
        Self { cache, mutant, first: Mutex::default(), seen: Mutex::default() }
    }
}

impl Cache for Broken {
    fn kind(&self, gvk: &Gvk) -> Option<Kind> {
        self.cache.kind(gvk)
    }

    fn is_synced(&self, gvk: &Gvk) -> bool {
        self.cache.is_synced(gvk)
    }

    fn object(&self, of: &ObjectRef) -> Option<Arc<Object>> {
        let object = self.cache.object(of)?;
        if self.mutant != Mutant::KeepsStalePrimaries {
            return Some(object);
        }
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let first = first.entry(of.clone()).or_insert_with(|| object.clone());
        // Of another incarnation even a mutant would hear.
        Some(if first.meta().uid == object.meta().uid { first.clone() } else { object })
    }

    fn children(&self, of: &Key) -> Vec<Arc<Object>> {
        let mut children = self.cache.children(of);
        match self.mutant {
            Mutant::HidesBoxes => children.retain(|child| child.gvk().is_some_and(|gvk| &*gvk.kind != "Box")),
            Mutant::IgnoresDeletes => {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                let seen = seen.entry(of.clone()).or_default();
                for child in children.drain(..) {
                    seen.insert(child.meta().name.clone(), child);
                }
                children = seen.values().cloned().collect();
            }
            _ => {}
        }
        children
    }

    fn list(&self, query: &Query) -> Vec<Arc<Object>> {
        self.cache.list(query)
    }

    fn caught_up(&self, write: &Written) -> bool {
        self.cache.caught_up(write)
    }

    fn relist(&self, gvk: &Gvk) -> bool {
        self.cache.relist(gvk)
    }

    fn listed_since(&self, gvk: &Gvk, at: Instant) -> bool {
        self.cache.listed_since(gvk, at)
    }

    fn era(&self, gvk: &Gvk) -> u64 {
        self.cache.era(gvk)
    }

    fn fingerprint(&self, of: &Key, into: &mut Fingerprint) {
        self.cache.fingerprint(of, into);
    }

    fn page(&self, gvk: &Gvk, after: Option<&(Arc<str>, Arc<str>)>, most: usize) -> Vec<Arc<Object>> {
        self.cache.page(gvk, after, most)
    }

    fn owners(&self, gvk: &Gvk, plugin: &PluginName) -> Vec<Key> {
        self.cache.owners(gvk, plugin)
    }

    fn watch_reads(&self, key: &Key, reads: Reads) {
        if self.mutant != Mutant::ForgetsReads {
            self.cache.watch_reads(key, reads);
        }
    }

    fn add_read(&self, key: &Key, read: Read) {
        if self.mutant != Mutant::ForgetsReads {
            self.cache.add_read(key, read);
        }
    }
}

/// Between the passes and the writer.
pub(crate) struct BrokenWriter {
    writer: Writer,
    mutant: Mutant,
    plans: AtomicUsize,
}

impl BrokenWriter {
    pub(crate) fn new(writer: Writer, mutant: Mutant) -> Self {
        Self { writer, mutant, plans: AtomicUsize::new(0) }
    }
}

impl Apply for BrokenWriter {
    fn held(&self, plugin: &PluginName) -> Option<Duration> {
        self.writer.held(plugin)
    }

    fn status_held(&self, plan: &Plan) -> Option<Duration> {
        self.writer.status_held(plan)
    }

    async fn execute(&self, plan: &Plan, claim: &Claim) -> Applied {
        let number = self.plans.fetch_add(1, Ordering::Relaxed);
        if self.mutant == Mutant::ForgetsWrites && number % 10 == 9 {
            return Applied { writes: Vec::new(), result: Ok(()) };
        }
        self.writer.execute(plan, claim).await
    }

    async fn read(&self, kind: &Kind, object: &ObjectRef) -> Result<Option<Object>, ApplyError> {
        self.writer.read(kind, object).await
    }

    async fn notify(&self, on: &EventTarget, notice: &Notice, claim: &Claim) {
        self.writer.notify(on, notice, claim).await;
    }
}

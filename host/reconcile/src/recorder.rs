//! What a plugin may read, and the record of what it did.
//!
//! You read it, you watch it: each question is registered with the cache *before*
//! it is answered, so that a change between the two is not missed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use windlass_core::code::{Code, Refusal};
use windlass_core::key::{Key, ObjectRef};
use windlass_core::kind::Gvk;
use windlass_core::manifest::Manifest;
use windlass_core::object::Object;
use windlass_core::ports::{Cache, Read, Reader};
use windlass_core::reads::{Query, Reads};

/// The cache as one pass of one plugin sees it.
pub(crate) struct Recorder<C> {
    cache: Arc<C>,
    key: Key,
    manifest: Arc<Manifest>,
    reads: Mutex<Reads>,
}

impl<C: Cache> Recorder<C> {
    pub(crate) fn new(cache: Arc<C>, key: Key, manifest: Arc<Manifest>) -> Self {
        let reads = Mutex::default();
        Self { cache, key, manifest, reads }
    }

    /// All that was asked so far.
    pub(crate) fn reads(&self) -> Reads {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Reads> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The label selectors of the manifest that open `kind`: one of them must match.
    fn rules(&self, kind: &Gvk) -> Result<Vec<&[(String, String)]>, Refusal> {
        self.manifest.readable(kind).ok_or_else(|| {
            let what = format!("{kind} is not among the kinds that {} reads", self.manifest.name);
            Refusal::new(Code::ReadNotAllowed, what)
        })
    }

    fn record_object(&self, of: &ObjectRef) {
        if self.lock().objects.insert(of.clone()) {
            self.cache.add_read(&self.key, Read::Object(of.clone()));
        }
    }

    fn record_list(&self, query: &Query) {
        if self.lock().lists.insert(query.clone()) {
            self.cache.add_read(&self.key, Read::List(query.clone()));
        }
    }
}

impl<C: Cache> Reader for Recorder<C> {
    fn get(&self, of: &ObjectRef) -> Result<Option<Arc<Object>>, Refusal> {
        let rules = self.rules(&of.gvk)?;
        self.record_object(of);
        let open = |object: &Arc<Object>| rules.iter().any(|labels| object.meta().has_labels(labels));
        Ok(self.cache.object(of).filter(open))
    }

    fn list(&self, query: &Query) -> Result<Vec<Arc<Object>>, Refusal> {
        let rules = self.rules(&query.gvk)?;
        // Several rules for one kind may overlap: their answers are merged.
        let mut found = BTreeMap::new();
        for labels in rules {
            let narrowed = narrowed(query, labels);
            self.record_list(&narrowed);
            for object in self.cache.list(&narrowed) {
                let meta = object.meta();
                found.insert((meta.namespace.clone(), meta.name.clone()), object);
            }
        }
        Ok(found.into_values().collect())
    }
}

/// `query`, and these labels too.
fn narrowed(query: &Query, labels: &[(String, String)]) -> Query {
    let mut query = query.clone();
    query.labels.extend_from_slice(labels);
    query.labels.sort_unstable();
    query.labels.dedup();
    query
}

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
use windlass_core::memo::{Fingerprint, Listed};
use windlass_core::object::Object;
use windlass_core::ports::{Cache, Read, Reader};
use windlass_core::reads::{Query, Reads};

/// The cache as one pass of one plugin sees it.
pub(crate) struct Recorder<C> {
    cache: Arc<C>,
    key: Key,
    manifest: Arc<Manifest>,
    seen: Mutex<Seen>,
}

/// What was asked, and the answers.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// The number of each object; 0 for one that was not there.
    objects: BTreeMap<ObjectRef, u64>,
    lists: BTreeMap<Query, Listed>,
    /// Whether a question was answered in two ways.
    moved: bool,
}

impl<C: Cache> Recorder<C> {
    pub(crate) fn new(cache: Arc<C>, key: Key, manifest: Arc<Manifest>) -> Self {
        Self { cache, key, manifest, seen: Mutex::default() }
    }

    /// All that was asked so far.
    pub(crate) fn reads(&self) -> Reads {
        let seen = self.lock();
        Reads { objects: seen.objects.keys().cloned().collect(), lists: seen.lists.keys().cloned().collect() }
    }

    /// Adds what was answered, in the order in which [`Cache::fingerprint`] has it. Answers whether
    /// that is all: no question was answered in two ways.
    pub(crate) fn fingerprint(&self, into: &mut Fingerprint) -> bool {
        let seen = self.lock();
        seen.objects.values().for_each(|number| into.number(*number));
        seen.lists.values().for_each(|list| into.list(*list));
        !seen.moved
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The label selectors of the manifest that open `kind`: one of them must match.
    fn rules(&self, kind: &Gvk) -> Result<Vec<&[(String, String)]>, Refusal> {
        self.manifest.readable(kind).ok_or_else(|| {
            let what = format!("{kind} is not among the kinds that {} reads", self.manifest.name);
            Refusal::new(Code::ReadNotAllowed, what)
        })
    }

    /// Watches an object, and then looks at it.
    fn object(&self, of: &ObjectRef) -> Option<Arc<Object>> {
        if !self.lock().objects.contains_key(of) {
            self.cache.add_read(&self.key, Read::Object(of.clone()));
        }
        let object = self.cache.object(of);
        let number = object.as_deref().map_or(0, Object::number);
        let mut seen = self.lock();
        let before = seen.objects.insert(of.clone(), number);
        seen.moved |= before.is_some_and(|before| before != number);
        object
    }

    /// Watches a list, and then looks at it.
    fn listed(&self, query: Query) -> Vec<Arc<Object>> {
        if !self.lock().lists.contains_key(&query) {
            self.cache.add_read(&self.key, Read::List(query.clone()));
        }
        let objects = self.cache.list(&query);
        let list = Listed::of(objects.iter());
        let mut seen = self.lock();
        let before = seen.lists.insert(query, list);
        seen.moved |= before.is_some_and(|before| before != list);
        objects
    }
}

impl<C: Cache> Reader for Recorder<C> {
    fn get(&self, of: &ObjectRef) -> Result<Option<Arc<Object>>, Refusal> {
        let rules = self.rules(&of.gvk)?;
        let open = |object: &Arc<Object>| rules.iter().any(|labels| object.meta().has_labels(labels));
        Ok(self.object(of).filter(open))
    }

    fn list(&self, query: &Query) -> Result<Vec<Arc<Object>>, Refusal> {
        let rules = self.rules(&query.gvk)?;
        // Several rules for one kind may overlap: their answers are merged.
        let mut found = BTreeMap::new();
        for labels in rules {
            for object in self.listed(narrowed(query, labels)) {
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

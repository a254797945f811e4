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
use windlass_core::name::LABEL_HOST;
use windlass_core::object::Object;
use windlass_core::ports::{Cache, Read, Reader};
use windlass_core::reads::{Query, Reads};
use windlass_core::scope::Scope;

/// The cache as one pass of one plugin sees it.
pub(crate) struct Recorder<C> {
    cache: Arc<C>,
    key: Key,
    manifest: Arc<Manifest>,
    /// What is seen of a child's kind: what this host's plugins have made, where primaries are.
    children: Scope,
    seen: Mutex<Seen>,
}

/// What was asked, and the answers.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// The number of each object in the cache, however much of it is shown; 0 for one that was not there.
    objects: BTreeMap<ObjectRef, u64>,
    lists: BTreeMap<Query, Listed>,
    /// Whether a question was answered in two ways.
    moved: bool,
}

impl<C: Cache> Recorder<C> {
    pub(crate) fn new(cache: Arc<C>, key: Key, manifest: Arc<Manifest>, host_namespace: &str) -> Self {
        let ours = Scope::of_labels([(LABEL_HOST.to_owned(), host_namespace.to_owned())]);
        let children = Scope { namespaces: manifest.selects.namespaces.clone(), ..ours };
        Self { cache, key, manifest, children, seen: Mutex::default() }
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

    /// The scopes that open `kind` to this plugin: one of them must select what is shown. None of them is
    /// covered by another.
    fn scopes(&self, kind: &Gvk) -> Result<Vec<&Scope>, Refusal> {
        let children = self.manifest.child(kind).map(|_| &self.children);
        let all: Vec<&Scope> = self.manifest.declared(kind).chain(children).collect();
        if all.is_empty() {
            let what = format!("{kind} is not among the kinds that {} reads", self.manifest.name);
            return Err(Refusal::new(Code::ReadNotAllowed, what));
        }
        let needless = |i: usize| {
            let others = all.iter().enumerate().filter(|(j, _)| *j != i);
            others.into_iter().any(|(j, other)| other.covers(all[i]) && (j < i || !all[i].covers(other)))
        };
        Ok((0..all.len()).filter(|i| !needless(*i)).map(|i| all[i]).collect())
    }

    /// Those of `scopes` that reach this namespace.
    fn within<'s>(
        &self,
        kind: &Gvk,
        scopes: &[&'s Scope],
        namespace: &str,
    ) -> Result<Vec<&'s Scope>, Refusal> {
        let open: Vec<&Scope> = scopes.iter().copied().filter(|scope| scope.reaches(namespace)).collect();
        if open.is_empty() {
            return Err(self.outside(kind, &format!("namespace {namespace:?}"), scopes));
        }
        Ok(open)
    }

    /// Those of `scopes` that objects with these labels can be in.
    fn labelled<'s>(&self, query: &Query, scopes: &[&'s Scope]) -> Result<Vec<&'s Scope>, Refusal> {
        let allows = |scope: &&Scope| query.labels.iter().all(|(key, value)| scope.allows_label(key, value));
        let open: Vec<&Scope> = scopes.iter().copied().filter(allows).collect();
        if open.is_empty() && self.manifest.strict {
            let asked: Vec<String> =
                query.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            return Err(self.outside(&query.gvk, &format!("labels {}", asked.join(",")), scopes));
        }
        Ok(open)
    }

    fn outside(&self, kind: &Gvk, asked: &str, declared: &[&Scope]) -> Refusal {
        let plugin = &self.manifest.name;
        let declared = declared.iter().map(|scope| scope.to_string()).collect::<Vec<_>>().join(", or ");
        Refusal::new(
            Code::ReadNotAllowed,
            format!("{kind}: {plugin} asked for {asked}; its manifest declares {declared}"),
        )
    }

    /// The object as the scopes show it: whole if one of them does.
    fn shown(&self, kind: &Gvk, scopes: &[&Scope], object: Arc<Object>) -> Option<Arc<Object>> {
        let mut open = scopes.iter().filter(|scope| scope.selects(&object)).peekable();
        open.peek()?;
        if object.meta().metadata_only || !open.all(|scope| scope.metadata_only) {
            return Some(object);
        }
        // It was parsed when it came: its own text is an object.
        Object::parse_metadata(kind, &object.json()).ok().map(Arc::new)
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
        let scopes = self.within(&of.gvk, &self.scopes(&of.gvk)?, &of.namespace)?;
        Ok(self.object(of).and_then(|object| self.shown(&of.gvk, &scopes, object)))
    }

    fn list(&self, query: &Query) -> Result<Vec<Arc<Object>>, Refusal> {
        let kind = &query.gvk;
        let mut scopes = self.scopes(kind)?;
        if let Some(namespace) = &query.namespace {
            scopes = self.within(kind, &scopes, namespace)?;
        }
        let scopes = self.labelled(query, &scopes)?;
        // Several scopes of one kind may overlap: their answers are merged.
        let mut found = BTreeMap::new();
        for narrowed in scopes.iter().flat_map(|scope| narrowed(query, scope)) {
            for object in self.listed(narrowed) {
                let meta = object.meta();
                found.insert((meta.namespace.clone(), meta.name.clone()), object);
            }
        }
        Ok(found.into_values().filter_map(|object| self.shown(kind, &scopes, object)).collect())
    }
}

/// `query` within a scope: once for each namespace, with the scope's labels too as far as they have a value.
fn narrowed(query: &Query, scope: &Scope) -> Vec<Query> {
    let mut query = query.clone();
    let values = scope.labels.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
    query.labels.extend(values);
    query.labels.sort_unstable();
    query.labels.dedup();
    if query.namespace.is_some() || scope.namespaces.is_empty() {
        return vec![query];
    }
    let in_each = |namespace: &String| Query { namespace: Some(namespace.as_str().into()), ..query.clone() };
    scope.namespaces.iter().map(in_each).collect()
}

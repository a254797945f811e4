//! The cluster as far as the plugins need it, and what each change leads to.
//!
//! A change of an object becomes keys here, and is forgotten: the primary's own
//! key, the key of a child's owner, and the keys of every pass that read it.
//! Nothing behind this file knows which event happened.
//!
//! Locks: one a kind, and inside of it one for all children; one for the interest, one for the
//! plugins. None is held across a wait or while keys are offered. An object is stored before its
//! readers are looked up, and a reader is entered before it looks: so no change
//! falls between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde::Serialize;
use tokio::time::Instant;
use windlass_core::code::{Code, Refusal};
use windlass_core::key::{Key, ObjectRef};
use windlass_core::kind::{Gvk, Kind};
use windlass_core::manifest::Manifest;
use windlass_core::memo::{Fingerprint, Listed};
use windlass_core::name::PluginName;
use windlass_core::object::Object;
use windlass_core::ports::{Cache, Read, Sink, Written, begin_each};
use windlass_core::reads::{Query, Reads};
use windlass_core::scope::Scope;
use windlass_core::urgency::Urgency;

use crate::budget::{Budget, Cost};
use crate::interest::Interest;
use crate::kind_cache::KindCache;
use crate::needs::{Need, needs};
use crate::objects::{Change, Objects};
use crate::owned::Owned;
use crate::progress::{Phase, WatchStatus};

/// What is known of the cluster. Fed by [`Watches`](crate::watches::Watches).
pub struct ClusterCache {
    host_namespace: Arc<str>,
    /// The only ones that are looked at; none: all.
    namespaces: Vec<String>,
    sink: Arc<dyn Sink>,
    kinds: RwLock<BTreeMap<Gvk, Arc<KindCache>>>,
    plugins: Mutex<BTreeMap<PluginName, Wanted>>,
    interest: Mutex<Interest>,
    owned: Arc<Owned>,
    rounds: AtomicU64,
    budget: Budget,
}

/// What a plugin needs.
#[derive(Clone)]
struct Wanted {
    manifest: Arc<Manifest>,
    /// Grows with each that is new or needs other kinds: who came last waits first.
    since: u64,
}

/// What one plugin costs the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bill {
    /// The plugin.
    pub plugin: PluginName,
    /// Its share in bytes: each kind's bytes split evenly among those that use it.
    pub bytes: usize,
}

impl ClusterCache {
    pub(crate) fn new(
        host_namespace: &str,
        namespaces: Vec<String>,
        sink: Arc<dyn Sink>,
        limit: Option<usize>,
    ) -> Self {
        Self {
            host_namespace: host_namespace.into(),
            namespaces,
            sink,
            kinds: RwLock::default(),
            plugins: Mutex::default(),
            interest: Mutex::default(),
            owned: Arc::default(),
            rounds: AtomicU64::new(0),
            budget: Budget::new(limit),
        }
    }

    /// How every watched kind is doing, ordered by kind.
    pub fn status(&self) -> Vec<WatchStatus> {
        self.kinds().iter().map(|kind| kind.status()).collect()
    }

    /// What each plugin costs, ordered by name.
    pub fn bills(&self) -> Vec<Bill> {
        let mut bytes: BTreeMap<PluginName, usize> =
            self.plugins().keys().map(|plugin| (plugin.clone(), 0)).collect();
        for kind in self.kinds() {
            let need = kind.need();
            let share = kind.with_objects(Objects::bytes) / need.users.len().max(1);
            for user in &need.users {
                *bytes.entry(user.clone()).or_default() += share;
            }
        }
        bytes.into_iter().map(|(plugin, bytes)| Bill { plugin, bytes }).collect()
    }

    /// The limit of the cache in bytes; `None`: there is none.
    pub fn limit(&self) -> Option<usize> {
        self.budget.limit()
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// There is no room for all of a kind: the plugin that came last of those that use it is held.
    pub(crate) fn overflowed(&self, full: &KindCache) {
        full.progress.phase(Phase::Full);
        let plugins = self.plugins();
        let users = full.need();
        let last = users.users.iter().filter_map(|name| plugins.get_key_value(name));
        let Some((plugin, wanted)) = last.max_by_key(|(_, wanted)| wanted.since) else {
            return;
        };
        let kinds = kinds_of(&wanted.manifest).filter_map(|gvk| self.of(gvk));
        let costs = kinds.map(|kind| {
            let (objects, bytes) = kind.with_objects(|objects| (objects.len(), objects.bytes()));
            Cost { gvk: kind.gvk.clone(), objects, bytes, own: kind.need().users.len() == 1 }
        });
        let costs: Vec<Cost> = costs.collect();
        tracing::warn!(kind = %full.gvk, %plugin, "the cache is full");
        self.budget.hold(plugin, &full.gvk, &costs, Instant::now());
    }

    /// Keys that something was read for; a gauge.
    pub fn interested_keys(&self) -> usize {
        self.interest().len()
    }

    /// Whether every wanted kind that exists and may be read has been listed.
    pub(crate) fn is_ready(&self) -> bool {
        self.kinds().iter().all(|kind| kind.is_synced() || kind.is_denied())
    }

    /// All watched kinds.
    pub(crate) fn kinds(&self) -> Vec<Arc<KindCache>> {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        kinds.values().cloned().collect()
    }

    /// Takes in a plugin, new or changed. Its primaries are offered at once if
    /// they are held already; otherwise when they have been listed.
    pub(crate) fn want(&self, plugin: &PluginName, manifest: Arc<Manifest>) {
        let mut plugins = self.plugins();
        let old = plugins.remove(plugin);
        let same = |old: &Wanted| {
            kinds_of(&old.manifest).eq(kinds_of(&manifest))
                && old.manifest.reads == manifest.reads
                && old.manifest.selects == manifest.selects
        };
        let since = old.as_ref().filter(|old| same(old)).map_or_else(|| self.next_round(), |old| old.since);
        plugins.insert(plugin.clone(), Wanted { manifest: manifest.clone(), since });
        self.require(&plugins);
        drop(plugins);
        let same = |old: &Manifest| old.primary == manifest.primary && old.selects == manifest.selects;
        if old.is_none_or(|old| !same(&old.manifest)) {
            self.offer_primaries(plugin, &manifest, Urgency::Startup);
        }
    }

    /// Lets a plugin go: its reads, and the kinds that nobody else needs.
    pub(crate) fn forget(&self, plugin: &PluginName) {
        let mut plugins = self.plugins();
        plugins.remove(plugin);
        self.require(&plugins);
        drop(plugins);
        self.interest().forget(plugin);
    }

    /// Offers every primary's key of one plugin, or of all, behind those that changed.
    pub(crate) fn resync(&self, plugin: Option<&PluginName>) {
        let all: Vec<_> = self
            .plugins()
            .iter()
            .filter(|(name, _)| plugin.is_none_or(|wanted| wanted == *name))
            .map(|(name, wanted)| (name.clone(), wanted.manifest.clone()))
            .collect();
        for (plugin, manifest) in all {
            self.offer_primaries(&plugin, &manifest, Urgency::Resync);
        }
    }

    /// Turns a change into keys. `first`: it is not known to be one, because its kind is being
    /// listed for the first time.
    pub(crate) fn route(&self, gvk: &Gvk, need: &Need, change: &Change, first: bool) {
        let old = change.old.as_deref().map(Object::meta);
        let new = change.new.as_deref().map(Object::meta);
        let Some(meta) = new.or(old) else {
            return;
        };
        let key = |plugin: &PluginName| Key::new(plugin.clone(), meta.namespace.clone(), meta.name.clone());
        let sides = [&change.old, &change.new];
        let is_theirs = |scope: &Scope| sides.into_iter().flatten().any(|object| scope.selects(object));
        let theirs = need.primary_of.iter().filter(|(_, scope)| is_theirs(scope));
        let own: BTreeSet<Key> = theirs.map(|(plugin, _)| key(plugin)).collect();
        let mut related = BTreeSet::new();
        for meta in [old, new].into_iter().flatten() {
            let owner = meta.owner(&self.host_namespace);
            related.extend(owner.filter(|key| need.child_of.contains(&key.plugin)));
        }
        self.interest().find(gvk, old, new, &mut related);
        let of = |urgency| if first { Urgency::Startup } else { urgency };
        for key in related.difference(&own) {
            self.sink.offer_as(key.clone(), of(Urgency::Related));
        }
        for key in own {
            self.sink.offer_as(key, of(Urgency::Change));
        }
    }

    /// A kind is synced only now: plugins that use it, and now have all of theirs,
    /// see their primaries again, because earlier passes had to wait.
    pub(crate) fn settled(&self, gvk: &Gvk) {
        let plugins: Vec<_> =
            self.plugins().iter().map(|(name, wanted)| (name.clone(), wanted.manifest.clone())).collect();
        for (plugin, manifest) in plugins {
            let mut kinds = kinds_of(&manifest);
            if kinds.any(|kind| kind == gvk) && kinds_of(&manifest).all(|kind| self.is_synced(kind)) {
                self.budget.fits(&plugin);
                self.offer_primaries(&plugin, &manifest, Urgency::Startup);
            }
        }
    }

    fn offer_primaries(&self, plugin: &PluginName, manifest: &Manifest, urgency: Urgency) {
        let Some(kind) = self.of(&manifest.primary) else {
            return;
        };
        let mut keys: Vec<Key> = kind.with_objects(|objects| {
            let theirs = objects.iter(None).filter(|object| manifest.selects.selects(object));
            let metas = theirs.map(|object| object.meta());
            metas.map(|meta| Key::new(plugin.clone(), meta.namespace.clone(), meta.name.clone())).collect()
        });
        if !manifest.selects.is_everything() {
            // What was made for an object that is not selected any more has to be found by what was made.
            let known: BTreeSet<Key> = keys.iter().cloned().collect();
            let mut left: BTreeSet<Key> = BTreeSet::new();
            for child in &manifest.children {
                left.extend(self.owned.owners(&child.kind, plugin));
            }
            keys.extend(left.difference(&known).cloned());
        }
        for key in keys {
            self.sink.offer_as(key, urgency);
        }
    }

    /// The API server does not select `kind` by `field`: the plugins that do so are held.
    pub(crate) fn field_refused(&self, kind: &Gvk, field: &str, users: &[PluginName], why: &str) {
        for plugin in users {
            tracing::warn!(%kind, %plugin, field, why, "the API server does not select by this field");
            self.budget.refuse(plugin, field_refusal(kind, field, why), Instant::now());
        }
    }

    /// Whether nothing is looked at that is in no namespace.
    pub(crate) fn is_of_namespaces(&self) -> bool {
        !self.namespaces.is_empty()
    }

    /// `kind` is in no namespace, and only namespaces are looked at: the plugins that need it are held.
    pub(crate) fn out_of_reach(&self, kind: &KindCache) {
        kind.progress.phase(Phase::Outside);
        let served = self.namespaces.join(", ");
        let text = format!(
            "{}: objects of this kind are in no namespace, and this host serves {served} only (--namespaces): \
             give the plugin to a host that serves the whole cluster",
            kind.gvk
        );
        for plugin in &kind.need().users {
            tracing::warn!(kind = %kind.gvk, %plugin, "the kind is in no namespace, and this host serves namespaces only");
            self.budget.refuse(plugin, Refusal::new(Code::OutsideNamespaces, &text), Instant::now());
        }
    }

    /// Brings the watched kinds in line with the plugins, under their lock.
    fn require(&self, plugins: &BTreeMap<PluginName, Wanted>) {
        let manifests = plugins.iter().map(|(name, wanted)| (name, &*wanted.manifest));
        let mut needs = needs(manifests, &self.host_namespace, &self.namespaces);
        let mut kinds = self.kinds.write().unwrap_or_else(PoisonError::into_inner);
        kinds.retain(|gvk, kind| {
            let needed = needs.contains_key(gvk);
            if !needed {
                kind.retire();
            }
            needed
        });
        for (gvk, kind) in &*kinds {
            if let Some(need) = needs.remove(gvk) {
                kind.require(need, self.next_round());
            }
        }
        for (gvk, need) in needs {
            let (host, total) = (self.host_namespace.clone(), self.budget.total().clone());
            let objects = Objects::new(gvk.clone(), host, total, self.owned.clone());
            let kind = KindCache::new(gvk.clone(), objects, need, self.next_round());
            kinds.insert(gvk, Arc::new(kind));
        }
    }

    /// Runs `look` on the objects of a list, in order, under the lock of their kind.
    fn listed<T: Default>(
        &self,
        query: &Query,
        look: impl FnOnce(&mut dyn Iterator<Item = &Arc<Object>>) -> T,
    ) -> T {
        let Some(kind) = self.of(&query.gvk) else {
            return T::default();
        };
        kind.with_objects(|objects| {
            let all = objects.iter(query.namespace.as_deref());
            look(&mut all.filter(|object| object.meta().has_labels(&query.labels)))
        })
    }

    /// Adds what was read, as it is now.
    fn add_reads(&self, objects: &[ObjectRef], lists: &[Query], into: &mut Fingerprint) {
        objects.iter().for_each(|object| into.object(self.object(object).as_deref()));
        lists.iter().for_each(|query| into.list(self.listed(query, |objects| Listed::of(objects))));
    }

    /// Makes the names of what somebody asks for those that are held already: what came out of another process brought texts of its own,
    /// and is remembered for as long as the key reads it.
    fn use_known_names(&self, object: &mut ObjectRef) {
        let Some(kind) = self.of(&object.gvk) else { return };
        object.gvk = kind.gvk.clone();
        let held = kind.with_objects(|objects| objects.get(&object.namespace, &object.name).cloned());
        if let Some(held) = held {
            object.namespace = held.meta().namespace.clone();
            object.name = held.meta().name.clone();
        }
    }

    fn next_round(&self) -> u64 {
        self.rounds.fetch_add(1, Ordering::Relaxed)
    }

    fn of(&self, gvk: &Gvk) -> Option<Arc<KindCache>> {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        kinds.get(gvk).cloned()
    }

    fn plugins(&self) -> MutexGuard<'_, BTreeMap<PluginName, Wanted>> {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn interest(&self) -> MutexGuard<'_, Interest> {
        self.interest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cache for ClusterCache {
    fn kind(&self, gvk: &Gvk) -> Option<Kind> {
        self.of(gvk)?.kind()
    }

    /// True too for a kind of which discovery says that it is not served.
    fn is_synced(&self, gvk: &Gvk) -> bool {
        self.of(gvk).is_some_and(|kind| kind.is_synced())
    }

    fn object(&self, of: &ObjectRef) -> Option<Arc<Object>> {
        let kind = self.of(&of.gvk)?;
        kind.with_objects(|objects| objects.get(&of.namespace, &of.name).cloned())
    }

    fn children(&self, of: &Key) -> Vec<Arc<Object>> {
        let mut children = Vec::new();
        self.owned.each(of, |child| children.push(child.clone()));
        children
    }

    fn list(&self, query: &Query) -> Vec<Arc<Object>> {
        self.listed(query, |objects| objects.cloned().collect())
    }

    /// True too for a kind that nobody watches: there is nothing to wait for.
    fn caught_up(&self, write: &Written) -> bool {
        self.of(&write.object.gvk).is_none_or(|kind| kind.caught_up(write))
    }

    /// 0 for a kind that nobody watches.
    fn era(&self, gvk: &Gvk) -> u64 {
        self.of(gvk).map_or(0, |kind| kind.era())
    }

    fn fingerprint(&self, of: &Key, into: &mut Fingerprint) {
        self.owned.each(of, |child| into.child(child));
        // Copied, as a list may take long to go through. Most keys read nothing.
        let reads = self.interest().of(of);
        if let Some((objects, lists)) = reads {
            self.add_reads(&objects, &lists, into);
        }
    }

    fn fingerprints(&self, plugin: &PluginName, primaries: &[Arc<Object>], into: &mut Vec<Fingerprint>) {
        begin_each(primaries, into);
        self.owned.each_of(plugin, primaries, |at, child| into[at].child(child));
        let reads = self.interest().of_each(plugin, primaries);
        reads.iter().for_each(|(at, objects, lists)| self.add_reads(objects, lists, &mut into[*at]));
    }

    fn page(&self, gvk: &Gvk, after: Option<&(Arc<str>, Arc<str>)>, most: usize) -> Vec<Arc<Object>> {
        let kind = self.of(gvk);
        kind.map(|kind| kind.with_objects(|objects| objects.page(after, most))).unwrap_or_default()
    }

    fn owners(&self, gvk: &Gvk, plugin: &PluginName) -> Vec<Key> {
        self.owned.owners(gvk, plugin)
    }

    fn relist(&self, gvk: &Gvk) -> bool {
        self.of(gvk).is_some_and(|kind| kind.ask_anew())
    }

    fn listed_since(&self, gvk: &Gvk, at: std::time::Instant) -> bool {
        self.of(gvk).is_some_and(|kind| kind.listed_since(at))
    }

    fn watch_reads(&self, key: &Key, reads: Reads) {
        self.interest().replace(key, reads);
    }

    fn add_read(&self, key: &Key, mut read: Read) {
        if let Read::Object(object) = &mut read {
            self.use_known_names(object);
        }
        self.interest().add(key, read);
    }
}

fn field_refusal(kind: &Gvk, field: &str, why: &str) -> Refusal {
    let text = format!(
        "reads of {kind}: the API server does not select by the field {field}: {why}. This plugin waits until it does: \
         name another field, or leave it out and look at it in reconcile"
    );
    Refusal::new(Code::FieldNotSelectable, text)
}

fn kinds_of(manifest: &Manifest) -> impl Iterator<Item = &Gvk> {
    let children = manifest.children.iter().map(|child| &child.kind);
    let reads = manifest.reads.iter().map(|read| &read.kind);
    std::iter::once(&manifest.primary).chain(children).chain(reads)
}

#[cfg(test)]
mod tests;

//! A resync: every object is looked at, and a pass offered for those alone of which it is not known
//! that it would find nothing to do.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::yield_now;
use tokio::time::Instant;
use windlass_core::claim::BootClock;
use windlass_core::key::Key;
use windlass_core::manifest::Manifest;
use windlass_core::memo::{Basis, Fingerprint};
use windlass_core::name::PluginName;
use windlass_core::object::Object;
use windlass_core::ports::{Apply, Cache, Decide, Serving};

use crate::run::{Reconciler, primary_of};

/// Objects that are looked at in one go: about half a millisecond. Others on this thread
/// go between.
const PAGE: usize = 256;

/// What a resync came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resynced {
    /// Keys for which a pass was offered, behind those that something has changed for.
    pub offered: usize,
    /// Keys for which none is needed.
    pub skipped: usize,
}

impl<C: Cache, D: Decide, A: Apply, K: BootClock> Reconciler<C, D, A, K> {
    /// Looks at every primary object of every plugin that serves, so that nothing depends on an
    /// event for ever: each is compared with the memory of its last pass. A requeue that is due
    /// later stays where it is.
    ///
    /// # Cancel safety
    /// What was offered stays offered.
    pub async fn resync(&self) -> Resynced {
        let (mut all, mut seen) = (Resynced::default(), Vec::new());
        for plugin in self.ports.decide.plugins() {
            let Some(serving) = self.ports.decide.serving(&plugin) else { continue };
            let mut last = None;
            loop {
                let mut page = self.ports.cache.page(&serving.manifest.primary, last.as_ref(), PAGE);
                let Some(object) = page.last() else { break };
                last = Some((object.meta().namespace.clone(), object.meta().name.clone()));
                // Neighbours may need more of the kind.
                page.retain(|object| serving.manifest.selects.selects(object));
                let skipped = self.resync_page(&plugin, &serving, &page, &mut seen);
                all.skipped += skipped;
                all.offered += page.len() - skipped;
                self.ports.observer.skipped(&plugin, skipped);
                yield_now().await;
            }
            all.offered += self.offer_left(&plugin, &serving.manifest);
        }
        all
    }

    /// Offers those whose primary is not selected any more although they have children, and answers how many.
    fn offer_left(&self, plugin: &PluginName, manifest: &Manifest) -> usize {
        if manifest.selects.is_everything() {
            return 0;
        }
        let cache = &self.ports.cache;
        let is_selected = |key: &Key| {
            let primary = cache.object(&primary_of(key, &manifest.primary));
            primary.is_some_and(|primary| manifest.selects.selects(&primary))
        };
        let owners = manifest.children.iter().flat_map(|child| cache.owners(&child.kind, plugin));
        let left: BTreeSet<Key> = owners.filter(|key| !is_selected(key)).collect();
        let count = left.len();
        left.into_iter().for_each(|key| self.ports.queue.offer_resync(key));
        count
    }

    /// Offers those that need a pass, and answers how many need none. `seen` is only room to compare in.
    fn resync_page(
        &self,
        plugin: &PluginName,
        serving: &Serving,
        page: &[Arc<Object>],
        seen: &mut Vec<Fingerprint>,
    ) -> usize {
        let basis = self.basis_of_known(plugin, serving);
        let term = self.ports.gate.claim(self.ports.clock.now()).map(|claim| claim.term);
        let mut needed: Vec<&Arc<Object>> = Vec::new();
        if let Some(basis) = &basis {
            self.ports.cache.fingerprints(plugin, page, seen);
            let now = Instant::now().into_std();
            let memos = self.memos();
            let standing = memos.standing(plugin, basis);
            let needs_none = |object: &Object, seen| {
                let (meta, standing) = (object.meta(), standing?);
                standing.hit(&meta.namespace, &meta.name, seen, term, now)
            };
            let all = page.iter().zip(&*seen);
            needed.extend(
                all.filter(|(object, seen)| needs_none(object, seen).is_none()).map(|(object, _)| object),
            );
        } else {
            needed.extend(page);
        }
        for object in &needed {
            let meta = object.meta();
            let key = Key::new(plugin.clone(), meta.namespace.clone(), meta.name.clone());
            self.ports.queue.offer_resync(key);
        }
        page.len() - needed.len()
    }

    /// What memos of this plugin have to rest on; nothing when none of them counts now. A pass whose kinds are not all listed waits, and so has to be run.
    fn basis_of_known(&self, plugin: &PluginName, serving: &Serving) -> Option<Basis> {
        let cache = &self.ports.cache;
        let mut known = self.config.skip_unchanged && self.ports.decide.may_skip(plugin);
        let basis = Basis::of(serving, |gvk| {
            known &= cache.is_synced(gvk);
            cache.era(gvk)
        });
        known.then_some(basis)
    }
}

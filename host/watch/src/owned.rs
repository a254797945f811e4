//! The children of each key, of all kinds: what a pass is shown, found with one look however many kinds are watched.
//!
//! Written by the kinds, each under its own lock: whoever has seen an object in its kind finds it here in
//! that version or a later one. The lock here is the inner one, and nothing else is taken under it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use windlass_core::key::Key;
use windlass_core::kind::Gvk;
use windlass_core::name::PluginName;
use windlass_core::object::Object;

use crate::objects::Name;

/// The children of all keys.
#[derive(Debug, Default)]
pub(crate) struct Owned {
    by_plugin: RwLock<HashMap<PluginName, HashMap<Name, Vec<Child>>>>,
}

/// One child.
#[derive(Debug)]
struct Child {
    kind: Arc<Gvk>,
    object: Arc<Object>,
}

impl Child {
    /// Children of one key are ordered by this.
    fn place(&self) -> (&Gvk, &str, &str) {
        place(&self.kind, &self.object)
    }
}

fn place<'a>(kind: &'a Gvk, object: &'a Object) -> (&'a Gvk, &'a str, &'a str) {
    (kind, &object.meta().namespace, &object.meta().name)
}

impl Owned {
    /// Runs `look` on each child of a key, ordered by kind, namespace and name, under the lock: it must be short.
    pub(crate) fn each(&self, of: &Key, look: impl FnMut(&Arc<Object>)) {
        let all = self.read();
        let children = all.get(&of.plugin).and_then(|keys| keys.get(&name_of(of)));
        children.into_iter().flatten().map(|child| &child.object).for_each(look);
    }

    /// As [`each`](Self::each) for the keys of one plugin with these primaries; `look` is given each child with the place of its
    /// primary.
    pub(crate) fn each_of(
        &self,
        plugin: &PluginName,
        primaries: &[Arc<Object>],
        mut look: impl FnMut(usize, &Arc<Object>),
    ) {
        let all = self.read();
        let Some(keys) = all.get(plugin) else { return };
        for (at, primary) in primaries.iter().enumerate() {
            let name = (primary.meta().namespace.clone(), primary.meta().name.clone());
            keys.get(&name).into_iter().flatten().for_each(|child| look(at, &child.object));
        }
    }

    /// The keys of a plugin that have children of this kind, each once.
    pub(crate) fn owners(&self, gvk: &Gvk, plugin: &PluginName) -> Vec<Key> {
        let all = self.read();
        let of_kind = |children: &&Vec<Child>| children.iter().any(|child| *child.kind == *gvk);
        let keys = all.get(plugin).into_iter().flatten();
        let owners = keys.filter(|(_, children)| of_kind(children));
        owners
            .map(|((namespace, name), _)| Key::new(plugin.clone(), namespace.clone(), name.clone()))
            .collect()
    }

    /// Takes `old` out and `new` in, in one go: two versions of one object of a kind, each with the key that it belongs to, if any.
    pub(crate) fn replace(
        &self,
        kind: &Arc<Gvk>,
        old: Option<(Key, &Arc<Object>)>,
        new: Option<(Key, &Arc<Object>)>,
    ) {
        if old.is_none() && new.is_none() {
            return;
        }
        let mut all = self.write();
        if let (Some((before, old)), Some((now, new))) = (&old, &new)
            && before == now
            && let Some(children) = all.get_mut(&now.plugin).and_then(|keys| keys.get_mut(&name_of(now)))
            && let Ok(at) = children.binary_search_by(|child| child.place().cmp(&place(kind, old)))
        {
            children[at].object = (*new).clone();
            return;
        }
        if let Some((key, old)) = old
            && let Entry::Occupied(mut keys) = all.entry(key.plugin.clone())
            && let Entry::Occupied(mut children) = keys.get_mut().entry(name_of(&key))
        {
            children.get_mut().retain(|child| child.place() != place(kind, old));
            if children.get().is_empty() {
                children.remove();
            }
            if keys.get().is_empty() {
                keys.remove();
            }
        }
        if let Some((key, new)) = new {
            let children = all.entry(key.plugin.clone()).or_default().entry(name_of(&key)).or_default();
            let at = children.partition_point(|child| child.place() < place(kind, new));
            // Most keys have a few, which come once.
            children.reserve_exact(1);
            children.insert(at, Child { kind: kind.clone(), object: new.clone() });
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<PluginName, HashMap<Name, Vec<Child>>>> {
        self.by_plugin.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<PluginName, HashMap<Name, Vec<Child>>>> {
        self.by_plugin.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name_of(key: &Key) -> Name {
    (key.namespace.clone(), key.name.clone())
}

//! Which keys looked at what: the index that turns "you read it" into "you watch it".
//!
//! Both directions are kept: from a key to its reads, so that they can be replaced
//! or forgotten, and from an object to the keys that read it or a list it
//! belongs to. A list is found under one of its labels, so that ten thousand keys
//! that each asked for `app=<own name>` do not cost ten thousand comparisons an event.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use windlass_core::key::{Key, ObjectRef};
use windlass_core::kind::Gvk;
use windlass_core::name::PluginName;
use windlass_core::object::{Meta, Object};
use windlass_core::ports::Read;
use windlass_core::reads::{Query, Reads};

type Label = (String, String);

/// Reads of all keys. Bounded by keys times what one pass may read. What is held of each key is as small
/// as it can be without being slow: a hundred thousand of them read a few things each
/// (`tests/interest_memory.rs` holds the number of bytes).
#[derive(Debug, Default)]
pub(crate) struct Interest {
    by_key: BTreeMap<Key, Held>,
    objects: HashMap<ObjectRef, Keys>,
    lists: HashMap<(Gvk, Option<Arc<str>>), Lists>,
}

/// What one key read, sorted: a tree's nodes have room for eleven, and most keys read two or three.
#[derive(Debug, Default, PartialEq, Eq)]
struct Held {
    objects: Vec<ObjectRef>,
    lists: Vec<Query>,
}

impl Held {
    /// The same without room for more.
    fn exact(mut self) -> Self {
        self.objects.shrink_to_fit();
        self
    }
}

impl From<Reads> for Held {
    fn from(reads: Reads) -> Self {
        Self { objects: reads.objects.into_iter().collect(), lists: reads.lists.into_iter().collect() }
            .exact()
    }
}

/// Those of `these` that are not among `others`; both are sorted.
fn missing<'a, T: Ord>(these: &'a [T], others: &'a [T]) -> impl Iterator<Item = &'a T> {
    these.iter().filter(|one| others.binary_search(one).is_err())
}

/// Keys that read the same; often it is one.
#[derive(Debug, Default)]
enum Keys {
    #[default]
    None,
    One(Key),
    Many(HashSet<Key>),
}

impl Keys {
    fn insert(&mut self, key: Key) {
        match self {
            Self::None => *self = Self::One(key),
            Self::One(one) if *one == key => {}
            Self::One(one) => *self = Self::Many([one.clone(), key].into()),
            Self::Many(keys) => drop(keys.insert(key)),
        }
    }

    fn remove(&mut self, key: &Key) {
        match self {
            Self::One(one) if one == key => *self = Self::None,
            Self::None | Self::One(_) => {}
            Self::Many(keys) => {
                keys.remove(key);
                if keys.is_empty() {
                    *self = Self::None;
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    fn iter(&self) -> impl Iterator<Item = &Key> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(one) => (Some(one), None),
            Self::Many(keys) => (None, Some(keys)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

/// The list queries of one kind and namespace.
#[derive(Debug, Default)]
struct Lists {
    unlabelled: Keys,
    by_label: HashMap<Label, HashMap<Vec<Label>, Keys>>,
}

impl Interest {
    /// Keys with reads.
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// What a key reads, if anything: objects and lists, each sorted.
    pub(crate) fn of(&self, key: &Key) -> Option<(Vec<ObjectRef>, Vec<Query>)> {
        self.by_key.get(key).map(|held| (held.objects.clone(), held.lists.clone()))
    }

    /// As [`of`](Self::of) for the keys of one plugin with these primaries, which are ordered by namespace and name: those that read
    /// anything, with the place of their primary.
    pub(crate) fn of_each(
        &self,
        plugin: &PluginName,
        primaries: &[Arc<Object>],
    ) -> Vec<(usize, Vec<ObjectRef>, Vec<Query>)> {
        let name = |primary: &Arc<Object>| (primary.meta().namespace.clone(), primary.meta().name.clone());
        let Some((namespace, first)) = primaries.first().map(name) else {
            return Vec::new();
        };
        // Both are in one order: gone through side by side, nothing is looked up.
        let all = self.by_key.range(Key::new(plugin.clone(), namespace, first)..);
        let mut held = all.take_while(|(key, _)| key.plugin == *plugin).peekable();
        let mut found = Vec::new();
        for (at, primary) in primaries.iter().enumerate() {
            let meta = primary.meta();
            let place = |key: &Key| (&*key.namespace, &*key.name).cmp(&(&*meta.namespace, &*meta.name));
            while held.next_if(|(key, _)| place(key).is_lt()).is_some() {}
            match held.peek() {
                None => break,
                Some((key, held)) if place(key).is_eq() => {
                    found.push((at, held.objects.clone(), held.lists.clone()));
                }
                Some(_) => {}
            }
        }
        found
    }

    /// Replaces the reads of a key; empty ones forget it.
    pub(crate) fn replace(&mut self, key: &Key, reads: Reads) {
        let old = self.by_key.remove(key).unwrap_or_default();
        let mut new = Held::from(reads);
        if old != new {
            missing(&old.objects, &new.objects).for_each(|object| self.drop_object(key, object));
            missing(&old.lists, &new.lists).for_each(|query| self.drop_list(key, query));
            for object in &mut new.objects {
                self.share(object);
            }
            missing(&new.objects, &old.objects).for_each(|object| self.index_object(key, object));
            missing(&new.lists, &old.lists).for_each(|query| self.index_list(key, query));
        } else {
            // The same, but with the names that the index has, too.
            new = old.exact();
        }
        if new != Held::default() {
            self.by_key.insert(key.clone(), new);
        }
    }

    /// Adds one read of a key.
    pub(crate) fn add(&mut self, key: &Key, read: Read) {
        if !self.by_key.contains_key(key) {
            self.by_key.insert(key.clone(), Held::default());
        }
        let Some(held) = self.by_key.get_mut(key) else {
            return;
        };
        match read {
            Read::Object(object) => {
                if let Err(at) = held.objects.binary_search(&object) {
                    held.objects.insert(at, object.clone());
                    self.index_object(key, &object);
                }
            }
            Read::List(query) => {
                if let Err(at) = held.lists.binary_search(&query) {
                    held.lists.insert(at, query.clone());
                    self.index_list(key, &query);
                }
            }
        }
    }

    /// Makes the names of an object that somebody else read, too, the ones that are held already.
    fn share(&self, object: &mut ObjectRef) {
        if let Some((known, _)) = self.objects.get_key_value(object) {
            *object = known.clone();
        }
    }

    /// Forgets all keys of a plugin.
    pub(crate) fn forget(&mut self, plugin: &PluginName) {
        let first = Key::new(plugin.clone(), "", "");
        let keys: Vec<Key> = self
            .by_key
            .range(first..)
            .map(|(key, _)| key)
            .take_while(|key| key.plugin == *plugin)
            .cloned()
            .collect();
        for key in &keys {
            self.replace(key, Reads::default());
        }
    }

    /// Adds to `found` the keys that looked at this object, or at a list that it
    /// belonged to before or belongs to now.
    pub(crate) fn find(&self, gvk: &Gvk, old: Option<&Meta>, new: Option<&Meta>, found: &mut BTreeSet<Key>) {
        let Some(meta) = new.or(old) else {
            return;
        };
        let object =
            ObjectRef { gvk: gvk.clone(), namespace: meta.namespace.clone(), name: meta.name.clone() };
        found.extend(self.objects.get(&object).into_iter().flat_map(Keys::iter).cloned());
        for namespace in [None, Some(meta.namespace.clone())] {
            let Some(lists) = self.lists.get(&(gvk.clone(), namespace)) else {
                continue;
            };
            found.extend(lists.unlabelled.iter().cloned());
            for meta in [old, new].into_iter().flatten() {
                lists.find(meta, found);
            }
        }
    }

    fn index_object(&mut self, key: &Key, object: &ObjectRef) {
        self.objects.entry(object.clone()).or_default().insert(key.clone());
    }

    fn drop_object(&mut self, key: &Key, object: &ObjectRef) {
        if let Some(keys) = self.objects.get_mut(object) {
            keys.remove(key);
            if keys.is_empty() {
                self.objects.remove(object);
            }
        }
    }

    fn index_list(&mut self, key: &Key, query: &Query) {
        let at = (query.gvk.clone(), query.namespace.clone());
        self.lists.entry(at).or_default().insert(key, &query.labels);
    }

    fn drop_list(&mut self, key: &Key, query: &Query) {
        let at = (query.gvk.clone(), query.namespace.clone());
        if let Some(lists) = self.lists.get_mut(&at) {
            lists.remove(key, &query.labels);
            if lists.unlabelled.is_empty() && lists.by_label.is_empty() {
                self.lists.remove(&at);
            }
        }
    }
}

impl Lists {
    fn insert(&mut self, key: &Key, labels: &[Label]) {
        // Under its rarest label: one that every query shares would sort nothing.
        let queries = |label: &&Label| self.by_label.get(*label).map_or(0, HashMap::len);
        let known = labels.iter().find(|label| self.has(label, labels));
        let Some(label) = known.or_else(|| labels.iter().min_by_key(queries)) else {
            self.unlabelled.insert(key.clone());
            return;
        };
        let queries = self.by_label.entry(label.clone()).or_default();
        queries.entry(labels.to_vec()).or_default().insert(key.clone());
    }

    fn has(&self, label: &Label, labels: &[Label]) -> bool {
        self.by_label.get(label).is_some_and(|queries| queries.contains_key(labels))
    }

    fn remove(&mut self, key: &Key, labels: &[Label]) {
        let Some(label) = labels.iter().find(|label| self.has(label, labels)) else {
            self.unlabelled.remove(key);
            return;
        };
        let Some(queries) = self.by_label.get_mut(label) else {
            return;
        };
        if let Some(keys) = queries.get_mut(labels) {
            keys.remove(key);
            if keys.is_empty() {
                queries.remove(labels);
            }
        }
        if queries.is_empty() {
            self.by_label.remove(label);
        }
    }

    fn find(&self, meta: &Meta, found: &mut BTreeSet<Key>) {
        if self.by_label.is_empty() {
            return;
        }
        for (name, value) in meta.labels() {
            let label = (name.to_string(), value.to_string());
            for (labels, keys) in self.by_label.get(&label).into_iter().flatten() {
                if meta.has_labels(labels) {
                    found.extend(keys.iter().cloned());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Gvk {
        "v1/Pod".parse().expect("valid")
    }

    fn key(plugin: &str, name: &str) -> Key {
        Key::new(PluginName::try_new(plugin).expect("valid"), "ns", name)
    }

    fn meta(name: &str, labels: &[(&str, &str)]) -> Object {
        let labels: serde_json::Map<_, _> =
            labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
        let text = serde_json::json!({ "metadata": { "name": name, "namespace": "ns", "labels": labels } });
        Object::parse(&pod(), &text.to_string()).expect("an object")
    }

    fn query(namespace: Option<&str>, labels: &[(&str, &str)]) -> Query {
        Query {
            gvk: pod(),
            namespace: namespace.map(Into::into),
            labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        }
    }

    fn lists(queries: &[Query]) -> Reads {
        Reads { lists: queries.iter().cloned().collect(), ..Reads::default() }
    }

    fn object(name: &str) -> ObjectRef {
        ObjectRef { gvk: pod(), namespace: "ns".into(), name: name.into() }
    }

    fn found(interest: &Interest, old: Option<&Object>, new: Option<&Object>) -> Vec<String> {
        let mut keys = BTreeSet::new();
        interest.find(&pod(), old.map(Object::meta), new.map(Object::meta), &mut keys);
        keys.iter().map(|key| format!("{}:{}", key.plugin, key.name)).collect()
    }

    #[test]
    fn a_key_hears_of_the_object_it_read_even_when_it_was_absent() {
        let mut interest = Interest::default();
        interest.add(&key("p", "a"), Read::Object(object("x")));
        assert_eq!(found(&interest, None, Some(&meta("x", &[]))), ["p:a"]);
        assert_eq!(found(&interest, Some(&meta("x", &[])), None), ["p:a"]);
        assert!(found(&interest, None, Some(&meta("y", &[]))).is_empty());
    }

    #[test]
    fn a_key_hears_of_objects_that_enter_or_leave_its_list() {
        let mut interest = Interest::default();
        interest.replace(&key("p", "a"), lists(&[query(Some("ns"), &[("app", "x")])]));
        interest.replace(&key("p", "b"), lists(&[query(None, &[("app", "x"), ("tier", "db")])]));
        interest.replace(&key("p", "c"), lists(&[query(None, &[])]));
        interest.replace(&key("p", "d"), lists(&[query(Some("other"), &[])]));
        let (x, y) = (meta("o", &[("app", "x")]), meta("o", &[("app", "y")]));
        assert_eq!(found(&interest, Some(&x), Some(&y)), ["p:a", "p:c"]);
        assert_eq!(found(&interest, Some(&y), Some(&x)), ["p:a", "p:c"]);
        assert_eq!(found(&interest, Some(&y), Some(&y)), ["p:c"]);
        let db = meta("o", &[("app", "x"), ("tier", "db"), ("more", "z")]);
        assert_eq!(found(&interest, None, Some(&db)), ["p:a", "p:b", "p:c"]);
    }

    #[test]
    fn replaced_reads_leave_nothing_behind() {
        let mut interest = Interest::default();
        let a = key("p", "a");
        for round in 0..3 {
            interest.add(&a, Read::Object(object("x")));
            interest.add(&a, Read::List(query(None, &[("app", &round.to_string()), ("b", "c")])));
            interest.add(&key("q", "a"), Read::List(query(None, &[("b", "c")])));
            interest.replace(&a, lists(&[query(None, &[("b", "c")])]));
            assert_eq!(found(&interest, None, Some(&meta("x", &[("b", "c")]))), ["p:a", "q:a"]);
        }
        interest.replace(&a, Reads::default());
        interest.forget(&PluginName::try_new("q").expect("valid"));
        assert!(interest.by_key.is_empty() && interest.objects.is_empty() && interest.lists.is_empty());
    }

    #[test]
    fn the_reads_of_many_keys_are_those_of_each() {
        let mut interest = Interest::default();
        for (plugin, name) in [("a", "z"), ("p", "a"), ("p", "c"), ("p", "d"), ("q", "b")] {
            interest.add(&key(plugin, name), Read::Object(object(name)));
        }
        let names = ["b", "c", "d", "e"];
        let primaries: Vec<_> = names.iter().map(|name| Arc::new(meta(name, &[]))).collect();
        for plugin in ["a", "o", "p", "q"] {
            let one = |at: usize| {
                let (objects, lists) = interest.of(&key(plugin, names[at]))?;
                Some((at, objects, lists))
            };
            let each: Vec<_> = (0..names.len()).filter_map(one).collect();
            assert_eq!(interest.of_each(&key(plugin, "").plugin, &primaries), each, "{plugin}");
        }
        assert!(interest.of_each(&key("p", "").plugin, &[]).is_empty());
    }

    #[test]
    fn a_key_that_reads_the_same_again_keeps_the_names_that_the_index_has() {
        let mut interest = Interest::default();
        let a = key("p", "a");
        interest.add(&a, Read::Object(object("x")));
        interest.replace(&a, Reads { objects: [object("x")].into(), ..Reads::default() });
        let (indexed, _) = interest.objects.get_key_value(&object("x")).expect("it was read");
        let held = &interest.by_key[&a].objects[0];
        assert!(Arc::ptr_eq(&indexed.name, &held.name) && Arc::ptr_eq(&indexed.gvk.kind, &held.gvk.kind));
        assert_eq!(interest.by_key[&a].objects.capacity(), 1);
    }

    #[test]
    fn one_plugin_is_forgotten_and_the_others_stay() {
        let mut interest = Interest::default();
        for (plugin, name) in [("a", "1"), ("b", "1"), ("b", "2"), ("bb", "1")] {
            interest.add(&key(plugin, name), Read::Object(object("x")));
        }
        interest.forget(&PluginName::try_new("b").expect("valid"));
        assert_eq!(found(&interest, None, Some(&meta("x", &[]))), ["a:1", "bb:1"]);
        assert_eq!(interest.len(), 2);
    }

    #[test]
    fn a_query_among_thousands_is_found_by_its_own_label() {
        let mut interest = Interest::default();
        for n in 0..5_000 {
            let name = n.to_string();
            let labels = [("part-of", "all"), ("app", name.as_str())];
            interest.replace(&key("p", &name), lists(&[query(Some("ns"), &labels)]));
        }
        let at = (pod(), Some("ns".into()));
        let longest = interest.lists[&at].by_label.values().map(HashMap::len).max();
        assert!(longest < Some(3), "{longest:?} queries under one label");
        assert_eq!(found(&interest, None, Some(&meta("o", &[("part-of", "all"), ("app", "7")]))), ["p:7"]);
    }
}

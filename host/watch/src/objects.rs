//! The objects of one kind, by namespace and name; those that belong to a key are told to [`Owned`].
//!
//! An object only ever gets newer here: an event that repeats an older version, or
//! one from before the object's end, changes nothing.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use windlass_core::key::Key;
use windlass_core::kind::Gvk;
use windlass_core::object::{Base, Object};

use crate::budget::Total;
use crate::owned::Owned;
use crate::part::reaches;

/// Ends that are remembered, so that a late event does not bring the dead back.
const ENDS_MAX: usize = 256;

/// Namespace and name.
pub(crate) type Name = (Arc<str>, Arc<str>);

/// What happened to one object; at least one side is there.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) old: Option<Arc<Object>>,
    pub(crate) new: Option<Arc<Object>>,
}

/// All objects of one kind.
#[derive(Debug)]
pub(crate) struct Objects {
    kind: Arc<Gvk>,
    host_namespace: Arc<str>,
    by_name: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Held>>,
    /// Where the children of each key are; nothing any more once the kind is let go.
    owned: Option<Arc<Owned>>,
    ends: VecDeque<(Name, u64)>,
    /// What objects of this kind have in common.
    base: Arc<Base>,
    /// Bytes of it and of those before it, which objects may still be packed against.
    bases_bytes: usize,
    len: usize,
    bytes: usize,
    json_bytes: usize,
    /// Bytes of all kinds.
    total: Total,
    /// Lists that have begun.
    listing: u64,
    /// The lists that are being read, or were read last, one for each part.
    lists: Vec<Listing>,
}

#[derive(Debug)]
struct Listing {
    /// Of what is in this namespace; empty: of everything.
    part: Arc<str>,
    /// How many had begun with it.
    number: u64,
    /// Whether it may replace newer objects.
    rewound: bool,
}

#[derive(Debug)]
struct Held {
    object: Arc<Object>,
    /// How many lists had begun when it came, or was last brought by one.
    listing: u64,
}

impl Objects {
    /// None yet. Children are those of the host in `host_namespace`, and found in `owned` too.
    /// What is held is counted in `total` as well.
    pub(crate) fn new(kind: Gvk, host_namespace: Arc<str>, total: Total, owned: Arc<Owned>) -> Self {
        Self {
            kind: Arc::new(kind),
            host_namespace,
            by_name: BTreeMap::new(),
            owned: Some(owned),
            ends: VecDeque::new(),
            base: Arc::default(),
            bases_bytes: 0,
            len: 0,
            bytes: 0,
            json_bytes: 0,
            total,
            listing: 0,
            lists: Vec::new(),
        }
    }

    /// Objects held.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that the objects take, with their place in the index.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of JSON held.
    pub(crate) fn json_bytes(&self) -> usize {
        self.json_bytes
    }

    /// One object.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.by_name.get(namespace)?.get(name).map(|held| &held.object)
    }

    /// The objects of one namespace, or all, ordered by namespace and name.
    pub(crate) fn iter<'a>(&'a self, namespace: Option<&'a str>) -> impl Iterator<Item = &'a Arc<Object>> {
        let one = namespace.map(|namespace| self.by_name.get(namespace));
        let all = one.is_none().then(|| self.by_name.values());
        let maps = one.flatten().into_iter().chain(all.into_iter().flatten());
        maps.flat_map(|map| map.values().map(|held| &held.object))
    }

    /// At most `most` objects, ordered by namespace and name, those behind `after` only.
    pub(crate) fn page(&self, after: Option<&Name>, most: usize) -> Vec<Arc<Object>> {
        let first = after.map(|(namespace, name)| {
            let rest = self.by_name.get(namespace);
            let behind = (Bound::Excluded(name.clone()), Bound::Unbounded);
            rest.into_iter().flat_map(move |map| map.range(behind.clone()))
        });
        let behind = after.map_or(Bound::Unbounded, |(namespace, _)| Bound::Excluded(namespace.clone()));
        let others = self.by_name.range((behind, Bound::Unbounded)).flat_map(|(_, map)| map);
        let held = first.into_iter().flatten().chain(others).take(most);
        held.map(|(_, held)| held.object.clone()).collect()
    }

    /// Nobody needs the kind any more: nothing here is anybody's child from now on, whatever its watch still brings.
    pub(crate) fn retire(&mut self) {
        let Some(owned) = self.owned.take() else { return };
        for object in self.iter(None) {
            owned.replace(&self.kind, self.of_owner(object), None);
        }
    }

    /// A list of a part begins: of one namespace, or of everything if that is empty. `rewound`: what it says replaces newer objects too.
    pub(crate) fn begin(&mut self, part: &Arc<str>, rewound: bool) {
        self.listing += 1;
        // Those of an earlier division as well: they end unfinished.
        self.lists.retain(|list| !reaches(&list.part, part) && !reaches(part, &list.part));
        self.lists.push(Listing { part: part.clone(), number: self.listing, rewound });
        // A list is newer than every end that was seen.
        self.ends.retain(|((namespace, _), _)| !reaches(part, namespace));
    }

    /// Whether what comes now in this namespace replaces newer objects too.
    fn is_rewound(&self, namespace: &str) -> bool {
        self.lists.iter().any(|list| list.rewound && reaches(&list.part, namespace))
    }

    /// Packs an object that is to be taken, unless it is no news. Secrets stay as they are: what others are packed against
    /// outlives the object that it came from.
    pub(crate) fn pack(&mut self, object: &mut Object) {
        if self.kind.group.is_empty() && &*self.kind.kind == "Secret" {
            return;
        }
        let held = self.get(&object.meta().namespace, &object.meta().name);
        let rewound = self.is_rewound(&object.meta().namespace);
        if held.is_some_and(|held| is_old_news(held, object, rewound)) {
            return;
        }
        let before = Arc::clone(&self.base);
        object.pack(&mut self.base);
        if !Arc::ptr_eq(&before, &self.base) {
            let bytes = self.base.bytes();
            self.bases_bytes += bytes;
            self.bytes += bytes;
            self.total.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Takes an object; `None` when that is no news.
    pub(crate) fn put(&mut self, mut object: Object) -> Option<Change> {
        let meta = object.meta();
        let (mut namespace, mut name, version) = (meta.namespace.clone(), meta.name.clone(), meta.version());
        let listing = self.listing;
        let (ended, rewound) = (self.has_ended(&namespace, &name, version), self.is_rewound(&namespace));
        let held = self.by_name.get_mut(&namespace).and_then(|map| map.get_mut(&name));
        let old = match held {
            Some(held) => {
                held.listing = listing;
                if is_old_news(&held.object, &object, rewound) {
                    return None;
                }
                Some(held.object.clone())
            }
            None if ended => return None,
            None => None,
        };
        // One text of a namespace for all that is in it, and of a name for index and object.
        if let Some((known, map)) = self.by_name.get_key_value(&namespace) {
            namespace = known.clone();
            name = map.get_key_value(&name).map_or(name, |(known, _)| known.clone());
        }
        object.share_names(&namespace, &name);
        // Here, under the lock: what came later has the greater number.
        object.renumber();
        let object = Arc::new(object);
        let held = Held { object: object.clone(), listing };
        self.by_name.entry(namespace).or_default().insert(name, held);
        self.count(old.as_ref(), Some(&object));
        Some(Change { old, new: Some(object) })
    }

    /// Takes an object's end at `version`; `None` when that is no news.
    pub(crate) fn remove(&mut self, namespace: &str, name: &str, version: u64) -> Option<Change> {
        let Some(held) = self.get(namespace, name) else {
            // Its end may have overtaken all that was to be heard of it before.
            self.ended((namespace.into(), name.into()), version);
            return None;
        };
        let newer = held.meta().version();
        if version != 0 && newer > version {
            return None;
        }
        let at = version.max(newer);
        self.take(namespace, name, at)
    }

    /// The list of a part is complete: takes out what it did not bring, and what is in no part any more.
    pub(crate) fn sweep(
        &mut self,
        part: &str,
        version: u64,
        is_watched: impl Fn(&str) -> bool,
    ) -> Vec<Change> {
        let Some(list) = self.lists.iter_mut().find(|list| *list.part == *part) else {
            return Vec::new();
        };
        list.rewound = false;
        let began = list.number;
        self.take_where(version, |namespace, held| {
            (reaches(part, namespace) && held.listing < began) || !is_watched(namespace)
        })
    }

    /// Takes out everything.
    pub(crate) fn clear(&mut self) -> Vec<Change> {
        self.take_where(0, |_, _| true)
    }

    /// Whether the object is known to have ended at this version or later.
    pub(crate) fn has_ended(&self, namespace: &str, name: &str, version: u64) -> bool {
        let is_it = |end: &&(Name, u64)| &*end.0.0 == namespace && &*end.0.1 == name;
        version != 0 && self.ends.iter().find(is_it).is_some_and(|end| version <= end.1)
    }

    fn take_where(&mut self, version: u64, unwanted: impl Fn(&str, &Held) -> bool) -> Vec<Change> {
        let names: Vec<Name> = self
            .by_name
            .iter()
            .flat_map(|(namespace, map)| map.iter().map(move |(name, held)| (namespace, name, held)))
            .filter(|(namespace, _, held)| unwanted(namespace, held))
            .map(|(namespace, name, _)| (namespace.clone(), name.clone()))
            .collect();
        names.iter().filter_map(|(namespace, name)| self.take(namespace, name, version)).collect()
    }

    fn take(&mut self, namespace: &str, name: &str, version: u64) -> Option<Change> {
        let map = self.by_name.get_mut(namespace)?;
        let old = map.remove(name)?.object;
        if map.is_empty() {
            self.by_name.remove(namespace);
        }
        self.count(Some(&old), None);
        let meta = old.meta();
        self.ended((meta.namespace.clone(), meta.name.clone()), version);
        Some(Change { old: Some(old), new: None })
    }

    /// Keeps in mind when an object ended.
    fn ended(&mut self, at: Name, version: u64) {
        let known = self.ends.iter().find(|end| end.0 == at).map_or(0, |end| end.1);
        self.ends.retain(|end| end.0 != at);
        self.ends.push_front((at, version.max(known)));
        self.ends.truncate(ENDS_MAX);
    }

    /// Keeps the counters and the children of each key up to date.
    fn count(&mut self, old: Option<&Arc<Object>>, new: Option<&Arc<Object>>) {
        if let Some(object) = new {
            self.len += 1;
            self.bytes += held_bytes(object);
            self.total.fetch_add(held_bytes(object), Ordering::Relaxed);
            self.json_bytes += object.json_bytes();
        }
        if let Some(object) = old {
            self.len -= 1;
            self.bytes -= held_bytes(object);
            self.total.fetch_sub(held_bytes(object), Ordering::Relaxed);
            self.json_bytes -= object.json_bytes();
        }
        if self.len == 0 {
            self.bytes -= self.bases_bytes;
            self.total.fetch_sub(self.bases_bytes, Ordering::Relaxed);
            (self.base, self.bases_bytes) = (Arc::default(), 0);
        }
        if let Some(owned) = &self.owned {
            let owner = |object| self.of_owner(object);
            owned.replace(&self.kind, old.and_then(owner), new.and_then(owner));
        }
    }

    /// A child of ours, with the key that it belongs to.
    fn of_owner<'a>(&self, object: &'a Arc<Object>) -> Option<(Key, &'a Arc<Object>)> {
        let (meta, mut key) = (object.meta(), object.meta().owner(&self.host_namespace)?);
        if key.namespace == meta.namespace {
            // One text for all keys of a namespace.
            key.namespace = meta.namespace.clone();
        }
        Some((key, object))
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes beside an object's own: the counts of the two shared allocations, its place in a map that is
/// two thirds full, and what an allocator rounds up for each of about eight allocations.
const PLACE_BYTES: usize = 2 * 16 + 48 + 8 * 12;

/// What an object costs while it is held.
pub(crate) fn held_bytes(object: &Object) -> usize {
    object.bytes() + object.meta().name.len() + PLACE_BYTES
}

/// Whether `new` says nothing that is not known. Versions that are no numbers
/// can not be compared: then only an equal one is old news. With a body that was
/// missing, or without one that nobody needs any more, the same version is news.
fn is_old_news(held: &Object, new: &Object, rewound: bool) -> bool {
    let (held, new) = (held.meta(), new.meta());
    if held.resource_version == new.resource_version && held.uid == new.uid {
        // In a past that was rewritten the same version may have been given to something else.
        return !rewound && held.metadata_only == new.metadata_only;
    }
    !rewound && new.version() != 0 && new.version() < held.version()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, version: u64, owner: Option<&str>) -> Object {
        let (labels, annotations) = owner.map_or((String::new(), String::new()), |owner| {
            (
                r#""windlass.dev/host":"sys","windlass.dev/owned-by":"web""#.into(),
                format!(r#""windlass.dev/primary":"{owner}""#),
            )
        });
        let text = format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"ns","uid":"u","resourceVersion":"{version}",
            "labels":{{{labels}}},"annotations":{{{annotations}}}}}}}"#
        );
        Object::parse(&"v1/ConfigMap".parse().expect("valid"), &text).expect("an object")
    }

    fn objects() -> Objects {
        let gvk = "v1/ConfigMap".parse().expect("valid");
        Objects::new(gvk, "sys".into(), Total::default(), Arc::default())
    }

    fn key(primary: &str) -> Key {
        Key::from_child("web", primary).expect("valid")
    }

    fn names(objects: &Objects) -> Vec<String> {
        objects.iter(None).map(|o| format!("{}@{}", o.meta().name, o.meta().version())).collect()
    }

    #[test]
    fn an_object_only_ever_gets_newer() {
        let mut objects = objects();
        assert!(objects.put(object("a", 5, None)).is_some());
        assert!(objects.put(object("a", 5, None)).is_none());
        assert!(objects.put(object("a", 4, None)).is_none());
        assert!(objects.remove("ns", "a", 4).is_none());
        assert!(objects.put(object("a", 6, None)).is_some());
        assert_eq!(names(&objects), ["a@6"]);
    }

    #[test]
    fn a_body_that_was_missing_is_news_at_the_same_version() {
        let gvk = "v1/ConfigMap".parse().expect("valid");
        let whole = || object("a", 5, None);
        let bare = || Object::parse_metadata(&gvk, &whole().json()).expect("an object");
        let mut objects = objects();
        assert!(objects.put(bare()).is_some() && objects.put(bare()).is_none());
        assert!(objects.put(whole()).is_some() && objects.put(whole()).is_none());
        assert!(objects.put(bare()).is_some(), "who needed it is gone");
    }

    #[test]
    fn a_late_event_does_not_bring_the_dead_back() {
        let mut objects = objects();
        objects.put(object("a", 5, None));
        assert!(objects.remove("ns", "a", 7).is_some());
        assert!(objects.put(object("a", 6, None)).is_none());
        assert!(objects.put(object("a", 8, None)).is_some());
    }

    #[test]
    fn an_end_that_comes_before_its_beginning_is_an_end_all_the_same() {
        let mut objects = objects();
        assert!(objects.remove("ns", "a", 7).is_none());
        assert!(objects.remove("ns", "a", 5).is_none());
        assert!(objects.put(object("a", 6, None)).is_none(), "it ended at 7");
        assert!(objects.put(object("a", 8, None)).is_some());
    }

    #[test]
    fn what_a_list_does_not_bring_is_gone() {
        let mut objects = objects();
        for name in ["a", "b", "c"] {
            objects.put(object(name, 5, None));
        }
        objects.begin(&"".into(), false);
        objects.put(object("a", 5, None));
        objects.put(object("b", 9, None));
        let gone = objects.sweep("", 9, |_| true);
        assert_eq!(gone.len(), 1);
        assert_eq!(names(&objects), ["a@5", "b@9"]);
        assert!(objects.put(object("c", 8, None)).is_none(), "it ended before 9");
    }

    #[test]
    fn a_list_of_a_namespace_says_nothing_of_another() {
        let of = |namespace: &str, name: &str, version: u64| {
            let text = object(name, version, None).json().replace("\"ns\"", &format!("\"{namespace}\""));
            Object::parse(&"v1/ConfigMap".parse().expect("valid"), &text).expect("an object")
        };
        let mut objects = objects();
        for (namespace, name) in [("x", "a"), ("x", "b"), ("y", "a"), ("z", "a")] {
            objects.put(of(namespace, name, 50));
        }
        let (x, y): (Arc<str>, Arc<str>) = ("x".into(), "y".into());
        let watched = |namespace: &str| matches!(namespace, "x" | "y");
        objects.begin(&x, false);
        objects.begin(&y, true);
        assert!(objects.put(of("x", "a", 5)).is_none(), "only the other namespace's past has changed");
        assert!(objects.put(of("y", "a", 5)).is_some());
        let mut gone = objects.sweep(&x, 60, watched);
        gone.sort_by_key(|change| change.old.as_ref().map(|old| old.meta().namespace.clone()));
        assert_eq!(gone.len(), 2, "what its list did not bring, and what nobody watches");
        assert_eq!(names(&objects), ["a@50", "a@5"]);
        assert!(objects.sweep(&y, 6, watched).is_empty());
        assert!(objects.put(of("x", "b", 55)).is_none(), "it ended before 60");
        objects.begin(&y, false);
        assert!(objects.put(of("x", "b", 55)).is_none(), "a list of another namespace does not change that");
        assert_eq!(objects.sweep(&y, 70, watched).len(), 1);
    }

    #[test]
    fn objects_of_a_namespace_share_its_text_and_a_new_version_keeps_the_name() {
        let mut objects = objects();
        objects.put(object("a", 1, None));
        objects.put(object("b", 2, None));
        let of = |objects: &Objects, name: &str| objects.get("ns", name).expect("held").clone();
        let (a, b) = (of(&objects, "a"), of(&objects, "b"));
        assert!(Arc::ptr_eq(&a.meta().namespace, &b.meta().namespace));
        objects.put(object("a", 3, None));
        assert!(Arc::ptr_eq(&a.meta().name, &of(&objects, "a").meta().name));
    }

    #[test]
    fn a_list_from_a_restored_past_replaces_newer_objects() {
        let mut objects = objects();
        objects.put(object("a", 50, None));
        objects.begin(&"".into(), false);
        assert!(objects.put(object("a", 5, None)).is_none());
        objects.begin(&"".into(), true);
        assert!(objects.put(object("a", 5, None)).is_some());
        assert!(objects.sweep("", 6, |_| true).is_empty());
        assert_eq!(names(&objects), ["a@5"]);
    }

    #[test]
    fn children_follow_their_owner_and_counters_end_at_zero() {
        let mut objects = objects();
        objects.put(object("b", 1, Some("ns/x")));
        objects.put(object("a", 2, Some("ns/x")));
        let owned = objects.owned.clone().expect("not retired");
        let of = |primary: &str| {
            let mut names = Vec::new();
            owned.each(&key(primary), |o| names.push(format!("{}@{}", o.meta().name, o.meta().version())));
            names
        };
        assert_eq!(of("ns/x"), ["a@2", "b@1"]);
        objects.put(object("a", 3, Some("ns/x")));
        assert_eq!(of("ns/x"), ["a@3", "b@1"]);
        objects.put(object("b", 4, Some("ns/y")));
        assert_eq!((of("ns/x"), of("ns/y")), (vec!["a@3".into()], vec!["b@4".into()]));
        assert!(objects.bytes() > 0);
        assert_eq!(objects.total.load(Ordering::Relaxed), objects.bytes());
        assert_eq!(objects.clear().len(), 2);
        assert_eq!((objects.len(), objects.bytes(), objects.json_bytes()), (0, 0, 0));
        assert!(owned.is_empty());
    }

    #[test]
    fn objects_of_one_template_take_less_than_their_texts_and_are_read_as_they_came() {
        let mut objects = objects();
        let came = |number: u64| {
            let mut text = object(&format!("a-{number}"), number + 1, Some("ns/x")).json().into_owned();
            text.truncate(text.len() - 1);
            let said: Vec<String> = (0..200).map(|line| format!("line {}", line * 7919)).collect();
            text.push_str(&format!(r#","data":{{"text":"{}"}}}}"#, said.join(" ")));
            Object::parse(&"v1/ConfigMap".parse().expect("valid"), &text).expect("an object")
        };
        for number in 0..500 {
            let mut object = came(number);
            objects.pack(&mut object);
            assert!(objects.put(object).is_some());
        }
        for number in 0..500 {
            let held = objects.get("ns", &format!("a-{number}")).expect("held");
            assert_eq!(held.json(), came(number).json());
            assert!(held.is_of(&"v1/ConfigMap".parse().expect("valid")));
        }
        assert!(
            objects.bytes() < objects.json_bytes() / 3,
            "{} of {}",
            objects.bytes(),
            objects.json_bytes()
        );
        assert_eq!(objects.total.load(Ordering::Relaxed), objects.bytes());
        objects.clear();
        assert_eq!((objects.bytes(), objects.total.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn a_secret_leaves_nothing_behind_when_it_goes() {
        let gvk: Gvk = "v1/Secret".parse().expect("valid");
        let mut objects = Objects::new(gvk.clone(), "sys".into(), Total::default(), Arc::default());
        for number in 0..10 {
            let text = format!(
                r#"{{"metadata":{{"name":"a-{number}","namespace":"ns","uid":"u","resourceVersion":"{}"}},"data":{{"key":"{}"}}}}"#,
                number + 1,
                "c2VjcmV0".repeat(50)
            );
            let mut secret = Object::parse(&gvk, &text).expect("an object");
            let plain = secret.bytes();
            objects.pack(&mut secret);
            assert_eq!(secret.bytes(), plain);
            objects.put(secret).expect("news");
        }
        assert_eq!(objects.base.bytes(), Base::default().bytes());
    }

    #[test]
    fn a_kind_that_is_let_go_takes_its_children_along_and_brings_no_more() {
        let mut objects = objects();
        let owned = objects.owned.clone().expect("not retired");
        objects.put(object("a", 1, Some("ns/x")));
        assert!(!owned.is_empty());
        objects.retire();
        objects.put(object("b", 2, Some("ns/x")));
        objects.put(object("a", 3, Some("ns/y")));
        assert!(owned.is_empty());
    }
}

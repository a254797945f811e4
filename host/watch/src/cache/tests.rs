//! What the cache costs, as far as that can be counted.

use std::sync::mpsc;
use std::time::Duration;

use windlass_core::manifest::{ChildRule, ReadRule, Unwanted};

use super::*;
use crate::kind_cache::Put;

struct Nobody;

impl Sink for Nobody {
    fn offer_as(&self, _: Key, _: Urgency) {}
}

fn gvk(text: &str) -> Gvk {
    text.parse().expect("a kind")
}

fn child(kind: &str, name: &str, plugin: &str) -> (Gvk, Object) {
    let text = format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"ns","resourceVersion":"1",
        "labels":{{"windlass.dev/host":"sys","windlass.dev/owned-by":"{plugin}"}},
        "annotations":{{"windlass.dev/primary":"ns/a"}}}}}}"#
    );
    (gvk(kind), Object::parse(&gvk(kind), &text).expect("an object"))
}

fn manifest(name: &str, primary: &str, children: &[&str]) -> Arc<Manifest> {
    let rule = |kind: &&str| ChildRule { kind: gvk(kind), unwanted: Unwanted::Delete };
    Arc::new(Manifest {
        name: PluginName::try_new(name).expect("a name"),
        version: "1".into(),
        primary: gvk(primary),
        selects: Scope::default(),
        strict: true,
        children: children.iter().map(rule).collect(),
        reads: Vec::<ReadRule>::new(),
        finalizes: false,
    })
}

/// A cache with children of `p:ns/a` in three kinds, and a hundred kinds that others use.
fn crowded() -> Arc<ClusterCache> {
    let cache = Arc::new(ClusterCache::new("sys", Vec::new(), Arc::new(Nobody), None));
    let kinds = ["v1/ConfigMap", "v1/Service", "apps/v1/Deployment"];
    let of = |name: &str, manifest| cache.want(&PluginName::try_new(name).expect("a name"), manifest);
    of("p", manifest("p", "x.dev/v1/Web", &kinds));
    for n in 0..100 {
        let name = format!("q{n}");
        of(&name, manifest(&name, &format!("x.dev/v1/Other{n}"), &["v1/Service"]));
    }
    for (gvk, object) in kinds.iter().flat_map(|kind| [child(kind, "b", "p"), child(kind, "a", "p")]) {
        let kind = cache.of(&gvk).expect("it is wanted");
        assert!(matches!(kind.put(kind.round(), object, cache.budget()), Put::News { .. }));
    }
    cache
}

#[test]
fn children_come_ordered_by_kind_and_name_and_go_with_their_kind() {
    let cache = crowded();
    let key = Key::new(PluginName::try_new("p").expect("a name"), "ns", "a");
    let names = || {
        let children = cache.children(&key);
        children
            .iter()
            .map(|child| format!("{} {}", child.gvk().expect("a kind").kind, child.meta().name))
            .collect::<Vec<_>>()
    };
    let all = ["ConfigMap a", "ConfigMap b", "Service a", "Service b", "Deployment a", "Deployment b"];
    let mut sorted = all;
    sorted.sort_by_key(|name| {
        let (kind, name) = name.split_once(' ').expect("two words");
        (
            gvk(match kind {
                "Deployment" => "apps/v1/Deployment",
                "Service" => "v1/Service",
                _ => "v1/ConfigMap",
            }),
            name.to_owned(),
        )
    });
    assert_eq!(names(), sorted);
    assert_eq!(cache.owners(&gvk("apps/v1/Deployment"), &key.plugin), std::slice::from_ref(&key));
    cache.want(&key.plugin, manifest("p", "x.dev/v1/Web", &["v1/ConfigMap"]));
    assert_eq!(names(), ["ConfigMap a", "ConfigMap b", "Service a", "Service b"], "others need Services");
    assert!(cache.owners(&gvk("apps/v1/Deployment"), &key.plugin).is_empty());
}

/// However many kinds are watched: a resync asks this ten thousand times.
#[test]
fn what_a_key_stands_on_is_found_without_a_look_at_any_kind() {
    let cache = crowded();
    let kinds = cache.kinds();
    let key = Key::new(PluginName::try_new("p").expect("a name"), "ns", "a");
    let (tell, told) = mpsc::channel();
    let locked: Vec<_> = kinds.iter().map(|kind| kind.locked()).collect();
    let of = cache.clone();
    let asks = std::thread::spawn(move || {
        let (mut seen, mut each) = (Fingerprint::default(), Vec::new());
        of.fingerprint(&key, &mut seen);
        of.fingerprints(&key.plugin, &[], &mut each);
        // Nobody: it was given up.
        let _ = tell.send((seen, of.children(&key).len()));
    });
    let answer = told.recv_timeout(Duration::from_secs(20));
    drop(locked);
    asks.join().expect("it asks");
    let (seen, children) = answer.expect("it waits for no kind");
    assert_ne!(seen, Fingerprint::default());
    assert_eq!((kinds.len(), children), (104, 6));
}

#[test]
fn what_is_read_is_remembered_under_the_names_that_the_cache_has() {
    let cache = crowded();
    let key = Key::new(PluginName::try_new("p").expect("a name"), "ns", "a");
    // As it comes out of another process: with texts of its own.
    let read = ObjectRef { gvk: gvk("v1/Service"), namespace: "ns".into(), name: "b".into() };
    cache.add_read(&key, Read::Object(read.clone()));
    cache.watch_reads(&key, Reads { objects: [read.clone()].into(), ..Reads::default() });
    let (objects, _) = cache.interest().of(&key).expect("it reads");
    let held = cache.object(&read).expect("it is there");
    assert_eq!(objects, [read]);
    assert!(Arc::ptr_eq(&objects[0].name, &held.meta().name));
    assert!(Arc::ptr_eq(&objects[0].namespace, &held.meta().namespace));
    assert!(Arc::ptr_eq(&objects[0].gvk.kind, &cache.of(&objects[0].gvk).expect("wanted").gvk.kind));
}

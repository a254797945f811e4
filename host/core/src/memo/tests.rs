//! What a memo depends on, one thing at a time.

use super::*;
use crate::manifest::{ChildRule, ReadRule, Unwanted};

const HOUR: Duration = Duration::from_secs(3600);

fn gvk(text: &str) -> Gvk {
    text.parse().expect("a kind")
}

fn plugin(name: &str) -> PluginName {
    PluginName::try_new(name).expect("a name")
}

fn key(name: &str) -> Key {
    Key::new(plugin("web"), "ns", name)
}

fn serving() -> Serving {
    let child = ChildRule { kind: gvk("v1/ConfigMap"), unwanted: Unwanted::Delete };
    let manifest = Manifest {
        name: plugin("web"),
        version: "1".into(),
        primary: gvk("x.dev/v1/Web"),
        selects: crate::scope::Scope::default(),
        strict: true,
        children: vec![child],
        reads: vec![ReadRule { kind: gvk("v1/Secret"), scope: crate::scope::Scope::default() }],
        finalizes: false,
    };
    Serving {
        manifest: Arc::new(manifest),
        digest: Digest::of(b"1"),
        load: LoadId(1),
        settings: Some("1".into()),
        children_max: 10,
    }
}

fn object(name: &str) -> Arc<Object> {
    let text = format!(r#"{{"metadata":{{"name":"{name}","namespace":"ns"}}}}"#);
    Arc::new(Object::parse(&gvk("v1/ConfigMap"), &text).expect("an object"))
}

/// A primary, two children, an object, one that is absent, and a list of two.
struct World {
    primary: Arc<Object>,
    children: Vec<Arc<Object>>,
    read: Option<Arc<Object>>,
    absent: Option<Arc<Object>>,
    list: Vec<Arc<Object>>,
}

impl World {
    fn new() -> Self {
        let two = || vec![object("a"), object("b")];
        Self { primary: object("p"), children: two(), read: Some(object("r")), absent: None, list: two() }
    }

    fn seen(&self) -> Fingerprint {
        let mut seen = Fingerprint::default();
        seen.begin(&self.primary);
        self.children.iter().for_each(|child| seen.child(child));
        seen.object(self.read.as_deref());
        seen.object(self.absent.as_deref());
        seen.list(Listed::of(self.list.iter()));
        seen
    }
}

fn basis() -> Basis {
    Basis::of(&serving(), |_| 7)
}

#[test]
fn a_memo_holds_while_all_that_was_seen_is_the_same_and_only_then() {
    let (mut world, mut memos, now) = (World::new(), Memos::default(), Instant::now());
    memos.remember(&key("p"), &basis(), &world.seen(), None, None);
    let hit = |memos: &Memos, world: &World| memos.hit(&key("p"), &basis(), &world.seen(), None, now);
    assert_eq!(hit(&memos, &world), Some(Hit { requeue_after: None }));
    type Change = fn(&mut World);
    let changes: [(&str, Change); 12] = [
        ("the primary is another version", |w| w.primary = object("p")),
        ("a child is another version", |w| w.children[1] = object("b")),
        ("a child more", |w| w.children.push(object("c"))),
        ("a child less", |w| drop(w.children.pop())),
        ("no child", |w| w.children.clear()),
        ("what was read is another version", |w| w.read = Some(object("r"))),
        ("what was read is gone", |w| w.read = None),
        ("what was not there is", |w| w.absent = Some(object("n"))),
        ("a member of the list is another version", |w| w.list[0] = object("a")),
        ("a member more", |w| w.list.push(object("c"))),
        ("a member less", |w| drop(w.list.pop())),
        ("one member for another", |w| w.list[1] = object("z")),
    ];
    for (what, change) in changes {
        let before = World {
            primary: world.primary.clone(),
            children: world.children.clone(),
            read: world.read.clone(),
            absent: world.absent.clone(),
            list: world.list.clone(),
        };
        change(&mut world);
        assert_eq!(hit(&memos, &world), None, "{what}");
        world = before;
        assert!(hit(&memos, &world).is_some(), "{what}, undone");
    }
    assert_eq!(memos.hit(&key("q"), &basis(), &world.seen(), None, now), None);
    memos.forget(&key("p"));
    assert_eq!((hit(&memos, &world), memos.is_empty()), (None, true));
}

#[test]
fn a_child_is_not_taken_for_something_that_was_read() {
    let object = object("o");
    let (mut as_child, mut as_read) = (Fingerprint::default(), Fingerprint::default());
    as_child.begin(&object);
    as_child.child(&object);
    as_read.begin(&object);
    as_read.object(Some(&object));
    assert_ne!(as_child, as_read);
}

#[test]
fn another_component_limit_setting_or_era_drops_the_memos_of_its_plugin_alone() {
    let (world, now) = (World::new(), Instant::now());
    let others: [(&str, Basis); 5] = [
        ("digest", Basis::of(&Serving { digest: Digest::of(b"2"), ..serving() }, |_| 7)),
        ("limits", Basis::of(&Serving { load: LoadId(2), ..serving() }, |_| 7)),
        ("settings", Basis::of(&Serving { settings: Some("2".into()), ..serving() }, |_| 7)),
        ("no settings", Basis::of(&Serving { settings: None, ..serving() }, |_| 7)),
        ("the era of a kind", Basis::of(&serving(), |gvk| 7 + u64::from(&*gvk.kind == "Secret"))),
    ];
    for (what, other) in others {
        let mut memos = Memos::default();
        let elsewhere = Key::new(plugin("two"), "ns", "p");
        for key in [&key("p"), &key("q"), &elsewhere] {
            memos.remember(key, &basis(), &world.seen(), None, None);
        }
        assert_eq!(memos.hit(&key("p"), &other, &world.seen(), None, now), None, "{what}");
        memos.remember(&key("p"), &other, &world.seen(), None, None);
        assert!(memos.hit(&key("p"), &other, &world.seen(), None, now).is_some(), "{what}");
        assert_eq!(memos.hit(&key("q"), &other, &world.seen(), None, now), None, "{what}");
        assert_eq!(memos.len(), 2, "{what}: q is dropped, the other plugin's is not");
        memos.retain(|plugin| plugin.as_str() == "web");
        assert_eq!(memos.hit(&elsewhere, &basis(), &world.seen(), None, now), None);
    }
}

#[test]
fn a_memo_ends_with_its_deadline_and_says_what_is_left_until_then() {
    let (world, mut memos, now) = (World::new(), Memos::default(), Instant::now());
    memos.remember(&key("p"), &basis(), &world.seen(), None, Some(now + HOUR));
    let left = |at| memos.hit(&key("p"), &basis(), &world.seen(), None, at).map(|hit| hit.requeue_after);
    assert_eq!(left(now), Some(Some(HOUR)));
    assert_eq!(left(now + HOUR / 4), Some(Some(HOUR * 3 / 4)));
    assert_eq!((left(now + HOUR), left(now + HOUR * 2)), (None, None));
}

#[test]
fn what_went_by_the_memory_of_a_term_holds_in_that_term_and_what_compared_values_in_all() {
    let (world, mut memos, now) = (World::new(), Memos::default(), Instant::now());
    memos.remember(&key("p"), &basis(), &world.seen(), Some(Term(2)), None);
    memos.remember(&key("q"), &basis(), &world.seen(), None, None);
    let hit = |name, term| memos.hit(&key(name), &basis(), &world.seen(), term, now).is_some();
    for (term, holds) in
        [(None, false), (Some(Term(1)), false), (Some(Term(2)), true), (Some(Term(3)), false)]
    {
        assert_eq!((hit("p", term), hit("q", term)), (holds, true), "{term:?}");
    }
}

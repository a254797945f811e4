//! What all plugins together need to watch: pure, from manifests to one need a kind.

use std::collections::{BTreeMap, BTreeSet};

use windlass_core::kind::Gvk;
use windlass_core::manifest::Manifest;
use windlass_core::name::{LABEL_HOST, PluginName};
use windlass_core::object::Object;
use windlass_core::scope::{Requirement, SCOPE_MAX, Scope, is_metadata_field};

use crate::selection::Wire;

/// Namespaces in which a kind is watched one by one; more of them are watched as all.
pub const NAMESPACES_MAX: usize = SCOPE_MAX;

/// What is needed of one kind, and by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// What is needed: what one of these selects. None is covered by another; sorted.
    pub(crate) scopes: Vec<Scope>,
    /// Plugins whose primary kind it is, and which objects of it are theirs.
    pub(crate) primary_of: BTreeMap<PluginName, Scope>,
    /// Plugins that may create it.
    pub(crate) child_of: BTreeSet<PluginName>,
    /// Plugins that need it in any way.
    pub(crate) users: BTreeSet<PluginName>,
    /// Plugins that select by a field, and the field.
    pub(crate) by_field: BTreeSet<(String, String, PluginName)>,
}

impl Need {
    /// Whether whatever `other` needs is needed here too.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        other.scopes.iter().all(|scope| self.scopes.iter().any(|mine| mine.covers(scope)))
    }

    /// Whether anybody needs this object. Selectors cannot be or-ed: what is asked for is what all
    /// scopes have in common, and what none of them selects is not kept.
    pub(crate) fn admits(&self, object: &Object) -> bool {
        self.scopes.iter().any(|scope| scope.selects(object))
    }

    /// The narrowest selection of the API server's that misses nothing.
    pub(crate) fn wire(&self) -> Wire {
        let Some((first, others)) = self.scopes.split_first() else {
            return Wire::default();
        };
        let mut labels: Vec<Requirement> =
            first.labels.iter().filter_map(|label| shared(label, others)).collect();
        labels.sort_unstable();
        labels.dedup();
        let in_all = |field: &&(String, String)| others.iter().all(|scope| scope.fields.contains(field));
        let fields: Vec<(String, String)> = first.fields.iter().filter(in_all).cloned().collect();
        let namespaces: BTreeSet<&String> = self.scopes.iter().flat_map(|scope| &scope.namespaces).collect();
        let everywhere = self.scopes.iter().any(|scope| scope.namespaces.is_empty());
        let few = !everywhere && namespaces.len() <= NAMESPACES_MAX;
        // A field that the API server does not judge is judged here, and that takes the body.
        let judged = |field: &(String, String)| fields.contains(field) || is_metadata_field(&field.0);
        let bare = |scope: &Scope| scope.metadata_only && scope.fields.iter().all(judged);
        Wire {
            labels,
            namespaces: namespaces.into_iter().filter(|_| few).cloned().collect(),
            metadata_only: self.scopes.iter().all(bare),
            fields,
        }
    }

    fn add(&mut self, scope: Scope) {
        if self.scopes.iter().any(|known| known.covers(&scope)) {
            return;
        }
        self.scopes.retain(|known| !scope.covers(known));
        self.scopes.push(scope);
        self.scopes.sort_unstable();
    }
}

/// What all of `others` demand of this label as well: its value, or that it is there.
fn shared(label: &Requirement, others: &[Scope]) -> Option<Requirement> {
    let (key, value) = label;
    if others.iter().all(|scope| scope.labels.contains(label)) {
        return Some((key.clone(), value.clone()));
    }
    let demanded = others.iter().all(|scope| scope.labels.iter().any(|(name, _)| name == key));
    demanded.then(|| (key.clone(), None))
}

/// One need for each kind in the manifests. Children are looked for in `namespaces`, if there are any: a plugin that
/// comes to want less may have left some where it looks no more.
pub(crate) fn needs<'a>(
    plugins: impl Iterator<Item = (&'a PluginName, &'a Manifest)>,
    host_namespace: &str,
    namespaces: &[String],
) -> BTreeMap<Gvk, Need> {
    let mut needs: BTreeMap<Gvk, Need> = BTreeMap::new();
    let ours = Scope::of_labels([(LABEL_HOST.to_owned(), host_namespace.to_owned())]);
    let ours = Scope { namespaces: namespaces.to_vec(), ..ours };
    for (plugin, manifest) in plugins {
        let mut of = |kind: &Gvk, scope: &Scope| {
            let need = needs.entry(kind.clone()).or_default();
            need.users.insert(plugin.clone());
            for (path, value) in &scope.fields {
                need.by_field.insert((path.clone(), value.clone(), plugin.clone()));
            }
            need.add(scope.clone());
        };
        of(&manifest.primary, &manifest.selects);
        manifest.children.iter().for_each(|child| of(&child.kind, &ours));
        manifest.reads.iter().for_each(|read| of(&read.kind, &read.scope));
        for child in &manifest.children {
            needs.entry(child.kind.clone()).or_default().child_of.insert(plugin.clone());
        }
        let primary = needs.entry(manifest.primary.clone()).or_default();
        primary.primary_of.insert(plugin.clone(), manifest.selects.clone());
    }
    needs
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use windlass_core::manifest::{ChildRule, ReadRule, Unwanted};

    pub(crate) fn gvk(text: &str) -> Gvk {
        text.parse().expect("valid")
    }

    pub(crate) fn manifest(
        name: &str,
        primary: &str,
        children: &[&str],
        reads: &[(&str, &[(&str, &str)])],
    ) -> Manifest {
        let scope = |labels: &[(&str, &str)]| {
            Scope::of_labels(labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
        };
        Manifest {
            name: PluginName::try_new(name).expect("valid"),
            version: "1".into(),
            primary: gvk(primary),
            children: children
                .iter()
                .map(|kind| ChildRule { kind: gvk(kind), unwanted: Unwanted::Delete })
                .collect(),
            selects: Scope::default(),
            reads: reads
                .iter()
                .map(|(kind, labels)| ReadRule { kind: gvk(kind), scope: scope(labels) })
                .collect(),
            strict: true,
            finalizes: false,
        }
    }

    fn selector(manifests: &[Manifest], kind: &str) -> String {
        need(manifests, kind).wire().to_string()
    }

    fn need(manifests: &[Manifest], kind: &str) -> Need {
        needs(manifests.iter().map(|m| (&m.name, m)), "sys", &[]).remove(&gvk(kind)).expect("needed")
    }

    /// A plugin that reads Pods: with these labels (an empty value: any), in these namespaces, with these
    /// fields, and no more than their metadata.
    fn reader(
        name: &str,
        labels: &[(&str, &str)],
        namespaces: &[&str],
        fields: &[(&str, &str)],
        metadata_only: bool,
    ) -> Manifest {
        let value = |v: &str| (!v.is_empty()).then(|| v.to_owned());
        let scope = Scope {
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), value(v))).collect(),
            namespaces: namespaces.iter().map(|n| (*n).to_owned()).collect(),
            fields: fields.iter().map(|(p, v)| ((*p).to_owned(), (*v).to_owned())).collect(),
            metadata_only,
        };
        let mut reader = manifest(name, "x.dev/v1/Web", &[], &[("v1/Pod", &[])]);
        reader.reads[0].scope = scope.sorted();
        reader
    }

    #[test]
    fn a_kind_that_is_only_a_child_is_watched_by_our_label() {
        let a = manifest("a", "x.dev/v1/Web", &["v1/Service", "v1/ConfigMap"], &[]);
        let b = manifest("b", "v1/ConfigMap", &["v1/Service"], &[]);
        let all = [a, b];
        assert_eq!(selector(&all, "v1/Service"), "windlass.dev/host=sys");
        assert_eq!(selector(&all, "v1/ConfigMap"), "", "a primary kind is watched whole");
        assert_eq!(selector(&all[..1], "v1/ConfigMap"), "windlass.dev/host=sys");
    }

    #[test]
    fn reads_share_the_labels_they_have_in_common() {
        let ab = manifest("a", "x.dev/v1/Web", &[], &[("v1/Pod", &[("b", "2"), ("a", "1")])]);
        let ac = manifest("b", "x.dev/v1/Web", &[], &[("v1/Pod", &[("a", "1"), ("c", "3")])]);
        let child = manifest("c", "x.dev/v1/Web", &["v1/Pod"], &[]);
        assert_eq!(selector(std::slice::from_ref(&ab), "v1/Pod"), "a=1,b=2");
        assert_eq!(selector(&[ab.clone(), ac], "v1/Pod"), "a=1");
        assert_eq!(selector(&[ab, child], "v1/Pod"), "");
    }

    #[test]
    fn the_union_of_scopes_is_asked_for_as_narrowly_as_one_request_can_be() {
        let plain = || reader("a", &[("a", "1")], &["x"], &[("spec.n", "1")], true);
        assert_eq!(selector(&[plain()], "v1/Pod"), "a=1 in namespace x where spec.n=1, metadata only");
        for (other, union) in [
            (
                reader("b", &[("a", "1")], &["x"], &[("spec.n", "1")], false),
                "a=1 in namespace x where spec.n=1",
            ),
            (reader("b", &[("a", "2")], &["x"], &[], true), "a in namespace x"),
            (
                reader("b", &[("a", "")], &["y"], &[("spec.n", "1")], true),
                "a in namespaces x, y where spec.n=1, metadata only",
            ),
            (reader("b", &[], &[], &[], true), "metadata only"),
            (reader("b", &[], &[], &[], false), ""),
            (
                reader("b", &[("c", "1")], &["x", "y"], &[("spec.n", "1"), ("spec.m", "2")], true),
                "in namespaces x, y where spec.n=1",
            ),
            (
                reader("b", &[("c", "1")], &["x"], &[("spec.n", "1"), ("metadata.name", "p")], true),
                "in namespace x where spec.n=1, metadata only",
            ),
            (
                reader("b", &[("a", "1"), ("b", "2")], &["x"], &[("spec.n", "1")], true),
                &selector(&[plain()], "v1/Pod"),
            ),
        ] {
            assert_eq!(selector(&[plain(), other], "v1/Pod"), union);
        }
    }

    #[test]
    fn what_only_the_union_of_selectors_brings_is_not_kept() {
        let pod = |namespace: &str, labels: &str, node: &str| {
            let text = format!(
                r#"{{"metadata":{{"name":"p","namespace":"{namespace}","labels":{{{labels}}}}},"spec":{{"nodeName":"{node}"}}}}"#
            );
            Object::parse(&gvk("v1/Pod"), &text).expect("an object")
        };
        let one = reader("a", &[("a", "1")], &["x"], &[], false);
        let two = reader("b", &[("b", "")], &["x", "y"], &[("spec.nodeName", "n")], true);
        let need = need(&[one, two], "v1/Pod");
        assert_eq!(need.wire().to_string(), "in namespaces x, y");
        for (object, kept) in [
            (pod("x", r#""a":"1""#, ""), true),
            (pod("y", r#""a":"1""#, "n"), false),
            (pod("y", r#""b":"7""#, "n"), true),
            (pod("y", r#""b":"7""#, "m"), false),
            (pod("z", r#""a":"1","b":"7""#, "n"), false),
        ] {
            assert_eq!(need.admits(&object), kept, "{}", object.json());
        }
        let fields: Vec<_> =
            need.by_field.iter().map(|(path, _, plugin)| (path.as_str(), plugin.as_str())).collect();
        assert_eq!(fields, [("spec.nodeName", "b")]);
    }

    #[test]
    fn a_host_of_a_few_namespaces_asks_for_no_more_than_those() {
        let served = ["x".to_owned(), "y".to_owned()];
        let plain = manifest("a", "x.dev/v1/Web", &["v1/Service"], &[]).within(&served).expect("all of them");
        let narrow = reader("b", &[], &["y"], &[], false).within(&served).expect("one of them");
        let all = [plain, narrow];
        let needs = needs(all.iter().map(|m| (&m.name, m)), "sys", &served);
        let asked = |kind: &str| needs[&gvk(kind)].wire().to_string();
        assert_eq!(asked("x.dev/v1/Web"), "in namespaces x, y");
        assert_eq!(asked("v1/Service"), "windlass.dev/host=sys in namespaces x, y");
        assert_eq!(asked("v1/Pod"), "in namespace y");
        let outside = reader("c", &[], &["z"], &[], false).within(&served).expect_err("not served");
        assert!(outside.message.contains("reads[0].namespaces: z; this host serves x, y only"), "{outside}");
    }

    #[test]
    fn many_namespaces_are_watched_as_all() {
        let names: Vec<String> = (0..=NAMESPACES_MAX).map(|n| format!("n{n:02}")).collect();
        let (first, last) = names.split_at(NAMESPACES_MAX);
        let scope = |names: &[String]| Scope { namespaces: names.to_vec(), ..Scope::default() };
        let mut need = Need::default();
        need.add(scope(first));
        assert_eq!(need.wire().namespaces, first);
        need.add(scope(last));
        assert_eq!(need.wire().namespaces, [""; 0]);
    }

    #[test]
    fn a_kind_that_is_made_and_read_by_label_is_not_kept_whole() {
        let both = manifest("a", "x.dev/v1/Web", &["v1/ConfigMap"], &[("v1/ConfigMap", &[("t", "1")])]);
        let need = need(&[both], "v1/ConfigMap");
        let config_map = |labels: &str| {
            let text = format!(r#"{{"metadata":{{"name":"c","namespace":"n","labels":{{{labels}}}}}}}"#);
            Object::parse(&gvk("v1/ConfigMap"), &text).expect("an object")
        };
        assert_eq!(need.wire().to_string(), "");
        assert!(need.admits(&config_map(r#""windlass.dev/host":"sys""#)));
        assert!(need.admits(&config_map(r#""t":"1""#)));
        assert!(!need.admits(&config_map(r#""t":"2""#)));
    }

    #[test]
    fn a_need_covers_what_asks_for_less() {
        let need = |labels: &[(&str, &str)]| need(&[reader("a", labels, &[], &[], false)], "v1/Pod");
        assert!(need(&[]).covers(&need(&[("a", "1")])));
        assert!(need(&[("a", "1")]).covers(&need(&[("a", "1"), ("b", "2")])));
        assert!(!need(&[("a", "1")]).covers(&need(&[])));
        assert!(!need(&[("a", "1")]).covers(&need(&[("a", "2")])));
        let bare = super::tests::need(&[reader("a", &[], &[], &[], true)], "v1/Pod");
        assert!(
            need(&[]).covers(&bare) && !bare.covers(&need(&[])),
            "a body that was not asked for is not there"
        );
    }
}

//! What all plugins together need to watch: pure, from manifests to one need a kind.

use std::collections::{BTreeMap, BTreeSet};

use windlass_core::kind::Gvk;
use windlass_core::manifest::Manifest;
use windlass_core::name::{LABEL_HOST, PluginName};

use crate::selection::Labels;

/// What is needed of one kind, and by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// Labels that every needed object carries, sorted; none: all are needed.
    pub(crate) labels: Labels,
    /// Plugins whose primary kind it is.
    pub(crate) primary_of: BTreeSet<PluginName>,
    /// Plugins that may create it.
    pub(crate) child_of: BTreeSet<PluginName>,
    /// Plugins that need it in any way.
    pub(crate) users: BTreeSet<PluginName>,
}

impl Need {
    /// Whether whatever `other` selects is selected here too.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.labels.iter().all(|label| other.labels.contains(label))
    }
}

/// One need for each kind in the manifests. Several needs of a kind are served by
/// the labels that they have in common: the narrowest selector that misses none.
pub(crate) fn needs<'a>(
    plugins: impl Iterator<Item = (&'a PluginName, &'a Manifest)>,
    host_namespace: &str,
) -> BTreeMap<Gvk, Need> {
    let mut needs = BTreeMap::new();
    let ours: Labels = vec![(LABEL_HOST.to_owned(), host_namespace.to_owned())];
    for (plugin, manifest) in plugins {
        let need = add(&mut needs, &manifest.primary, plugin, &[]);
        need.primary_of.insert(plugin.clone());
        for child in &manifest.children {
            let need = add(&mut needs, &child.kind, plugin, &ours);
            need.child_of.insert(plugin.clone());
        }
        for read in &manifest.reads {
            add(&mut needs, &read.kind, plugin, &read.labels);
        }
    }
    needs
}

fn add<'n>(
    needs: &'n mut BTreeMap<Gvk, Need>,
    gvk: &Gvk,
    plugin: &PluginName,
    labels: &[(String, String)],
) -> &'n mut Need {
    let need = needs.entry(gvk.clone()).or_default();
    if need.users.is_empty() {
        need.labels = labels.to_vec();
        need.labels.sort();
        need.labels.dedup();
    } else {
        need.labels.retain(|label| labels.contains(label));
    }
    need.users.insert(plugin.clone());
    need
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
        let owned =
            |labels: &[(&str, &str)]| labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Manifest {
            name: PluginName::try_new(name).expect("valid"),
            version: "1".into(),
            primary: gvk(primary),
            children: children
                .iter()
                .map(|kind| ChildRule { kind: gvk(kind), unwanted: Unwanted::Delete })
                .collect(),
            reads: reads
                .iter()
                .map(|(kind, labels)| ReadRule { kind: gvk(kind), labels: owned(labels) })
                .collect(),
            finalizes: false,
        }
    }

    fn selector(manifests: &[Manifest], kind: &str) -> String {
        let needs = needs(manifests.iter().map(|m| (&m.name, m)), "sys");
        crate::selection::selector_text(&needs[&gvk(kind)].labels, &[])
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
    fn a_need_covers_what_asks_for_more_labels() {
        let need = |labels: &[(&str, &str)]| Need {
            labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ..Need::default()
        };
        assert!(need(&[]).covers(&need(&[("a", "1")])));
        assert!(need(&[("a", "1")]).covers(&need(&[("a", "1"), ("b", "2")])));
        assert!(!need(&[("a", "1")]).covers(&need(&[])));
        assert!(!need(&[("a", "1")]).covers(&need(&[("a", "2")])));
    }
}

//! The rights that a manifest needs, as RBAC: exactly those, and nothing that a
//! plugin could name itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use windlass_core::kind::Gvk;
use windlass_core::manifest::Manifest;

/// What the plugin's account may do with children: the host creates, applies and prunes them in its name.
const CHILD_VERBS: &str = "create, delete, get, patch";
/// What the host needs of every kind that the plugin names.
const HOST_VERBS: &str = "get, list, watch";

/// ServiceAccount, ClusterRoles and ClusterRoleBinding of a plugin, as YAML.
///
/// `plurals` has the plurals of the kinds that the plugin brings itself; those of
/// the kinds that Kubernetes brings follow from their names.
pub(crate) fn yaml(manifest: &Manifest, plurals: &BTreeMap<Gvk, String>) -> String {
    let name = &manifest.name;
    let plural = |gvk: &Gvk| plurals.get(gvk).cloned().unwrap_or_else(|| plural(&gvk.kind));
    let primary = plural(&manifest.primary);
    let group = &*manifest.primary.group;
    let mut writes = String::new();
    if is_built_in(group) && !manifest.finalizes {
        // Everybody's kind, with a controller of its own: who may patch a Namespace or its status may
        // relabel it. Whoever does want a status there grants that by hand.
        push(&mut writes, group, &primary, "get");
    } else {
        push(&mut writes, group, &primary, "get, patch");
        push(&mut writes, group, &format!("{primary}/status"), "patch");
    }
    push(&mut writes, group, &format!("{primary}/finalizers"), "update");
    for child in &manifest.children {
        push(&mut writes, &child.kind.group, &plural(&child.kind), CHILD_VERBS);
    }
    push(&mut writes, "", "events", "create, patch");
    let kinds = std::iter::once(&manifest.primary)
        .chain(manifest.children.iter().map(|c| &c.kind))
        .chain(manifest.reads.iter().map(|r| &r.kind));
    let mut reads = String::new();
    for gvk in kinds.collect::<std::collections::BTreeSet<_>>() {
        push(&mut reads, &gvk.group, &plural(gvk), HOST_VERBS);
    }
    format!(
        "# Written by `cargo xtask plugin`; do not edit.
# The account that the plugin's writes are made as, and what it may do.
apiVersion: v1
kind: ServiceAccount
metadata:
  name: plugin-{name}
  namespace: windlass-system
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: windlass-plugin-{name}
rules:
{writes}---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: windlass-plugin-{name}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: windlass-plugin-{name}
subjects:
  - kind: ServiceAccount
    name: plugin-{name}
    namespace: windlass-system
---
# What the host watches for it; added to the host's own ClusterRole by the label.
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: windlass-plugin-{name}-watches
  labels:
    windlass.dev/aggregate-to-host: \"true\"
rules:
{reads}"
    )
}

fn push(rules: &mut String, group: &str, resource: &str, verbs: &str) {
    let group = if group.is_empty() { "\"\"" } else { group };
    writeln!(rules, "  - apiGroups: [{group}]\n    resources: [{resource}]\n    verbs: [{verbs}]")
        .expect("writing to a String cannot fail");
}

/// Whether the kinds of this group come with Kubernetes.
fn is_built_in(group: &str) -> bool {
    !group.contains('.') || group.ends_with(".k8s.io")
}

/// The plural that Kubernetes' own kinds have: the lower-case kind in English.
fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    match kind.as_str() {
        "endpoints" => kind,
        k if k.ends_with(['s', 'x']) || k.ends_with("ch") || k.ends_with("sh") => format!("{kind}es"),
        k if k.ends_with('y') && !k.ends_with("ey") && !k.ends_with("ay") => {
            format!("{}ies", &kind[..kind.len() - 1])
        }
        _ => format!("{kind}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_core::name::PluginName;

    fn rights(primary: &str, finalizes: bool) -> String {
        let manifest = Manifest {
            name: PluginName::try_new("p").expect("valid"),
            version: "1".into(),
            primary: primary.parse().expect("a kind"),
            children: Vec::new(),
            reads: Vec::new(),
            selects: windlass_core::scope::Scope::default(),
            strict: true,
            finalizes,
        };
        yaml(&manifest, &BTreeMap::new())
    }

    #[test]
    fn a_built_in_primary_is_patched_only_by_a_plugin_that_keeps_a_finalizer_on_it() {
        for (primary, finalizes, patches) in [
            ("v1/Namespace", false, false),
            ("v1/Namespace", true, true),
            ("networking.k8s.io/v1/Ingress", false, false),
            ("apps.example.com/v1/WebApp", false, true),
        ] {
            let text = rights(primary, finalizes);
            assert_eq!(text.contains("verbs: [get, patch]"), patches, "{primary} {finalizes}");
            assert_eq!(text.contains("/status]"), patches, "{primary} {finalizes}");
            assert!(text.contains("/finalizers]"), "an owner reference that blocks needs it");
        }
    }

    #[test]
    fn the_plurals_of_kubernetes_kinds_follow_from_their_names() {
        for (kind, expected) in [
            ("Deployment", "deployments"),
            ("Ingress", "ingresses"),
            ("NetworkPolicy", "networkpolicies"),
            ("PodDisruptionBudget", "poddisruptionbudgets"),
            ("Endpoints", "endpoints"),
            ("StorageClass", "storageclasses"),
            ("Gateway", "gateways"),
        ] {
            assert_eq!(plural(kind), expected);
        }
    }
}

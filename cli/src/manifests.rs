//! Rights as YAML that people read before they apply it.

use std::borrow::Cow;
use std::fmt::Write as _;

use windlass_core::manifest::Manifest;

use crate::place::{HOST_NAMESPACE, Place};
use crate::rights::{Rights, Rule, account};

/// First line of each file that is written here; a file without it is somebody's own.
pub const MARK: &str = "# Written by `kubectl windlass`; do not edit.";

/// Where a comment ends at the latest, in characters.
const WIDTH: usize = 112;

/// What a role is for, and whom it is bound to.
struct Role<'a> {
    /// Part of its name.
    what: &'static str,
    why: &'a str,
    rules: &'a [Rule],
    /// Name and namespace of the account that it is bound to.
    to: (&'a str, &'a str),
    /// The label's value by which the host's own ClusterRole takes in its rules; then it is bound to nobody by itself.
    aggregated: Option<&'a str>,
}

/// Account, roles and bindings of a plugin, as YAML: ClusterRoles, or Roles in each of the place's
/// namespaces.
pub fn rights(manifest: &Manifest, rights: &Rights, place: &Place) -> String {
    let Place { host_namespace, host_account, namespaces } = place;
    let account = account(manifest);
    // As deploy/components/other-namespace names the hosts beside the usual one.
    let of_host = if host_namespace == HOST_NAMESPACE { "true" } else { host_namespace };
    let mut yaml = format!("{MARK}\n");
    comment(
        &mut yaml,
        "",
        "The account that the plugin's writes are made as. It has no token: nobody can log in as it.",
    );
    write_str(
        &mut yaml,
        &format!(
            "apiVersion: v1
kind: ServiceAccount
metadata:
  name: {account}
  namespace: {}
automountServiceAccountToken: false
",
            scalar(host_namespace)
        ),
    );
    let acts_as = Role {
        what: "impersonate",
        why: "As whom the host may act for this plugin: this account, in this namespace, and nobody else.",
        rules: std::slice::from_ref(&rights.acts_as),
        to: (host_account, host_namespace),
        aggregated: None,
    };
    let writes = Role {
        what: "plugin",
        why: "What the plugin may write, whatever it decides.",
        rules: &rights.plugin,
        to: (&account, host_namespace),
        aggregated: None,
    };
    let reads = Role {
        what: "watches",
        why: "What the host reads for the plugin.",
        rules: &rights.host,
        to: (host_account, host_namespace),
        aggregated: namespaces.is_empty().then_some(of_host),
    };
    let name = |role: &Role<'_>| place.role(role.what, &manifest.name);
    // In the host's own namespace there are only its own.
    let own = format!("windlass-{}-{}", acts_as.what, manifest.name);
    push(&mut yaml, &own, Some(host_namespace), &acts_as);
    for role in [writes, reads] {
        if namespaces.is_empty() {
            push(&mut yaml, &name(&role), None, &role);
        }
        for namespace in namespaces {
            push(&mut yaml, &name(&role), Some(namespace), &role);
        }
    }
    yaml
}

/// A role and its binding; in no namespace: a ClusterRole.
fn push(yaml: &mut String, name: &str, namespace: Option<&str>, role: &Role<'_>) {
    let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
    let place =
        namespace.map_or_else(String::new, |namespace| format!("  namespace: {}\n", scalar(namespace)));
    write_str(yaml, "---\n");
    comment(yaml, "", role.why);
    if role.aggregated.is_some() {
        comment(yaml, "", "Added to the host's own ClusterRole by the label.");
    }
    write_str(
        yaml,
        &format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata:\n  name: {name}\n{place}"
        ),
    );
    if let Some(host) = role.aggregated {
        write_str(yaml, &format!("  labels:\n    windlass.dev/aggregate-to-host: \"{host}\"\n"));
    }
    write_str(yaml, "rules:\n");
    for rule in role.rules {
        push_rule(yaml, rule);
    }
    if role.aggregated.is_some() {
        return;
    }
    let (account, of) = role.to;
    write_str(
        yaml,
        &format!(
            "---
apiVersion: rbac.authorization.k8s.io/v1
kind: {kind}Binding
metadata:
  name: {name}
{place}roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {kind}
  name: {name}
subjects:
  - kind: ServiceAccount
    name: {}
    namespace: {}
",
            scalar(account),
            scalar(of)
        ),
    );
}

fn push_rule(yaml: &mut String, rule: &Rule) {
    let group = if rule.group.is_empty() { "\"\"" } else { &rule.group };
    comment(yaml, "  ", &rule.why);
    write_str(yaml, &format!("  - apiGroups: [{group}]\n    resources: [{}]\n", rule.resource));
    if let Some(only) = &rule.only {
        write_str(yaml, &format!("    resourceNames: [{only}]\n"));
    }
    write_str(yaml, &format!("    verbs: [{}]\n", rule.verbs.join(", ")));
}

/// `text` as comment lines of at most [`WIDTH`] characters.
fn comment(yaml: &mut String, indent: &str, text: &str) {
    let mut line = format!("{indent}#");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH && line.len() > indent.len() + 1 {
            writeln!(yaml, "{line}").expect("writing to a String cannot fail");
            line = format!("{indent}#");
        }
        line.push(' ');
        line.push_str(word);
    }
    writeln!(yaml, "{line}").expect("writing to a String cannot fail");
}

/// A DNS label as YAML: in quotes where YAML would take it for a number or a truth.
pub(crate) fn scalar(label: &str) -> Cow<'_, str> {
    let is_word = label.starts_with(|first: char| first.is_ascii_lowercase());
    let means_more = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&label);
    if is_word && !means_more { Cow::Borrowed(label) } else { Cow::Owned(format!("\"{label}\"")) }
}

fn write_str(yaml: &mut String, text: &str) {
    yaml.push_str(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Kinds;
    use windlass_core::name::PluginName;
    use windlass_core::scope::Scope;

    fn yaml(place: &Place) -> String {
        let manifest = Manifest {
            name: PluginName::try_new("p").expect("valid"),
            version: "1".into(),
            primary: "apps/v1/Deployment".parse().expect("a kind"),
            children: Vec::new(),
            reads: Vec::new(),
            selects: Scope::default(),
            strict: true,
            finalizes: true,
        };
        let needed = Rights::of(&manifest, &Kinds::default()).expect("known");
        rights(&manifest, &needed, place)
    }

    /// `<kind> <namespace>/<name>` of each document, in order.
    fn documents(yaml: &str) -> Vec<String> {
        let of = |document: &str| {
            let field = |name: &str| {
                let line = document.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or_default().to_owned()
            };
            format!("{} {}/{}", field("kind: "), field("  namespace: "), field("  name: "))
        };
        yaml.split("---\n").map(of).collect()
    }

    #[test]
    fn a_package_for_namespaces_has_no_right_of_the_cluster() {
        let place = Place { namespaces: vec!["a".into(), "b".into()], ..Place::default() };
        assert_eq!(
            documents(&yaml(&place)),
            [
                "ServiceAccount windlass-system/plugin-p",
                "Role windlass-system/windlass-impersonate-p",
                "RoleBinding windlass-system/windlass-impersonate-p",
                "Role a/windlass-plugin-p",
                "RoleBinding a/windlass-plugin-p",
                "Role b/windlass-plugin-p",
                "RoleBinding b/windlass-plugin-p",
                "Role a/windlass-watches-p",
                "RoleBinding a/windlass-watches-p",
                "Role b/windlass-watches-p",
                "RoleBinding b/windlass-watches-p",
            ]
        );
    }

    #[test]
    fn a_package_for_the_cluster_and_another_host_says_so_in_every_place() {
        let place = Place { host_namespace: "ops".into(), host_account: "w".into(), ..Place::default() };
        let yaml = yaml(&place);
        assert_eq!(
            documents(&yaml),
            [
                "ServiceAccount ops/plugin-p",
                "Role ops/windlass-impersonate-p",
                "RoleBinding ops/windlass-impersonate-p",
                "ClusterRole /windlass-plugin-p.ops",
                "ClusterRoleBinding /windlass-plugin-p.ops",
                "ClusterRole /windlass-watches-p.ops",
            ]
        );
        assert!(!yaml.contains("windlass-system"), "{yaml}");
        assert!(yaml.contains("name: w\n    namespace: ops\n"), "{yaml}");
        assert!(yaml.contains("windlass.dev/aggregate-to-host: \"ops\"\n"), "{yaml}");
    }

    #[test]
    fn a_namespace_that_looks_like_a_number_stays_a_name() {
        let place = Place { namespaces: vec!["123".into()], host_namespace: "no".into(), ..Place::default() };
        let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&yaml(&place)).expect("YAML");
        for document in documents {
            let namespace = document["metadata"]["namespace"].as_str().expect("a text").to_owned();
            assert!(["123", "no"].contains(&&*namespace), "{namespace}");
        }
    }

    #[test]
    fn comments_are_broken_between_words() {
        let mut yaml = String::new();
        comment(&mut yaml, "  ", &"word ".repeat(40));
        assert!(yaml.lines().count() > 1);
        for line in yaml.lines() {
            assert!(line.starts_with("  # word") && line.len() <= WIDTH, "{line}");
        }
    }
}

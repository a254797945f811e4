//! The rights that a manifest needs: exactly those, each with the reason why it is there, and nothing that
//! a plugin could name itself.
//!
//! Three parties get some. The plugin's own account may write what the plugin decides, and reads nothing:
//! the host reads for it. The host's account may watch what the manifest names. And it may act as the
//! plugin's account, this one and no other.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use windlass_core::kind::Gvk;
use windlass_core::manifest::{Manifest, Unwanted};

use crate::kinds::{Kinds, UnknownKind};
use crate::place::Place;

/// One rule of a role: one resource, and what may be done with it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Rule {
    /// API group; empty for the core group.
    pub group: String,
    /// Plural, with a subresource where it is about one.
    pub resource: String,
    /// Only the object of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only: Option<String>,
    /// The verbs, sorted.
    pub verbs: &'static [&'static str],
    /// Why it is there: one or more sentences, without a line break.
    pub why: String,
}

/// All rights of one plugin.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Rights {
    /// What the plugin's account may write.
    pub plugin: Vec<Rule>,
    /// What the host's account may read for it.
    pub host: Vec<Rule>,
    /// As whom the host's account may act.
    pub acts_as: Rule,
}

/// Everything that the kinds of a manifest need to be known for, each once, sorted.
pub(crate) fn kinds_of(manifest: &Manifest) -> BTreeSet<&Gvk> {
    let children = manifest.children.iter().map(|child| &child.kind);
    let reads = manifest.reads.iter().map(|read| &read.kind);
    std::iter::once(&manifest.primary).chain(children).chain(reads).collect()
}

impl Rights {
    /// What `manifest` needs.
    ///
    /// # Errors
    /// [`UnknownKind`], the first of them, when the plural of a kind is not known.
    pub fn of(manifest: &Manifest, kinds: &Kinds) -> Result<Self, UnknownKind> {
        let mut plugin = primary(manifest, kinds)?;
        for child in &manifest.children {
            let plural = kinds.facts(&child.kind)?.plural;
            let why = match child.unwanted {
                Unwanted::Delete => "A child: made, kept as decided, and deleted when it is no longer wanted.".to_owned(),
                Unwanted::Orphan => "A child: made, kept as decided, and let go when it is no longer wanted. It is never deleted; the \
                                     right to do so is what OwnerReferencesPermissionEnforcement asks of whoever takes an owner off."
                    .to_owned(),
            };
            plugin.push(rule(&child.kind, &plural, &["create", "delete", "patch"], why));
        }
        let why =
            "Events on the plugin's objects: what it has to say, and why it could not decide.".to_owned();
        plugin.push(Rule {
            group: String::new(),
            resource: "events".to_owned(),
            only: None,
            verbs: &["create", "patch"],
            why,
        });
        let host = kinds_of(manifest).into_iter().map(|gvk| {
            Ok(rule(gvk, &kinds.facts(gvk)?.plural, &["get", "list", "watch"], why_read(manifest, gvk)))
        });
        Ok(Self {
            plugin,
            host: host.collect::<Result<_, UnknownKind>>()?,
            acts_as: Rule {
                group: String::new(),
                resource: "serviceaccounts".to_owned(),
                only: Some(account(manifest)),
                verbs: &["impersonate"],
                why: "Each write that the plugin decides is sent by the host as this account.".to_owned(),
            },
        })
    }
}

/// The account that a plugin's writes are made as.
pub(crate) fn account(manifest: &Manifest) -> String {
    format!("plugin-{}", manifest.name)
}

/// Whether the plugin can be packaged for single namespaces.
///
/// # Errors
/// When one of its kinds is in no namespace, when nobody knows, or when it looks elsewhere: with all that
/// is in the way.
pub(crate) fn fits_namespaces(manifest: &Manifest, kinds: &Kinds, place: &Place) -> Result<()> {
    let namespaces = &place.namespaces;
    if namespaces.is_empty() {
        return Ok(());
    }
    let mut found = Vec::new();
    for gvk in kinds_of(manifest) {
        let what = what(manifest, gvk);
        match kinds.is_namespaced(gvk) {
            Ok(true) => {}
            Ok(false) => {
                found.push(format!("{what} {gvk} is in no namespace: rights to it need a ClusterRole"))
            }
            Err(unknown) => found.push(unknown.to_string()),
        }
    }
    found.extend(manifest.clone().within(namespaces).err().map(|refusal| refusal.to_string()));
    if found.is_empty() {
        return Ok(());
    }
    bail!("no package for the namespace {} alone:\n  {}", namespaces.join(", "), found.join("\n  "))
}

fn primary(manifest: &Manifest, kinds: &Kinds) -> Result<Vec<Rule>, UnknownKind> {
    let facts = kinds.facts(&manifest.primary)?;
    let one = |resource: String, verbs, why: String| rule(&manifest.primary, &resource, verbs, why);
    let mut rules = Vec::new();
    let finalizer = manifest.name.finalizer();
    // Everybody's kind, with a controller of its own: who may patch a Namespace or its status may relabel
    // it. Whoever does want a status there grants that by hand.
    if manifest.finalizes || !facts.built_in {
        let why = if manifest.finalizes {
            format!(
                "What the plugin reconciles. The host keeps the finalizer {finalizer} on it, for the plugin's clean-up."
            )
        } else {
            format!(
                "What the plugin reconciles. Used only to take off {finalizer}, should an earlier version of the plugin have kept that finalizer."
            )
        };
        rules.push(one(facts.plural.clone(), &["patch"], why));
        if facts.has_status != Some(false) {
            let why = "The status that the plugin decides.".to_owned();
            rules.push(one(format!("{}/status", facts.plural), &["patch"], why));
        }
    }
    if !manifest.children.is_empty() {
        let why = "Children name it as their owner and delay its deletion until they are gone; where \
                   OwnerReferencesPermissionEnforcement is on, that needs this right. It allows nothing else."
            .to_owned();
        rules.push(one(format!("{}/finalizers", facts.plural), &["update"], why));
    }
    Ok(rules)
}

fn why_read(manifest: &Manifest, gvk: &Gvk) -> String {
    let read = manifest.reads.iter().find(|read| read.kind == *gvk);
    let child = manifest.child(gvk).is_some();
    if *gvk == manifest.primary {
        return "What the plugin reconciles: each change of it is followed.".to_owned();
    }
    match (child, read) {
        (true, None) => "A child: what others change is put back.".to_owned(),
        (_, Some(read)) => {
            let also =
                if child { "A child that the plugin also reads from others" } else { "The plugin reads it" };
            format!("{also}: {}.", read.scope)
        }
        (false, None) => String::new(),
    }
}

fn what(manifest: &Manifest, gvk: &Gvk) -> &'static str {
    if *gvk == manifest.primary {
        "the primary"
    } else if manifest.child(gvk).is_some() {
        "the child"
    } else {
        "the read"
    }
}

fn rule(gvk: &Gvk, resource: &str, verbs: &'static [&'static str], why: String) -> Rule {
    Rule { group: gvk.group.to_string(), resource: resource.to_owned(), only: None, verbs, why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_core::manifest::ChildRule;
    use windlass_core::name::PluginName;
    use windlass_core::scope::Scope;

    fn manifest(primary: &str, finalizes: bool) -> Manifest {
        let kind: Gvk = "v1/ConfigMap".parse().expect("a kind");
        Manifest {
            name: PluginName::try_new("p").expect("valid"),
            version: "1".into(),
            primary: primary.parse().expect("a kind"),
            children: vec![ChildRule { kind, unwanted: Unwanted::Delete }],
            reads: Vec::new(),
            selects: Scope::default(),
            strict: true,
            finalizes,
        }
    }

    fn kinds() -> Kinds {
        let mut kinds = Kinds::default();
        kinds.learn_plural(&"apps.example.com/WebApp=webapps".parse().expect("a plural"));
        kinds
    }

    /// `<resource> <verbs>` of the plugin's rules.
    fn writes(manifest: &Manifest) -> Vec<String> {
        let rights = Rights::of(manifest, &kinds()).expect("known");
        rights.plugin.iter().map(|rule| format!("{} {}", rule.resource, rule.verbs.join(","))).collect()
    }

    #[test]
    fn a_built_in_primary_is_patched_only_by_a_plugin_that_keeps_a_finalizer_on_it() {
        for (primary, finalizes, patches) in [
            ("v1/Namespace", false, None),
            ("v1/Namespace", true, Some("namespaces")),
            ("networking.k8s.io/v1/Ingress", false, None),
            ("apps.example.com/v1/WebApp", false, Some("webapps")),
        ] {
            let writes = writes(&manifest(primary, finalizes));
            let patched: Vec<_> = writes.iter().filter(|w| w.ends_with(" patch")).cloned().collect();
            let expected =
                patches.map_or(Vec::new(), |p| vec![format!("{p} patch"), format!("{p}/status patch")]);
            assert_eq!(patched, expected, "{primary} {finalizes}");
            assert!(
                writes.iter().any(|w| w.ends_with("/finalizers update")),
                "an owner reference that blocks needs it"
            );
        }
    }

    #[test]
    fn who_makes_nothing_needs_no_right_to_own() {
        let childless = Manifest { children: Vec::new(), ..manifest("v1/Namespace", false) };
        assert_eq!(writes(&childless), ["events create,patch"]);
    }

    #[test]
    fn a_status_that_the_crd_does_not_have_is_not_granted() {
        let mut kinds = Kinds::default();
        let crd = "{kind: CustomResourceDefinition, spec: {group: apps.example.com, scope: Namespaced, \
                   names: {kind: WebApp, plural: webapps}, versions: [{name: v1}]}}";
        kinds.learn_crds(crd).expect("a CRD");
        let rights = Rights::of(&manifest("apps.example.com/v1/WebApp", false), &kinds).expect("known");
        assert!(!rights.plugin.iter().any(|rule| rule.resource == "webapps/status"));
    }

    #[test]
    fn the_host_may_act_as_one_account_and_the_plugin_may_read_nothing() {
        let rights = Rights::of(&manifest("v1/Namespace", true), &kinds()).expect("known");
        assert_eq!(rights.acts_as.only.as_deref(), Some("plugin-p"));
        for rule in &rights.plugin {
            assert!(!rule.verbs.iter().any(|verb| ["get", "list", "watch"].contains(verb)), "{rule:?}");
        }
        for rule in rights.plugin.iter().chain(&rights.host) {
            assert!(rule.why.ends_with('.') && !rule.why.contains('\n'), "{rule:?}");
        }
    }

    #[test]
    fn a_package_for_a_namespace_is_refused_with_all_that_is_in_the_way() {
        let at = |namespace: &str| Place { namespaces: vec![namespace.into()], ..Place::default() };
        let fits = |manifest: &Manifest, namespace: &str| {
            fits_namespaces(manifest, &kinds(), &at(namespace)).map_err(|error| error.to_string())
        };
        let error = fits(&manifest("v1/Namespace", false), "shop").expect_err("of the cluster");
        assert!(error.contains("the primary v1/Namespace is in no namespace"), "{error}");
        let error = fits(&manifest("apps.example.com/v1/WebApp", false), "shop").expect_err("nobody knows");
        assert!(error.contains("--namespaced-kind apps.example.com/WebApp"), "{error}");
        let mut elsewhere = manifest("apps/v1/Deployment", false);
        assert_eq!(fits(&elsewhere, "shop"), Ok(()));
        elsewhere.selects.namespaces = vec!["other".into()];
        let error = fits(&elsewhere, "shop").expect_err("nothing is selected");
        assert!(error.contains("E182 OutsideNamespaces: primary.namespaces: other"), "{error}");
        assert_eq!(fits(&elsewhere, "other"), Ok(()));
        let cluster = Place::default();
        assert!(fits_namespaces(&manifest("v1/Namespace", false), &kinds(), &cluster).is_ok());
    }
}

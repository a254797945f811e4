//! What a plugin is, as the reconciler attribute puts it together.

use crate::{Decision, Kind, Object, Value};

/// What a plugin is. `#[windlass::reconciler]` makes one named `MANIFEST` beside the function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Name of the plugin: a DNS label of at most 40 bytes.
    pub name: &'static str,
    /// Semantic version of the plugin, at most 64 bytes; shown, never compared.
    pub version: &'static str,
    /// What it reconciles.
    pub primary: Kind,
    /// Which objects of that kind: by labels and namespaces.
    pub selects: Scope,
    /// Kinds that it may create, at most 32.
    pub children: &'static [Child],
    /// Further kinds that it may look at, at most 32.
    pub reads: &'static [Read],
    /// Whether it has a finalize step.
    pub finalizes: bool,
}

/// A kind that a reconciler may create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Which kind.
    pub kind: Kind,
    /// What becomes of such a child when it is no longer wanted.
    pub unwanted: Unwanted,
}

/// What becomes of a child that a later decision no longer contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwanted {
    /// It is deleted.
    Delete,
    /// It is left in place and forgotten.
    Orphan,
}

/// A kind that a reconciler may look at through the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Which kind.
    pub kind: Kind,
    /// Which of its objects, and how much of each.
    pub scope: Scope,
}

/// Which objects of a kind a reconciler looks at, and how much of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// Labels that an object must carry, at most 16: a key, and its value unless any will do.
    pub labels: &'static [(&'static str, Option<&'static str>)],
    /// Namespaces, at most 16; none: all.
    pub namespaces: &'static [&'static str],
    /// Values that an object must have at these paths, at most 4, as in a field selector of Kubernetes.
    pub fields: &'static [(&'static str, &'static str)],
    /// Whether only `apiVersion`, `kind` and `metadata` are seen.
    pub metadata_only: bool,
}

impl Scope {
    /// All of every object.
    pub const ALL: Self = Self { labels: &[], namespaces: &[], fields: &[], metadata_only: false };

    /// Whether the object is selected, as the host judges it.
    #[must_use]
    pub fn selects(&self, object: &Object) -> bool {
        self.reaches(object.namespace())
            && self.labels.iter().all(|(key, wanted)| {
                object.label(key).is_some_and(|value| wanted.is_none_or(|wanted| wanted == value))
            })
            && self.fields.iter().all(|(path, wanted)| field(object, path) == **wanted)
    }

    /// Whether objects with this label can be among those that it selects.
    #[must_use]
    pub fn allows_label(&self, key: &str, value: &str) -> bool {
        self.labels.iter().all(|(name, wanted)| *name != key || wanted.is_none_or(|wanted| wanted == value))
    }

    /// Whether it selects anything in this namespace.
    #[must_use]
    pub fn reaches(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(&namespace)
    }
}

/// The value at a path as text; what is absent or false is empty or `false`, whichever is asked for.
fn field(object: &Object, path: &str) -> FieldText {
    let mut value = object.as_value();
    for name in path.split('.') {
        value = &value[name];
    }
    FieldText(match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        _ => None,
    })
}

struct FieldText(Option<String>);

impl PartialEq<str> for FieldText {
    fn eq(&self, wanted: &str) -> bool {
        self.0.as_deref().map_or(matches!(wanted, "" | "false"), |value| value == wanted)
    }
}

impl Manifest {
    /// Checks a decision for what the host would refuse; for tests.
    ///
    /// # Errors
    /// One sentence about the first child that is of a kind not among the children, has no name,
    /// or is wanted twice.
    pub fn check(&self, decision: &Decision) -> Result<(), String> {
        for (index, child) in decision.children.iter().enumerate() {
            let shown = format!("{} {}", child.kind(), child.name());
            let Some(known) = self.children.iter().find(|each| each.kind.matches(child)) else {
                return Err(format!(
                    "child {index} is {}/{}, which is not among the children of {}",
                    child.api_version(),
                    shown,
                    self.name
                ));
            };
            if child.name().is_empty() {
                return Err(format!("child {index}, {shown}, has no name"));
            }
            let twice = decision.children[..index].iter().any(|other| {
                known.kind.matches(other)
                    && (other.name(), other.namespace()) == (child.name(), child.namespace())
            });
            if twice {
                return Err(format!("child {index}, {shown}, is wanted twice"));
            }
        }
        Ok(())
    }

    /// What of this kind the cache shows: one of these selects it. Of a child's kind that is what the host's
    /// plugins have made, which carries the label `windlass.dev/host`.
    #[must_use]
    pub fn scopes(&self, kind: Kind) -> Vec<Scope> {
        let primary = (kind == self.primary).then_some(self.selects);
        let child = self.children.iter().any(|child| child.kind == kind).then_some(Scope {
            labels: &[("windlass.dev/host", None)],
            namespaces: self.selects.namespaces,
            ..Scope::ALL
        });
        let reads = self.reads.iter().filter(|read| read.kind == kind).map(|read| read.scope);
        primary.into_iter().chain(child).chain(reads).collect()
    }

    /// Whether the cache answers for this kind: the primary's, a child's or a read's.
    #[must_use]
    pub fn allows_reading(&self, kind: Kind) -> bool {
        kind == self.primary
            || self.children.iter().any(|child| child.kind == kind)
            || self.reads.iter().any(|read| read.kind == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{json, kind};

    const MANIFEST: Manifest = Manifest {
        name: "test",
        version: "0.1.0",
        primary: kind::NAMESPACE,
        selects: Scope::ALL,
        children: &[Child { kind: kind::SERVICE, unwanted: Unwanted::Delete }],
        reads: &[],
        finalizes: false,
    };

    #[test]
    fn a_scope_selects_what_the_host_would_select() {
        let pod = Object::from(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "namespace": "a", "name": "x", "labels": { "tier": "web" } },
            "spec": { "nodeName": "n", "hostNetwork": true },
        }));
        for (scope, selected) in [
            (Scope::ALL, true),
            (Scope { labels: &[("tier", None)], ..Scope::ALL }, true),
            (Scope { labels: &[("tier", Some("db"))], ..Scope::ALL }, false),
            (Scope { namespaces: &["a", "b"], ..Scope::ALL }, true),
            (Scope { namespaces: &["b"], ..Scope::ALL }, false),
            (Scope { fields: &[("spec.nodeName", "n"), ("spec.hostNetwork", "true")], ..Scope::ALL }, true),
            (Scope { fields: &[("spec.hostPID", "false"), ("status.phase", "")], ..Scope::ALL }, true),
            (Scope { fields: &[("spec.nodeName", "m")], ..Scope::ALL }, false),
        ] {
            assert_eq!(scope.selects(&pod), selected, "{scope:?}");
        }
    }

    #[test]
    fn a_decision_that_the_host_would_refuse_is_found_in_a_test() {
        let object = |kind: &str, name: &str| json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": name } });
        let good = Decision::new().child(object("Service", "a"));
        assert_eq!(MANIFEST.check(&good), Ok(()));
        for (child, expected) in [
            (object("Secret", "a"), "child 1 is v1/Secret a, which is not"),
            (object("Service", ""), "has no name"),
            (object("Service", "a"), "wanted twice"),
        ] {
            let message = MANIFEST.check(&good.clone().child(child)).expect_err(expected);
            assert!(message.contains(expected), "{message}");
        }
    }
}

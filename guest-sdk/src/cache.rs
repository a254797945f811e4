//! Objects beside the primary and its children.
//!
//! In a component every question goes to the host, which answers from memory and remembers what
//! was asked. In a native test [`Cache::fixed`] answers from the objects that the test put in, and
//! remembers too.

use crate::{Kind, Object};

/// Read access to what the host watches.
///
/// You read it, you watch it: when an object or a list that a pass read changes, the same primary
/// is reconciled again. There is nothing to set up. Answers come from memory and are as old as the
/// watch is late.
///
/// Only the primary's kind, the children's kinds and the manifest's `reads` may be asked for, in the
/// namespaces and with the labels that are declared there; anything else ends the pass with E231.
///
/// ```
/// use windlass::{Cache, Query, json, kind};
///
/// let part = |name: &str| json!({
///     "apiVersion": "v1", "kind": "ConfigMap",
///     "metadata": { "namespace": "default", "name": name, "labels": { "tier": "web" } },
/// });
/// let cache = Cache::fixed().with_object(part("b")).with_object(part("a"));
///
/// assert!(cache.get(kind::CONFIG_MAP, "default", "a").is_some());
/// let web = cache.list(&Query::of(kind::CONFIG_MAP).namespace("default").label("tier", "web"));
/// assert_eq!(web[0].name(), "a");
/// assert_eq!(cache.seen().len(), 2);
/// ```
#[derive(Debug)]
pub struct Cache {
    /// Where answers come from.
    source: source::Source,
}

impl Cache {
    /// One object; the namespace is empty for a cluster-scoped kind.
    #[must_use]
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Object> {
        self.source.get(kind, namespace, name)
    }

    /// All objects that match, ordered by namespace and name; at most 8 MiB.
    #[must_use]
    pub fn list(&self, query: &Query) -> Vec<Object> {
        self.source.list(query)
    }
}

/// Which objects to list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a query has no effect until it is given to Cache::list"]
pub struct Query {
    /// Their kind.
    kind: Kind,
    /// Only this namespace; nothing means all.
    namespace: Option<String>,
    /// Labels that they must carry, at most 16.
    labels: Vec<(String, String)>,
}

impl Query {
    /// Every object of a kind, in all namespaces.
    pub fn of(kind: Kind) -> Self {
        Self { kind, namespace: None, labels: Vec::new() }
    }

    /// Only those in this namespace.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Only those that carry this label too; at most 16.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((key.into(), value.into()));
        self
    }
}

/// The host, behind the component's imports.
#[cfg(target_family = "wasm")]
mod source {
    use super::{Kind, Object, Query};
    use crate::raw;

    /// The host holds everything.
    #[derive(Debug)]
    pub(super) struct Source;

    impl Source {
        pub(super) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Object> {
            raw::cache_get(kind, namespace, name)
        }

        pub(super) fn list(&self, query: &Query) -> Vec<Object> {
            raw::cache_list(query.kind, query.namespace.as_deref(), &query.labels)
        }
    }

    impl super::Cache {
        /// The host's cache.
        pub(crate) fn of_the_host() -> Self {
            Self { source: Source }
        }
    }
}

/// Objects that a test put in.
#[cfg(not(target_family = "wasm"))]
mod source {
    use super::{Cache, Kind, Object, Query};
    use crate::Manifest;
    use crate::manifest::Scope;
    use std::cell::RefCell;

    /// What the test put in, and what was asked for.
    #[derive(Debug, Default)]
    pub(super) struct Source {
        objects: Vec<Object>,
        allowed: Option<Manifest>,
        seen: RefCell<Vec<Seen>>,
    }

    /// One question that a reconciler asked, as [`Cache::seen`] tells.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Seen {
        /// It asked for one object.
        Object {
            /// Of this kind.
            kind: Kind,
            /// In this namespace; empty for a cluster-scoped kind.
            namespace: String,
            /// Of this name.
            name: String,
        },
        /// It asked for a list.
        List(Query),
    }

    impl Source {
        pub(super) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Object> {
            self.judge(kind, Some(namespace), &[]);
            self.seen.borrow_mut().push(Seen::Object {
                kind,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            });
            self.visible(kind).find(|each| (each.namespace(), each.name()) == (namespace, name))
        }

        pub(super) fn list(&self, query: &Query) -> Vec<Object> {
            self.judge(query.kind, query.namespace.as_deref(), &query.labels);
            self.seen.borrow_mut().push(Seen::List(query.clone()));
            let here = |each: &Object| {
                query.namespace.as_ref().is_none_or(|namespace| each.namespace() == namespace)
                    && query.labels.iter().all(|(key, value)| each.label(key) == Some(value))
            };
            let mut found: Vec<Object> = self.visible(query.kind).filter(here).collect();
            found.sort_by(|left, right| {
                (left.namespace(), left.name()).cmp(&(right.namespace(), right.name()))
            });
            found
        }

        /// The objects of a kind as the manifest shows them.
        fn visible(&self, kind: Kind) -> impl Iterator<Item = Object> {
            let scopes =
                self.allowed.as_ref().map_or_else(|| vec![Scope::ALL], |allowed| allowed.scopes(kind));
            self.objects.iter().filter(move |each| kind.matches(each)).filter_map(move |each| {
                let open: Vec<&Scope> = scopes.iter().filter(|scope| scope.selects(each)).collect();
                let bare = !open.is_empty() && open.iter().all(|scope| scope.metadata_only);
                let shown = if bare { metadata(each) } else { each.clone() };
                (!open.is_empty()).then_some(shown)
            })
        }

        /// Ends the test as the host would end the pass.
        fn judge(&self, kind: Kind, namespace: Option<&str>, labels: &[(String, String)]) {
            let Some(manifest) = &self.allowed else { return };
            let name = manifest.name;
            assert!(
                manifest.allows_reading(kind),
                "E231: {kind} is not among the reads of {name}: write reads = [\"{kind}\"]"
            );
            let scopes = manifest.scopes(kind);
            let mut scopes: Vec<&Scope> =
                scopes.iter().filter(|scope| namespace.is_none_or(|each| scope.reaches(each))).collect();
            assert!(
                !scopes.is_empty(),
                "E231: {name} declares no {kind} in namespace {:?}",
                namespace.unwrap_or_default()
            );
            scopes.retain(|scope| labels.iter().all(|(key, value)| scope.allows_label(key, value)));
            assert!(!scopes.is_empty(), "E231: {name} declares no {kind} with the labels {labels:?}");
        }
    }

    /// The object without its body.
    fn metadata(object: &Object) -> Object {
        let mut value = object.as_value().clone();
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind" | "metadata"));
        }
        Object::from(value)
    }

    /// For native tests.
    impl Cache {
        /// An empty cache that answers from what is put in.
        #[must_use]
        pub fn fixed() -> Self {
            Self { source: Source::default() }
        }

        /// Puts an object in.
        #[must_use]
        pub fn with_object(mut self, object: impl Into<Object>) -> Self {
            self.source.objects.push(object.into());
            self
        }

        /// Lets through only what the manifest allows, as the host does; a question about any
        /// other kind panics with the host's code E231.
        #[must_use]
        pub fn only(mut self, manifest: &Manifest) -> Self {
            self.source.allowed = Some(manifest.clone());
            self
        }

        /// Everything that was asked for, in order: what the host would watch.
        #[must_use]
        pub fn seen(&self) -> Vec<Seen> {
            self.source.seen.borrow().clone()
        }
    }
}

#[cfg(not(target_family = "wasm"))]
pub use source::Seen;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Manifest, Read, Scope};
    use crate::{json, kind};

    fn config_map(namespace: &str, name: &str, tier: &str) -> Object {
        Object::from(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "namespace": namespace, "name": name, "labels": { "tier": tier } },
            "data": { "k": "v" },
        }))
    }

    fn filled() -> Cache {
        Cache::fixed()
            .with_object(config_map("b", "x", "web"))
            .with_object(config_map("a", "z", "web"))
            .with_object(config_map("a", "y", "db"))
    }

    const MANIFEST: Manifest = Manifest {
        name: "test",
        version: "0.1.0",
        primary: kind::NAMESPACE,
        selects: Scope::ALL,
        children: &[],
        reads: &[Read {
            kind: kind::CONFIG_MAP,
            scope: Scope {
                labels: &[("tier", Some("web"))],
                namespaces: &["a", "b"],
                fields: &[],
                metadata_only: true,
            },
        }],
        finalizes: false,
    };

    #[test]
    fn a_list_is_ordered_and_filtered() {
        let names = |query: &Query| -> Vec<String> {
            filled().list(query).iter().map(|each| format!("{}/{}", each.namespace(), each.name())).collect()
        };
        let all = Query::of(kind::CONFIG_MAP);
        assert_eq!(names(&all), ["a/y", "a/z", "b/x"]);
        assert_eq!(names(&all.clone().label("tier", "web")), ["a/z", "b/x"]);
        assert_eq!(names(&all.namespace("a").label("tier", "web")), ["a/z"]);
    }

    #[test]
    fn what_was_asked_for_is_remembered_even_if_it_is_not_there() {
        let cache = filled();
        assert!(cache.get(kind::SECRET, "a", "nobody").is_none());
        assert_eq!(
            cache.seen(),
            [Seen::Object { kind: kind::SECRET, namespace: "a".into(), name: "nobody".into() }]
        );
    }

    #[test]
    fn a_read_with_labels_hides_the_rest() {
        let cache = filled().only(&MANIFEST);
        assert!(cache.get(kind::CONFIG_MAP, "a", "y").is_none());
        let seen = cache.get(kind::CONFIG_MAP, "a", "z").expect("selected");
        assert!(seen.as_value().get("data").is_none(), "metadata only");
        assert_eq!(cache.list(&Query::of(kind::CONFIG_MAP)).len(), 2);
    }

    #[test]
    #[should_panic(expected = "E231: test declares no v1/ConfigMap in namespace \"c\"")]
    fn a_namespace_that_is_not_declared_ends_the_test() {
        let _ = filled().only(&MANIFEST).get(kind::CONFIG_MAP, "c", "x");
    }

    #[test]
    #[should_panic(expected = "E231: test declares no v1/ConfigMap with the labels")]
    fn labels_that_contradict_what_is_declared_end_the_test() {
        let _ = filled().only(&MANIFEST).list(&Query::of(kind::CONFIG_MAP).label("tier", "db"));
    }

    #[test]
    #[should_panic(expected = "E231: v1/Secret is not among the reads of test")]
    fn a_kind_that_is_not_declared_ends_the_test() {
        let _ = filled().only(&MANIFEST).get(kind::SECRET, "a", "y");
    }
}

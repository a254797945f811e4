//! What a pass may know: the primary object, its children, its settings.

use crate::{Conditions, Fault, Kind, Meta, Object, decode, hash_of, time};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::ops::Deref;

/// A struct that stands for the objects of one kind; derived with `#[derive(Primary)]`.
///
/// It is deserialized from the whole object, so its fields are usually `spec` and, if the
/// reconciler reads it, `status`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say which Kubernetes objects it stands for",
    label = "not a primary",
    note = "write #[derive(Primary, Deserialize)] and #[primary(group = \"apps.example.com\", version = \"v1\", kind = \"WebApp\")] above the struct"
)]
pub trait Primary: DeserializeOwned {
    /// The kind of these objects.
    const KIND: Kind;
}

/// Label of the kind of application; [`Snapshot::labels`] sets it.
const NAME_LABEL: &str = "app.kubernetes.io/name";
/// Label of the one application among those of its kind; [`Snapshot::labels`] sets it.
const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
/// Label of what looks after it; [`Snapshot::labels`] sets it.
const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Longest label value in bytes.
const LABEL_VALUE_MAX_BYTES: usize = 63;

/// Labels as an object's `metadata.labels` holds them.
pub type Labels = BTreeMap<String, String>;

/// All that a pass may know, apart from what it reads through the [`Cache`](crate::Cache).
///
/// It derefs to the author's struct, so `app.spec.image` reads the primary's spec.
///
/// In tests it is built from the JSON that a user would write:
/// ```
/// # use windlass::{Primary, Snapshot, json, kind};
/// # #[derive(windlass::Primary, serde::Deserialize)]
/// # #[primary(group = "apps.example.com", version = "v1", kind = "WebApp")]
/// # struct WebApp { spec: Spec }
/// # #[derive(serde::Deserialize)] struct Spec { image: String }
/// let app = Snapshot::<WebApp>::of(json!({
///     "metadata": { "name": "hello" },
///     "spec": { "image": "nginx" },
/// }))
/// .with_child(json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "hello" } }));
///
/// assert_eq!(app.spec.image, "nginx");
/// assert_eq!(app.name(), "hello");
/// assert!(app.child(kind::SERVICE, "hello").is_some());
/// ```
#[derive(Debug, Clone)]
pub struct Snapshot<T> {
    /// The primary as the author's type.
    typed: T,
    /// The primary as it was observed.
    raw: Object,
    /// Its metadata.
    meta: Meta,
    /// Its children as last seen.
    children: Vec<Object>,
    /// The plugin's settings.
    settings: Option<Value>,
    /// What the clock shows, if a test says so.
    fixed_time: Option<String>,
}

impl<T> Deref for Snapshot<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.typed
    }
}

impl<T: Primary> Snapshot<T> {
    /// A snapshot of exactly these values.
    ///
    /// # Errors
    /// Permanent, with the path of what does not fit the author's struct. The same text becomes a
    /// Warning Event on the object when the host calls.
    pub fn new(primary: Value, children: Vec<Value>, settings: Option<Value>) -> Result<Self, Fault> {
        Self::with(primary, children.into_iter().map(Object::from).collect(), settings)
    }

    /// The same with children as the host hands them over.
    pub(crate) fn with(
        primary: Value,
        children: Vec<Object>,
        settings: Option<Value>,
    ) -> Result<Self, Fault> {
        let whose = format!("this {}", T::KIND.kind);
        let is_secret = T::KIND.group.is_empty() && T::KIND.kind == "Secret";
        let typed = match is_secret {
            true => decode::decode_quietly(&primary, &whose)?,
            false => decode::decode(&primary, &whose)?,
        };
        let meta = primary.get("metadata").unwrap_or(&Value::Null);
        let meta = if meta.is_null() { Meta::default() } else { decode::decode(meta, "its metadata")? };
        Ok(Self { typed, meta, raw: Object::from(primary), children, settings, fixed_time: None })
    }

    /// A snapshot for a test, without children. What is left out of `apiVersion`, `kind` and
    /// `metadata` is filled in: `example` in the namespace `default`, generation 1.
    ///
    /// A default in the CRD is not applied here: what it sets, the test writes.
    ///
    /// # Panics
    /// If the object does not fit the struct; [`Snapshot::new`] returns that as a fault.
    #[must_use]
    #[track_caller]
    pub fn of(primary: impl Into<Value>) -> Self {
        let primary = completed(primary.into(), T::KIND);
        match Self::new(primary, Vec::new(), None) {
            Ok(snapshot) => snapshot,
            Err(fault) => panic!("{fault}"),
        }
    }
}

impl<T> Snapshot<T> {
    /// Adds an observed child; for tests.
    #[must_use]
    pub fn with_child(mut self, child: impl Into<Object>) -> Self {
        self.children.push(child.into());
        self
    }

    /// Adds observed children, such as those that an earlier decision wanted; for tests.
    #[must_use]
    pub fn with_children(mut self, children: impl IntoIterator<Item = impl Into<Object>>) -> Self {
        self.children.extend(children.into_iter().map(Into::into));
        self
    }

    /// Gives the plugin settings; for tests.
    #[must_use]
    pub fn with_settings(mut self, settings: impl Into<Value>) -> Self {
        self.settings = Some(settings.into());
        self
    }

    /// Stops the clock at this time, in RFC 3339; for tests.
    #[must_use]
    pub fn with_time(mut self, time: impl Into<String>) -> Self {
        self.fixed_time = Some(time.into());
        self
    }

    /// Name, namespace, uid, generation, labels, annotations and times of the primary.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The primary's name, at most 253 bytes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.meta.name
    }

    /// The primary's namespace; empty if it is cluster-scoped.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.meta.namespace
    }

    /// The primary as it was observed, with everything that the author's struct leaves out.
    #[must_use]
    pub fn raw(&self) -> &Object {
        &self.raw
    }

    /// The children that this plugin created for this primary, as last seen, in no order.
    #[must_use]
    pub fn children(&self) -> &[Object] {
        &self.children
    }

    /// The child of that kind and name, if it exists.
    #[must_use]
    pub fn child(&self, kind: Kind, name: &str) -> Option<&Object> {
        self.children.iter().find(|child| kind.matches(child) && child.name() == name)
    }

    /// The plugin's settings. Without any it is as if they were `{}`, so that fields with
    /// `#[serde(default)]` have their defaults.
    ///
    /// # Errors
    /// Permanent, with the path of the setting that does not fit.
    pub fn settings<S: DeserializeOwned>(&self) -> Result<S, Fault> {
        match &self.settings {
            Some(settings) => decode::decode(settings, "settings.yaml"),
            None => decode::decode(&Value::Object(Map::new()), "settings.yaml (absent)"),
        }
    }

    /// The conditions of the wanted status, none yet; those that the status has had before keep
    /// their time.
    pub fn conditions(&self) -> Conditions<'_, T> {
        Conditions::of(self)
    }

    /// The time at the start of the pass, in RFC 3339 with whole seconds and `Z`.
    ///
    /// It stands still during a pass. A pass that read it is not skipped when nothing changed, so
    /// read it only where it is needed; [`Conditions`] does so only when a condition changes.
    #[must_use]
    pub fn now(&self) -> String {
        self.fixed_time.clone().unwrap_or_else(time::now)
    }
}

impl<T: Primary> Snapshot<T> {
    /// Labels that find the children again: `app.kubernetes.io/name` (the kind in lower case) and
    /// `app.kubernetes.io/instance` (the primary's name).
    ///
    /// Right for a selector, which can never be changed: they depend on nothing that changes. A
    /// name longer than a label value ends in a hash.
    #[must_use]
    pub fn selector(&self) -> Labels {
        let mut instance = self.meta.name.clone();
        if instance.len() > LABEL_VALUE_MAX_BYTES {
            let hash = hash_of(&instance);
            // Names are ASCII, and the hash is shorter than a label value.
            instance.truncate(LABEL_VALUE_MAX_BYTES - hash.len() - 1);
            let kept = instance.trim_end_matches(['.', '-']).len();
            instance.truncate(kept);
            instance = format!("{instance}-{hash}");
        }
        Labels::from([
            (NAME_LABEL.to_owned(), T::KIND.kind.to_ascii_lowercase()),
            (INSTANCE_LABEL.to_owned(), instance),
        ])
    }

    /// Labels that every child should carry: those of [`Snapshot::selector`] and
    /// `app.kubernetes.io/managed-by: windlass`.
    #[must_use]
    pub fn labels(&self) -> Labels {
        let mut labels = self.selector();
        labels.insert(MANAGED_BY_LABEL.to_owned(), "windlass".to_owned());
        labels
    }
}

/// Fills in what a test leaves out.
fn completed(mut primary: Value, kind: Kind) -> Value {
    if let Some(object) = primary.as_object_mut() {
        let mut fill = |key: &str, value: Value| {
            object.entry(key).or_insert(value);
        };
        fill("apiVersion", kind.api_version().into());
        fill("kind", kind.kind.into());
        fill("metadata", Value::Object(Map::new()));
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for (key, value) in [("name", "example"), ("namespace", "default")] {
                meta.entry(key).or_insert_with(|| value.into());
            }
            meta.entry("uid").or_insert_with(|| "00000000-0000-4000-8000-000000000001".into());
            meta.entry("generation").or_insert_with(|| 1.into());
        }
    }
    primary
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{json, kind};
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct Gadget {
        spec: Spec,
    }

    #[derive(Debug, Deserialize)]
    struct Spec {
        size: u32,
    }

    impl Primary for Gadget {
        const KIND: Kind = Kind::new("example.com", "v1", "Gadget");
    }

    #[test]
    fn what_a_test_leaves_out_is_filled_in() {
        let gadget = Snapshot::<Gadget>::of(json!({ "spec": { "size": 3 } }));
        assert_eq!(gadget.spec.size, 3);
        assert_eq!((gadget.namespace(), gadget.name()), ("default", "example"));
        assert_eq!(gadget.meta().generation, 1);
        assert!(Gadget::KIND.matches(gadget.raw()));
    }

    #[test]
    fn a_spec_that_does_not_fit_is_a_permanent_fault_with_its_path() {
        let fault = Snapshot::<Gadget>::new(json!({ "spec": { "size": "big" } }), vec![], None)
            .expect_err("text is no size");
        assert_eq!(
            fault,
            Fault::permanent(
                "this Gadget does not fit: at `spec.size`: invalid type: string \"big\", expected u32"
            )
        );
    }

    #[test]
    fn absent_settings_are_like_empty_ones() {
        #[derive(Debug, Deserialize, PartialEq)]
        struct Settings {
            #[serde(default)]
            domain: String,
        }
        #[derive(Debug, Deserialize)]
        struct Strict {
            #[allow(dead_code)]
            domain: String,
        }
        let gadget = Snapshot::<Gadget>::of(json!({ "spec": { "size": 3 } }));
        assert_eq!(gadget.settings::<Settings>().expect("defaults").domain, "");
        assert_eq!(
            gadget.settings::<Strict>().expect_err("required").to_string(),
            "settings.yaml (absent) does not fit: missing field `domain`"
        );
        let gadget = gadget.with_settings(json!({ "domain": "a.b" }));
        assert_eq!(gadget.settings::<Strict>().expect("there").domain, "a.b");
    }

    #[test]
    fn a_long_name_still_makes_a_label() {
        let name = format!("{}.{}", "a".repeat(45), "b".repeat(100));
        let gadget = |name: &str| {
            Snapshot::<Gadget>::of(json!({ "metadata": { "name": name }, "spec": { "size": 3 } }))
        };
        let instance = gadget(&name).selector()[INSTANCE_LABEL].clone();
        assert!(instance.len() <= 63, "{instance}");
        assert_ne!(instance, gadget(&format!("{name}c")).selector()[INSTANCE_LABEL]);
        assert_eq!(gadget("short").labels()[INSTANCE_LABEL], "short");
        assert_eq!(gadget("short").labels()[MANAGED_BY_LABEL], "windlass");
    }

    #[test]
    fn a_child_is_found_by_kind_and_name() {
        let gadget = Snapshot::<Gadget>::of(json!({ "spec": { "size": 3 } })).with_children([
            json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "a" } }),
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "b" } }),
        ]);
        assert!(gadget.child(kind::SERVICE, "a").is_some());
        assert!(gadget.child(kind::SERVICE, "b").is_none());
        assert_eq!(gadget.children().len(), 2);
    }
}

//! What one list or watch asks for, and how that becomes an address.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use windlass_core::kind::Kind;
use windlass_core::name::{LABEL_GOOD, LABEL_HOST, LABEL_PLUGIN};
use windlass_core::scope::{Requirement, field_selector, selector};

/// Labels that an object must carry, sorted by name; none: every object.
pub type Labels = Vec<(String, String)>;

/// What is asked of the API server for a kind, before discovery has said how the kind is served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wire {
    /// Only objects that meet all these, sorted.
    pub(crate) labels: Vec<Requirement>,
    /// Only these namespaces, sorted; none: all.
    pub(crate) namespaces: Vec<String>,
    /// Only objects with these values, sorted.
    pub(crate) fields: Vec<(String, String)>,
    /// Only their metadata.
    pub(crate) metadata_only: bool,
}

/// For people; empty: every object.
impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = selector(&self.labels);
        match &self.namespaces[..] {
            [] => {}
            [namespace] => write!(text, " in namespace {namespace}")?,
            namespaces => write!(text, " in namespaces {}", namespaces.join(", "))?,
        }
        if !self.fields.is_empty() {
            write!(text, " where {}", field_selector(&self.fields))?;
        }
        if self.metadata_only {
            text += ", metadata only";
        }
        f.write_str(text.trim_start_matches([' ', ',']))
    }
}

/// Objects of one kind: all of them, or those of a namespace, with labels, or of
/// one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Their kind.
    pub kind: Kind,
    /// Only this namespace; empty: all namespaces.
    pub namespace: Arc<str>,
    /// Only objects that carry all these labels. A pair with an empty value stands
    /// for the label with that empty value, as everywhere in Kubernetes.
    pub labels: Labels,
    /// Only objects that carry these labels, with whatever value.
    pub has_labels: Vec<String>,
    /// Only objects that carry none of these labels.
    pub lacks_labels: Vec<&'static str>,
    /// Only objects with these values at these paths, as field selectors of Kubernetes.
    pub fields: Vec<(String, String)>,
    /// Only the object of this name.
    pub name: Option<Arc<str>>,
    /// The server sends `metadata` and leaves the rest of each object out.
    pub metadata_only: bool,
}

/// The media type of objects in full.
pub(crate) const JSON: &str = "application/json";

impl Selection {
    /// Every object of `kind` in every namespace.
    pub fn all(kind: Kind) -> Self {
        Self {
            kind,
            namespace: "".into(),
            labels: Labels::new(),
            has_labels: Vec::new(),
            lacks_labels: Vec::new(),
            fields: Vec::new(),
            name: None,
            metadata_only: false,
        }
    }

    /// What plugins need of `kind` in one of the wire's namespaces; an empty one for all.
    pub(crate) fn of(kind: Kind, wire: Wire, namespace: &str) -> Self {
        let mut selection = Self::all(kind).without_plugins_but(&wire.labels);
        selection.namespace = namespace.into();
        for (name, value) in wire.labels {
            match value {
                Some(value) => selection.labels.push((name, value)),
                None => selection.has_labels.push(name),
            }
        }
        selection.fields = wire.fields;
        selection.metadata_only = wire.metadata_only;
        selection
    }

    /// Only in this namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Only objects that carry all these labels.
    #[must_use]
    pub fn with_labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }

    /// Only objects that carry this label, with whatever value.
    #[must_use]
    pub fn with_label(mut self, name: &str) -> Self {
        self.has_labels.push(name.to_owned());
        self
    }

    /// What plugins may see of it: no plugin, and no copy of one. Those are ConfigMaps of up to a
    /// megabyte each, whose content is nobody's data; in the cache they would cost more than all that
    /// is reconciled. Children are selected by a label that no plugin carries.
    fn without_plugins_but(mut self, labels: &[Requirement]) -> Self {
        let is_config_map = self.kind.gvk.group.is_empty() && *self.kind.gvk.kind == *"ConfigMap";
        if is_config_map && labels.iter().all(|(name, _)| name != LABEL_HOST) {
            self.lacks_labels = vec![LABEL_PLUGIN, LABEL_GOOD];
        }
        self
    }

    /// Only the object of this name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Only `metadata` of each object: for those whose content is read when it is needed.
    #[must_use]
    pub fn metadata_only(mut self) -> Self {
        self.metadata_only = true;
        self
    }

    /// What a list of it accepts.
    pub(crate) fn accepts_list(&self) -> &'static str {
        if self.metadata_only {
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
        } else {
            JSON
        }
    }

    /// What a watch of it accepts.
    pub(crate) fn accepts_events(&self) -> &'static str {
        if self.metadata_only { "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1" } else { JSON }
    }

    /// Path and query of the collection, with these further parameters.
    pub(crate) fn address(&self, parameters: &[(&str, &str)]) -> String {
        let mut address = self.kind.collection_path(&self.namespace);
        let mut separator = '?';
        let mut push = |name: &str, value: &str| {
            address.push(separator);
            separator = '&';
            address.push_str(name);
            address.push('=');
            push_escaped(&mut address, value);
        };
        let mut selector = selector_text(&self.labels, &self.has_labels);
        for label in &self.lacks_labels {
            let comma = if selector.is_empty() { "" } else { "," };
            write!(selector, "{comma}!{label}").expect("writing to a String cannot fail");
        }
        if !selector.is_empty() {
            push("labelSelector", &selector);
        }
        let name = self.name.iter().map(|name| ("metadata.name".to_owned(), name.to_string()));
        let fields: Vec<_> = name.chain(self.fields.iter().cloned()).collect();
        if !fields.is_empty() {
            push("fieldSelector", &field_selector(&fields));
        }
        for (name, value) in parameters {
            push(name, value);
        }
        address
    }
}

/// `a=1,b=2`, as kubectl writes a selector; empty for every object.
pub(crate) fn selector_text(labels: &[(String, String)], has: &[String]) -> String {
    let pairs = labels.iter().map(|(name, value)| format!("{name}={value}"));
    pairs.chain(has.iter().cloned()).collect::<Vec<_>>().join(",")
}

/// Appends `text` with everything but RFC 3986's unreserved characters escaped.
fn push_escaped(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_holds_path_selectors_and_parameters_escaped() {
        let kind = Kind {
            gvk: "v1/ConfigMap".parse().expect("valid"),
            plural: "configmaps".into(),
            namespaced: true,
            has_status: false,
        };
        let all = Selection::all(kind);
        assert_eq!(all.address(&[("limit", "500")]), "/api/v1/configmaps?limit=500");
        assert_eq!(
            Selection::of(all.kind.clone(), Wire::default(), "").address(&[]),
            "/api/v1/configmaps?labelSelector=%21windlass.dev%2Fplugin%2C%21windlass.dev%2Fgood"
        );
        let ours = Wire { labels: vec![(LABEL_HOST.into(), Some("sys".into()))], ..Wire::default() };
        let children = all.clone().with_labels(vec![(LABEL_HOST.into(), "sys".into())]);
        assert_eq!(Selection::of(all.kind.clone(), ours, ""), children);
        let narrow = Wire {
            labels: vec![("a".into(), None), ("windlass.dev/host".into(), Some("sys".into()))],
            namespaces: vec!["ns".into()],
            fields: vec![("spec.x".into(), "1,2".into())],
            metadata_only: true,
        };
        let narrow = Selection::of(all.kind.clone(), narrow, "ns");
        assert!(narrow.metadata_only);
        assert_eq!(
            narrow.address(&[]),
            "/api/v1/namespaces/ns/configmaps?labelSelector=windlass.dev%2Fhost%3Dsys%2Ca&fieldSelector=spec.x%3D1%5C%2C2"
        );
        let some = all
            .in_namespace("ns")
            .with_labels(vec![("windlass.dev/host".into(), "a".into()), ("b".into(), "".into())])
            .with_label("windlass.dev/plugin")
            .named("x");
        assert_eq!(
            some.address(&[("watch", "1")]),
            "/api/v1/namespaces/ns/configmaps?labelSelector=windlass.dev%2Fhost%3Da%2Cb%3D%2Cwindlass.dev%2Fplugin\
             &fieldSelector=metadata.name%3Dx&watch=1"
        );
    }
}

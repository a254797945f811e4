//! Scopes: which objects of a kind a plugin looks at, as its manifest says.
//!
//! The same scope is used three times: to ask the API server for no more than somebody needs, to keep
//! no more of its answer, and to show each plugin exactly its own part, whatever others need of the same kind.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::code::{Code, Refusal};
use crate::object::{Meta, Object};

/// Requirements on labels, and namespaces, of one scope.
pub const SCOPE_MAX: usize = 16;
/// Requirements on fields of one scope.
pub const FIELDS_MAX: usize = 4;
/// Longest path and longest value of a field, in bytes.
const FIELD_BYTES: usize = 253;
/// Longest part of a label, and longest namespace, in bytes.
const WORD_BYTES: usize = 63;

/// `key=value`; without a value the label only has to be there.
pub type Requirement = (String, Option<String>);

/// Which objects of a kind, and how much of each. By default all of all. The lists are sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Scope {
    /// Only objects that meet all these; empty: every object.
    pub labels: Vec<Requirement>,
    /// Only objects in these namespaces; empty: all namespaces.
    pub namespaces: Vec<String>,
    /// Only objects that have these values at these paths; empty: every object.
    pub fields: Vec<(String, String)>,
    /// Whether `metadata` is all that is looked at.
    pub metadata_only: bool,
}

impl Scope {
    /// Objects that carry all these labels.
    pub fn of_labels(labels: impl IntoIterator<Item = (String, String)>) -> Self {
        let labels = labels.into_iter().map(|(key, value)| (key, Some(value))).collect();
        Self { labels, ..Self::default() }.sorted()
    }

    /// With each list in order.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.labels.sort_unstable();
        self.labels.dedup();
        self.namespaces.sort_unstable();
        self.namespaces.dedup();
        self.fields.sort_unstable();
        self.fields.dedup();
        self
    }

    /// Whether every object is selected.
    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.namespaces.is_empty() && self.fields.is_empty()
    }

    /// Checks the bounds and forms of the contract.
    ///
    /// # Errors
    /// E170 with the field, below `path`.
    pub fn check(&self, path: &str) -> Result<(), Refusal> {
        let bad =
            |field: &str, why: String| Err(Refusal::new(Code::BadManifest, format!("{path}.{field}: {why}")));
        for (field, count, most) in [
            ("labels", self.labels.len(), SCOPE_MAX),
            ("namespaces", self.namespaces.len(), SCOPE_MAX),
            ("fields", self.fields.len(), FIELDS_MAX),
        ] {
            if count > most {
                return bad(field, format!("{count} of them, at most {most}"));
            }
        }
        for (i, (key, value)) in self.labels.iter().enumerate() {
            if !is_label_key(key) {
                return bad("labels", format!("{key:?} is no label key"));
            }
            if !value.as_deref().is_none_or(is_label_value) {
                return bad(
                    "labels",
                    format!("{:?} is no label value", value.as_deref().unwrap_or_default()),
                );
            }
            if self.labels[..i].iter().any(|(before, _)| before == key) {
                return bad("labels", format!("{key:?} is there twice"));
            }
        }
        for (i, namespace) in self.namespaces.iter().enumerate() {
            if !is_dns_label(namespace) {
                return bad("namespaces", format!("{namespace:?} is no DNS label of at most 63 bytes"));
            }
            if self.namespaces[..i].contains(namespace) {
                return bad("namespaces", format!("{namespace:?} is there twice"));
            }
        }
        for (i, (field, value)) in self.fields.iter().enumerate() {
            if !is_field_path(field) {
                return bad("fields", format!("{field:?} is no path such as spec.nodeName"));
            }
            if value.len() > FIELD_BYTES || value.chars().any(char::is_control) {
                return bad(
                    "fields",
                    format!("{field}: the value is longer than {FIELD_BYTES} bytes, or no text"),
                );
            }
            if self.fields[..i].iter().any(|(before, _)| before == field) {
                return bad("fields", format!("{field:?} is there twice"));
            }
        }
        Ok(())
    }

    /// Whether this object is selected. Of one that came without its body the API server has judged the
    /// fields that lie outside `metadata`.
    pub fn selects(&self, object: &Object) -> bool {
        self.selects_meta(object.meta()) && self.fields.iter().all(|(path, value)| has(object, path, value))
    }

    /// Whether labels and namespace are as they should be.
    pub fn selects_meta(&self, meta: &Meta) -> bool {
        self.reaches(&meta.namespace)
            && self.labels.iter().all(|(key, wanted)| match (meta.label(key), wanted) {
                (Some(value), Some(wanted)) => value == wanted,
                (found, None) => found.is_some(),
                (None, Some(_)) => false,
            })
    }

    /// Whether it selects anything in this namespace.
    pub fn reaches(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|one| one == namespace)
    }

    /// Whether objects with this label can be among those that it selects.
    pub fn allows_label(&self, key: &str, value: &str) -> bool {
        self.labels.iter().all(|(name, wanted)| name != key || wanted.as_deref().is_none_or(|w| w == value))
    }

    /// Whether whatever `other` shows is shown here too.
    pub fn covers(&self, other: &Self) -> bool {
        let labels = self.labels.iter().all(|(key, wanted)| {
            other.labels.iter().any(|(name, value)| name == key && (wanted.is_none() || value == wanted))
        });
        let namespaces = self.namespaces.is_empty()
            || (!other.namespaces.is_empty() && other.namespaces.iter().all(|one| self.reaches(one)));
        let fields = self.fields.iter().all(|field| other.fields.contains(field));
        labels && namespaces && fields && (!self.metadata_only || other.metadata_only)
    }
}

/// What kubectl would take, and the namespaces; `everything` for all.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.labels.is_empty() {
            parts.push(format!("labels {}", selector(&self.labels)));
        }
        if !self.namespaces.is_empty() {
            parts.push(format!("namespaces {}", self.namespaces.join(", ")));
        }
        if !self.fields.is_empty() {
            parts.push(format!("fields {}", field_selector(&self.fields)));
        }
        if parts.is_empty() {
            parts.push("everything".into());
        }
        if self.metadata_only {
            parts.push("metadata only".into());
        }
        f.write_str(&parts.join("; "))
    }
}

/// `a=1,b`, as kubectl writes a selector; empty for every object.
pub fn selector(labels: &[Requirement]) -> String {
    let one = |(key, value): &Requirement| match value {
        Some(value) => format!("{key}={value}"),
        None => key.clone(),
    };
    labels.iter().map(one).collect::<Vec<_>>().join(",")
}

/// `spec.a=1,spec.b=2`, with what has a meaning in a selector escaped; empty for every object.
pub fn field_selector(fields: &[(String, String)]) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
    let one = |(path, value): &(String, String)| format!("{path}={}", escaped(value));
    fields.iter().map(one).collect::<Vec<_>>().join(",")
}

/// Whether every kind has this field, and its metadata tells its value.
pub fn is_metadata_field(path: &str) -> bool {
    matches!(path, "metadata.name" | "metadata.namespace")
}

fn has(object: &Object, path: &str, wanted: &str) -> bool {
    let meta = object.meta();
    match path {
        "metadata.name" => *meta.name == *wanted,
        "metadata.namespace" => *meta.namespace == *wanted,
        _ if meta.metadata_only => true,
        // Kubernetes leaves out what is empty or false.
        _ => object.field(path).map_or(matches!(wanted, "" | "false"), |value: Cow<'_, str>| value == wanted),
    }
}

/// Lower-case letters, digits and inner dashes; 1 to 63 bytes.
fn is_dns_label(text: &str) -> bool {
    is_word(text, |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit(), b"-")
}

fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let prefix_holds = prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(is_dns_label));
    prefix_holds && !name.is_empty() && is_label_value(name)
}

fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_word(value, |byte| byte.is_ascii_alphanumeric(), b"-_.")
}

fn is_word(text: &str, is_end: impl Fn(u8) -> bool, inner: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()].into_iter().all(|byte| byte.is_some_and(|byte| is_end(*byte)));
    ends && bytes.len() <= WORD_BYTES && bytes.iter().all(|byte| is_end(*byte) || inner.contains(byte))
}

fn is_field_path(path: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    path.len() <= FIELD_BYTES && path.split('.').all(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `labels | namespaces | fields | m`, each part separated by spaces.
    fn scope(text: &str) -> Scope {
        let mut parts = text.split('|').map(|part| part.split_whitespace());
        let mut next = || parts.next().into_iter().flatten();
        let labels = next().map(|label| match label.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (label.to_owned(), None),
        });
        let labels = labels.collect();
        let namespaces = next().map(str::to_owned).collect();
        let fields = next().filter_map(|field| field.split_once('='));
        let fields = fields.map(|(path, value)| (path.to_owned(), value.to_owned())).collect();
        Scope { labels, namespaces, fields, metadata_only: next().next().is_some() }
    }

    fn pod(metadata_only: bool) -> Object {
        let text = r#"{"metadata":{"name":"p","namespace":"ns","labels":{"app":"web","tier":""}},
            "spec":{"nodeName":"n\u0031","hostNetwork":true,"n":3,"deep":{"er":null}},"status":{"phase":"Running"}}"#;
        let gvk = "v1/Pod".parse().expect("valid");
        match metadata_only {
            true => Object::parse_metadata(&gvk, text),
            false => Object::parse(&gvk, text),
        }
        .expect("an object")
    }

    #[test]
    fn an_object_is_selected_by_labels_namespace_and_fields() {
        for (text, whole, bare) in [
            ("", true, true),
            ("app=web tier", true, true),
            ("app=web tier=x", false, false),
            ("team", false, false),
            ("|ns other", true, true),
            ("|other", false, false),
            ("||spec.nodeName=n1 status.phase=Running", true, true),
            ("||spec.nodeName=n2", false, true),
            ("||spec.hostNetwork=true spec.n=3", true, true),
            ("||spec.none= spec.hostPID=false spec.deep.er=", true, true),
            ("||spec.none=x", false, true),
            ("||spec.deep={}", false, true),
            ("||metadata.name=p metadata.namespace=ns", true, true),
            ("||metadata.name=q", false, false),
        ] {
            assert_eq!(scope(text).selects(&pod(false)), whole, "{text}");
            assert_eq!(scope(text).selects(&pod(true)), bare, "{text}: who has no body has been judged");
        }
    }

    #[test]
    fn one_scope_covers_another_when_it_shows_all_of_it() {
        for (wide, narrow) in [
            ("", "a=1|ns|spec.x=1|m"),
            ("a", "a=1"),
            ("a=1", "a=1 b"),
            ("|x y", "|x"),
            ("||spec.x=1", "||spec.x=1 spec.y=2"),
            ("|||m", "a|||m"),
        ] {
            assert!(scope(wide).covers(&scope(narrow)), "{wide} {narrow}");
            assert!(!scope(narrow).covers(&scope(wide)), "{narrow} {wide}");
        }
        for (one, other) in [("a=1", "a=2"), ("|x", "|y"), ("|||m", "a=1"), ("||spec.x=1", "||spec.x=2")] {
            assert!(!scope(one).covers(&scope(other)), "{one} {other}");
        }
    }

    #[test]
    fn what_the_contract_does_not_allow_is_refused_with_its_place() {
        let many = |one: &str, count: usize| {
            (0..count).map(|i| one.replace('#', &i.to_string())).collect::<String>()
        };
        for (text, says) in [
            (many(" a#", 17), "reads[3].labels: 17 of them, at most 16"),
            ("a=-".into(), "reads[3].labels: \"-\" is no label value"),
            ("a/b/c".into(), "is no label key"),
            ("-x.dev/a".into(), "is no label key"),
            ("a a=1".into(), "\"a\" is there twice"),
            (format!("|{}", many(" n#", 17)), "reads[3].namespaces: 17 of them"),
            ("|Ns".into(), "\"Ns\" is no DNS label"),
            (format!("|{}", "n".repeat(64)), "is no DNS label"),
            ("|a a".into(), "\"a\" is there twice"),
            (format!("||{}", many(" f#=1", 5)), "reads[3].fields: 5 of them, at most 4"),
            ("||spec..x=1".into(), "\"spec..x\" is no path"),
            ("||spec.x[0]=1".into(), "is no path"),
            ("||a=1 a=2".into(), "\"a\" is there twice"),
        ] {
            let refusal = scope(&text).check("reads[3]").expect_err(&text);
            assert_eq!(refusal.code, Code::BadManifest);
            assert!(refusal.message.contains(says), "{text}: {refusal}");
        }
        let good = format!("x.dev/a=1 b{}|{}|spec.nodeName=|m", many(" c#", 14), many(" n#", 16));
        scope(&good).check("primary").expect("within all bounds");
    }

    #[test]
    fn a_scope_says_what_it_selects() {
        assert_eq!(scope("").to_string(), "everything");
        assert_eq!(
            scope("b a=1|y x|spec.x=1|m").sorted().to_string(),
            "labels a=1,b; namespaces x, y; fields spec.x=1; metadata only"
        );
        assert_eq!(field_selector(&[("a".into(), r"x=1,y\".into())]), r"a=x\=1\,y\\");
    }
}

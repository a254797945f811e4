//! Observed objects: their JSON without `managedFields`, and the few metadata
//! fields that the host needs, read once.
//!
//! Nothing here knows a kind's Go or Rust type: an object of any kind costs its
//! bytes and a small header. `managedFields`, often half of an object, is dropped;
//! of it only a hash of each of *our* entries stays, which changes exactly when
//! somebody else takes over a field that we own.
//!
//! A cache of a hundred thousand objects is what this has to be small for: labels,
//! our annotations, finalizers and managers lie in one text with their ends beside it
//! ([`packed`]), and names are shared with whoever indexes by them.

mod body;
mod packed;
mod read;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

use crate::key::{Key, ObjectRef};
use crate::kind::Gvk;
use crate::name::{ANNOTATION_APPLIED, ANNOTATION_PRIMARY, LABEL_HOST, LABEL_OWNED_BY};
pub use body::Base;
use body::Body;
use packed::Packed;
use read::{Fields, Text, Wanted, Whole};

/// The number that was given last, to whatever was read.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// One object as last seen. Shared, never changed.
#[derive(Debug)]
pub struct Object {
    number: u64,
    json: Body,
    meta: Meta,
}

/// The metadata that the host reads. Strings are as the API server wrote them.
#[derive(Debug, Default)]
pub struct Meta {
    /// Name.
    pub name: Arc<str>,
    /// Namespace; empty when cluster-scoped.
    pub namespace: Arc<str>,
    /// Unique for this incarnation of the name.
    pub uid: Arc<str>,
    /// Changes with each write; the newest of two is the greater number.
    pub resource_version: Arc<str>,
    /// Counts changes of the spec; 0 when the kind does not count.
    pub generation: i64,
    /// Whether deletion has begun.
    pub deleting: bool,
    /// Whether the object came without its body: its JSON holds `metadata` alone.
    pub metadata_only: bool,
    /// The uid of the owner whose reference says `controller: true`.
    pub controller_uid: Option<Arc<str>>,
    /// Labels, our annotations, finalizers, managers of our entries.
    packed: Packed,
    /// Whether for the status, and hash, of each of our entries.
    entries: Box<[(bool, u64)]>,
}

/// Why a text is not an object.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// Not JSON, or `metadata` has another shape.
    #[error("parse object")]
    Parse(#[from] serde_json::Error),
    /// A field that every stored object has is missing.
    #[error("object has no {0}")]
    Missing(&'static str),
}

impl Object {
    /// Reads one object. Items of a list carry no `apiVersion` and `kind` of their
    /// own: they are filled in from `gvk`, so that a plugin always sees them.
    ///
    /// # Errors
    /// [`ObjectError`] when it is not JSON or lacks `metadata` with a name.
    pub fn parse(gvk: &Gvk, text: &str) -> Result<Self, ObjectError> {
        Self::parse_part(gvk, text, false)
    }

    /// As [`parse`](Self::parse), and keeps nothing but `metadata`: for a text that has no more
    /// (a PartialObjectMetadata says another kind of itself), and for what shall show no more.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_metadata(gvk: &Gvk, text: &str) -> Result<Self, ObjectError> {
        Self::parse_part(gvk, text, true)
    }

    fn parse_part(gvk: &Gvk, text: &str, metadata_only: bool) -> Result<Self, ObjectError> {
        let wanted = if metadata_only { Wanted::Metadata } else { Wanted::All };
        let (whole, metadata) = Whole::read(text, wanted)?;
        let mut meta = metadata.meta()?;
        meta.metadata_only = metadata_only;
        let mut json = String::with_capacity(text.len() + 128);
        let group = if gvk.group.is_empty() { [""; 2] } else { [&gvk.group, "/"] };
        for part in [r#"{"apiVersion":""#, group[0], group[1], &gvk.version, r#"","kind":""#, &gvk.kind, "\""]
        {
            json.push_str(part);
        }
        for (name, value) in &whole.fields {
            match (&**name, value) {
                ("apiVersion" | "kind", _) => {}
                (_, Some(value)) => push_field(&mut json, name, value.get()),
                (_, None) => push_metadata(&mut json, &metadata.fields),
            }
        }
        json.push('}');
        // A copy of exactly its length: cut short, it would leave a gap where `managedFields` were.
        Ok(Self { number: next_number(), json: Body::Plain(Box::from(&*json)), meta })
    }

    /// The object as JSON text, without `managedFields`. Borrowed unless it has been [packed](Self::pack).
    pub fn json(&self) -> Cow<'_, str> {
        self.json.text()
    }

    /// As [`json`](Self::json); `None` if it has been packed.
    pub(crate) fn plain_json(&self) -> Option<&str> {
        self.json.plain()
    }

    /// Bytes of [`json`](Self::json), without making it.
    pub fn json_bytes(&self) -> usize {
        self.json.length()
    }

    /// Holds its text as what it has that those in `base` do not, if that is less; a text that is not like them joins
    /// them, as far as there is room. All of one base have to be of one kind. Takes microseconds.
    pub fn pack(&mut self, base: &mut Arc<Base>) {
        self.json.pack(base);
    }

    /// Names this version as it was read this time: above zero, and no two objects of a process
    /// have the same. Whoever sees a number again sees the very same object.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Gives it a new number, greater than all that were given before. A cache does so under its
    /// lock when it takes the object: then what comes into it later has the greater number.
    pub fn renumber(&mut self) {
        self.number = next_number();
    }

    /// The metadata that was read when the object arrived.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Bytes that it takes in memory, without what an allocator adds and without its name and
    /// namespace, which whoever indexes by them has as well.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.json.held_bytes() + self.meta.held_bytes()
    }

    /// Uses these instead of its own name and namespace, which are the same: thousands of objects
    /// of a namespace then have one text of it.
    pub fn share_names(&mut self, namespace: &Arc<str>, name: &Arc<str>) {
        debug_assert!(self.meta.namespace == *namespace && self.meta.name == *name, "other names");
        self.meta.namespace = namespace.clone();
        self.meta.name = name.clone();
    }

    /// The object as a value; for pure code that compares fields.
    pub fn value(&self) -> serde_json::Value {
        serde_json::from_str(&self.json.text()).unwrap_or_default()
    }

    /// The scalar at this path of names, as a field selector compares it; `None` when there is none.
    pub fn field(&self, path: &str) -> Option<Cow<'_, str>> {
        match self.json.text() {
            Cow::Borrowed(text) => field(text, path),
            Cow::Owned(text) => field(&text, path).map(|value| Cow::Owned(value.into_owned())),
        }
    }

    /// This object's name as one of kind `gvk`.
    pub fn reference(&self, gvk: &Gvk) -> ObjectRef {
        ObjectRef { gvk: gvk.clone(), namespace: self.meta.namespace.clone(), name: self.meta.name.clone() }
    }

    /// Its kind, as it says in its own text.
    pub fn gvk(&self) -> Option<Gvk> {
        let (api_version, kind) = self.types()?;
        Gvk::from_api_version(api_version, kind).ok()
    }

    /// Whether it is of this kind, in maybe another version.
    pub fn is_of(&self, gvk: &Gvk) -> bool {
        let group = |api_version: &str| api_version.split_once('/').map_or(0, |(group, _)| group.len());
        self.types().is_some_and(|(api_version, kind)| {
            api_version[..group(api_version)] == *gvk.group && *kind == *gvk.kind
        })
    }

    /// `apiVersion` and `kind`: they come first in its text, as [`parse`](Self::parse) put them there, and
    /// neither has anything that would have to be escaped.
    fn types(&self) -> Option<(&str, &str)> {
        let (api_version, rest) =
            self.json.beginning().strip_prefix(r#"{"apiVersion":""#)?.split_once('"')?;
        let (kind, _) = rest.strip_prefix(r#","kind":""#)?.split_once('"')?;
        Some((api_version, kind))
    }
}

impl Meta {
    /// Reads the metadata of an object and nothing else: for answers to writes.
    ///
    /// # Errors
    /// As [`Object::parse`].
    pub fn parse(text: &str) -> Result<Self, ObjectError> {
        let (_, metadata) = Whole::read(text, Wanted::Metadata)?;
        metadata.meta()
    }

    /// Labels, ordered by name.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.packed.labels()
    }

    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        find(self.packed.labels(), name)
    }

    /// Our annotations (`windlass.dev/…`) and no other, ordered by name.
    pub fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        self.packed.annotations()
    }

    /// The value of one of our annotations.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        find(self.packed.annotations(), name)
    }

    /// Finalizers, in their order.
    pub fn finalizers(&self) -> impl Iterator<Item = &str> {
        self.packed.finalizers()
    }

    /// Whether it has this finalizer.
    pub fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers().any(|finalizer| finalizer == name)
    }

    /// The key of the primary that this object is a child of, by our inventory
    /// for the host in `host_namespace`; nothing for everybody else's objects.
    pub fn owner(&self, host_namespace: &str) -> Option<Key> {
        if self.label(LABEL_HOST) != Some(host_namespace) {
            return None;
        }
        Key::from_child(self.label(LABEL_OWNED_BY)?, self.annotation(ANNOTATION_PRIMARY)?)
    }

    /// Hash of the configuration that was applied last, from its annotation.
    pub fn applied(&self) -> Option<&str> {
        self.annotation(ANNOTATION_APPLIED)
    }

    /// Hash of our Apply entry for the object itself or for its status: of the
    /// managedFields entry of an Apply by `manager`, which is `windlass/<plugin>`.
    pub fn entry(&self, manager: &str, status: bool) -> Option<u64> {
        let mut entries = self.packed.managers().zip(&self.entries);
        entries.find(|(of, entry)| *of == manager && entry.0 == status).map(|(_, entry)| entry.1)
    }

    /// `resourceVersion` as a number; 0 when it is not one. The API server promises
    /// that versions of one kind compare as integers.
    pub fn version(&self) -> u64 {
        version_number(&self.resource_version)
    }

    /// Whether the object carries all these labels.
    pub fn has_labels(&self, wanted: &[(String, String)]) -> bool {
        wanted.iter().all(|(name, value)| self.label(name) == Some(value))
    }

    fn held_bytes(&self) -> usize {
        let counts = 2 * size_of::<usize>();
        let uids = [Some(&self.uid), Some(&self.resource_version), self.controller_uid.as_ref()];
        let uids: usize = uids.into_iter().flatten().map(|text| counts + text.len()).sum();
        uids + self.packed.bytes() + size_of_val(&*self.entries)
    }
}

/// As [`Object::field`], of a text.
fn field<'t>(mut text: &'t str, path: &str) -> Option<Cow<'t, str>> {
    for name in path.split('.') {
        let fields: Fields<'_> = serde_json::from_str(text).ok()?;
        text = fields.get(name)?.get();
    }
    match text.as_bytes().first()? {
        b'"' => serde_json::from_str::<Text<'_>>(text).ok().map(|text| text.0),
        b'{' | b'[' | b'n' => None,
        _ => Some(Cow::Borrowed(text)),
    }
}

/// In 64 bits they do not run out: at a billion a second it takes centuries.
fn next_number() -> u64 {
    NUMBERS.fetch_add(1, Ordering::Relaxed) + 1
}

fn find<'m>(pairs: impl Iterator<Item = (&'m str, &'m str)>, wanted: &str) -> Option<&'m str> {
    pairs.into_iter().find(|(name, _)| *name == wanted).map(|(_, value)| value)
}

/// A `resourceVersion` as a number; 0 when it is not one.
pub fn version_number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

/// The first eight bytes of a sha256: stable across processes and versions.
pub fn hash64(bytes: &[u8]) -> u64 {
    let sum = Sha256::digest(bytes);
    u64::from_be_bytes([sum[0], sum[1], sum[2], sum[3], sum[4], sum[5], sum[6], sum[7]])
}

fn push_metadata(out: &mut String, fields: &Fields<'_>) {
    push_name(out, "metadata");
    out.push('{');
    for (name, value) in &fields.0 {
        push_field(out, name, value.get());
    }
    out.push('}');
}

fn push_field(out: &mut String, name: &str, value: &str) {
    push_name(out, name);
    out.push_str(value);
}

fn push_name(out: &mut String, name: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    // Names came out of a JSON parser; the rare odd one is escaped again.
    if name.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        out.push('"');
        out.push_str(name);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(name).to_string());
    }
    out.push(':');
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHILD: &str = r#"{"metadata":{"name":"a-cfg","namespace":"ns","uid":"u1","resourceVersion":"42","generation":3,
        "labels":{"windlass.dev/owned-by":"webapp","windlass.dev/host":"windlass-system","x":"y"},
        "annotations":{"windlass.dev/primary":"ns/a","windlass.dev/applied":"h1","other":"dropped from the header"},
        "ownerReferences":[{"uid":"p0"},{"uid":"p1","controller":true}],
        "managedFields":[{"manager":"windlass/webapp","operation":"Apply","fieldsV1":{"f:data":{}}},
                         {"manager":"windlass/webapp","operation":"Apply","subresource":"status","fieldsV1":{}},
                         {"manager":"kubectl","operation":"Update","fieldsV1":{"f:x":{}}}]},
        "data":{"k":"v \u00fc"}}"#;

    fn config_map() -> Gvk {
        "v1/ConfigMap".parse().expect("valid")
    }

    #[test]
    fn managed_fields_are_dropped_and_everything_else_kept() {
        let object = Object::parse(&config_map(), CHILD).expect("valid");
        let mut want: serde_json::Value = serde_json::from_str(CHILD).expect("valid");
        want["apiVersion"] = "v1".into();
        want["kind"] = "ConfigMap".into();
        want["metadata"].as_object_mut().expect("object").remove("managedFields");
        assert_eq!(object.value(), want);
        assert_eq!(object.gvk(), Some(config_map()));
    }

    #[test]
    fn its_kind_is_read_from_where_parse_has_put_it() {
        let of = |gvk: &str| gvk.parse::<Gvk>().expect("valid");
        let deployment = Object::parse(&of("apps/v1/Deployment"), CHILD).expect("valid");
        assert_eq!(deployment.gvk(), Some(of("apps/v1/Deployment")));
        assert!(
            deployment.is_of(&of("apps/v1/Deployment")) && deployment.is_of(&of("apps/v1beta1/Deployment"))
        );
        for other in ["v1/Deployment", "apps/v1/Deploymen", "app/v1/Deployment", "apps/v1/ConfigMap"] {
            assert!(!deployment.is_of(&of(other)), "{other}");
        }
        assert!(Object::parse(&config_map(), CHILD).expect("valid").is_of(&config_map()));
    }

    #[test]
    fn metadata_alone_is_read_as_with_its_object() {
        let (whole, meta) =
            (Object::parse(&config_map(), CHILD).expect("valid"), Meta::parse(CHILD).expect("valid"));
        assert_eq!(format!("{meta:?}"), format!("{:?}", whole.meta()));
        for bad in
            ["", "[]", "{}", r#"{"metadata":{}}"#, r#"{"metadata":null}"#, r#"{"metadata":{"name":"a"}"#]
        {
            assert!(Meta::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_object_without_its_body_is_the_same_whoever_left_the_body_out() {
        let gvk = config_map();
        let partial =
            CHILD.replacen('{', r#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","#, 1);
        let came = Object::parse_metadata(&gvk, &partial.replace(r#""data":{"k":"v \u00fc"}"#, r#""x":1"#))
            .expect("valid");
        let whole = Object::parse(&gvk, CHILD).expect("valid");
        let cut = Object::parse_metadata(&gvk, &whole.json()).expect("valid");
        assert_eq!(came.json(), cut.json());
        assert_eq!(came.gvk(), Some(gvk));
        assert!(came.value().get("data").is_none() && came.value().get("x").is_none());
        assert!(came.meta().metadata_only && !whole.meta().metadata_only);
        assert_eq!(came.meta().label("x"), Some("y"));
    }

    #[test]
    fn the_header_holds_what_the_host_needs() {
        let object = Object::parse(&config_map(), CHILD).expect("valid");
        let meta = object.meta();
        assert_eq!((&*meta.name, meta.version(), meta.generation), ("a-cfg", 42, 3));
        assert_eq!(meta.controller_uid.as_deref(), Some("p1"));
        assert_eq!(meta.applied(), Some("h1"));
        assert_eq!(meta.owner("windlass-system").map(|k| k.to_string()), Some("webapp:ns/a".into()));
        assert_eq!(meta.owner("another-host"), None);
        assert_ne!(meta.entry("windlass/webapp", false), meta.entry("windlass/webapp", true));
        assert_eq!(meta.annotations().count(), 2);
        assert_eq!(meta.label("x"), Some("y"));
        assert_eq!(meta.entry("windlass/other", false), None);
    }

    #[test]
    fn no_two_readings_have_the_same_number() {
        let mut first = Object::parse(&config_map(), CHILD).expect("valid");
        let second = Object::parse(&config_map(), CHILD).expect("valid");
        assert!(0 < first.number() && first.number() < second.number());
        first.renumber();
        assert!(second.number() < first.number());
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for bad in ["", "[]", "{}", r#"{"metadata":{}}"#, r#"{"metadata":{"name":"a"}"#, "\u{feff}{}"] {
            assert!(Object::parse(&config_map(), bad).is_err(), "{bad}");
        }
    }
}

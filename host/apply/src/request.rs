//! Requests: URLs, headers and bodies from parts that are checked once more here,
//! because this is where a name becomes a path.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use kube::client::Body;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;
use windlass_core::claim::Claim;
use windlass_core::key::ObjectRef;
use windlass_core::kind::Kind;
use windlass_core::name::{Digest, PluginName, is_path_segment};
use windlass_core::plan::Target;

pub(crate) const APPLY: &str = "application/apply-patch+yaml";
pub(crate) const MERGE: &str = "application/merge-patch+json";
pub(crate) const JSON: &str = "application/json";
/// An answer with nothing but the object's metadata, from whoever can give it.
const META: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

/// The extra under which the fence looks for the claim. Header names are sent in
/// lower case; the API server lowers them anyway before it decodes the `%2f`.
const EXTRA_CLAIM: &str = "impersonate-extra-windlass.dev%2fclaim";
/// The extra that names the plugin and its digest in the audit log.
const EXTRA_PLUGIN: &str = "impersonate-extra-windlass.dev%2fplugin";

/// Room for all parameters of a write.
const QUERY_BYTES: usize = 128;

/// Why a request was not built: nothing has been sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// A part of the path is not the name of anything.
    #[error("{0:?} cannot be part of a URL")]
    Path(String),
    /// A header's value has characters that HTTP does not allow.
    #[error("build request")]
    Http(#[from] http::Error),
    /// A body that cannot be written as JSON.
    #[error("write body")]
    Body(#[from] serde_json::Error),
}

/// The ServiceAccount that a plugin acts as, in the host's namespace.
pub fn service_account(plugin: &PluginName) -> String {
    format!("plugin-{plugin}")
}

/// As whom a request is made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Actor<'a> {
    /// The host itself: reads, and writes to plugin ConfigMaps.
    Host,
    /// A plugin, impersonated, with the claim that the fence judges.
    Plugin {
        host_namespace: &'a str,
        name: &'a PluginName,
        digest: Option<&'a Digest>,
        claim: &'a Claim,
        /// What is sent may hold a part of a Secret: no answer to it is repeated.
        discreet: bool,
    },
}

impl<'a> Actor<'a> {
    /// The plugin that acts; none for the host.
    pub(crate) fn plugin(&self) -> Option<&'a PluginName> {
        match self {
            Actor::Host => None,
            Actor::Plugin { name, .. } => Some(name),
        }
    }

    /// Whether no answer to what it sends is repeated.
    pub(crate) fn is_discreet(&self) -> bool {
        matches!(self, Actor::Plugin { discreet: true, .. })
    }

    /// The field manager of its writes.
    pub(crate) fn field_manager(&self) -> String {
        match self {
            Actor::Host => "windlass".to_owned(),
            Actor::Plugin { name, .. } => name.field_manager(),
        }
    }

    fn headers(&self, mut request: http::request::Builder) -> Result<http::request::Builder, http::Error> {
        if let Actor::Plugin { host_namespace, name, digest, claim, .. } = self {
            let user = format!("system:serviceaccount:{host_namespace}:{}", service_account(name));
            let plugin = match digest {
                Some(digest) => format!("{name}@{digest}"),
                None => name.to_string(),
            };
            // No groups: the API server adds those of a ServiceAccount by itself.
            request = request
                .header("impersonate-user", HeaderValue::try_from(user)?)
                .header(EXTRA_CLAIM, HeaderValue::try_from(claim.to_string())?)
                .header(EXTRA_PLUGIN, HeaderValue::try_from(plugin)?);
        }
        Ok(request)
    }
}

/// One request, all but its deadline.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: Vec<(&'static str, &'static str)>,
    pub(crate) content_type: Option<&'static str>,
    /// What is answered.
    accept: &'static str,
    pub(crate) body: Bytes,
}

impl Call {
    /// A read.
    pub(crate) fn get(path: String) -> Self {
        Self {
            method: Method::GET,
            path,
            query: Vec::new(),
            content_type: None,
            accept: JSON,
            body: Bytes::new(),
        }
    }

    /// A write of `body`; the field manager is added when it is built.
    pub(crate) fn write(method: Method, path: String, content_type: &'static str, body: Vec<u8>) -> Self {
        Self {
            method,
            path,
            query: Vec::new(),
            content_type: Some(content_type),
            accept: JSON,
            body: body.into(),
        }
    }

    /// Only the metadata of the object is of interest in the answer: the rest is then not even sent.
    pub(crate) fn answered_with_metadata(self) -> Self {
        Self { accept: META, ..self }
    }

    /// Server-side apply with force. Unknown fields are warned of, not refused: the
    /// API server may be older than the plugin.
    pub(crate) fn apply(path: String, body: Vec<u8>) -> Self {
        let mut call = Self::write(Method::PATCH, path, APPLY, body);
        call.query.extend([("force", "true"), ("fieldValidation", "Warn")]);
        call
    }

    /// The request as `actor`, which the API server gives up after `timeout`.
    pub(crate) fn build(&self, actor: &Actor<'_>, timeout: Duration) -> Result<Request<Body>, RequestError> {
        let mut uri = String::with_capacity(self.path.len() + QUERY_BYTES);
        uri.push_str(&self.path);
        let mut separator = '?';
        let mut push = |name: &str, value: &str| {
            uri.push(separator);
            separator = '&';
            uri.push_str(name);
            uri.push('=');
            push_encoded(&mut uri, value);
        };
        self.query.iter().for_each(|(name, value)| push(name, value));
        if self.method != Method::GET && self.method != Method::DELETE {
            push("fieldManager", &actor.field_manager());
        }
        // Whole milliseconds, rounded down: never later than the claim.
        push("timeout", &format!("{}ms", timeout.as_millis().max(1)));
        let accept = HeaderValue::from_static(self.accept);
        let mut request =
            Request::builder().method(self.method.clone()).uri(uri).header(header::ACCEPT, accept);
        if let Some(content_type) = self.content_type {
            request = request.header(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        Ok(actor.headers(request)?.body(Body::from(self.body.clone()))?)
    }
}

/// Leaves out what takes a right of the whole cluster to say.
pub(crate) fn without_extras<T>(request: &mut Request<T>) {
    request.headers_mut().remove(EXTRA_CLAIM);
    request.headers_mut().remove(EXTRA_PLUGIN);
}

/// The path of one object.
pub(crate) fn object_path(kind: &Kind, object: &ObjectRef) -> Result<String, RequestError> {
    checked(&object.name)?;
    let collection = collection_path(kind, &object.namespace)?;
    Ok(format!("{collection}/{}", object.name))
}

/// The path of the collection in which one object is made.
pub(crate) fn collection_path(kind: &Kind, namespace: &str) -> Result<String, RequestError> {
    checked(&kind.gvk.version)?;
    checked(&kind.plural)?;
    if !kind.gvk.group.is_empty() {
        checked(&kind.gvk.group)?;
    }
    if kind.namespaced {
        // An empty one would name the objects of all namespaces.
        checked(namespace)?;
    }
    Ok(kind.collection_path(namespace))
}

fn checked(part: &str) -> Result<(), RequestError> {
    if is_path_segment(part) {
        return Ok(());
    }
    Err(RequestError::Path(part.chars().take(64).collect()))
}

fn push_encoded(out: &mut String, value: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

/// `body` as JSON text with the preconditions in its metadata, without a copy of
/// the value. A uid or resourceVersion that it carries already gives way.
pub(crate) fn with_preconditions(
    body: &Value,
    uid: Option<&str>,
    version: &str,
) -> Result<Vec<u8>, RequestError> {
    Ok(serde_json::to_vec(&WithPreconditions { body, uid, version })?)
}

/// The body of a DELETE that reaches only what was judged.
pub(crate) fn delete_options(target: &Target) -> Result<Vec<u8>, RequestError> {
    Ok(serde_json::to_vec(&serde_json::json!({
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": "Background",
        "preconditions": { "uid": &*target.uid, "resourceVersion": &*target.version },
    }))?)
}

struct WithPreconditions<'a> {
    body: &'a Value,
    uid: Option<&'a str>,
    version: &'a str,
}

impl Serialize for WithPreconditions<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        for (name, value) in self.body.as_object().into_iter().flatten() {
            if name != "metadata" {
                map.serialize_entry(name, value)?;
            }
        }
        map.serialize_entry("metadata", &Metadata(self))?;
        map.end()
    }
}

struct Metadata<'a>(&'a WithPreconditions<'a>);

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        let metadata = self.0.body.get("metadata").and_then(Value::as_object);
        for (name, value) in metadata.into_iter().flatten() {
            if name != "uid" && name != "resourceVersion" {
                map.serialize_entry(name, value)?;
            }
        }
        if let Some(uid) = self.0.uid {
            map.serialize_entry("uid", uid)?;
        }
        map.serialize_entry("resourceVersion", self.0.version)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use windlass_core::claim::{BootTime, Term};

    fn config_map() -> Kind {
        Kind {
            gvk: "v1/ConfigMap".parse().expect("valid"),
            plural: "configmaps".into(),
            namespaced: true,
            has_status: false,
        }
    }

    fn named(namespace: &str, name: &str) -> ObjectRef {
        ObjectRef { gvk: config_map().gvk, namespace: namespace.into(), name: name.into() }
    }

    #[test]
    fn a_name_never_leaves_its_path() {
        assert_eq!(
            object_path(&config_map(), &named("ns", "a")).expect("valid"),
            "/api/v1/namespaces/ns/configmaps/a"
        );
        for (namespace, name) in
            [("ns", "../a"), ("ns", ""), ("", "a"), ("a/b", "c"), ("..", "c"), ("ns", "a?b")]
        {
            assert!(object_path(&config_map(), &named(namespace, name)).is_err(), "{namespace} {name}");
        }
        let mut bad = config_map();
        bad.plural = "configmaps/x".into();
        assert!(object_path(&bad, &named("ns", "a")).is_err());
    }

    #[test]
    fn a_write_says_who_for_whom_and_for_how_long() {
        let plugin = PluginName::try_new("webapp").expect("valid");
        let digest = Digest::of(b"x");
        let claim = Claim { holder: "host-0".into(), term: Term(7), ends: BootTime(0) };
        let actor = Actor::Plugin {
            host_namespace: "windlass-system",
            name: &plugin,
            digest: Some(&digest),
            claim: &claim,
            discreet: false,
        };
        let request = Call::apply("/x".to_owned(), b"{}".to_vec())
            .build(&actor, Duration::from_micros(1_500_900))
            .expect("valid");
        assert_eq!(
            request.uri(),
            "/x?force=true&fieldValidation=Warn&fieldManager=windlass%2Fwebapp&timeout=1500ms"
        );
        let header = |name: &str| request.headers()[name].to_str().expect("text").to_owned();
        assert_eq!(header("impersonate-user"), "system:serviceaccount:windlass-system:plugin-webapp");
        assert_eq!(header("impersonate-extra-windlass.dev%2Fclaim"), "host-0/7");
        assert_eq!(header("impersonate-extra-windlass.dev%2Fplugin"), format!("webapp@{digest}"));
        assert_eq!(header("content-type"), APPLY);
        assert_eq!(header("accept"), JSON);
        assert!(!request.headers().contains_key("user-agent"), "it stays the client's");
    }

    #[test]
    fn a_read_is_the_hosts_own() {
        let request = Call::get("/x".to_owned()).build(&Actor::Host, Duration::from_secs(5)).expect("valid");
        assert_eq!(request.uri(), "/x?timeout=5000ms");
        assert!(!request.headers().contains_key("impersonate-user"));
    }

    #[test]
    fn a_holder_that_is_no_header_is_refused_before_anything_is_sent() {
        let plugin = PluginName::try_new("webapp").expect("valid");
        let claim = Claim { holder: "a\nb".into(), term: Term(1), ends: BootTime(0) };
        let actor = Actor::Plugin {
            host_namespace: "ns",
            name: &plugin,
            digest: None,
            claim: &claim,
            discreet: false,
        };
        assert!(Call::get("/x".to_owned()).build(&actor, Duration::from_secs(1)).is_err());
    }

    #[test]
    fn preconditions_replace_what_the_body_says() {
        let body = json!({"apiVersion": "v1", "metadata": {"name": "a", "uid": "liar", "resourceVersion": "0"}, "data": {}});
        let sent: Value =
            serde_json::from_slice(&with_preconditions(&body, Some("u1"), "9").expect("json")).expect("json");
        assert_eq!(
            sent,
            json!({"apiVersion": "v1", "metadata": {"name": "a", "uid": "u1", "resourceVersion": "9"}, "data": {}})
        );
        let bare: Value =
            serde_json::from_slice(&with_preconditions(&json!({}), None, "1").expect("json")).expect("json");
        assert_eq!(bare, json!({"metadata": {"resourceVersion": "1"}}));
    }
}

//! Requests as this server understands them, and answers as HTTP carries them.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use ::http::{Method, Request, Response};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use kube::client::Body;
use serde_json::{Value, json};

use super::store::{Kind, NAMESPACE};
use super::weather::Sort;

pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// The header in which each write of a plugin says its claim.
const CLAIM: &str = "impersonate-extra-windlass.dev%2fclaim";

/// One request as this server understands it.
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) kind: Option<Kind>,
    /// About Kubernetes Events, which are taken and forgotten.
    pub(crate) event: bool,
    pub(crate) name: String,
    pub(crate) status: bool,
    query: Vec<(String, String)>,
    pub(crate) claim: Option<String>,
    pub(crate) merge: bool,
    pub(crate) body: Value,
}

impl Asked {
    pub(crate) async fn read(request: Request<Body>) -> Self {
        let (head, body) = request.into_parts();
        let bytes = body.collect().await.expect("a request's body is in memory").to_bytes();
        let mut parts = head.uri.path().split('/').filter(|part| !part.is_empty());
        let mut rest: Vec<&str> = parts.by_ref().collect();
        // Behind the group and version, and behind the namespace.
        rest.drain(..if rest[0] == "api" { 2 } else { 3 });
        if rest.first() == Some(&"namespaces") {
            assert_eq!(rest[1], NAMESPACE, "{}", head.uri);
            rest.drain(..2);
        }
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let event = rest.first() == Some(&"events");
        let kind = rest.first().filter(|_| !event).map(|plural| {
            Kind::of_plural(plural).unwrap_or_else(|| panic!("the host asks for {}", head.uri))
        });
        Self {
            kind,
            event,
            name: rest.get(1).copied().unwrap_or_default().to_owned(),
            status: rest.get(2) == Some(&"status"),
            query: head.uri.query().unwrap_or_default().split('&').filter_map(pair).collect(),
            claim: header(CLAIM).map(str::to_owned),
            merge: header("content-type") == Some("application/merge-patch+json"),
            body: serde_json::from_slice(&bytes).unwrap_or_default(),
            method: head.method,
        }
    }

    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_write(&self) -> bool {
        self.method != Method::GET
    }

    pub(crate) fn sort(&self) -> Sort {
        match () {
            () if self.is_write() => Sort::Write,
            () if self.parameter("watch").is_some() => Sort::Watch,
            () if !self.name.is_empty() => Sort::Look,
            () => Sort::List,
        }
    }

    pub(crate) fn lasts(&self) -> Duration {
        let seconds = self.parameter("timeoutSeconds").and_then(|text| text.parse().ok());
        Duration::from_secs(seconds.expect("the host bounds its watches"))
    }

    pub(crate) fn manager(&self) -> &str {
        self.parameter("fieldManager").expect("the host names itself")
    }
}

/// Everything that is served, as if it were of every group.
pub(crate) fn discovery() -> Value {
    let verbs = json!(["list", "watch", "get", "patch", "delete"]);
    let kinds = Kind::ALL
        .map(|kind| json!({"name": kind.plural(), "kind": kind.name(), "namespaced": true, "verbs": verbs}));
    let status = json!({"name": "webs/status", "kind": "Web", "namespaced": true, "verbs": ["get", "patch"]});
    json!({"kind": "APIResourceList", "resources": kinds.into_iter().chain([status]).collect::<Vec<_>>()})
}

pub(crate) fn full(bytes: Bytes) -> UnsyncBoxBody<Bytes, io::Error> {
    Full::new(bytes).map_err(|error: Infallible| match error {}).boxed_unsync()
}

pub(crate) fn whole(code: u16, content_type: &str, body: String) -> Answer {
    let answer = Response::builder().status(code).header("content-type", content_type);
    answer.body(full(body.into())).expect("valid")
}

pub(crate) fn json_answer(code: u16, body: String) -> Answer {
    whole(code, "application/json", body)
}

pub(crate) fn status(code: u16, message: &str, pause: Option<u64>) -> Answer {
    let body =
        json!({"kind": "Status", "status": "Failure", "code": code, "reason": "R", "message": message});
    let mut answer = json_answer(code, body.to_string());
    if let Some(seconds) = pause {
        answer.headers_mut().insert("retry-after", seconds.into());
    }
    answer
}

fn pair(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    Some((name.to_owned(), decoded(value)))
}

/// Without the escapes of a URL.
fn decoded(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            plain.push(byte);
            continue;
        }
        let digits = [bytes.next(), bytes.next()].map(|digit| char::from(digit.expect("two digits")));
        let number = digits.iter().fold(0, |n, digit| n * 16 + digit.to_digit(16).expect("a digit"));
        plain.push(u8::try_from(number).expect("two digits"));
    }
    String::from_utf8(plain).expect("text")
}

//! An API server for tests: answers from a script, remembers what it was asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};
use windlass_core::claim::{BootClock, BootTime, Claim, Gate, Term};
use windlass_core::decision::{Notice, Severity};
use windlass_core::key::Key;
use windlass_core::kind::Kind;
use windlass_core::name::PluginName;
use windlass_core::plan::Target;

use crate::writer::{Config, Writer, lock};

/// What the script says to one request.
#[derive(Clone)]
pub(crate) enum Say {
    /// An answer.
    Reply(StatusCode, Vec<(&'static str, String)>, Vec<u8>),
    /// What was sent, as it would be stored, after so long.
    Echo(Duration),
    /// The connection is cut after the request was sent.
    Cut,
    /// Nobody listens.
    Refuse,
    /// No answer, ever.
    Silence,
}

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    /// Permits that were held while it was on the wire.
    pub(crate) in_flight: usize,
}

type Hook = Box<dyn FnMut(usize) + Send>;

#[derive(Default)]
struct Script {
    next: VecDeque<Say>,
    always: Option<Say>,
    seen: Vec<Seen>,
    hook: Option<Hook>,
    /// The version of the primary as a look before a removal finds it; else the script answers.
    primary: Option<String>,
    looks: usize,
}

/// The server, and the gate and clock of the writer that talks to it.
#[derive(Clone)]
pub(crate) struct Api {
    script: Arc<Mutex<Script>>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) clock: Arc<Clock>,
}

/// A clock that tests set.
#[derive(Default)]
pub(crate) struct Clock(Mutex<Duration>);

impl Clock {
    pub(crate) fn set(&self, to: Duration) {
        *lock(&self.0) = to;
    }
}

impl BootClock for Clock {
    fn now(&self) -> BootTime {
        BootTime(0).plus(*lock(&self.0))
    }
}

impl Api {
    pub(crate) fn new() -> Self {
        let gate = Gate::new();
        gate.open(claim(), BootTime(0));
        let api = Self { script: Arc::default(), gate, clock: Arc::default() };
        api.primary_is_at("100");
        api
    }

    pub(crate) fn writer(&self) -> Writer {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| api.clone().serve(request));
        let client = kube::Client::new(service, "default");
        Writer::new(client, self.gate.clone(), self.clock.clone(), Config::new("sys", "host-0"))
    }

    pub(crate) fn say(&self, say: Say) {
        lock(&self.script).next.push_back(say);
    }

    pub(crate) fn answer(&self, code: StatusCode, body: Value) {
        self.say(Say::Reply(code, Vec::new(), body.to_string().into_bytes()));
    }

    pub(crate) fn always(&self, code: StatusCode, body: Value) {
        lock(&self.script).always = Some(Say::Reply(code, Vec::new(), body.to_string().into_bytes()));
    }

    /// Answers everything from now on as if it were written, each after so long.
    pub(crate) fn echo(&self, takes: Duration) {
        lock(&self.script).always = Some(Say::Echo(takes));
    }

    /// At which version the primary is found before something is removed for it.
    pub(crate) fn primary_is_at(&self, version: &str) {
        lock(&self.script).primary = Some(version.to_owned());
    }

    /// How often the primary was looked at before something was removed.
    pub(crate) fn looks(&self) -> usize {
        lock(&self.script).looks
    }

    /// Called with the number of each request when it arrives, from 0.
    pub(crate) fn hook(&self, hook: impl FnMut(usize) + Send + 'static) {
        lock(&self.script).hook = Some(Box::new(hook));
    }

    pub(crate) fn requests(&self) -> Vec<Seen> {
        lock(&self.script).seen.clone()
    }

    async fn serve(self, request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
        let (head, body) = request.into_parts();
        let bytes = body.collect().await.expect("a request's body is in memory").to_bytes();
        let say = {
            let mut script = lock(&self.script);
            let is_look = head.method == http::Method::GET && head.uri.path().ends_with("/webapps/a");
            if let Some(version) = script.primary.clone().filter(|_| is_look) {
                script.looks += 1;
                let found = stored(&primary(), &version).to_string();
                return Ok(Response::new(Body::from(found.into_bytes())));
            }
            let number = script.seen.len();
            script.seen.push(Seen {
                method: head.method.to_string(),
                path: head.uri.path().to_owned(),
                query: head.uri.query().unwrap_or_default().to_owned(),
                headers: head.headers,
                body: serde_json::from_slice(&bytes).unwrap_or_default(),
                in_flight: self.gate.in_flight(),
            });
            if let Some(hook) = &mut script.hook {
                hook(number);
            }
            script.next.pop_front().or_else(|| script.always.clone())
        };
        match say {
            Some(Say::Reply(code, headers, body)) => {
                let mut response = Response::builder().status(code);
                for (name, value) in headers {
                    response = response.header(name, value);
                }
                Ok(response.body(Body::from(body)).expect("a valid response"))
            }
            Some(Say::Echo(takes)) => {
                tokio::time::sleep(takes).await;
                Ok(Response::new(Body::from(echoed(&head.method, &bytes).to_string().into_bytes())))
            }
            Some(Say::Cut) => Err(std::io::ErrorKind::ConnectionReset.into()),
            Some(Say::Refuse) => Err(std::io::ErrorKind::ConnectionRefused.into()),
            Some(Say::Silence) => std::future::pending().await,
            None => panic!("the script has no answer for {} {}", head.method, head.uri),
        }
    }
}

/// What an API server answers to a write that it takes.
fn echoed(method: &http::Method, sent: &[u8]) -> Value {
    if method == http::Method::DELETE {
        return json!({"kind": "Status", "status": "Success"});
    }
    let mut object: Value = serde_json::from_slice(sent).expect("a configuration");
    let metadata = &mut object["metadata"];
    if metadata["uid"].is_null() {
        metadata["uid"] = format!("of {}", metadata["name"]).into();
    }
    metadata["resourceVersion"] = "500".into();
    object
}

/// Term 3 of `host-0`, which ends 10 s after boot.
pub(crate) fn claim() -> Claim {
    Claim { holder: "host-0".into(), term: Term(3), ends: BootTime(0).plus(Duration::from_secs(10)) }
}

pub(crate) fn key() -> Key {
    Key::new(PluginName::try_new("webapp").expect("valid"), "ns", "a")
}

/// The primary `WebApp ns/a`, uid `p1`, version 100.
pub(crate) fn primary() -> Target {
    target("example.com/v1/WebApp", "webapps", "a", "p1", "100")
}

/// The child `ConfigMap ns/a-cfg`, uid `c1`, version 42.
pub(crate) fn child() -> Target {
    target("v1/ConfigMap", "configmaps", "a-cfg", "c1", "42")
}

pub(crate) fn target(gvk: &str, plural: &str, name: &str, uid: &str, version: &str) -> Target {
    let kind =
        Kind { gvk: gvk.parse().expect("valid"), plural: plural.into(), namespaced: true, has_status: true };
    Target {
        object: windlass_core::key::ObjectRef {
            gvk: kind.gvk.clone(),
            namespace: "ns".into(),
            name: name.into(),
        },
        kind,
        uid: uid.into(),
        version: version.into(),
    }
}

/// `of` as the API server answers with it, at `version`.
pub(crate) fn stored(of: &Target, version: &str) -> Value {
    json!({
        "apiVersion": of.kind.gvk.api_version(),
        "kind": &*of.kind.gvk.kind,
        "metadata": {
            "name": &*of.object.name, "namespace": &*of.object.namespace, "uid": &*of.uid, "resourceVersion": version,
            "managedFields": [
                {"manager": "windlass/webapp", "operation": "Apply", "fieldsV1": {"f:data": {}}},
                {"manager": "windlass/webapp", "operation": "Apply", "subresource": "status", "fieldsV1": {"f:status": {}}},
            ],
        },
    })
}

pub(crate) fn notice(reason: &str) -> Notice {
    Notice {
        severity: Severity::Warning,
        reason: reason.to_owned(),
        message: "something happened".to_owned(),
    }
}

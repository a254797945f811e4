//! An API server for one Lease, in this process: versions, conflicts and watches as
//! the real one has them, and faults on demand.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use futures::stream::{Stream, StreamExt};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// What it does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Healthy,
    /// Never answers, and carries out nothing.
    Silent,
    /// Carries out writes and never says so.
    Mute,
    /// Says 500 and carries out nothing.
    Failing,
}

/// Asked about each accepted write, with the Lease as stored.
type Witness = Box<dyn FnMut(&Value) + Send>;

pub(crate) struct Fake {
    state: Mutex<State>,
    mood: watch::Sender<Mood>,
    writes: watch::Sender<u64>,
}

struct State {
    lease: Option<Value>,
    version: u64,
    watchers: Vec<UnboundedSender<Bytes>>,
    witness: Option<Witness>,
}

impl Fake {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State { lease: None, version: 10, watchers: Vec::new(), witness: None }),
            mood: watch::channel(Mood::Healthy).0,
            writes: watch::channel(0).0,
        })
    }

    /// A client that talks to it. Must be called within a runtime.
    pub(crate) fn client(self: &Arc<Self>) -> kube::Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request| {
            let fake = fake.clone();
            async move { Ok::<_, Infallible>(fake.serve(request).await) }
        });
        kube::Client::new(service, "ns")
    }

    pub(crate) fn mood(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    pub(crate) fn witness(&self, witness: impl FnMut(&Value) + Send + 'static) {
        self.state.lock().unwrap().witness = Some(Box::new(witness));
    }

    pub(crate) fn lease(&self) -> Option<Value> {
        self.state.lock().unwrap().lease.clone()
    }

    /// Somebody's `kubectl edit`, or `kubectl create` when there is none.
    pub(crate) fn edit(&self, spec: Value) {
        let mut state = self.state.lock().unwrap();
        let mut lease =
            state.lease.clone().unwrap_or_else(|| json!({ "metadata": { "name": "windlass", "uid": "u" } }));
        lease["spec"] = spec;
        state.store(lease, "MODIFIED");
    }

    pub(crate) fn delete(&self) {
        let mut state = self.state.lock().unwrap();
        if let Some(lease) = state.lease.clone() {
            state.store(lease, "DELETED");
            state.lease = None;
        }
    }

    /// Accepted writes so far; changes wake the receiver.
    pub(crate) fn writes(&self) -> watch::Receiver<u64> {
        self.writes.subscribe()
    }

    async fn serve(&self, request: Request<Body>) -> Answer {
        let mood = *self.mood.borrow();
        match mood {
            Mood::Silent => return std::future::pending().await,
            Mood::Failing => return status(StatusCode::INTERNAL_SERVER_ERROR, "failing"),
            Mood::Healthy | Mood::Mute => {}
        }
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let query = parts.uri.query().unwrap_or_default();
        let named = parts.uri.path().ends_with("/leases/windlass");
        if query.contains("watch=1") {
            return self.watch();
        }
        let answer = match (parts.method, named) {
            (Method::GET, true) => self.state.lock().unwrap().read(),
            (Method::GET, false) => self.state.lock().unwrap().list(),
            (Method::POST | Method::PUT, _) => self.write(named, &body),
            (method, _) => panic!("a {method} that no lease needs"),
        };
        if mood == Mood::Mute {
            return std::future::pending().await;
        }
        answer
    }

    fn write(&self, named: bool, body: &[u8]) -> Answer {
        let lease: Value = serde_json::from_slice(body).unwrap();
        let answer = self.state.lock().unwrap().write(named, lease);
        if answer.status().is_success() {
            self.writes.send_modify(|writes| *writes += 1);
        }
        answer
    }

    fn watch(&self) -> Answer {
        let (sender, receiver) = unbounded();
        self.state.lock().unwrap().watchers.push(sender);
        streamed(receiver)
    }
}

impl State {
    fn read(&self) -> Answer {
        match &self.lease {
            Some(lease) => answer(StatusCode::OK, lease),
            None => status(StatusCode::NOT_FOUND, "not found"),
        }
    }

    fn list(&self) -> Answer {
        let items: Vec<_> = self.lease.iter().collect();
        answer(
            StatusCode::OK,
            &json!({ "metadata": { "resourceVersion": self.version.to_string() }, "items": items }),
        )
    }

    fn write(&mut self, named: bool, mut lease: Value) -> Answer {
        match &self.lease {
            Some(_) if !named => return status(StatusCode::CONFLICT, "already exists"),
            None if named => return status(StatusCode::NOT_FOUND, "not found"),
            Some(old) if old["metadata"]["resourceVersion"] != lease["metadata"]["resourceVersion"] => {
                return status(StatusCode::CONFLICT, "the object has been modified");
            }
            Some(_) => {}
            None => lease["metadata"]["uid"] = json!(format!("u-{}", self.version)),
        }
        let lease = self.store(lease, "MODIFIED");
        if let Some(witness) = &mut self.witness {
            witness(&lease);
        }
        answer(StatusCode::OK, &lease)
    }

    fn store(&mut self, mut lease: Value, event: &str) -> Value {
        self.version += 1;
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.lease = Some(lease.clone());
        let line = format!("{}\n", json!({ "type": event, "object": lease }));
        self.watchers.retain(|watcher| watcher.unbounded_send(Bytes::from(line.clone())).is_ok());
        lease
    }
}

fn answer(status: StatusCode, body: &Value) -> Answer {
    let mut answer = streamed(futures::stream::iter([Bytes::from(body.to_string())]));
    *answer.status_mut() = status;
    answer
}

fn status(status: StatusCode, message: &str) -> Answer {
    answer(status, &json!({ "kind": "Status", "code": status.as_u16(), "message": message }))
}

fn streamed(chunks: impl Stream<Item = Bytes> + Send + 'static) -> Answer {
    Response::new(StreamBody::new(chunks.map(|chunk| Ok(http_body::Frame::data(chunk)))).boxed_unsync())
}

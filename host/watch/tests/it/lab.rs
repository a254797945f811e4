//! The API server that a test plays: each request waits until the test answers it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc as body_channel;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::Client;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use windlass_core::key::{Key, ObjectRef};
use windlass_core::kind::Gvk;
use windlass_core::manifest::{ChildRule, Manifest, ReadRule, Unwanted};
use windlass_core::name::PluginName;
use windlass_core::ports::{Cache, Sink};
use windlass_core::urgency::Urgency;
use windlass_watch::cache::ClusterCache;
use windlass_watch::watches::Watches;

type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

/// What discovery says in these tests.
pub(crate) const WEB_GROUP: &str = r#"{"kind":"APIResourceList","resources":[
    {"name":"webs","kind":"Web","namespaced":true,"verbs":["list","watch"]},
    {"name":"webs/status","kind":"Web","namespaced":true,"verbs":["get"]}]}"#;
pub(crate) const CORE_GROUP: &str = r#"{"kind":"APIResourceList","resources":[
    {"name":"configmaps","kind":"ConfigMap","namespaced":true,"verbs":["list","watch"]},
    {"name":"secrets","kind":"Secret","namespaced":true,"verbs":["list","watch"]}]}"#;
pub(crate) const WEBS: &str = "/apis/x.dev/v1/webs?";
pub(crate) const CONFIG_MAPS: &str = "/api/v1/configmaps?";

/// A request that waits for its answer.
pub(crate) struct Call {
    pub(crate) address: String,
    /// Which form of the answer it accepts.
    pub(crate) accept: String,
    reply: oneshot::Sender<Answer>,
}

/// The sending half of an answer that goes on.
pub(crate) struct Stream(body_channel::UnboundedSender<Result<http_body::Frame<Bytes>, std::io::Error>>);

/// The requests that were not looked at yet.
pub(crate) struct Api {
    incoming: mpsc::UnboundedReceiver<Call>,
    waiting: VecDeque<Call>,
}

#[derive(Clone)]
struct Wire(mpsc::UnboundedSender<Call>);

impl tower_service::Service<Request<kube::client::Body>> for Wire {
    type Response = Answer;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, std::io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let (reply, answer) = oneshot::channel();
        let address = request.uri().to_string();
        let accept =
            request.headers().get("accept").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let sent = self.0.send(Call { address, accept, reply });
        Box::pin(async move {
            sent.map_err(|_| std::io::Error::other("the test has ended"))?;
            answer.await.map_err(|_| std::io::Error::other("connection refused"))
        })
    }
}

impl Api {
    pub(crate) fn new() -> (Self, Client) {
        let (sender, incoming) = mpsc::unbounded_channel();
        let client = Client::new(Wire(sender), "default");
        let waiting = VecDeque::new();
        (Self { incoming, waiting }, client)
    }

    /// Waits for the next request to an address that begins so.
    pub(crate) async fn call(&mut self, address: &str) -> Call {
        loop {
            if let Some(at) = self.waiting.iter().position(|call| call.address.starts_with(address)) {
                return self.waiting.remove(at).expect("the position was just found");
            }
            let call = self.incoming.recv().await.expect("the client is alive");
            self.waiting.push_back(call);
        }
    }

    /// As [`Api::call`], for a list.
    pub(crate) async fn list(&mut self, address: &str) -> Call {
        let call = self.call(address).await;
        assert!(!call.address.contains("watch=1"), "a list was expected: {}", call.address);
        call
    }

    /// As [`Api::call`], for a watch from this version.
    pub(crate) async fn watch(&mut self, address: &str, version: &str) -> Call {
        let call = self.call(address).await;
        let from = format!("&resourceVersion={version}&");
        let is_watch = call.address.contains("watch=1") && call.address.contains(&from);
        assert!(is_watch, "a watch from {version} was expected: {}", call.address);
        assert!(call.address.contains("allowWatchBookmarks=true"), "{}", call.address);
        call
    }

    /// Whether a request to an address that begins so has come.
    pub(crate) async fn has_call(&mut self, address: &str) -> bool {
        settle().await;
        while let Ok(call) = self.incoming.try_recv() {
            self.waiting.push_back(call);
        }
        self.waiting.iter().any(|call| call.address.starts_with(address))
    }
}

impl Call {
    pub(crate) fn answer_with(self, status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) {
        let mut answer = Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        let body = Full::new(body.into()).map_err(|e: Infallible| match e {});
        // A caller that has given up does not mind.
        let _ = self.reply.send(answer.body(body.boxed_unsync()).expect("valid"));
    }

    pub(crate) fn json(self, body: impl Into<Bytes>) {
        self.answer_with(200, &[("content-type", "application/json")], body);
    }

    pub(crate) fn fail(self, status: u16) {
        let body = format!(r#"{{"kind":"Status","code":{status},"reason":"R","message":"m"}}"#);
        self.answer_with(status, &[("content-type", "application/json")], body);
    }

    /// Answers with a list.
    pub(crate) fn objects(self, version: u64, objects: &[String]) {
        self.page(version, "", objects);
    }

    pub(crate) fn page(self, version: u64, next: &str, objects: &[String]) {
        let items = objects.join(",");
        self.json(format!(
            r#"{{"kind":"List","metadata":{{"resourceVersion":"{version}","continue":"{next}"}},"items":[{items}]}}"#
        ));
    }

    /// Answers with a head, and a body that goes on.
    pub(crate) fn stream(self) -> Stream {
        let (sender, frames) = body_channel::unbounded();
        let answer = Response::builder().header("content-type", "application/json");
        let body = StreamBody::new(frames).boxed_unsync();
        let _ = self.reply.send(answer.body(body).expect("valid"));
        Stream(sender)
    }
}

impl Stream {
    pub(crate) fn send(&self, text: impl Into<Bytes>) {
        // The reader may have given up already.
        let _ = self.0.unbounded_send(Ok(http_body::Frame::data(text.into())));
    }

    pub(crate) fn event(&self, event: &str, object: &str) {
        self.send(format!("{{\"type\":\"{event}\",\"object\":{object}}}\n"));
    }

    pub(crate) fn bookmark(&self, version: u64) {
        self.event("BOOKMARK", &format!(r#"{{"metadata":{{"resourceVersion":"{version}"}}}}"#));
    }

    pub(crate) fn cut(self) {
        let _ = self.0.unbounded_send(Err(std::io::Error::other("connection reset")));
    }
}

/// Keeps the keys that were offered, and how urgently.
#[derive(Clone, Default)]
pub(crate) struct Keys(Arc<Mutex<Vec<(String, Urgency)>>>);

impl Sink for Keys {
    fn offer_as(&self, key: Key, urgency: Urgency) {
        self.0.lock().expect("no test panics with it").push((key.to_string(), urgency));
    }
}

impl Keys {
    /// As [`take`](Self::take), with how urgent each is.
    pub(crate) async fn urgencies(&self) -> Vec<(String, Urgency)> {
        settle().await;
        let mut keys = std::mem::take(&mut *self.0.lock().expect("no test panics with it"));
        keys.sort();
        keys
    }

    /// The keys since the last call, once everything that can run has run.
    pub(crate) async fn take(&self) -> Vec<String> {
        self.urgencies().await.into_iter().map(|(key, _)| key).collect()
    }
}

/// Watches that run against an API server played by the test.
pub(crate) struct Lab {
    pub(crate) api: Api,
    pub(crate) keys: Keys,
    pub(crate) watches: Arc<Watches>,
    task: JoinHandle<()>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::limited(None)
    }

    /// With a cache of at most so many bytes.
    pub(crate) fn limited(limit: Option<usize>) -> Self {
        let (api, client) = Api::new();
        let keys = Keys::default();
        let watches = Arc::new(Watches::new(client, "sys", Arc::new(keys.clone()), limit));
        let running = watches.clone();
        let task = tokio::spawn(async move { running.run().await });
        Self { api, keys, watches, task }
    }

    /// With plugin `p` that reconciles Webs, its kind listed with these objects at
    /// version 10, and its watch open.
    pub(crate) async fn with_webs(objects: &[String]) -> (Self, Stream) {
        let mut lab = Self::new();
        lab.want(&manifest("p", "x.dev/v1/Web", &[], &[]));
        lab.api.call("/apis/x.dev/v1").await.json(WEB_GROUP);
        lab.api.list(WEBS).await.objects(10, objects);
        let stream = lab.api.watch(WEBS, "10").await.stream();
        lab.keys.take().await;
        (lab, stream)
    }

    pub(crate) fn want(&self, manifest: &Manifest) {
        self.watches.want(&manifest.name, manifest);
    }

    pub(crate) fn cache(&self) -> Arc<ClusterCache> {
        self.watches.cache()
    }

    /// `name@version` of each object of a kind.
    pub(crate) fn held(&self, kind: &str) -> Vec<String> {
        let query = windlass_core::reads::Query { gvk: gvk(kind), namespace: None, labels: Vec::new() };
        let objects = self.cache().list(&query);
        objects.iter().map(|o| format!("{}@{}", o.meta().name, o.meta().version())).collect()
    }

    pub(crate) fn status(&self, kind: &str) -> windlass_watch::progress::WatchStatus {
        let kind = gvk(kind);
        let all = self.watches.status();
        all.into_iter().find(|status| status.gvk == kind).expect("the kind is wanted")
    }
}

/// Lets everything that can run without time passing run.
pub(crate) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) fn gvk(text: &str) -> Gvk {
    text.parse().expect("valid")
}

pub(crate) fn key(plugin: &str, name: &str) -> Key {
    Key::new(PluginName::try_new(plugin).expect("valid"), "ns", name)
}

pub(crate) fn reference(kind: &str, name: &str) -> ObjectRef {
    ObjectRef { gvk: gvk(kind), namespace: "ns".into(), name: name.into() }
}

/// An object in namespace `ns` whose uid is `u-<name>`.
pub(crate) fn object(name: &str, version: u64) -> String {
    labelled(name, version, &[])
}

pub(crate) fn labelled(name: &str, version: u64, labels: &[(&str, &str)]) -> String {
    let labels: Vec<String> = labels.iter().map(|(k, v)| format!(r#""{k}":"{v}""#)).collect();
    format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"ns","uid":"u-{name}","resourceVersion":"{version}","labels":{{{}}}}}}}"#,
        labels.join(",")
    )
}

/// A child of `<plugin>:ns/<primary>` made by the host in `host`.
pub(crate) fn child(name: &str, version: u64, host: &str, plugin: &str, primary: &str) -> String {
    format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"ns","uid":"u-{name}","resourceVersion":"{version}",
        "labels":{{"windlass.dev/host":"{host}","windlass.dev/owned-by":"{plugin}"}},
        "annotations":{{"windlass.dev/primary":"ns/{primary}"}}}}}}"#
    )
    .replace('\n', "")
}

pub(crate) fn manifest(name: &str, primary: &str, children: &[&str], reads: &[&str]) -> Manifest {
    let child = |kind: &&str| ChildRule { kind: gvk(kind), unwanted: Unwanted::Delete };
    let read = |kind: &&str| ReadRule { kind: gvk(kind), scope: windlass_core::scope::Scope::default() };
    Manifest {
        name: PluginName::try_new(name).expect("valid"),
        version: "1".into(),
        primary: gvk(primary),
        children: children.iter().map(child).collect(),
        reads: reads.iter().map(read).collect(),
        selects: windlass_core::scope::Scope::default(),
        strict: true,
        finalizes: false,
    }
}

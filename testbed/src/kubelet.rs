//! The least that can stand in for a kubelet: pods become Running and Ready, and go when they are deleted.
//!
//! There are no containers. A pod that is to run for ever is Ready as soon as it is seen; one that is not (`restartPolicy` other
//! than `Always`) has succeeded at once. The annotation `windlass.dev/testbed-ready: "false"` on a pod holds it back, and may come
//! and go. It is level-triggered: whatever ends the watch, a new list repairs what was missed.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use kube::Client;
use kube::core::WatchEvent;
use serde_json::{Value, json};

/// The annotation that holds a pod back from being Ready while it says `false`.
pub const READY_ANNOTATION: &str = "windlass.dev/testbed-ready";

/// The name of the one node.
pub const NODE: &str = "testbed";

/// How many pods are worked on at once; beyond about 30 the API server gets no faster on two cores.
const AT_ONCE: usize = 32;

/// How often one pod is tried before it is left to the next list.
const ATTEMPTS: u32 = 8;

/// Before the first retry, and before listing again after a watch that ended badly; doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Whether pods get a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Pods stay without a node and become Ready all the same. One write a pod, and the API server removes a deleted one at once.
    Unbound,
    /// Pods are bound to the node `testbed` first, as a scheduler would, and are removed by us when deleted. Three writes a pod; for the demo.
    Bound,
}

/// A stand-in for scheduler and kubelet.
#[derive(Debug)]
pub struct Kubelet {
    node: NodeAgent,
}

/// What the work on one pod needs; cloned into each piece of it.
#[derive(Clone)]
struct NodeAgent {
    client: Client,
    placement: Placement,
}

impl std::fmt::Debug for NodeAgent {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("NodeAgent").field("placement", &self.placement).finish_non_exhaustive()
    }
}

/// What a pod lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Remove,
    Bind,
    Report,
}

impl Kubelet {
    /// Works through a client that may do anything with nodes and pods.
    pub fn new(client: Client, placement: Placement) -> Self {
        Self { node: NodeAgent { client, placement } }
    }

    /// Runs until `stop` is ready. Never fails: an API server that is away is waited for.
    ///
    /// # Cancel safety
    /// May be dropped at any point; pods that were worked on stay as they are.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let (mut stop, mut serve) = (pin!(stop), pin!(self.serve()));
        tokio::select! {
            () = &mut stop => {}
            never = &mut serve => match never {},
        }
    }

    async fn serve(&self) -> std::convert::Infallible {
        let mut pause = PAUSE;
        loop {
            match self.follow().await {
                Ok(()) => pause = PAUSE,
                Err(_) => {
                    // Whatever it was, the list that follows tells the truth again.
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// One list and the watch that goes on from it, until the watch ends.
    async fn follow(&self) -> kube::Result<()> {
        self.node.register().await?;
        let list: Value = self.node.client.request(get("/api/v1/pods")).await?;
        let mut work = Work::new(&self.node);
        for pod in list["items"].as_array().into_iter().flatten() {
            work.offer(pod.clone());
        }
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("0");
        let path = format!(
            "/api/v1/pods?watch=1&allowWatchBookmarks=true&timeoutSeconds=280&resourceVersion={version}"
        );
        let mut events = pin!(self.node.client.request_events::<Value>(get(&path)).await?);
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => work.take(event?)?,
                    None => return Ok(()),
                },
                Some(uid) = work.running.next() => work.done(&uid),
            }
        }
    }
}

/// The pods in hand: at most [`AT_ONCE`] being worked on, the rest in a line, each once.
struct Work<'a> {
    node: &'a NodeAgent,
    running: FuturesUnordered<BoxFuture<'static, String>>,
    waiting: VecDeque<(String, Value)>,
    /// By uid; the value is what was heard about the pod since it was taken in hand.
    in_hand: HashMap<String, Option<Value>>,
}

impl<'a> Work<'a> {
    fn new(node: &'a NodeAgent) -> Self {
        Self { node, running: FuturesUnordered::new(), waiting: VecDeque::new(), in_hand: HashMap::new() }
    }

    fn take(&mut self, event: WatchEvent<Value>) -> kube::Result<()> {
        match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => self.offer(pod),
            WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
        }
        Ok(())
    }

    fn offer(&mut self, pod: Value) {
        let Some(uid) = pod["metadata"]["uid"].as_str().map(str::to_owned) else { return };
        if let Some(heard) = self.in_hand.get_mut(&uid) {
            *heard = Some(pod);
        } else if next_step(self.node.placement, &pod).is_some() {
            self.in_hand.insert(uid.clone(), None);
            self.waiting.push_back((uid, pod));
            self.fill();
        }
    }

    fn done(&mut self, uid: &str) {
        if let Some(Some(heard)) = self.in_hand.remove(uid) {
            self.offer(heard);
        }
        self.fill();
    }

    fn fill(&mut self) {
        while self.running.len() < AT_ONCE
            && let Some((uid, pod)) = self.waiting.pop_front()
        {
            let node = self.node.clone();
            self.running.push(async move { node.see_to(pod).map(|()| uid).await }.boxed());
        }
    }
}

impl NodeAgent {
    /// Makes the node, Ready and without the taint that admission gives to new nodes.
    async fn register(&self) -> kube::Result<()> {
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE, "labels": { "kubernetes.io/hostname": NODE } } });
        match self.client.request::<Value>(send("POST", "/api/v1/nodes", &node)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            made => drop(made?),
        }
        let since = now();
        let capacity = json!({ "cpu": "64", "memory": "256Gi", "pods": "10000" });
        let status = json!({ "status": {
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": [{ "type": "Ready", "status": "True", "reason": "Testbed", "message": "no containers here", "lastHeartbeatTime": since, "lastTransitionTime": since }],
        }});
        let path = format!("/api/v1/nodes/{NODE}");
        self.client.request::<Value>(send("PATCH", &format!("{path}/status"), &status)).await?;
        self.client.request::<Value>(send("PATCH", &path, &json!({ "spec": { "taints": null } }))).await?;
        Ok(())
    }

    /// Takes a pod as far as it goes. Gives up on one that refuses, and on one that is gone.
    async fn see_to(&self, mut pod: Value) {
        let (mut attempts, mut pause) = (0, PAUSE);
        while let Some(step) = next_step(self.placement, &pod) {
            match self.take_step(step, &pod).await {
                Ok(Some(newer)) => pod = newer,
                Ok(None) => return,
                // Gone, or another pod of the same name by now.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
                Err(_) if attempts < ATTEMPTS => {
                    attempts += 1;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(_) => return,
            }
        }
    }

    /// Takes one step, and gives back the pod after it when there still is one.
    async fn take_step(&self, step: Step, pod: &Value) -> kube::Result<Option<Value>> {
        let meta = &pod["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (namespace, name, uid) = (text(&meta["namespace"]), text(&meta["name"]), text(&meta["uid"]));
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        match step {
            Step::Remove => {
                let options = json!({ "gracePeriodSeconds": 0, "preconditions": { "uid": uid } });
                self.client.request::<Value>(send("DELETE", &path, &options)).await?;
                Ok(None)
            }
            Step::Bind => {
                let binding = json!({
                    "apiVersion": "v1", "kind": "Binding",
                    "metadata": { "name": name, "uid": uid },
                    "target": { "apiVersion": "v1", "kind": "Node", "name": NODE },
                });
                self.client.request::<Value>(send("POST", &format!("{path}/binding"), &binding)).await?;
                let mut bound = pod.clone();
                bound["spec"]["nodeName"] = json!(NODE);
                Ok(Some(bound))
            }
            Step::Report => {
                let report = json!({ "metadata": { "uid": uid }, "status": status_of(pod, &uid) });
                self.client.request(send("PATCH", &format!("{path}/status"), &report)).await.map(Some)
            }
        }
    }
}

/// What a pod lacks, if anything.
fn next_step(placement: Placement, pod: &Value) -> Option<Step> {
    let meta = &pod["metadata"];
    if meta["deletionTimestamp"].is_string() {
        // With 0 it waits for finalizers, which are not ours to remove.
        return (meta["deletionGracePeriodSeconds"].as_i64() != Some(0)).then_some(Step::Remove);
    }
    if placement == Placement::Bound && pod["spec"]["nodeName"].as_str().unwrap_or("").is_empty() {
        return Some(Step::Bind);
    }
    let reported = match pod["status"]["phase"].as_str() {
        Some("Succeeded" | "Failed") => true,
        Some("Running") => !runs_to_an_end(pod) && is_ready(pod) == wants_ready(pod),
        _ => false,
    };
    (!reported).then_some(Step::Report)
}

fn runs_to_an_end(pod: &Value) -> bool {
    pod["spec"]["restartPolicy"].as_str().is_some_and(|policy| policy != "Always")
}

fn wants_ready(pod: &Value) -> bool {
    pod["metadata"]["annotations"][READY_ANNOTATION].as_str() != Some("false")
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// The status that a kubelet would report for the pod.
fn status_of(pod: &Value, uid: &str) -> Value {
    let (ended, ready, since) = (runs_to_an_end(pod), wants_ready(pod), now());
    let up = ready && !ended;
    let condition = |kind: &str, holds: bool| {
        let status = if holds { "True" } else { "False" };
        json!({ "type": kind, "status": status, "lastTransitionTime": since })
    };
    let state = if ended {
        json!({ "terminated": { "exitCode": 0, "reason": "Completed", "startedAt": since, "finishedAt": since } })
    } else {
        json!({ "running": { "startedAt": since } })
    };
    let containers: Vec<Value> = pod["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|container| {
            json!({
                "name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0,
                "ready": up, "started": !ended, "state": state,
            })
        })
        .collect();
    let address = address_of(uid);
    json!({
        "phase": if ended { "Succeeded" } else { "Running" },
        "conditions": [
            condition("PodScheduled", true),
            condition("Initialized", true),
            condition("ContainersReady", up),
            condition("Ready", up),
        ],
        "containerStatuses": containers,
        "hostIP": "127.0.0.1",
        "hostIPs": [{ "ip": "127.0.0.1" }],
        "podIP": address,
        "podIPs": [{ "ip": address }],
        "startTime": since,
    })
}

/// An address in 10.128.0.0/9 that stays the same for one pod; two pods may share one, which nobody can notice without packets.
fn address_of(uid: &str) -> String {
    let mix =
        uid.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let [_, a, b, c] = mix.to_be_bytes();
    format!("10.{}.{b}.{}", a | 0x80, c.clamp(1, 254))
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn get(path: &str) -> http::Request<Vec<u8>> {
    request("GET", path, Vec::new())
}

fn send(method: &str, path: &str, body: &Value) -> http::Request<Vec<u8>> {
    request(method, path, body.to_string().into_bytes())
}

fn request(method: &str, path: &str, body: Vec<u8>) -> http::Request<Vec<u8>> {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .header("user-agent", "windlass-testbed-kubelet")
        .body(body)
        .expect("methods and headers are constants here, and names that the API server gave out are valid in paths")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(meta: Value, spec: Value, status: Value) -> Value {
        json!({ "metadata": meta, "spec": spec, "status": status })
    }

    #[test]
    fn a_new_pod_is_bound_first_where_pods_are_bound() {
        let new = pod(json!({}), json!({}), json!({ "phase": "Pending" }));
        assert_eq!(next_step(Placement::Bound, &new), Some(Step::Bind));
        assert_eq!(next_step(Placement::Unbound, &new), Some(Step::Report));
    }

    #[test]
    fn what_we_report_is_what_we_look_for() {
        for (meta, spec) in [
            (json!({}), json!({ "containers": [{ "name": "a", "image": "b" }] })),
            (json!({}), json!({ "restartPolicy": "Never" })),
            (json!({ "annotations": { READY_ANNOTATION: "false" } }), json!({})),
        ] {
            let before = pod(meta.clone(), spec.clone(), json!({}));
            let after = pod(meta, spec, status_of(&before, "uid"));
            assert_eq!(next_step(Placement::Unbound, &before), Some(Step::Report));
            assert_eq!(next_step(Placement::Unbound, &after), None, "{after}");
        }
    }

    #[test]
    fn readiness_follows_the_annotation() {
        let held = pod(json!({ "annotations": { READY_ANNOTATION: "false" } }), json!({}), json!({}));
        let mut let_go = pod(json!({}), json!({}), status_of(&held, "uid"));
        assert!(!is_ready(&let_go));
        assert_eq!(next_step(Placement::Unbound, &let_go), Some(Step::Report));
        let_go["status"] = status_of(&let_go, "uid");
        assert!(is_ready(&let_go));
    }

    #[test]
    fn a_deleted_pod_is_removed_once() {
        let deleted = |grace: i64| {
            pod(
                json!({ "deletionTimestamp": "x", "deletionGracePeriodSeconds": grace }),
                json!({}),
                json!({}),
            )
        };
        assert_eq!(next_step(Placement::Bound, &deleted(30)), Some(Step::Remove));
        assert_eq!(next_step(Placement::Bound, &deleted(0)), None);
    }

    #[test]
    fn an_address_belongs_to_its_pod() {
        assert_eq!(address_of("a-b"), address_of("a-b"));
        assert_ne!(address_of("a-b"), address_of("a-c"));
        assert!(address_of("x").parse::<std::net::Ipv4Addr>().is_ok());
    }
}

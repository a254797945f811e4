//! One replica behind a port of `faultd`, objects that change, and the rule that holds after every fault of the data plane: within
//! 30 s everything is as it should be, and then there is silence.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_testbed::faultd::{Active, Faultd, Port, Rule};
use windlass_testbed::{AuditEvent, Mark, Options};

use crate::scene::{HOST, HOST_USER, PATIENCE, Scene, path};

/// How long after a fault everything may take to be as it should be.
pub(super) const CONVERGES: Duration = Duration::from_secs(30);
/// For how long nothing is written then.
const SILENT: Duration = Duration::from_secs(2);
/// Requests of the host in that time that are neither writes nor the election's: each of its watches ends after 20 s or more.
const QUIET_READS: usize = 8;
/// Objects that there are.
const WIDGETS: usize = 4;

pub(super) struct Stand {
    pub(super) scene: Scene,
    pub(super) port: Port,
    /// The text that each widget should have said, or that it should be gone.
    wanted: Mutex<BTreeMap<String, Option<String>>>,
    rounds: Mutex<u64>,
    _faultd: Faultd,
}

impl Stand {
    /// With the plugin `greeter`, at rest.
    pub(super) async fn new(prefix: &str) -> Self {
        Self::with(prefix, Options::default()).await
    }

    /// The same on a control plane of another kind.
    pub(super) async fn with(prefix: &str, options: Options) -> Self {
        Self::start(prefix, options, None::<fn(&Scene) -> std::future::Ready<PathBuf>>).await
    }

    /// The same with a replica that goes by this kubeconfig, and not through the port.
    pub(super) async fn reached_by(
        prefix: &str,
        options: Options,
        kubeconfig: impl AsyncFnOnce(&Scene) -> PathBuf,
    ) -> Self {
        Self::start(prefix, options, Some(kubeconfig)).await
    }

    async fn start(
        prefix: &str,
        options: Options,
        kubeconfig: Option<impl AsyncFnOnce(&Scene) -> PathBuf>,
    ) -> Self {
        let scene = Scene::fresh_with(prefix, options).await;
        scene.install_fixture("greeter").await;
        let faultd = Faultd::start(scene.control()).expect("a proxy");
        let port = faultd.listen().await.expect("a port");
        let kubeconfig = match kubeconfig {
            Some(kubeconfig) => kubeconfig(&scene).await,
            None => {
                let token = scene.control().service_account_token(HOST, "windlass").await.expect("a token");
                port.kubeconfig(scene.control(), "windlass-0", &token).expect("a kubeconfig")
            }
        };
        scene.keep(scene.replica_with("windlass-0", &kubeconfig, &[]).expect("the host starts")).await;
        scene.ready().await;
        scene.leader().await;
        let stand = Self { scene, port, wanted: Mutex::default(), rounds: Mutex::default(), _faultd: faultd };
        for i in 0..WIDGETS {
            stand.say(&format!("w{i}"), "first").await;
        }
        stand.is_kept("greeter").await;
        stand.settles("the beginning", Instant::now()).await;
        stand
    }

    /// Waits for the copy of a plugin that is written once, a while after it has begun to serve.
    pub(super) async fn is_kept(&self, plugin: &str) {
        let copy = format!("/api/v1/namespaces/{HOST}/configmaps/windlass-good-{plugin}");
        self.scene.until("the plugin's copy is kept", || self.scene.get(&copy)).await;
    }

    /// A rule for each of the two watches that feed the plugin's passes, the one that is open first of all.
    pub(super) async fn watches(&self, rule: impl Fn() -> Rule) -> Vec<Active> {
        let active =
            ["/v1alpha1/widgets?", "/api/v1/configmaps?"].map(|path| self.port.rule(rule().path(path)));
        for rule in &active {
            rule.hit(1, PATIENCE).await.expect("a stream is open");
        }
        active.into()
    }

    /// A rule for the requests for each kind that the plugin has to do with.
    pub(super) fn rules(&self, rule: impl Fn() -> Rule) -> Vec<Active> {
        ["widgets", "configmaps"].map(|kind| self.port.rule(rule().resource(kind))).into()
    }

    /// Creates a widget, or has it say something else. Somebody who is refused tries again.
    pub(super) async fn say(&self, name: &str, text: &str) {
        let widget = json!({"apiVersion": "fixtures.windlass.dev/v1alpha1", "kind": "Widget",
            "metadata": {"name": name, "namespace": self.scene.namespace}, "spec": {"text": text}});
        self.scene.until("a widget is written", async || self.scene.try_apply(&widget).await.ok()).await;
        self.want(name, Some(text));
    }

    async fn delete(&self, name: &str) {
        let path = path("Widget", &self.scene.namespace, name);
        self.scene.until("a widget is deleted", async || self.scene.try_delete(&path).await.ok()).await;
        self.want(name, None);
    }

    /// Whoever has written a widget in a way of its own says here what it should say.
    pub(super) fn want(&self, name: &str, text: Option<&str>) {
        let mut wanted = self.wanted.lock().expect("no test panics with it");
        wanted.insert(name.to_owned(), text.map(str::to_owned));
    }

    fn wants(&self, name: &str) -> Option<String> {
        self.wanted.lock().expect("no test panics with it").get(name).cloned().flatten()
    }

    /// A little of everything: one object changes, one loses its child, one comes or goes, one goes and comes again.
    pub(super) async fn stir(&self) {
        let text = {
            let mut rounds = self.rounds.lock().expect("no test panics with it");
            *rounds += 1;
            format!("round {rounds}")
        };
        self.collect().await;
        self.say("w0", &text).await;
        // It may have none just now.
        let child = path("ConfigMap", &self.scene.namespace, "w1-greeting");
        self.scene.try_delete(&child).await.ok();
        match self.wants("w2") {
            Some(_) => self.delete("w2").await,
            None => self.say("w2", &text).await,
        }
        self.delete("w3").await;
        self.say("w3", &text).await;
    }

    async fn list(&self, kind: &str) -> BTreeMap<String, Value> {
        let all = self.scene.list(kind, "").await;
        all.into_iter().map(|o| (o["metadata"]["name"].as_str().unwrap_or_default().into(), o)).collect()
    }

    /// Ends children whose owner is gone: the controller manager hears of a new kind up to 30 s late, and does not before.
    async fn collect(&self) {
        let (children, widgets) = (self.list("ConfigMap").await, self.list("Widget").await);
        let uids: Vec<&Value> = widgets.values().map(|widget| &widget["metadata"]["uid"]).collect();
        for (name, child) in &children {
            let owner = &child["metadata"]["ownerReferences"][0]["uid"];
            if owner.is_string() && !uids.contains(&owner) {
                let path = path("ConfigMap", &self.scene.namespace, name);
                // It may have been another's a moment ago.
                self.scene.try_delete_only(&path, &child["metadata"]["uid"]).await.ok();
            }
        }
    }

    /// What is not as it should be, by the API server's own word.
    async fn amiss(&self) -> Result<(), String> {
        let (widgets, children) = (self.list("Widget").await, self.list("ConfigMap").await);
        for (name, text) in self.wanted.lock().expect("no test panics with it").iter() {
            let child = children.get(&format!("{name}-greeting"));
            let Some(text) = text else {
                if child.is_some() || widgets.contains_key(name) {
                    return Err(format!("{name} is still there"));
                }
                continue;
            };
            let widget = widgets.get(name).ok_or("nothing can be listed")?;
            let child = child.ok_or(format!("{name} has no child"))?;
            let owner = &child["metadata"]["ownerReferences"][0]["uid"];
            if child["data"]["text"] != **text
                || widget["status"]["greeting"] != **text
                || *owner != widget["metadata"]["uid"]
            {
                return Err(format!("{name} should say {text:?}: {widget} {child}"));
            }
        }
        Ok(())
    }

    /// Waits until everything is as it should be, which is within 30 s of `ended`, and for the silence after it.
    pub(super) async fn settles(&self, fault: &str, ended: Instant) {
        self.settles_within(fault, ended, CONVERGES).await;
    }

    /// The same for what may take longer.
    pub(super) async fn settles_within(&self, fault: &str, ended: Instant, most: Duration) {
        loop {
            self.collect().await;
            match self.amiss().await {
                Ok(()) => break,
                Err(why) => {
                    let log = || async { self.scene.all().await[0].log() };
                    if ended.elapsed() > most {
                        let log = log().await;
                        let tail = log.lines().rev().take(40).collect::<Vec<_>>();
                        panic!("{fault}: {most:?} after it {why}\n{}", tail.join("\n"));
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        eprintln!("{fault}: as it should be {:.2?} after it", ended.elapsed());
        self.is_silent(fault).await;
    }

    async fn is_silent(&self, fault: &str) {
        // The last status may still be on its way back when the lists show it.
        self.scene.silence().await;
        let mark = self.scene.mark();
        tokio::time::sleep(SILENT).await;
        let requests = self.requests(mark);
        let (writes, reads): (Vec<_>, Vec<_>) = requests.iter().partition(|event| event.is_write());
        assert!(writes.is_empty(), "{fault}: {} writes after it, the first {:?}", writes.len(), writes[0]);
        assert!(reads.len() <= QUIET_READS, "{fault}: {} reads in {SILENT:?}", reads.len());
        self.amiss().await.unwrap_or_else(|why| panic!("{fault}: it was well, and then {why}"));
        let mut replicas = self.scene.all().await;
        replicas[0].check_alive().expect("no fault ends the process");
        assert!(replicas[0].is_ready().await, "{fault}: it is not ready");
    }

    /// Answered requests of the host since the mark, without those of the election.
    pub(super) fn requests(&self, mark: Mark) -> Vec<AuditEvent> {
        let events = self.scene.control().audit().and_then(|audit| audit.since(mark));
        let mut events = events.expect("an audit log");
        events.retain(|event| {
            let resource = event.object_ref.as_ref().map_or("", |object| &*object.resource);
            event.is_complete()
                && event.user.username == HOST_USER
                && !["leases", "roles", "pods"].contains(&resource)
        });
        events
    }

    /// How often the host has listed a kind since the mark, pages not counted.
    pub(super) fn lists(&self, mark: Mark, kind: &str) -> usize {
        let of_kind = |event: &&AuditEvent| {
            event.verb == "list"
                && event.object_ref.as_ref().is_some_and(|object| object.resource == kind)
                && !event.request_uri.contains("continue=")
        };
        self.requests(mark).iter().filter(of_kind).count()
    }

    /// Writes of the host to the object of this name since the mark, whatever came of them.
    pub(super) fn writes_to(&self, mark: Mark, name: &str) -> Vec<AuditEvent> {
        let mut requests = self.requests(mark);
        requests.retain(|event| {
            event.is_write() && event.object_ref.as_ref().is_some_and(|object| object.name == name)
        });
        requests
    }

    /// No object was created more often than it was missing.
    pub(super) fn made_at_most(&self, mark: Mark, name: &str, most: usize) {
        let made = self.writes_to(mark, name).iter().filter(|write| write.code() == 201).count();
        assert!(made <= most, "{name} was made {made} times, at most {most} were due");
    }
}

//! Plugins come and go: ConfigMaps of the host's namespace -> registry -> who serves,
//! what is watched, which keys are looked at; and the state on the ConfigMap.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tracing::{error, info, warn};
use windlass_apply::{Announcement, PluginConfigMap, Writer};
use windlass_core::backoff::Backoff;
use windlass_core::claim::{BootClock, Claim, Gate};
use windlass_core::code::{Code, Refusal};
use windlass_core::kind::{Gvk, Kind};
use windlass_core::name::LABEL_PLUGIN;
use windlass_core::object::Object;
use windlass_lease::clock::Boottime;
use windlass_plugin::{Begun, Change, Loader, Offer, PluginView, Registry, Source, State, Status};
use windlass_queue::Queue;
use windlass_watch::one::{News, watch_one};
use windlass_watch::selection::Selection;
use windlass_watch::watches::Watches;

use crate::decide::Catalogue;

/// Pauses after announcements that failed in a row: a right that is missing is mended by a person.
const ANNOUNCE_AGAIN: Backoff = match Backoff::try_new(Duration::from_secs(5), Duration::from_secs(300)) {
    Ok(again) => again,
    Err(_) => panic!("5 s to 5 min is a valid backoff"),
};
/// How often a standby looks whether it leads.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The plugins of this host.
pub(crate) struct Plugins {
    loader: Loader,
    catalogue: Arc<Catalogue>,
    watches: Arc<Watches>,
    queue: Arc<Queue>,
    state: Mutex<Known>,
    /// There is something in `Known::news`.
    news: Notify,
    /// Some state may differ from what its ConfigMap says.
    states: Notify,
    synced: AtomicBool,
}

#[derive(Default)]
struct Known {
    registry: Registry,
    /// The newest text of each ConfigMap that has not been looked at; `None`: gone.
    /// Newer news replaces older, so there is one entry a ConfigMap at most.
    news: BTreeMap<String, Option<Arc<str>>>,
    /// The newest text of each ConfigMap, for when a name becomes free that it was not
    /// given or had to leave to an older one. At most 1.5 MiB a ConfigMap.
    texts: BTreeMap<String, Arc<str>>,
    /// Each ConfigMap as last seen, without its data.
    seen: BTreeMap<String, Object>,
    /// A ConfigMap is being looked at.
    busy: bool,
}

impl Plugins {
    /// No plugin yet.
    pub(crate) fn new(
        loader: Loader,
        catalogue: Arc<Catalogue>,
        watches: Arc<Watches>,
        queue: Arc<Queue>,
    ) -> Arc<Self> {
        Arc::new(Self {
            loader,
            catalogue,
            watches,
            queue,
            state: Mutex::default(),
            news: Notify::new(),
            states: Notify::new(),
            synced: AtomicBool::new(false),
        })
    }

    /// Watches the ConfigMaps that are labelled as plugins. Never returns.
    pub(crate) async fn watch(self: Arc<Self>, client: kube::Client, namespace: String) {
        let selection = Selection::all(config_map()).in_namespace(&namespace).with_label(LABEL_PLUGIN);
        watch_one(&client, &selection, |news| self.told(news)).await;
    }

    fn told(&self, news: News<'_>) {
        match news {
            News::Upsert { namespace, name, json } => {
                self.known().news.insert(format!("{namespace}/{name}"), Some(json.into()));
            }
            News::Gone { namespace, name } => {
                self.known().news.insert(format!("{namespace}/{name}"), None);
            }
            News::Synced => self.synced.store(true, Ordering::Release),
        }
        self.news.notify_one();
    }

    /// Looks at what was told, one ConfigMap after the other. Never returns.
    pub(crate) async fn load(self: Arc<Self>) {
        loop {
            let Some((config_map, text)) = self.next() else {
                self.news.notified().await;
                continue;
            };
            let this = self.clone();
            let look = tokio::task::spawn_blocking(move || this.look(&config_map, text));
            if let Err(error) = look.await {
                error!(%error, "loading a plugin failed by a mistake of the host; please report this log");
            }
            self.known().busy = false;
            self.states.notify_one();
        }
    }

    fn next(&self) -> Option<(String, Option<Arc<str>>)> {
        let mut known = self.known();
        let next = known.news.pop_first();
        known.busy = next.is_some();
        next
    }

    /// Takes one ConfigMap through its life. Blocks while it compiles.
    fn look(&self, config_map: &str, text: Option<Arc<str>>) {
        let Some(text) = text else {
            let changes = self.known().forget(config_map);
            return self.carry_out(changes);
        };
        self.known().remember(config_map, &text);
        self.known().texts.insert(config_map.to_owned(), text.clone());
        let offer = match Offer::from_config_map(&text) {
            Ok(offer) => offer,
            Err(refusal) => {
                warn!(config_map, %refusal, "this ConfigMap is no plugin; mend its label");
                let changes = self.known().forget(config_map);
                return self.carry_out(changes);
            }
        };
        let Begun { load, changes } = self.known().registry.begin(offer, Timestamp::now());
        self.carry_out(changes);
        let Some(ticket) = load else {
            return;
        };
        let loaded = refused_if_it_panics(|| {
            let source = Source::from_config_map(&text, self.loader.limits())?;
            self.known().registry.compiling(&ticket, &source.digest, Timestamp::now());
            self.loader.load(&source, &ticket.plugin)
        });
        let changes = self.known().registry.finish(&ticket, loaded, Timestamp::now());
        self.carry_out(changes);
    }

    fn carry_out(&self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Serving { name, config_map, plugin, previous } => {
                    let manifest = plugin.manifest().clone();
                    info!(
                        plugin = %name, version = manifest.version, digest = plugin.digest().short(), config_map,
                        previous = previous.as_ref().map_or("none", |p| p.digest().short()), "plugin serves"
                    );
                    self.catalogue.put(name.clone(), plugin);
                    self.watches.want(&name, &manifest);
                    self.watches.resync(Some(&name));
                }
                Change::Refused { name, config_map, refusal, serving } => warn!(
                    plugin = %name, config_map, %refusal,
                    serving = serving.as_ref().map_or("nothing", |p| p.digest().short()), "plugin is refused"
                ),
                Change::Gone { name, .. } => {
                    info!(plugin = %name, "plugin is gone; what it made stays");
                    self.catalogue.remove(&name);
                    self.watches.forget(&name);
                    self.queue.forget_plugin(&name);
                }
                Change::Again { config_map } => {
                    let mut known = self.known();
                    let text = known.texts.get(&config_map).cloned();
                    if let Some(text) = text {
                        known.news.entry(config_map).or_insert(Some(text));
                    }
                    drop(known);
                    self.news.notify_one();
                }
            }
        }
    }

    /// Keeps each ConfigMap's annotations true while this replica leads. Never returns.
    pub(crate) async fn announce(self: Arc<Self>, writer: Arc<Writer>, gate: Arc<Gate>) {
        let mut failures = 0_u32;
        loop {
            let claim = gate.claim(Boottime.now());
            let pause = match &claim {
                Some(claim) if self.say(&writer, claim).await => {
                    failures = 0;
                    None
                }
                Some(_) => {
                    failures = failures.saturating_add(1);
                    Some(ANNOUNCE_AGAIN.pause(failures, 1.0))
                }
                None => Some(LOOK_AGAIN),
            };
            let again = async {
                match pause {
                    // Cheap: nothing is sent that is said already.
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => lost(&gate, claim.as_ref()).await,
                }
            };
            tokio::select! {
                () = self.states.notified() => {}
                () = again => {}
            }
        }
    }

    /// Says every settled state that is not said yet. Answers whether all are.
    async fn say(&self, writer: &Writer, claim: &Claim) -> bool {
        let mut all = true;
        let states = self.known().said_and_true();
        for (object, status) in states {
            let on = PluginConfigMap {
                namespace: object.namespace,
                name: object.name,
                uid: object.uid,
                annotations: &object.annotations,
            };
            let state = status.state.to_string();
            let what = Announcement {
                state: &state,
                digest: status.digest.as_ref(),
                message: &status.message,
                since: status.since,
            };
            if let Err(error) = writer.announce(&on, &what, claim).await {
                warn!(config_map = %on.name, %error, "the plugin's state could not be written on its ConfigMap; trying again");
                all = false;
            }
        }
        all
    }

    /// Whether every plugin that was there at start is serving or refused.
    pub(crate) fn is_settled(&self) -> bool {
        let known = self.known();
        self.synced.load(Ordering::Acquire)
            && known.news.is_empty()
            && !known.busy
            && known.registry.is_settled()
    }

    /// All plugins, for the debug view.
    pub(crate) fn view(&self) -> Vec<PluginView> {
        self.known().registry.view()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Entries are independent of each other; whoever panicked left at most its own behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an announcement needs of a ConfigMap.
struct Seen {
    namespace: Arc<str>,
    name: Arc<str>,
    uid: Arc<str>,
    annotations: BTreeMap<Box<str>, Box<str>>,
}

impl Known {
    /// Keeps the metadata of a ConfigMap, without the component.
    fn remember(&mut self, config_map: &str, text: &str) {
        let bare = serde_json::from_str::<serde_json::Value>(text)
            .ok()
            .map(|mut value| serde_json::json!({"metadata": value["metadata"].take()}).to_string());
        if let Some(object) = bare.and_then(|bare| Object::parse(&config_map_gvk(), &bare).ok()) {
            self.seen.insert(config_map.to_owned(), object);
        }
    }

    fn forget(&mut self, config_map: &str) -> Vec<Change> {
        self.seen.remove(config_map);
        self.texts.remove(config_map);
        self.registry.remove(config_map)
    }

    fn said_and_true(&self) -> Vec<(Seen, Status)> {
        let settled = |config_map: &String| {
            self.registry.status(config_map).filter(|s| matches!(s.state, State::Serving | State::Refused))
        };
        let of = |object: &Object| Seen {
            namespace: object.meta().namespace.clone(),
            name: object.meta().name.clone(),
            uid: object.meta().uid.clone(),
            annotations: object.meta().annotations.clone(),
        };
        self.seen.iter().filter_map(|(name, object)| Some((of(object), settled(name)?.clone()))).collect()
    }
}

/// A mistake of ours or of the compiler's is this component's refusal: without an end
/// its plugin would never settle, and the replica never be ready.
fn refused_if_it_panics<T>(load: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
    catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|_| {
        let text = "loading it ended by a mistake of the host; please report its log";
        Err(Refusal::new(Code::CompileFailed, text))
    })
}

/// Waits until another term than `claim`'s holds, or none: then a new leader has to look.
async fn lost(gate: &Gate, claim: Option<&Claim>) {
    let term = claim.map(|claim| claim.term);
    while gate.claim(Boottime.now()).map(|claim| claim.term) == term {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn config_map_gvk() -> Gvk {
    Gvk { group: "".into(), version: "v1".into(), kind: "ConfigMap".into() }
}

fn config_map() -> Kind {
    Kind { gvk: config_map_gvk(), plural: "configmaps".into(), namespaced: true, has_status: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_core::limits::Limits;

    fn plugins() -> Arc<Plugins> {
        let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:9".parse().expect("valid")));
        let queue = Queue::new(windlass_queue::Config::default());
        let watches = Watches::new(client.expect("no request is sent"), "sys", queue.clone());
        let loader = Loader::new(Limits::default()).expect("a sandbox");
        Plugins::new(loader, Arc::default(), Arc::new(watches), queue)
    }

    fn offer(name: &str, created: &str) -> Option<Arc<str>> {
        let text = format!(
            r#"{{"metadata":{{"namespace":"sys","name":"{name}","uid":"u","creationTimestamp":"{created}",
            "labels":{{"windlass.dev/plugin":"p"}}}}}}"#
        );
        Some(text.into())
    }

    fn holder(plugins: &Plugins) -> Vec<String> {
        plugins.view().into_iter().map(|plugin| plugin.config_map).collect()
    }

    #[tokio::test]
    async fn a_name_that_becomes_free_goes_to_whoever_held_it_before() {
        let plugins = plugins();
        plugins.look("sys/a", offer("a", "2026-01-02T00:00:00Z"));
        plugins.look("sys/z", offer("z", "2026-01-01T00:00:00Z"));
        assert_eq!(holder(&plugins), ["sys/z"], "the older one");
        plugins.look("sys/z", None);
        let (config_map, text) = plugins.next().expect("it is looked at again");
        plugins.look(&config_map, text);
        assert_eq!(holder(&plugins), ["sys/a"]);
    }

    #[test]
    fn a_compiler_that_panics_refuses_its_component() {
        let loaded = refused_if_it_panics(|| -> Result<(), Refusal> { panic!("as the test wants") });
        assert_eq!(loaded.map_err(|refusal| refusal.code), Err(Code::CompileFailed));
    }
}

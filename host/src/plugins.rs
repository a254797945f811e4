//! Plugins come and go: ConfigMaps of the host's namespace -> agenda -> registry -> who
//! serves, what is watched, which keys are looked at; and the state on the ConfigMap.
//!
//! | file | what it does |
//! |---|---|
//! | `look` | takes one ConfigMap through its life |
//! | `say` | the states on the ConfigMaps, while this replica leads |
//! | `good` | keeps copies of good versions, and falls back on them |

mod good;
mod look;
mod say;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{error, info, warn};
use windlass_apply::Writer;
use windlass_core::backoff::Backoff;
use windlass_core::breaker::{Quarantine as Pause, TRIAL_MOST, Turn};
use windlass_core::claim::{BootClock, Term};
use windlass_core::code::{Code, Refusal};
use windlass_core::key::ObjectRef;
use windlass_core::kind::{Gvk, Kind};
use windlass_core::name::{Digest, LABEL_PLUGIN, PluginName};
use windlass_core::object::Object;
use windlass_core::ports::EventTarget;
use windlass_lease::clock::Boottime;
use windlass_plugin::{Agenda, Change, Loader, Parts, PluginView, Quarantined, Registry, Ticket, Whole};
use windlass_queue::Queue;
use windlass_watch::one::{News, watch_one};
use windlass_watch::selection::Selection;
use windlass_watch::watches::Watches;

use crate::decide::Catalogue;
use crate::memory;
use crate::quarantine::Quarantine;
use crate::trust::{Trusts, Turn as TrustTurn};

/// Plugins that are looked at at once: one that compiles for a minute holds up few others, and
/// each of them may hold a whole component in memory.
const LOOKS_AT_ONCE: usize = 2;
/// Longest sleep when nothing is due.
const NOTHING_DUE: Duration = Duration::from_secs(3600);
/// Pauses before what may have been refused for the host's own fault is tried again.
const MISHAP_AGAIN: Backoff = match Backoff::try_new(Duration::from_secs(5), Duration::from_secs(300)) {
    Ok(again) => again,
    Err(_) => panic!("5 s to 5 min is a valid backoff"),
};
/// After the last look, until what the looks left behind is given back.
const TRIM_AFTER: Duration = Duration::from_secs(1);
/// A trial that was granted has ended by then, one way or the other.
const TRIAL_AGAIN: Duration = Duration::from_secs(TRIAL_MOST.as_secs() + 5);

/// The plugins of this host.
pub(crate) struct Plugins {
    /// Comes when guests can be run; until then what is found waits with its look begun.
    loader: OnceLock<Loader>,
    catalogue: Arc<Catalogue>,
    quarantine: Arc<Quarantine>,
    trusts: Arc<Trusts>,
    watches: Arc<Watches>,
    queue: Arc<Queue>,
    state: Mutex<Known>,
    /// There is something on the agenda, or may be looked at now.
    news: Notify,
    /// Some state may differ from what its ConfigMap says.
    states: Notify,
    synced: AtomicBool,
}

#[derive(Default)]
struct Known {
    registry: Registry,
    /// What was told last of each ConfigMap that has not been looked at.
    agenda: Agenda<Told>,
    parts: Parts,
    /// Each ConfigMap as last seen, without its data.
    seen: BTreeMap<String, Object>,
    /// Attempts that are to be ended, or ended again, at a time.
    late: Vec<Late>,
    /// When each quarantined plugin's objects are looked at, so that one of them is the trial.
    trials: BTreeMap<PluginName, Instant>,
    /// What serves and is in parts: the texts, which `parts` holds as well.
    wholes: BTreeMap<PluginName, Whole>,
    /// Fingerprint of the copy of each plugin that this leader has found or made.
    kept: BTreeMap<PluginName, Digest>,
    /// The term in which `kept` was found out.
    kept_in: Option<Term>,
    /// How often in a row a plugin was refused for what may have been the host's fault.
    mishaps: BTreeMap<PluginName, u32>,
}

/// What the watch has said of a ConfigMap. What is in it is read when it is looked at: so the
/// components of a hundred plugins are in memory two at a time, and never travel because a state
/// was written on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    There,
    Gone,
}

/// Something to do at a time, without any news.
struct Late {
    at: Instant,
    what: Overdue,
}

enum Overdue {
    /// What was missing has not come, or the last good version could not be read: the attempt
    /// ends with this.
    Ends(Ticket, Refusal),
    /// A ConfigMap has to be read, because its name is free now or it is judged anew.
    Again(String),
}

impl Plugins {
    /// No plugin yet.
    pub(crate) fn new(
        catalogue: Arc<Catalogue>,
        trusts: Arc<Trusts>,
        watches: Arc<Watches>,
        queue: Arc<Queue>,
    ) -> Arc<Self> {
        let quarantine = catalogue.quarantine().clone();
        Arc::new(Self {
            loader: OnceLock::new(),
            catalogue,
            quarantine,
            trusts,
            watches,
            queue,
            state: Mutex::default(),
            news: Notify::new(),
            states: Notify::new(),
            synced: AtomicBool::new(false),
        })
    }

    /// Guests can be run now. To be said once.
    pub(crate) fn load_with(&self, loader: Loader) {
        // A second one would have other processes; the first one's run what is loaded.
        let _ = self.loader.set(loader);
    }

    /// Blocks until guests can be run.
    fn loader(&self) -> &Loader {
        self.loader.wait()
    }

    /// Watches the metadata of the ConfigMaps that are labelled as plugins. Never returns.
    pub(crate) async fn watch(self: Arc<Self>, client: kube::Client, namespace: String) {
        let selection =
            Selection::all(config_map()).in_namespace(&namespace).with_label(LABEL_PLUGIN).metadata_only();
        watch_one(&client, &selection, &self.watches.doubt(), |news| self.told(news)).await;
    }

    fn told(&self, news: News<'_>) {
        let now = Instant::now();
        match news {
            News::Upsert { namespace, name, json } => {
                let (label, bare) = (label_of(json), look::bare(json));
                let config_map = format!("{namespace}/{name}");
                let mut known = self.known();
                // At once: what we said ourselves must not be said again.
                known.remember(&config_map, bare);
                known.agenda.told(&config_map, label.as_deref(), Told::There, now);
            }
            News::Gone { namespace, name } => {
                self.known().agenda.told(&format!("{namespace}/{name}"), None, Told::Gone, now);
            }
            News::Synced => self.synced.store(true, Ordering::Release),
        }
        self.news.notify_one();
    }

    /// Looks at what was told when it is due, and at quarantines that turn. Never returns.
    pub(crate) async fn load(self: Arc<Self>, writer: Arc<Writer>) {
        self.trusts.ready().await;
        let mut looks = JoinSet::new();
        let mut trim = None;
        loop {
            self.start_looks(&mut looks, &writer);
            let due = self.next_due(looks.len() < LOOKS_AT_ONCE);
            tokio::select! {
                () = self.news.notified() => {}
                () = self.quarantine.turned() => self.turn(),
                (plugin, refusal) = self.watches.held() => self.hold(&plugin, &refusal),
                () = tokio::time::sleep_until(due.into()) => self.try_out(),
                () = until(trim), if looks.is_empty() => {
                    memory::trim();
                    trim = None;
                }
                Some(ended) = looks.join_next(), if !looks.is_empty() => {
                    trim = Some(Instant::now() + TRIM_AFTER);
                    if let Err(error) = ended {
                        error!(%error, "loading a plugin failed by a mistake of the host; please report this log");
                    }
                }
            }
        }
    }

    fn start_looks(self: &Arc<Self>, looks: &mut JoinSet<()>, writer: &Arc<Writer>) {
        let now = Instant::now();
        while looks.len() < LOOKS_AT_ONCE {
            let mut known = self.known();
            if let Some(at) = known.late.iter().position(|late| late.at <= now) {
                let late = known.late.swap_remove(at);
                looks.spawn(self.clone().overdue(late.what, writer.clone()));
                continue;
            }
            let Some(item) = known.agenda.take(now) else {
                return;
            };
            drop(known);
            looks.spawn(self.clone().look(item, writer.clone()));
        }
    }

    /// When there is something to do without any news. `free`: whether another look may begin.
    fn next_due(&self, free: bool) -> Instant {
        let known = self.known();
        let agenda = known.agenda.next().filter(|_| free);
        let late = known.late.iter().map(|late| late.at).filter(|_| free).min();
        let trials = known.trials.values().min().copied();
        let due = [agenda, late, trials].into_iter().flatten().min();
        due.unwrap_or_else(|| Instant::now() + NOTHING_DUE)
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
                    let mut known = self.known();
                    known.trials.remove(&name);
                    known.mishaps.remove(&name);
                    drop(known);
                    self.decides(&name, plugin.digest());
                    self.trusts.served(&name, plugin.digest());
                    self.catalogue.put(name.clone(), plugin);
                    self.watches.want(&name, &manifest);
                    self.watches.resync(Some(&name));
                }
                Change::Refused { name, config_map, refusal, serving } => {
                    self.catalogue.refused(&name, &refusal);
                    if may_be_ours(refusal.code) {
                        self.try_again(&name);
                    }
                    warn!(
                        plugin = %name, config_map, %refusal,
                        serving = serving.as_ref().map_or("nothing", |p| p.digest().short()), "plugin is refused"
                    );
                }
                Change::Gone { name, .. } => {
                    info!(plugin = %name, "plugin is gone; what it made stays");
                    self.catalogue.remove(&name);
                    self.quarantine.forget(&name);
                    self.trusts.forget(&name);
                    self.watches.forget(&name);
                    self.queue.forget_plugin(&name);
                    self.known().forget_plugin(&name);
                }
                Change::Again { config_map } => {
                    self.later(Duration::ZERO, Overdue::Again(config_map));
                }
            }
        }
    }

    /// This component decides from now on. What another one has earned is not for it.
    fn decides(&self, plugin: &PluginName, digest: &Digest) {
        if self.quarantine.serves(plugin, digest) {
            self.queue.bound(plugin, None);
        }
    }

    fn later(&self, after: Duration, what: Overdue) {
        self.known().late.push(Late { at: Instant::now() + after, what });
        self.news.notify_one();
    }

    /// Whom the host trusts has changed, or what it knows to be accepted.
    pub(crate) fn trust_turned(&self, plugin: &PluginName, turn: &TrustTurn) {
        match turn {
            TrustTurn::Revoked(refusal) => self.revoke(plugin, refusal),
            TrustTurn::Anew => {
                info!(%plugin, "what is to be said of the plugin's signature has changed; it is judged anew");
                let config_map = self.known().registry.anew(plugin);
                if let Some(config_map) = config_map {
                    self.later(Duration::ZERO, Overdue::Again(config_map));
                }
            }
        }
    }

    /// What was refused may have been refused for the host's own want of something: it is offered
    /// again after a pause that grows.
    fn try_again(&self, plugin: &PluginName) {
        let mut known = self.known();
        let mishaps = known.mishaps.entry(plugin.clone()).or_default();
        *mishaps = mishaps.saturating_add(1);
        let pause = MISHAP_AGAIN.pause(*mishaps, 1.0);
        let config_map = known.registry.anew(plugin);
        drop(known);
        if let Some(config_map) = config_map {
            info!(%plugin, ?pause, "it is tried again, in case the host was short of something");
            self.later(pause, Overdue::Again(config_map));
        }
    }

    /// Nobody vouches any more for what serves: it stops, and what is offered is judged anew.
    fn revoke(&self, plugin: &PluginName, refusal: &Refusal) {
        warn!(%plugin, %refusal, "nobody vouches for this plugin any more; it stops");
        self.stop(plugin);
    }

    /// Its kinds do not fit into the cache, or cannot be selected as it wants: it stops, and is refused until they do.
    fn hold(&self, plugin: &PluginName, refusal: &Refusal) {
        warn!(%plugin, %refusal, "what this plugin reads cannot be had; it stops");
        self.stop(plugin);
        // Also when nothing of it serves any more: others wait for what it held.
        self.watches.forget(plugin);
    }

    /// Stops what serves; what is offered is judged anew.
    fn stop(&self, plugin: &PluginName) {
        let of: Vec<String> = {
            let known = self.known();
            let holds = known.registry.view().into_iter().filter(|view| view.name == *plugin);
            holds.map(|view| view.config_map).collect()
        };
        for config_map in of {
            let changes = self.known().registry.remove(&config_map);
            self.carry_out(changes);
            self.later(Duration::ZERO, Overdue::Again(config_map));
        }
    }

    /// Plugins that are left alone from now on, or not any more.
    fn turn(&self) {
        for (plugin, digest, turn) in self.quarantine.turns() {
            match turn {
                Turn::Quarantined(pause) => {
                    self.leave_alone(&plugin, &digest, pause);
                    self.watches.resync(Some(&plugin));
                }
                Turn::Next => self.watches.resync(Some(&plugin)),
                Turn::Released => {
                    info!(%plugin, digest = digest.short(), "plugin is released: a trial went well");
                    let mut known = self.known();
                    known.trials.remove(&plugin);
                    known.registry.release(&plugin, Timestamp::now());
                    drop(known);
                    self.watches.resync(Some(&plugin));
                }
            }
        }
        self.states.notify_one();
    }

    fn leave_alone(&self, plugin: &PluginName, digest: &Digest, pause: Pause) {
        let (now, boot) = (Timestamp::now(), Boottime.now());
        let rest = pause.until.since(boot);
        warn!(
            %plugin, digest = digest.short(), refusal = %pause.refusal, times = pause.times, pause = ?rest,
            "plugin is quarantined: it failed too often in a row; its objects stay as they are"
        );
        let why = Quarantined {
            // Both are within a day of now, which no calendar ends.
            since: now.checked_sub(boot.since(pause.since)).unwrap_or(now),
            until: now.checked_add(rest).unwrap_or(now),
            times: pause.times,
            refusal: pause.refusal,
        };
        let mut known = self.known();
        known.trials.insert(plugin.clone(), Instant::now() + rest);
        known.registry.quarantine(plugin, digest, why);
    }

    /// Has the objects of plugins looked at whose quarantine has run out: the first call is the
    /// trial. Comes back while none has been answered.
    fn try_out(&self) {
        let now = Instant::now();
        let mut due = Vec::new();
        for (plugin, at) in &mut self.known().trials {
            if *at <= now {
                *at = now + TRIAL_AGAIN;
                due.push(plugin.clone());
            }
        }
        for plugin in due {
            info!(%plugin, "plugin is tried again");
            self.watches.resync(Some(&plugin));
        }
    }

    /// Whether every plugin that was there at start is serving, refused or quarantined.
    pub(crate) fn is_settled(&self) -> bool {
        let known = self.known();
        self.synced.load(Ordering::Acquire) && known.agenda.is_idle() && known.registry.is_settled()
    }

    /// All plugins, for the debug view.
    pub(crate) fn view(&self) -> Vec<PluginView> {
        self.known().registry.view()
    }

    /// The ConfigMap that a plugin is from, for Events about it.
    pub(crate) fn config_map_of(&self, plugin: &PluginName) -> Option<EventTarget> {
        let known = self.known();
        let name = known.registry.view().into_iter().find(|view| view.name == *plugin)?.config_map;
        let meta = known.seen.get(&name)?.meta();
        let object =
            ObjectRef { gvk: config_map_gvk(), namespace: meta.namespace.clone(), name: meta.name.clone() };
        Some(EventTarget { object, uid: meta.uid.clone(), plugin: None, digest: None })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Entries are independent of each other; whoever panicked left at most its own behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Keeps the metadata of a ConfigMap, without the component.
    fn remember(&mut self, config_map: &str, bare: Option<Object>) {
        if let Some(object) = bare {
            self.seen.insert(config_map.to_owned(), object);
        }
    }

    fn forget_plugin(&mut self, plugin: &PluginName) {
        self.trials.remove(plugin);
        self.mishaps.remove(plugin);
        self.wholes.remove(plugin);
        self.kept.remove(plugin);
    }
}

/// Resolves at a time, if there is one.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Whether a refusal may have been brought about by a host that was short of time, processes,
/// descriptors or room, and not by the component alone.
fn may_be_ours(code: Code) -> bool {
    matches!(
        code,
        Code::CompileFailed
            | Code::WorkerMissing
            | Code::InitTimeout
            | Code::CacheLimit
            | Code::FieldNotSelectable
            | Code::OutsideNamespaces
    )
}

/// The plugin that a ConfigMap is of, as its label says.
fn label_of(json: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Labelled {
        metadata: Metadata,
    }
    #[derive(serde::Deserialize)]
    struct Metadata {
        #[serde(default)]
        labels: BTreeMap<String, String>,
    }
    serde_json::from_str::<Labelled>(json).ok()?.metadata.labels.remove(LABEL_PLUGIN)
}

fn config_map_gvk() -> Gvk {
    Gvk { group: "".into(), version: "v1".into(), kind: "ConfigMap".into() }
}

fn config_map() -> Kind {
    Kind { gvk: config_map_gvk(), plural: "configmaps".into(), namespaced: true, has_status: false }
}

#[cfg(test)]
mod tests;

//! The set of watches: one a kind for all plugins, changed while it runs.
//!
//! One future drives them all; the host spawns and joins it. What each watch
//! brings goes into the [`ClusterCache`], and as keys to the sink.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{AbortHandle, Abortable, BoxFuture, FutureExt as _, select_all};
use futures::stream::{FuturesUnordered, StreamExt as _};
use kube::Client;
use tokio::sync::watch;
use tokio::time::Instant;
use windlass_core::backoff::Backoff;
use windlass_core::code::Refusal;
use windlass_core::kind::{Gvk, Kind};
use windlass_core::manifest::Manifest;
use windlass_core::name::{Digest, PluginName};
use windlass_core::object::{Object, ObjectError};
use windlass_core::ports::Sink;
use windlass_core::rights::Missing;

use crate::cache::ClusterCache;
use crate::discovery::{Discovery, Found};
use crate::doubt::Doubt;
use crate::fields;
use crate::get::GetError;
use crate::kind_cache::{KindCache, Put};
use crate::objects::Change;
use crate::part::Part;
use crate::progress::{Phase, WatchStatus};
use crate::reflect::{Pauses, Reflector, Target, backoff};
use crate::selection::{Selection, Wire};
use crate::served::Served;

/// Pauses between two looks for a kind: the wait after a CRD has arrived, and the
/// rate at which a kind that never comes is asked for.
const LOOKS: Backoff = backoff(250, 5_000);

/// Everything that is watched for the plugins.
///
/// `client` should have been built without retries of its own
/// (`Config::default_retry = false`): pauses and deadlines are kept here.
pub struct Watches {
    client: Client,
    cache: Arc<ClusterCache>,
    changes: Arc<watch::Sender<()>>,
    doubt: Doubt,
    discovery: Arc<Discovery>,
    served: Arc<Served>,
}

/// A driver is known by its kind and round; a kind whose labels change gets a new
/// round, and with it a new driver.
type Driver = (Gvk, u64);

impl Watches {
    /// Nothing is watched yet. Children are those that carry the label of the host
    /// in `host_namespace`; keys are offered to `sink`.
    /// The cache takes at most `limit` bytes; `None`: as many as there are.
    pub fn new(client: Client, host_namespace: &str, sink: Arc<dyn Sink>, limit: Option<usize>) -> Self {
        Self::within(client, host_namespace, Vec::new(), sink, limit)
    }

    /// As [`new`](Self::new), but nothing is asked for that is not in one of these namespaces, sorted, at most
    /// [`NAMESPACES_MAX`](crate::NAMESPACES_MAX) of them; none: everything in the cluster.
    pub fn within(
        client: Client,
        host_namespace: &str,
        namespaces: Vec<String>,
        sink: Arc<dyn Sink>,
        limit: Option<usize>,
    ) -> Self {
        let discovery = Arc::new(Discovery::new(client.clone()));
        Self {
            client,
            cache: Arc::new(ClusterCache::new(host_namespace, namespaces, sink, limit)),
            changes: Arc::new(watch::Sender::new(())),
            doubt: Doubt::default(),
            served: Arc::new(Served::new(discovery.clone())),
            discovery,
        }
    }

    /// By which all that is watched here can be doubted, and what is watched beside it.
    pub fn doubt(&self) -> Doubt {
        self.doubt.clone()
    }

    /// The next plugin whose kinds do not fit into the cache (E180), or that selects by a field that the API
    /// server does not know (E181), and why. Until the caller
    /// [forgets](Self::forget) it, the kind that did not fit counts as not synced, so that nobody
    /// decides on a part of it. Then those that are left get what they need.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn held(&self) -> (PluginName, Refusal) {
        self.cache.budget().held().await
    }

    /// Whether there is room for a version of a plugin, as far as is known from the last time.
    ///
    /// # Errors
    /// E180, E181: it was held, and nothing has changed since.
    pub fn room(&self, plugin: &PluginName, digest: &Digest) -> Result<(), Refusal> {
        self.cache.budget().room(plugin, digest, Instant::now())
    }

    /// What the watches have brought.
    pub fn cache(&self) -> Arc<ClusterCache> {
        self.cache.clone()
    }

    /// Watches what `plugin` needs from now on; replaces what it needed before.
    /// Returns at once. A kind whose selection widens stays readable meanwhile, but
    /// counts as not synced until it has been listed again.
    ///
    /// The primaries of a new plugin are offered when they are known; after a new
    /// version with the same primary kind the caller decides ([`Watches::resync`]).
    pub fn want(&self, plugin: &PluginName, manifest: &Manifest) {
        self.cache.want(plugin, Arc::new(manifest.clone()));
        self.changes.send_replace(());
    }

    /// Stops watching what only `plugin` needed, and forgets what its keys read.
    pub fn forget(&self, plugin: &PluginName) {
        self.cache.forget(plugin);
        self.changes.send_replace(());
    }

    /// Offers every primary's key of one plugin, or of all.
    pub fn resync(&self, plugin: Option<&PluginName>) {
        self.cache.resync(plugin);
    }

    /// Whether every wanted kind that exists has been listed once. Kinds that
    /// discovery does not find do not count, nor do those that the API server keeps
    /// refusing to show: a plugin without its rights must not block a rollout. May
    /// become false again when more is wanted.
    pub fn is_ready(&self) -> bool {
        self.cache.is_ready()
    }

    /// The rights without which kinds cannot be read, each with the plugins that wait for it. Not what was refused
    /// for a moment: an API server that has just started does that.
    pub fn denied(&self) -> Vec<(Missing, Vec<PluginName>)> {
        let kinds = self.cache.kinds().into_iter();
        kinds
            .filter_map(|kind| {
                Some((kind.counters().missing()?, kind.need().users.iter().cloned().collect()))
            })
            .collect()
    }

    /// How every watch is doing, ordered by kind.
    pub fn status(&self) -> Vec<WatchStatus> {
        self.cache.status()
    }

    /// Drives all watches; never returns by itself. To be run once at a time.
    ///
    /// # Cancel safety
    /// Dropping it ends all requests; what the cache holds stays as it is.
    pub async fn run(&self) {
        let mut changes = self.changes.subscribe();
        let mut running: HashMap<Driver, AbortHandle> = HashMap::new();
        let mut drivers = FuturesUnordered::new();
        let mut rechecks = pin!(self.served.run());
        loop {
            changes.mark_unchanged();
            for (driver, future) in self.changed_drivers(&mut running) {
                let (handle, registration) = AbortHandle::new_pair();
                running.insert(driver, handle);
                drivers.push(Abortable::new(future, registration));
            }
            tokio::select! {
                // Changes first: a driver that is not wanted any more makes no further step.
                biased;
                // An error would mean that the sender is gone, but `self` holds it.
                _ = changes.changed() => {}
                // Only an aborted driver ends.
                Some(_) = drivers.next() => {}
                () = &mut rechecks => {}
            }
        }
    }

    /// Ends drivers that are not wanted any more, and makes those that are missing.
    fn changed_drivers(
        &self,
        running: &mut HashMap<Driver, AbortHandle>,
    ) -> Vec<(Driver, BoxFuture<'static, ()>)> {
        let wanted: HashMap<Driver, Arc<KindCache>> = self
            .cache
            .kinds()
            .into_iter()
            .filter(|kind| !kind.is_full())
            .map(|kind| ((kind.gvk.clone(), kind.round()), kind))
            .collect();
        running.retain(|driver, handle| {
            let stays = wanted.contains_key(driver);
            if !stays {
                handle.abort();
            }
            stays
        });
        let missing = wanted.into_iter().filter(|(driver, _)| !running.contains_key(driver));
        missing
            .map(|(driver, kind)| {
                let target = KindTarget {
                    cache: self.cache.clone(),
                    round: driver.1,
                    kind,
                    changes: self.changes.clone(),
                    doubt: self.doubt.clone(),
                    discovery: self.discovery.clone(),
                    served: self.served.clone(),
                };
                (driver, drive(self.client.clone(), target).boxed())
            })
            .collect()
    }
}

/// What one driver feeds.
struct KindTarget {
    cache: Arc<ClusterCache>,
    kind: Arc<KindCache>,
    round: u64,
    /// Told when this driver has to end.
    changes: Arc<watch::Sender<()>>,
    doubt: Doubt,
    discovery: Arc<Discovery>,
    served: Arc<Served>,
}

/// Keeps one kind: waits for it, reflects it, and when it goes waits again.
async fn drive(client: Client, target: KindTarget) {
    let kind = target.kind.clone();
    let mut looks: u32 = 0;
    let mut pauses = Pauses::default();
    loop {
        match target.discovery.find(&kind.gvk).await {
            Ok(Found::Kind(found)) => {
                let lists = kind.counters().lists;
                let end = target.reflect(&client, found).await;
                kind.progress.failed(&end);
                tracing::info!(kind = %kind.gvk, error = %end.line(), "kind may be gone");
                if kind.counters().lists > lists {
                    looks = 0;
                }
            }
            Ok(absent @ (Found::Absent | Found::Unwatchable)) => {
                if absent == Found::Unwatchable {
                    kind.progress.failed_with("kind can not be listed and watched".into());
                }
                target.absent();
            }
            Err(error) => {
                kind.progress.failed(&error);
                tracing::debug!(kind = %kind.gvk, error = %error.line(), "discovery failed");
                kind.progress.phase(Phase::BackingOff);
                tokio::time::sleep(pauses.next(&error)).await;
                continue;
            }
        }
        kind.progress.phase(Phase::Waiting);
        pauses.reset();
        looks = looks.saturating_add(1);
        let pause: Duration = LOOKS.pause(looks, rand::random());
        tokio::time::sleep(pause).await;
    }
}

impl KindTarget {
    /// Lists and watches until the API server answers 404, anew whenever the kind is
    /// served in another way.
    async fn reflect(&self, client: &Client, mut found: Kind) -> GetError {
        let kind = self.kind.clone();
        loop {
            if kind.found(self.round, found.clone()) {
                tracing::info!(kind = %kind.gvk, namespaced = found.namespaced, has_status = found.has_status,
                    "kind is served in another way now");
                self.cache.settled(&kind.gvk);
            }
            if !found.namespaced && self.cache.is_of_namespaces() {
                self.cache.out_of_reach(&kind);
                found = self.served.otherwise(&found).await;
                continue;
            }
            let need = kind.need();
            fields::judge(client, &self.cache, &kind, &found, &need).await;
            let wire = need.wire();
            if !found.namespaced && need.scopes.iter().any(|scope| !scope.namespaces.is_empty()) {
                tracing::warn!(kind = %kind.gvk, "a manifest selects a cluster-scoped kind by namespace: it sees nothing of it");
                kind.progress.failed_with("kind is cluster-scoped: nothing of it is in any namespace".into());
            }
            kind.progress.phase(Phase::Listing);
            let parts = kind.parts();
            let other = {
                let parts = parts.iter().map(|part| self.reflect_part(client, &found, &wire, part).boxed());
                tokio::select! {
                    // A kind that is not served is served nowhere.
                    (end, ..) = select_all(parts) => return end,
                    other = self.served.otherwise(&found) => other,
                }
            };
            found = other;
        }
    }

    /// Lists and watches one part until the API server answers 404.
    async fn reflect_part(&self, client: &Client, found: &Kind, wire: &Wire, part: &Arc<Part>) -> GetError {
        let selection = Selection::of(found.clone(), wire.clone(), &part.namespace);
        let mut target = PartTarget { of: self, part, metadata_only: selection.metadata_only };
        Reflector::new(client, &selection, &part.progress, &part.anew, &self.doubt, &mut target).run().await
    }

    fn absent(&self) {
        let (gone, news) = self.kind.absent(self.round);
        if !news {
            return;
        }
        tracing::info!(kind = %self.kind.gvk, objects = gone.len(), "kind is not served, waiting for it");
        self.route_all(&gone);
        self.cache.settled(&self.kind.gvk);
    }

    fn route_all(&self, changes: &[Change]) {
        let need = self.kind.need();
        for change in changes {
            self.cache.route(&self.kind.gvk, &need, change, false);
        }
    }
}

/// What the loop of one part feeds.
struct PartTarget<'a> {
    of: &'a KindTarget,
    part: &'a Part,
    /// Whether the texts that come are without their bodies.
    metadata_only: bool,
}

impl PartTarget<'_> {
    fn parse(&self, text: &str) -> Result<Object, ObjectError> {
        match self.metadata_only {
            true => Object::parse_metadata(&self.of.kind.gvk, text),
            false => Object::parse(&self.of.kind.gvk, text),
        }
    }
}

impl Target for PartTarget<'_> {
    fn newest(&self) -> u64 {
        self.of.kind.newest(self.part)
    }

    fn begin(&mut self, rewound: bool) {
        self.of.kind.begin(self.of.round, self.part, rewound);
    }

    fn put(&mut self, text: &str) -> Result<Box<str>, ObjectError> {
        let object = self.parse(text)?;
        let version = object.meta().resource_version.as_ref().into();
        match self.of.kind.put(self.of.round, object, self.of.cache.budget()) {
            Put::NoNews => {}
            Put::News { change, need, first } => {
                self.of.cache.route(&self.of.kind.gvk, &need, &change, first)
            }
            Put::Full => {
                self.of.cache.overflowed(&self.of.kind);
                self.of.changes.send_replace(());
            }
        }
        Ok(version)
    }

    fn gone(&mut self, text: &str) -> Result<Box<str>, ObjectError> {
        let last = self.parse(text)?;
        if let Some((change, need)) = self.of.kind.remove(self.of.round, &last) {
            self.of.cache.route(&self.of.kind.gvk, &need, &change, false);
        }
        Ok(last.meta().resource_version.as_ref().into())
    }

    fn listed(&mut self, version: u64) {
        let (gone, first) = self.of.kind.listed(self.of.round, self.part, version);
        self.of.route_all(&gone);
        if first {
            self.of.cache.settled(&self.of.kind.gvk);
        }
    }

    fn reached(&mut self, version: u64) {
        self.of.kind.reached(self.of.round, self.part, version);
    }

    fn is_full(&self) -> bool {
        self.of.kind.is_full()
    }
}

//! Versions that are nothing but their name, and a host around the registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use windlass_core::code::{Code, Refusal};
use windlass_core::manifest::{ChildRule, Manifest, Unwanted};
use windlass_core::name::{Digest, PluginName};
use windlass_plugin::{Change, CountsNow, Offer, Quarantined, Registry, State, Step, Ticket, Version};

/// A version that knows whether it is loaded.
#[derive(Debug)]
pub(crate) struct Fake {
    digest: Digest,
    manifest: Arc<Manifest>,
    counts: CountsNow,
    alive: Arc<AtomicUsize>,
}

impl Version for Fake {
    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    fn counts(&self) -> CountsNow {
        self.counts
    }

    fn follow(&mut self, previous: &Self) {
        self.counts = previous.counts;
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) struct World {
    pub(crate) registry: Registry<Fake>,
    alive: Arc<AtomicUsize>,
    clock: i64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { registry: Registry::default(), alive: Arc::default(), clock: 1_800_000_000 }
    }

    pub(crate) fn now(&mut self) -> Timestamp {
        self.clock += 1;
        Timestamp::from_second(self.clock).expect("in range")
    }

    /// Versions that are loaded.
    pub(crate) fn alive(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }

    pub(crate) fn version(&self, plugin: &str, version: &str) -> Fake {
        self.writing(plugin, version, "apps/v1/Deployment")
    }

    pub(crate) fn writing(&self, plugin: &str, version: &str, child: &str) -> Fake {
        self.alive.fetch_add(1, Ordering::Relaxed);
        let children = vec![ChildRule { kind: child.parse().expect("a kind"), unwanted: Unwanted::Delete }];
        let manifest = Manifest {
            name: name(plugin),
            version: version.to_owned(),
            primary: "example.com/v1/Thing".parse().expect("a kind"),
            children,
            reads: Vec::new(),
            selects: windlass_core::scope::Scope::default(),
            strict: true,
            finalizes: false,
        };
        Fake {
            digest: Digest::of(version.as_bytes()),
            manifest: Arc::new(manifest),
            counts: CountsNow::default(),
            alive: self.alive.clone(),
        }
    }

    pub(crate) fn begin(&mut self, offer: &Offer) -> (Option<Ticket>, Vec<Change<Fake>>) {
        let now = self.now();
        let begun = self.registry.begin(offer.clone(), now);
        (begun.load, begun.changes)
    }

    pub(crate) fn finish(&mut self, ticket: &Ticket, result: Result<Fake, Refusal>) -> Vec<Change<Fake>> {
        let now = self.now();
        self.registry.finish(ticket, result, now)
    }

    pub(crate) fn step(&mut self, ticket: &Ticket, step: Step) {
        let now = self.now();
        self.registry.step(ticket, step, now);
    }

    /// Offers a version that works.
    pub(crate) fn serve(&mut self, offer: &Offer, version: &str) -> Vec<Change<Fake>> {
        let ticket = self.begin(offer).0.expect("something to load");
        let version = self.version(offer.plugin.as_str(), version);
        self.finish(&ticket, Ok(version))
    }

    pub(crate) fn serving(&self, plugin: &str) -> Option<String> {
        Some(self.registry.serving(&name(plugin))?.manifest().version.clone())
    }

    pub(crate) fn state(&self, config_map: &str) -> (State, String) {
        let status = self.registry.status(config_map).expect("known");
        (status.state, status.message)
    }

    pub(crate) fn quarantined(&mut self, times: u32) -> Quarantined {
        let since = self.now();
        let until = Timestamp::from_second(self.clock + 60).expect("in range");
        Quarantined { since, until, times, refusal: Refusal::new(Code::Trap, "unreachable") }
    }
}

pub(crate) fn name(plugin: &str) -> PluginName {
    PluginName::try_new(plugin).expect("a DNS label")
}

pub(crate) fn offer(config_map: &str, plugin: &str, created: &str, content: &str) -> Offer {
    Offer {
        config_map: config_map.to_owned(),
        plugin: name(plugin),
        created: created.to_owned(),
        content: Digest::of(content.as_bytes()),
    }
}

pub(crate) fn broken() -> Refusal {
    Refusal::new(Code::CoreModule, "this is a core module")
}

/// What the changes are, in short.
pub(crate) fn short(changes: &[Change<Fake>]) -> Vec<String> {
    let version = |plugin: &Arc<Fake>| plugin.manifest().version.clone();
    let or_nothing = |plugin: &Option<Arc<Fake>>| plugin.as_ref().map_or("nothing".to_owned(), version);
    changes
        .iter()
        .map(|change| match change {
            Change::Serving { plugin, previous, config_map, .. } => {
                format!("{config_map} serves {} after {}", version(plugin), or_nothing(previous))
            }
            Change::Refused { config_map, refusal, serving, .. } => {
                format!("{config_map} refused {} while {} serves", refusal.code as u16, or_nothing(serving))
            }
            Change::Gone { name, previous } => format!("{name} gone after {}", or_nothing(previous)),
            Change::Again { config_map } => format!("{config_map} again"),
        })
        .collect()
}

//! Random histories: whatever happens in whatever order, the same few things are true.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use windlass_plugin::{Change, Offer, State, Step, Ticket, Version};

use crate::world::{Fake, World, broken, name, offer};

const PLUGINS: [&str; 2] = ["p", "q"];
/// Oldest first, but for the first two, which were made in the same second.
const CONFIG_MAPS: [(&str, &str); 4] = [("ns/a", "1"), ("ns/b", "1"), ("ns/c", "2"), ("ns/d", "3")];

#[derive(Clone, Debug)]
enum Happens {
    /// A ConfigMap is there with this plugin and content.
    Told(usize, usize, u8),
    Gone(usize),
    Step(usize),
    /// An attempt ends, well or not; late ones among them.
    Ends(usize, bool),
    Restored(usize),
    Quarantined(usize),
    Released(usize),
    /// A call begins, or the oldest one ends.
    Call(usize),
    Answer,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => (0..4usize, 0..2usize, 0..3u8).prop_map(|(map, plugin, content)| Happens::Told(map, plugin, content)),
        1 => (0..4usize).prop_map(Happens::Gone),
        1 => (0..8usize).prop_map(Happens::Step),
        5 => (0..8usize, any::<bool>()).prop_map(|(ticket, good)| Happens::Ends(ticket, good)),
        2 => (0..8usize).prop_map(Happens::Restored),
        1 => (0..2usize).prop_map(Happens::Quarantined),
        1 => (0..2usize).prop_map(Happens::Released),
        1 => (0..2usize).prop_map(Happens::Call),
        1 => Just(Happens::Answer),
    ]
}

/// The registry beside what a simple mind knows of it.
struct History {
    world: World,
    /// What each ConfigMap offers.
    there: BTreeMap<String, Offer>,
    /// Every attempt, and what it is to load.
    tickets: Vec<(Ticket, String)>,
    calls: Vec<Arc<Fake>>,
}

impl History {
    fn new() -> Self {
        Self { world: World::new(), there: BTreeMap::new(), tickets: Vec::new(), calls: Vec::new() }
    }

    fn tell(&mut self, offer: Offer) {
        let version = offer.content.short().to_owned();
        let (ticket, changes) = self.world.begin(&offer);
        self.tickets.extend(ticket.map(|ticket| (ticket, version)));
        self.follow(changes);
    }

    /// Does what a host does for changes.
    fn follow(&mut self, changes: Vec<Change<Fake>>) {
        for change in changes {
            if let Change::Again { config_map } = change
                && let Some(offer) = self.there.get(&config_map).cloned()
            {
                self.tell(offer);
            }
        }
    }

    fn ticket(&self, back: usize) -> Option<(Ticket, String)> {
        self.tickets.iter().rev().nth(back).cloned()
    }

    /// Answers whether what serves may change by it.
    fn run(&mut self, event: Happens) -> bool {
        match event {
            Happens::Told(map, plugin, content) => {
                let (config_map, created) = CONFIG_MAPS[map];
                let offer = offer(config_map, PLUGINS[plugin], created, &format!("{config_map} {content}"));
                self.there.insert(config_map.to_owned(), offer.clone());
                self.tell(offer);
                true
            }
            Happens::Gone(map) => {
                self.there.remove(CONFIG_MAPS[map].0);
                let changes = self.world.registry.remove(CONFIG_MAPS[map].0);
                self.follow(changes);
                true
            }
            Happens::Step(back) => {
                if let Some((ticket, _)) = self.ticket(back) {
                    self.world.step(&ticket, Step::Compiled);
                }
                false
            }
            Happens::Ends(back, good) => {
                let Some((ticket, version)) = self.ticket(back) else { return false };
                let fake = good.then(|| self.world.version(ticket.plugin.as_str(), &version));
                let changes = self.world.finish(&ticket, fake.ok_or_else(broken));
                assert!(changes.len() <= 1);
                good
            }
            Happens::Restored(back) => {
                let Some((ticket, _)) = self.ticket(back) else { return false };
                let before = self.world.serving(ticket.plugin.as_str());
                let (fake, now) = (self.world.version(ticket.plugin.as_str(), "kept"), self.world.now());
                let restored = !self.world.registry.restore(&ticket, fake, now).is_empty();
                assert!(!restored || before.is_none(), "what was kept never replaces what serves");
                restored
            }
            Happens::Quarantined(plugin) => {
                let plugin = name(PLUGINS[plugin]);
                let why = self.world.quarantined(1);
                if let Some(digest) = self.world.registry.serving(&plugin).map(|v| v.digest().clone()) {
                    self.world.registry.quarantine(&plugin, &digest, why);
                }
                false
            }
            Happens::Released(plugin) => {
                let now = self.world.now();
                self.world.registry.release(&name(PLUGINS[plugin]), now);
                false
            }
            Happens::Call(plugin) => {
                self.calls.extend(self.world.registry.serving(&name(PLUGINS[plugin])).cloned());
                false
            }
            Happens::Answer => {
                if !self.calls.is_empty() {
                    self.calls.remove(0);
                }
                false
            }
        }
    }

    fn serving(&self) -> Vec<Option<String>> {
        PLUGINS.iter().map(|plugin| self.world.serving(plugin)).collect()
    }

    /// What is true at any moment.
    fn holds(&self) {
        let mut loaded: Vec<*const Fake> = self.calls.iter().map(Arc::as_ptr).collect();
        for plugin in PLUGINS {
            let wants = self.there.values().filter(|offer| offer.plugin == name(plugin));
            let oldest = wants.min_by_key(|offer| (&offer.created, &offer.config_map));
            let view = self.world.registry.view().into_iter().find(|view| view.name == name(plugin));
            assert_eq!(
                view.as_ref().map(|view| &view.config_map),
                oldest.map(|offer| &offer.config_map),
                "the oldest has the name"
            );
            let Some((view, oldest)) = view.zip(oldest) else { continue };
            let serving = self.world.registry.serving(&name(plugin));
            loaded.extend(serving.map(Arc::as_ptr));
            if matches!(view.status.state, State::Serving | State::Quarantined) {
                let version = &serving.expect("something serves").manifest().version;
                assert_eq!(*version, oldest.content.short(), "what is said to serve does");
            }
        }
        for offer in self.there.values() {
            assert!(self.world.registry.status(&offer.config_map).is_some(), "nobody is forgotten");
        }
        loaded.sort_unstable();
        loaded.dedup();
        assert_eq!(self.world.alive(), loaded.len(), "what neither serves nor answers is unloaded");
    }
}

/// 300 cases as a rule; `WINDLASS_TEST_FULL` asks for 100,000.
fn cases() -> u32 {
    if std::env::var_os("WINDLASS_TEST_FULL").is_some() { 100_000 } else { 300 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_only_warm_versions_serve_and_nothing_else_stays_loaded(
        events in proptest::collection::vec(happens(), 1..60)
    ) {
        let mut history = History::new();
        for event in events {
            let before = history.serving();
            let may_change = history.run(event.clone());
            prop_assert!(may_change || before == history.serving(), "{event:?} changed what serves");
            history.holds();
        }
        // In the end everything is answered: each plugin settles.
        for (ticket, _) in history.tickets.clone() {
            let changes = history.world.finish(&ticket, Err(broken()));
            history.follow(changes);
        }
        prop_assert!(history.world.registry.is_settled());
        history.holds();
    }
}

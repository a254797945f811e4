//! The registry: which version of which plugin serves, and why another does not.
//!
//! A state machine over values. It loads nothing, writes nothing and knows no
//! clock: the host tells it what happened and when, and does what it answers. Two
//! rules are its reason to exist. A new version replaces the old one only when it
//! serves. And of several ConfigMaps that claim one name the oldest has it, on
//! every replica alike.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use windlass_core::code::{Code, Refusal, printable};
use windlass_core::name::{Digest, PluginName};

use crate::config_map::Offer;
use crate::plugin::Plugin;
use crate::status::{PluginView, ServingView, State, Status};

/// Every plugin that a ConfigMap offers.
#[derive(Debug, Default)]
pub struct Registry {
    plugins: BTreeMap<PluginName, Entry>,
    tickets: u64,
}

/// What the host does next for a ConfigMap that it has told of.
#[derive(Debug)]
#[must_use]
pub struct Begun {
    /// Load it, and hand this back with the result. `None`: nothing to load.
    pub load: Option<Ticket>,
    /// What has changed already.
    pub changes: Vec<Change>,
}

/// One attempt to load what a ConfigMap offers. Worth nothing once a newer one exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The plugin's name.
    pub plugin: PluginName,
    /// `<namespace>/<name>` of the ConfigMap.
    pub config_map: String,
    number: u64,
}

/// Something that the rest of the host has to know.
#[derive(Debug)]
pub enum Change {
    /// From now on this one decides: start watches, queue its keys, say so.
    Serving {
        /// The plugin's name.
        name: PluginName,
        /// Its ConfigMap.
        config_map: String,
        /// What decides now; its manifest says what to watch.
        plugin: Arc<Plugin>,
        /// What decided before, if anything did.
        previous: Option<Arc<Plugin>>,
    },
    /// What the ConfigMap offers does not serve: Event, annotation, metric.
    Refused {
        /// The plugin's name.
        name: PluginName,
        /// The ConfigMap.
        config_map: String,
        /// Which rule it broke.
        refusal: Refusal,
        /// What goes on serving, if anything does.
        serving: Option<Arc<Plugin>>,
    },
    /// The plugin is no more: end its watches, forget its keys. Its children stay.
    Gone {
        /// The plugin's name.
        name: PluginName,
        /// What decided before, if anything did.
        previous: Option<Arc<Plugin>>,
    },
    /// This ConfigMap was a duplicate and has the name now: [`Registry::begin`] with it again.
    Again {
        /// `<namespace>/<name>`.
        config_map: String,
    },
}

#[derive(Debug)]
struct Entry {
    holder: Offer,
    /// The newest attempt; results of older ones are thrown away.
    ticket: u64,
    status: Status,
    serving: Option<Arc<Plugin>>,
    /// Younger ConfigMaps with the same name.
    duplicates: BTreeMap<String, (Offer, Status)>,
}

impl Registry {
    /// A ConfigMap was seen: for the first time, changed, or once more. What is
    /// as it was costs nothing.
    pub fn begin(&mut self, offer: Offer, now: Timestamp) -> Begun {
        let mut changes = self.leave_other_names(&offer);
        let ticket = self.next_ticket(&offer);
        let Some(entry) = self.plugins.get_mut(&offer.plugin) else {
            let entry = Entry {
                holder: offer.clone(),
                ticket: ticket.number,
                status: Status::new(State::Checked, now),
                serving: None,
                duplicates: BTreeMap::new(),
            };
            self.plugins.insert(offer.plugin, entry);
            return Begun { load: Some(ticket), changes };
        };
        if entry.holder.config_map == offer.config_map {
            let known = entry.holder.content == offer.content;
            entry.holder = offer;
            if known {
                return Begun { load: None, changes };
            }
        } else if is_older(&offer, &entry.holder) {
            entry.duplicates.remove(&offer.config_map);
            let younger = std::mem::replace(&mut entry.holder, offer);
            changes.push(entry.duplicate(younger, now));
        } else {
            let known = entry.duplicates.contains_key(&offer.config_map);
            let change = entry.duplicate(offer, now);
            if !known {
                changes.push(change);
            }
            return Begun { load: None, changes };
        }
        entry.ticket = ticket.number;
        entry.status = Status::new(State::Checked, now);
        Begun { load: Some(ticket), changes }
    }

    /// The bytes are taken out and their digest is known; compilation begins.
    pub fn compiling(&mut self, ticket: &Ticket, digest: &Digest, now: Timestamp) {
        if let Some(entry) = self.current(ticket) {
            entry.status = Status { digest: Some(digest.clone()), ..Status::new(State::Compiling, now) };
        }
    }

    /// An attempt has ended. Nothing happens when a newer one has begun or the
    /// ConfigMap is gone: that result counts for nothing.
    #[must_use]
    pub fn finish(
        &mut self,
        ticket: &Ticket,
        result: Result<Plugin, Refusal>,
        now: Timestamp,
    ) -> Vec<Change> {
        let Some(entry) = self.current(ticket) else {
            return Vec::new();
        };
        let change = match result {
            Ok(plugin) => entry.serve(ticket, plugin, now),
            Err(refusal) => entry.refuse(ticket, refusal, now),
        };
        vec![change]
    }

    /// A ConfigMap is gone, or is no plugin's any more.
    #[must_use]
    pub fn remove(&mut self, config_map: &str) -> Vec<Change> {
        let mut changes = Vec::new();
        let names: Vec<PluginName> = self.plugins.keys().cloned().collect();
        for name in names {
            self.leave(&name, config_map, &mut changes);
        }
        changes
    }

    /// What decides for `plugin` now.
    pub fn serving(&self, plugin: &PluginName) -> Option<&Arc<Plugin>> {
        self.plugins.get(plugin)?.serving.as_ref()
    }

    /// Everything that decides now, by name.
    pub fn all_serving(&self) -> impl Iterator<Item = (&PluginName, &Arc<Plugin>)> {
        self.plugins.iter().filter_map(|(name, entry)| Some((name, entry.serving.as_ref()?)))
    }

    /// How a ConfigMap fares; `None` for one that was never told of.
    pub fn status(&self, config_map: &str) -> Option<&Status> {
        self.plugins.values().find_map(|entry| {
            if entry.holder.config_map == config_map {
                return Some(&entry.status);
            }
            entry.duplicates.get(config_map).map(|(_, status)| status)
        })
    }

    /// Whether each plugin serves or is refused: nothing is under way.
    pub fn is_settled(&self) -> bool {
        self.plugins.values().all(|entry| entry.status.state.is_settled())
    }

    /// All plugins by name, for the debug view.
    pub fn view(&self) -> Vec<PluginView> {
        self.plugins.iter().map(|(name, entry)| entry.view(name)).collect()
    }

    fn next_ticket(&mut self, offer: &Offer) -> Ticket {
        self.tickets += 1;
        Ticket { plugin: offer.plugin.clone(), config_map: offer.config_map.clone(), number: self.tickets }
    }

    fn current(&mut self, ticket: &Ticket) -> Option<&mut Entry> {
        self.plugins.get_mut(&ticket.plugin).filter(|entry| entry.ticket == ticket.number)
    }

    /// A ConfigMap whose label was changed leaves the name that it had.
    fn leave_other_names(&mut self, offer: &Offer) -> Vec<Change> {
        let mut changes = Vec::new();
        let others: Vec<PluginName> =
            self.plugins.keys().filter(|name| **name != offer.plugin).cloned().collect();
        for name in others {
            self.leave(&name, &offer.config_map, &mut changes);
        }
        changes
    }

    fn leave(&mut self, name: &PluginName, config_map: &str, changes: &mut Vec<Change>) {
        let Some(entry) = self.plugins.get_mut(name) else {
            return;
        };
        entry.duplicates.remove(config_map);
        if entry.holder.config_map != config_map {
            return;
        }
        let Some(entry) = self.plugins.remove(name) else {
            return;
        };
        changes.push(Change::Gone { name: name.clone(), previous: entry.serving });
        let heirs = entry.duplicates.into_values().map(|(offer, _)| offer);
        // Again with all of them: the oldest comes out on top whatever the order.
        changes.extend(heirs.map(|offer| Change::Again { config_map: offer.config_map }));
    }
}

impl Entry {
    fn serve(&mut self, ticket: &Ticket, mut plugin: Plugin, now: Timestamp) -> Change {
        let previous = self.serving.take();
        if let Some(previous) = &previous {
            plugin.continue_counts(previous);
        }
        let plugin = Arc::new(plugin);
        self.serving = Some(Arc::clone(&plugin));
        self.status = Status {
            message: format!("version {}", printable(&plugin.manifest().version, 64)),
            digest: Some(plugin.digest().clone()),
            ..Status::new(State::Serving, now)
        };
        Change::Serving {
            name: ticket.plugin.clone(),
            config_map: ticket.config_map.clone(),
            plugin,
            previous,
        }
    }

    fn refuse(&mut self, ticket: &Ticket, refusal: Refusal, now: Timestamp) -> Change {
        let message = match &self.serving {
            Some(old) => format!(
                "{refusal}; {} ({}) goes on serving",
                printable(&old.manifest().version, 64),
                old.digest().short()
            ),
            None => refusal.to_string(),
        };
        let digest = self.status.digest.take();
        self.status = Status::refused(&refusal, message, digest, now);
        Change::Refused {
            name: ticket.plugin.clone(),
            config_map: ticket.config_map.clone(),
            refusal,
            serving: self.serving.clone(),
        }
    }

    /// Keeps a ConfigMap aside that came second.
    fn duplicate(&mut self, offer: Offer, now: Timestamp) -> Change {
        let refusal = Refusal::new(
            Code::DuplicatePlugin,
            format!(
                "ConfigMap {} already holds the plugin {} and is older: rename one of them or remove it",
                self.holder.config_map, offer.plugin
            ),
        );
        let change = Change::Refused {
            name: offer.plugin.clone(),
            config_map: offer.config_map.clone(),
            refusal: refusal.clone(),
            serving: self.serving.clone(),
        };
        self.duplicates.entry(offer.config_map.clone()).or_insert_with(|| {
            let status = Status::refused(&refusal, refusal.to_string(), None, now);
            (offer, status)
        });
        change
    }

    fn view(&self, name: &PluginName) -> PluginView {
        PluginView {
            name: name.clone(),
            config_map: self.holder.config_map.clone(),
            status: self.status.clone(),
            serving: self.serving.as_ref().map(|plugin| ServingView {
                digest: plugin.digest().clone(),
                manifest: Arc::clone(plugin.manifest()),
                counts: plugin.counts().read(),
            }),
            duplicates: self.duplicates.keys().cloned().collect(),
        }
    }
}

/// Whether `a` has the better claim to a name: older, or of the same second and
/// first by name, so that every replica decides alike.
fn is_older(a: &Offer, b: &Offer) -> bool {
    (&a.created, &a.config_map) < (&b.created, &b.config_map)
}

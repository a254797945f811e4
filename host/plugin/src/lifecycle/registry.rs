//! The registry: which version of which plugin serves, and why another does not.
//!
//! A state machine over values. It loads nothing, writes nothing and knows no
//! clock: the host tells it what happened and when, and does what it answers. Three
//! rules are its reason to exist. A new version replaces the old one only when it is warm. A
//! result that was overtaken by a newer offer counts for nothing. And of several ConfigMaps that
//! claim one name the oldest has it, on every replica alike.
//!
//! ```text
//! found -> checked -> compiled -> warmed -> serving <-> quarantined
//!    `--------`----------`----------`--> refused (what served before goes on serving)
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use windlass_core::code::Refusal;
use windlass_core::name::{Digest, PluginName};

use crate::config_map::Offer;
use crate::lifecycle::entry::Entry;
use crate::lifecycle::status::{PluginView, Quarantined, Share, Status};
use crate::lifecycle::version::Version;
use crate::plugin::Plugin;

/// Every plugin that a ConfigMap offers.
#[derive(Debug)]
pub struct Registry<V = Plugin> {
    plugins: BTreeMap<PluginName, Entry<V>>,
    tickets: u64,
}

/// What the host does next for a ConfigMap that it has told of.
#[derive(Debug)]
#[must_use]
pub struct Begun<V = Plugin> {
    /// Load it, and hand this back with the result. `None`: nothing to load.
    pub load: Option<Ticket>,
    /// What has changed already.
    pub changes: Vec<Change<V>>,
}

/// One attempt to load what a ConfigMap offers. Worth nothing once a newer one exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The plugin's name.
    pub plugin: PluginName,
    /// `<namespace>/<name>` of the ConfigMap.
    pub config_map: String,
    pub(crate) number: u64,
}

/// How far an attempt has come. Only for people: whatever comes to [`Registry::finish`] is warm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something is missing that may still come, such as a part.
    Waiting(Refusal),
    /// The bytes are taken out and their digest is known; the signature is judged next.
    Checked {
        /// Digest of the component.
        digest: Digest,
        /// The key of the ConfigMap that holds it, where one does.
        key: Option<&'static str>,
    },
    /// Its machine code is there.
    Compiled,
    /// It is loaded and has said what it is.
    Warmed,
}

/// Something that the rest of the host has to know.
#[derive(Debug)]
pub enum Change<V = Plugin> {
    /// From now on this one decides: start watches, queue its keys, say so.
    Serving {
        /// The plugin's name.
        name: PluginName,
        /// Its ConfigMap.
        config_map: String,
        /// What decides now; its manifest says what to watch.
        plugin: Arc<V>,
        /// What decided before, if anything did. It is unloaded when its last call has ended.
        previous: Option<Arc<V>>,
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
        serving: Option<Arc<V>>,
    },
    /// The plugin is no more: end its watches, forget its keys. Its children stay.
    Gone {
        /// The plugin's name.
        name: PluginName,
        /// What decided before, if anything did.
        previous: Option<Arc<V>>,
    },
    /// This ConfigMap was a duplicate and may have the name now: [`Registry::begin`] with it again.
    Again {
        /// `<namespace>/<name>`.
        config_map: String,
    },
}

impl<V> Default for Registry<V> {
    fn default() -> Self {
        Self { plugins: BTreeMap::new(), tickets: 0 }
    }
}

impl<V: Version> Registry<V> {
    /// A ConfigMap was seen: for the first time, changed, or once more. What is as it was costs
    /// nothing, and what goes back to what serves is not loaded again.
    pub fn begin(&mut self, offer: Offer, now: Timestamp) -> Begun<V> {
        let mut changes = self.leave_other_names(&offer);
        let ticket = self.next_ticket(&offer);
        let Some(entry) = self.plugins.get_mut(&offer.plugin) else {
            let name = offer.plugin.clone();
            self.plugins.insert(name, Entry::new(offer, ticket.number, now));
            return Begun { load: Some(ticket), changes };
        };
        if entry.holder.config_map == offer.config_map {
            let known = entry.holder.content == offer.content && !entry.anew;
            let made_anew = entry.holder.created != offer.created;
            entry.holder = offer;
            if made_anew {
                // It lost its age: one of those that came second may be older now.
                changes
                    .extend(entry.duplicates.keys().cloned().map(|config_map| Change::Again { config_map }));
            }
            if known {
                return Begun { load: None, changes };
            }
        } else if is_older(&offer, &entry.holder) {
            changes.push(entry.give_way(offer, now));
        } else {
            changes.extend(entry.duplicate(offer, now));
            return Begun { load: None, changes };
        }
        entry.attempt(ticket.number, now);
        let anew = std::mem::take(&mut entry.anew);
        let load = (anew || !entry.is_back(now)).then_some(ticket);
        Begun { load, changes }
    }

    /// What is offered is to be loaded again although it is as it was, because something else has
    /// changed, such as whom the host trusts. Answers the ConfigMap to [`begin`](Self::begin) with
    /// again; until then, and while that attempt lasts, what serves goes on.
    pub fn anew(&mut self, plugin: &PluginName) -> Option<String> {
        let entry = self.plugins.get_mut(plugin)?;
        entry.anew = true;
        Some(entry.holder.config_map.clone())
    }

    /// An attempt has come so far.
    pub fn step(&mut self, ticket: &Ticket, step: Step, now: Timestamp) {
        if let Some(entry) = self.current(ticket) {
            entry.step(step, now);
        }
    }

    /// An attempt has ended. Nothing happens when a newer one has begun or the
    /// ConfigMap is gone: that result counts for nothing.
    #[must_use]
    pub fn finish(&mut self, ticket: &Ticket, result: Result<V, Refusal>, now: Timestamp) -> Vec<Change<V>> {
        let Some(entry) = self.current(ticket).filter(|entry| !entry.is_settled()) else {
            return Vec::new();
        };
        vec![match result {
            Ok(version) => entry.serve(version, now),
            Err(refusal) => entry.refuse(refusal, now),
        }]
    }

    /// Whether the last good version is asked for: what is offered was refused by this
    /// attempt, and nothing serves.
    pub fn wants_last_good(&self, ticket: &Ticket) -> bool {
        let entry = self.plugins.get(&ticket.plugin);
        entry.is_some_and(|entry| entry.is_attempt(ticket.number) && entry.wants_last_good())
    }

    /// The last good version, which the host had kept, serves because what is offered does not.
    #[must_use]
    pub fn restore(&mut self, ticket: &Ticket, version: V, now: Timestamp) -> Vec<Change<V>> {
        if !self.wants_last_good(ticket) {
            return Vec::new();
        }
        self.current(ticket).map(|entry| entry.restore(version, now)).into_iter().collect()
    }

    /// What serves is left alone for a while; nothing happens when something else serves by now.
    pub fn quarantine(&mut self, plugin: &PluginName, digest: &Digest, why: Quarantined) {
        if let Some(entry) = self.plugins.get_mut(plugin) {
            entry.quarantine(digest, why);
        }
    }

    /// A trial went well: it serves again.
    pub fn release(&mut self, plugin: &PluginName, now: Timestamp) {
        if let Some(entry) = self.plugins.get_mut(plugin) {
            entry.release(now);
        }
    }

    /// A ConfigMap is gone, or is no plugin's any more.
    #[must_use]
    pub fn remove(&mut self, config_map: &str) -> Vec<Change<V>> {
        let mut changes = Vec::new();
        let names: Vec<PluginName> = self.plugins.keys().cloned().collect();
        for name in names {
            self.leave(&name, config_map, &mut changes);
        }
        changes
    }

    /// What decides for `plugin` now.
    pub fn serving(&self, plugin: &PluginName) -> Option<&Arc<V>> {
        self.plugins.get(plugin)?.serving()
    }

    /// Every version that decides now as its ConfigMap offers it, and is not quarantined, with
    /// the offer and since when: what may be kept as the last good one.
    pub fn good(&self) -> impl Iterator<Item = (&Offer, &Arc<V>, Timestamp)> {
        self.plugins.values().filter_map(Entry::good)
    }

    /// How a ConfigMap fares; `None` for one that was never told of.
    pub fn status(&self, config_map: &str) -> Option<Status> {
        self.plugins.values().find_map(|entry| entry.status_of(config_map))
    }

    /// Whether each plugin serves or is refused: nothing is under way.
    pub fn is_settled(&self) -> bool {
        self.plugins.values().all(Entry::is_settled)
    }

    /// All plugins by name, for the debug view.
    pub fn view(&self) -> Vec<PluginView> {
        let shares = |name: &PluginName| {
            let own = self.serving(name)?.manifest();
            let others = self.plugins.values().filter_map(Entry::serving);
            Some(others.filter_map(|other| Share::between(own, other.manifest())).collect())
        };
        self.plugins.iter().map(|(name, entry)| entry.view(shares(name).unwrap_or_default())).collect()
    }

    fn next_ticket(&mut self, offer: &Offer) -> Ticket {
        self.tickets += 1;
        Ticket { plugin: offer.plugin.clone(), config_map: offer.config_map.clone(), number: self.tickets }
    }

    fn current(&mut self, ticket: &Ticket) -> Option<&mut Entry<V>> {
        self.plugins.get_mut(&ticket.plugin).filter(|entry| entry.is_attempt(ticket.number))
    }

    /// A ConfigMap whose label was changed leaves the name that it had.
    fn leave_other_names(&mut self, offer: &Offer) -> Vec<Change<V>> {
        let mut changes = Vec::new();
        let others: Vec<PluginName> =
            self.plugins.keys().filter(|name| **name != offer.plugin).cloned().collect();
        for name in others {
            self.leave(&name, &offer.config_map, &mut changes);
        }
        changes
    }

    fn leave(&mut self, name: &PluginName, config_map: &str, changes: &mut Vec<Change<V>>) {
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
        changes.push(Change::Gone { name: name.clone(), previous: entry.serving().cloned() });
        // Again with all of them: the oldest comes out on top whatever the order.
        changes.extend(entry.duplicates.into_keys().map(|config_map| Change::Again { config_map }));
    }
}

/// Whether `a` has the better claim to a name: older, or of the same second and
/// first by name, so that every replica decides alike.
fn is_older(a: &Offer, b: &Offer) -> bool {
    (&a.created, &a.config_map) < (&b.created, &b.config_map)
}

//! One plugin in the registry: what is offered, how far that has come, what serves.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use windlass_core::code::{Code, Refusal, printable};
use windlass_core::name::Digest;

use crate::config_map::Offer;
use crate::lifecycle::registry::{Change, Step};
use crate::lifecycle::status::{
    PluginView, Quarantined, Refused, ServingView, Share, State, Status, sentence,
};
use crate::lifecycle::version::Version;
use crate::source::Origin;

#[derive(Debug)]
pub(crate) struct Entry<V> {
    /// Who has the name.
    pub(crate) holder: Offer,
    /// Younger ConfigMaps with the same name.
    pub(crate) duplicates: BTreeMap<String, Duplicate>,
    /// The newest attempt; results of older ones are thrown away.
    attempt: u64,
    /// What is offered is to be loaded again although it is as it was.
    pub(crate) anew: bool,
    offered: Offered,
    serving: Option<Served<V>>,
}

/// A ConfigMap that came second.
#[derive(Debug)]
pub(crate) struct Duplicate {
    refusal: Refusal,
    since: Timestamp,
}

/// How far what the holder offers has come.
#[derive(Debug)]
struct Offered {
    stage: Stage,
    digest: Option<Digest>,
    key: Option<&'static str>,
    since: Timestamp,
}

#[derive(Debug)]
enum Stage {
    Found,
    /// What is missing may still come.
    Waiting(Refusal),
    Checked,
    Compiled,
    Warmed,
    Serving,
    Refused(Refusal),
}

/// A version that decides.
#[derive(Debug)]
struct Served<V> {
    version: Arc<V>,
    /// What the ConfigMap held that it came from; `None` for the last good one, which came from
    /// elsewhere.
    content: Option<Digest>,
    key: Option<&'static str>,
    since: Timestamp,
    quarantine: Option<Quarantined>,
}

impl Offered {
    fn new(stage: Stage, now: Timestamp) -> Self {
        Self { stage, digest: None, key: None, since: now }
    }
}

impl<V: Version> Entry<V> {
    pub(crate) fn new(holder: Offer, attempt: u64, now: Timestamp) -> Self {
        Self {
            holder,
            duplicates: BTreeMap::new(),
            attempt,
            anew: false,
            offered: Offered::new(Stage::Found, now),
            serving: None,
        }
    }

    pub(crate) fn is_attempt(&self, number: u64) -> bool {
        self.attempt == number
    }

    /// Something else is offered than before.
    pub(crate) fn attempt(&mut self, number: u64, now: Timestamp) {
        self.attempt = number;
        self.offered = Offered::new(Stage::Found, now);
    }

    /// Whether what is offered is what serves already; then it counts as offered again.
    pub(crate) fn is_back(&mut self, now: Timestamp) -> bool {
        let Some(served) = &self.serving else { return false };
        if served.content.as_ref() != Some(&self.holder.content) {
            return false;
        }
        let (digest, key) = (Some(served.version.digest().clone()), served.key);
        self.offered = Offered { stage: Stage::Serving, digest, key, since: now };
        true
    }

    pub(crate) fn step(&mut self, step: Step, now: Timestamp) {
        if self.is_settled() {
            return;
        }
        self.offered.since = now;
        self.offered.stage = match step {
            Step::Waiting(refusal) => Stage::Waiting(refusal),
            Step::Checked { digest, key } => {
                self.offered.digest = Some(digest);
                self.offered.key = key;
                Stage::Checked
            }
            Step::Compiled => Stage::Compiled,
            Step::Warmed => Stage::Warmed,
        };
    }

    pub(crate) fn serve(&mut self, version: V, now: Timestamp) -> Change<V> {
        self.offered.stage = Stage::Serving;
        self.offered.digest = Some(version.digest().clone());
        self.offered.since = now;
        self.swap(version, Some(self.holder.content.clone()), now)
    }

    pub(crate) fn refuse(&mut self, refusal: Refusal, now: Timestamp) -> Change<V> {
        self.offered.stage = Stage::Refused(refusal.clone());
        self.offered.since = now;
        self.refused(self.holder.config_map.clone(), refusal)
    }

    pub(crate) fn wants_last_good(&self) -> bool {
        matches!(self.offered.stage, Stage::Refused(_)) && self.serving.is_none()
    }

    pub(crate) fn restore(&mut self, version: V, now: Timestamp) -> Change<V> {
        self.swap(version, None, now)
    }

    /// From now on `version` serves. The old one is dropped with the last call that it answers.
    fn swap(&mut self, mut version: V, content: Option<Digest>, now: Timestamp) -> Change<V> {
        let previous = self.serving.take().map(|served| served.version);
        if let Some(previous) = &previous {
            version.follow(previous);
        }
        let version = Arc::new(version);
        self.serving = Some(Served {
            version: Arc::clone(&version),
            content,
            key: self.offered.key,
            since: now,
            quarantine: None,
        });
        Change::Serving {
            name: self.holder.plugin.clone(),
            config_map: self.holder.config_map.clone(),
            plugin: version,
            previous,
        }
    }

    pub(crate) fn quarantine(&mut self, digest: &Digest, why: Quarantined) {
        if let Some(served) = self.serving.as_mut().filter(|served| served.version.digest() == digest) {
            served.quarantine = Some(why);
        }
    }

    pub(crate) fn release(&mut self, now: Timestamp) {
        let Some(served) = &mut self.serving else { return };
        if served.quarantine.take().is_some() && matches!(self.offered.stage, Stage::Serving) {
            self.offered.since = now;
        }
    }

    /// An older ConfigMap has the name from now on.
    pub(crate) fn give_way(&mut self, to: Offer, now: Timestamp) -> Change<V> {
        self.duplicates.remove(&to.config_map);
        let younger = std::mem::replace(&mut self.holder, to);
        let refusal = self.is_taken();
        let duplicate = Duplicate { refusal: refusal.clone(), since: now };
        self.duplicates.insert(younger.config_map.clone(), duplicate);
        self.refused(younger.config_map, refusal)
    }

    /// Keeps a ConfigMap aside that came second; says so once.
    pub(crate) fn duplicate(&mut self, offer: Offer, now: Timestamp) -> Option<Change<V>> {
        if self.duplicates.contains_key(&offer.config_map) {
            return None;
        }
        let refusal = self.is_taken();
        self.duplicates.insert(offer.config_map.clone(), Duplicate { refusal: refusal.clone(), since: now });
        Some(self.refused(offer.config_map, refusal))
    }

    fn is_taken(&self) -> Refusal {
        Refusal::new(
            Code::DuplicatePlugin,
            format!(
                "ConfigMap {} already holds the plugin {} and is older: rename one of them or remove it",
                self.holder.config_map, self.holder.plugin
            ),
        )
    }

    fn refused(&self, config_map: String, refusal: Refusal) -> Change<V> {
        let serving = self.serving().cloned();
        Change::Refused { name: self.holder.plugin.clone(), config_map, refusal, serving }
    }

    pub(crate) fn serving(&self) -> Option<&Arc<V>> {
        self.serving.as_ref().map(|served| &served.version)
    }

    /// See [`Registry::good`](crate::Registry::good).
    pub(crate) fn good(&self) -> Option<(&Offer, &Arc<V>, Timestamp)> {
        let served = self.serving.as_ref()?;
        let is_good = matches!(self.offered.stage, Stage::Serving)
            && served.quarantine.is_none()
            && served.content.as_ref() == Some(&self.holder.content);
        is_good.then_some((&self.holder, &served.version, served.since))
    }

    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.offered.stage, Stage::Serving | Stage::Refused(_))
    }

    /// How a ConfigMap that is the holder or a duplicate fares.
    pub(crate) fn status_of(&self, config_map: &str) -> Option<Status> {
        if self.holder.config_map == config_map {
            return Some(self.status());
        }
        let Duplicate { refusal, since } = self.duplicates.get(config_map)?;
        let plugin = self.holder.plugin.clone();
        let origin = Origin { plugin, config_map: config_map.to_owned(), key: None, digest: None };
        Some(Status {
            state: State::Refused,
            message: sentence(&origin, refusal),
            refusal: Some(Refused { code: refusal.code }),
            digest: None,
            since: *since,
        })
    }

    fn status(&self) -> Status {
        let Offered { stage, digest, since, .. } = &self.offered;
        let mut status = Status {
            state: State::Found,
            message: String::new(),
            refusal: None,
            digest: digest.clone(),
            since: *since,
        };
        status.state = match stage {
            Stage::Found => State::Found,
            Stage::Waiting(refusal) => {
                status.message = self.goes_on(sentence(&self.origin(), refusal));
                State::Found
            }
            Stage::Checked => State::Checked,
            Stage::Compiled => State::Compiled,
            Stage::Warmed => State::Warmed,
            Stage::Serving => return self.serving_status(status),
            Stage::Refused(refusal) => {
                status.refusal = Some(Refused { code: refusal.code });
                status.message = self.goes_on(sentence(&self.origin(), refusal));
                State::Refused
            }
        };
        status
    }

    fn serving_status(&self, mut status: Status) -> Status {
        status.state = State::Serving;
        let Some(served) = &self.serving else { return status };
        match &served.quarantine {
            None => {
                let version = printable(&served.version.manifest().version, 64);
                status.message = match served.version.remark() {
                    Some(remark) => format!("version {version}; {remark}"),
                    None => format!("version {version}"),
                };
            }
            Some(why) => {
                status.state = State::Quarantined;
                status.since = why.since;
                status.refusal = Some(Refused { code: why.refusal.code });
                status.message = why.sentence(&self.origin());
            }
        }
        status
    }

    /// A refusal's sentence, and what it does not disturb.
    fn goes_on(&self, sentence: String) -> String {
        let Some(served) = &self.serving else { return sentence };
        let version = printable(&served.version.manifest().version, 64);
        let kept = if served.content.is_none() { ", which the host had kept," } else { "" };
        let alone = if served.quarantine.is_some() { ", quarantined" } else { "" };
        format!("{sentence}; {version} ({}){kept} goes on serving{alone}", served.version.digest().short())
    }

    fn origin(&self) -> Origin {
        Origin {
            plugin: self.holder.plugin.clone(),
            config_map: self.holder.config_map.clone(),
            key: self.offered.key,
            digest: self.offered.digest.clone(),
        }
    }

    pub(crate) fn view(&self, shares: Vec<Share>) -> PluginView {
        PluginView {
            name: self.holder.plugin.clone(),
            config_map: self.holder.config_map.clone(),
            status: self.status(),
            serving: self.serving.as_ref().map(|served| ServingView {
                digest: served.version.digest().clone(),
                since: served.since,
                last_good: served.content.is_none(),
                manifest: Arc::clone(served.version.manifest()),
                counts: served.version.counts(),
            }),
            quarantine: self.serving.as_ref().and_then(|served| served.quarantine.clone()),
            duplicates: self.duplicates.keys().cloned().collect(),
            shares,
        }
    }
}

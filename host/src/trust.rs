//! Whose word counts for a plugin: signatures judged before anything is loaded, keys that come
//! and go, and what was accepted, which only ever rises.
//!
//! | file | what |
//! |---|---|
//! | `judged` | what was said of each plugin, and what follows when it is judged once more |
//! | `view` | what people see of it |

mod judged;
mod view;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};
use windlass_apply::Writer;
use windlass_core::accepted::Accepted;
use windlass_core::claim::{BootClock, Claim, Gate};
use windlass_core::class::Class;
use windlass_core::code::{Code, Refusal};
use windlass_core::name::{Digest, PluginName};
use windlass_core::ports::ApplyError;
use windlass_lease::clock::Boottime;
use windlass_plugin::Source;
use windlass_plugin::verify::{Mode, Offered, Trust, Verifier};

use crate::observe::Observed;
use crate::sandbox::whole;
use judged::{Judged, Judgements, Said};
pub(crate) use judged::{Turn, Which};
use view::{PluginTrust, TrustView};

/// How often keys are read again: a few small files of this machine.
const READ_KEYS: Duration = Duration::from_secs(2);
/// How often it is compared what was accepted: a request.
const COMPARE: Duration = Duration::from_secs(10);
/// How often what lasts is said again.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// The judge of signatures, and what it said of each plugin.
pub(crate) struct Trusts {
    verifier: Verifier,
    observed: Arc<Observed>,
    known: Mutex<Known>,
    /// Whether it is known what was accepted before: until then nothing can be judged.
    learned: watch::Sender<bool>,
    /// Something serves that is to be recorded.
    news: Notify,
}

#[derive(Default)]
struct Known {
    plugins: BTreeMap<PluginName, Judgements>,
    /// Why the keys stay as they were.
    keys: Trouble,
    /// Why it is not known what was accepted.
    accepted: Trouble,
    /// Whether that is a person's to mend, so that nothing new may be accepted meanwhile.
    guard_is_lost: bool,
}

/// Something that is wrong for a while, and when it was said last.
#[derive(Default)]
struct Trouble {
    what: Option<String>,
    said: Option<Instant>,
}

impl Trouble {
    /// Whether it is to be said: when it begins, when it changes and now and then.
    fn lasts(&mut self, what: String, now: Instant) -> bool {
        let same = self.what.as_ref() == Some(&what);
        let say = !same || self.said.is_none_or(|said| now.duration_since(said) >= SAY_AGAIN);
        self.what = Some(what);
        if say {
            self.said = Some(now);
        }
        say
    }

    /// Whether there was any.
    fn ends(&mut self) -> bool {
        std::mem::take(self).what.is_some()
    }
}

impl Trusts {
    /// Nothing judged yet.
    pub(crate) fn new(verifier: Verifier, observed: Arc<Observed>) -> Self {
        let learned = watch::Sender::new(verifier.mode() == Mode::Off);
        Self { verifier, observed, known: Mutex::default(), learned, news: Notify::new() }
    }

    /// Resolves when plugins can be judged.
    pub(crate) async fn ready(&self) {
        // Whoever holds `self` holds the sender.
        let _ = self.learned.subscribe().wait_for(|learned| *learned).await;
    }

    /// Whether plugins can be judged.
    pub(crate) fn is_ready(&self) -> bool {
        *self.learned.borrow()
    }

    /// May this be loaded? What should be said of it if so.
    ///
    /// # Errors
    /// E130 to E134, when signatures are enforced.
    pub(crate) fn judge(&self, source: &Source, which: Which) -> Result<Option<String>, Refusal> {
        if self.verifier.mode() == Mode::Off {
            return Ok(None);
        }
        let keys = self.verifier.keys();
        let said = self.verify(&source.plugin, &source.digest, source.signature.as_deref());
        if which == Which::Offered {
            self.show(&source.plugin, &said);
        }
        if let Ok(Trust::Doubted(refusal)) = &said {
            self.observed.metrics.plugins().error(&source.plugin, refusal.code);
            warn!(
                plugin = %source.plugin, digest = source.digest.short(), %refusal,
                "the plugin is not verified, and let in all the same"
            );
        }
        let answer = said.as_ref().map(Trust::warning).map_err(Refusal::clone);
        let (digest, signature) = (source.digest.clone(), source.signature.clone());
        let judged = Judged { digest, signature, keys, said };
        self.known().plugins.entry(source.plugin.clone()).or_default().judged(which, judged);
        answer
    }

    /// This component serves now: if it was vouched for, nothing older may from now on.
    pub(crate) fn served(&self, plugin: &PluginName, digest: &Digest) {
        let mut known = self.known();
        let serving = known.plugins.get_mut(plugin).and_then(|of| of.serves(digest));
        if let Some(Judged { said: Ok(Trust::Verified(verified)), .. }) = serving {
            self.verifier.served(verified, Timestamp::now());
            if verified.newer {
                self.news.notify_one();
            }
        }
    }

    /// What is offered is what serves: something else was offered in between, or nothing.
    pub(crate) fn offered_again(&self, plugin: &PluginName) {
        let mut known = self.known();
        let Some(of) = known.plugins.get_mut(plugin) else {
            return;
        };
        of.offered = None;
        if let Some(serving) = &of.serving {
            self.show(plugin, &serving.said);
        }
    }

    /// The plugin is gone.
    pub(crate) fn forget(&self, plugin: &PluginName) {
        self.known().plugins.remove(plugin);
    }

    /// Keeps keys and acceptance up to date; `turned` hears of plugins that have to stop or to be
    /// looked at again. Never returns.
    pub(crate) async fn follow(
        self: Arc<Self>,
        writer: Arc<Writer>,
        gate: Arc<Gate>,
        turned: impl Fn(&PluginName, &Turn) + Send + Sync,
    ) {
        if self.verifier.mode() == Mode::Off {
            return std::future::pending().await;
        }
        let mut compare = Instant::now();
        loop {
            // The keys first: they count also while no API server answers.
            self.look(&turned).await;
            if compare <= Instant::now() {
                let known = self.learn(&writer, gate.claim(Boottime.now())).await;
                compare = Instant::now() + if known { COMPARE } else { READ_KEYS };
                self.look(&turned).await;
            }
            tokio::select! {
                () = tokio::time::sleep(READ_KEYS) => {}
                () = self.news.notified() => compare = Instant::now(),
            }
        }
    }

    /// For the debug view.
    pub(crate) fn view(&self) -> TrustView {
        let keys = self.verifier.keys();
        let known = self.known();
        let problems = [&known.keys, &known.accepted];
        TrustView {
            mode: self.verifier.mode().as_str(),
            ready: self.is_ready(),
            problems: problems.into_iter().filter_map(|trouble| trouble.what.clone()).collect(),
            keys: keys.iter().map(Into::into).collect(),
            plugins: known.plugins.iter().map(|(name, of)| PluginTrust::of(name, of)).collect(),
        }
    }

    /// Takes over what is kept; who leads adds what has served since. Answers whether it is known.
    async fn learn(&self, writer: &Writer, claim: Option<Claim>) -> bool {
        let pending = self.verifier.pending();
        let kept = match claim {
            Some(claim) if !pending.is_empty() => writer.record_accepted(&pending, &claim).await,
            _ => writer.read_accepted().await,
        };
        match kept {
            Ok(kept) => self.is_known(kept),
            Err(error) => {
                self.is_unknown(&error);
                false
            }
        }
    }

    fn is_known(&self, kept: Accepted) -> bool {
        self.verifier.learn(kept);
        let mut known = self.known();
        known.guard_is_lost = false;
        if known.accepted.ends() {
            info!("it is known again which signed plugins were accepted before");
        }
        drop(known);
        self.learned.send_replace(true);
        true
    }

    fn is_unknown(&self, error: &ApplyError) {
        let (learned, lasts) = (self.is_ready(), error.class == Class::Permanent);
        let warns = self.verifier.mode() == Mode::Warn;
        let mut known = self.known();
        known.guard_is_lost |= lasts;
        let say = known.accepted.lasts(error.message.clone(), Instant::now());
        drop(known);
        match (warns, learned, lasts) {
            _ if !say => {}
            (true, ..) => {
                warn!(%error, "it is not known which signed plugins were accepted before; older ones are let in");
            }
            (false, false, true) => error!(
                %error,
                "no plugin is loaded, because it is not known which signed ones were accepted before: \
                 install deploy/components/signatures, which has the Secret that says it and the right to read it"
            ),
            (false, true, true) => error!(
                %error,
                "no new version of a plugin is accepted until this is mended; what was accepted before goes on"
            ),
            (false, _, false) => {
                warn!(%error, "it cannot be asked which signed plugins were accepted; trying again");
            }
        }
        if warns {
            self.learned.send_replace(true);
        }
    }

    /// Reads the keys again, and judges again what may come out differently.
    async fn look(self: &Arc<Self>, turned: &(impl Fn(&PluginName, &Turn) + Sync)) {
        let this = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || {
            this.read_keys();
            this.judge_again()
        });
        match looked.await {
            Ok(turns) => turns.iter().for_each(|(plugin, turn)| turned(plugin, turn)),
            Err(error) => {
                error!(%error, "looking at keys failed by a mistake of the host; please report this log");
            }
        }
    }

    fn read_keys(&self) {
        match self.verifier.refresh_keys() {
            Ok(changed) => {
                let mended = self.known().keys.ends();
                if changed || mended {
                    let keys = self.verifier.keys();
                    let ids: Vec<String> = keys.iter().map(|key| key.id.to_string()).collect();
                    info!(keys = ids.join(" "), "these keys vouch for plugins from now on");
                }
            }
            Err(error) => {
                let error = whole(&error);
                if self.known().keys.lasts(error.clone(), Instant::now()) {
                    error!(
                        error,
                        "the keys that vouch for plugins cannot be read; all of them stay as they were"
                    );
                }
            }
        }
    }

    fn judge_again(&self) -> Vec<(PluginName, Turn)> {
        let keys = self.verifier.keys();
        let names: Vec<PluginName> = self.known().plugins.keys().cloned().collect();
        let lost = self.guard_is_lost();
        let again = |plugin: PluginName| {
            // Locked for one plugin at a time: others wait for this while they serve.
            let mut known = self.known();
            let verify = |was: &Judged| {
                self.verify_with(lost.as_deref(), &plugin, &was.digest, was.signature.as_deref())
            };
            let turn = known.plugins.get_mut(&plugin)?.again(&keys, verify)?;
            drop(known);
            Some((plugin, turn))
        };
        names.into_iter().filter_map(again).collect()
    }

    fn verify(&self, plugin: &PluginName, digest: &Digest, signature: Option<&str>) -> Said {
        self.verify_with(self.guard_is_lost().as_deref(), plugin, digest, signature)
    }

    /// `lost`: why nothing new may be accepted.
    fn verify_with(
        &self,
        lost: Option<&str>,
        plugin: &PluginName,
        digest: &Digest,
        signature: Option<&str>,
    ) -> Said {
        let trust = self.verifier.verify(Offered { plugin, digest, signature }, Timestamp::now())?;
        match (&trust, lost) {
            (Trust::Verified(verified), Some(why)) if verified.newer => Err(Refusal::new(
                Code::Downgrade,
                format!(
                    "sequence {} is new, and nothing new is accepted until it can be kept that it was: {why}",
                    verified.statement.sequence
                ),
            )),
            _ => Ok(trust),
        }
    }

    /// Why nothing new may be accepted, when signatures are enforced.
    fn guard_is_lost(&self) -> Option<String> {
        let known = self.known();
        let lost = known.guard_is_lost && self.verifier.mode() == Mode::Enforce;
        known.accepted.what.clone().filter(|_| lost)
    }

    fn show(&self, plugin: &PluginName, said: &Said) {
        let mode = self.verifier.mode().as_str();
        self.observed.metrics.plugins().set_signature(plugin, mode, result(said));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Entries are independent of each other.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A label value for metrics: what [`Trust::as_str`] says, or `refused`.
fn result(said: &Said) -> &'static str {
    said.as_ref().map_or("refused", Trust::as_str)
}

#[cfg(test)]
mod tests;

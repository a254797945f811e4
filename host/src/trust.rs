//! Whose word counts for a plugin: signatures judged before anything is loaded, keys that come
//! and go, and what was accepted, which only ever rises.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tracing::{error, info, warn};
use windlass_apply::Writer;
use windlass_core::claim::{BootClock, Claim, Gate};
use windlass_core::code::Refusal;
use windlass_core::name::{Digest, PluginName};
use windlass_lease::clock::Boottime;
use windlass_plugin::Source;
use windlass_plugin::verify::{Mode, Offered, Trust, Verifier};

use crate::observe::Observed;

/// How often keys are read again, and what was accepted is compared.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How often it is asked for what was accepted until it is known.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// The judge of signatures, and what it said of each plugin.
pub(crate) struct Trusts {
    verifier: Verifier,
    observed: Arc<Observed>,
    judged: Mutex<BTreeMap<PluginName, Judged>>,
    /// Whether it is known what was accepted before: until then nothing can be judged.
    learned: watch::Sender<bool>,
}

/// The last judgement of a plugin, and what it was about.
struct Judged {
    digest: Digest,
    signature: Option<Arc<str>>,
    trust: Trust,
}

impl Trusts {
    /// Nothing judged yet.
    pub(crate) fn new(verifier: Verifier, observed: Arc<Observed>) -> Self {
        let learned = verifier.mode() == Mode::Off;
        Self { verifier, observed, judged: Mutex::default(), learned: watch::Sender::new(learned) }
    }

    /// Resolves when plugins can be judged.
    pub(crate) async fn ready(&self) {
        // Whoever holds `self` holds the sender.
        let _ = self.learned.subscribe().wait_for(|learned| *learned).await;
    }

    /// May this be loaded? What should be said of it if so.
    ///
    /// # Errors
    /// E130 to E134, when signatures are enforced.
    pub(crate) fn judge(&self, source: &Source) -> Result<Option<String>, Refusal> {
        let judged = self.verify(&source.plugin, &source.digest, source.signature.as_deref());
        let result = match &judged {
            Ok(trust) => trust.as_str(),
            Err(_) => "refused",
        };
        if self.verifier.mode() != Mode::Off {
            let mode = self.verifier.mode().as_str();
            self.observed.metrics.plugins().set_signature(&source.plugin, mode, result);
        }
        let trust = judged?;
        let remark = trust.warning();
        if let (Some(remark), Trust::Doubted(refusal)) = (&remark, &trust) {
            self.observed.metrics.plugins().error(&source.plugin, refusal.code);
            warn!(plugin = %source.plugin, digest = source.digest.short(), "{remark}");
        }
        let (digest, signature) = (source.digest.clone(), source.signature.clone());
        self.judged().insert(source.plugin.clone(), Judged { digest, signature, trust });
        Ok(remark)
    }

    /// This component serves now: if it was vouched for, nothing older may from now on.
    pub(crate) fn served(&self, plugin: &PluginName, digest: &Digest) {
        if let Some(Judged { digest: known, trust: Trust::Verified(verified), .. }) = self.judged().get(plugin)
            && known == digest
        {
            self.verifier.served(verified, Timestamp::now());
        }
    }

    /// The plugin is gone.
    pub(crate) fn forget(&self, plugin: &PluginName) {
        self.judged().remove(plugin);
    }

    /// Keeps keys and acceptance up to date; `revoked` hears of plugins for which nobody
    /// vouches any more. Never returns.
    pub(crate) async fn follow(
        self: Arc<Self>,
        writer: Arc<Writer>,
        gate: Arc<Gate>,
        revoked: impl Fn(&PluginName, &Refusal) + Send,
    ) {
        if self.verifier.mode() == Mode::Off {
            return std::future::pending().await;
        }
        loop {
            let known = self.learn(&writer, gate.claim(Boottime.now())).await;
            for (plugin, refusal) in self.clone().look_at_keys().await {
                self.forget(&plugin);
                revoked(&plugin, &refusal);
            }
            tokio::time::sleep(if known { LOOK_AGAIN } else { ASK_AGAIN }).await;
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
            Ok(kept) => {
                self.verifier.learn(kept);
                self.learned.send_replace(true);
            }
            Err(error) if self.verifier.mode() == Mode::Warn => {
                warn!(%error, "it is not known which signed plugins were accepted before; older ones are let in");
                self.learned.send_replace(true);
            }
            Err(error) => {
                error!(
                    %error, judging = *self.learned.borrow(),
                    "it is not known which signed plugins were accepted before; deploy/components/signatures installs \
                     the Secret that says it. Without it no plugin is loaded"
                );
            }
        }
        *self.learned.borrow()
    }

    /// Reads the keys again. If they have changed, whoever nobody vouches for any more.
    async fn look_at_keys(self: Arc<Self>) -> Vec<(PluginName, Refusal)> {
        let looked = tokio::task::spawn_blocking(move || match self.verifier.refresh_keys() {
            Ok(false) => Vec::new(),
            Ok(true) => {
                info!(keys = self.verifier.keys().len(), "the keys that vouch for plugins have changed");
                self.no_longer_trusted()
            }
            Err(error) => {
                warn!(%error, "the keys that vouch for plugins cannot be read; they stay as they were");
                Vec::new()
            }
        });
        looked.await.unwrap_or_default()
    }

    fn no_longer_trusted(&self) -> Vec<(PluginName, Refusal)> {
        let judged = self.judged();
        let refused = judged.iter().filter_map(|(plugin, was)| {
            let refusal = self.verify(plugin, &was.digest, was.signature.as_deref()).err()?;
            Some((plugin.clone(), refusal))
        });
        refused.collect()
    }

    fn verify(&self, plugin: &PluginName, digest: &Digest, signature: Option<&str>) -> Result<Trust, Refusal> {
        self.verifier.verify(Offered { plugin, digest, signature }, Timestamp::now())
    }

    fn judged(&self) -> MutexGuard<'_, BTreeMap<PluginName, Judged>> {
        // Entries are independent of each other.
        self.judged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

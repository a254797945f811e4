//! The last good version: the leader keeps a copy of what has proven itself, and every
//! replica falls back on it when nothing else serves.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{info, warn};
use windlass_apply::{Good, LastGood, Writer};
use windlass_core::breaker::BreakerNow;
use windlass_core::claim::Claim;
use windlass_core::code::{Code, Refusal};
use windlass_core::name::{Digest, PluginName};
use windlass_core::ports::ApplyError;
use windlass_plugin::{Offer, Parts, Plugin, Ticket, Whole};

use super::look::{blocking, refused_if_it_panics};
use super::{Overdue, Plugins};
use crate::trust::Which;

/// A version that has decided well is kept when it has served for this long.
const PROVEN_AFTER: Duration = Duration::from_secs(2);
/// One that nobody has asked yet, when it has served for this long.
const UNASKED_AFTER: Duration = Duration::from_secs(10);
/// How soon versions that are not proven yet are looked at again.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Pause before the copy is asked for again when it could not be read.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// What is to be kept.
struct Candidate {
    offer: Offer,
    digest: Digest,
    whole: Option<Whole>,
}

/// What came of a look at all that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// There is a copy of everything.
    All,
    /// Something has to prove itself first.
    Unproven,
    /// A copy could not be written.
    Failed,
}

/// Whether a version has shown that it can be relied on.
fn is_proven(age: Duration, passes: BreakerNow) -> bool {
    let well = passes.good > 0 && age >= PROVEN_AFTER;
    well || (passes.faults == 0 && age >= UNASKED_AFTER)
}

impl Plugins {
    /// Has a copy of every version that has proven itself.
    pub(super) async fn keep_good(&self, writer: &Writer, claim: &Claim) -> Kept {
        let (candidates, unproven) = self.candidates(claim);
        let mut kept = if unproven { Kept::Unproven } else { Kept::All };
        for candidate in candidates {
            let Candidate { offer, digest, .. } = &candidate;
            match self.keep(writer, claim, &candidate).await {
                Ok(written) => {
                    if written {
                        info!(plugin = %offer.plugin, digest = digest.short(), "a copy is kept as the last good version");
                    }
                    self.known().kept.insert(offer.plugin.clone(), offer.content.clone());
                }
                Err(error) => {
                    warn!(plugin = %offer.plugin, %error, "no copy of the last good version could be kept; trying again");
                    kept = Kept::Failed;
                }
            }
        }
        kept
    }

    /// What has no copy that this leader knows of, and whether something has to wait.
    fn candidates(&self, claim: &Claim) -> (Vec<Candidate>, bool) {
        let now = Timestamp::now();
        let mut known = self.known();
        if known.kept_in != Some(claim.term) {
            // Somebody else may have led in between.
            known.kept_in = Some(claim.term);
            known.kept.clear();
        }
        let mut unproven = false;
        let mut candidates = Vec::new();
        for (offer, version, since) in known.registry.good() {
            if known.kept.get(&offer.plugin) == Some(&offer.content) {
                continue;
            }
            let age = Duration::try_from(now.duration_since(since)).unwrap_or_default();
            if !is_proven(age, self.quarantine.read(&offer.plugin)) {
                unproven = true;
                continue;
            }
            let (digest, whole) = (version.digest().clone(), known.wholes.get(&offer.plugin).cloned());
            candidates.push(Candidate { offer: offer.clone(), digest, whole });
        }
        (candidates, unproven)
    }

    async fn keep(&self, writer: &Writer, claim: &Claim, of: &Candidate) -> Result<bool, ApplyError> {
        let Candidate { offer, digest, whole } = of;
        let config_maps = match whole {
            Some(whole) => whole.config_maps().to_vec(),
            None => {
                let name = offer.config_map.rsplit('/').next().unwrap_or_default();
                let text = writer.config_map(name).await?;
                let same = |text: &Arc<str>| Offer::from_config_map(text).is_ok_and(|now| now == *offer);
                match text.filter(same) {
                    Some(text) => vec![text],
                    // It has changed, and what it is now is on its way here.
                    None => return Ok(false),
                }
            }
        };
        let plugin = &offer.plugin;
        writer
            .keep_good(&Good { plugin, digest, content: &offer.content, config_maps: &config_maps }, claim)
            .await
    }

    /// Loads the copy when the attempt was refused and nothing serves.
    pub(super) async fn fall_back(self: &Arc<Self>, ticket: &Ticket, writer: &Writer) {
        let Some(owner) = self.in_need(ticket) else {
            return;
        };
        let plugin = &ticket.plugin;
        let good = match writer.last_good(plugin, &owner).await {
            Ok(Some(good)) => good,
            Ok(None) => return info!(%plugin, "nothing serves, and no last good version was kept"),
            Err(error) => {
                warn!(%plugin, %error, "nothing serves, and the last good version cannot be read; trying again");
                // The attempt has ended: what is left of it is this.
                let refusal = Refusal::new(Code::NoPluginBytes, "the last good version cannot be read");
                return self.later(READ_AGAIN, Overdue::Ends(ticket.clone(), refusal));
            }
        };
        let (this, name) = (self.clone(), plugin.clone());
        let loaded = blocking(move || refused_if_it_panics(|| this.load_good(&good, &name))).await;
        match loaded {
            Some(Ok(version)) => {
                let changes = self.known().registry.restore(ticket, version, Timestamp::now());
                self.carry_out(changes);
                self.states.notify_one();
            }
            Some(Err(refusal)) => {
                warn!(%plugin, %refusal, "nothing serves, and the last good version is refused too")
            }
            None => {}
        }
    }

    /// The uid of the attempt's ConfigMap, when the last good version is asked for.
    fn in_need(&self, ticket: &Ticket) -> Option<String> {
        let known = self.known();
        let needed = known.registry.wants_last_good(ticket);
        let seen = known.seen.get(&ticket.config_map).filter(|_| needed)?;
        Some(seen.meta().uid.to_string())
    }

    /// Judged like anything that is offered, and by its digest on top.
    fn load_good(&self, good: &LastGood, plugin: &PluginName) -> Result<Plugin, Refusal> {
        let source = self.unpack(&whole(good)?)?;
        if source.digest != good.digest {
            let text = format!(
                "the copy in ConfigMap {} says digest {} and holds {}",
                source.config_map,
                good.digest.short(),
                source.digest.short()
            );
            return Err(Refusal::new(Code::DigestMismatch, text));
        }
        let remark = self.trusts.judge(&source, Which::LastGood)?;
        self.watches.room(plugin, &source.digest)?;
        Ok(self.loader().load(&source, plugin)?.remarked(remark))
    }
}

/// Puts the copy together as if it were offered.
fn whole(good: &LastGood) -> Result<Whole, Refusal> {
    let mut parts = Parts::default();
    let mut offered = Vec::new();
    for config_map in &good.config_maps {
        offered = parts.offer(config_map.clone())?.offered;
    }
    let nothing = || Refusal::new(Code::PartsIncomplete, "the copy is not whole");
    offered.into_iter().next().ok_or_else(nothing)?.whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_proven_by_a_good_pass_or_by_time_without_a_fault() {
        let passes = |good, faults| BreakerNow { good, faults, quarantines: 0 };
        for (seconds, passes, proven) in [
            (1, passes(5, 0), false),
            (2, passes(1, 0), true),
            (2, passes(1, 3), true),
            (9, passes(0, 0), false),
            (10, passes(0, 0), true),
            (600, passes(0, 1), false),
        ] {
            assert_eq!(is_proven(Duration::from_secs(seconds), passes), proven, "{seconds} s {passes:?}");
        }
    }
}

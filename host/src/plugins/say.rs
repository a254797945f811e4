//! The state of each plugin on its ConfigMap, written by whoever leads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;
use windlass_apply::{Announcement, PluginConfigMap, Writer};
use windlass_core::backoff::Backoff;
use windlass_core::claim::{BootClock, Claim, Gate};
use windlass_core::object::Object;
use windlass_lease::clock::Boottime;
use windlass_plugin::Status;

use super::good::{self, Kept};
use super::{Known, Plugins};

/// Pauses after announcements that failed in a row: a right that is missing is mended by a person.
const ANNOUNCE_AGAIN: Backoff = match Backoff::try_new(Duration::from_secs(5), Duration::from_secs(300)) {
    Ok(again) => again,
    Err(_) => panic!("5 s to 5 min is a valid backoff"),
};
/// How often a standby looks whether it leads.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

impl Plugins {
    /// Keeps each ConfigMap's annotations true, and a copy of what is good, while this
    /// replica leads. Never returns.
    pub(crate) async fn announce(self: Arc<Self>, writer: Arc<Writer>, gate: Arc<Gate>) {
        let mut failures = 0_u32;
        loop {
            let claim = gate.claim(Boottime.now());
            let pause = match &claim {
                Some(claim) => self.say_all(&writer, claim, &mut failures).await,
                None => Some(LOOK_AGAIN),
            };
            let again = async {
                match pause {
                    // Cheap: nothing is sent that is said already.
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => lost(&gate, claim.as_ref()).await,
                }
            };
            tokio::select! {
                () = self.states.notified() => {}
                () = again => {}
            }
        }
    }

    /// Says and keeps what is to be said and kept; answers when to look again, if at all.
    async fn say_all(&self, writer: &Writer, claim: &Claim, failures: &mut u32) -> Option<Duration> {
        let said = self.say(writer, claim).await;
        let kept = self.keep_good(writer, claim).await;
        if said && kept != Kept::Failed {
            *failures = 0;
            return (kept == Kept::Unproven).then_some(good::LOOK_AGAIN);
        }
        *failures = failures.saturating_add(1);
        Some(ANNOUNCE_AGAIN.pause(*failures, 1.0))
    }

    /// Says every settled state that is not said yet. Answers whether all are.
    async fn say(&self, writer: &Writer, claim: &Claim) -> bool {
        let mut all = true;
        let states = self.known().said_and_true();
        for (object, status) in states {
            let on = PluginConfigMap {
                namespace: object.namespace,
                name: object.name,
                uid: object.uid,
                annotations: &object.annotations,
            };
            let what = Announcement {
                state: status.state.as_str(),
                digest: status.digest.as_ref(),
                message: &status.message,
                since: status.since,
            };
            if let Err(error) = writer.announce(&on, &what, claim).await {
                warn!(config_map = %on.name, %error, "the plugin's state could not be written on its ConfigMap; trying again");
                all = false;
            }
        }
        all
    }
}

/// What an announcement needs of a ConfigMap.
struct Seen {
    namespace: Arc<str>,
    name: Arc<str>,
    uid: Arc<str>,
    annotations: BTreeMap<Box<str>, Box<str>>,
}

impl Known {
    fn said_and_true(&self) -> Vec<(Seen, Status)> {
        let settled =
            |config_map: &String| self.registry.status(config_map).filter(|status| status.state.is_settled());
        let of = |object: &Object| Seen {
            namespace: object.meta().namespace.clone(),
            name: object.meta().name.clone(),
            uid: object.meta().uid.clone(),
            annotations: object
                .meta()
                .annotations()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        };
        self.seen.iter().filter_map(|(name, object)| Some((of(object), settled(name)?))).collect()
    }
}

/// Waits until another term than `claim`'s holds, or none: then a new leader has to look.
async fn lost(gate: &Gate, claim: Option<&Claim>) {
    let term = claim.map(|claim| claim.term);
    while gate.claim(Boottime.now()).map(|claim| claim.term) == term {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

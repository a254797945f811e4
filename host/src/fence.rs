//! What is known of the fence in the API server, for people: whether it is there, and
//! when it last refused a write of ours.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tracing::{info, warn};
use windlass_core::claim::Claim;
use windlass_lease::fence::{Presence, look};

use crate::observe::Observed;

/// How often it is looked for.
const EVERY: Duration = Duration::from_secs(30);

/// The notes.
#[derive(Debug, Default)]
pub(crate) struct Fence(Mutex<Notes>);

#[derive(Debug, Default)]
struct Notes {
    presence: Option<Presence>,
    refusals: u64,
    last: Option<(Timestamp, String)>,
}

/// One reading, as `/debug/leadership` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct FenceView {
    /// `present`, `absent` or `unknown`.
    state: &'static str,
    /// Why it is not known to be there.
    message: Option<String>,
    /// Writes that it refused for good, since this process started.
    refusals: u64,
    /// When it last did, in wall time (RFC 3339).
    last_refusal: Option<String>,
    /// Under which claim that write was made.
    last_refused_claim: Option<String>,
}

impl Fence {
    /// The API server refused a write under `claim`.
    pub(crate) fn refused(&self, claim: &Claim) {
        let mut notes = self.lock();
        notes.refusals += 1;
        notes.last = Some((Timestamp::now(), claim.to_string()));
    }

    pub(crate) fn view(&self) -> FenceView {
        let notes = self.lock();
        let presence = notes.presence.as_ref();
        let unknown = || Some("nobody has looked yet".to_owned());
        FenceView {
            state: presence.map_or("unknown", Presence::as_str),
            message: presence.map_or_else(unknown, |p| p.reason().map(str::to_owned)),
            refusals: notes.refusals,
            last_refusal: notes.last.as_ref().map(|(at, _)| at.to_string()),
            last_refused_claim: notes.last.as_ref().map(|(_, claim)| claim.clone()),
        }
    }

    /// Notes what was found; whether it is news.
    fn found(&self, presence: &Presence) -> bool {
        let before = self.lock().presence.replace(presence.clone());
        before.is_none_or(|before| before.as_str() != presence.as_str())
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        // Notes are independent of each other; a panic leaves none of them half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks for the fence, now and every half minute. Never returns.
pub(crate) async fn follow(observed: &Observed, client: kube::Client, namespace: String) {
    loop {
        let presence = look(&client, &namespace).await;
        observed.metrics.leadership().set_fence(presence.as_str());
        if observed.fence.found(&presence) {
            match &presence {
                Presence::Present => info!("the API server checks claims: the fence is there"),
                Presence::Absent(why) => info!(why, "the API server does not check claims"),
                Presence::Unknown(why) => warn!(why, "it is not known whether the API server checks claims"),
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_core::claim::{BootTime, Term};

    #[test]
    fn a_refusal_is_kept_with_the_claim_that_it_was_about() {
        let fence = Fence::default();
        assert_eq!(fence.view().state, "unknown");
        fence.refused(&Claim { holder: "a".into(), term: Term(3), ends: BootTime(0) });
        let view = fence.view();
        assert_eq!((view.refusals, view.last_refused_claim.as_deref()), (1, Some("a/3")));
    }

    #[test]
    fn only_a_change_is_news() {
        let fence = Fence::default();
        assert!(fence.found(&Presence::Absent("gone".into())));
        assert!(!fence.found(&Presence::Absent("still gone".into())));
        assert!(fence.found(&Presence::Present));
        assert_eq!(fence.view().message, None);
    }
}

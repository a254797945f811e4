//! Keeps the label `windlass.dev/role` of this replica's own pod true, and says on the pod
//! when it has become the leader.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, warn};
use windlass_apply::{Role, Writer};
use windlass_core::backoff::Backoff;
use windlass_core::claim::Claim;
use windlass_core::decision::{Notice, Severity};
use windlass_core::ports::Apply as _;
use windlass_lease::step::Leadership;

/// Between two attempts: nobody waits for the label, and a missing right stays missing.
const PAUSES: Backoff = match Backoff::try_new(Duration::from_millis(500), Duration::from_secs(60)) {
    Ok(pauses) => pauses,
    Err(_) => panic!("half a second is below a minute"),
};
/// How long the last word of an ending leader may take.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The label of one pod.
pub(crate) struct Label {
    writer: Arc<Writer>,
    pod: String,
    written: Option<Role>,
}

impl Label {
    pub(crate) fn new(writer: Arc<Writer>, pod: &str) -> Self {
        Self { writer, pod: pod.to_owned(), written: None }
    }

    /// Follows the election until `stopped`; a leader that ends says that it leads no more.
    pub(crate) async fn follow(
        mut self,
        mut leading: watch::Receiver<Leadership>,
        stopped: impl Future<Output = ()> + Send,
    ) {
        tokio::select! {
            () = self.keep_true(&mut leading) => {}
            () = stopped => {}
        }
        if self.written == Some(Role::Leader) {
            let last = self.writer.label_pod(&self.pod, Role::Standby);
            if let Ok(Err(error)) = tokio::time::timeout(LAST_WORD, last).await {
                debug!(%error, "the pod keeps the label of a leader until it is gone");
            }
        }
    }

    /// Never returns.
    async fn keep_true(&mut self, leading: &mut watch::Receiver<Leadership>) {
        let mut failures = 0;
        loop {
            let claim = match &*leading.borrow_and_update() {
                Leadership::Leading(claim) => Some(claim.clone()),
                Leadership::Standby { .. } => None,
            };
            let role = if claim.is_some() { Role::Leader } else { Role::Standby };
            let pause = match self.say(role, claim).await {
                true => {
                    failures = 0;
                    None
                }
                false => {
                    failures += 1;
                    Some(PAUSES.pause(failures, 1.0))
                }
            };
            let again = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = again => {}
                changed = leading.changed() => if changed.is_err() {
                    std::future::pending::<()>().await;
                },
            }
        }
    }

    /// Whether the label is as it should be now.
    async fn say(&mut self, role: Role, claim: Option<Claim>) -> bool {
        if self.written == Some(role) {
            return true;
        }
        match self.writer.label_pod(&self.pod, role).await {
            Ok(None) => debug!(pod = self.pod, "no such pod in the host's namespace: no label"),
            Ok(Some(target)) => {
                self.written = Some(role);
                if let Some(claim) = claim {
                    let message = format!("{} leads in term {}", claim.holder, claim.term);
                    let notice =
                        Notice { severity: Severity::Normal, reason: "LeaderElection".to_owned(), message };
                    self.writer.notify(&target, &notice, &claim).await;
                }
            }
            Err(error) => {
                warn!(%error, "the pod's label windlass.dev/role is not written; trying again");
                return false;
            }
        }
        true
    }
}

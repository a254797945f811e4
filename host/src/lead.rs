//! Follows the election: wakes the queue when this replica leads, and lets it rest
//! when it does not.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;
use windlass_lease::step::Leadership;
use windlass_queue::Queue;
use windlass_watch::watches::Watches;

/// Runs until the election ends. At each acquisition every object is looked at: the
/// cache is warm, and only what is not as wanted causes a write.
pub(crate) async fn follow(
    mut leading: watch::Receiver<Leadership>,
    queue: Arc<Queue>,
    watches: Arc<Watches>,
) {
    loop {
        let now = leading.borrow_and_update().clone();
        match &now {
            Leadership::Leading(claim) => {
                info!(term = claim.term.0, "leading");
                watches.resync(None);
                queue.resume();
            }
            Leadership::Standby { holder } => {
                queue.pause();
                info!(holder = holder.as_deref().unwrap_or("nobody"), "standing by");
            }
        }
        if leading.changed().await.is_err() {
            queue.pause();
            return;
        }
    }
}

//! Follows the election: wakes the queue when this replica leads, and lets it rest
//! when it does not.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;
use windlass_lease::step::Leadership;
use windlass_queue::Queue;
use windlass_watch::watches::Watches;

/// Never returns: when the election ends, the lease says why. At each acquisition every object is looked at: the
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
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_election_is_for_the_lease_to_tell() {
        let queue = Queue::new(windlass_queue::Config::default());
        let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:9".parse().expect("valid")));
        let watches = Arc::new(Watches::new(client.expect("no request is sent"), "sys", queue.clone()));
        let (said, leading) = watch::channel(Leadership::Standby { holder: None });
        queue.resume();
        drop(said);
        let followed = follow(leading, queue.clone(), watches);
        let ended = tokio::time::timeout(std::time::Duration::from_secs(60), followed).await;
        assert!(ended.is_err(), "or the process would end for this instead of for the lease's own reason");
        assert!(queue.is_paused());
    }
}

//! Follows the election: tells the queue when this replica leads, and when it does not.

use std::sync::Arc;

use tokio::sync::watch;
use windlass_lease::step::Leadership;
use windlass_queue::Queue;
use windlass_watch::watches::Watches;

/// What a standby does with the work that comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standby {
    /// It decides and writes nothing: a takeover works on what is not as it should be.
    Decides,
    /// It rests: a takeover looks at every object.
    Rests,
}

/// Never returns: when the election ends, the lease says why.
pub(crate) async fn follow(
    mut leading: watch::Receiver<Leadership>,
    queue: Arc<Queue>,
    watches: Arc<Watches>,
    standby: Standby,
) {
    loop {
        let now = leading.borrow_and_update().clone();
        match (&now, standby) {
            (Leadership::Leading(_), Standby::Decides) => queue.lead(),
            (Leadership::Leading(_), Standby::Rests) => {
                watches.resync(None);
                queue.resume();
            }
            (Leadership::Standby { .. }, Standby::Decides) => queue.stand_by(),
            (Leadership::Standby { .. }, Standby::Rests) => queue.pause(),
        }
        if leading.changed().await.is_err() {
            match standby {
                Standby::Decides => queue.stand_by(),
                Standby::Rests => queue.pause(),
            }
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
        let watches = Arc::new(Watches::new(client.expect("no request is sent"), "sys", queue.clone(), None));
        let (said, leading) = watch::channel(Leadership::Standby { holder: None });
        queue.resume();
        drop(said);
        let followed = follow(leading, queue.clone(), watches, Standby::Rests);
        let ended = tokio::time::timeout(std::time::Duration::from_secs(60), followed).await;
        assert!(ended.is_err(), "or the process would end for this instead of for the lease's own reason");
        assert!(queue.is_paused());
    }
}

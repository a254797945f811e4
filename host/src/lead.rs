//! Follows the election: tells the queue when this replica leads, and when it does not; and what the lease learns of
//! the way to the API server is told to the watches.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::info;
use windlass_lease::step::Leadership;
use windlass_queue::Queue;
use windlass_watch::doubt::Doubt;
use windlass_watch::watches::Watches;

/// Between two doubts.
const DOUBT_AGAIN: Duration = Duration::from_secs(15);

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

/// Has the watches doubted whenever the API server answers the lease again after it did not: their connections may
/// be dead, and would say so up to 29 s later. Never returns.
pub(crate) async fn doubt(mut contacts: watch::Receiver<u64>, doubt: Doubt) {
    while contacts.changed().await.is_ok() {
        info!("the API server answers again; every watch is asked for anew");
        doubt.cast();
        // One that comes and goes is not asked for more by this than by the watches themselves.
        tokio::time::sleep(DOUBT_AGAIN).await;
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_comes_and_goes_casts_doubt_now_and_then_and_never_loses_the_last() {
        let doubt = Doubt::default();
        let (say, contacts) = watch::channel(0);
        let told = tokio::spawn(super::doubt(contacts, doubt.clone()));
        for times in 1..=20 {
            say.send_replace(times);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(doubt.times(), 2, "in 20 s");
        tokio::time::sleep(DOUBT_AGAIN).await;
        assert_eq!(doubt.times(), 3, "what came since the last one");
        told.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_election_is_for_the_lease_to_tell() {
        let queue = Queue::new(windlass_queue::Config::default());
        let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:9".parse().expect("valid")));
        let watches = Arc::new(Watches::new(client.expect("no request is sent"), "sys", queue.clone(), None));
        let (said, leading) = watch::channel(Leadership::Standby { holder: None });
        queue.resume();
        drop(said);
        let followed = follow(leading, queue.clone(), watches, Standby::Rests);
        let ended = tokio::time::timeout(Duration::from_secs(60), followed).await;
        assert!(ended.is_err(), "or the process would end for this instead of for the lease's own reason");
        assert!(queue.is_paused());
    }
}

//! What can be seen of a deployment while something happens to it: how many pods are ready, and whether anybody leads.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::site::{Site, leader, pods};
use super::subject::Subject;

/// Between two looks.
const EVERY: Duration = Duration::from_millis(50);

/// What was seen.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    /// The fewest pods that were ready and not on their way out.
    pub(super) fewest_ready: usize,
    /// The longest time for which the claim named no pod that is there. Unit: milliseconds.
    pub(super) leaderless_ms: u64,
    /// How many looks there were: the API server may have been away.
    pub(super) looks: u64,
}

pub(super) struct Watcher {
    stop: watch::Sender<bool>,
    task: JoinHandle<Seen>,
}

impl Watcher {
    pub(super) fn start(site: &Site) -> Self {
        let (stop, stopped) = watch::channel(false);
        Self { task: tokio::spawn(look(site.client(), site.subject.clone(), stopped)), stop }
    }

    pub(super) async fn stop(self) -> Seen {
        self.stop.send_replace(true);
        self.task.await.unwrap_or_default()
    }
}

async fn look(client: kube::Client, subject: Subject, stopped: watch::Receiver<bool>) -> Seen {
    let mut seen = Seen { fewest_ready: usize::MAX, ..Seen::default() };
    let mut gone: Option<Instant> = None;
    while !*stopped.borrow() {
        let both = tokio::time::timeout(Duration::from_secs(2), async {
            (pods(&client, &subject).await, leader(&client, &subject).await)
        });
        if let Ok((Ok(pods), claim)) = both.await {
            seen.looks += 1;
            seen.fewest_ready = seen.fewest_ready.min(pods.iter().filter(|pod| pod.ready).count());
            let leads = claim.is_some_and(|claim| pods.iter().any(|pod| pod.name == claim.pod));
            match (leads, gone) {
                (true, _) => gone = None,
                (false, None) => gone = Some(Instant::now()),
                (false, Some(since)) => {
                    let ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                    seen.leaderless_ms = seen.leaderless_ms.max(ms);
                }
            }
        }
        tokio::time::sleep(EVERY).await;
    }
    seen
}

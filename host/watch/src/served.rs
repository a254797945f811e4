//! Whether kinds are still served as they were: asked again a group and version at a time, for all kinds of it together.
//!
//! A CRD that gets a status subresource, or is made again with another scope, sends no 404 to a watch of it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{Notify, oneshot};
use windlass_core::kind::Kind;

use crate::discovery::{Discovery, Found, Group};

/// How often discovery is asked again about a group, at most. Until then writes go to the wrong place, so it is short of the 30 s
/// in which everything is to be well again.
const RECHECK: Duration = Duration::from_secs(25);

/// The kinds that are looked after.
pub(crate) struct Served {
    discovery: Arc<Discovery>,
    /// By the path of their group and version.
    groups: Mutex<HashMap<String, Vec<Waiting>>>,
    /// A group has come that was not there.
    news: Notify,
}

/// One kind, and who is to be told.
struct Waiting {
    known: Kind,
    tell: oneshot::Sender<Kind>,
}

impl Served {
    pub(crate) fn new(discovery: Arc<Discovery>) -> Self {
        Self { discovery, groups: Mutex::default(), news: Notify::new() }
    }

    /// Resolves when discovery describes a served kind otherwise than `known`, while [`run`](Self::run) is running.
    pub(crate) async fn otherwise(&self, known: &Kind) -> Kind {
        let (tell, told) = oneshot::channel();
        let waiting = Waiting { known: known.clone(), tell };
        self.lock().entry(known.gvk.api_path()).or_default().push(waiting);
        self.news.notify_one();
        match told.await {
            Ok(now) => now,
            // Whoever is taken from the list has been told, or does not wait any more.
            Err(_) => std::future::pending().await,
        }
    }

    /// Asks again and again about every group of which somebody waits for a kind; never returns by itself.
    pub(crate) async fn run(&self) {
        let (mut followed, mut groups) = (HashSet::new(), FuturesUnordered::new());
        loop {
            let new: Vec<String> =
                self.lock().keys().filter(|path| !followed.contains(*path)).cloned().collect();
            for path in new {
                followed.insert(path.clone());
                groups.push(self.follow(path));
            }
            tokio::select! {
                () = self.news.notified() => {}
                Some(path) = groups.next() => {
                    followed.remove(&path);
                }
            }
        }
    }

    /// Asks about one group until nobody waits for any kind of it.
    async fn follow(&self, path: String) -> String {
        loop {
            tokio::time::sleep(RECHECK.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
            if !self.is_wanted(&path) {
                return path;
            }
            // No answer, or one that says that a kind is not served, is for list and watch to find out.
            if let Ok(group) = self.discovery.group(&path).await {
                self.compare(&path, &group);
            }
        }
    }

    /// Whether somebody waits. The group is forgotten if not.
    fn is_wanted(&self, path: &str) -> bool {
        let mut groups = self.lock();
        let Some(waiting) = groups.get_mut(path) else { return false };
        waiting.retain(|one| !one.tell.is_closed());
        let wanted = !waiting.is_empty();
        if !wanted {
            groups.remove(path);
        }
        wanted
    }

    fn compare(&self, path: &str, group: &Group) {
        let mut groups = self.lock();
        let Some(waiting) = groups.get_mut(path) else { return };
        for one in std::mem::take(waiting) {
            match group.find(&one.known.gvk) {
                // It may have stopped waiting meanwhile.
                Found::Kind(now) if now != one.known => drop(one.tell.send(now)),
                _ => waiting.push(one),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Waiting>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

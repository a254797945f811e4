//! Whether the API server answers at all. Connections that are silent by nature, such as watches, may have died when
//! it did not; whoever holds some learns of that here.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch as channel;

/// What has become of the lease's own requests.
#[derive(Debug)]
pub(crate) struct Contact {
    lost: AtomicBool,
    regained: channel::Sender<u64>,
}

impl Contact {
    pub(crate) fn new(regained: channel::Sender<u64>) -> Self {
        Self { lost: AtomicBool::new(false), regained }
    }

    /// One request has ended, answered in whatever way or not at all.
    pub(crate) fn note(&self, answered: bool) {
        if !answered {
            self.lost.store(true, Ordering::Relaxed);
        } else if self.lost.swap(false, Ordering::Relaxed) {
            self.regained.send_modify(|times| *times += 1);
        }
    }
}

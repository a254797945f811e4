//! Doubt about connections: a watch that is silent may be one on which nothing happens, or one that is dead.
//!
//! By itself a dead one is noticed within 29 s (`stream.rs`). Whoever has seen the API server unreachable for a
//! moment knows more, and says so here: then every open watch is asked for again, from where it is.

use tokio::sync::watch;

/// Who doubts, and who listens. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct Doubt(watch::Sender<u64>);

impl Default for Doubt {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Doubt {
    /// Has each watch that is open now asked for again.
    pub fn cast(&self) {
        self.0.send_modify(|times| *times += 1);
    }

    /// How often that was done.
    pub fn times(&self) -> u64 {
        *self.0.borrow()
    }

    pub(crate) fn listen(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

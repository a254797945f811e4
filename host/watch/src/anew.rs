//! A list out of turn: somebody has waited too long for something that the watch should have brought.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// Whether a kind is to be listed although its watch goes on, and when the last complete list began.
#[derive(Debug, Default)]
pub(crate) struct Anew {
    state: Mutex<State>,
    asked: Notify,
}

#[derive(Debug, Default)]
struct State {
    wanted: bool,
    /// When the list began that is being read or was read last.
    begun: Option<Instant>,
    /// When the last one began that is complete.
    complete: Option<Instant>,
}

impl Anew {
    /// Asks for a list. Answers whether nobody else had.
    pub(crate) fn ask(&self) -> bool {
        let before = std::mem::replace(&mut self.lock().wanted, true);
        self.asked.notify_one();
        !before
    }

    /// Whether a list is asked for that has not begun.
    pub(crate) fn is_wanted(&self) -> bool {
        self.lock().wanted
    }

    /// Resolves when a list is asked for. For one caller.
    ///
    /// # Cancel safety
    /// What was asked for stays so until a list begins.
    pub(crate) async fn wanted(&self) {
        while !self.is_wanted() {
            self.asked.notified().await;
        }
    }

    /// A list is about to be asked for: it answers everyone who has asked so far.
    pub(crate) fn begins(&self) {
        let mut state = self.lock();
        (state.wanted, state.begun) = (false, Some(Instant::now()));
    }

    /// The list that began last is complete.
    pub(crate) fn complete(&self) {
        let mut state = self.lock();
        state.complete = state.begun;
    }

    /// Whether a list that is complete began after `at`.
    pub(crate) fn began_after(&self, at: std::time::Instant) -> bool {
        self.lock().complete.is_some_and(|began| began.into_std() > at)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each use is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! A rule at work: what it has met, and whether it still holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;

use super::request::Seen;
use super::rule::Rule;
use crate::runtime::on_runtime;

/// All rules of a port, in the order in which they were added. Replaced as a whole, so that a request sees one state of it.
pub(super) type Rules = Arc<[Arc<State>]>;

/// What a rule and the requests that it fell on share.
#[derive(Debug)]
pub(super) struct State {
    pub(super) rule: Rule,
    fitted: AtomicU64,
    hits: watch::Sender<u64>,
    landed: watch::Sender<u64>,
    released: watch::Sender<bool>,
}

impl State {
    /// Counts the request if it fits, and says whether the rule falls on it.
    pub(super) fn falls_on(&self, seen: &Seen) -> bool {
        if !self.rule.fits(seen) {
            return false;
        }
        let falls = self.rule.falls_on(self.fitted.fetch_add(1, Ordering::Relaxed));
        if falls {
            self.hits.send_modify(|hits| *hits += 1);
        }
        falls
    }

    pub(super) fn has_landed(&self) {
        self.landed.send_modify(|landed| *landed += 1);
    }

    pub(super) fn is_released(&self) -> bool {
        *self.released.borrow()
    }

    pub(super) async fn released(&self) {
        // The sender is in `self`, so there is no other way for this to end.
        drop(self.released.subscribe().wait_for(|released| *released).await);
    }

    pub(super) fn release(&self) {
        self.released.send_replace(true);
    }
}

/// A rule that was added to a port: counted, waited for, released and removed through this.
///
/// Dropping it changes nothing; the rule stays until it is removed, the port cleared or the proxy dropped.
#[derive(Debug, Clone)]
pub struct Active {
    state: Arc<State>,
    rules: watch::Sender<Rules>,
}

impl Active {
    pub(super) fn add(rule: Rule, rules: &watch::Sender<Rules>) -> Self {
        let state = Arc::new(State {
            rule,
            fitted: AtomicU64::new(0),
            hits: watch::Sender::new(0),
            landed: watch::Sender::new(0),
            released: watch::Sender::new(false),
        });
        rules.send_modify(|all| *all = all.iter().chain([&state]).cloned().collect());
        Self { state, rules: rules.clone() }
    }

    /// How many requests or streams it has fallen on so far.
    pub fn hits(&self) -> u64 {
        *self.state.hits.borrow()
    }

    /// How many of those the API server has answered, whether or not their clients heard of it.
    pub fn landed(&self) -> u64 {
        *self.state.landed.borrow()
    }

    /// Waits until it has fallen on so many requests or streams in all.
    ///
    /// # Errors
    /// If it has not within `patience`, in real time.
    pub async fn hit(&self, count: u64, patience: Duration) -> Result<()> {
        reach(&self.state.hits, count, patience)
            .await
            .with_context(|| format!("{:?} was hit {} times, not {count}", self.state.rule, self.hits()))
    }

    /// Waits until the API server has answered so many of the requests that it fell on.
    ///
    /// # Errors
    /// If it has not within `patience`, in real time.
    pub async fn land(&self, count: u64, patience: Duration) -> Result<()> {
        reach(&self.state.landed, count, patience)
            .await
            .with_context(|| format!("{} requests have landed, not {count}", self.landed()))
    }

    /// Lets go of what a `Hold` holds, and holds nothing from then on. No effect on other actions.
    pub fn release(&self) {
        self.state.release();
    }

    /// Takes the rule away, and lets go of what it holds. What it delays comes in its own time.
    pub fn remove(&self) {
        let others = |all: &mut Rules| {
            *all = all.iter().filter(|state| !Arc::ptr_eq(state, &self.state)).cloned().collect();
        };
        self.rules.send_modify(others);
        self.release();
    }
}

async fn reach(counter: &watch::Sender<u64>, count: u64, patience: Duration) -> Result<()> {
    let mut counter = counter.subscribe();
    // On the testbed's runtime, because the caller's clock may stand still.
    on_runtime(async move {
        tokio::time::timeout(patience, counter.wait_for(|reached| *reached >= count))
            .await
            .with_context(|| format!("not within {patience:?}"))?
            .context("the rule is gone")?;
        Ok(())
    })
    .await
}

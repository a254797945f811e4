//! How many writes are on the wire at once, and who waits because the API server said so.
//!
//! The API server sorts writes by whose they are (priority and fairness, under the impersonated
//! account) and tells one account to wait while it serves the others. So each account, a plugin or
//! the host itself, has a lane of its own here: told to wait, it sends nothing before that time is
//! over, then one write, and more again as they are accepted. Leases do not come by here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::Instant;
use windlass_core::name::PluginName;

use crate::writer::lock;

/// The lanes of all accounts.
#[derive(Debug)]
pub(crate) struct Pressure {
    /// Writes at once, of everybody.
    wire: Semaphore,
    most: usize,
    /// One entry an account that ever wrote: plugins, and the host as `None`.
    lanes: Mutex<HashMap<Option<PluginName>, Arc<Lane>>>,
}

/// The writes of one account.
#[derive(Debug)]
struct Lane {
    state: Mutex<State>,
    /// Somebody's turn may have come, or the lane was told to wait.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// Nothing is sent before this.
    until: Option<Instant>,
    /// Writes at once: all that there are room for, but one after it was told to wait.
    allowed: usize,
    in_flight: usize,
}

/// The right to send one write, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'p> {
    lane: Arc<Lane>,
    most: usize,
    _wire: SemaphorePermit<'p>,
}

impl Pressure {
    /// At most `most` writes (at least one) at once.
    pub(crate) fn new(most: usize) -> Self {
        let most = most.max(1);
        Self { wire: Semaphore::new(most), most, lanes: Mutex::default() }
    }

    /// How long this account still has to wait, if it was told to.
    pub(crate) fn held(&self, who: Option<&PluginName>) -> Option<Duration> {
        // No lane is made for who never wrote.
        let lane = lock(&self.lanes).get(&who.cloned()).cloned()?;
        let state = lock(&lane.state);
        state.held(Instant::now())
    }

    /// Waits for the account's turn. Between accounts the wire is first come first served.
    ///
    /// # Errors
    /// How long to stay away, when the API server told this account to wait: whoever waited here
    /// comes back later, and holds up nobody meanwhile.
    ///
    /// # Cancel safety
    /// A dropped call gives its place up.
    pub(crate) async fn turn(&self, who: Option<&PluginName>) -> Result<Turn<'_>, Duration> {
        let lane = self.lane(who);
        lane.enter().await?;
        // From here on the place in the lane is given back when the turn is dropped.
        let entered = Entered(&lane);
        let wire = self.wire.acquire().await.expect("the semaphore is never closed");
        let told = lock(&lane.state).held(Instant::now());
        if let Some(held) = told {
            return Err(held);
        }
        std::mem::forget(entered);
        Ok(Turn { lane, most: self.most, _wire: wire })
    }

    fn lane(&self, who: Option<&PluginName>) -> Arc<Lane> {
        let new = || {
            let state = State { until: None, allowed: self.most, in_flight: 0 };
            Arc::new(Lane { state: Mutex::new(state), changed: Notify::new() })
        };
        lock(&self.lanes).entry(who.cloned()).or_insert_with(new).clone()
    }
}

impl Turn<'_> {
    /// Tells the lane what became of the write: accepted or refused on its merits, or that the
    /// API server wants the account to wait for so long.
    pub(crate) fn answered(&self, wait: Option<Duration>) {
        let now = Instant::now();
        let mut state = lock(&self.lane.state);
        let held = state.held(now).is_some();
        match wait {
            Some(wait) => {
                let until = now + wait;
                state.until = Some(state.until.map_or(until, |told| told.max(until)));
                state.allowed = 1;
            }
            // An answer to what was sent before the lane was told to wait proves nothing.
            None if held => return,
            None => {
                state.until = None;
                state.allowed = (state.allowed + 1).min(self.most);
            }
        }
        drop(state);
        self.lane.changed.notify_waiters();
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.lane.leave();
    }
}

/// A place in a lane that nobody has answered for yet.
struct Entered<'l>(&'l Lane);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Lane {
    async fn enter(&self) -> Result<(), Duration> {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = lock(&self.state);
                if let Some(held) = state.held(Instant::now()) {
                    return Err(held);
                }
                if state.in_flight < state.allowed {
                    state.in_flight += 1;
                    return Ok(());
                }
            }
            changed.await;
        }
    }

    fn leave(&self) {
        let mut state = lock(&self.state);
        state.in_flight = state.in_flight.saturating_sub(1);
        drop(state);
        self.changed.notify_waiters();
    }
}

impl State {
    fn held(&self, now: Instant) -> Option<Duration> {
        self.until.filter(|until| now < *until).map(|until| until - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::time::advance;

    const SECOND: Duration = Duration::from_secs(1);

    fn plugin(name: &str) -> PluginName {
        PluginName::try_new(name).expect("valid")
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_bound_are_on_the_wire() {
        let pressure = Pressure::new(3);
        let (now, worst) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let write = |name: &'static str| {
            let (pressure, now, worst) = (&pressure, &now, &worst);
            async move {
                let turn = pressure.turn(Some(&plugin(name))).await.expect("nobody was told to wait");
                worst.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                tokio::time::sleep(SECOND).await;
                now.fetch_sub(1, Ordering::Relaxed);
                turn.answered(None);
            }
        };
        let all = (0..20).map(|i| write(if i % 2 == 0 { "a" } else { "b" }));
        futures::future::join_all(all).await;
        assert_eq!(worst.load(Ordering::Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_told_to_wait_sends_nothing_before_that_and_then_one() {
        let pressure = Pressure::new(8);
        let (a, b) = (plugin("a"), plugin("b"));
        let turn = pressure.turn(Some(&a)).await.expect("free");
        turn.answered(Some(SECOND * 3));
        drop(turn);
        assert_eq!(pressure.turn(Some(&a)).await.expect_err("told to wait"), SECOND * 3);
        assert_eq!(pressure.held(Some(&a)), Some(SECOND * 3));
        assert_eq!(pressure.held(Some(&b)), None);
        assert!(pressure.turn(Some(&b)).await.is_ok(), "nobody else was told");
        assert!(pressure.turn(None).await.is_ok());

        advance(SECOND * 3).await;
        let probe = pressure.turn(Some(&a)).await.expect("the time is over");
        let second = tokio::time::timeout(SECOND, pressure.turn(Some(&a))).await;
        assert!(second.is_err(), "one at a time until one was accepted");
        probe.answered(None);
        drop(probe);
        let first = pressure.turn(Some(&a)).await.expect("accepted");
        let second = pressure.turn(Some(&a)).await.expect("and now two");
        assert!(tokio::time::timeout(SECOND, pressure.turn(Some(&a))).await.is_err(), "not three");
        drop((first, second));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_in_the_lane_hears_that_it_has_to_stay_away() {
        let pressure = Arc::new(Pressure::new(1));
        let turn = pressure.turn(Some(&plugin("a"))).await.expect("free");
        let waiting = {
            let pressure = Arc::clone(&pressure);
            tokio::spawn(async move { pressure.turn(Some(&plugin("a"))).await.map(drop) })
        };
        tokio::task::yield_now().await;
        turn.answered(Some(SECOND));
        drop(turn);
        assert_eq!(waiting.await.expect("no panic"), Err(SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_an_earlier_write_does_not_end_the_wait() {
        let pressure = Pressure::new(2);
        let (one, two) = (pressure.turn(None).await.expect("free"), pressure.turn(None).await.expect("free"));
        one.answered(Some(SECOND * 2));
        two.answered(None);
        assert_eq!(pressure.held(None), Some(SECOND * 2));
        two.answered(Some(SECOND));
        assert_eq!(pressure.held(None), Some(SECOND * 2), "the longer word holds");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_call_gives_its_place_back() {
        let pressure = Pressure::new(1);
        let turn = pressure.turn(Some(&plugin("a"))).await.expect("free");
        // In its own lane it may enter; on the wire there is no room.
        assert!(tokio::time::timeout(SECOND, pressure.turn(Some(&plugin("b")))).await.is_err());
        drop(turn);
        assert!(pressure.turn(Some(&plugin("b"))).await.is_ok());
    }
}

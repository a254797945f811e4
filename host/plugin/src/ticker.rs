//! The ticker: one thread that advances the engine's epoch while calls run.
//!
//! Deadlines are checked by compiled code when the epoch moves, so a ticker that
//! does not tick is a host without deadlines. Hence it is owned by the same value
//! that makes stores, proves itself at start, and is joined when that value goes.
//! A guest cannot run without a [`Running`], and while one lives the ticker ticks.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use wasmtime::Engine;

/// How far apart two ticks are; a deadline is late by at most this and the time
/// that the system needs to run the thread.
pub(crate) const TICK: Duration = Duration::from_millis(2);

/// Ticks without a call after which the thread sleeps: a burst of short calls
/// shall not wake it once a call.
const IDLE_TICKS: u32 = 25;

/// How long the first tick may take before start fails.
const PROOF: Duration = Duration::from_secs(5);

/// Owns the thread. Dropping it ends and joins the thread.
#[derive(Debug)]
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A promise that the ticker ticks for as long as this lives.
#[derive(Debug)]
pub(crate) struct Running<'a>(&'a Shared);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Told when the first call begins, when a tick proves the thread, and at the end.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    asleep: bool,
    ticks: u64,
    ending: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section is a few assignments: a poisoned lock holds a sound state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticker {
    /// Starts the thread and waits for its first tick.
    ///
    /// # Errors
    /// The system's, when there is no thread to be had, or when it does not tick.
    pub(crate) fn start(engine: Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = Builder::new().name("epoch-ticker".to_owned()).spawn(move || tick(&engine, &theirs))?;
        let ticker = Self { shared, thread: Some(thread) };
        let running = ticker.run();
        let (state, wait) = ticker
            .shared
            .changed
            .wait_timeout_while(ticker.shared.lock(), PROOF, |state| state.ticks == 0)
            .unwrap_or_else(PoisonError::into_inner);
        drop(state);
        if wait.timed_out() {
            return Err(std::io::Error::other("the epoch ticker does not tick"));
        }
        drop(running);
        Ok(ticker)
    }

    /// From now until the value is dropped the epoch advances every [`TICK`].
    pub(crate) fn run(&self) -> Running<'_> {
        let mut state = self.shared.lock();
        state.running += 1;
        if state.asleep {
            self.shared.changed.notify_all();
        }
        Running(&self.shared)
    }

    #[cfg(test)]
    fn ticks(&self) -> u64 {
        self.shared.lock().ticks
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.lock().ending = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It has nothing to say: a panic in it has been printed already.
            let _ = thread.join();
        }
    }
}

fn tick(engine: &Engine, shared: &Shared) {
    let mut idle = 0;
    let mut state = shared.lock();
    while !state.ending {
        if state.running == 0 && idle >= IDLE_TICKS {
            state.asleep = true;
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.asleep = false;
            idle = 0;
            continue;
        }
        idle = if state.running == 0 { idle + 1 } else { 0 };
        state = sleep(shared, state);
        engine.increment_epoch();
        state.ticks += 1;
        if state.ticks == 1 {
            shared.changed.notify_all();
        }
    }
}

/// One tick's time, or less when the end has come.
fn sleep<'a>(shared: &'a Shared, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    let end = Instant::now() + TICK;
    let mut state = state;
    while !state.ending {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let (back, _) = shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        state = back;
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ticks_while_a_call_runs_and_sleeps_when_none_does() {
        let ticker = Ticker::start(Engine::default()).expect("ticks");
        assert!(ticker.ticks() >= 1);
        let wait_for = |what: &dyn Fn(&State) -> bool| {
            let deadline = Instant::now() + Duration::from_secs(10);
            while !what(&ticker.shared.lock()) {
                assert!(Instant::now() < deadline, "never happened");
                std::thread::yield_now();
            }
        };
        wait_for(&|state| state.asleep);
        let before = ticker.ticks();
        let running = ticker.run();
        wait_for(&|state| state.ticks > before + 3);
        drop(running);
        wait_for(&|state| state.asleep);
    }

    #[test]
    fn its_thread_ends_when_it_is_dropped() {
        let engine = Engine::default();
        let ticker = Ticker::start(engine.clone()).expect("ticks");
        let shared = Arc::clone(&ticker.shared);
        drop(ticker);
        // The thread held the only other handle.
        assert_eq!(Arc::strong_count(&shared), 1);
    }
}

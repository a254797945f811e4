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

/// Ticks at once, at most: two seconds of them. More say that the process stood still; then they begin anew.
const AT_ONCE_MAX: u32 = 1000;

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
    // Ticks have a place in time of their own: one that comes late does not move the next, or a second would
    // have 1,055 milliseconds.
    let mut next = Instant::now() + TICK;
    let mut state = shared.lock();
    while !state.ending {
        if state.running == 0 && idle >= IDLE_TICKS {
            state.asleep = true;
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.asleep = false;
            (idle, next) = (0, Instant::now() + TICK);
            continue;
        }
        idle = if state.running == 0 { idle + 1 } else { 0 };
        state = sleep(shared, state, next);
        let (ticks, after) = due(next, Instant::now());
        for _ in 0..ticks {
            engine.increment_epoch();
        }
        next = after;
        let first = state.ticks == 0;
        state.ticks += u64::from(ticks);
        if first {
            shared.changed.notify_all();
        }
    }
}

/// Ticks that are due at `now`, the first of which has its place at `next`, and the place of the one after them.
fn due(next: Instant, now: Instant) -> (u32, Instant) {
    let missed = now.saturating_duration_since(next).as_nanos() / TICK.as_nanos();
    match u32::try_from(missed) {
        Ok(missed) if missed < AT_ONCE_MAX => (1 + missed, next + TICK * (1 + missed)),
        // As many as a deadline is away as a rule, so that calls look at their clocks.
        _ => (AT_ONCE_MAX, now + TICK),
    }
}

/// Until then, or until the end has come.
fn sleep<'a>(shared: &'a Shared, state: MutexGuard<'a, State>, until: Instant) -> MutexGuard<'a, State> {
    let mut state = state;
    while !state.ending {
        let left = until.saturating_duration_since(Instant::now());
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
    fn ticks_that_come_late_are_made_up_for() {
        let ticker = Ticker::start(Engine::default()).expect("ticks");
        let _running = ticker.run();
        let (begun, before) = (Instant::now(), ticker.ticks());
        let long = 150 * TICK;
        while begun.elapsed() < Duration::from_secs(10) {
            let elapsed = begun.elapsed();
            // Sleeping for a tick each time, and not until its time, this falls behind for good.
            if elapsed > long && u128::from(ticker.ticks() - before) >= elapsed.as_nanos() / TICK.as_nanos() {
                return;
            }
            std::thread::yield_now();
        }
        panic!("{} ticks in {:?}", ticker.ticks() - before, begun.elapsed());
    }

    #[test]
    fn ticks_have_places_and_begin_anew_after_a_standstill() {
        let first = Instant::now();
        for (late, ticks, after) in [
            (Duration::ZERO, 1, TICK),
            (TICK * 9 / 10, 1, TICK),
            (TICK, 2, TICK * 2),
            (TICK * 5 / 2, 3, TICK * 3),
            (TICK * (AT_ONCE_MAX - 1), AT_ONCE_MAX, TICK * AT_ONCE_MAX),
            (TICK * AT_ONCE_MAX, AT_ONCE_MAX, TICK * (AT_ONCE_MAX + 1)),
            (Duration::from_secs(3600), AT_ONCE_MAX, Duration::from_secs(3600) + TICK),
        ] {
            assert_eq!(due(first, first + late), (ticks, first + after), "{late:?}");
        }
        // Nothing is left to be made up for.
        let woken = first + Duration::from_secs(3600);
        let (_, next) = due(first, woken);
        assert_eq!(due(next, next), (1, next + TICK));
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

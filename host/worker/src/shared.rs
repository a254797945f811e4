//! The process that runs the guests of all plugins: when it ends, another takes its place.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use windlass_core::guests::LoadId;

use crate::known::Known;
use crate::lane::deadline;
use crate::worker::{Doom, Lost, Start, Worker, WorkerError, lock};

/// Pause before the second start without a good call in between; doubles from there.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between two starts.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Lanes over which a new process gets what is loaded.
const LOADERS: usize = 4;

/// Every component that is loaded, by its number.
pub(crate) type Registry = RwLock<BTreeMap<LoadId, Arc<Known>>>;

/// What has happened so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// Processes that have ended.
    pub(crate) restarts: u64,
    /// How the last one ended, or why there is none.
    pub(crate) last_end: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    worker: Option<Arc<Worker>>,
    history: History,
    stopping: bool,
}

/// Keeps one worker running.
#[derive(Debug)]
pub(crate) struct Shared {
    start: Start,
    lanes: usize,
    state: Mutex<State>,
    changed: Condvar,
    /// Processes that ended since the last good call.
    barren: AtomicU32,
}

impl Shared {
    /// Starts the first worker.
    pub(crate) fn start(start: Start, lanes: usize) -> Result<Self, WorkerError> {
        let worker = Arc::new(Worker::start(&start, 1, lanes)?);
        let state = State { worker: Some(worker), ..State::default() };
        Ok(Self {
            start,
            lanes,
            state: Mutex::new(state),
            changed: Condvar::new(),
            barren: AtomicU32::new(0),
        })
    }

    /// The worker that runs now, if it is later than number `after`; waits for it at most until
    /// then.
    pub(crate) fn worker(&self, after: u64, until: Instant) -> Option<Arc<Worker>> {
        let mut state = lock(&self.state);
        loop {
            if state.stopping {
                return None;
            }
            let usable = |worker: &&Arc<Worker>| worker.number() > after && worker.is_alive();
            if let Some(worker) = state.worker.as_ref().filter(usable) {
                return Some(Arc::clone(worker));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The worker that runs now.
    pub(crate) fn current(&self) -> Option<Arc<Worker>> {
        lock(&self.state).worker.clone()
    }

    /// A call was answered: the next end is followed by a start at once.
    pub(crate) fn went_well(&self) {
        if self.barren.load(Ordering::Relaxed) > 0 {
            self.barren.store(0, Ordering::Relaxed);
        }
    }

    /// What has happened so far.
    pub(crate) fn history(&self) -> History {
        lock(&self.state).history.clone()
    }

    /// Whether no more workers are started.
    pub(crate) fn is_stopping(&self) -> bool {
        lock(&self.state).stopping
    }

    /// Ends the worker and starts no other.
    pub(crate) fn stop(&self) {
        let worker = {
            let mut state = lock(&self.state);
            state.stopping = true;
            state.worker.take()
        };
        self.changed.notify_all();
        if let Some(worker) = worker {
            worker.kill();
        }
    }

    /// The life of the thread that keeps a worker running.
    pub(crate) fn keep(&self, registry: &Registry) {
        let mut number = 1;
        let mut worker = self.current();
        loop {
            if let Some(running) = worker.take() {
                fill(&running, registry);
                let end = running.wait();
                if !self.ended(&running, end) {
                    return;
                }
            }
            if !self.pause() {
                return;
            }
            number += 1;
            match Worker::start(&self.start, number, self.lanes) {
                Ok(started) => worker = self.publish(started),
                Err(error) => self.not_started(&error),
            }
        }
    }

    /// Notes an end; whether to go on.
    fn ended(&self, worker: &Worker, end: String) -> bool {
        let mut state = lock(&self.state);
        if state.stopping {
            return false;
        }
        tracing::warn!(
            pid = worker.pid(),
            end,
            "the process that runs guests has ended and is started again"
        );
        self.barren.fetch_add(1, Ordering::Relaxed);
        state.worker = None;
        state.history.restarts += 1;
        state.history.last_end = Some(end);
        true
    }

    fn not_started(&self, error: &WorkerError) {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        let text = format!("{error}{cause}");
        tracing::error!(error = text, "the process that runs guests does not start");
        self.barren.fetch_add(1, Ordering::Relaxed);
        lock(&self.state).history.last_end = Some(text);
    }

    fn publish(&self, worker: Worker) -> Option<Arc<Worker>> {
        let worker = Arc::new(worker);
        let mut state = lock(&self.state);
        if state.stopping {
            return None;
        }
        state.worker = Some(Arc::clone(&worker));
        drop(state);
        self.changed.notify_all();
        Some(worker)
    }

    /// Waits as long as the last ends suggest; whether to go on.
    fn pause(&self) -> bool {
        let until = Instant::now() + pause_after(self.barren.load(Ordering::Relaxed));
        let mut state = lock(&self.state);
        loop {
            if state.stopping {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// How long to wait after so many ends without a good call.
fn pause_after(barren: u32) -> Duration {
    match barren.checked_sub(2) {
        None => Duration::ZERO,
        Some(doublings) => PAUSE.saturating_mul(1 << doublings.min(10)).min(PAUSE_MAX),
    }
}

/// Loads what plugins need into a new process, a few at a time. Whoever asks for one that is
/// not there yet loads it first, so the order does not matter.
fn fill(worker: &Worker, registry: &Registry) {
    let known: Vec<Arc<Known>> =
        registry.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
    let next = AtomicUsize::new(0);
    let load = || {
        while let Some(known) = known.get(next.fetch_add(1, Ordering::Relaxed)) {
            if worker.is_alive() && known.suspected().is_none() && !known.is_gone() {
                load_again(worker, known);
            }
        }
    };
    std::thread::scope(|threads| {
        for _ in 1..known.len().min(LOADERS) {
            // Without a further thread the others do its share.
            let _joined_at_the_end = std::thread::Builder::new().spawn_scoped(threads, load);
        }
        load();
    });
}

fn load_again(worker: &Worker, known: &Known) {
    match worker.load(known, Instant::now() + deadline(&known.load.limits)) {
        Ok(Ok(_)) | Err(Lost::NotAsked) => {
            if known.is_gone() {
                worker.unload(known.id());
            }
        }
        Ok(Err(error)) => {
            tracing::warn!(plugin = %known.load.plugin, %error, "a plugin is not ready in the new process");
        }
        Err(Lost::InFlight { doom: Some(Doom::Hung), .. }) => {}
        Err(Lost::Hung | Lost::InFlight { .. }) => known.suspect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_costs_no_pause_and_none_is_longer_than_five_seconds() {
        let pauses: Vec<u128> = (0..6).map(|barren| pause_after(barren).as_millis()).collect();
        assert_eq!(pauses, [0, 0, 50, 100, 200, 400]);
        assert_eq!(pause_after(u32::MAX), PAUSE_MAX);
    }
}

//! Suspects run alone: a process for one call. Whoever is asked there and ends it is the
//! culprit, and nobody else's process ends with it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::spare::Spare;
use crate::worker::{Lost, Start, Worker, WorkerError, lock};

/// How long a call waits for its turn: many suspects may be in front of it, and a compilation.
const TURN_WITHIN: Duration = Duration::from_secs(120);

/// Why a suspect was not asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SoloError {
    /// Others were in front of it for too long, or the host is ending.
    #[error("no turn in a process of its own within {} s", TURN_WITHIN.as_secs())]
    NoTurn,
    /// There is no process for it.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// Runs calls one at a time, each in a process of its own.
#[derive(Debug)]
pub(crate) struct Solo {
    start: Start,
    spare: Arc<Spare>,
    runs: AtomicU64,
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    worker: Option<Arc<Worker>>,
    stopping: bool,
}

impl Solo {
    pub(crate) fn new(start: Start, spare: Arc<Spare>) -> Self {
        Self { start, spare, runs: AtomicU64::new(0), running: Mutex::default() }
    }

    /// Ends the call under way and makes no other.
    pub(crate) fn stop(&self) {
        let mut running = lock(&self.running);
        running.stopping = true;
        if let Some(worker) = &running.worker {
            worker.kill();
        }
    }

    /// Calls that were made alone so far.
    pub(crate) fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    /// Asks in a new process, which is gone afterwards.
    pub(crate) fn run<R>(
        &self,
        ask: impl FnOnce(&Worker) -> Result<R, Lost>,
    ) -> Result<Result<R, Lost>, SoloError> {
        let turn = self.spare.take(Some(Instant::now() + TURN_WITHIN)).ok_or(SoloError::NoTurn)?;
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        let worker = Arc::new(Worker::start(&self.start, number, 1)?);
        {
            let mut running = lock(&self.running);
            if running.stopping {
                return Err(SoloError::NoTurn);
            }
            running.worker = Some(Arc::clone(&worker));
        }
        let result = ask(&worker);
        // Gone before the next one begins: that is what the turn is about.
        lock(&self.running).worker = None;
        drop(worker);
        drop(turn);
        Ok(result)
    }
}

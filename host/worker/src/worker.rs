//! One process that runs guests, as the host sees it: its lanes, what is loaded in it,
//! and why it was ended if the host ended it.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use windlass_core::guests::{Call, Called, LoadId, Texts};
use windlass_core::manifest::Manifest;
use windlass_core::ports::CallError;

use crate::confine::Report;
use crate::frame::{Buffer, Wire};
use crate::known::Known;
use crate::lane::{Lane, LaneError, OpenError};
use crate::message::{Control, Hello, Ready, SMALL_MAX_BYTES};
use crate::process::{Ended, Launch, Process, StartError};

/// How long a process may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// How long a process that has closed a lane may take to end before it is ended.
const END_WITHIN: Duration = Duration::from_millis(200);
/// How long a killed process is waited for.
const REAP_WITHIN: Duration = Duration::from_secs(2);
/// How long a lane stays open that nobody uses: it holds a stack and buffers over there.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// How long a wait for a lane goes on before it looks whether another may be opened.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Why the host ended a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Doom {
    /// A call was not answered in time.
    Hung,
    /// It said what makes no sense.
    Nonsense(String),
}

/// What became of a call that was not answered.
#[derive(Debug)]
pub(crate) enum Lost {
    /// Nothing was asked: the process was gone before, or no lane was free in time.
    NotAsked,
    /// It was asked and did not answer in time: the process was ended for it.
    Hung,
    /// The process ended while it was asked.
    InFlight {
        /// How it ended; nothing if it did not in time.
        ended: Option<Ended>,
        /// Why the host ended it, if it did.
        doom: Option<Doom>,
    },
}

/// Why a worker is not ready.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// There is no process.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It said why it cannot run guests.
    #[error("the process cannot run guests: {0}")]
    Failed(String),
    /// It keeps powers that it has to do without.
    #[error("the process keeps powers: {0}")]
    Unconfined(String),
    /// It did not say that it is ready.
    #[error("the process did not get ready: {said}, {ended}")]
    Silent {
        /// What happened instead.
        said: String,
        /// How it ended.
        ended: String,
    },
}

/// Lanes; the one that was used last is used next, so that the first ones are those that nobody needs.
#[derive(Debug)]
struct Lanes {
    idle: Vec<Lane>,
    open: usize,
    max: usize,
    /// Threads that wait for one. To wake nobody is a call of the kernel all the same, and hardly anybody ever waits.
    awaited: usize,
}

impl Lanes {
    /// Puts a lane aside, and closes one that nobody has used for `idle_max`.
    fn put(&mut self, lane: Lane, idle_max: Duration) {
        self.idle.push(lane);
        if self.idle[0].idle() > idle_max {
            self.idle.remove(0);
            self.open -= 1;
        }
    }
}

/// What is known of a component in one process: its manifest once it is loaded there.
type Slot = Arc<Mutex<Option<Manifest>>>;

/// How a process that runs guests is started.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) launch: Launch,
    pub(crate) require_sandbox: bool,
}

/// A process that runs guests. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Worker {
    number: u64,
    process: Process,
    control: Mutex<(Wire, Buffer)>,
    lanes: Mutex<Lanes>,
    free: Condvar,
    loaded: Mutex<HashMap<LoadId, Slot>>,
    doom: OnceLock<Doom>,
    confined: Report,
}

impl Worker {
    /// Starts a process and waits until it is ready.
    pub(crate) fn start(start: &Start, number: u64, lanes_max: usize) -> Result<Self, WorkerError> {
        let Start { launch, require_sandbox } = start;
        let require_sandbox = *require_sandbox;
        let (process, control) = Process::start(launch)?;
        let silent = |said: String| {
            process.kill();
            let ended = process.wait(Some(Instant::now() + REAP_WITHIN));
            WorkerError::Silent { said, ended: how(ended) }
        };
        let control = Wire::punctual(control).map_err(|error| silent(error.to_string()))?;
        let mut buffer = Buffer::default();
        let until = Some(Instant::now() + READY_WITHIN);
        match control.receive::<Ready>(&mut buffer, SMALL_MAX_BYTES, until) {
            Ok(Ok(Hello { confined })) if require_sandbox && !confined.is_complete() => {
                Err(WorkerError::Unconfined(confined.to_string()))
            }
            Ok(Ok(Hello { confined })) => Ok(Self {
                number,
                process,
                control: Mutex::new((control, buffer)),
                lanes: Mutex::new(Lanes { idle: Vec::new(), open: 0, max: lanes_max, awaited: 0 }),
                free: Condvar::new(),
                loaded: Mutex::default(),
                doom: OnceLock::new(),
                confined,
            }),
            Ok(Err(why)) => Err(WorkerError::Failed(windlass_core::code::printable(&why, 1024))),
            Err(error) => Err(silent(error.to_string())),
        }
    }

    /// Which one it is; later ones have higher numbers.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Its process's number.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it has taken away from itself.
    pub(crate) fn confined(&self) -> &Report {
        &self.confined
    }

    /// Lanes that are open.
    pub(crate) fn lanes(&self) -> usize {
        lock(&self.lanes).open
    }

    /// Whether it can be asked anything.
    pub(crate) fn is_alive(&self) -> bool {
        self.doom.get().is_none() && self.process.ended().is_none()
    }

    /// Ends it; whoever waits for an answer learns of it.
    pub(crate) fn kill(&self) {
        self.process.kill();
        self.free.notify_all();
    }

    /// Waits for its end and says how that came about.
    pub(crate) fn wait(&self) -> String {
        let ended = self.process.wait(None);
        self.free.notify_all();
        match self.doom.get() {
            Some(Doom::Hung) => "ended by the host: a call was not answered in time".to_owned(),
            Some(Doom::Nonsense(what)) => format!("ended by the host: it said {what}"),
            None => how(ended),
        }
    }

    /// Has `known` loaded, if it is not yet.
    pub(crate) fn load(&self, known: &Known, until: Instant) -> Result<Result<Manifest, CallError>, Lost> {
        self.on_lane(until, |lane| {
            let slot = self.slot(known.id());
            let manifest = self.ready(&slot, lane, known)?;
            Ok(manifest.clone().expect("a slot is filled once its component is ready"))
        })
    }

    /// Asks `known`, which is loaded before if it has to be. `until` is for finding a lane;
    /// the call has its own time.
    pub(crate) fn call(
        &self,
        known: &Known,
        call: &Call<'_>,
        texts: &dyn Texts,
        until: Instant,
    ) -> Result<Called, Lost> {
        let called = self.on_lane(until, |lane| {
            drop(self.ready(&self.slot(known.id()), lane, known)?);
            lane.call(&known.load.limits, call, texts)
        })?;
        if known.is_gone() {
            self.unload(known.id());
        }
        Ok(called.unwrap_or_else(Called::failed))
    }

    /// Tells it to forget a component. Does not wait.
    pub(crate) fn unload(&self, id: LoadId) {
        if lock(&self.loaded).remove(&id).is_none() {
            return;
        }
        let (wire, buffer) = &mut *lock(&self.control);
        if wire.send_with(buffer, &Control::Unload(id), &[], SMALL_MAX_BYTES).is_err() && self.is_alive() {
            self.end(Doom::Nonsense("nothing: its control socket is full".into()));
        }
    }

    fn slot(&self, id: LoadId) -> Slot {
        Arc::clone(lock(&self.loaded).entry(id).or_default())
    }

    /// Fills the slot over this lane unless somebody else has.
    fn ready<'s>(
        &self,
        slot: &'s Slot,
        lane: &mut Lane,
        known: &Known,
    ) -> Result<MutexGuard<'s, Option<Manifest>>, LaneError> {
        let mut manifest = lock(slot);
        if manifest.is_none() {
            let loaded = lane.load(&known.load);
            if loaded.is_err() {
                lock(&self.loaded).remove(&known.id());
            }
            *manifest = Some(loaded?);
        }
        Ok(manifest)
    }

    fn on_lane<R>(
        &self,
        until: Instant,
        speak: impl FnOnce(&mut Lane) -> Result<R, LaneError>,
    ) -> Result<Result<R, CallError>, Lost> {
        let mut lane = self.check_out(until)?;
        let said = speak(&mut lane);
        self.conclude(lane, said)
    }

    /// Puts a lane back, and says what was said on it. Blocks where a lane broke: until the process has ended.
    pub(crate) fn conclude<R>(
        &self,
        lane: Lane,
        said: Result<R, LaneError>,
    ) -> Result<Result<R, CallError>, Lost> {
        match said {
            Ok(answer) => {
                self.check_in(lane);
                Ok(Ok(answer))
            }
            Err(LaneError::Refused(refusal)) => {
                self.check_in(lane);
                Ok(Err(CallError::Refused(refusal)))
            }
            Err(LaneError::Hung) => {
                self.lost(Some(Doom::Hung));
                Err(Lost::Hung)
            }
            Err(LaneError::Nonsense(what)) => Err(self.lost(Some(Doom::Nonsense(what)))),
            Err(LaneError::Gone) if lane.is_fresh() && self.takes_no_more() => Err(Lost::NotAsked),
            Err(LaneError::Gone) => Err(self.lost(None)),
        }
    }

    /// A lane that nobody uses, for a component that is loaded, if that is to be had without waiting.
    pub(crate) fn check_out_now(&self, known: &Known) -> Option<Lane> {
        let slot = lock(&self.loaded).get(&known.id()).cloned()?;
        let is_loaded = slot.try_lock().is_ok_and(|manifest| manifest.is_some());
        if !is_loaded || !self.is_alive() {
            return None;
        }
        lock(&self.lanes).idle.pop()
    }

    /// A lane that nobody else uses: an idle one, a new one, or the next that is free.
    fn check_out(&self, until: Instant) -> Result<Lane, Lost> {
        let mut lanes = lock(&self.lanes);
        loop {
            if !self.is_alive() {
                return Err(Lost::NotAsked);
            }
            if let Some(lane) = lanes.idle.pop() {
                return Ok(lane);
            }
            if lanes.open < lanes.max {
                lanes.open += 1;
                drop(lanes);
                // Not under the lock of those who only look for a lane: it may wait for the other process.
                let error = match Lane::open(&lock(&self.control).0) {
                    Ok(lane) => return Ok(lane),
                    Err(error) => error,
                };
                lanes = lock(&self.lanes);
                lanes.open -= 1;
                match error {
                    OpenError::Here(error) => {
                        tracing::debug!(%error, lanes = lanes.open, "no further lane to the worker");
                    }
                    OpenError::There(error) => {
                        drop(lanes);
                        self.lost(None);
                        tracing::debug!(%error, "the worker takes no lane");
                        return Err(Lost::NotAsked);
                    }
                }
                if let Some(lane) = lanes.idle.pop() {
                    return Ok(lane);
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Lost::NotAsked);
            }
            lanes.awaited += 1;
            let (held, _) =
                self.free.wait_timeout(lanes, left.min(LOOK_AGAIN)).unwrap_or_else(PoisonError::into_inner);
            lanes = held;
            lanes.awaited -= 1;
        }
    }

    /// Puts a lane aside for the next call.
    pub(crate) fn check_in(&self, mut lane: Lane) {
        lane.settle();
        let mut lanes = lock(&self.lanes);
        lanes.put(lane, IDLE_MAX);
        let is_awaited = lanes.awaited > 0;
        drop(lanes);
        if is_awaited {
            self.free.notify_one();
        }
    }

    /// Whether a new lane was closed because the process has no room for it: it goes on
    /// with those that it has.
    fn takes_no_more(&self) -> bool {
        if self.process.wait(Some(Instant::now() + END_WITHIN)).is_some() || !self.is_alive() {
            return false;
        }
        let mut lanes = lock(&self.lanes);
        lanes.open -= 1;
        lanes.max = lanes.open;
        tracing::warn!(lanes = lanes.open, "the process that runs guests has no room for more calls at once");
        lanes.open > 0
    }

    fn end(&self, doom: Doom) {
        // The first reason is the one: later ones are what it led to.
        let _known_already = self.doom.set(doom);
        self.kill();
    }

    /// What to say when a lane broke: by then the process has ended.
    fn lost(&self, doom: Option<Doom>) -> Lost {
        match doom {
            Some(doom) => self.end(doom),
            None if self.process.wait(Some(Instant::now() + END_WITHIN)).is_none() => {
                self.end(Doom::Nonsense("nothing and closed a lane".into()));
            }
            None => {}
        }
        let ended = self.process.wait(Some(Instant::now() + REAP_WITHIN));
        self.free.notify_all();
        Lost::InFlight { ended, doom: self.doom.get().cloned() }
    }
}

/// How a process ended, in words.
pub(crate) fn how(ended: Option<Ended>) -> String {
    ended.map_or_else(|| "did not end when it was killed".to_owned(), |ended| ended.to_string())
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_lane_that_nobody_uses_is_closed() {
        let (control, _other) = UnixStream::pair().expect("sockets");
        let control = Wire::patient(control);
        let mut lanes = Lanes { idle: Vec::new(), open: 3, max: 3, awaited: 0 };
        for _ in 0..3 {
            lanes.put(Lane::open(&control).expect("a lane"), IDLE_MAX);
        }
        assert_eq!((lanes.idle.len(), lanes.open), (3, 3), "all were used a moment ago");
        while lanes.open > 1 {
            let lane = lanes.idle.pop().expect("the one that is in use");
            lanes.put(lane, Duration::from_micros(1));
        }
        assert_eq!(lanes.idle.len(), 1);
    }
}

//! Pool: the host's way to run guests, in processes that may die of it.
//!
//! All plugins share one worker. When it dies, each call that was in flight is asked again,
//! alone in a process of its own: an innocent only takes longer, and the culprit is whoever
//! dies there (E205). A call that is not answered in time costs the worker its life too; it is
//! asked again alone (E203 if there is no answer there either), the others in flight in the
//! next worker. Whoever was asked alone once is asked alone until twenty of its calls went well.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use serde::Serialize;
use windlass_core::code::{Code, Refusal};
use windlass_core::guests::{Call, Called, Guests, Load, LoadId, Pending, Texts};
use windlass_core::manifest::Manifest;
use windlass_core::name::PluginName;
use windlass_core::ports::CallError;

use crate::confine::Report;
use crate::known::Known;
use crate::lane::deadline;
use crate::process::Launch;
use crate::shared::{Registry, Shared};
use crate::solo::Solo;
use crate::spare::Spare;
use crate::talk::Talk;
use crate::worker::{Doom, Lost, Start, Worker, WorkerError, how, lock};

/// Workers that a call may see die of others before it is taken for a suspect itself.
const WORKERS_MAX: usize = 4;

/// Lanes to one worker, at most: each is a descriptor here and there.
const LANES_MAX: usize = 256;

/// What a pool is made of.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// How the worker that all share is started.
    pub shared: Launch,
    /// How a worker for one suspect is started; its memory comes out of the spare share.
    pub solo: Launch,
    /// Calls at once in the shared worker, 1 to 256; more wait for one to end. Should be as many
    /// as the host's concurrent passes.
    pub lanes: usize,
    /// Whether a process that could not take all powers away from itself is not used.
    pub require_sandbox: bool,
    /// The share of memory that suspects and the compiler take turns at.
    pub spare: Arc<Spare>,
}

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The first worker is not ready.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// No thread to keep it running.
    #[error("start the thread that keeps the worker running")]
    Thread(#[source] std::io::Error),
}

/// A component that is asked alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Suspect {
    /// Whose it is.
    pub plugin: PluginName,
    /// Which version.
    pub load: LoadId,
    /// Calls that still have to go well.
    pub owes: u32,
}

/// How things are, for metrics and people.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Process number of the shared worker; nothing while there is none.
    pub pid: Option<u32>,
    /// What it has taken away from itself.
    pub confined: Option<Report>,
    /// Shared workers that have ended so far.
    pub restarts: u64,
    /// How the last one ended, or why there is none.
    pub last_end: Option<String>,
    /// Calls and loads under way.
    pub in_flight: usize,
    /// Lanes that are open to the shared worker.
    pub lanes: usize,
    /// Components that are loaded.
    pub loaded: usize,
    /// Those that are asked alone.
    pub suspects: Vec<Suspect>,
    /// Calls that were made alone so far.
    pub solo_calls: u64,
}

/// Guests in other processes. Dropping it ends them.
#[derive(Debug)]
pub struct Pool {
    inner: Arc<Inner>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    shared: Shared,
    solo: Solo,
    in_flight: AtomicUsize,
}

/// Counts a call for as long as it is under way.
struct InFlight<'a>(&'a AtomicUsize);

impl<'a> InFlight<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// Starts the shared worker and waits until it is ready.
    ///
    /// # Errors
    /// [`PoolError`]: guests cannot be run on this machine, or not with these arguments.
    pub fn start(config: PoolConfig) -> Result<Self, PoolError> {
        let PoolConfig { shared, solo, lanes, require_sandbox, spare } = config;
        let start = |launch| Start { launch, require_sandbox };
        let inner = Arc::new(Inner {
            registry: Registry::default(),
            shared: Shared::start(start(shared), lanes.clamp(1, LANES_MAX))?,
            solo: Solo::new(start(solo), spare),
            in_flight: AtomicUsize::new(0),
        });
        let keeper = std::thread::Builder::new()
            .name("worker-keeper".into())
            .spawn({
                let inner = Arc::clone(&inner);
                move || inner.shared.keep(&inner.registry)
            })
            .map_err(PoolError::Thread)?;
        Ok(Self { inner, keeper: Mutex::new(Some(keeper)) })
    }

    /// How things are now.
    pub fn status(&self) -> Status {
        let Inner { registry, shared, solo, in_flight } = &*self.inner;
        let worker = shared.current();
        let history = shared.history();
        let registry = registry.read().unwrap_or_else(PoisonError::into_inner);
        let suspects = registry.values().filter_map(|known| {
            let owes = known.suspected()?;
            Some(Suspect { plugin: known.load.plugin.clone(), load: known.id(), owes })
        });
        Status {
            pid: worker.as_ref().map(|worker| worker.pid()),
            confined: worker.as_ref().map(|worker| worker.confined().clone()),
            restarts: history.restarts,
            last_end: history.last_end,
            in_flight: in_flight.load(Ordering::Relaxed),
            lanes: worker.map_or(0, |worker| worker.lanes()),
            loaded: registry.len(),
            suspects: suspects.collect(),
            solo_calls: solo.runs(),
        }
    }

    /// Ends the worker and starts no other; calls under way and later ones are refused with E207.
    pub fn shutdown(&self) {
        self.inner.shared.stop();
        self.inner.solo.stop();
        if let Some(keeper) = lock(&self.keeper).take() {
            let _joined = keeper.join();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Guests for Pool {
    fn load(&self, load: &Load) -> Result<Manifest, Refusal> {
        let _counted = InFlight::enter(&self.inner.in_flight);
        let known = Arc::new(Known::new(load.clone()));
        let loaded = self.inner.ask(&known, |worker, until| worker.load(&known, until))?;
        let manifest = loaded.map_err(refusal_of)?;
        let mut registry = self.inner.registry.write().unwrap_or_else(PoisonError::into_inner);
        registry.insert(load.id, known);
        Ok(manifest)
    }

    fn call(&self, call: &Call<'_>, texts: Arc<dyn Texts>) -> Called {
        let _counted = InFlight::enter(&self.inner.in_flight);
        let Some(known) = self.inner.known(call.load) else {
            let text = format!("component {} is not loaded: a mistake of the host", call.load.0);
            return Called::failed(CallError::Refused(Refusal::new(Code::WorkerMissing, text)));
        };
        self.inner
            .ask(&known, |worker, until| worker.call(&known, call, &*texts, until))
            .unwrap_or_else(|refusal| Called::failed(CallError::Refused(refusal)))
    }

    fn begin(&self, call: &Call<'_>, texts: &Arc<dyn Texts>) -> Option<Pending> {
        let known = self.inner.known(call.load).filter(|known| known.suspected().is_none())?;
        let worker = self.inner.shared.current()?;
        let talk = Talk::begin(worker, known, call, texts)?;
        let inner = Arc::clone(&self.inner);
        Some(Box::pin(async move {
            let _counted = InFlight::enter(&inner.in_flight);
            let called = talk.answer().await;
            if called.is_some() {
                inner.shared.went_well();
            }
            called
        }))
    }

    fn unload(&self, id: LoadId) {
        let mut registry = self.inner.registry.write().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = registry.remove(&id) else { return };
        drop(registry);
        known.forget();
        if let Some(worker) = self.inner.shared.current() {
            worker.unload(id);
        }
    }
}

impl Inner {
    fn known(&self, id: LoadId) -> Option<Arc<Known>> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Asks where `known` belongs, and again where a death was not its own.
    fn ask<R>(&self, known: &Known, ask: impl Fn(&Worker, Instant) -> Result<R, Lost>) -> Result<R, Refusal> {
        if known.suspected().is_some() {
            return self.alone(known, &ask);
        }
        let mut after = 0;
        for _ in 0..WORKERS_MAX {
            // To find a worker and a lane; the call itself has as much again.
            let until = Instant::now() + deadline(&known.load.limits);
            loop {
                let Some(worker) = self.shared.worker(after, until) else {
                    return Err(self.missing("no process to run it in was to be had in time"));
                };
                match ask(&worker, until) {
                    Ok(answer) => {
                        self.shared.went_well();
                        return Ok(answer);
                    }
                    Err(Lost::NotAsked) if Instant::now() >= until => {
                        return Err(self.missing("no lane to the process that runs guests was free in time"));
                    }
                    Err(Lost::NotAsked) => {}
                    Err(Lost::InFlight { doom: Some(Doom::Hung), .. }) => {
                        after = worker.number();
                        break;
                    }
                    // Also when it hung itself: a worker that was taken over may let others hang.
                    Err(Lost::Hung | Lost::InFlight { .. }) => return self.retried(known, &ask),
                }
            }
        }
        self.retried(known, &ask)
    }

    /// Asks a new suspect alone.
    fn retried<R>(
        &self,
        known: &Known,
        ask: &impl Fn(&Worker, Instant) -> Result<R, Lost>,
    ) -> Result<R, Refusal> {
        if self.shared.is_stopping() {
            return Err(self.missing("the host is ending"));
        }
        tracing::info!(plugin = %known.load.plugin, "asked again alone: the process that it ran in has ended");
        known.suspect();
        self.alone(known, ask)
    }

    /// Asks in a process of its own, and judges.
    fn alone<R>(
        &self,
        known: &Known,
        ask: &impl Fn(&Worker, Instant) -> Result<R, Lost>,
    ) -> Result<R, Refusal> {
        let asked = self.solo.run(|worker| ask(worker, Instant::now() + deadline(&known.load.limits)));
        match asked {
            Ok(Ok(answer)) => {
                known.one_good();
                Ok(answer)
            }
            Ok(Err(_)) if self.shared.is_stopping() => Err(self.missing("the host is ending")),
            Ok(Err(Lost::Hung)) => {
                known.suspect();
                Err(unresponsive(known))
            }
            Ok(Err(Lost::InFlight { ended, doom })) => {
                known.suspect();
                Err(match doom {
                    Some(Doom::Nonsense(what)) => died(&format!("was ended because it said {what}")),
                    Some(Doom::Hung) | None => died(&how(ended)),
                })
            }
            Ok(Err(Lost::NotAsked)) => Err(self.missing("its own process ended before it was asked")),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                Err(self.missing(&format!("{error}{}", cause.unwrap_or_default())))
            }
        }
    }

    /// # Returns
    /// E207: nobody's fault but the host's.
    fn missing(&self, why: &str) -> Refusal {
        let last = self.shared.history().last_end.map(|end| format!("; the last one: {end}"));
        Refusal::new(Code::WorkerMissing, format!("{why}{}", last.unwrap_or_default()))
    }
}

fn unresponsive(known: &Known) -> Refusal {
    let text = format!(
        "no answer within {:?}, although a guest is ended after {:?} of CPU time: the process that ran it was ended",
        deadline(&known.load.limits),
        known.load.limits.cpu
    );
    Refusal::new(Code::WorkerUnresponsive, text)
}

fn died(how: &str) -> Refusal {
    Refusal::new(Code::WorkerDied, format!("the process {how} while this plugin ran in it alone"))
}

/// A load has no other failures.
fn refusal_of(error: CallError) -> Refusal {
    match error {
        CallError::Refused(refusal) => refusal,
        other => Refusal::new(Code::BadManifest, other.to_string()),
    }
}

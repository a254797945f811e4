//! The driver: the elector's thread, and the handle by which the host holds it.
//!
//! Its thread, runtime and connection are its own. A host whose runtime is busy, whose
//! connection pool is full or whose executor is blocked goes on renewing its Lease,
//! and stops writing when that fails, because the gate closes from here.

use std::any::Any;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch as channel};
use windlass_core::claim::{BootClock, Gate, Term};

use crate::api::Api;
use crate::clock::Boottime;
use crate::contact::Contact;
use crate::durations::Durations;
use crate::elector::{Elector, Settings};
use crate::hook::AcquireHook;
use crate::mutant::Mutant;
use crate::observe::Observe;
use crate::pulse::{Ear, Peer, Pulse, Server, nonce_of};
use crate::run::Loop;
use crate::status::{Board, Status};
use crate::step::{HeldByAnother, Leadership};

/// Beyond its deadline the thread gets this long to end before it is given up.
const GRACE: Duration = Duration::from_millis(500);

/// Makes the driver's client, inside its runtime.
pub type Connect = Box<dyn FnOnce() -> Result<kube::Client, kube::Error> + Send>;

/// What a driver needs.
pub struct Config {
    /// The Lease's namespace.
    pub namespace: String,
    /// The Lease's name; `windlass` unless a flag says otherwise.
    pub name: String,
    /// This process and no other: see [`identity`].
    pub identity: Arc<str>,
    /// Lease, renew deadline, retry period.
    pub durations: Durations,
    /// `--leader-elect`. Without it a Lease that another process renews ends the
    /// driver with [`DriverError::HeldByAnother`].
    pub leader_elect: bool,
    /// What has to be done between the acquisition and the first write, if anything.
    pub hook: Option<Arc<dyn AcquireHook>>,
    /// This replica's pulse. Without one nobody learns of its death before the lease time
    /// has passed.
    pub pulse: Option<Pulse>,
    /// `--death-evidence`: take over at once from a process that has ended. Without it
    /// this replica listens to nobody; its own pulse is there for others all the same.
    pub death_evidence: bool,
    /// Terms of which the API server refused a write because another claim is the current
    /// one. Bounded and short (8 is plenty): who finds it full need not wait, one is enough.
    pub refused: Option<mpsc::Receiver<Term>>,
    /// Told what happens, for metrics.
    pub observe: Option<Arc<dyn Observe>>,
    /// A rule to break. Without the feature `mutants` it is ignored.
    pub mutant: Option<Mutant>,
}

impl Config {
    /// A replica that elects, with nothing that is optional. Listens to pulses, has none.
    pub fn new(namespace: &str, name: &str, identity: Arc<str>, durations: Durations) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity,
            durations,
            leader_elect: true,
            hook: None,
            pulse: None,
            death_evidence: true,
            refused: None,
            observe: None,
            mutant: None,
        }
    }
}

/// Why the driver ended, when nobody wanted that or not in this way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// There is no election, and another process leads. Exit code 72.
    #[error(transparent)]
    HeldByAnother(HeldByAnother),
    /// No client could be made of the configuration. A person must change it.
    #[error("no client for the lease: {0}")]
    Client(String),
    /// The operating system gave no thread or no runtime.
    #[error("no thread or runtime for the lease: {0}")]
    Thread(String),
    /// The shutdown's deadline passed before the Lease was released. The gate is closed;
    /// others take over when the lease time has passed.
    #[error("the lease was not released in time")]
    OutOfTime,
    /// The thread did not even end after that. Only the end of the process stops it.
    #[error("the thread of the lease does not end")]
    Stuck,
    /// The handle was dropped without a shutdown. The Lease was not released.
    #[error("the lease was abandoned")]
    Abandoned,
    /// A bug: the thread panicked. The gate is closed.
    #[error("the thread of the lease panicked: {0}")]
    Panicked(String),
}

/// Starts the thread that holds the Lease.
#[derive(Debug)]
pub struct LeaseDriver;

/// Holds the driver's thread. Dropping it closes the gate and ends the thread without
/// a release, as a crash would: [`shutdown`](Self::shutdown) is the way to end well.
#[must_use]
pub struct Handle {
    shutdown: Mutex<Option<oneshot::Sender<Duration>>>,
    leading: channel::Receiver<Leadership>,
    contacts: channel::Receiver<u64>,
    ended: channel::Receiver<Option<Result<(), DriverError>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    board: Arc<Board>,
    clock: Arc<dyn BootClock>,
    gate: Arc<Gate>,
    /// Ends with the handle, after the gate was closed: later than everything else.
    _pulse: Option<Server>,
}

/// An identity for this process: the pod's name and 128 random bits, so that a
/// process never takes its predecessor's Lease for its own.
pub fn identity(pod: &str) -> Arc<str> {
    format!("{pod}_{:032x}", rand::random::<u128>()).into()
}

impl LeaseDriver {
    /// Starts the thread; it opens and closes `gate`. `client` makes a client of its own out of `kube`; requests are
    /// never retried below the elector, whatever `kube` says. The clock is CLOCK_BOOTTIME. The pulse, if
    /// there is one, answers from here on until the handle is dropped.
    ///
    /// # Errors
    /// [`DriverError::Thread`] when there is no thread to be had.
    pub fn start(
        config: Config,
        mut kube: kube::Config,
        client: fn(kube::Config) -> Result<kube::Client, kube::Error>,
        gate: Arc<Gate>,
    ) -> Result<Handle, DriverError> {
        kube.default_retry = false;
        let timeout = config.durations.request_timeout();
        kube.connect_timeout = Some(kube.connect_timeout.map_or(timeout, |own| own.min(timeout)));
        let connect: Connect = Box::new(move || client(kube));
        Self::start_with(config, connect, Arc::new(Boottime), gate)
    }

    /// As [`start`](Self::start), with a client and a clock of the caller's. The client
    /// must not retry.
    ///
    /// # Errors
    /// [`DriverError::Thread`] when there is no thread to be had.
    pub fn start_with(
        mut config: Config,
        connect: Connect,
        clock: Arc<dyn BootClock>,
        gate: Arc<Gate>,
    ) -> Result<Handle, DriverError> {
        let no_thread = |error: std::io::Error| DriverError::Thread(error.to_string());
        let (mut server, mut advertised) = (None, None);
        if let Some(pulse) = config.pulse.take() {
            advertised = Some(pulse.advertise);
            server = Some(Server::start(pulse.listener, nonce_of(&config.identity)).map_err(no_thread)?);
        }
        let (peer, peer_seen) = channel::channel(Peer::default());
        let board = Arc::new(Board::new(&config, advertised, peer_seen));
        let (shutdown, shutdown_said) = oneshot::channel();
        let (lead, leading) = channel::channel(Leadership::Standby { holder: None });
        let (end, ended) = channel::channel(None);
        let (contact, contacts) = channel::channel(0);
        let thread = Thread {
            config,
            advertised,
            peer,
            gate: gate.clone(),
            clock: clock.clone(),
            board: board.clone(),
            leading: lead,
            contact: Arc::new(Contact::new(contact)),
            shutdown: shutdown_said,
        };
        let thread = std::thread::Builder::new()
            .name("lease".to_owned())
            .spawn(move || {
                let result = thread.run(connect);
                end.send_replace(Some(result));
            })
            .map_err(no_thread)?;
        Ok(Handle {
            shutdown: Mutex::new(Some(shutdown)),
            leading,
            contacts,
            ended,
            thread: Mutex::new(Some(thread)),
            board,
            clock,
            gate,
            _pulse: server,
        })
    }
}

/// What moves into the thread.
struct Thread {
    config: Config,
    advertised: Option<SocketAddr>,
    peer: channel::Sender<Peer>,
    gate: Arc<Gate>,
    clock: Arc<dyn BootClock>,
    board: Arc<Board>,
    leading: channel::Sender<Leadership>,
    contact: Arc<Contact>,
    shutdown: oneshot::Receiver<Duration>,
}

impl Thread {
    /// All of the thread's life. However it ends, the gate is closed and that is told.
    fn run(self, connect: Connect) -> Result<(), DriverError> {
        let (gate, board, leading) = (self.gate.clone(), self.board.clone(), self.leading.clone());
        let result = catch_unwind(AssertUnwindSafe(|| self.hold(connect)));
        gate.close();
        board.closed(None);
        if matches!(*leading.borrow(), Leadership::Leading(_)) {
            leading.send_replace(Leadership::Standby { holder: None });
        }
        let result = result.unwrap_or_else(|panic| Err(DriverError::Panicked(said(&*panic))));
        if let Err(error) = &result {
            tracing::error!(%error, "the lease ended");
        }
        result
    }

    fn hold(self, connect: Connect) -> Result<(), DriverError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| DriverError::Thread(error.to_string()))?;
        let config = self.config;
        let mutant = config.mutant.map(|mutant| on_these_clocks(mutant, &*self.clock));
        let nonce = nonce_of(&config.identity);
        let ear = config.death_evidence.then(|| Ear::new(nonce, self.advertised)).map(|ear| match mutant {
            Some(Mutant::EvidenceFromSilence) if cfg!(feature = "mutants") => ear.restless(),
            _ => ear,
        });
        let pulse = self.advertised.map(|at| format!("{at}/{nonce}").into());
        let result = runtime.block_on(async {
            let client = connect().map_err(|error| DriverError::Client(error.to_string()))?;
            let settings = Settings {
                identity: config.identity,
                durations: config.durations,
                elect: config.leader_elect,
                seed: rand::random(),
                pulse,
                mutant,
            };
            let parts = Loop {
                elector: Elector::new(settings, self.clock.now()),
                api: Api::new(client, &config.namespace, &config.name),
                gate: self.gate,
                clock: self.clock,
                hook: config.hook,
                board: self.board,
                leading: self.leading,
                shutdown: self.shutdown,
                watch_silence: config.durations.renew_deadline(),
                ear,
                peer: self.peer,
                refused: config.refused,
                observe: config.observe,
                contact: self.contact,
            };
            Box::pin(parts.run()).await
        });
        // Name resolution runs on threads of the runtime; a hanging one must not hold us.
        runtime.shutdown_background();
        result
    }
}

impl Handle {
    /// Who leads. Changes when the gate opens, when it closes, and when another holder
    /// is seen; not at renewals.
    pub fn leading(&self) -> channel::Receiver<Leadership> {
        self.leading.clone()
    }

    /// How often the API server has answered again after a request of the lease had got no answer at all: a connection
    /// that has been silent since before then may be dead.
    pub fn contacts(&self) -> channel::Receiver<u64> {
        self.contacts.clone()
    }

    /// Resolves when the thread has ended: `Ok` after a shutdown, else with the reason.
    ///
    /// Cancel safety: may be dropped and asked for again.
    pub fn ended(&self) -> impl Future<Output = Result<(), DriverError>> + Send + use<> {
        let mut ended = self.ended.clone();
        async move {
            match ended.wait_for(Option::is_some).await {
                Ok(result) => result.clone().unwrap_or(Ok(())),
                Err(_) => Err(DriverError::Panicked("without a word".to_owned())),
            }
        }
    }

    /// Stops: closes the gate, waits until no write is on the wire, releases the Lease and
    /// joins the thread. Takes at most `deadline` and half a second.
    ///
    /// Cancel safety: when dropped, the thread goes on to its deadline by itself.
    ///
    /// # Errors
    /// [`DriverError::OutOfTime`] when the Lease could not be released within `deadline`;
    /// the others when the driver had ended before. Nobody needs to retry.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), DriverError> {
        if let Some(shutdown) = lock(&self.shutdown).take() {
            // Fails only when the thread has ended; then the line below says so.
            let _ = shutdown.send(deadline);
        }
        let result =
            tokio::time::timeout(deadline + GRACE, self.ended()).await.map_err(|_| DriverError::Stuck)?;
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            // It has said its last word, so this returns at once; it catches its own panics.
            let _ = thread.join();
        }
        result
    }

    /// The present state, for `/debug/leadership` and for metrics. Never waits.
    pub fn status(&self) -> Status {
        self.board.read(self.clock.now())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The thread sees its sender gone and ends; no write begins from here on.
        if lock(&self.shutdown).take().is_some() {
            self.gate.close();
        }
    }
}

/// A mutant that believes in wall clocks gets this machine's, off by what its name said.
fn on_these_clocks(mutant: Mutant, clock: &dyn BootClock) -> Mutant {
    let Mutant::WallClock { zero_ms: ahead } = mutant else {
        return mutant;
    };
    let since_boot = i64::try_from(clock.now().0 / 1_000_000).unwrap_or(i64::MAX);
    Mutant::WallClock { zero_ms: jiff::Timestamp::now().as_millisecond() - since_boot + ahead }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while these are held; each is one `take`.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

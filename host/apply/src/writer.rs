//! The writer: what every write goes through.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::Client;
use tokio::time::Instant;
use tracing::{debug, warn};
use windlass_core::claim::{BootClock, Claim, Gate, Term};
use windlass_core::class::Class;
use windlass_core::code::WITHHELD;
use windlass_core::key::ObjectRef;
use windlass_core::kind::Kind;
use windlass_core::name::PluginName;
use windlass_core::object::{Meta, Object, ObjectError, hash64};
use windlass_core::rights::Missing;

use crate::answer::{Failed, refused, told_to_wait};
use crate::events::Events;
use crate::pressure::Pressure;
use crate::recent::Recent;
use crate::request::{Actor, Call, object_path, without_extras};
use crate::wire::{Reply, exchange};

/// Different warnings of the API server that are remembered as logged.
const WARNINGS_MAX: usize = 1024;
/// How long one warning is not logged again.
const WARNING_EVERY: Duration = Duration::from_secs(3600);

/// For how long of a term the fence's refusal of our own claim means that an API server
/// has not heard of it yet. The slowest of 400 changes took 18 ms on one idle server, 41 ms
/// on the second of two; after this a refusal is the loss of leadership.
pub const FENCE_SETTLES: Duration = Duration::from_secs(1);
/// Pauses before a write that the fence refused so early is sent again: doubled each time.
const UNSEEN_PAUSE: Duration = Duration::from_millis(1);
const UNSEEN_PAUSE_MAX: Duration = Duration::from_millis(50);
/// Primaries whose last status write is remembered.
const STATUSES_MAX: usize = 4096;
/// Primaries of which it is remembered that they were read before something was removed.
const CONFIRMED_MAX: usize = 4096;

/// How the [`Writer`] writes.
#[derive(Clone, Debug)]
pub struct Config {
    /// The longest that one request may take. Default 5 s; less when the claim ends sooner.
    pub request_timeout: Duration,
    /// The shortest time in which a request is worth sending; with less left of the
    /// claim it is not sent. Default 250 ms.
    pub least: Duration,
    /// How many writes may be on the wire at once, of all plugins together. Default 32: an API server
    /// on two cores is no faster with more.
    pub in_flight: usize,
    /// How many children of one plan are made at once. Default 8.
    pub siblings: usize,
    /// How long after a status write a plan that holds nothing but another status of the same object
    /// waits, so that several changes become one write. Default 100 ms; the first one never waits.
    pub status_every: Duration,
    /// Whether a plugin's write says under which claim it is made and which component decided. Default true;
    /// without it no fence lets it through.
    pub claim_extras: bool,
    /// The host's namespace: where plugins' ServiceAccounts are, and the value of
    /// the label `windlass.dev/host` on children.
    pub host_namespace: Arc<str>,
    /// This replica's identity, `reportingInstance` of its Events.
    pub identity: Arc<str>,
}

impl Config {
    /// The defaults, for the host `identity` in `host_namespace`.
    #[must_use]
    pub fn new(host_namespace: impl Into<Arc<str>>, identity: impl Into<Arc<str>>) -> Self {
        Self {
            request_timeout: Duration::from_secs(5),
            least: Duration::from_millis(250),
            in_flight: 32,
            siblings: 8,
            status_every: Duration::from_millis(100),
            claim_extras: true,
            host_namespace: host_namespace.into(),
            identity: identity.into(),
        }
    }
}

/// What a write does, as metrics and log lines name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Sets the primary's finalizers.
    Finalizers,
    /// Makes a child.
    Create,
    /// Takes over an object that a person marked with `windlass.dev/adopt`.
    Adopt,
    /// Applies an existing child.
    Update,
    /// Deletes a child.
    Delete,
    /// Lets go of a child.
    Orphan,
    /// Applies the primary's status.
    Status,
    /// Publishes an Event.
    Event,
    /// Writes a plugin's state on its ConfigMap.
    Announce,
    /// Keeps a copy of a plugin's last good version.
    Keep,
    /// Records which signed version of a plugin was accepted.
    Accept,
}

impl Verb {
    /// A label value for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Finalizers => "finalizers",
            Verb::Create => "create",
            Verb::Adopt => "adopt",
            Verb::Update => "update",
            Verb::Delete => "delete",
            Verb::Orphan => "orphan",
            Verb::Status => "status",
            Verb::Event => "event",
            Verb::Announce => "announce",
            Verb::Keep => "keep",
            Verb::Accept => "accept",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Hears of writes. A seam for metrics and for the election; it must not wait.
pub trait Observe: Send + Sync + 'static {
    /// A write came to an end: accepted, or failed with a class. `None` as plugin
    /// is the host itself.
    fn wrote(&self, plugin: Option<&PluginName>, verb: Verb, result: Result<(), Class>, took: Duration);

    /// The API server refused a write because `claim`, the one it was made under, is not
    /// the current one: this replica no longer leads, whatever its Lease says, and the
    /// election has to hear of it. Called for each such write; nothing by default.
    fn fenced(&self, claim: &Claim) {
        let _ = claim;
    }

    /// The same within [`FENCE_SETTLES`] of the term's beginning: an API server has not
    /// heard of `claim` yet, and the write is sent again. Nothing by default.
    fn fence_unseen(&self, claim: &Claim) {
        let _ = claim;
    }

    /// A write for this plugin, or the host's own, was refused for want of a right. Nothing by default.
    fn denied(&self, plugin: Option<&PluginName>, missing: &Missing) {
        let _ = (plugin, missing);
    }
}

/// Writes to the API server, each write under the claim.
///
/// # Guarantees
/// * Nothing is sent unless the [`Gate`] gives a permit for the claim at that
///   moment; the permit is held until the answer has been read or the deadline has
///   passed. The deadline, on the wire as `?timeout=` and in this process, ends
///   inside the claim.
/// * One attempt a write, but for a claim that an API server has not heard of yet:
///   then the refused request is sent again, under a permit of its own, until the term is
///   [`FENCE_SETTLES`] old. Who wants any other attempt brings the key back.
/// * Every write but a create carries uid, and resourceVersion where it was judged;
///   a create never overwrites.
/// * Before the first removal of a child for a primary in a term, the primary is read from the API
///   server: nothing is removed because of what a late watch shows.
/// * A write whose outcome nobody knows is read back before its step returns.
/// * At most `config.in_flight` writes are on the wire. A plugin that the API server told to wait
///   (429, or 503 with `Retry-After`) sends nothing before that time is over; others go on.
///
/// # Assumptions
/// * The `client` was built with `config.default_retry = false`: a retry layer
///   below this would send again after the claim has ended. Its User-Agent is kept.
/// * The client's account may impersonate the plugins' ServiceAccounts and the
///   extras `windlass.dev/claim` and `windlass.dev/plugin`.
pub struct Writer {
    pub(crate) client: Client,
    gate: Arc<Gate>,
    clock: Arc<dyn BootClock>,
    pub(crate) config: Config,
    observe: Option<Arc<dyn Observe>>,
    pub(crate) events: Mutex<Events>,
    pub(crate) pressure: Pressure,
    /// What became of statuses, by the primary's uid.
    pub(crate) statuses: Mutex<Recent<Statuses>>,
    /// The term in which the primary of this uid was read once more before a removal.
    pub(crate) confirmed: Mutex<Recent<Term>>,
    warned: Mutex<Recent<Option<Instant>>>,
}

/// What became of the statuses of one primary.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Statuses {
    /// When one was written last.
    pub(crate) written: Option<Instant>,
    /// Whether one was left to the next pass since.
    pub(crate) is_owed: bool,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Writer {
    /// A writer over `client`, which must have been built with
    /// `config.default_retry = false`. Must be called inside a tokio runtime only if
    /// making the client must.
    #[must_use]
    pub fn new(client: Client, gate: Arc<Gate>, clock: Arc<dyn BootClock>, config: Config) -> Self {
        Self {
            pressure: Pressure::new(config.in_flight),
            statuses: Mutex::new(Recent::new(STATUSES_MAX)),
            confirmed: Mutex::new(Recent::new(CONFIRMED_MAX)),
            client,
            gate,
            clock,
            config,
            observe: None,
            events: Mutex::new(Events::new()),
            warned: Mutex::new(Recent::new(WARNINGS_MAX)),
        }
    }

    /// Tells `observe` of every write from now on.
    #[must_use]
    pub fn observed(mut self, observe: Arc<dyn Observe>) -> Self {
        self.observe = Some(observe);
        self
    }

    /// Sends one write under `claim`. An `Ok` is a 2xx.
    pub(crate) async fn write(
        &self,
        verb: Verb,
        call: Call,
        actor: &Actor<'_>,
        claim: &Claim,
    ) -> Result<Reply, Failed> {
        let began = Instant::now();
        let (method, path) = (call.method.clone(), call.path.clone());
        let result = self.send(call, actor, claim).await;
        let plugin = actor.plugin();
        let class = result.as_ref().map(|_| ()).map_err(|failed| failed.class);
        if let Some(observe) = &self.observe {
            observe.wrote(plugin, verb, class, began.elapsed());
            if let Some(missing) = result.as_ref().err().and_then(|failed| failed.missing.as_deref()) {
                observe.denied(plugin, missing);
            }
        }
        match &result {
            Ok(reply) => {
                debug!(%verb, %method, path, code = reply.code, "written");
                if actor.is_discreet() && !reply.warnings.is_empty() {
                    self.warn_once(plugin, &path, &[WITHHELD.to_owned()]);
                } else {
                    self.warn_once(plugin, &path, &reply.warnings);
                }
            }
            Err(failed) => debug!(%verb, %method, path, message = failed.message, "not written"),
        }
        result
    }

    async fn send(&self, call: Call, actor: &Actor<'_>, claim: &Claim) -> Result<Reply, Failed> {
        let mut pause = UNSEEN_PAUSE;
        loop {
            let (reply, age) = self.send_once(&call, actor, claim).await?;
            if (200..300).contains(&reply.code) {
                return Ok(reply);
            }
            let failed = refused(&reply, actor);
            if !failed.fenced {
                return Err(failed);
            }
            if age >= FENCE_SETTLES {
                warn!(%claim, "the API server refuses writes under this claim: it is not the current one");
                if let Some(observe) = &self.observe {
                    observe.fenced(claim);
                }
                return Err(failed);
            }
            if let Some(observe) = &self.observe {
                observe.fence_unseen(claim);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(UNSEEN_PAUSE_MAX);
        }
    }

    /// One request under one permit; its answer, and the term's age when it was sent. The permit
    /// comes last: whatever there was to wait for has been waited for.
    async fn send_once(
        &self,
        call: &Call,
        actor: &Actor<'_>,
        claim: &Claim,
    ) -> Result<(Reply, Duration), Failed> {
        let Config { request_timeout, least, .. } = self.config;
        let turn = self.pressure.turn(actor.plugin()).await.map_err(Failed::held)?;
        let permit = self.gate.permit(claim, self.clock.now(), request_timeout, least)?;
        let mut request = call.build(actor, permit.timeout)?;
        if !self.config.claim_extras {
            without_extras(&mut request);
        }
        let reply = exchange(&self.client, request, permit.timeout).await?;
        turn.answered(told_to_wait(&reply));
        Ok((reply, permit.age))
    }

    /// Reads one object as the host; `None` when it does not exist. Needs no claim.
    pub(crate) async fn read(&self, kind: &Kind, object: &ObjectRef) -> Result<Option<Object>, Failed> {
        let timeout = self.config.request_timeout;
        let request = Call::get(object_path(kind, object)?).build(&Actor::Host, timeout)?;
        let reply = exchange(&self.client, request, timeout).await?;
        match reply.code {
            200 => parse(&reply, object).map(Some),
            404 => Ok(None),
            _ => Err(refused(&reply, &Actor::Host)),
        }
    }

    /// Warnings are for the plugin's author (an unknown field, a kind that goes
    /// away); each is logged once an hour, however often it is written.
    fn warn_once(&self, plugin: Option<&PluginName>, path: &str, warnings: &[String]) {
        let now = Instant::now();
        for text in warnings {
            let key = hash64(format!("{plugin:?}\0{text}").as_bytes());
            let logged = {
                let mut warned = lock(&self.warned);
                let at = warned.entry(key, || None);
                let logged = at.is_some_and(|at| now.duration_since(at) < WARNING_EVERY);
                if !logged {
                    *at = Some(now);
                }
                logged
            };
            if !logged {
                let plugin = plugin.map_or("", PluginName::as_str);
                warn!(plugin, path, "the API server warns: {text}");
            }
        }
    }
}

/// Reads the object in an answer, which must be the one that was asked for.
pub(crate) fn parse(reply: &Reply, asked: &ObjectRef) -> Result<Object, Failed> {
    read_as(reply, asked, |text| Object::parse(&asked.gvk, text), Object::meta)
}

/// As [`parse`], for the answer to a write: nothing but the metadata is of interest.
pub(crate) fn parse_meta(reply: &Reply, asked: &ObjectRef) -> Result<Meta, Failed> {
    read_as(reply, asked, Meta::parse, |meta| meta)
}

fn read_as<T>(
    reply: &Reply,
    asked: &ObjectRef,
    read: impl FnOnce(&str) -> Result<T, ObjectError>,
    meta: impl FnOnce(&T) -> &Meta,
) -> Result<T, Failed> {
    let text = std::str::from_utf8(&reply.body).map_err(|_| Failed::garbled(reply, "not UTF-8"))?;
    let object = read(text).map_err(|error| Failed::garbled(reply, &crate::wire::chain(&error)))?;
    let meta = meta(&object);
    if meta.name != asked.name || meta.uid.is_empty() || meta.resource_version.is_empty() {
        return Err(Failed::garbled(reply, "another object than was asked for"));
    }
    Ok(object)
}

/// No code panics while it holds one of these locks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

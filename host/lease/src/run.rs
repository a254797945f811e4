//! The driver's loop: tells the elector what happens and carries out what it orders.
//!
//! One task owns everything: the watch, the one request, the preparation. So there
//! is no order between them to get wrong, and all of them end when the loop does.

use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch as channel};
use tokio::time::Instant;
use windlass_core::claim::{BootClock, BootTime, Claim, Gate, Term};

use crate::api::{Api, ApiError};
use crate::contact::Contact;
use crate::driver::DriverError;
use crate::elector::Elector;
use crate::hook::{AcquireHook, HookError};
use crate::observe::Observe;
use crate::pulse::{Ear, Peer, Target};
use crate::status::Board;
use crate::step::{Cause, Input, Leadership, Order, Purpose, Step, StepDown, Write};

/// How often the gate is asked whether the last write has ended, during a release. The
/// gate has no way to tell: it belongs to `core`, which knows no runtime.
const DRAIN_POLL: Duration = Duration::from_millis(1);

/// The longest sleep. Tokio's clock stands still in a suspended machine, ours does not:
/// after a resume the elector looks again within this.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

type Later<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

/// All that the loop needs.
pub(crate) struct Loop {
    pub(crate) elector: Elector,
    pub(crate) api: Api,
    pub(crate) gate: Arc<Gate>,
    pub(crate) clock: Arc<dyn BootClock>,
    pub(crate) hook: Option<Arc<dyn AcquireHook>>,
    pub(crate) board: Arc<Board>,
    pub(crate) leading: channel::Sender<Leadership>,
    pub(crate) shutdown: oneshot::Receiver<Duration>,
    /// A watch that is silent for this long is taken for dead.
    pub(crate) watch_silence: Duration,
    /// Listens to the leader's pulse, if evidence is wanted.
    pub(crate) ear: Option<Ear>,
    pub(crate) peer: channel::Sender<Peer>,
    /// Terms that the API server refused a write of.
    pub(crate) refused: Option<mpsc::Receiver<Term>>,
    pub(crate) observe: Option<Arc<dyn Observe>>,
    pub(crate) contact: Arc<Contact>,
}

/// What is under way.
struct Work {
    request: Later<Input>,
    /// Whose pulse the ear listens to.
    target: channel::Sender<Option<Target>>,
    /// Why the Lease was free that is being taken, and since when.
    vacancy: Option<(Cause, BootTime)>,
    stepped_down: Option<BootTime>,
    preparation: Later<(Claim, Result<(), HookError>)>,
    draining: bool,
    wake_at: Option<BootTime>,
    /// Given by the shutdown: at this instant the loop ends, released or not.
    end_at: Option<Instant>,
    ended: Option<Result<(), DriverError>>,
}

/// One thing that happened.
enum Happened {
    Told(Input),
    Prepared(Claim, Result<(), HookError>),
    Shutdown(Option<Duration>),
    OutOfTime,
}

impl Loop {
    /// Runs until the Lease is given up, or until it can go on no longer.
    pub(crate) async fn run(mut self) -> Result<(), DriverError> {
        // Bounded: when the loop is behind, the watch waits.
        let (tell, mut told) = mpsc::channel(16);
        let tell_deaths = tell.clone();
        let mut watch = std::pin::pin!(crate::watch::watch(self.api.clone(), tell, self.watch_silence));
        let (mut work, target) = Work::new();
        let mut ear = std::pin::pin!(listen(self.ear.take(), target, tell_deaths, self.peer.clone()));
        self.step(&mut work, Input::Tick);
        while work.ended.is_none() {
            let happened = tokio::select! {
                // The watch only speaks through the channel.
                never = &mut watch => match never {},
                never = &mut ear => match never {},
                term = next(&mut self.refused) => Happened::Told(Input::Fenced(term)),
                Some(input) = told.recv() => Happened::Told(input),
                happened = Self::next(&mut work, &*self.clock, &self.gate, &mut self.shutdown) => happened,
            };
            self.take(&mut work, happened);
        }
        work.ended.unwrap_or(Ok(()))
    }

    /// Waits for whatever comes first of the work that is under way.
    async fn next(
        work: &mut Work,
        clock: &dyn BootClock,
        gate: &Gate,
        shutdown: &mut oneshot::Receiver<Duration>,
    ) -> Happened {
        let end_at = work.end_at;
        tokio::select! {
            input = later(&mut work.request) => {
                work.request = None;
                Happened::Told(input)
            }
            (claim, result) = later(&mut work.preparation) => {
                work.preparation = None;
                Happened::Prepared(claim, result)
            }
            () = drained(gate), if work.draining => {
                work.draining = false;
                Happened::Told(Input::Drained)
            }
            () = sleep_to(work.wake_at, clock) => Happened::Told(Input::Tick),
            deadline = shutdown, if end_at.is_none() => Happened::Shutdown(deadline.ok()),
            () = until(end_at) => Happened::OutOfTime,
        }
    }

    fn take(&mut self, work: &mut Work, happened: Happened) {
        match happened {
            Happened::Told(input) => self.step(work, input),
            Happened::Prepared(claim, result) => {
                if let Err(error) = &result {
                    tracing::warn!(%error, %claim, "the claim could not be prepared; tried again in a moment");
                    self.board.failed(format!("preparation: {error}"));
                }
                if let Err(HookError::Used(term)) = result {
                    self.step(work, Input::TermSeen(term));
                }
                self.step(work, Input::Prepared { term: claim.term, done: result.is_ok() });
            }
            Happened::Shutdown(Some(deadline)) => {
                work.end_at = Some(Instant::now() + deadline);
                self.step(work, Input::Shutdown);
            }
            Happened::Shutdown(None) => work.ended = Some(Err(DriverError::Abandoned)),
            Happened::OutOfTime => work.ended = Some(Err(DriverError::OutOfTime)),
        }
    }

    fn step(&mut self, work: &mut Work, input: Input) {
        // Read before anything is sent: the claim is counted from here.
        let now = self.clock.now();
        let Step { orders, wake_at } = self.elector.step(now, input);
        work.wake_at = wake_at;
        self.board.term(self.elector.highest_term());
        for order in orders {
            self.carry_out(work, order);
        }
        let leader = self.elector.leader_elsewhere();
        work.target.send_if_modified(|target| {
            let named = leader.and_then(|lease| Target::of(lease));
            std::mem::replace(target, named.clone()) != named
        });
    }

    fn carry_out(&mut self, work: &mut Work, order: Order) {
        match order {
            Order::Write(write) => {
                if write.purpose == Purpose::Acquire {
                    work.vacancy = self.elector.vacancy();
                }
                let (api, board, observe) = (self.api.clone(), self.board.clone(), self.observe.clone());
                work.request = Some(Box::pin(send(write, api, board, observe, self.contact.clone())));
            }
            Order::Read { id, timeout } => {
                let (api, board, contact) = (self.api.clone(), self.board.clone(), self.contact.clone());
                work.request = Some(Box::pin(async move {
                    let result = api.read(timeout).await;
                    contact.note(result.as_ref().map_or_else(|error| error.answered, |_| true));
                    let result = result.map_err(|error| failed(&board, "read", error));
                    Input::Answered { id, result }
                }));
            }
            Order::Prepare(claim) => {
                let (hook, client) = (self.hook.clone(), self.api.client().clone());
                work.preparation = Some(Box::pin(async move {
                    let result = match hook {
                        Some(hook) => hook.acquired(&client, &claim).await,
                        None => Ok(()),
                    };
                    (claim, result)
                }));
            }
            Order::OpenGate(claim) => {
                self.board.opened(&claim);
                self.gate.open(claim, self.clock.now());
            }
            Order::CloseGate(reason) => self.close(work, &reason),
            Order::WaitDrain => work.draining = true,
            Order::Announce(leadership) => self.announce(work, leadership),
            Order::End(result) => work.ended = Some(result.map_err(DriverError::HeldByAnother)),
        }
    }

    /// Why the Lease was free that is held now, and how long it took to lead from then on.
    fn taken(&self, work: &Work) -> (Cause, Duration) {
        let (cause, since) = work.vacancy.unwrap_or((Cause::First, self.clock.now()));
        let since = match cause {
            Cause::Own => work.stepped_down.unwrap_or(since),
            _ => since,
        };
        (cause, self.clock.now().since(since))
    }

    fn close(&self, work: &mut Work, reason: &StepDown) {
        self.gate.close();
        work.preparation = None;
        work.stepped_down = Some(self.clock.now());
        if self.board.closed(Some(reason))
            && let Some(observe) = &self.observe
        {
            observe.stepped_down(reason);
        }
        if *reason == StepDown::Shutdown {
            tracing::info!("giving up the lease");
        } else {
            tracing::warn!(%reason, "no longer leading; standing by until the Lease can be taken");
        }
    }

    fn announce(&self, work: &Work, leadership: Leadership) {
        self.board.announced(&leadership);
        match &leadership {
            Leadership::Leading(claim) => {
                let (cause, waited) = self.taken(work);
                tracing::info!(term = %claim.term, cause = cause.as_str(), ?waited, "leading");
                self.board.acquired(cause);
                if let Some(observe) = &self.observe {
                    observe.acquired(cause, waited);
                }
            }
            Leadership::Standby { holder } => tracing::info!(?holder, "standing by"),
        }
        self.leading.send_replace(leadership);
    }
}

impl Work {
    fn new() -> (Self, channel::Receiver<Option<Target>>) {
        let (target, named) = channel::channel(None);
        let work = Self {
            request: None,
            target,
            vacancy: None,
            stepped_down: None,
            preparation: None,
            draining: false,
            wake_at: None,
            end_at: None,
            ended: None,
        };
        (work, named)
    }
}

/// One write, one answer.
async fn send(
    write: Write,
    api: Api,
    board: Arc<Board>,
    observe: Option<Arc<dyn Observe>>,
    contact: Arc<Contact>,
) -> Input {
    let (id, begun) = (write.id, Instant::now());
    let result = api.write(&write).await;
    contact.note(result.as_ref().map_or_else(|error| error.answered, |_| true));
    let result = result.map_err(|error| failed(&board, "write", error));
    if result.is_ok() && write.purpose == Purpose::Renew {
        board.renewed(begun.elapsed());
        if let Some(observe) = observe {
            observe.renewed(begun.elapsed());
        }
    }
    Input::Answered { id, result }
}

async fn listen(
    ear: Option<Ear>,
    target: channel::Receiver<Option<Target>>,
    tell: mpsc::Sender<Input>,
    peer: channel::Sender<Peer>,
) -> Infallible {
    match ear {
        Some(ear) => ear.follow(target, tell, peer).await,
        None => pending().await,
    }
}

/// The next thing that is said, if there is anybody to say it.
async fn next<T>(from: &mut Option<mpsc::Receiver<T>>) -> T {
    if let Some(receiver) = from {
        match receiver.recv().await {
            Some(said) => return said,
            None => *from = None,
        }
    }
    pending().await
}

fn failed(board: &Board, step: &str, error: ApiError) -> crate::step::Failure {
    use crate::step::Failure;
    match error.failure {
        // The ordinary course: somebody else was faster, or nobody was there before.
        Failure::Absent | Failure::Conflict => tracing::debug!(%error, "{step} of the Lease"),
        Failure::Refused | Failure::Unknown => {
            tracing::warn!(%error, "{step} of the Lease failed; tried again in a moment");
            board.failed(format!("{step}: {error}"));
        }
    }
    error.failure
}

async fn later<T>(work: &mut Later<T>) -> T {
    match work {
        Some(work) => work.await,
        None => pending().await,
    }
}

async fn sleep_to(at: Option<BootTime>, clock: &dyn BootClock) {
    match at {
        Some(at) => tokio::time::sleep(at.since(clock.now()).min(LONGEST_SLEEP)).await,
        None => pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => pending().await,
    }
}

async fn drained(gate: &Gate) {
    while gate.in_flight() > 0 {
        tokio::time::sleep(DRAIN_POLL).await;
    }
}

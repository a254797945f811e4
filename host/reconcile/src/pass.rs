//! One pass, step by step. Each step is a small function; a step that ends the
//! pass answers with its outcome as the error.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{debug, warn};
use windlass_core::backoff::Backoff;
use windlass_core::claim::{BootClock, Claim, NotLeading, Term};
use windlass_core::class::Class;
use windlass_core::code::{Code, Refusal};
use windlass_core::decision::{Fault, Notice, Verdict};
use windlass_core::key::Key;
use windlass_core::kind::{Gvk, Kind};
use windlass_core::loops::{Cause, Paused, Wrote};
use windlass_core::manifest::Manifest;
use windlass_core::memo::{Basis, Fingerprint};
use windlass_core::name::Digest;
use windlass_core::object::Object;
use windlass_core::outcome::{Failure, Outcome};
use windlass_core::plan::{Inputs, Plan, PlanError, Step, plan, prepare};
use windlass_core::ports::{
    Answer, Apply, ApplyError, Cache, CallError, Decide, EventTarget, Pass, Serving, Written,
};
use windlass_core::snapshot::Snapshot;

use crate::recorder::Recorder;
use crate::run::{Reconciler, primary_of};

/// Pauses of a key whose kinds have not been listed yet: 250 ms, doubling to 2 s.
pub(crate) const UNSYNCED: Backoff =
    match Backoff::try_new(Duration::from_millis(250), Duration::from_secs(2)) {
        Ok(backoff) => backoff,
        Err(_) => panic!("the pauses are a valid backoff"),
    };
/// When `finalize` is asked again at the latest if the plugin does not say: what
/// it waits for may be outside the cluster.
const FINALIZE_AGAIN: Duration = Duration::from_secs(10);
/// Longest pause after a failure that is neither the plugin's nor the object's: a
/// server that is back, or a right or CRD that was added, sends no event.
const UNFOUNDED_MOST: Duration = Duration::from_secs(25);
/// Longest pause of a key that no process was there to be asked for.
const WORKER_MOST: Duration = Duration::from_secs(2);
/// Longest pause that a server's `Retry-After` can bring about.
const RETRY_AFTER_MOST: Duration = Duration::from_secs(300);
/// For how long a key that wrote too often rests, whatever changes meanwhile.
const LOOPING_LEAST: Duration = Duration::from_secs(60);
/// After so many failures in a row only what the last pass read is watched: until
/// then it is all that any of them read, and that has to end somewhere.
const UNION_MOST: u32 = 16;

/// What is known of a pass while it goes on.
pub(crate) struct Attempt {
    pub(crate) key: Key,
    pub(crate) number: u64,
    /// Failures in a row before this pass.
    pub(crate) failures: u32,
    /// Under which claim it writes; captured when it began.
    pub(crate) claim: Option<Claim>,
    /// Whether it goes on without a claim, and so writes nothing.
    pub(crate) standby: bool,
    /// Whom Events are about, once the primary has been seen.
    pub(crate) subject: Option<(EventTarget, Digest)>,
    /// What the plugin wants to say and has not said yet.
    pub(crate) notices: Vec<Notice>,
    /// How long the plugin took.
    pub(crate) decided: Option<Duration>,
    /// The server's own word on when to come back.
    pub(crate) at_least: Option<Duration>,
    /// Caps the pause after a failure.
    pub(crate) at_most: Option<Duration>,
    /// When to look again if the pass could not begin.
    pub(crate) wait: Option<Duration>,
    /// What the plugin's author should know although the pass goes on.
    pub(crate) warnings: Vec<Refusal>,
    /// Whether it ended because nothing had changed.
    pub(crate) skipped: bool,
    /// All that it saw, if the same will always be answered in the same way.
    pub(crate) footing: Option<Fingerprint>,
    /// Whether nothing that the plugin answers is repeated: it may see Secrets.
    pub(crate) discreet: bool,
}

/// What the cache showed when the pass began.
pub(crate) struct Seen {
    pub(crate) serving: Serving,
    pub(crate) basis: Basis,
    pub(crate) kind: Kind,
    pub(crate) primary: Arc<Object>,
    pub(crate) children: Vec<Arc<Object>>,
}

/// What is to be done for a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Ask what should exist.
    Reconcile,
    /// Ask what is left to clean up.
    Finalize,
    /// Take our finalizer off: the plugin does not finalize any more.
    Release,
    /// Nothing: the API server collects the children.
    Leave,
}

impl Attempt {
    pub(crate) fn new(key: Key, number: u64, failures: u32) -> Self {
        Self {
            key,
            number,
            failures,
            claim: None,
            standby: false,
            subject: None,
            notices: Vec::new(),
            decided: None,
            at_least: None,
            at_most: None,
            wait: None,
            warnings: Vec::new(),
            skipped: false,
            footing: None,
            discreet: false,
        }
    }
}

impl Attempt {
    /// A refusal as it may be told.
    fn told(&self, refusal: Refusal) -> Refusal {
        if self.discreet { refusal.discreet() } else { refusal }
    }

    /// In which term it writes; none as a standby.
    pub(crate) fn term(&self) -> Option<Term> {
        self.claim.as_ref().map(|claim| claim.term)
    }
}

impl Seen {
    fn purpose(&self, key: &Key) -> Purpose {
        let meta = self.primary.meta();
        let finalizer = key.plugin.finalizer();
        let ours = meta.has_finalizer(&finalizer);
        match (meta.deleting, ours, self.serving.manifest.finalizes) {
            (false, _, _) => Purpose::Reconcile,
            (true, true, true) => Purpose::Finalize,
            (true, true, false) => Purpose::Release,
            (true, false, _) => Purpose::Leave,
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            primary: self.primary.clone(),
            children: self.children.clone(),
            settings: self.serving.settings.clone(),
        }
    }
}

impl<C: Cache, D: Decide, A: Apply, K: BootClock> Reconciler<C, D, A, K> {
    /// Runs one pass to its outcome.
    pub(crate) async fn attempt(&self, pass: &mut Attempt) -> Outcome {
        match self.steps(pass).await {
            Ok(outcome) | Err(outcome) => outcome,
        }
    }

    async fn steps(&self, pass: &mut Attempt) -> Result<Outcome, Outcome> {
        self.under_claim(pass)?;
        self.not_held(pass)?;
        if let Some(outcome) = self.left(pass).await? {
            return Ok(outcome);
        }
        let seen = self.look(pass)?;
        if let Some(hit) = self.remembered(pass, &seen) {
            pass.skipped = true;
            return Ok(Outcome::Converged { writes: 0, requeue_after: hit.requeue_after });
        }
        self.not_looping(pass, &seen)?;
        let verdict = match seen.purpose(&pass.key) {
            Purpose::Leave => return Err(self.gone(&pass.key)),
            Purpose::Release => Verdict::Finalized,
            Purpose::Finalize => self.ask(pass, &seen, true).await?,
            Purpose::Reconcile => {
                if let Some(plan) = self.with_inputs(pass, &seen, prepare) {
                    self.carry_out(pass, &seen, &plan).await?;
                    return Ok(Outcome::Waiting);
                }
                self.ask(pass, &seen, false).await?
            }
        };
        let pending = matches!(verdict, Verdict::Decision(_)) && seen.primary.meta().deleting;
        let plan = self.with_inputs(pass, &seen, |inputs| plan(inputs, verdict));
        let plan = plan.map_err(|error| unplanned(pass, &error))?;
        pass.warnings = plan.warnings().iter().map(|warning| pass.told(warning.clone())).collect();
        for warning in &pass.warnings {
            debug!(digest = seen.serving.digest.short(), "{warning}");
        }
        let writes = self.carry_out(pass, &seen, &plan).await?;
        if pass.standby && !plan.notices().is_empty() {
            // Whether the leader has said it, nobody here knows.
            return Ok(Outcome::Planned { steps: 0 });
        }
        if !pass.standby {
            pass.notices = self.traces().unsaid(&pass.key, plan.notices());
        }
        let requeue_after = plan.requeue_after().or(pending.then_some(FINALIZE_AGAIN));
        if writes == 0 {
            self.remember(pass, &seen, requeue_after);
        }
        Ok(Outcome::Converged { writes, requeue_after })
    }

    /// Captures the claim under which the pass writes, or that it writes nothing.
    fn under_claim(&self, pass: &mut Attempt) -> Result<(), Outcome> {
        match self.claim() {
            Ok(claim) => {
                self.traces().begin(claim.term);
                pass.claim = Some(claim);
            }
            Err(_) if self.config.standby_decides => pass.standby = true,
            Err(outcome) => return Err(outcome),
        }
        Ok(())
    }

    fn claim(&self) -> Result<Claim, Outcome> {
        let claim = self.ports.gate.claim(self.ports.clock.now());
        claim.ok_or_else(|| not_leading(NotLeading::NoClaim))
    }

    /// Whether the claim of this pass still stands. Only saves work: what decides
    /// is the permit that each write needs.
    fn still_leads(&self, claim: &Claim) -> Result<(), Outcome> {
        if self.claim()?.term == claim.term { Ok(()) } else { Err(not_leading(NotLeading::OtherTerm)) }
    }

    /// Whether the API server lets this plugin write. While it does not, its keys wait without being
    /// asked for: no decision could be carried out.
    fn not_held(&self, pass: &mut Attempt) -> Result<(), Outcome> {
        let held = self.ports.apply.held(&pass.key.plugin).filter(|_| !pass.standby);
        let Some(held) = held else { return Ok(()) };
        debug!(?held, "waiting: the API server asked this plugin to");
        pass.wait = Some(held);
        Err(Outcome::Waiting)
    }

    /// Finds the plugin, the primary and its children, all as new as our own writes.
    fn look(&self, pass: &mut Attempt) -> Result<Seen, Outcome> {
        let cache = &self.ports.cache;
        let serving = self.ports.decide.serving(&pass.key.plugin);
        let serving = serving.ok_or_else(|| self.gone(&pass.key))?;
        pass.discreet = serving.manifest.sees_secrets();
        // Before anything else: what changes from now on makes another one.
        let basis = Basis::of(&serving, |gvk| cache.era(gvk));
        let kind = cache.kind(&serving.manifest.primary).ok_or_else(|| self.gone(&pass.key))?;
        self.synced(pass, &[&kind.gvk])?;
        let object = primary_of(&pass.key, &kind.gvk);
        let primary = cache.object(&object).filter(|primary| serving.manifest.selects.selects(primary));
        let primary = primary.ok_or_else(|| self.gone(&pass.key))?;
        let uid = primary.meta().uid.clone();
        let plugin = Some(pass.key.plugin.clone());
        let target = EventTarget { object, uid, plugin, digest: Some(serving.digest.clone()) };
        pass.subject = Some((target, serving.digest.clone()));
        self.synced(pass, &others(&serving.manifest))?;
        self.caught_up(&pass.key)?;
        let children = cache.children(&pass.key);
        let uids = [&primary].into_iter().chain(&children).map(|object| &object.meta().uid);
        self.traces().begun(&pass.key, uids);
        Ok(Seen { serving, basis, kind, primary, children })
    }

    /// Waits until every one of these kinds has been listed, or is known not to be
    /// served. Before discovery has answered, absence from the cache proves nothing.
    pub(crate) fn synced(&self, pass: &mut Attempt, kinds: &[&Gvk]) -> Result<(), Outcome> {
        let cache = &self.ports.cache;
        let missing = kinds.iter().find(|gvk| !cache.is_synced(gvk));
        let Some(gvk) = missing else {
            return Ok(());
        };
        let waits = self.traces().waited(&pass.key);
        debug!(kind = %gvk, waits, "waiting for the first list of a kind");
        pass.wait = Some(UNSYNCED.pause(waits, 1.0));
        Err(Outcome::Waiting)
    }

    /// Waits until the cache shows our own writes for this key. After too long it is made to
    /// list their kinds anew: what the API server then says is what became of them.
    pub(crate) fn caught_up(&self, key: &Key) -> Result<(), Outcome> {
        let (cache, most) = (&self.ports.cache, self.config.unseen_most);
        let mut unseen = self.traces().take_unseen(key);
        unseen.retain(|(written, at)| {
            let kind = &written.object.gvk;
            if cache.caught_up(written) || cache.listed_since(kind, at.into_std()) {
                return false;
            }
            if at.elapsed() >= most && cache.relist(kind) {
                let object = written.object.to_string();
                warn!(object, after = ?most, "the cache does not show our own write; its kind is listed anew");
                self.ports.observer.relisted(kind);
            }
            true
        });
        let caught_up = unseen.is_empty();
        self.traces().put_unseen(key, unseen);
        if caught_up { Ok(()) } else { Err(Outcome::Waiting) }
    }

    /// Asks the plugin, and from now on watches what it read.
    async fn ask(&self, pass: &mut Attempt, seen: &Seen, finalize: bool) -> Result<Verdict, Outcome> {
        let (cache, most) = (&self.ports.cache, self.config.decide_most);
        let recorder = Arc::new(Recorder::new(
            cache.clone(),
            pass.key.clone(),
            seen.serving.manifest.clone(),
            &self.config.host_namespace,
        ));
        let call = Pass { key: pass.key.clone(), number: pass.number, finalize };
        let began = Instant::now();
        let answer = timeout(most, self.ports.decide.decide(call, seen.snapshot(), recorder.clone())).await;
        pass.decided = Some(began.elapsed());
        let answer = answer.map_err(|_| no_answer(most))?;
        if !self.still_serves(&pass.key, &seen.serving) {
            return Err(Outcome::Waiting);
        }
        if answer.is_ok() || (pass.failures + 1).is_multiple_of(UNION_MOST) {
            cache.watch_reads(&pass.key, recorder.reads());
        }
        match answer {
            Ok(Answer { verdict: Verdict::Finalized, .. }) if !finalize => Err(not_asked()),
            Ok(Answer { verdict, repeatable }) => {
                pass.footing = repeatable.then(|| seen.footing(&recorder)).flatten();
                Ok(verdict)
            }
            Err(error) => Err(self.not_decided(pass, error)),
        }
    }

    /// Whether what was seen when the pass began is what decides now. If it was swapped
    /// meanwhile, nobody knows which of the two has answered, and the plan would judge
    /// the answer of one by the manifest of the other.
    fn still_serves(&self, key: &Key, seen: &Serving) -> bool {
        let now = self.ports.decide.serving(&key.plugin);
        // A plugin that is gone has its own answer.
        now.is_none_or(|now| now.digest == seen.digest && now.settings == seen.settings)
    }

    /// Writes what the plan holds, and keeps in mind what was written. Without a claim a
    /// plan that holds anything ends the pass.
    pub(crate) async fn carry_out(
        &self,
        pass: &mut Attempt,
        seen: &Seen,
        plan: &Plan,
    ) -> Result<usize, Outcome> {
        let steps = plan.steps().len();
        if steps == 0 {
            return Ok(0);
        }
        let claim = &pass.claim.clone().ok_or(Outcome::Planned { steps })?;
        self.still_leads(claim)?;
        if let Some(wait) = self.ports.apply.status_held(plan) {
            pass.wait = Some(wait);
            return Err(Outcome::Waiting);
        }
        self.lives(pass, seen, plan).await?;
        self.traces().doubt(&pass.key, plan.steps().iter().filter_map(|step| applied_to(plan, step)));
        let applied = self.ports.apply.execute(plan, claim).await;
        let writes = applied.writes.len();
        debug!(writes, claim = %claim, "applied");
        let paused = self.wrote(seen, plan, &applied.writes);
        self.traces().wrote(&pass.key, claim.term, applied.writes, Instant::now());
        match applied.result {
            Ok(()) => paused.map_or(Ok(writes), |paused| Err(looping(pass, paused))),
            Err(error) if error.class == Class::Conflict && writes > 0 => {
                debug!(%error, "overtaken by another writer");
                Err(Outcome::Overtaken { writes })
            }
            Err(error) => Err(unapplied(pass, error)),
        }
    }

    /// Whether this key's objects are not written over and over. A standby writes nothing.
    fn not_looping(&self, pass: &mut Attempt, seen: &Seen) -> Result<(), Outcome> {
        let (now, cause) = (Instant::now().into_std(), Cause::new(&seen.serving, &seen.primary));
        let paused = self.traces().loops().paused(now, &pass.key, &cause).filter(|_| !pass.standby);
        let Some(paused) = paused else {
            return Ok(());
        };
        debug!(left = ?paused.left, "waiting: {}", paused.refusal);
        pass.wait = Some(paused.left);
        Err(Outcome::Waiting)
    }

    /// Counts what was written.
    fn wrote(&self, seen: &Seen, plan: &Plan, writes: &[Written]) -> Option<Paused> {
        let wrote = Wrote {
            cause: Cause::new(&seen.serving, &seen.primary),
            plan,
            writes,
            primary: &seen.primary,
            children: &seen.children,
        };
        self.traces().loops().wrote(Instant::now().into_std(), &wrote)
    }

    /// Calls one of plan's functions with all that they judge by.
    pub(crate) fn with_inputs<T>(&self, pass: &Attempt, seen: &Seen, f: impl FnOnce(&Inputs<'_>) -> T) -> T {
        let traces = self.traces();
        f(&Inputs {
            key: &pass.key,
            serving: &seen.serving,
            host_namespace: &self.config.host_namespace,
            policy: &self.config.policy,
            primary_kind: &seen.kind,
            primary: &seen.primary,
            children: &seen.children,
            kinds: &|gvk| self.ports.cache.kind(gvk),
            memory: traces.memory(&pass.key, pass.term()),
        })
    }

    pub(crate) fn gone(&self, key: &Key) -> Outcome {
        self.forget(key);
        Outcome::Gone
    }

    fn not_decided(&self, pass: &mut Attempt, error: CallError) -> Outcome {
        match error {
            CallError::NotServing(_) => self.gone(&pass.key),
            CallError::Resting(again) => {
                pass.wait = Some(again);
                Outcome::Waiting
            }
            // There was nobody to ask, which is the host's fault and mended by itself.
            CallError::Refused(refusal) if refusal.code == Code::WorkerMissing => {
                pass.at_most = Some(WORKER_MOST);
                failed(Class::Transient, Some(refusal.code), refusal.to_string())
            }
            CallError::Refused(refusal) => {
                failed(Class::Guest, Some(refusal.code), pass.told(refusal).to_string())
            }
            // These are the plugin's own words.
            CallError::Fault(Fault::Transient(text)) => failed(Class::Transient, None, text),
            CallError::Fault(Fault::Permanent(text)) => {
                let refusal = Refusal::new(Code::PluginError, text);
                failed(Class::Permanent, Some(refusal.code), refusal.to_string())
            }
        }
    }
}

/// The kinds beside the primary that have to be known before a plugin is asked.
pub(crate) fn others(manifest: &Manifest) -> Vec<&Gvk> {
    let children = manifest.children.iter().map(|child| &child.kind);
    children.chain(manifest.reads.iter().map(|read| &read.kind)).collect()
}

/// The uid of the existing object that a step applies a configuration to.
fn applied_to<'a>(plan: &'a Plan, step: &'a Step) -> Option<&'a Arc<str>> {
    match step {
        Step::Update { target, .. } => Some(&target.uid),
        Step::Status { .. } => Some(&plan.primary().uid),
        Step::Create { .. } | Step::Delete { .. } | Step::Orphan { .. } | Step::Finalizers { .. } => None,
    }
}

fn failed(class: Class, code: Option<Code>, message: String) -> Outcome {
    Outcome::Failed(Failure { class, code, message })
}

fn not_leading(why: NotLeading) -> Outcome {
    failed(Class::Fatal, None, why.to_string())
}

pub(crate) fn unplanned(pass: &mut Attempt, error: &PlanError) -> Outcome {
    pass.at_most = error.code().is_none().then_some(UNFOUNDED_MOST);
    let message = match error {
        PlanError::Refused(refusal) => pass.told(refusal.clone()).to_string(),
        PlanError::NoKind(_) | PlanError::Collecting(_) => error.to_string(),
    };
    failed(error.class(), error.code(), message)
}

pub(crate) fn unapplied(pass: &mut Attempt, error: ApplyError) -> Outcome {
    pass.at_least = error.retry_after.map(|pause| pause.min(RETRY_AFTER_MOST));
    pass.at_most = error.refusal.is_none().then_some(UNFOUNDED_MOST);
    let code = error.refusal.as_ref().map(|refusal| refusal.code);
    let message = error.refusal.map_or(error.message, |refusal| refusal.to_string());
    failed(error.class, code, message)
}

/// A change may be the cure, and is looked at during a long pause too.
fn looping(pass: &mut Attempt, paused: Paused) -> Outcome {
    pass.at_least = Some(paused.left.min(LOOPING_LEAST));
    failed(Class::Guest, Some(paused.refusal.code), paused.refusal.to_string())
}

fn no_answer(after: Duration) -> Outcome {
    failed(Class::Transient, None, format!("the plugin gave no answer within {after:?}"))
}

fn not_asked() -> Outcome {
    let text = "the plugin says that it has finalized an object that is not being deleted";
    failed(Class::Guest, Some(Code::BadAbiValue), Refusal::new(Code::BadAbiValue, text).to_string())
}

//! Plugins: loaded and ready to decide, wherever their code runs.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::{debug, error, info, warn};
use windlass_core::code::{Code, Refusal};
use windlass_core::decision::Verdict;
use windlass_core::guests::{Call, Called, Guests, Level, LoadId, Pending, Reading, Texts, Tier};
use windlass_core::limits::Limits;
use windlass_core::manifest::Manifest;
use windlass_core::name::Digest;
use windlass_core::ports::{Answer, CallError, Pass, Reader, Serving};
use windlass_core::sampling::{self, Remembered};
use windlass_core::snapshot::Snapshot;

use crate::artefacts::Kept;
use crate::counts::{Counts, Ended};

/// A component that has been checked, compiled and loaded, with what it said of itself. Shared
/// by all plugins with the same digest and limits; unloaded when the last one goes.
pub(crate) struct Loaded {
    pub(crate) id: LoadId,
    pub(crate) guests: Arc<dyn Guests>,
    pub(crate) limits: Limits,
    pub(crate) digest: Digest,
    /// Its artefact, held in its place for a process that has to load it again.
    pub(crate) kept: Kept,
    pub(crate) manifest: Arc<Manifest>,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.guests.unload(self.id);
    }
}

/// One version of one plugin with its settings, ready to decide. Decisions may
/// be asked for on any number of threads at once; each runs by itself.
pub struct Plugin {
    loaded: Arc<Loaded>,
    settings: Option<Arc<str>>,
    counts: Arc<Counts>,
    remark: Option<Box<str>>,
    is_suspect: AtomicBool,
}

/// A call that is under way, and that no thread waits for.
pub struct UnderWay {
    pending: Pending,
    begun: Instant,
    remembered: Option<Arc<Remembered>>,
}

/// A call that was answered and is to be asked once more.
pub struct Sample {
    first: Called,
    remembered: Arc<Remembered>,
}

/// A call and what is known of it.
#[derive(Debug)]
pub struct Asked {
    /// What came of it.
    pub called: Called,
    /// Wall time, the way to the process that runs it and back included.
    pub took: Duration,
}

impl Asked {
    /// What came of it for whoever asked. Whether a second call was answered differently is not known yet.
    ///
    /// # Errors
    /// As the call had it.
    pub fn answer(self) -> Result<Answer, CallError> {
        let repeatable = !self.called.read_clock;
        self.called.result.map(|verdict| Answer { verdict, repeatable })
    }
}

impl Plugin {
    pub(crate) fn new(loaded: Arc<Loaded>, settings: Option<Arc<str>>) -> Self {
        Self { loaded, settings, counts: Arc::default(), remark: None, is_suspect: AtomicBool::new(false) }
    }

    /// The same with something that people should know although it serves, one sentence.
    #[must_use]
    pub fn remarked(self, remark: Option<String>) -> Self {
        Self { remark: remark.map(Into::into), ..self }
    }

    /// What people should know of it.
    pub fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }

    /// Whether there is no reason to think that its next calls end in time: those that take long then wait
    /// for everybody else.
    pub fn suspect(&self, is_suspect: bool) {
        self.is_suspect.store(is_suspect, Ordering::Relaxed);
    }

    /// Goes on with the counters of the version that this one replaces.
    pub(crate) fn continue_counts(&mut self, of: &Plugin) {
        self.counts = Arc::clone(&of.counts);
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.loaded.manifest
    }

    /// Which component decides.
    pub fn digest(&self) -> &Digest {
        &self.loaded.digest
    }

    /// What each of its calls may use.
    pub fn limits(&self) -> &Limits {
        &self.loaded.limits
    }

    /// How it was compiled.
    pub fn tier(&self) -> Tier {
        self.loaded.kept.tier
    }

    /// Its settings as JSON text.
    pub fn settings(&self) -> Option<&Arc<str>> {
        self.settings.as_ref()
    }

    /// What it has cost so far, earlier versions included.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The plugin as the rest of the host sees it.
    pub fn serving(&self) -> Serving {
        Serving {
            manifest: Arc::clone(&self.loaded.manifest),
            digest: self.loaded.digest.clone(),
            load: self.loaded.id,
            settings: self.settings.clone(),
            children_max: self.loaded.limits.children,
        }
    }

    /// Asks `reconcile`, or `finalize` if `pass` says so, and publishes what the guest wrote.
    /// Blocks this thread for tens of microseconds as a rule and for a little more than twice
    /// [`Limits::cpu`] at most, so it belongs on a thread that may block.
    ///
    /// # Errors
    /// [`CallError::Fault`] is the plugin's own answer; [`CallError::Refused`] says
    /// which rule it broke (E201 to E212, E231). Nothing is left of the call either way.
    pub fn decide(
        &self,
        pass: &Pass,
        snapshot: &Snapshot,
        reader: Arc<dyn Reader>,
    ) -> Result<Verdict, CallError> {
        self.answer(pass, snapshot, reader).map(|answer| answer.verdict)
    }

    /// As [`decide`](Self::decide), and says whether the verdict is repeatable.
    ///
    /// # Errors
    /// As [`decide`](Self::decide).
    pub fn answer(
        &self,
        pass: &Pass,
        snapshot: &Snapshot,
        reader: Arc<dyn Reader>,
    ) -> Result<Answer, CallError> {
        let asked = self.ask_once(pass, snapshot, reader);
        publish(pass, &asked.called, self.loaded.limits.log_bytes, |_| true);
        asked.answer()
    }

    /// As [`answer`](Self::answer), with everything that is known of the call; publishes nothing, but tells
    /// `tell`. A sampled call is asked twice: the first answer is told as soon as it is there, and W310 given back
    /// when the second one differs.
    pub fn ask(
        &self,
        pass: &Pass,
        snapshot: &Snapshot,
        reader: Arc<dyn Reader>,
        sampled: bool,
        tell: impl FnOnce(Asked),
    ) -> Option<Refusal> {
        if !sampled || fits(snapshot, &self.loaded.limits).is_err() {
            tell(self.ask_once(pass, snapshot, reader));
            return None;
        }
        let (begun, key) = (Instant::now(), pass.key.primary());
        let call = self.call(pass, &key, snapshot);
        let tell = |called| tell(self.counted(called, begun));
        sampling::twice(&*self.loaded.guests, &call, Arc::new(Reading(reader)), tell)
    }

    /// As [`ask`](Self::ask) without a thread that blocks, where that can be done at once: if not, [`ask`](Self::ask) is for
    /// that. The call is under way when this comes back.
    pub fn begin(
        &self,
        pass: &Pass,
        snapshot: &Snapshot,
        reader: Arc<dyn Reader>,
        sampled: bool,
    ) -> Option<UnderWay> {
        fits(snapshot, &self.loaded.limits).ok()?;
        let begun = Instant::now();
        let key = pass.key.primary();
        let mut texts: Arc<dyn Texts> = Arc::new(Reading(reader));
        let remembered = sampled.then(|| Arc::new(Remembered::new(Arc::clone(&texts))));
        if let Some(remembered) = &remembered {
            texts = Arc::clone(remembered) as Arc<dyn Texts>;
        }
        let pending = self.loaded.guests.begin(&self.call(pass, &key, snapshot), &texts)?;
        Some(UnderWay { pending, begun, remembered })
    }

    /// Waits for a call of [`begin`](Self::begin): what came of it, and what is needed to ask once more if that is to be
    /// done. Nothing when it has to be asked anew.
    ///
    /// # Cancel safety
    /// A call that nobody waits for goes on to its own deadline.
    pub async fn ended(&self, begun: UnderWay) -> Option<(Asked, Option<Sample>)> {
        let UnderWay { pending, begun, remembered } = begun;
        let called = pending.await?;
        let remembered = remembered.filter(|remembered| sampling::is_worth_another(&called, remembered));
        let sample = remembered.map(|remembered| Sample { first: called.clone(), remembered });
        Some((self.counted(called, begun), sample))
    }

    /// Asks a sampled call the second time; W310 when the answer differs. Blocks for one call.
    pub fn second(&self, pass: &Pass, snapshot: &Snapshot, sample: &Sample) -> Option<Refusal> {
        let key = pass.key.primary();
        let call = self.call(pass, &key, snapshot);
        sampling::second(&*self.loaded.guests, &call, &sample.first, &sample.remembered)
    }

    fn ask_once(&self, pass: &Pass, snapshot: &Snapshot, reader: Arc<dyn Reader>) -> Asked {
        let begun = Instant::now();
        let called = match fits(snapshot, &self.loaded.limits) {
            Err(refusal) => Called::failed(CallError::Refused(refusal)),
            Ok(()) => {
                let key = pass.key.primary();
                self.loaded.guests.call(&self.call(pass, &key, snapshot), Arc::new(Reading(reader)))
            }
        };
        self.counted(called, begun)
    }

    fn counted(&self, called: Called, begun: Instant) -> Asked {
        let ended = match &called.result {
            Ok(_) => Ended::Decided,
            Err(CallError::Fault(_)) => Ended::Fault,
            Err(CallError::Refused(_) | CallError::NotServing(_) | CallError::Resting(_)) => Ended::Refused,
        };
        let took = begun.elapsed();
        self.counts.add(ended, took);
        Asked { called, took }
    }

    fn call<'a>(&self, pass: &Pass, key: &'a str, snapshot: &'a Snapshot) -> Call<'a> {
        Call {
            load: self.loaded.id,
            key: key.into(),
            pass: pass.number,
            finalize: pass.finalize,
            suspect: self.is_suspect.load(Ordering::Relaxed),
            seed: Cow::Borrowed(&snapshot.primary.meta().uid),
            // Before 1970 only on a machine without a clock: 0 is as good as any.
            now: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            primary: snapshot.primary.json(),
            children: snapshot.children.iter().map(|child| child.json()).collect(),
            settings: snapshot.settings.as_deref().map(Cow::Borrowed),
        }
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.loaded.manifest.name)
            .field("version", &self.loaded.manifest.version)
            .field("digest", &self.loaded.digest)
            .finish_non_exhaustive()
    }
}

/// A guest's lines as events of ours, with plugin, key and pass: those that `admit` lets through.
pub fn publish(pass: &Pass, called: &Called, limit: usize, mut admit: impl FnMut(usize) -> bool) {
    let (plugin, key, number) = (&pass.key.plugin, pass.key.primary(), pass.number);
    for line in &called.lines {
        if !admit(line.text.len()) {
            continue;
        }
        let text = &line.text;
        match line.level {
            Level::Debug => debug!(target: "windlass::guest", %plugin, key, pass = number, "{text}"),
            Level::Info => info!(target: "windlass::guest", %plugin, key, pass = number, "{text}"),
            Level::Warn => warn!(target: "windlass::guest", %plugin, key, pass = number, "{text}"),
            Level::Error => error!(target: "windlass::guest", %plugin, key, pass = number, "{text}"),
        }
    }
    if called.dropped_bytes > 0 {
        let (code, bytes) = (Code::LogDropped, called.dropped_bytes);
        warn!(
            target: "windlass::guest", %plugin, key, pass = number,
            "{code}: {bytes} bytes of output dropped, more than {limit} in one call"
        );
    }
}

/// # Errors
/// E212 when the snapshot is more than a plugin is handed.
fn fits(snapshot: &Snapshot, limits: &Limits) -> Result<(), Refusal> {
    let bytes = snapshot.bytes();
    if bytes <= limits.snapshot_bytes {
        return Ok(());
    }
    Err(Refusal::new(
        Code::InputTooLarge,
        format!(
            "the primary and its {} children are {} KiB, at most {} KiB",
            snapshot.children.len(),
            bytes / 1024,
            limits.snapshot_bytes / 1024
        ),
    ))
}

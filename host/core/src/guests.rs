//! Guests: the seam between whoever holds plugins and whatever runs their code.
//!
//! One implementation is a process without powers (crate `windlass-worker`), one is
//! this process (crate `windlass-plugin`; tests, ablation, and what the other process
//! runs inside). Only text and plain values cross: what comes back is a stranger's and
//! is judged again by whoever asked.

use std::borrow::Cow;
use std::future::Future;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::code::Refusal;
use crate::decision::Verdict;
use crate::key::ObjectRef;
use crate::limits::Limits;
use crate::manifest::Manifest;
use crate::name::{Digest, PluginName};
use crate::object::Object;
use crate::ports::{CallError, Reader};
use crate::reads::Query;

/// Names one loaded component for as long as it is loaded; never used twice by a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LoadId(pub u64);

/// What is to be loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// How calls name it.
    pub id: LoadId,
    /// Whose it is; appears in log lines.
    pub plugin: PluginName,
    /// The component that was compiled.
    pub digest: Digest,
    /// The compiled form: a file that only this host can have written.
    pub artefact: PathBuf,
    /// What each of its calls may use.
    pub limits: Limits,
}

/// One call into a loaded component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call<'a> {
    /// Which component.
    pub load: LoadId,
    /// `<namespace>/<name>` of the primary.
    #[serde(borrow)]
    pub key: Cow<'a, str>,
    /// Number of the pass; appears in log lines.
    pub pass: u64,
    /// Whether `finalize` is asked instead of `reconcile`.
    pub finalize: bool,
    /// Whether there is no reason to think that it ends in time: should it take long, it gets what no other
    /// work of the machine wants.
    pub suspect: bool,
    /// Seeds what the guest takes for random: the primary's uid.
    #[serde(borrow)]
    pub seed: Cow<'a, str>,
    /// What time the guest is told, since 1970; it stands still.
    pub now: Duration,
    /// The primary object as JSON.
    #[serde(borrow)]
    pub primary: Cow<'a, str>,
    /// Its children as JSON.
    #[serde(borrow)]
    pub children: Vec<Cow<'a, str>>,
    /// The plugin's settings as JSON.
    #[serde(borrow)]
    pub settings: Option<Cow<'a, str>>,
}

/// How much a line of a guest matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// For the author.
    Debug,
    /// Worth knowing; standard output.
    Info,
    /// Worth looking at; standard error.
    Warn,
    /// Something is wrong.
    Error,
}

/// One line that a guest wrote: printable, at most 4 KiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// How much it matters.
    pub level: Level,
    /// The text.
    pub text: String,
}

/// What a call has used, to be set against [`Limits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// CPU time of the call.
    pub cpu: Duration,
    /// Linear memory at its end, in bytes: it never shrinks.
    pub memory_bytes: u64,
    /// JSON of the decision, in bytes.
    pub decision_bytes: u64,
    /// Output, in bytes, also what was dropped.
    pub log_bytes: u64,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Called {
    /// What the guest answered, or why it did not.
    pub result: Result<Verdict, CallError>,
    /// Whether it asked what time it is: then the same inputs may give another verdict later.
    pub read_clock: bool,
    /// What it wrote, at most [`Limits::log_bytes`].
    pub lines: Vec<Line>,
    /// Bytes of output that were dropped.
    pub dropped_bytes: u64,
    /// What it used.
    pub used: Used,
}

impl Called {
    /// A call that never ran.
    pub fn failed(error: CallError) -> Self {
        Self {
            result: Err(error),
            read_clock: false,
            lines: Vec::new(),
            dropped_bytes: 0,
            used: Used::default(),
        }
    }
}

/// The JSON of one object, without a copy where the cache holds it.
#[derive(Clone, Debug)]
pub enum Text {
    /// The cache's own, of an object that is not packed.
    Held(Arc<Object>),
    /// Out of another process.
    Own(Box<str>),
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            // Made of no other: see `from`.
            Text::Held(object) => object.plain_json().unwrap_or_default(),
            Text::Own(text) => text,
        }
    }
}

impl From<Arc<Object>> for Text {
    fn from(object: Arc<Object>) -> Self {
        match object.json() {
            Cow::Owned(text) => Self::Own(text.into()),
            Cow::Borrowed(_) => Self::Held(object),
        }
    }
}

/// What a guest reads while it decides, as text. Restricted to its manifest.
pub trait Texts: Send + Sync {
    /// The JSON of one object.
    ///
    /// # Errors
    /// E231 when the manifest does not declare it: the call ends.
    fn get(&self, of: &ObjectRef) -> Result<Option<Text>, Refusal>;
    /// The JSON of all objects that match.
    ///
    /// # Errors
    /// E231 when the manifest does not declare it, E212 when it is too much: the call ends.
    fn list(&self, query: &Query) -> Result<Vec<Text>, Refusal>;
}

/// The cache's own answers as text.
pub struct Reading(pub Arc<dyn Reader>);

impl Texts for Reading {
    fn get(&self, of: &ObjectRef) -> Result<Option<Text>, Refusal> {
        Ok(self.0.get(of)?.map(Text::from))
    }

    fn list(&self, query: &Query) -> Result<Vec<Text>, Refusal> {
        Ok(self.0.list(query)?.into_iter().map(Text::from).collect())
    }
}

/// A call that is under way and that no thread waits for. Nothing when it has to be asked again with
/// [`Guests::call`]: whatever ran it has ended.
///
/// Dropping it does not end the call: that goes on to its own deadline.
pub type Pending = Pin<Box<dyn Future<Output = Option<Called>> + Send>>;

/// Runs the code of plugins. All methods but [`begin`](Self::begin) block: for a call until it has answered or
/// its limits have ended it, and a little longer.
pub trait Guests: Send + Sync + 'static {
    /// Makes a component ready and asks what it is.
    ///
    /// # Errors
    /// E113 when the artefact cannot be used, E160 and E161 when the plugin does not say
    /// what it is in time, E170 and E238 for what it says, E203 and E205 when the process that
    /// runs it fails.
    fn load(&self, load: &Load) -> Result<Manifest, Refusal>;
    /// Asks a loaded component.
    fn call(&self, call: &Call<'_>, texts: Arc<dyn Texts>) -> Called;
    /// Asks a loaded component without a thread that waits, and does not block. Nothing where that
    /// cannot be done at once; [`call`](Self::call) is for that. To be called, and what it gives back to be awaited,
    /// where the caller's other sockets are waited for too. `texts` is asked there, and must not wait.
    fn begin(&self, _call: &Call<'_>, _texts: &Arc<dyn Texts>) -> Option<Pending> {
        None
    }
    /// Forgets a component; calls under way end as they would have.
    fn unload(&self, id: LoadId);
}

/// How hard the compiler tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Optimised for speed.
    Optimised,
    /// Without optimisation and with single-pass register allocation: for what needs too
    /// much time or memory otherwise.
    Cheap,
}

/// Turns components into artefacts.
pub trait Compile: Send + Sync + 'static {
    /// Checks `component`, compiles it and writes the artefact to `into`, which does not exist
    /// yet. Blocks for up to a minute. Nothing is left at `into` on failure.
    ///
    /// # Errors
    /// E110 to E123 from the check; E150, E151 and E152 from the compiler.
    fn compile(&self, component: &[u8], limits: &Limits, into: &Path) -> Result<Tier, Refusal>;
}

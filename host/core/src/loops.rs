//! Write loops: two writers that disagree, or a decision that never settles, are found by
//! how often one object is written, named, and slowed down.
//!
//! # Guarantees
//! A key whose plugin writes one object more than [`Rules::writes`] times within
//! [`Rules::within`] is paused, each time for longer while it goes on. A changed primary,
//! plugin or setting ends the pause: it may be the cure.
//!
//! # Caveats
//! A status that follows its children is not counted while they change: a rollout with many
//! steps is no loop. Time is an argument; nothing here waits.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::code::{Code, Refusal};
use crate::equal::first_uncovered;
use crate::key::{Key, ObjectRef};
use crate::kind::Gvk;
use crate::name::ANNOTATION_APPLIED;
use crate::object::Object;
use crate::plan::{Plan, Step};
use crate::ports::{Serving, Written};

/// When writes are a loop, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Writes to one object that are still no loop. Default 30.
    pub writes: usize,
    /// Within how long. Default one minute.
    pub within: Duration,
    /// The first pause; each further one is twice as long. Default one minute.
    pub first_pause: Duration,
    /// The longest pause. Default one hour.
    pub longest_pause: Duration,
    /// How long after a pause the next loop is the first one again. Default ten minutes.
    pub calm: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            writes: 30,
            within: Duration::from_secs(60),
            first_pause: Duration::from_secs(60),
            longest_pause: Duration::from_secs(3600),
            calm: Duration::from_secs(600),
        }
    }
}

/// A key that may not be worked on yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paused {
    /// E250: which object, which fields. The same text for as long as the pause lasts.
    pub refusal: Refusal,
    /// For how long still.
    pub left: Duration,
}

/// What was judged and written in one pass.
pub struct Wrote<'a> {
    /// What decided it.
    pub cause: Cause,
    /// What was to be written.
    pub plan: &'a Plan,
    /// What the server accepted of it.
    pub writes: &'a [Written],
    /// The primary as it was judged.
    pub primary: &'a Object,
    /// The children as they were judged.
    pub children: &'a [Arc<Object>],
}

/// What a person changes to mend a plugin or an object. Another cause is another start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    digest: crate::name::Digest,
    settings: Option<Arc<str>>,
    uid: Arc<str>,
    generation: i64,
    deleting: bool,
}

impl Cause {
    /// What decides for `primary` now.
    pub fn new(serving: &Serving, primary: &Object) -> Self {
        let meta = primary.meta();
        Self {
            digest: serving.digest.clone(),
            settings: serving.settings.clone(),
            uid: meta.uid.clone(),
            generation: meta.generation,
            deleting: meta.deleting,
        }
    }
}

/// Counts writes. One entry a key that wrote within the last minute or is paused, with one a
/// place that it wrote to.
#[derive(Debug, Default)]
pub struct Loops {
    rules: Rules,
    keys: HashMap<Key, Watched>,
    swept: Option<Instant>,
}

/// What is written over and over: an object, or objects of a kind under ever new names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Place {
    Object(ObjectRef),
    Made(Gvk),
}

#[derive(Debug)]
struct Watched {
    cause: Cause,
    places: HashMap<Place, Writes>,
    /// Versions of the children when the status was written last.
    followed: Vec<Arc<str>>,
    pauses: u32,
    paused: Option<(Instant, Refusal)>,
}

#[derive(Debug, Default)]
struct Writes {
    at: VecDeque<Instant>,
    /// Fields that differed, at most [`FIELDS_MAX`].
    fields: BTreeSet<String>,
}

/// Fields that a message names.
const FIELDS_MAX: usize = 4;

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Object(object) => write!(f, "{object} was written"),
            Place::Made(kind) => write!(f, "objects of {kind} were made or removed"),
        }
    }
}

impl Loops {
    /// Nothing counted yet.
    pub fn new(rules: Rules) -> Self {
        Self { rules, keys: HashMap::new(), swept: None }
    }

    /// Whether the key is paused, and not by another cause than `cause`.
    pub fn paused(&mut self, now: Instant, key: &Key, cause: &Cause) -> Option<Paused> {
        let watched = self.keys.get(key)?;
        if watched.cause != *cause {
            self.keys.remove(key);
            return None;
        }
        let (until, refusal) = watched.paused.as_ref()?;
        let left = until.saturating_duration_since(now);
        (!left.is_zero()).then(|| Paused { refusal: refusal.clone(), left })
    }

    /// Counts what a pass wrote. Answers with the pause if that was too often.
    pub fn wrote(&mut self, now: Instant, wrote: &Wrote<'_>) -> Option<Paused> {
        self.sweep(now);
        if wrote.writes.is_empty() {
            return None;
        }
        let key = wrote.plan.key();
        let watched = self.keys.entry(key.clone()).or_insert_with(|| Watched::new(&wrote.cause));
        if watched.cause != wrote.cause {
            *watched = Watched::new(&wrote.cause);
        }
        let mut worst = None;
        for place in watched.places(wrote) {
            let writes = watched.places.entry(place.clone()).or_default();
            writes.at.retain(|at| now.saturating_duration_since(*at) < self.rules.within);
            writes.at.push_back(now);
            if let Place::Object(object) = &place
                && writes.at.len() * 2 > self.rules.writes
                && writes.fields.len() < FIELDS_MAX
            {
                writes.fields.extend(differs(wrote, object));
            }
            if writes.at.len() > self.rules.writes && worst.is_none() {
                worst = Some((message(&place, writes, self.rules.within), place));
            }
        }
        let (message, _) = worst?;
        Some(watched.pause(now, &self.rules, &message))
    }

    /// The key's primary or plugin is gone, and so is what was counted for it.
    pub fn forget(&mut self, key: &Key) {
        self.keys.remove(key);
    }

    /// Keys that something is counted for.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether nothing is counted.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Forgets what is too long ago to count, once in a while.
    fn sweep(&mut self, now: Instant) {
        let Rules { within, calm, .. } = self.rules;
        if self.swept.is_some_and(|swept| now.saturating_duration_since(swept) < within) {
            return;
        }
        self.swept = Some(now);
        let recent = |at: &Instant| now.saturating_duration_since(*at) < within;
        self.keys.retain(|_, watched| {
            watched.places.retain(|_, writes| writes.at.back().is_some_and(recent));
            let paused = watched.paused.as_ref();
            !watched.places.is_empty()
                || paused.is_some_and(|(until, _)| now.saturating_duration_since(*until) < calm)
        });
    }
}

impl Watched {
    fn new(cause: &Cause) -> Self {
        Self { cause: cause.clone(), places: HashMap::new(), followed: Vec::new(), pauses: 0, paused: None }
    }

    /// The places that a pass wrote to, each once.
    fn places(&mut self, wrote: &Wrote<'_>) -> BTreeSet<Place> {
        let accepted = |object: &ObjectRef| wrote.writes.iter().any(|w| w.object == *object);
        let mut places = BTreeSet::new();
        for step in wrote.plan.steps() {
            let (object, made) = match step {
                Step::Create { object, .. } => (object, true),
                Step::Delete { target } => (&target.object, true),
                Step::Update { target, .. } | Step::Orphan { target, .. } => (&target.object, false),
                Step::Status { .. } => (&wrote.plan.primary().object, false),
                Step::Finalizers { .. } => continue,
            };
            let follows = matches!(step, Step::Status { .. }) && self.follows(wrote.children);
            if follows || !accepted(object) {
                continue;
            }
            places.insert(Place::Object(object.clone()));
            if made {
                places.insert(Place::Made(object.gvk.clone()));
            }
        }
        places
    }

    /// Whether the children have changed since the status was written last.
    fn follows(&mut self, children: &[Arc<Object>]) -> bool {
        let versions: Vec<_> = children.iter().map(|child| child.meta().resource_version.clone()).collect();
        let before = std::mem::replace(&mut self.followed, versions);
        before != self.followed
    }

    fn pause(&mut self, now: Instant, rules: &Rules, message: &str) -> Paused {
        let calm = |(until, _): &(Instant, Refusal)| now.saturating_duration_since(*until) >= rules.calm;
        if self.paused.as_ref().is_none_or(calm) {
            self.pauses = 0;
        }
        let doublings = self.pauses.min(31);
        let left = rules.first_pause.saturating_mul(1 << doublings).min(rules.longest_pause);
        self.pauses += 1;
        self.places.clear();
        let refusal = Refusal::new(Code::WriteLoop, format!("{message}; paused for {} s", left.as_secs()));
        self.paused = Some((now + left, refusal.clone()));
        Paused { refusal, left }
    }
}

fn message(place: &Place, writes: &Writes, within: Duration) -> String {
    let (times, within) = (writes.at.len(), within.as_secs());
    let fields: Vec<_> = writes.fields.iter().map(String::as_str).collect();
    let what = if fields.is_empty() {
        String::new()
    } else {
        format!(", {} differing each time", fields.join(", "))
    };
    format!(
        "{place} {times} times within {within} s{what}: another writer disagrees, or the decision never settles"
    )
}

/// The field in which what was wanted differs from what was there.
fn differs(wrote: &Wrote<'_>, object: &ObjectRef) -> Option<String> {
    wrote.plan.steps().iter().find_map(|step| match step {
        Step::Update { target, body, .. } if target.object == *object => {
            let seen = wrote.children.iter().find(|child| child.meta().uid == target.uid)?;
            let mut wanted = body.clone();
            if let Some(annotations) = wanted["metadata"]["annotations"].as_object_mut() {
                annotations.remove(ANNOTATION_APPLIED);
            }
            first_uncovered(&wanted, &seen.value())
        }
        Step::Status { body, .. } if wrote.plan.primary().object == *object => {
            let at = first_uncovered(&body["status"], &wrote.primary.value()["status"]);
            // Nothing is missing from it: then something is in it that is not wanted.
            Some(format!("/status{}", at.unwrap_or_default()))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests;

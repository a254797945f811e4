//! Which request made which revision. This is where a hole in the records shows.
//!
//! A revision has one cause. An answer names the revision that its object then had, which is that of an earlier write when the
//! request changed nothing; a deletion's answer names none; and an answer may be lost. So each revision has candidates, the
//! likeliest unused one is its cause, and lost requests fill in only what nobody else explains.

use std::collections::{HashMap, HashSet};

use super::history::{Change, Effect, History, Object, Request, Verb};
use super::terms::answered_us;
use super::verdict::{Hole, Verdict};

/// How a revision came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// By the request with this index, which was answered.
    Answered(usize),
    /// By the request with this index, whose answer was lost: nobody else explains it.
    Lost(usize),
    /// By a deletion of the whole collection, or of the namespace.
    Collection,
    /// By the end of the object's time in etcd.
    Expiry,
    /// Nobody knows.
    Unknown,
}

impl Cause {
    pub(crate) fn request(self) -> Option<usize> {
        match self {
            Self::Answered(index) | Self::Lost(index) => Some(index),
            Self::Collection | Self::Expiry | Self::Unknown => None,
        }
    }
}

/// Finds the causes of all changes; what has none, and what was answered but never committed, is a hole of the verdict.
///
/// `requests` are by rising time of arrival.
pub(crate) fn causes(history: &History, requests: &[&Request], verdict: &mut Verdict) -> Vec<Cause> {
    let index = Index::new(&history.changes);
    let mut causes = Causes {
        candidates: index.candidates(history, requests, verdict),
        before: index.before(),
        found: vec![Cause::Unknown; history.changes.len()],
        used: HashMap::new(),
        requests,
        changes: &history.changes,
    };
    causes.settle_answered();
    causes.settle_lost(verdict);
    for (change, cause) in history.changes.iter().zip(&mut causes.found) {
        if *cause != Cause::Unknown {
            continue;
        }
        let expires = history.kinds.iter().any(|kind| kind.follows(&change.object) && kind.expires());
        if expires && change.effect == Effect::Deleted {
            *cause = Cause::Expiry;
            continue;
        }
        let detail = format!(
            "no request on record {} it",
            match change.effect {
                Effect::Created => "created",
                Effect::Updated => "updated",
                Effect::Deleted => "deleted",
            }
        );
        verdict.miss(Hole { revision: change.revision, object: change.object.to_string(), detail });
    }
    causes.found
}

/// The changes by object, and which of them belong to one life of an object.
struct Index<'a> {
    changes: &'a [Change],
    by_object: HashMap<&'a Object, Vec<usize>>,
    /// For each change, the first change of the same life.
    life: Vec<usize>,
}

impl<'a> Index<'a> {
    fn new(changes: &'a [Change]) -> Self {
        let mut by_object: HashMap<&Object, Vec<usize>> = HashMap::new();
        let mut life = Vec::with_capacity(changes.len());
        for (at, change) in changes.iter().enumerate() {
            let earlier = by_object.entry(&change.object).or_default();
            life.push(match earlier.last() {
                Some(last) if change.effect != Effect::Created => life[*last],
                _ => at,
            });
            earlier.push(at);
        }
        Self { changes, by_object, life }
    }

    /// For each change, the revision that its object had until then, where that is on record.
    fn before(&self) -> Vec<Option<u64>> {
        let mut before = vec![None; self.changes.len()];
        for own in self.by_object.values() {
            for pair in own.windows(2) {
                before[pair[1]] = Some(self.changes[pair[0]].revision);
            }
        }
        before
    }

    fn at(&self, object: &Object, revision: u64) -> Option<usize> {
        let own = self.by_object.get(object)?;
        let at = own.binary_search_by_key(&revision, |at| self.changes[*at].revision).ok()?;
        Some(own[at])
    }

    /// The change after the one at this revision, if it is a deletion.
    fn deletion_after(&self, object: &Object, revision: u64) -> Option<usize> {
        let own = self.by_object.get(object)?;
        let next = *own.get(own.partition_point(|at| self.changes[*at].revision <= revision))?;
        (self.changes[next].effect == Effect::Deleted).then_some(next)
    }

    /// For each change, the answered requests that may have made it.
    fn candidates(&self, history: &History, requests: &[&Request], verdict: &mut Verdict) -> Vec<Vec<usize>> {
        let mut candidates = vec![Vec::new(); self.changes.len()];
        let uids = self.uids(requests);
        for (number, request) in requests.iter().enumerate() {
            let Some(answer) = request.succeeded() else { continue };
            let Some(revision) = answer.revision.filter(|_| request.verb != Verb::DeleteCollection) else {
                if request.verb == Verb::Delete {
                    for at in self.deletions(request, &uids) {
                        candidates[at].push(number);
                    }
                }
                continue;
            };
            let change = self.at(&request.object, revision);
            // What had to have this revision before cannot have made it.
            if let Some(at) = change.filter(|_| request.precondition != Some(revision)) {
                candidates[at].push(number);
            }
            let deletion = self.deletion_after(&request.object, revision).filter(|_| answer.deleting);
            if let Some(at) = deletion {
                candidates[at].push(number);
            }
            let followed = || history.kinds.iter().any(|kind| kind.follows(&request.object));
            if change.is_none() && (history.first..=history.last).contains(&revision) && followed() {
                let detail =
                    format!("answered with this revision, which etcd does not know ({})", request.audit_id);
                verdict.miss(Hole { revision, object: request.object.to_string(), detail });
            }
        }
        candidates
    }

    /// The deletions that a request which was answered without a revision may have made.
    fn deletions(&self, request: &Request, uids: &HashMap<usize, &str>) -> Vec<usize> {
        let uid = request.answer.as_ref().and_then(|answer| answer.uid.as_deref());
        let own = self.by_object.get(&request.object).into_iter().flatten().copied();
        own.filter(|at| self.changes[*at].effect == Effect::Deleted)
            .filter(|at| match (uid, uids.get(&self.life[*at])) {
                (Some(asked), Some(known)) => asked == *known,
                _ => true,
            })
            .collect()
    }

    /// The uid of each life, from the answers to its writes.
    fn uids<'r>(&self, requests: &[&'r Request]) -> HashMap<usize, &'r str> {
        let known = requests.iter().filter_map(|request| {
            let answer = request.succeeded()?;
            let at = self.at(&request.object, answer.revision?)?;
            Some((self.life[at], answer.uid.as_deref()?))
        });
        known.collect()
    }
}

struct Causes<'a> {
    candidates: Vec<Vec<usize>>,
    before: Vec<Option<u64>>,
    found: Vec<Cause>,
    used: HashMap<usize, u32>,
    requests: &'a [&'a Request],
    changes: &'a [Change],
}

impl Causes<'_> {
    /// By rising revision, the likeliest request that explains nothing else yet.
    fn settle_answered(&mut self) {
        let mut counted: HashMap<usize, u32> = HashMap::new();
        for number in self.candidates.iter().flatten() {
            *counted.entry(*number).or_default() += 1;
        }
        for at in 0..self.changes.len() {
            let effect = self.changes[at].effect;
            let free = self.candidates[at].iter().filter(|number| !self.used.contains_key(number));
            let best = free.min_by_key(|number| {
                let request = self.requests[**number];
                let created = request.answer.as_ref().is_some_and(|answer| answer.code == 201);
                // Who explains nothing else comes first; then who says that it created; then who came first.
                (counted[*number], effect == Effect::Created && !created, **number)
            });
            if let Some(number) = best.copied() {
                self.used.insert(number, 1);
                self.found[at] = Cause::Answered(number);
            }
        }
    }

    /// What is left, by requests whose answers were lost and by deletions of collections.
    fn settle_lost(&mut self, verdict: &mut Verdict) {
        let known: HashSet<&str> =
            self.changes.iter().map(|change| change.object.resource.as_str()).collect();
        let mut lost: HashMap<(&str, &str), Vec<usize>> = HashMap::new();
        for (number, request) in self.requests.iter().enumerate() {
            let collection = request.verb == Verb::DeleteCollection && request.succeeded().is_some();
            if (collection || request.is_lost()) && known.contains(request.object.resource.as_str()) {
                let place = (request.object.resource.as_str(), request.object.namespace.as_str());
                lost.entry(place).or_default().push(number);
            }
        }
        if lost.is_empty() {
            return;
        }
        let windows = self.windows();
        for (at, window) in windows.into_iter().enumerate() {
            if self.found[at] != Cause::Unknown {
                continue;
            }
            let object = &self.changes[at].object;
            let here = lost.get(&(object.resource.as_str(), object.namespace.as_str()));
            let everywhere =
                lost.get(&(object.resource.as_str(), "")).filter(|_| !object.namespace.is_empty());
            let numbers = here.into_iter().chain(everywhere).flatten().copied();
            let mut fitting: Vec<_> =
                numbers.filter(|number| self.may_have_made(*number, at, window)).collect();
            // A request for the object itself explains more than one for the whole collection, and one that was being worked on
            // then more than one that had been given up.
            let rank = |number: &usize| {
                let request = self.requests[*number];
                (request.verb == Verb::DeleteCollection, answered_us(request) < window.0)
            };
            fitting.sort_by_key(|number| (rank(number), *number));
            let Some(number) = fitting.first().copied() else { continue };
            let claim = &self.requests[number].claim;
            let equal = fitting.iter().filter(|other| rank(other) == rank(&number));
            if equal.clone().any(|other| self.requests[*other].claim != *claim) {
                let ids: Vec<_> = equal.map(|other| self.requests[*other].audit_id.as_str()).collect();
                let detail = format!("any of these made it, and none was answered: {}", ids.join(", "));
                let change = &self.changes[at];
                verdict.miss(Hole { revision: change.revision, object: change.object.to_string(), detail });
            }
            let collection = self.requests[number].verb == Verb::DeleteCollection;
            self.found[at] = if collection { Cause::Collection } else { Cause::Lost(number) };
            *self.used.entry(number).or_default() += 1;
        }
    }

    fn may_have_made(&self, number: usize, at: usize, window: (i64, i64)) -> bool {
        let (request, change) = (self.requests[number], &self.changes[at]);
        let (named, used) = (!request.object.name.is_empty(), self.used.get(&number).copied().unwrap_or(0));
        let fits = match request.verb {
            Verb::Create => change.effect == Effect::Created && used == 0,
            Verb::Update => named && change.effect != Effect::Created && used == 0,
            Verb::Patch => named && used == 0,
            // It may mark the object first, and remove it then.
            Verb::Delete => named && change.effect != Effect::Created && used < 2,
            Verb::DeleteCollection => change.effect != Effect::Created,
        };
        let about = !named || request.verb == Verb::DeleteCollection || request.object == change.object;
        fits && about && self.had_its_version(request, at) && request.received_us <= window.1
    }

    /// Whether the object had the version that the request demanded. Server-side apply demands version 1 of what must not be there.
    fn had_its_version(&self, request: &Request, at: usize) -> bool {
        let Some(demanded) = request.precondition else { return true };
        if self.changes[at].effect == Effect::Created {
            return demanded <= 1;
        }
        // A deletion marks first, and removes a version that nobody demanded.
        request.verb == Verb::Delete || self.before[at].is_none_or(|before| before == demanded)
    }

    /// For each change, between which instants it was committed: after the arrival of what made earlier revisions, before the
    /// answer to any later one.
    fn windows(&self) -> Vec<(i64, i64)> {
        let mut earliest = i64::MIN;
        let answered = |at: usize| match self.found[at] {
            Cause::Answered(number) => Some(self.requests[number]),
            _ => None,
        };
        let lower: Vec<i64> = (0..self.changes.len())
            .map(|at| {
                let bound = earliest;
                earliest = answered(at).map_or(earliest, |request| earliest.max(request.received_us));
                bound
            })
            .collect();
        lower.into_iter().zip(self.latest()).collect()
    }

    /// For each change, an instant at which it had been committed: before the answer to any later revision.
    fn latest(&self) -> Vec<i64> {
        let mut latest = vec![i64::MAX; self.changes.len()];
        let mut bound = i64::MAX;
        for at in (0..self.changes.len()).rev() {
            latest[at] = bound;
            if let Cause::Answered(number) = self.found[at] {
                bound =
                    bound.min(self.requests[number].answer.as_ref().map_or(i64::MAX, |answer| answer.at_us));
            }
        }
        latest
    }
}

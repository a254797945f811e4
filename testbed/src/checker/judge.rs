//! The judgement: each committed write of a replica, held against the terms that had begun by its revision.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::cause::{Cause, causes};
use super::history::{Effect, History, Object, Request};
use super::read::plugin_prefix;
use super::terms::{answered_us, terms};
use super::verdict::{Breach, Hole, Term, Verdict, Violation, pod};

/// Name of the claim Role, in the host's namespace.
pub(crate) const CLAIM_ROLE: &str = "windlass-claim";
/// Name of the Lease, in the host's namespace.
pub(crate) const LEASE: &str = "windlass";

/// How long a request may go on after its timeout. Unit: microseconds.
const OVERDUE_US: i64 = 1_000_000;

/// What is allowed.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The host's namespace.
    pub host_namespace: String,
    /// How many API servers there are. Several switch to a new claim one after the other.
    pub servers: usize,
    /// Which pod sent with which credential, where that is known: see [`Request::sender`].
    pub pods: BTreeMap<String, String>,
    /// How long after the new Role a write of the old claim may still arrive and be accepted. Default 100 ms.
    pub tail: Duration,
    /// How long a create in flight may stay that a newer term did not want. Default 30 s.
    pub gone: Duration,
}

impl Rules {
    /// The rules for a host in this namespace, on one API server.
    pub fn new(host_namespace: &str) -> Self {
        Self {
            host_namespace: host_namespace.to_owned(),
            servers: 1,
            pods: BTreeMap::new(),
            tail: Duration::from_millis(100),
            gone: Duration::from_secs(30),
        }
    }

    /// The same on several API servers.
    #[must_use]
    pub fn servers(mut self, servers: usize) -> Self {
        self.servers = servers;
        self
    }

    /// The same with one more credential whose pod is known.
    #[must_use]
    pub fn pod(mut self, sender: &str, pod: &str) -> Self {
        self.pods.insert(sender.to_owned(), pod.to_owned());
        self
    }
}

/// Judges a history. The same records give the same verdict, in whatever order the requests stand.
pub fn check(history: &History, rules: &Rules) -> Verdict {
    let mut requests: Vec<&Request> = history.requests.iter().collect();
    requests.sort_by(|a, b| (a.received_us, &a.audit_id).cmp(&(b.received_us, &b.audit_id)));
    let mut verdict = Verdict { histories: 1, revisions: history.changes.len() as u64, ..Verdict::default() };
    let causes = causes(history, &requests, &mut verdict);
    verdict.lost = causes.iter().filter(|cause| matches!(cause, Cause::Lost(_))).count() as u64;

    let of = |resource: &str, verdict: &mut Verdict| {
        terms(resource, &history.changes, &causes, &requests, verdict)
    };
    let roles = of("roles.rbac.authorization.k8s.io", &mut verdict);
    let leases = of("leases.coordination.k8s.io", &mut verdict);
    let mut judge = Judge {
        rules,
        history,
        requests: &requests,
        causes: &causes,
        plugins: plugin_prefix(&rules.host_namespace),
        terms: if roles.is_empty() { leases.clone() } else { roles },
        verdict,
    };
    judge.requests();
    let writes = judge.writes();
    judge.first_writes(&writes);
    judge.judge(&writes);
    let Judge { mut verdict, terms, .. } = judge;
    verdict.terms = terms.len() as u64;
    verdict.writes = writes.len() as u64;
    (verdict.term_list, verdict.lease_terms) = (terms, leases);
    verdict.decide();
    verdict
}

/// A committed write of a replica.
struct Write<'a> {
    request: &'a Request,
    object: &'a Object,
    revision: u64,
    effect: Effect,
    /// Where in the history it is.
    at: usize,
    /// The term that its claim names, if that had begun.
    term: Option<usize>,
}

struct Judge<'a> {
    rules: &'a Rules,
    history: &'a History,
    requests: &'a [&'a Request],
    causes: &'a [Cause],
    plugins: String,
    terms: Vec<Term>,
    verdict: Verdict,
}

impl<'a> Judge<'a> {
    /// What can be said of requests without their revisions.
    fn requests(&mut self) {
        for request in self.requests.iter().filter(|request| request.account.starts_with(&self.plugins)) {
            if request.answer.as_ref().is_some_and(|answer| answer.code == 403) {
                self.verdict.refused += 1;
            }
            let followed = self.history.kinds.iter().any(|kind| kind.follows(&request.object));
            if !followed && request.succeeded().is_some() {
                let detail = format!("a plugin writes a kind that is not followed ({})", request.audit_id);
                self.verdict.miss(Hole { revision: 0, object: request.object.to_string(), detail });
            }
        }
    }

    fn writes(&self) -> Vec<Write<'a>> {
        let by_claim: HashMap<&str, Vec<usize>> =
            self.terms.iter().enumerate().fold(HashMap::new(), |mut map, (at, term)| {
                map.entry(term.claim.as_str()).or_insert_with(Vec::new).push(at);
                map
            });
        let all = self.history.changes.iter().zip(self.causes).enumerate();
        all.filter_map(|(at, (change, cause))| {
            let request = self.requests[cause.request()?];
            let begun = |at: &&usize| self.terms[**at].revision <= change.revision;
            let term = request.claim.as_deref().and_then(|claim| by_claim.get(claim));
            request.account.starts_with(&self.plugins).then(|| Write {
                request,
                object: &change.object,
                revision: change.revision,
                effect: change.effect,
                at,
                term: term.and_then(|terms| terms.iter().rev().find(begun)).copied(),
            })
        })
        .collect()
    }

    fn first_writes(&mut self, writes: &[Write<'_>]) {
        for write in writes {
            let Some(term) = write.term.and_then(|term| self.terms.get_mut(term)) else { continue };
            term.writes += 1;
            term.first_write.get_or_insert(write.revision);
            // Of a lost answer it is not known when it was given; the next one's is.
            if let Some(answer) = &write.request.answer {
                term.first_answered_us.get_or_insert(answer.at_us);
            }
        }
    }

    fn judge(&mut self, writes: &[Write<'_>]) {
        // Which term was the newest to write each object so far.
        let mut touched: HashMap<&Object, usize> = HashMap::new();
        for (number, write) in writes.iter().enumerate() {
            self.labels(write);
            let Some(term) = write.term else { continue };
            let newest = self.terms.partition_point(|term| term.revision <= write.revision) - 1;
            if term < newest {
                let late = self.outdated(write, term, newest);
                if touched.get(write.object).is_some_and(|toucher| *toucher > term) {
                    self.interleaved(write, &writes[number + 1..], term, late);
                }
            }
            let toucher = touched.entry(write.object).or_insert(term);
            *toucher = term.max(*toucher);
        }
    }

    fn labels(&mut self, write: &Write<'_>) {
        let name = write.request.account.strip_prefix(&self.plugins).unwrap_or_default();
        let said = write.request.plugin.as_deref().unwrap_or_default();
        let (plugin, digest) = said.split_once('@').unwrap_or((said, ""));
        if plugin != name || digest.is_empty() {
            self.violate(
                Breach::Unexplained,
                write,
                format!("the plugin is on record as {:?}", write.request.plugin),
            );
        }
        let Some(term) = write.term else {
            return self.violate(Breach::Mislabelled, write, "no such term had begun".to_owned());
        };
        let holder = self.terms[term].holder().to_owned();
        if let Some(sender) =
            self.rules.pods.get(&write.request.sender).filter(|sender| **sender != pod(&holder))
        {
            let detail = format!("it was sent by {sender}");
            return self.violate(Breach::Mislabelled, write, detail);
        }
        let known = |later: &&Term| {
            later.holder() == holder
                && later.revision <= write.revision
                && later.answered_us < write.request.received_us
        };
        if let Some(later) = self.terms[term + 1..].iter().find(known) {
            let detail = format!("its holder knew of {}", later.claim);
            self.violate(Breach::Mislabelled, write, detail);
        }
    }

    /// Judges a write whose term was not the newest. Gives back whether it came late.
    fn outdated(&mut self, write: &Write<'_>, term: usize, newest: usize) -> bool {
        let (received, ended) = (write.request.received_us, answered_us(write.request));
        // By the terms that had written something already: which knew their first write answered when this one arrived?
        let written = |term: &&Term| term.first_write.is_some_and(|first| first < write.revision);
        let later = &self.terms[term + 1..=newest];
        let answered = |term: &Term| term.first_answered_us.unwrap_or(i64::MAX);
        let after_role = received - later[0].answered_us;
        let late = later.iter().filter(written).any(|term| received >= answered(term));
        let flight = later.iter().filter(written).map(answered).min();

        if late {
            self.verdict.worst_late_ms = self.verdict.worst_late_ms.max(millis(after_role));
            if self.rules.servers > 1 && after_role <= micros(self.rules.tail) {
                self.verdict.late_excused += 1;
            } else {
                let detail = format!("it arrived {} ms after the next Role", millis(after_role));
                self.violate(Breach::Late, write, detail);
            }
            return true;
        }
        if let Some(first) = flight {
            self.verdict.in_flight += 1;
            let after = millis(ended.saturating_sub(first));
            self.verdict.worst_in_flight_ms = self.verdict.worst_in_flight_ms.max(after);
        } else {
            self.verdict.tail += 1;
            self.verdict.worst_tail_ms = self.verdict.worst_tail_ms.max(millis(after_role));
        }
        if after_role > micros(self.rules.tail) {
            let detail = format!("it arrived {} ms after the next Role and was accepted", millis(after_role));
            self.violate(Breach::LongTail, write, detail);
        }
        if ended - received > write.request.timeout_us + OVERDUE_US {
            let detail = format!("it took {} ms", millis(ended - received));
            self.violate(Breach::Overdue, write, detail);
        }
        false
    }

    /// A newer term had written the object before.
    fn interleaved(&mut self, write: &Write<'_>, later: &[Write<'_>], term: usize, late: bool) {
        if write.effect != Effect::Created || late {
            return self.violate(
                Breach::Interleaved,
                write,
                "a newer term had written the object".to_owned(),
            );
        }
        let limit = answered_us(write.request) + micros(self.rules.gone);
        let rewritten = later.iter().any(|other| {
            other.object == write.object && other.term > Some(term) && other.request.received_us <= limit
        });
        let changes = self.history.changes[write.at + 1..].iter().zip(&self.causes[write.at + 1..]);
        let deleted = changes.filter(|(change, _)| change.object == *write.object).any(|(change, cause)| {
            let when = cause.request().map_or(limit, |number| self.requests[number].received_us);
            change.effect == Effect::Deleted && when <= limit
        });
        if rewritten || deleted {
            self.verdict.interleaved_creates += 1;
        } else {
            let detail = format!("it was not gone within {:?}", self.rules.gone);
            self.violate(Breach::LeftBehind, write, detail);
        }
    }

    fn violate(&mut self, breach: Breach, write: &Write<'_>, detail: String) {
        let newest = self.terms.iter().rev().find(|term| term.revision <= write.revision);
        self.verdict.violate(Violation {
            breach,
            audit_id: write.request.audit_id.clone(),
            object: write.object.to_string(),
            claim: write.request.claim.clone().unwrap_or_default(),
            newest: newest.map(|term| term.claim.clone()).unwrap_or_default(),
            revision: write.revision,
            received_us: write.request.received_us,
            detail,
        });
    }
}

/// Whole milliseconds, rounded up; nothing for what came before.
fn millis(us: i64) -> u64 {
    u64::try_from(us).unwrap_or(0).div_ceil(1_000)
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

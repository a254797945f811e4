//! What the API server recorded of a round: whose write was which, and which came too late.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use windlass_testbed::{AuditEvent, ControlPlane, Mark};

use super::contender::Contender;
use crate::bench::observe::Seen;

/// The kind of child that the changes of the stream ask for.
const CHANGED: &str = "ingresses";

/// What an answer has to tell.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: String,
    resource_version: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    holder_identity: Option<String>,
}

/// One write of a replica, or an attempt at one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    /// The replica.
    pub(super) by: String,
    pub(super) resource: String,
    pub(super) name: String,
    pub(super) code: u16,
    /// What the write made; none if it was refused or changed nothing.
    pub(super) revision: Option<u64>,
    /// When the API server had the request.
    pub(super) received: Timestamp,
    /// When it had answered.
    pub(super) answered: Timestamp,
}

/// All that happened since a mark.
#[derive(Default)]
pub(super) struct History {
    /// Writes of children and statuses in the turn's namespace, in the order of the log.
    pub(super) effects: Vec<Write>,
    /// Writes of the Lease and of the claim Role; `by` is the holder that the Lease names, empty for the Role.
    pub(super) leadership: Vec<Write>,
}

impl History {
    /// Reads the audit log from `mark` on. Blocks: the log may be long.
    pub(super) fn read(
        control: &ControlPlane,
        mark: Mark,
        contender: Contender,
        namespace: &str,
    ) -> Result<Self> {
        let mut history = Self::default();
        // A write that changes nothing is answered with the revision of the one before it.
        let mut known = HashMap::new();
        for event in control.audit()?.since(mark)? {
            if !event.is_complete() {
                continue;
            }
            let Some(object) = event.object_ref.clone() else { continue };
            let text = event.response_object.as_ref().map_or("{}", |answer| answer.get());
            let answer: Answer = serde_json::from_str(text).unwrap_or_default();
            let place = (object.resource.clone(), object.namespace.clone(), object.name.clone());
            let revision = answer.metadata.resource_version.parse::<u64>().ok().filter(|_| event.succeeded());
            let before = revision.and_then(|revision| known.insert(place, revision));
            let mut write = Write {
                by: String::new(),
                resource: object.resource,
                name: if object.name.is_empty() { answer.metadata.name } else { object.name },
                code: event.code(),
                revision: revision.filter(|revision| Some(*revision) != before),
                received: event.request_received_timestamp.parse()?,
                answered: event.stage_timestamp.parse()?,
            };
            match write.resource.as_str() {
                "leases" | "roles" => {
                    write.by = replica(answer.spec.holder_identity.as_deref().unwrap_or_default());
                    if write.name == contender.lease() || write.name == "windlass-claim" {
                        history.leadership.push(write);
                    }
                }
                _ => {
                    write.by = author(&event, contender);
                    if object.namespace == namespace && !write.by.is_empty() {
                        history.effects.push(write);
                    }
                }
            }
        }
        Ok(history)
    }

    /// Which replica made each revision of a child that changes ask for.
    fn authors(&self) -> HashMap<u64, &str> {
        let children = self.effects.iter().filter(|write| write.resource == CHANGED);
        let mut authors = HashMap::new();
        for write in children {
            if let Some(revision) = write.revision {
                authors.entry(revision).or_insert(write.by.as_str());
            }
        }
        authors
    }

    /// When the last effect of `old` and the first of anybody else after it were seen, in the observer's time.
    pub(super) fn between(&self, seen: &[Seen], old: &str) -> Option<(Instant, Instant)> {
        let authors = self.authors();
        let by = |seen: &Seen| authors.get(&seen.revision).copied();
        let first = seen.iter().position(|seen| by(seen).is_some_and(|by| by != old))?;
        let last = seen[..first].iter().rev().find(|seen| by(seen) == Some(old))?;
        Some((last.at, seen[first].at))
    }

    /// What `old` still wrote, or tried to, after the first write of another was answered.
    pub(super) fn late(&self, old: &str) -> Late {
        let accepted = |write: &&Write| write.by != old && write.revision.is_some();
        let Some(from) = self.effects.iter().filter(accepted).map(|write| write.answered).min() else {
            return Late::default();
        };
        let mut late = Late::default();
        for write in self.effects.iter().filter(|write| write.by == old && write.received > from) {
            if write.code >= 400 {
                late.refused += 1;
            }
            let Some(revision) = write.revision else { continue };
            late.accepted += 1;
            let newer_before = self.effects.iter().any(|other| {
                other.by != old
                    && (&other.resource, &other.name) == (&write.resource, &write.name)
                    && other.revision.is_some_and(|earlier| earlier < revision)
            });
            late.interleaved += usize::from(newer_before);
        }
        late
    }

    /// Where the time went between a fault and the first effect of `new`.
    pub(super) fn path(&self, fault: Moment, new: &str, between: Option<(Instant, Instant)>) -> Path {
        let since = |at: Timestamp| (at.as_microsecond() - fault.wall.as_microsecond()) as f64 / 1000.0;
        let after = |write: &&Write| write.revision.is_some() && write.received > fault.wall;
        let child = |write: &&Write| write.resource == CHANGED && write.by == new;
        let lease =
            self.leadership.iter().filter(after).find(|write| write.resource == "leases" && write.by == new);
        let claim = self.leadership.iter().filter(after).find(|write| write.resource == "roles");
        let effect = self.effects.iter().filter(after).find(child);
        let refused = |write: &&Write| write.by == new && write.received > fault.wall && write.code >= 400;
        let attempts = self.effects.iter().filter(refused);
        let seen = |at: Instant| {
            let after = at.saturating_duration_since(fault.clock).as_secs_f64();
            let exactly = (after - fault.clock.saturating_duration_since(at).as_secs_f64()) * 1000.0;
            (exactly * 100.0).round() / 100.0
        };
        Path {
            last_seen_ms: between.map(|(last, _)| seen(last)),
            lease_received_ms: lease.map(|write| since(write.received)),
            lease_answered_ms: lease.map(|write| since(write.answered)),
            claim_answered_ms: claim.map(|write| since(write.answered)),
            effect_received_ms: effect.map(|write| since(write.received)),
            effect_answered_ms: effect.map(|write| since(write.answered)),
            effect_seen_ms: between.map(|(_, first)| seen(first)),
            refused_before: attempts
                .filter(|write| effect.is_none_or(|e| write.received < e.received))
                .count(),
        }
    }
}

/// What came too late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Late {
    /// Written all the same.
    pub(super) accepted: usize,
    /// Of those: over a newer value of the new leader's.
    pub(super) interleaved: usize,
    /// Refused by the API server.
    pub(super) refused: usize,
}

/// An instant by both clocks: the observer's, and the one that the audit log is written by on the same machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) clock: Instant,
    pub(super) wall: Timestamp,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { clock: Instant::now(), wall: Timestamp::now() }
    }
}

/// A takeover step by step: milliseconds since the fault, `received` and `answered` by the API server, `seen` by the observer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Path {
    /// The last effect of the old leader; negative if it was before the fault.
    last_seen_ms: Option<f64>,
    lease_received_ms: Option<f64>,
    lease_answered_ms: Option<f64>,
    /// The Role `windlass-claim`; ours only.
    claim_answered_ms: Option<f64>,
    effect_received_ms: Option<f64>,
    effect_answered_ms: Option<f64>,
    effect_seen_ms: Option<f64>,
    /// Attempts of the new leader that the API server refused before.
    refused_before: usize,
}

/// The replica that a write is from: by its claim if it is ours, else by its token. Empty if it is nobody's of the contender.
fn author(event: &AuditEvent, contender: Contender) -> String {
    if contender.is_ours() {
        return event.extra("windlass.dev/claim").map(replica).unwrap_or_default();
    }
    let name = &event.user.username;
    if name.starts_with("peer-") { name.clone() } else { String::new() }
}

/// The replica in an identity or a claim: `<pod>_<random>[/<term>]`.
fn replica(identity: &str) -> String {
    identity.split(['_', '/']).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn write(by: &str, name: &str, revision: Option<u64>, at_ms: i64) -> Write {
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        Write {
            by: by.into(),
            resource: "ingresses".into(),
            name: name.into(),
            code: if revision.is_some() { 200 } else { 403 },
            revision,
            received: at(at_ms),
            answered: at(at_ms + 2),
        }
    }

    fn history(effects: Vec<Write>) -> History {
        History { effects, leadership: Vec::new() }
    }

    #[test]
    fn a_gap_is_between_two_authors_and_not_the_longest_pause() {
        let history = history(vec![
            write("a", "x", Some(1), 0),
            write("a", "x", Some(2), 10),
            write("b", "x", Some(3), 40),
            write("b", "x", Some(4), 900),
        ]);
        let start = Instant::now();
        let seen: Vec<_> = [(1, 0), (2, 12), (3, 45), (4, 910)]
            .map(|(revision, ms)| Seen {
                at: start + Duration::from_millis(ms),
                name: "x".into(),
                revision,
                mark: String::new(),
            })
            .into();
        assert_eq!(history.between(&seen, "a"), Some((seen[1].at, seen[2].at)));
        assert_eq!(history.between(&seen[..2], "a"), None);
    }

    #[test]
    fn late_is_what_was_received_after_the_first_answer_to_another() {
        let history = history(vec![
            write("a", "x", Some(1), 0),
            write("b", "x", Some(2), 10),
            // In flight: received before the answer at 12.
            write("a", "y", Some(3), 11),
            write("a", "x", Some(4), 20),
            write("a", "z", Some(5), 21),
            write("a", "z", None, 22),
        ]);
        assert_eq!(history.late("a"), Late { accepted: 2, interleaved: 1, refused: 1 });
    }

    #[test]
    fn nothing_is_late_as_long_as_nobody_followed() {
        let history = history(vec![
            write("a", "x", Some(1), 0),
            write("b", "x", None, 10),
            write("a", "x", Some(2), 20),
        ]);
        assert_eq!(history.late("a"), Late::default());
    }

    #[test]
    fn a_replica_is_named_by_identity_and_claim() {
        assert_eq!(replica("windlass-1_0af3/12"), "windlass-1");
        assert_eq!(replica("peer-0_6b1c"), "peer-0");
    }
}

//! What the checker says: counts, bounds, and each violation with what is needed to look it up.

use serde::{Deserialize, Serialize};

/// How many violations of each rule, and how many holes, a verdict spells out; the counts go on.
const SPELT_OUT: usize = 20;

/// What became of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Outcome {
    /// Something in the records could not be explained, or nothing was there to judge.
    #[default]
    Unknown,
    /// All is explained, and no rule was broken.
    Pass,
    /// A rule was broken, whatever else is not known.
    Fail,
}

/// A rule that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Breach {
    /// A write of an old claim arrived long after the new Role, though before the new term wrote anything.
    LongTail,
    /// A write of an old claim was committed after its request's timeout.
    Overdue,
    /// A write of an old claim arrived after a newer term's first write was answered, and was committed.
    Late,
    /// A write of an old claim changed an object that a newer term had written.
    Interleaved,
    /// A create of an old claim came after a newer term's write to the same object, and the object stayed.
    LeftBehind,
    /// The claim is not the one that the writer held.
    Mislabelled,
    /// No plugin and digest on record.
    Unexplained,
    /// A term's number did not rise.
    Term,
}

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which rule.
    pub breach: Breach,
    /// The request's name in the audit log.
    pub audit_id: String,
    /// `<resource>/<namespace>/<name>`.
    pub object: String,
    /// The claim that the request carried.
    pub claim: String,
    /// The claim that counted when it was committed.
    pub newest: String,
    /// The revision that it made.
    pub revision: u64,
    /// When it arrived. Unit: microseconds since 1970.
    pub received_us: i64,
    /// What was seen, in a sentence.
    pub detail: String,
}

/// Something that the records do not explain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hole {
    /// The revision, or 0 where it is about a request without one.
    pub revision: u64,
    /// `<resource>/<namespace>/<name>`.
    pub object: String,
    /// What is missing.
    pub detail: String,
}

/// One term, as the claim Role (or, without one, the Lease) tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    /// `<holder>/<number>`.
    pub claim: String,
    /// The revision at which it began.
    pub revision: u64,
    /// When the write that began it was answered. Unit: microseconds since 1970.
    pub answered_us: i64,
    /// The revision of its first write.
    pub first_write: Option<u64>,
    /// When that was answered. Unit: microseconds since 1970.
    pub first_answered_us: Option<i64>,
    /// How many writes it committed.
    pub writes: u64,
}

impl Term {
    /// The holder's identity.
    pub fn holder(&self) -> &str {
        split(&self.claim).0
    }

    /// The holder's pod.
    pub fn pod(&self) -> &str {
        pod(self.holder())
    }

    /// The term's number; 0 for junk.
    pub fn number(&self) -> u64 {
        split(&self.claim).1.unwrap_or(0)
    }
}

/// Holder and number of a claim.
pub(crate) fn split(claim: &str) -> (&str, Option<u64>) {
    claim.rsplit_once('/').map_or((claim, None), |(holder, number)| (holder, number.parse().ok()))
}

/// The pod's name, with which an identity begins.
pub(crate) fn pod(holder: &str) -> &str {
    holder.rsplit_once('_').map_or(holder, |(pod, _)| pod)
}

/// The verdict on one history, or on several that were [`absorb`](Verdict::absorb)ed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Verdict {
    /// What became of it.
    pub outcome: Outcome,
    /// How many histories it is about.
    pub histories: u64,
    /// Terms that began.
    pub terms: u64,
    /// Committed writes of replicas, which are those that were judged.
    pub writes: u64,
    /// Writes of replicas that were answered with 403.
    pub refused: u64,
    /// Committed revisions of followed kinds, by anybody.
    pub revisions: u64,
    /// Revisions whose request had no answer, or one that said nothing.
    pub lost: u64,
    /// Writes of an old claim before the new term's first.
    pub tail: u64,
    /// How long after the Role the last such write arrived. Unit: milliseconds.
    pub worst_tail_ms: u64,
    /// Writes of an old claim that had arrived before the new term's first write was answered.
    pub in_flight: u64,
    /// How long after that answer the last of them was answered. Unit: milliseconds.
    pub worst_in_flight_ms: u64,
    /// Late writes that several API servers excuse, because they arrived within 100 ms of the Role.
    pub late_excused: u64,
    /// How long after the Role the last late write arrived, excused or not. Unit: milliseconds.
    pub worst_late_ms: u64,
    /// Creates in flight after a newer term's write to the same object, which were gone in time.
    pub interleaved_creates: u64,
    /// Violations by rule, all of them.
    pub late: u64,
    /// See [`Breach::Interleaved`] and [`Breach::LeftBehind`].
    pub interleaved: u64,
    /// See [`Breach::Mislabelled`].
    pub mislabelled: u64,
    /// See [`Breach::Unexplained`].
    pub unexplained: u64,
    /// All other violations: long tails, overdue writes, terms that did not rise.
    pub other: u64,
    /// The first twenty violations of each rule.
    pub violations: Vec<Violation>,
    /// How many holes there are.
    pub hole_count: u64,
    /// The first twenty of them.
    pub holes: Vec<Hole>,
    /// The terms by revision.
    pub term_list: Vec<Term>,
    /// The terms that the Lease tells of, beside those of the Role.
    pub lease_terms: Vec<Term>,
}

impl Verdict {
    /// Whether all is explained and no rule was broken.
    pub fn passed(&self) -> bool {
        self.outcome == Outcome::Pass
    }

    /// Whether a rule was broken.
    pub fn failed(&self) -> bool {
        self.outcome == Outcome::Fail
    }

    /// How many rules were broken, all counted.
    pub fn violation_count(&self) -> u64 {
        self.late + self.interleaved + self.mislabelled + self.unexplained + self.other
    }

    pub(crate) fn violate(&mut self, violation: Violation) {
        *match violation.breach {
            Breach::Late => &mut self.late,
            Breach::Interleaved | Breach::LeftBehind => &mut self.interleaved,
            Breach::Mislabelled => &mut self.mislabelled,
            Breach::Unexplained => &mut self.unexplained,
            Breach::LongTail | Breach::Overdue | Breach::Term => &mut self.other,
        } += 1;
        self.spell_out(violation);
    }

    fn spell_out(&mut self, violation: Violation) {
        let alike = self.violations.iter().filter(|other| other.breach == violation.breach).count();
        if alike < SPELT_OUT {
            self.violations.push(violation);
        }
    }

    pub(crate) fn miss(&mut self, hole: Hole) {
        self.hole_count += 1;
        if self.holes.len() < SPELT_OUT {
            self.holes.push(hole);
        }
    }

    pub(crate) fn decide(&mut self) {
        let judged = self.terms > 0 && self.writes > 0;
        self.outcome = match (self.violation_count(), self.hole_count) {
            (0, 0) if judged => Outcome::Pass,
            (0, _) => Outcome::Unknown,
            _ => Outcome::Fail,
        };
    }

    /// Adds the verdict on another history: counts add up, bounds take the worse, and so does the outcome. The lists of terms stay
    /// behind, which are each history's own.
    pub fn absorb(&mut self, other: &Verdict) {
        let first = self.histories == 0;
        self.outcome = match (self.outcome, other.outcome) {
            (Outcome::Fail, _) | (_, Outcome::Fail) => Outcome::Fail,
            (Outcome::Pass, Outcome::Pass) => Outcome::Pass,
            (_, outcome) if first => outcome,
            _ => Outcome::Unknown,
        };
        for (sum, more) in [
            (&mut self.histories, other.histories),
            (&mut self.terms, other.terms),
            (&mut self.writes, other.writes),
            (&mut self.refused, other.refused),
            (&mut self.revisions, other.revisions),
            (&mut self.lost, other.lost),
            (&mut self.tail, other.tail),
            (&mut self.in_flight, other.in_flight),
            (&mut self.late_excused, other.late_excused),
            (&mut self.interleaved_creates, other.interleaved_creates),
            (&mut self.late, other.late),
            (&mut self.interleaved, other.interleaved),
            (&mut self.mislabelled, other.mislabelled),
            (&mut self.unexplained, other.unexplained),
            (&mut self.other, other.other),
            (&mut self.hole_count, other.hole_count),
        ] {
            *sum += more;
        }
        self.worst_tail_ms = self.worst_tail_ms.max(other.worst_tail_ms);
        self.worst_in_flight_ms = self.worst_in_flight_ms.max(other.worst_in_flight_ms);
        self.worst_late_ms = self.worst_late_ms.max(other.worst_late_ms);
        for violation in &other.violations {
            self.spell_out(violation.clone());
        }
        let room = SPELT_OUT - self.holes.len().min(SPELT_OUT);
        self.holes.extend(other.holes.iter().take(room).cloned());
    }

    /// The verdict in a few lines, with the first violations and holes.
    pub fn summary(&self) -> String {
        let mut text = format!(
            "{:?}: {} terms, {} writes judged, {} refused, {} revisions ({} lost answers)\n\
             tail {} (<= {} ms), in flight {} (<= {} ms), late {} (+{} excused, <= {} ms), interleaved {} (+{} creates), \
             mislabelled {}, unexplained {}, other {}, holes {}",
            self.outcome,
            self.terms,
            self.writes,
            self.refused,
            self.revisions,
            self.lost,
            self.tail,
            self.worst_tail_ms,
            self.in_flight,
            self.worst_in_flight_ms,
            self.late,
            self.late_excused,
            self.worst_late_ms,
            self.interleaved,
            self.interleaved_creates,
            self.mislabelled,
            self.unexplained,
            self.other,
            self.hole_count,
        );
        let mut shown = self.violations.clone();
        // The rarest first: a rule that is broken everywhere would hide the others.
        shown.sort_by_key(|v| self.violations.iter().filter(|other| other.breach == v.breach).count());
        for v in shown.iter().take(8) {
            text += &format!(
                "\n  {:?}: {} at {} by {} under {}: {} ({})",
                v.breach, v.object, v.revision, v.claim, v.newest, v.detail, v.audit_id
            );
        }
        for hole in self.holes.iter().take(5) {
            text += &format!("\n  hole: {} at {}: {}", hole.object, hole.revision, hole.detail);
        }
        text
    }
}

//! Memos that leave something out on purpose: each has to be found by the property that a host with
//! memos does what a host without them does.

use std::time::Instant;

use super::{Basis, Memo, Memos};
use crate::claim::Term;

/// What is not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blind {
    /// The version of the primary.
    Primary,
    /// The children.
    Children,
    /// The version of objects that were read.
    Objects,
    /// That an object was not there.
    Absent,
    /// Lists.
    Lists,
    /// Of a list, everything but how many objects it has.
    Members,
    /// The component and its limits.
    Component,
    /// The settings.
    Settings,
    /// What is known of kinds.
    Eras,
    /// That a memory ends with its term.
    Term,
    /// When the pass wanted to be run again.
    Deadline,
}

impl Memos {
    /// Breaks the memos on purpose.
    pub fn be_blind(&mut self, to: Blind) {
        self.blind = Some(to);
    }

    pub(super) fn is_same_basis(&self, a: &Basis, b: &Basis) -> bool {
        let blind = |to| self.blind == Some(to);
        (blind(Blind::Component) || (&a.digest, a.load) == (&b.digest, b.load))
            && (blind(Blind::Settings) || a.settings == b.settings)
            && (blind(Blind::Eras) || a.eras == b.eras)
    }

    pub(super) fn is_same(&self, remembered: &[u64], now: &[u64]) -> bool {
        self.rest(remembered, remembered) == self.rest(now, remembered)
    }

    pub(super) fn until(&self, memo: &Memo) -> Option<Instant> {
        memo.until.filter(|_| self.blind != Some(Blind::Deadline))
    }

    pub(super) fn is_of(&self, memo: &Memo, term: Option<Term>) -> bool {
        memo.term.is_none() || memo.term == term || self.blind == Some(Blind::Term)
    }

    /// What is left of a fingerprint. `remembered` says what was not there when it was.
    fn rest(&self, numbers: &[u64], remembered: &[u64]) -> (u64, Vec<u64>) {
        let blind = |to| self.blind == Some(to);
        let (primary, children, objects, lists) = parts(numbers);
        let (_, _, before, _) = parts(remembered);
        let mut rest = vec![if blind(Blind::Primary) { 0 } else { primary }];
        let counted = if blind(Blind::Children) { 0 } else { children.len() as u64 };
        if !blind(Blind::Children) {
            rest.extend(children);
        }
        for (at, number) in objects.iter().enumerate() {
            let absent = before.get(at) == Some(&0);
            let left_out = if absent { blind(Blind::Absent) } else { blind(Blind::Objects) };
            rest.push(if left_out { 0 } else { *number });
        }
        for list in lists.chunks(2).filter(|_| !blind(Blind::Lists)) {
            rest.push(list[0]);
            rest.extend(list.get(1).filter(|_| !blind(Blind::Members)));
        }
        (counted, rest)
    }
}

/// The primary, the children, the objects, the lists.
fn parts(numbers: &[u64]) -> (u64, &[u64], &[u64], &[u64]) {
    let count =
        |shift: u32, bits: u32| usize::try_from((numbers[0] >> shift) & ((1 << bits) - 1)).unwrap_or(0);
    let (children, rest) = numbers[2..].split_at(count(40, 24));
    let (objects, lists) = rest.split_at(count(20, 20));
    (numbers[1], children, objects, lists)
}

//! Memos: what a pass stood on that found nothing to do, so that it need not be run again
//! while all of that is as it was.
//!
//! # Guarantees
//! A memo holds only if everything that the pass could see is the very same now: who decides
//! (component, limits and settings), what is known of each of its kinds, the primary, the children,
//! every object that was read or found missing, every list, and its own deadline. Nothing is
//! hashed, so nothing collides: an object is named by [its number](Object::number), which belongs to one
//! reading of one version (uid and resourceVersion, and what else it said), and a list by how many objects are in it and the greatest of
//! their numbers. That is exact: a list that gained or changed an object has one that came
//! into the cache later, so with a greater number, and one that only lost some has fewer.
//!
//! # Assumptions
//! Plugins are pure. Whoever asks says whether a verdict is [repeatable](crate::ports::Answer::repeatable).
//! A deadline, and with it the whole of what a memo depends on, is an argument: nothing here reads a clock.
//!
//! # Terms
//! Whether objects are as they are wanted is a fact about the objects, whoever leads: another leader that
//! wrote in between has left other versions behind, whose numbers are other ones. But a pass that
//! went by the memory of its own applies, which ends with its term, is remembered for that term only. One
//! that compared values, as every standby does, is remembered for good.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::claim::Term;
use crate::guests::LoadId;
use crate::key::Key;
use crate::kind::Gvk;
use crate::manifest::Manifest;
use crate::name::{Digest, PluginName};
use crate::object::Object;
use crate::ports::Serving;

/// One more child, object or list in the first number of a fingerprint: up to 16 million, and a million each.
const CHILD: u64 = 1 << 40;
const OBJECT: u64 = 1 << 20;
const LIST: u64 = 1;

/// What a pass saw of the cluster, one number or two for each thing, in a fixed order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    /// How many children, objects and lists there are, then the primary, the children, the objects, the lists.
    numbers: Vec<u64>,
}

/// How a list is named: how many objects it has, and the greatest of their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    count: u64,
    newest: u64,
}

/// What the passes of a plugin have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Basis {
    digest: Digest,
    load: LoadId,
    settings: Option<Arc<str>>,
    /// Of each kind in the manifest, in its order.
    eras: Box<[u64]>,
}

/// A pass that need not be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// When the pass that is remembered wanted to look again, from now; above zero.
    pub requeue_after: Option<Duration>,
}

/// The memos of all keys; one a primary object at most.
#[derive(Debug, Default)]
pub struct Memos {
    shelves: HashMap<PluginName, Shelf>,
    #[cfg(feature = "mutants")]
    blind: Option<mutant::Blind>,
}

/// The memos of one plugin that rest on what decides now.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    memos: &'a Memos,
    shelf: &'a Shelf,
}

/// The memos of one plugin, all on the same basis.
#[derive(Debug)]
struct Shelf {
    basis: Basis,
    /// By namespace and name of the primary.
    memos: HashMap<(Arc<str>, Arc<str>), Memo>,
}

/// Of one key. Small: there may be a hundred thousand.
#[derive(Debug)]
struct Memo {
    numbers: Box<[u64]>,
    until: Option<Instant>,
    /// The only term in which it holds.
    term: Option<Term>,
}

impl Fingerprint {
    /// Begins anew, with a primary.
    pub fn begin(&mut self, primary: &Object) {
        self.numbers.clear();
        self.numbers.extend([0, primary.number()]);
    }

    /// One more child. All children come before the first read.
    pub fn child(&mut self, child: &Object) {
        self.push(CHILD, child.number());
    }

    /// One more object that is read, or its absence.
    pub fn object(&mut self, object: Option<&Object>) {
        self.number(object.map_or(0, Object::number));
    }

    /// As [`object`](Self::object), by its number; 0 for none.
    pub fn number(&mut self, number: u64) {
        self.push(OBJECT, number);
    }

    /// One more list that is read, after all objects.
    pub fn list(&mut self, list: Listed) {
        self.push(LIST, list.count);
        self.numbers.push(list.newest);
    }

    fn push(&mut self, counted: u64, number: u64) {
        if self.numbers.is_empty() {
            self.numbers.extend([0, 0]);
        }
        self.numbers[0] += counted;
        self.numbers.push(number);
    }
}

impl Listed {
    /// How a list of these objects is named.
    pub fn of<'a>(objects: impl Iterator<Item = &'a Arc<Object>>) -> Self {
        objects.fold(Self::default(), |list, object| Self {
            count: list.count + 1,
            newest: list.newest.max(object.number()),
        })
    }
}

impl Basis {
    /// What decides now. To be taken before anything else is looked at: whatever changes later
    /// then makes another one.
    pub fn of(serving: &Serving, era: impl FnMut(&Gvk) -> u64) -> Self {
        let settings = serving.settings.clone();
        let eras = kinds(&serving.manifest).map(era).collect();
        Self { digest: serving.digest.clone(), load: serving.load, settings, eras }
    }
}

impl Memos {
    /// Whether a pass for `key` in `term`, or a standby's, would find what the remembered one found, and so nothing to do.
    pub fn hit(
        &self,
        key: &Key,
        basis: &Basis,
        seen: &Fingerprint,
        term: Option<Term>,
        now: Instant,
    ) -> Option<Hit> {
        self.standing(&key.plugin, basis)?.hit(&key.namespace, &key.name, seen, term, now)
    }

    /// The memos of a plugin, to ask for many of its keys; nothing if what decides is not what they rest on.
    pub fn standing(&self, plugin: &PluginName, basis: &Basis) -> Option<Standing<'_>> {
        let shelf = self.shelves.get(plugin).filter(|shelf| self.is_same_basis(&shelf.basis, basis))?;
        Some(Standing { memos: self, shelf })
    }

    /// Remembers a pass that found nothing to do: until `until` if it wants to look again then, and for `term` alone if it went by
    /// what is known in that term only.
    /// What is remembered of its plugin on another basis is dropped.
    pub fn remember(
        &mut self,
        key: &Key,
        basis: &Basis,
        seen: &Fingerprint,
        term: Option<Term>,
        until: Option<Instant>,
    ) {
        if self.shelves.get(&key.plugin).is_some_and(|shelf| !self.is_same_basis(&shelf.basis, basis)) {
            self.shelves.remove(&key.plugin);
        }
        let new = || Shelf { basis: basis.clone(), memos: HashMap::new() };
        let shelf = self.shelves.entry(key.plugin.clone()).or_insert_with(new);
        let memo = Memo { numbers: seen.numbers.as_slice().into(), until, term };
        shelf.memos.insert((key.namespace.clone(), key.name.clone()), memo);
    }

    /// Forgets a key: it is about to be decided anew, or gone.
    pub fn forget(&mut self, key: &Key) {
        if let Some(shelf) = self.shelves.get_mut(&key.plugin) {
            shelf.memos.remove(&(key.namespace.clone(), key.name.clone()));
        }
    }

    /// Forgets all plugins of which `keep` says no.
    pub fn retain(&mut self, mut keep: impl FnMut(&PluginName) -> bool) {
        self.shelves.retain(|plugin, _| keep(plugin));
    }

    /// Keys that are remembered.
    pub fn len(&self) -> usize {
        self.shelves.values().map(|shelf| shelf.memos.len()).sum()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Standing<'_> {
    /// As [`Memos::hit`], for the primary of this namespace and name.
    pub fn hit(
        &self,
        namespace: &Arc<str>,
        name: &Arc<str>,
        seen: &Fingerprint,
        term: Option<Term>,
        now: Instant,
    ) -> Option<Hit> {
        let Self { memos, shelf } = self;
        let memo = shelf.memos.get(&(namespace.clone(), name.clone()))?;
        if !memos.is_of(memo, term) {
            return None;
        }
        let requeue_after = match memos.until(memo) {
            None => None,
            Some(until) => Some(until.checked_duration_since(now).filter(|left| !left.is_zero())?),
        };
        memos.is_same(&memo.numbers, &seen.numbers).then_some(Hit { requeue_after })
    }
}

#[cfg(not(feature = "mutants"))]
impl Memos {
    fn is_same_basis(&self, a: &Basis, b: &Basis) -> bool {
        a == b
    }

    fn is_same(&self, remembered: &[u64], now: &[u64]) -> bool {
        remembered == now
    }

    fn until(&self, memo: &Memo) -> Option<Instant> {
        memo.until
    }

    fn is_of(&self, memo: &Memo, term: Option<Term>) -> bool {
        memo.term.is_none() || memo.term == term
    }
}

/// All kinds of a manifest, the primary first.
fn kinds(manifest: &Manifest) -> impl Iterator<Item = &Gvk> {
    let children = manifest.children.iter().map(|child| &child.kind);
    let reads = manifest.reads.iter().map(|read| &read.kind);
    std::iter::once(&manifest.primary).chain(children).chain(reads)
}

#[cfg(feature = "mutants")]
pub mod mutant;
#[cfg(test)]
mod tests;

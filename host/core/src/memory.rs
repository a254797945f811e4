//! What our own applies left behind: so that a foreign edit of a field that we
//! own is told from everything else that happens to an object.

use std::collections::HashMap;
use std::sync::Arc;

/// For each object that we applied: which configuration, and the hash of our
/// managedFields entry right after it. Lost with the process; plan then compares
/// values instead. Bounded by the number of children and primaries: entries are
/// forgotten with their object.
#[derive(Debug, Default)]
pub struct Memory {
    applied: HashMap<(Arc<str>, bool), Applied>,
}

#[derive(Debug, PartialEq, Eq)]
struct Applied {
    wanted: String,
    entry: Option<u64>,
}

/// What memory says about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recall {
    /// Applied by us, and untouched since.
    Untouched,
    /// Applied by us, and changed by somebody else since, or wanted differently now.
    Changed,
    /// Not known to this process.
    Unknown,
}

impl Memory {
    /// Remembers that the object `uid` (its status, if `status`) was applied with
    /// the configuration `wanted`, and our entry's hash afterwards.
    pub fn remember(&mut self, uid: &Arc<str>, status: bool, wanted: &str, entry: Option<u64>) {
        let applied = Applied { wanted: wanted.to_owned(), entry };
        self.applied.insert((uid.clone(), status), applied);
    }

    /// Compares what is remembered of `uid` with what is wanted and seen now.
    pub fn recall(&self, uid: &Arc<str>, status: bool, wanted: &str, entry: Option<u64>) -> Recall {
        match self.applied.get(&(uid.clone(), status)) {
            None => Recall::Unknown,
            Some(a) if a.wanted == wanted && a.entry == entry => Recall::Untouched,
            Some(_) => Recall::Changed,
        }
    }

    /// Forgets an object that is gone.
    pub fn forget(&mut self, uid: &Arc<str>) {
        self.applied.remove(&(uid.clone(), false));
        self.applied.remove(&(uid.clone(), true));
    }

    /// Forgets every object of which `keep` says no.
    pub fn retain(&mut self, keep: impl Fn(&Arc<str>) -> bool) {
        self.applied.retain(|(uid, _), _| keep(uid));
    }

    /// Objects remembered.
    pub fn len(&self) -> usize {
        self.applied.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.applied.is_empty()
    }
}

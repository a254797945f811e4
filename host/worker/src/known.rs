//! What the host remembers of a loaded component: enough to load it again into a process
//! that has never seen it, and whether it is suspected.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use windlass_core::guests::{Load, LoadId};

/// Good calls in a process of its own until a component is trusted again.
pub(crate) const GOOD_CALLS: u32 = 20;

/// A component that is loaded as far as its plugin is concerned.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) load: Load,
    /// Good calls that it still owes; 0: not suspected.
    owes: AtomicU32,
    gone: AtomicBool,
}

impl Known {
    pub(crate) fn new(load: Load) -> Self {
        Self { load, owes: AtomicU32::new(0), gone: AtomicBool::new(false) }
    }

    pub(crate) fn id(&self) -> LoadId {
        self.load.id
    }

    /// It ran in a process that died: from now on it runs alone.
    pub(crate) fn suspect(&self) {
        self.owes.store(GOOD_CALLS, Ordering::Relaxed);
    }

    /// Good calls that it still owes, if it is suspected.
    pub(crate) fn suspected(&self) -> Option<u32> {
        Some(self.owes.load(Ordering::Relaxed)).filter(|owed| *owed > 0)
    }

    /// A call in a process of its own has not killed it.
    pub(crate) fn one_good(&self) {
        // An innocent's last call may end beside a verdict about another: fewer is no harm.
        let _was = self.owes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |owed| owed.checked_sub(1));
    }

    /// Nobody will ask for it again.
    pub(crate) fn forget(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Whether nobody will ask for it again.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

//! Attempts: the table.

use crate::cell::{Cell, Got};
use crate::{files, kernel, memory, network, processes};

/// Who succeeds without the fences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Free {
    /// Every user.
    Anyone,
    /// Root.
    Root,
    /// It depends on the machine.
    Perhaps,
}

/// One thing that code inside might try.
pub(crate) struct Attempt {
    /// Names it on the command line and in the listing.
    pub(crate) name: &'static str,
    /// Who succeeds without the fences.
    pub(crate) free: Free,
    /// Tries.
    pub(crate) run: fn(&Cell) -> Got,
}

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static Attempt> {
    [files::ATTEMPTS, network::ATTEMPTS, processes::ATTEMPTS, memory::ATTEMPTS, kernel::ATTEMPTS]
        .into_iter()
        .flatten()
}

/// A row.
macro_rules! attempt {
    ($free:ident, $name:literal, $run:expr) => {
        $crate::attempts::Attempt { name: $name, free: $crate::attempts::Free::$free, run: $run }
    };
}
pub(crate) use attempt;

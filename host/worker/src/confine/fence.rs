//! Landlock: no file but those in a few directories, and those only to be read.
//!
//! Best effort: each kernel enforces what it knows. What it does not know (signals, abstract sockets, network) is
//! also out of reach by the filter of system calls, so that the first version is enough.

use std::path::PathBuf;

use ::landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::ConfineError;
use super::report::Files;

/// The newest version whose rights are all denied. A kernel's newer ones are added here by hand
/// once they have been tried.
const NEWEST: ABI = ABI::V10;

/// The version since which signals stay among those behind the same fence.
pub(super) const SIGNALS_SINCE: u32 = 6;

/// Leaves this process nothing but reading what is below `readable`.
///
/// # Errors
/// A directory that cannot be opened, and rules that the kernel refuses although it has Landlock.
pub(super) fn raise(readable: &[PathBuf]) -> Result<Files, ConfineError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for path in readable {
        let folder = PathFd::new(path)
            .map_err(|error| ConfineError::Readable { path: path.clone(), why: error.to_string() })?;
        rules = rules.add_rule(PathBeneath::new(folder, AccessFs::ReadFile))?;
    }
    let status = rules.restrict_self()?;
    Ok(match (status.ruleset, status.landlock) {
        (
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced,
            LandlockStatus::Available { effective_abi, .. },
        ) => Files::Landlock { abi: effective_abi as u32 },
        // Without a call that opens, a missing Landlock leaves no gap.
        _ if readable.is_empty() => Files::NoneOpened,
        (_, LandlockStatus::NotEnabled) => Files::Open("Landlock is not enabled in this kernel".to_owned()),
        _ => Files::Open("this kernel, or the pod's own filter, has no Landlock".to_owned()),
    })
}

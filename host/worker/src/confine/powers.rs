//! Powers: capabilities, what an exec could regain, and who may look into this process.
//!
//! In a restricted pod there are none to drop. As root, at a desk or in a test, they are
//! dropped so that what holds there holds everywhere.

use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// What is known afterwards.
pub(super) struct Powers {
    /// Bits of the capabilities that could not be dropped.
    pub(super) capabilities_left: u64,
    /// Whether an exec can never give more.
    pub(super) no_new_privileges: bool,
    /// Whether processes of the same user are kept from looking in.
    pub(super) hidden: bool,
    /// Whether the kernel ends it with its parent.
    pub(super) dies_with_host: bool,
}

/// Gives up everything. Each step is tried whatever came of the others.
pub(super) fn drop_all() -> Powers {
    // The bounding set first: emptying it needs a capability. Without it there is nothing to
    // regain anyway, hence no look at what these answer.
    for bit in 0..u64::BITS {
        let _ = remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit));
    }
    let _ = clear_ambient_capability_set();
    let none = CapabilitySet::empty();
    let _ = set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none });
    let no_new_privileges = set_no_new_privs(true).is_ok();
    // After the capabilities: the kernel forgets both settings when credentials grow.
    let hidden = hide();
    let dies_with_host = set_parent_process_death_signal(Some(Signal::KILL)).is_ok();
    Powers { capabilities_left: left(), no_new_privileges, hidden, dies_with_host }
}

/// Others of the same user are kept out.
pub(super) fn hide() -> bool {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).is_ok()
}

fn left() -> u64 {
    capabilities(None).map_or(u64::MAX, |sets| (sets.effective | sets.permitted | sets.inheritable).bits())
}

/// When memory is short the kernel kills this process before the host. Not so where the
/// container's processes are killed together (cgroup v2 with `memory.oom.group`).
pub(super) fn offer_to_be_killed_first() -> bool {
    std::fs::write("/proc/self/oom_score_adj", "1000").is_ok()
}

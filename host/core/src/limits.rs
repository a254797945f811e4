//! Limits that bound what a plugin may cost. Each has a unit and a default.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::check::CheckLimits;

mod check;

/// What one plugin may use. Defaults are meant for the shipped 512 MiB pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Limits {
    /// Largest compressed or plain component in one ConfigMap, in bytes. Default 1 MiB.
    pub component_bytes: usize,
    /// Largest component after decompression, in bytes. Default 32 MiB.
    pub decompressed_bytes: usize,
    /// How often larger than its packed form a component may become. Ordinary ones are at 3 to 5,
    /// a bomb is at 1,000. Default 20; of no meaning below a MiB.
    pub packing_ratio: usize,
    /// What a component may consist of.
    pub check: CheckLimits,
    /// Linear memory of one call, in bytes. Default 64 MiB.
    pub memory_bytes: usize,
    /// Table elements of one call. Default 10,000.
    pub table_elements: usize,
    /// Guest stack, in bytes. Default 512 KiB.
    pub stack_bytes: usize,
    /// CPU time of one call. Default 1 s.
    pub cpu: Duration,
    /// Largest snapshot, in bytes of JSON. Default 8 MiB.
    pub snapshot_bytes: usize,
    /// Largest decision, in bytes of JSON. Default 4 MiB.
    pub decision_bytes: usize,
    /// Log output of one call, in bytes. Default 16 KiB.
    pub log_bytes: usize,
    /// Children in one decision. Default [`CHILDREN_MAX`].
    pub children: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            component_bytes: 1 << 20,
            decompressed_bytes: 32 << 20,
            packing_ratio: 20,
            check: CheckLimits::default(),
            memory_bytes: 64 << 20,
            table_elements: 10_000,
            stack_bytes: 512 << 10,
            cpu: Duration::from_secs(1),
            snapshot_bytes: 8 << 20,
            decision_bytes: 4 << 20,
            log_bytes: 16 << 10,
            children: CHILDREN_MAX,
        }
    }
}

/// Children in one decision, unless a plugin's limits say otherwise.
pub const CHILDREN_MAX: usize = 100;
/// Notices in one decision, at most; more are dropped.
pub const NOTICES_MAX: usize = 16;
/// Shortest pause that a decision may ask for.
pub const REQUEUE_MIN: Duration = Duration::from_secs(1);
/// Longest pause that a decision may ask for: 24 days.
pub const REQUEUE_MAX: Duration = Duration::from_secs(24 * 24 * 3600);

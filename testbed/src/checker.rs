//! The history checker: whether two leaders ever wrote at the same time, told from the control plane's own records.
//!
//! It reads what the API server recorded of every request (the audit log) and what etcd committed (its history), finds for each
//! committed revision the request that made it, and judges every write of a replica by the claim that it carried. Revisions order
//! everything; clocks only measure how long something took. What cannot be explained makes the verdict [`Outcome::Unknown`], so a
//! log with a hole in it never passes.
//!
//! ```no_run
//! # async fn doc(plane: &windlass_testbed::ControlPlane) -> anyhow::Result<()> {
//! use windlass_testbed::checker::{Kind, Rules, Records, check};
//! let kinds = [Kind::new("", "configmaps"), Kind::new("fixtures.windlass.dev", "widgets")];
//! let records = Records::begin(plane, &kinds).await?;
//! // ... replicas write ...
//! let history = records.read(plane).await?;
//! let verdict = check(&history, &Rules::new("windlass-system"));
//! assert!(verdict.passed(), "{}", verdict.summary());
//! # Ok(()) }
//! ```
//!
//! A control plane whose history is to be checked is started with [`options`]: everybody's writes recorded in full, nothing compacted.

mod cause;
mod etcd;
mod history;
mod judge;
mod read;
mod terms;
#[cfg(test)]
mod tests;
mod timeline;
mod verdict;

pub use etcd::{changes, revision};
pub use history::{Answer, Change, Effect, History, Kind, Object, Request, Verb};
pub use judge::{Rules, check};
pub use read::{Records, options, requests};
pub use timeline::timeline;
pub use verdict::{Breach, Hole, Outcome, Term, Verdict, Violation};

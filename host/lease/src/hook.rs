//! What else has to be done before an acquired Lease opens the gate.
//!
//! A seam: whoever must tell the world about a new claim before its first write does it
//! here. Without a hook the gate opens with the answer to the acquisition.

use std::future::Future;
use std::pin::Pin;

use windlass_core::claim::{Claim, Term};

/// Called right after the Lease was acquired, and only then, before the gate opens.
pub trait AcquireHook: Send + Sync + 'static {
    /// Prepares the world for writes under `claim`. Called again, after a pause, when it
    /// failed; the Lease is renewed meanwhile.
    ///
    /// Cancel safety: dropped when the claim is lost while it runs, so a half-finished
    /// call must be harmless under a later claim.
    fn acquired<'a>(
        &'a self,
        client: &'a kube::Client,
        claim: &'a Claim,
    ) -> Pin<Box<dyn Future<Output = Result<(), HookError>> + Send + 'a>>;
}

/// Why the world is not prepared yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// A step failed; the hook is called again with the same claim.
    #[error("{0}")]
    Failed(String),
    /// A number as high as this term's has been used already. The Lease is written with a
    /// higher one, then the hook is called again with the new claim.
    #[error("term {0} was used before")]
    Used(Term),
}

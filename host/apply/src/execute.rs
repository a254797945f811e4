//! The order of a plan's steps, and when to stop.
//!
//! Steps run one after the other. What may pass by itself (Transient) and what
//! forbids writing (Fatal) stops the plan: the next step would meet the same. A
//! child that cannot be written does not keep its siblings or the status from
//! being written; but the finalizers are only touched while nothing has failed,
//! since taking ours away says that all is cleaned up.

use windlass_core::claim::Claim;
use windlass_core::class::Class;
use windlass_core::decision::Notice;
use windlass_core::key::Key;
use windlass_core::name::Digest;
use windlass_core::plan::{Plan, Step, Target};
use windlass_core::ports::{Applied, Apply, ApplyError, EventTarget};

use crate::steps::Scope;
use crate::writer::Writer;

impl Apply for Writer {
    /// Sends the steps of the plan; its notices are published by
    /// [`notify`](Apply::notify), which the caller calls.
    ///
    /// # Cancel safety
    /// A dropped call ends the request that is on the wire with an unknown outcome
    /// and loses the record of the writes before it. The next pass finds out.
    async fn execute(&self, plan: &Plan, claim: &Claim) -> Applied {
        self.run(plan.key(), plan.digest(), plan.primary(), plan.steps(), claim).await
    }

    async fn notify(&self, on: &EventTarget, notice: &Notice, claim: &Claim) {
        self.publish(on, notice, claim).await;
    }
}

impl Writer {
    pub(crate) async fn run(
        &self,
        key: &Key,
        digest: &Digest,
        primary: &Target,
        steps: &[Step],
        claim: &Claim,
    ) -> Applied {
        let primary = primary.clone();
        let mut scope = Scope { key, digest, claim, primary, writes: Vec::new() };
        let mut first: Option<ApplyError> = None;
        for step in steps {
            if first.is_some() && matches!(step, Step::Finalizers { .. }) {
                break;
            }
            if let Err(error) = self.step(&mut scope, step).await {
                let ends = stops(error.class) || matches!(step, Step::Finalizers { .. });
                // What stops the plan decides when the key comes back, whatever failed before.
                if first.is_none() || stops(error.class) {
                    first = Some(error);
                }
                if ends {
                    break;
                }
            }
        }
        Applied { writes: scope.writes, result: first.map_or(Ok(()), Err) }
    }
}

fn stops(class: Class) -> bool {
    match class {
        Class::Transient | Class::Fatal => true,
        Class::Conflict | Class::Permanent | Class::Guest => false,
    }
}

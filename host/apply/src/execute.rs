//! The order of a plan's steps, and when to stop.
//!
//! Children that are made have no order among themselves: what one of them needs of another it has
//! to wait for anyway, as it would if they were made one after the other. So they are made at once,
//! up to a bound, and so are those removed that nobody wants any more. Changes keep the decision's
//! order, because a change may be meant to be there before the next one (a ConfigMap before the
//! Deployment whose pods it rolls). The finalizers come first or last, the status after the children.
//!
//! A status that was decided before children were there says so. When they have just been made, it is
//! out of date before it is written, and their first appearance brings the key back anyway: so it is left
//! to that pass, once. If that pass makes further children, it writes its status all the same.
//!
//! What may pass by itself (Transient) and what forbids writing (Fatal) stops the plan: nothing
//! follows, and what is on the wire is waited for. A child that cannot be written does not keep its
//! siblings or the status from being written; but the finalizers are only touched while nothing has
//! failed, since taking ours away says that all is cleaned up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{StreamExt as _, stream};
use tokio::time::Instant;
use windlass_core::claim::Claim;
use windlass_core::class::Class;
use windlass_core::decision::Notice;
use windlass_core::key::ObjectRef;
use windlass_core::kind::Kind;
use windlass_core::name::PluginName;
use windlass_core::object::Object;
use windlass_core::plan::{Plan, Step, Target};
use windlass_core::ports::{Applied, Apply, ApplyError, EventTarget, Written};

use crate::answer::Failed;
use crate::steps::Scope;
use crate::writer::{Statuses, Writer, lock};

impl Apply for Writer {
    /// Sends the steps of the plan; its notices are published by
    /// [`notify`](Apply::notify), which the caller calls.
    ///
    /// # Cancel safety
    /// A dropped call ends the request that is on the wire with an unknown outcome
    /// and loses the record of the writes before it. The next pass finds out.
    async fn execute(&self, plan: &Plan, claim: &Claim) -> Applied {
        let scope = Scope {
            key: plan.key(),
            digest: plan.digest(),
            claim,
            primary: plan.primary().clone(),
            discreet: plan.is_discreet(),
            writes: Vec::new(),
        };
        self.carry_out(scope, plan.steps()).await
    }

    fn held(&self, plugin: &PluginName) -> Option<Duration> {
        self.pressure.held(Some(plugin))
    }

    fn status_held(&self, plan: &Plan) -> Option<Duration> {
        self.status_wait(plan.steps(), &plan.primary().uid)
    }

    async fn read(&self, kind: &Kind, object: &ObjectRef) -> Result<Option<Object>, ApplyError> {
        let what = || format!("look whether {object} is there");
        Writer::read(self, kind, object).await.map_err(|failed| failed.of_step(what()))
    }

    async fn notify(&self, on: &EventTarget, notice: &Notice, claim: &Claim) {
        self.publish(on, notice, claim).await;
    }
}

impl Writer {
    #[cfg(test)]
    pub(crate) async fn run(
        &self,
        key: &windlass_core::key::Key,
        digest: &windlass_core::name::Digest,
        primary: &Target,
        steps: &[Step],
        claim: &Claim,
    ) -> Applied {
        let primary = primary.clone();
        self.carry_out(Scope { key, digest, claim, primary, discreet: false, writes: Vec::new() }, steps)
            .await
    }

    pub(crate) async fn carry_out(&self, mut scope: Scope<'_>, steps: &[Step]) -> Applied {
        let mut first: Option<ApplyError> = None;
        let mut made = false;
        for group in steps.chunk_by(at_once) {
            if first.is_some() && matches!(group, [Step::Finalizers { .. }, ..]) {
                break;
            }
            let results = match group {
                [Step::Status { .. }]
                    if made && first.is_none() && self.leaves_status(&scope.primary.uid) =>
                {
                    continue;
                }
                _ if group.iter().any(removes)
                    && let Err(error) = self.confirm(&scope).await =>
                {
                    vec![Err(error)]
                }
                [step] => vec![self.step(&mut scope, step).await],
                _ => self.together(&mut scope, group).await,
            };
            made |= matches!(group, [Step::Create { .. }, ..]) && results.iter().any(Result::is_ok);
            let mut ends = false;
            for error in results.into_iter().filter_map(Result::err) {
                ends |= stops(error.class) || matches!(group, [Step::Finalizers { .. }, ..]);
                if first.as_ref().is_none_or(|before| outranks(&error, before)) {
                    first = Some(error);
                }
            }
            if ends {
                break;
            }
        }
        Applied { writes: scope.writes, result: first.map_or(Ok(()), Err) }
    }

    /// Makes sure that nothing is removed on the word of a primary that has changed: before the first
    /// removal for a key in a term it is read once more, from the API server itself. What a leader that
    /// has just taken over knows comes from a watch, which may be late and cannot tell.
    async fn confirm(&self, scope: &Scope<'_>) -> Result<(), ApplyError> {
        let Target { kind, object, uid, version } = &scope.primary;
        let key = uid_hash(uid);
        let term = scope.claim.term;
        if lock(&self.confirmed).get_mut(key).is_some_and(|confirmed| *confirmed == term) {
            return Ok(());
        }
        let what = || format!("look again at {object} before anything is removed for it");
        let live = self.read(kind, object).await.map_err(|failed| failed.of_step(what()))?;
        let same = live.is_some_and(|live| {
            let meta = live.meta();
            meta.uid == *uid && meta.resource_version == *version
        });
        if !same {
            let changed = Failed::new(Class::Conflict, "it has changed since it was looked at");
            return Err(changed.of_step(what()));
        }
        *lock(&self.confirmed).entry(key, || term) = term;
        Ok(())
    }

    /// Carries out steps that need no order, a few at once. What was written is told in the plan's
    /// order, whatever ended first.
    async fn together(&self, scope: &mut Scope<'_>, group: &[Step]) -> Vec<Result<(), ApplyError>> {
        let stopped = AtomicBool::new(false);
        let each = group.iter().map(|step| {
            let (mut own, stopped) = (scope.beside(), &stopped);
            async move {
                if stopped.load(Ordering::Relaxed) {
                    return (Vec::new(), Ok(()));
                }
                let result = self.step(&mut own, step).await;
                if result.as_ref().is_err_and(|error| stops(error.class)) {
                    stopped.store(true, Ordering::Relaxed);
                }
                (own.writes, result)
            }
        });
        let each: Vec<_> = each.collect();
        let done: Vec<(Vec<Written>, _)> =
            stream::iter(each).buffered(self.config.siblings.max(1)).collect().await;
        let mut results = Vec::with_capacity(done.len());
        for (writes, result) in done {
            scope.writes.extend(writes);
            results.push(result);
        }
        results
    }

    /// How long these steps should wait, if they are only a status and one was written a moment ago.
    pub(crate) fn status_wait(&self, steps: &[Step], uid: &str) -> Option<Duration> {
        let [Step::Status { .. }] = steps else { return None };
        let mut statuses = lock(&self.statuses);
        let at = statuses.get_mut(uid_hash(uid))?.written?;
        self.config.status_every.checked_sub(at.elapsed()).filter(|left| !left.is_zero())
    }

    /// Keeps in mind that a status was written just now.
    pub(crate) fn status_written(&self, uid: &Arc<str>) {
        let now = Statuses { written: Some(Instant::now()), is_owed: false };
        *lock(&self.statuses).entry(uid_hash(uid), Statuses::default) = now;
    }

    /// Whether the status of a plan that has made children is left to the pass that sees them: not
    /// twice in a row.
    pub(crate) fn leaves_status(&self, uid: &Arc<str>) -> bool {
        let mut statuses = lock(&self.statuses);
        !std::mem::replace(&mut statuses.entry(uid_hash(uid), Statuses::default).is_owed, true)
    }
}

fn uid_hash(uid: &str) -> u64 {
    windlass_core::object::hash64(uid.as_bytes())
}

/// Whether this step takes something away from somebody.
fn removes(step: &Step) -> bool {
    matches!(step, Step::Delete { .. } | Step::Orphan { .. })
}

/// Whether the second of two steps in a row need not wait for the first.
fn at_once(one: &Step, next: &Step) -> bool {
    let made = |step: &Step| matches!(step, Step::Create { .. });
    (made(one) && made(next)) || (removes(one) && removes(next))
}

fn stops(class: Class) -> bool {
    match class {
        Class::Transient | Class::Fatal => true,
        Class::Conflict | Class::Permanent | Class::Guest => false,
    }
}

/// Whether this error decides when the key comes back rather than the one before it: what stops the
/// plan does, the loss of the claim above all, and of two pauses the longer one.
fn outranks(error: &ApplyError, before: &ApplyError) -> bool {
    let rank = |class| match class {
        Class::Fatal => 2,
        Class::Transient => 1,
        Class::Conflict | Class::Permanent | Class::Guest => 0,
    };
    let (this, that) = (rank(error.class), rank(before.class));
    this > that || (this == that && this > 0 && error.retry_after > before.retry_after)
}

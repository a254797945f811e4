//! Plans: what trusted, pure host code lets through of a decision.
//!
//! # Guarantees
//! A plan holds only objects of kinds that the manifest lists, in the primary's own
//! scope and never beside the host, each with our inventory on it; nothing is in it
//! that is already so. Names and namespaces in it have been checked, so that a path
//! made of them stays the path it was meant to be. A decision, whatever it is, costs
//! no more memory than [`UNFOLDED_MAX`](crate::json::UNFOLDED_MAX).
//!
//! # Assumptions
//! The cache has caught up with our own writes; the snapshot was taken from it.
//!
//! # Caveats
//! Whether a missing child's name belongs to somebody else is only known to the
//! API server: the create is conditional, and `apply` refuses then (E234).

mod child;
mod desired;
mod identity;
mod metadata;
mod policy;
#[cfg(test)]
mod tests;

pub use policy::Policy;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::class::Class;
use crate::code::{Code, Refusal};
use crate::decision::Notice;
use crate::decision::Verdict;
use crate::key::{Key, ObjectRef};
use crate::kind::{Gvk, Kind};
use crate::name::Digest;
use crate::object::Object;
use crate::ports::{Recalls, Serving};

/// What will be written for one key, in this order. Only this module makes one:
/// whoever holds a plan holds something that has passed every check.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    key: Key,
    digest: Digest,
    primary: Target,
    steps: Vec<Step>,
    notices: Vec<Notice>,
    requeue_after: Option<Duration>,
    warnings: Vec<Refusal>,
    discreet: bool,
}

/// An existing object, and the preconditions that every write to it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// How its URLs are built.
    pub kind: Kind,
    /// Its name.
    pub object: ObjectRef,
    /// Its uid: a write never reaches another incarnation.
    pub uid: Arc<str>,
    /// Its resourceVersion as judged: a write never overwrites what was not seen.
    pub version: Arc<str>,
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Sets the primary's finalizers to this list (a merge patch with uid and
    /// resourceVersion): ours is added before the first child, removed at the end.
    Finalizers {
        /// The whole list afterwards.
        finalizers: Vec<String>,
    },
    /// Server-side apply of a child that the cache does not have: it must not exist.
    Create {
        /// How its URLs are built.
        kind: Kind,
        /// Its name.
        object: ObjectRef,
        /// The configuration, without uid and resourceVersion.
        body: Value,
        /// Hash of the configuration.
        wanted: String,
    },
    /// Server-side apply, with force, of a child that exists.
    Update {
        /// The child as judged.
        target: Target,
        /// The configuration, without uid and resourceVersion.
        body: Value,
        /// Hash of the configuration.
        wanted: String,
    },
    /// Deletes a child that is no longer wanted, in the background.
    Delete {
        /// The child as judged.
        target: Target,
    },
    /// Lets go of a child that is no longer wanted.
    Orphan {
        /// The child as judged.
        target: Target,
        /// A merge patch, without uid and resourceVersion.
        patch: Value,
    },
    /// Server-side apply, with force, of the primary's status subresource.
    Status {
        /// `apiVersion`, `kind`, `metadata` with name and namespace, `status`.
        body: Value,
        /// Hash of the wanted status.
        wanted: String,
    },
}

impl Plan {
    /// The key that it is for.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The component that decided.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The primary object as judged.
    pub fn primary(&self) -> &Target {
        &self.primary
    }

    /// The writes, in order. Empty when everything is as wanted.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Events to publish on the primary.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// When to look again at the latest.
    pub fn requeue_after(&self) -> Option<Duration> {
        self.requeue_after
    }

    /// Whether what an API server says about these writes is not repeated: the plugin may see Secrets, and a refusal
    /// quotes what it refuses.
    pub fn is_discreet(&self) -> bool {
        self.discreet
    }

    /// What the plugin's author should know and nobody has to act on (W3xx), at most 16.
    pub fn warnings(&self) -> &[Refusal] {
        &self.warnings
    }
}

/// All that a decision is judged by.
pub struct Inputs<'a> {
    /// For which key.
    pub key: &'a Key,
    /// Who decided.
    pub serving: &'a Serving,
    /// The namespace of this host: part of the inventory.
    pub host_namespace: &'a str,
    /// What is allowed here beyond the rules.
    pub policy: &'a Policy,
    /// The primary's kind.
    pub primary_kind: &'a Kind,
    /// The primary as it was shown to the plugin.
    pub primary: &'a Object,
    /// The children as they were shown to the plugin.
    pub children: &'a [Arc<Object>],
    /// What discovery knows of a kind.
    pub kinds: &'a dyn Fn(&Gvk) -> Option<Kind>,
    /// What is remembered of our own applies.
    pub memory: &'a dyn Recalls,
}

/// Why a decision is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The decision breaks a rule.
    #[error("{0}")]
    Refused(Refusal),
    /// A wanted child is of a kind that the API server does not serve.
    #[error("the API server does not serve {0} yet; is its CRD installed?")]
    NoKind(Gvk),
    /// A child of an earlier primary of the same name is still being collected.
    #[error("{0} belongs to an earlier object of this name and is still being collected")]
    Collecting(ObjectRef),
}

impl PlanError {
    /// Who should try again.
    pub fn class(&self) -> Class {
        match self {
            PlanError::Refused(_) => Class::Guest,
            PlanError::NoKind(_) | PlanError::Collecting(_) => Class::Transient,
        }
    }

    /// The broken rule, if one was.
    pub fn code(&self) -> Option<Code> {
        match self {
            PlanError::Refused(refusal) => Some(refusal.code),
            PlanError::NoKind(_) | PlanError::Collecting(_) => None,
        }
    }
}

/// The plan that has to be carried out before the plugin is asked for the first
/// time: our finalizer, if the plugin finalizes and the primary lacks it.
pub fn prepare(inputs: &Inputs<'_>) -> Option<Plan> {
    let meta = inputs.primary.meta();
    let finalizer = inputs.key.plugin.finalizer();
    let has = meta.has_finalizer(&finalizer);
    if !inputs.serving.manifest.finalizes || has || meta.deleting {
        return None;
    }
    let mut plan = desired::empty(inputs);
    let finalizers = meta.finalizers().map(str::to_owned).chain([finalizer]);
    plan.steps.push(Step::Finalizers { finalizers: finalizers.collect() });
    Some(plan)
}

/// Turns what a guest wants into what may be written.
///
/// # Errors
/// [`PlanError`]: nothing of the decision is carried out.
pub fn plan(inputs: &Inputs<'_>, verdict: Verdict) -> Result<Plan, PlanError> {
    match verdict {
        Verdict::Decision(decision) => desired::desired(inputs, &decision),
        Verdict::Finalized => Ok(desired::finalized(inputs)),
    }
}

//! Plans: what trusted, pure host code lets through of a decision.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::decision::Notice;
use crate::key::{Key, ObjectRef};
use crate::kind::Kind;
use crate::name::Digest;

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
}

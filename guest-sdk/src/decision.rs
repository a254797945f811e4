//! What a pass wants.

use crate::{Kind, Object};
use serde_json::Value;
use std::time::Duration;

/// What a pass wants. The whole of it: a child that is absent is not wanted any more.
///
/// ```
/// use std::time::Duration;
/// use windlass::{Decision, Notice, json};
///
/// let decision = Decision::new()
///     .child(json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "hello" } }))
///     .status(json!({ "ready": false }))
///     .notice(Notice::normal("Waiting", "The image is being pulled"))
///     .requeue_after(Duration::from_secs(30));
/// assert_eq!(decision.children.len(), 1);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
#[must_use = "a decision has no effect until it is returned"]
pub struct Decision {
    /// Every child that should exist, at most 100, with only the fields that this reconciler has
    /// an opinion on.
    pub children: Vec<Object>,
    /// The wanted `.status` of the primary; nothing leaves it as it is.
    pub status: Option<Value>,
    /// Events to publish on the primary, at most 16.
    pub notices: Vec<Notice>,
    /// When to look again even if nothing changes; nothing means only on change.
    pub requeue_after: Option<Duration>,
}

impl Decision {
    /// Wants nothing: every child is removed and the status is left as it is.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wants this child too: `apiVersion`, `kind`, `metadata.name` and the fields that matter.
    ///
    /// Without a namespace it goes into the primary's. The host adds the owner reference.
    pub fn child(mut self, child: impl Into<Object>) -> Self {
        self.children.push(child.into());
        self
    }

    /// Wants all of these too; an `Option` is a child that is there or not.
    pub fn children(mut self, children: impl IntoIterator<Item = impl Into<Object>>) -> Self {
        self.children.extend(children.into_iter().map(Into::into));
        self
    }

    /// Wants this as the primary's status.
    pub fn status(mut self, status: impl Into<Value>) -> Self {
        self.status = Some(status.into());
        self
    }

    /// Publishes an Event on the primary. Equal notices merge, so saying it at every pass is fine.
    pub fn notice(mut self, notice: Notice) -> Self {
        self.notices.push(notice);
        self
    }

    /// Looks again after this time even if nothing changes, between 1 second and 24 days.
    ///
    /// Rarely needed: whatever a pass read is watched.
    pub fn requeue_after(mut self, pause: Duration) -> Self {
        self.requeue_after = Some(pause);
        self
    }

    /// The wanted child of that kind and name; for tests.
    #[must_use]
    pub fn wanted(&self, kind: Kind, name: &str) -> Option<&Object> {
        self.children.iter().find(|child| kind.matches(child) && child.name() == name)
    }

    /// The wanted status as an object to look into, empty if none is wanted; for tests.
    #[must_use]
    pub fn wanted_status(&self) -> Object {
        Object::from(self.status.clone().unwrap_or_default())
    }
}

/// A Kubernetes Event to publish on the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notice {
    /// Whether its type is `Warning` rather than `Normal`.
    pub warning: bool,
    /// CamelCase reason of at most 128 bytes, stable, for machines.
    pub reason: String,
    /// One sentence for people, at most 1,024 bytes.
    pub message: String,
}

impl Notice {
    /// Something worth knowing.
    pub fn normal(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { warning: false, reason: reason.into(), message: message.into() }
    }

    /// Something that somebody should look at.
    pub fn warning(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { warning: true, ..Self::normal(reason, message) }
    }
}

/// How far the clean-up of a primary that is being deleted has come.
#[derive(Debug, Clone, PartialEq)]
pub enum Finalization {
    /// Nothing is left to do: the finalizer is removed, and Kubernetes removes the children.
    Done,
    /// Not yet: the decision is applied, and the finalize step is asked again on change.
    Pending(Decision),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{json, kind};

    #[test]
    fn an_optional_child_is_there_or_not() {
        let service =
            |name: &str| json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name } });
        let decision = Decision::new()
            .children(Some(service("a")))
            .children(None::<Value>)
            .children([service("b"), service("c")]);
        assert_eq!(decision.children.len(), 3);
        assert!(decision.wanted(kind::SERVICE, "b").is_some());
        assert!(decision.wanted(kind::SECRET, "b").is_none());
    }
}

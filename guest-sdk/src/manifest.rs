//! What a plugin is, as the reconciler attribute puts it together.

use crate::{Decision, Kind};

/// What a plugin is. `#[windlass::reconciler]` makes one named `MANIFEST` beside the function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Name of the plugin: a DNS label of at most 40 bytes.
    pub name: &'static str,
    /// Semantic version of the plugin, at most 64 bytes; shown, never compared.
    pub version: &'static str,
    /// What it reconciles.
    pub primary: Kind,
    /// Kinds that it may create, at most 32.
    pub children: &'static [Child],
    /// Further kinds that it may look at, at most 32.
    pub reads: &'static [Read],
    /// Whether it has a finalize step.
    pub finalizes: bool,
}

/// A kind that a reconciler may create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Which kind.
    pub kind: Kind,
    /// What becomes of such a child when it is no longer wanted.
    pub unwanted: Unwanted,
}

/// What becomes of a child that a later decision no longer contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwanted {
    /// It is deleted.
    Delete,
    /// It is left in place and forgotten.
    Orphan,
}

/// A kind that a reconciler may look at through the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Which kind.
    pub kind: Kind,
    /// Labels that an object must carry to be seen, at most 16.
    pub labels: &'static [(&'static str, &'static str)],
}

impl Manifest {
    /// Checks a decision for what the host would refuse; for tests.
    ///
    /// # Errors
    /// One sentence about the first child that is of a kind not among the children, has no name,
    /// or is wanted twice.
    pub fn check(&self, decision: &Decision) -> Result<(), String> {
        for (index, child) in decision.children.iter().enumerate() {
            let shown = format!("{} {}", child.kind(), child.name());
            let Some(known) = self.children.iter().find(|each| each.kind.matches(child)) else {
                return Err(format!(
                    "child {index} is {}/{}, which is not among the children of {}",
                    child.api_version(),
                    shown,
                    self.name
                ));
            };
            if child.name().is_empty() {
                return Err(format!("child {index}, {shown}, has no name"));
            }
            let twice = decision.children[..index].iter().any(|other| {
                known.kind.matches(other)
                    && (other.name(), other.namespace()) == (child.name(), child.namespace())
            });
            if twice {
                return Err(format!("child {index}, {shown}, is wanted twice"));
            }
        }
        Ok(())
    }

    /// Whether the cache answers for this kind: the primary's, a child's or a read's.
    #[must_use]
    pub fn allows_reading(&self, kind: Kind) -> bool {
        kind == self.primary
            || self.children.iter().any(|child| child.kind == kind)
            || self.reads.iter().any(|read| read.kind == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{json, kind};

    const MANIFEST: Manifest = Manifest {
        name: "test",
        version: "0.1.0",
        primary: kind::NAMESPACE,
        children: &[Child { kind: kind::SERVICE, unwanted: Unwanted::Delete }],
        reads: &[],
        finalizes: false,
    };

    #[test]
    fn a_decision_that_the_host_would_refuse_is_found_in_a_test() {
        let object = |kind: &str, name: &str| json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": name } });
        let good = Decision::new().child(object("Service", "a"));
        assert_eq!(MANIFEST.check(&good), Ok(()));
        for (child, expected) in [
            (object("Secret", "a"), "child 1 is v1/Secret a, which is not"),
            (object("Service", ""), "has no name"),
            (object("Service", "a"), "wanted twice"),
        ] {
            let message = MANIFEST.check(&good.clone().child(child)).expect_err(expected);
            assert!(message.contains(expected), "{message}");
        }
    }
}

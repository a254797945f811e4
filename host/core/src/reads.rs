//! What a pass looked at: so that a change to it brings the key back.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::key::ObjectRef;
use crate::kind::Gvk;
use crate::object::Meta;

/// A question for many objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Query {
    /// Their kind.
    pub gvk: Gvk,
    /// Only this namespace; `None`: all namespaces.
    pub namespace: Option<Arc<str>>,
    /// Only objects with all these labels.
    pub labels: Vec<(String, String)>,
}

impl Query {
    /// Whether an object with this metadata belongs to the answer.
    pub fn matches(&self, meta: &Meta) -> bool {
        self.namespace.as_ref().is_none_or(|ns| *ns == meta.namespace) && meta.has_labels(&self.labels)
    }
}

/// Every object and list that one pass asked for, found or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Objects by name, also those that did not exist.
    pub objects: BTreeSet<ObjectRef>,
    /// Lists.
    pub lists: BTreeSet<Query>,
}

impl Reads {
    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.lists.is_empty()
    }
}

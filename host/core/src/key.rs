//! Keys: which object to look at. The only thing that is ever queued.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::kind::Gvk;
use crate::name::PluginName;

/// One primary object of one plugin. Equal keys merge in the queue. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Key {
    /// The plugin that decides.
    pub plugin: PluginName,
    /// Namespace of the primary; empty for a cluster-scoped kind.
    pub namespace: Arc<str>,
    /// Name of the primary.
    pub name: Arc<str>,
}

impl Key {
    /// A key from its three parts.
    pub fn new(plugin: PluginName, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { plugin, namespace: namespace.into(), name: name.into() }
    }

    /// `<namespace>/<name>`, the value of a child's annotation `windlass.dev/primary`.
    pub fn primary(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The key behind a child's label `owned-by` and annotation `primary`.
    pub fn from_child(owned_by: &str, primary: &str) -> Option<Self> {
        let (namespace, name) = primary.split_once('/')?;
        Some(Self::new(PluginName::try_new(owned_by).ok()?, namespace, name))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.plugin, self.namespace, self.name)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One object of any kind, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Its kind.
    pub gvk: Gvk,
    /// Its namespace; empty when cluster-scoped.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.gvk, self.name)
        } else {
            write!(f, "{} {}/{}", self.gvk, self.namespace, self.name)
        }
    }
}

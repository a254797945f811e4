//! Kinds of objects: what a plugin names, and what discovery says about it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::{is_dns_label, is_path_segment};

/// Group, version and kind, as a plugin or a manifest names a kind. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvk {
    /// API group; empty for the core group.
    pub group: Arc<str>,
    /// API version, such as `v1`.
    pub version: Arc<str>,
    /// Kind, such as `Deployment`.
    pub kind: Arc<str>,
}

/// Why a text or a triple does not name a kind.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{found:?} does not name a kind: expected <group>/<version>/<Kind> or <version>/<Kind>")]
pub struct KindError {
    /// What was found, cut to 128 characters.
    pub found: String,
}

impl Gvk {
    /// Checks the three parts and keeps them.
    ///
    /// # Errors
    /// [`KindError`] when a part could not be in a URL path or is a wildcard.
    pub fn try_new(group: &str, version: &str, kind: &str) -> Result<Self, KindError> {
        let group_ok = group.is_empty() || group.split('.').all(|part| is_dns_label(part, 63));
        let kind_ok = kind.as_bytes().first().is_some_and(u8::is_ascii_uppercase)
            && kind.len() <= 63
            && kind.bytes().all(|b| b.is_ascii_alphanumeric());
        if group_ok && group.len() <= 253 && is_dns_label(version, 63) && kind_ok {
            return Ok(Self { group: group.into(), version: version.into(), kind: kind.into() });
        }
        let found = format!("{group}/{version}/{kind}");
        Err(KindError { found: found.chars().take(128).collect() })
    }

    /// From an object's `apiVersion` and `kind`.
    ///
    /// # Errors
    /// As [`Gvk::try_new`].
    pub fn from_api_version(api_version: &str, kind: &str) -> Result<Self, KindError> {
        match api_version.split_once('/') {
            Some((group, version)) => Self::try_new(group, version, kind),
            None => Self::try_new("", api_version, kind),
        }
    }

    /// Whether both are the same kind in maybe another version: two views of the same objects.
    pub fn is_same_kind(&self, other: &Self) -> bool {
        self.group == other.group && self.kind == other.kind
    }

    /// `apps/v1` or `v1`: an object's `apiVersion`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Path of this group and version on the API server: `/api/v1`, `/apis/apps/v1`.
    pub fn api_path(&self) -> String {
        if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        }
    }
}

impl FromStr for Gvk {
    type Err = KindError;

    fn from_str(text: &str) -> Result<Self, KindError> {
        let (api_version, kind) = text.rsplit_once('/').unwrap_or(("", text));
        Self::from_api_version(api_version, kind)
    }
}

impl fmt::Display for Gvk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.group.is_empty() {
            write!(f, "{}/", self.group)?;
        }
        write!(f, "{}/{}", self.version, self.kind)
    }
}

impl fmt::Debug for Gvk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Gvk {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Gvk {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A kind as discovery describes it: how its URLs are built. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Its name.
    pub gvk: Gvk,
    /// The plural in its URLs, such as `deployments`.
    pub plural: Arc<str>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Whether it has a status subresource.
    pub has_status: bool,
}

impl Kind {
    /// Path of the collection: all namespaces when `namespace` is empty.
    pub fn collection_path(&self, namespace: &str) -> String {
        let root = self.gvk.api_path();
        if self.namespaced && !namespace.is_empty() {
            format!("{root}/namespaces/{namespace}/{}", self.plural)
        } else {
            format!("{root}/{}", self.plural)
        }
    }

    /// Path of one object; both parts have been checked with
    /// [`is_path_segment`](crate::name::is_path_segment).
    pub fn object_path(&self, namespace: &str, name: &str) -> String {
        debug_assert!(is_path_segment(name));
        format!("{}/{name}", self.collection_path(namespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_and_written_the_same() {
        for text in ["apps/v1/Deployment", "v1/Service", "a.b.example.com/v1alpha1/X"] {
            assert_eq!(text.parse::<Gvk>().expect(text).to_string(), text);
        }
        for bad in ["Deployment", "v1/*", "*/v1/Pod", "apps/v1/deployment", "a/b/v1/Pod", "../v1/Pod", "v1/"]
        {
            assert!(bad.parse::<Gvk>().is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_follow_group_and_scope() {
        let kind = |text: &str, plural: &str, namespaced| Kind {
            gvk: text.parse().expect("valid"),
            plural: plural.into(),
            namespaced,
            has_status: false,
        };
        let deployment = kind("apps/v1/Deployment", "deployments", true);
        assert_eq!(deployment.collection_path(""), "/apis/apps/v1/deployments");
        assert_eq!(deployment.object_path("a", "b"), "/apis/apps/v1/namespaces/a/deployments/b");
        let node = kind("v1/Node", "nodes", false);
        assert_eq!(node.object_path("", "n"), "/api/v1/nodes/n");
    }
}

//! Names that come from people: checked once, at the edge, and then trusted.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Group of every label, annotation and virtual resource that is ours.
pub const DOMAIN: &str = "windlass.dev";
/// Label on a plugin's ConfigMap; its value is the plugin's name.
pub const LABEL_PLUGIN: &str = "windlass.dev/plugin";
/// Label on the copy of a last good version: the plugin's name.
pub const LABEL_GOOD: &str = "windlass.dev/good";
/// Label on a child: the plugin that wants it.
pub const LABEL_OWNED_BY: &str = "windlass.dev/owned-by";
/// Label on a child: the namespace of the host that wrote it.
pub const LABEL_HOST: &str = "windlass.dev/host";
/// Annotation on a child: `<namespace>/<name>` of its primary.
pub const ANNOTATION_PRIMARY: &str = "windlass.dev/primary";
/// Annotation on a child: hash of the configuration that was applied last.
pub const ANNOTATION_APPLIED: &str = "windlass.dev/applied";
/// Annotation by which a person lets a plugin take over an existing object.
pub const ANNOTATION_ADOPT: &str = "windlass.dev/adopt";
/// Longest name of a plugin in bytes; leaves room for prefixes in a DNS label of 63.
pub const PLUGIN_NAME_MAX_BYTES: usize = 40;

/// The name of a plugin: a DNS label of at most 40 bytes. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct PluginName(Arc<str>);

/// Why a text is not the name of a plugin.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{found:?} is not the name of a plugin: a DNS label is expected (a-z, 0-9 and '-', \
     starting and ending with a letter or digit, at most {PLUGIN_NAME_MAX_BYTES} bytes)"
)]
pub struct NameError {
    /// The text that was found, cut to 64 characters.
    pub found: String,
}

impl PluginName {
    /// Checks `text` and keeps it.
    ///
    /// # Errors
    /// [`NameError`] unless it is a DNS label of at most 40 bytes.
    pub fn try_new(text: &str) -> Result<Self, NameError> {
        if is_dns_label(text, PLUGIN_NAME_MAX_BYTES) {
            Ok(Self(text.into()))
        } else {
            Err(NameError { found: text.chars().take(64).collect() })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The field manager under which the host writes for this plugin: `windlass/<name>`.
    pub fn field_manager(&self) -> String {
        format!("windlass/{}", self.0)
    }

    /// The finalizer that the host keeps for this plugin: `windlass.dev/<name>`.
    pub fn finalizer(&self) -> String {
        format!("{DOMAIN}/{}", self.0)
    }
}

impl fmt::Display for PluginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PluginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl<'de> Deserialize<'de> for PluginName {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::try_new(&text).map_err(serde::de::Error::custom)
    }
}

/// Why a text is not a digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{found:?} is not a digest: expected sha256: and 64 hexadecimal digits in lower case")]
pub struct DigestError {
    /// The text that was found, cut to 80 characters.
    pub found: String,
}

/// The sha256 of an uncompressed component. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(Arc<str>);

impl Digest {
    /// Computes the digest of `component`.
    pub fn of(component: &[u8]) -> Self {
        use sha2::Digest as _;
        let sum = sha2::Sha256::digest(component);
        let mut text = String::with_capacity(7 + 64);
        text.push_str("sha256:");
        for byte in sum {
            use fmt::Write as _;
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        }
        Self(text.into())
    }

    /// `sha256:` and 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 hexadecimal digits, for people.
    pub fn short(&self) -> &str {
        &self.0[7..19]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = text.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Self(text.into()));
        }
        Err(DigestError { found: text.chars().take(80).collect() })
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether `text` is a DNS label (RFC 1123) of at most `max` bytes.
pub fn is_dns_label(text: &str, max: usize) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= max
        && bytes.iter().all(|b| inner(*b) || *b == b'-')
        && inner(bytes[0])
        && inner(bytes[bytes.len() - 1])
}

/// Whether `text` can be the name of an object in a URL path: what the API
/// server accepts for any kind, and so never a path of its own.
pub fn is_path_segment(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dns_labels_name_plugins() {
        for good in ["a", "webapp", "a-b-9", &"x".repeat(40)] {
            assert!(PluginName::try_new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "ü", &"x".repeat(41)] {
            assert!(PluginName::try_new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_segment_never_leaves_its_path() {
        for bad in ["", ".", "..", "a/b", "a?b", "a#b", "a%2fb", "a b"] {
            assert!(!is_path_segment(bad), "{bad}");
        }
        assert!(is_path_segment("system:controller.v1-x_y"));
    }

    #[test]
    fn a_digest_is_the_sha256_of_the_bytes() {
        let digest = Digest::of(b"");
        assert_eq!(digest.short(), "e3b0c44298fc");
        assert_eq!(digest.as_str().len(), 71);
        assert_eq!(digest.as_str().parse(), Ok(digest.clone()));
        for bad in ["", "sha256:", &digest.as_str()[7..], &digest.as_str().to_uppercase()] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}

//! What has been accepted of each plugin: the highest sequence whose signature was good.
//!
//! A signature never expires by itself being old, so whoever may write a plugin's ConfigMap
//! could bring back a version with a known hole, signed and all. The sequence is part of
//! what is signed; this map remembers how far each plugin has come. It is kept where those
//! who write plugins cannot write, and outlives the plugin: a ConfigMap that is deleted and
//! made again starts from where it was.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::{Digest, PluginName};

/// Highest sequence there is: 15 digits, exact in JSON everywhere.
pub const SEQUENCE_MAX: u64 = 999_999_999_999_999;

/// Which key made a signature: 16 hexadecimal digits, as minisign shows them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub u64);

/// Why a text names no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key is named by 16 hexadecimal digits in upper case")]
pub struct KeyIdError;

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let plain = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
        let number = plain.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        number.map(Self).ok_or(KeyIdError)
    }
}

impl Serialize for KeyId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The version of a plugin that has come furthest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedVersion {
    /// Its sequence, 1 to [`SEQUENCE_MAX`].
    pub sequence: u64,
    /// Its component.
    pub digest: Digest,
    /// The key that vouched for it; for people, never compared.
    pub key: KeyId,
    /// When it was accepted, RFC 3339; for people, never compared.
    pub since: String,
}

/// How a signed version stands against what was accepted before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing<'a> {
    /// It goes beyond; or nothing was accepted before.
    Newer,
    /// It is the accepted one.
    Same,
    /// It is behind this one.
    Behind(&'a AcceptedVersion),
    /// Its sequence was used for this other component.
    Taken(&'a AcceptedVersion),
}

/// The highest accepted version of each plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Accepted(BTreeMap<PluginName, AcceptedVersion>);

impl Accepted {
    /// What was accepted of `plugin`.
    pub fn get(&self, plugin: &PluginName) -> Option<&AcceptedVersion> {
        self.0.get(plugin)
    }

    /// All of it, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&PluginName, &AcceptedVersion)> {
        self.0.iter()
    }

    /// Of how many plugins something is known.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How component `digest` with `sequence` stands.
    pub fn standing(&self, plugin: &PluginName, sequence: u64, digest: &Digest) -> Standing<'_> {
        match self.0.get(plugin) {
            Some(known) if sequence < known.sequence => Standing::Behind(known),
            Some(known) if sequence == known.sequence && *digest == known.digest => Standing::Same,
            Some(known) if sequence == known.sequence => Standing::Taken(known),
            Some(_) | None => Standing::Newer,
        }
    }

    /// Takes `version` in if it goes beyond what is known; says whether it did.
    pub fn raise(&mut self, plugin: &PluginName, version: AcceptedVersion) -> bool {
        let newer = self.standing(plugin, version.sequence, &version.digest) == Standing::Newer;
        if newer {
            self.0.insert(plugin.clone(), version);
        }
        newer
    }

    /// Drops everything in which `other` is as far or further.
    pub fn forget_what_is_in(&mut self, other: &Self) {
        self.0.retain(|plugin, version| {
            other.standing(plugin, version.sequence, &version.digest) == Standing::Newer
        });
    }
}

impl FromIterator<(PluginName, AcceptedVersion)> for Accepted {
    fn from_iter<I: IntoIterator<Item = (PluginName, AcceptedVersion)>>(versions: I) -> Self {
        let mut accepted = Self::default();
        for (plugin, version) in versions {
            accepted.raise(&plugin, version);
        }
        accepted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(sequence: u64, component: &[u8]) -> AcceptedVersion {
        AcceptedVersion {
            sequence,
            digest: Digest::of(component),
            key: KeyId(0xE762_0F18_42B4_E81F),
            since: "2026-11-23T00:00:00Z".to_owned(),
        }
    }

    fn webapp() -> PluginName {
        PluginName::try_new("webapp").expect("valid")
    }

    #[test]
    fn a_sequence_only_rises_and_belongs_to_one_component() {
        let mut accepted = Accepted::default();
        assert!(accepted.raise(&webapp(), version(12, b"a")));
        for (sequence, component, raised) in
            [(12, b"a", false), (12, b"b", false), (11, b"b", false), (15, b"b", true), (12, b"a", false)]
        {
            assert_eq!(accepted.raise(&webapp(), version(sequence, component)), raised, "{sequence}");
        }
        assert_eq!(accepted.get(&webapp()), Some(&version(15, b"b")));
        let digest = Digest::of(b"a");
        assert!(matches!(accepted.standing(&webapp(), 12, &digest), Standing::Behind(v) if v.sequence == 15));
        assert!(matches!(accepted.standing(&webapp(), 15, &digest), Standing::Taken(_)));
        assert_eq!(accepted.standing(&webapp(), 15, &Digest::of(b"b")), Standing::Same);
        assert_eq!(accepted.standing(&webapp(), 16, &digest), Standing::Newer);
    }

    #[test]
    fn what_the_other_has_is_forgotten_and_the_rest_is_kept() {
        let other = PluginName::try_new("other").expect("valid");
        let mut mine: Accepted =
            [(webapp(), version(3, b"c")), (other.clone(), version(9, b"o"))].into_iter().collect();
        mine.forget_what_is_in(&[(webapp(), version(4, b"d"))].into_iter().collect());
        assert_eq!(mine.iter().map(|(name, _)| name).collect::<Vec<_>>(), [&other]);
    }

    #[test]
    fn it_is_written_as_people_read_it() {
        let accepted: Accepted = [(webapp(), version(12, b""))].into_iter().collect();
        let text = serde_json::to_string(&accepted).expect("a text");
        assert!(text.starts_with(r#"{"webapp":{"sequence":12,"digest":"sha256:e3b0"#), "{text}");
        assert!(text.contains(r#""key":"E7620F1842B4E81F""#), "{text}");
        assert_eq!(serde_json::from_str::<Accepted>(&text).expect("read back"), accepted);
        for bad in ["", "e7620f1842b4e81f", "E7620F1842B4E81", "+7620F1842B4E81F"] {
            assert!(bad.parse::<KeyId>().is_err(), "{bad}");
        }
    }
}

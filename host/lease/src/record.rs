//! The Lease object (coordination.k8s.io/v1) as it is read and written.
//!
//! What other people put on it (labels, annotations, owner references, fields that
//! are newer than this program) is carried along untouched. Its times are
//! wall time, written for people and other programs; nothing here ever reads them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use windlass_core::claim::Term;

use crate::step::{Purpose, Write};

/// The annotation that carries the term's number.
pub const TERM_ANNOTATION: &str = "windlass.dev/term";

/// The annotation that says where the holder's pulse is: `<ip>:<port>/<nonce>`.
pub const PULSE_ANNOTATION: &str = "windlass.dev/pulse";

/// The `leaseDurationSeconds` of a Lease that its holder has given up.
pub const RELEASED_SECONDS: i64 = 1;

/// A number above this in the annotation was typed by somebody and is not believed.
const GREATEST_TERM: u64 = 1 << 53;

/// One Lease, as the API server sends it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    /// Its name, version and annotations.
    #[serde(default)]
    pub metadata: Metadata,
    /// Who holds it and for how long.
    #[serde(default, deserialize_with = "or_default")]
    pub spec: Spec,
}

/// The metadata of a Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// The Lease's name.
    #[serde(default)]
    pub name: String,
    /// The Lease's namespace.
    #[serde(default)]
    pub namespace: String,
    /// The version that a write is compared with. Absent in a create.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// All annotations, ours and others'.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// The spec of a Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Who holds it; absent or empty when nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_identity: Option<String>,
    /// For how many seconds others leave it alone after a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_duration_seconds: Option<i64>,
    /// When it was last acquired, in wall time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acquire_time: Option<String>,
    /// When it was last renewed, in wall time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_time: Option<String>,
    /// How often its holder has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_transitions: Option<i64>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// `null` where a map or a struct is expected is what an absent one is.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Lease {
    /// A Lease from its JSON. `managedFields` are left out: a write without them keeps them.
    ///
    /// # Errors
    /// The JSON is not that of a Lease; trying again does not help.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        let mut lease: Self = serde_json::from_slice(json)?;
        lease.metadata.rest.remove("managedFields");
        Ok(lease)
    }

    /// Who holds it, if anybody does.
    pub fn holder(&self) -> Option<&str> {
        self.spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
    }

    /// Its version as a number, to tell an older copy from a newer one.
    pub fn version(&self) -> Option<u64> {
        self.metadata.resource_version.as_deref()?.parse().ok()
    }

    /// For how long it counts. Nothing, when the field is absent or not above zero.
    pub fn duration(&self) -> Option<Duration> {
        let seconds = u64::try_from(self.spec.lease_duration_seconds?).ok()?;
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }

    /// The term it was last held in. Nothing, when the annotation is absent or holds junk.
    pub fn term(&self) -> Option<Term> {
        let number = self.metadata.annotations.get(TERM_ANNOTATION)?.trim().parse().ok()?;
        (number <= GREATEST_TERM).then_some(Term(number))
    }

    /// Where its holder's pulse is, as the holder wrote it; anything may stand there.
    pub fn pulse(&self) -> Option<&str> {
        self.metadata.annotations.get(PULSE_ANNOTATION).map(String::as_str)
    }

    /// Whether its last holder gave it up after its last write. A holder that was
    /// emptied by hand leaves the duration as it was, and may still be writing.
    pub fn is_released(&self) -> bool {
        self.holder().is_none() && self.spec.lease_duration_seconds == Some(RELEASED_SECONDS)
    }

    /// Whether nobody has ever held it, as when it was shipped with a manifest.
    pub fn is_untouched(&self) -> bool {
        let spec = &self.spec;
        self.holder().is_none()
            && spec.acquire_time.is_none()
            && spec.renew_time.is_none()
            && spec.lease_transitions.unwrap_or_default() == 0
            && !self.metadata.annotations.contains_key(TERM_ANNOTATION)
    }

    /// The Lease that `write` asks for, made from the copy that was judged. `wall` is
    /// written, never read.
    pub fn written(write: &Write, namespace: &str, name: &str, wall: Timestamp) -> Self {
        let mut lease = write.base.as_deref().cloned().unwrap_or_default();
        let now = micro_time(wall);
        lease.api_version = "coordination.k8s.io/v1".to_owned();
        lease.kind = "Lease".to_owned();
        lease.metadata.name = name.to_owned();
        lease.metadata.namespace = namespace.to_owned();
        lease.metadata.annotations.insert(TERM_ANNOTATION.to_owned(), write.term.to_string());
        match write.pulse.as_deref().filter(|_| write.purpose != Purpose::Release) {
            Some(pulse) => lease.metadata.annotations.insert(PULSE_ANNOTATION.to_owned(), pulse.to_owned()),
            // That of the holder before, which is not here.
            None => lease.metadata.annotations.remove(PULSE_ANNOTATION),
        };
        let moved = lease.holder() != Some(&*write.holder);
        let spec = &mut lease.spec;
        spec.holder_identity = Some(write.holder.to_string());
        spec.lease_duration_seconds = Some(i64::try_from(write.lease_duration.as_secs()).unwrap_or(i64::MAX));
        spec.renew_time = Some(now.clone());
        match write.purpose {
            Purpose::Acquire => {
                spec.acquire_time = Some(now);
                let before = spec.lease_transitions.unwrap_or_default().max(0);
                spec.lease_transitions =
                    Some(if moved { before.saturating_add(1).min(i64::from(i32::MAX)) } else { before });
            }
            Purpose::Renew => {}
            Purpose::Release => {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(RELEASED_SECONDS);
            }
        }
        lease
    }
}

/// Wall time as Kubernetes' MicroTime: six digits after the point, in UTC.
fn micro_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// A copy of the Lease, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Copy {
    /// There is none. `at` is the version at which it was deleted, where that is known.
    Absent {
        /// The version of the deletion.
        at: Option<u64>,
    },
    /// There is this one.
    Present(Arc<Lease>),
}

impl Copy {
    /// Its version as a number.
    pub fn version(&self) -> Option<u64> {
        match self {
            Copy::Absent { at } => *at,
            Copy::Present(lease) => lease.version(),
        }
    }

    /// The Lease, if there is one.
    pub fn lease(&self) -> Option<&Arc<Lease>> {
        match self {
            Copy::Absent { .. } => None,
            Copy::Present(lease) => Some(lease),
        }
    }

    /// Whether this is a later copy than `other`. Versions are numbers that rise; where one
    /// is missing or is no number, a different copy counts as later.
    pub fn is_newer_than(&self, other: &Copy) -> bool {
        match (self.version(), other.version()) {
            (Some(own), Some(other)) => own > other,
            _ => !self.is_same(other),
        }
    }

    /// Whether both are one state of the Lease.
    pub fn is_same(&self, other: &Copy) -> bool {
        match (self, other) {
            (Copy::Absent { .. }, Copy::Absent { .. }) => true,
            (Copy::Present(own), Copy::Present(other)) => {
                own.metadata.resource_version == other.metadata.resource_version
            }
            _ => false,
        }
    }
}

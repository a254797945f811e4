//! Status conditions that keep the time of their last change.

use crate::Snapshot;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// There is no telling.
    Unknown,
}

impl Truth {
    /// As Kubernetes writes it.
    fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// Nothing is [`Truth::Unknown`]; fits [`Object::condition`](crate::Object::condition).
impl From<Option<bool>> for Truth {
    fn from(holds: Option<bool>) -> Self {
        holds.map_or(Self::Unknown, Self::from)
    }
}

/// The conditions of a status, in the order in which they were set.
///
/// `lastTransitionTime` stays what it was while a condition's status stays what it was, and only a
/// condition that did change reads the clock. So a pass over a converged object gives the same
/// bytes as the one before, and the host may skip it.
///
/// ```
/// # use windlass::{Conditions, Kind, Primary, Snapshot, json};
/// # #[derive(serde::Deserialize)] struct App {}
/// # impl Primary for App { const KIND: Kind = Kind::new("example.com", "v1", "App"); }
/// let app = Snapshot::<App>::of(json!({})).with_time("2026-01-31T12:00:00Z");
/// let conditions = app.conditions().set("Ready", true, "AllUp", "3 of 3 replicas are ready");
/// assert_eq!(
///     json!({ "conditions": conditions })["conditions"][0]["lastTransitionTime"],
///     "2026-01-31T12:00:00Z"
/// );
/// ```
#[derive(Debug, Clone)]
#[must_use = "conditions have no effect until they are part of a status"]
pub struct Conditions<'a, T> {
    /// Where the earlier conditions, the generation and the time come from.
    snapshot: &'a Snapshot<T>,
    /// What was set in this pass.
    current: Vec<Value>,
}

impl<'a, T> Conditions<'a, T> {
    /// None yet; the earlier ones are looked up in the primary's `status.conditions`.
    pub(crate) fn of(snapshot: &'a Snapshot<T>) -> Self {
        Self { snapshot, current: Vec::new() }
    }

    /// Sets a condition: its type, whether it holds, a CamelCase reason for machines and one
    /// sentence for people. What is not set in a pass is no longer part of the status.
    pub fn set(
        mut self,
        name: &str,
        holds: impl Into<Truth>,
        reason: &str,
        message: impl Into<String>,
    ) -> Self {
        let status = holds.into().as_str();
        let since = self.unchanged_since(name, status).unwrap_or_else(|| self.snapshot.now());
        self.current.retain(|each| each.get("type").and_then(Value::as_str) != Some(name));
        self.current.push(json!({
            "type": name,
            "status": status,
            "reason": reason,
            "message": message.into(),
            "observedGeneration": self.snapshot.meta().generation,
            "lastTransitionTime": since,
        }));
        self
    }

    /// Since when the condition has had this status, if it had it before.
    fn unchanged_since(&self, name: &str, status: &str) -> Option<String> {
        let earlier = self.snapshot.raw().at("/status/conditions")?.as_array()?;
        let text = |each: &'a Value, key: &str| each.get(key).and_then(Value::as_str);
        earlier
            .iter()
            .find(|each| text(each, "type") == Some(name) && text(each, "status") == Some(status))
            .and_then(|each| text(each, "lastTransitionTime"))
            .map(str::to_owned)
    }
}

impl<T> Serialize for Conditions<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.current.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, Primary};
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct App {}

    impl Primary for App {
        const KIND: Kind = Kind::new("example.com", "v1", "App");
    }

    fn app(conditions: Value, time: &str) -> Snapshot<App> {
        Snapshot::<App>::of(json!({
            "metadata": { "generation": 4 },
            "status": { "conditions": conditions },
        }))
        .with_time(time)
    }

    #[test]
    fn the_time_stays_while_the_status_stays() {
        let first = app(json!([]), "2026-01-01T00:00:00Z");
        let written = json!(first.conditions().set("Ready", false, "Starting", "0 of 1"));
        assert_eq!(written[0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_eq!(written[0]["observedGeneration"], 4);

        let second = app(written, "2026-01-01T00:00:09Z");
        let written = json!(second.conditions().set("Ready", false, "Pulling", "0 of 1"));
        assert_eq!(written[0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_eq!(written[0]["reason"], "Pulling");

        let third = app(written, "2026-01-01T00:00:20Z");
        let written = json!(third.conditions().set("Ready", true, "AllUp", "1 of 1"));
        assert_eq!(written[0]["lastTransitionTime"], "2026-01-01T00:00:20Z");
    }

    #[test]
    fn setting_twice_keeps_the_last() {
        let app = app(json!([]), "2026-01-01T00:00:00Z");
        let written = json!(
            app.conditions()
                .set("Ready", true, "A", "a")
                .set("Other", None, "B", "b")
                .set("Ready", false, "C", "c")
        );
        assert_eq!(written.as_array().map(Vec::len), Some(2));
        assert_eq!(written[0]["status"], "Unknown");
        assert_eq!(written[1]["reason"], "C");
    }
}

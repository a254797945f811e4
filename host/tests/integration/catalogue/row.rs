//! One row of the catalogue: what is applied, and what has to be said of it.

use serde_json::Value;

use super::offer::Signer;

/// One mistake, or one piece of malice.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Number in the catalogue and what is special; the plugin is named after it.
    pub(crate) what: &'static str,
    /// The plugin.
    pub(crate) plugin: String,
    /// What is there, and serves, before.
    pub(crate) before: Vec<Value>,
    /// What is applied. The state is expected on the first one.
    pub(crate) maps: Vec<Value>,
    /// Number and name.
    pub(crate) code: &'static str,
    /// What the message has to contain.
    pub(crate) says: Vec<String>,
    /// Where it is to be seen.
    pub(crate) seen: Seen,
}

/// Where a row's code is to be seen; the metric counts it in each case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It never serves: annotations and Event of the ConfigMap, debug view, log.
    Refused,
    /// It fails at each call until it is quarantined: Event of the primary, annotations and
    /// Event of the ConfigMap, debug view, log.
    Quarantined,
    /// Its passes fail, and that is no reason for a quarantine: Event of the primary, log.
    Failed,
    /// It works, and somebody should know: log.
    Warned,
}

impl Row {
    /// A plugin that never serves.
    pub(crate) fn refused(what: &'static str, code: &'static str, says: &[&str], maps: Vec<Value>) -> Self {
        Self::new(what, Seen::Refused, code, says, maps)
    }

    pub(crate) fn new(
        what: &'static str,
        seen: Seen,
        code: &'static str,
        says: &[&str],
        maps: Vec<Value>,
    ) -> Self {
        let says = says.iter().map(|text| (*text).to_owned()).collect();
        Self { what, plugin: name_of(what), before: Vec::new(), maps, code, says, seen }
    }

    /// With a version that serves when the bad one comes.
    pub(crate) fn after(self, before: Vec<Value>) -> Self {
        Self { before, ..self }
    }

    /// The number alone, as metrics have it: `E112`.
    pub(crate) fn number(&self) -> &'static str {
        self.code.split(' ').next().unwrap_or_default()
    }

    /// Name of the ConfigMap that the state is expected on.
    pub(crate) fn config_map(&self) -> &str {
        self.maps[0]["metadata"]["name"].as_str().expect("ConfigMaps have names")
    }

    /// The row's number in the catalogue: `B05`.
    pub(crate) fn id(&self) -> &'static str {
        self.what.split(' ').next().unwrap_or_default()
    }
}

/// What rows are made with.
pub(crate) struct Kit {
    /// Whom the host trusts.
    pub(crate) signer: Signer,
    /// Whom it trusts no more.
    pub(crate) expired: Signer,
    /// Nobody it knows.
    pub(crate) stranger: Signer,
    /// The fixture that opens a connection.
    pub(crate) needs_sockets: Vec<u8>,
}

/// The name of a row's plugin: `B05 core module` is about `b05-core-module`.
pub(crate) fn name_of(what: &str) -> String {
    let mut name = String::new();
    for word in what.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
        if !name.is_empty() {
            name.push('-');
        }
        name.push_str(&word.to_ascii_lowercase());
    }
    assert!(name.len() <= 40, "{name} is too long for a plugin");
    name
}

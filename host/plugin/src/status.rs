//! How a plugin's ConfigMap fares, for people: annotations and the debug view.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use windlass_core::code::Refusal;
use windlass_core::manifest::Manifest;
use windlass_core::name::{Digest, PluginName};

use crate::counts::CountsNow;

/// Annotation on a plugin's ConfigMap: [`State`] as a word.
pub const ANNOTATION_STATE: &str = "windlass.dev/state";
/// Annotation: digest of the component that the ConfigMap offers.
pub const ANNOTATION_DIGEST: &str = "windlass.dev/digest";
/// Annotation: one sentence, with its code when it is a refusal.
pub const ANNOTATION_MESSAGE: &str = "windlass.dev/message";
/// Annotation: since when it is so, RFC 3339 in UTC, to the second.
pub const ANNOTATION_SINCE: &str = "windlass.dev/since";

/// How far what a ConfigMap offers has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its bytes are taken out and looked at.
    Checked,
    /// It is compiled, linked and asked for its manifest.
    Compiling,
    /// It decides.
    Serving,
    /// It broke a rule; another version may go on serving.
    Refused,
}

impl State {
    /// Whether nothing more will happen until the ConfigMap changes.
    pub fn is_settled(self) -> bool {
        match self {
            State::Checked | State::Compiling => false,
            State::Serving | State::Refused => true,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Checked => "checked",
            State::Compiling => "compiling",
            State::Serving => "serving",
            State::Refused => "refused",
        })
    }
}

/// What is to be said on one ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// How far it has come.
    pub state: State,
    /// One sentence; empty while there is nothing to say.
    pub message: String,
    /// Which rule it broke.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refused>,
    /// The component that it offers, once that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Since when `state` and `message` are so.
    pub since: Timestamp,
}

/// A refusal as the debug view shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Number and name, such as `E112 CoreModule`.
    pub code: windlass_core::code::Code,
}

impl Status {
    pub(crate) fn new(state: State, now: Timestamp) -> Self {
        Self { state, message: String::new(), refusal: None, digest: None, since: now }
    }

    pub(crate) fn refused(
        refusal: &Refusal,
        message: String,
        digest: Option<Digest>,
        now: Timestamp,
    ) -> Self {
        Self {
            state: State::Refused,
            message,
            refusal: Some(Refused { code: refusal.code }),
            digest,
            since: now,
        }
    }

    /// The annotations that say it on the ConfigMap; `None` means that it is not there.
    pub fn annotations(&self) -> [(&'static str, Option<String>); 4] {
        [
            (ANNOTATION_STATE, Some(self.state.to_string())),
            (ANNOTATION_DIGEST, self.digest.as_ref().map(|digest| digest.as_str().to_owned())),
            (ANNOTATION_MESSAGE, Some(self.message.clone()).filter(|text| !text.is_empty())),
            (ANNOTATION_SINCE, Some(format!("{:.0}", self.since))),
        ]
    }
}

/// One plugin in the debug view `/debug/plugins`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginView {
    /// Its name.
    pub name: PluginName,
    /// The ConfigMap that holds the name, `<namespace>/<name>`.
    pub config_map: String,
    /// How that ConfigMap fares.
    #[serde(flatten)]
    pub status: Status,
    /// What decides now; it may be an earlier version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<ServingView>,
    /// Other ConfigMaps with the same name, which are refused (E140).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub duplicates: Vec<String>,
}

/// The version that decides.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServingView {
    /// Its digest.
    pub digest: Digest,
    /// What it says of itself.
    pub manifest: Arc<Manifest>,
    /// What it has cost.
    pub counts: CountsNow,
}

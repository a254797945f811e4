//! How a plugin's ConfigMap fares, for people: annotations and the debug view.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use windlass_core::code::{Code, Refusal, printable};
use windlass_core::kind::Gvk;
use windlass_core::manifest::Manifest;
use windlass_core::name::{Digest, PluginName};

use crate::counts::CountsNow;
use crate::source::Origin;

/// Annotation on a plugin's ConfigMap: [`State`] as a word.
pub const ANNOTATION_STATE: &str = "windlass.dev/state";
/// Annotation: digest of the component that the ConfigMap offers.
pub const ANNOTATION_DIGEST: &str = "windlass.dev/digest";
/// Annotation: one sentence, with its code when it is a refusal.
pub const ANNOTATION_MESSAGE: &str = "windlass.dev/message";
/// Annotation: since when it is so, RFC 3339 in UTC, to the second.
pub const ANNOTATION_SINCE: &str = "windlass.dev/since";

/// Longest text of a refusal within a message, in bytes: what follows it has to fit as well.
const TEXT_MAX_BYTES: usize = 700;

/// How far what a ConfigMap offers has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is there; nobody has looked into it, or a part of it is missing.
    Found,
    /// Its bytes are taken out, and digest and signature hold.
    Checked,
    /// Its machine code is there.
    Compiled,
    /// It is loaded and has said what it is.
    Warmed,
    /// It decides.
    Serving,
    /// It broke a rule; another version may go on serving.
    Refused,
    /// It decided, failed too often in a row, and is left alone for a while.
    Quarantined,
}

impl State {
    /// Every state, in the order of a life.
    pub const ALL: [State; 7] = [
        State::Found,
        State::Checked,
        State::Compiled,
        State::Warmed,
        State::Serving,
        State::Refused,
        State::Quarantined,
    ];

    /// Whether nothing more will happen to what is offered until the ConfigMap changes.
    pub fn is_settled(self) -> bool {
        match self {
            State::Found | State::Checked | State::Compiled | State::Warmed => false,
            State::Serving | State::Refused | State::Quarantined => true,
        }
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Found => "found",
            State::Checked => "checked",
            State::Compiled => "compiled",
            State::Warmed => "warmed",
            State::Serving => "serving",
            State::Refused => "refused",
            State::Quarantined => "quarantined",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
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
    /// Since when `state` is so.
    pub since: Timestamp,
}

/// A refusal as the debug view shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Number and name, such as `E112 CoreModule`.
    pub code: Code,
}

impl Status {
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

/// What is wrong and where, in a length that leaves room for what follows. Said once: whoever
/// refused it may have said where already.
pub(crate) fn sentence(origin: &Origin, refusal: &Refusal) -> String {
    let said = refusal.message.starts_with(&format!("plugin {}, ", origin.plugin));
    let located = if said { refusal.clone() } else { origin.says(refusal) };
    format!("{}: {}", located.code, printable(&located.message, TEXT_MAX_BYTES))
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
    /// Why what decides is left alone, while it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Quarantined>,
    /// Other ConfigMaps with the same name, which are refused (E140).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub duplicates: Vec<String>,
    /// Plugins that write children of the same kinds for the same kind of primary. No fault as
    /// long as they name them differently; an object that both want is refused with E141.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<Share>,
}

/// The version that decides.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServingView {
    /// Its digest.
    pub digest: Digest,
    /// Since when it decides.
    pub since: Timestamp,
    /// Whether it is the last good version that the host had kept, because what the ConfigMap
    /// offers does not serve.
    pub last_good: bool,
    /// What it says of itself.
    pub manifest: Arc<Manifest>,
    /// What it has cost.
    pub counts: CountsNow,
}

/// Why and until when a plugin is left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Quarantined {
    /// Since when.
    pub since: Timestamp,
    /// When one call is tried.
    pub until: Timestamp,
    /// How many quarantines in a row this is, from 1.
    pub times: u32,
    /// The last fault.
    pub refusal: Refusal,
}

impl Quarantined {
    /// One sentence for the ConfigMap.
    pub(crate) fn sentence(&self, origin: &Origin) -> String {
        format!(
            "{}; it failed too often in a row and is left alone until {:.0}, its objects stay as they are",
            sentence(origin, &self.refusal),
            self.until
        )
    }
}

/// A plugin beside this one that writes the same kinds for the same kind of primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The other plugin.
    pub plugin: PluginName,
    /// The kinds of children that both may write.
    pub kinds: Vec<Gvk>,
}

impl Share {
    /// What two manifests have in common, if anything.
    pub(crate) fn between(own: &Manifest, other: &Manifest) -> Option<Self> {
        if own.name == other.name || own.primary != other.primary {
            return None;
        }
        let both = own.children.iter().filter(|child| other.child(&child.kind).is_some());
        let kinds: Vec<Gvk> = both.map(|child| child.kind.clone()).collect();
        (!kinds.is_empty()).then(|| Share { plugin: other.name.clone(), kinds })
    }
}

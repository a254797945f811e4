//! What `/debug/signatures` shows: whose word counts, what is wrong, and what was said.

use serde::Serialize;
use windlass_core::accepted::KeyId;
use windlass_core::code::Refusal;
use windlass_core::name::{Digest, PluginName};
use windlass_plugin::verify::{Key, Trust};

use super::judged::{Judged, Judgements};

/// Signatures as this replica sees them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TrustView {
    pub(super) mode: &'static str,
    /// Whether plugins can be judged.
    pub(super) ready: bool,
    /// What a person has to mend.
    pub(super) problems: Vec<String>,
    pub(super) keys: Vec<KeyView>,
    pub(super) plugins: Vec<PluginTrust>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyView {
    id: KeyId,
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plugins: Option<Vec<PluginName>>,
}

/// The judgements of a plugin; what is offered is left out while it is what serves.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PluginTrust {
    plugin: PluginName,
    #[serde(skip_serializing_if = "Option::is_none")]
    offered: Option<SaidView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_good: Option<SaidView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serving: Option<SaidView>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SaidView {
    digest: Digest,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<KeyId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<Refusal>,
}

impl From<&Key> for KeyView {
    fn from(key: &Key) -> Self {
        Self {
            id: key.id,
            file: key.file.clone(),
            not_after: key.not_after.map(|date| date.to_string()),
            plugins: key.plugins.clone(),
        }
    }
}

impl PluginTrust {
    pub(super) fn of(plugin: &PluginName, judgements: &Judgements) -> Self {
        let Judgements { offered, last_good, serving } = judgements;
        let view = |judged: &Option<Judged>| judged.as_ref().map(SaidView::from);
        Self {
            plugin: plugin.clone(),
            offered: view(offered),
            last_good: view(last_good),
            serving: view(serving),
        }
    }
}

impl From<&Judged> for SaidView {
    fn from(judged: &Judged) -> Self {
        let mut view = Self {
            digest: judged.digest.clone(),
            result: super::result(&judged.said),
            key: None,
            sequence: None,
            refusal: None,
        };
        match &judged.said {
            Ok(Trust::Verified(verified)) => {
                view.key = Some(verified.key);
                view.sequence = Some(verified.statement.sequence);
            }
            Ok(Trust::Doubted(refusal)) | Err(refusal) => view.refusal = Some(refusal.clone()),
            Ok(Trust::Unasked) => {}
        }
        view
    }
}

//! Fields that manifests select by: whether the API server does.
//!
//! Which fields a kind can be selected by is nowhere to be read: a list with another one is refused (400).
//! So each is tried, with a list of one object, before the kind is listed. A field that is refused holds the
//! plugins that name it, and nobody else: what all need of a kind may not carry the field at all, and its
//! list would go well while one plugin waited for objects that are never selected.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use windlass_core::kind::Kind;
use windlass_core::name::PluginName;
use windlass_core::scope::is_metadata_field;

use crate::cache::ClusterCache;
use crate::get::{GetError, whole};
use crate::kind_cache::KindCache;
use crate::needs::Need;
use crate::progress::Phase;
use crate::selection::Selection;

/// Most bytes of an answer with one object: one object's.
const ANSWER_MAX: usize = 8 << 20;
/// When a field that was refused is tried again, if the plugin that names it is still there: it is let go
/// within moments, and this driver with it.
const AGAIN: Duration = Duration::from_secs(30);

/// Returns when the API server selects by every field of the need, as far as it answers.
pub(crate) async fn judge(
    client: &Client,
    cache: &Arc<ClusterCache>,
    kind: &Arc<KindCache>,
    served: &Kind,
    need: &Need,
) {
    let mut users: BTreeMap<(&String, &String), Vec<PluginName>> = BTreeMap::new();
    for (path, value, plugin) in need.by_field.iter().filter(|(path, ..)| !is_metadata_field(path)) {
        users.entry((path, value)).or_default().push(plugin.clone());
    }
    // Where the kind will be listed: there may be rights for no other place.
    let namespace = need.wire().namespaces.into_iter().next().unwrap_or_default();
    let asked = Selection::all(served.clone()).metadata_only().in_namespace(&namespace);
    loop {
        let mut refused = false;
        for ((path, value), users) in &users {
            if let Some(why) = refusal(client, &asked, path, value).await {
                refused = true;
                kind.progress.phase(Phase::Refused);
                kind.progress.failed_with(format!("field {path}: {why}"));
                cache.field_refused(&kind.gvk, path, users, &why);
            }
        }
        if !refused {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Why the API server does not select by this field; `None` if it does, or does not say.
async fn refusal(client: &Client, asked: &Selection, path: &str, value: &str) -> Option<String> {
    let mut selection = asked.clone();
    selection.fields = vec![(path.to_owned(), value.to_owned())];
    let address = selection.address(&[("limit", "1")]);
    match whole(client, &address, selection.accepts_list(), ANSWER_MAX).await {
        Err(GetError::Refused { code: 400, message, .. }) => Some(message),
        _ => None,
    }
}

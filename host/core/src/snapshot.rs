//! Snapshots: all that a pass may know.

use std::sync::Arc;

use crate::object::Object;

/// What was observed when a pass began. Holds the cache's own objects, not copies.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The primary object.
    pub primary: Arc<Object>,
    /// The children that the inventory holds for it, ordered by kind and name.
    pub children: Vec<Arc<Object>>,
    /// `settings.yaml` as JSON text.
    pub settings: Option<Arc<str>>,
}

impl Snapshot {
    /// Bytes of JSON that a plugin is handed.
    pub fn bytes(&self) -> usize {
        self.primary.json_bytes()
            + self.children.iter().map(|c| c.json_bytes()).sum::<usize>()
            + self.settings.as_ref().map_or(0, |s| s.len())
    }
}

//! What the registry has to know of a version of a plugin: so little that a test can make one.

use std::sync::Arc;

use windlass_core::manifest::Manifest;
use windlass_core::name::Digest;

use crate::counts::CountsNow;
use crate::plugin::Plugin;

/// A version of a plugin that is warm: it has been compiled and loaded and has answered what
/// it is. There is no other way to come by one, so whatever serves was warm before it served.
/// Dropping the last reference unloads it.
pub trait Version: Send + Sync + 'static {
    /// Which component it is.
    fn digest(&self) -> &Digest;
    /// What it says of itself.
    fn manifest(&self) -> &Arc<Manifest>;
    /// What it has cost.
    fn counts(&self) -> CountsNow;
    /// What people should know of it although it serves, one sentence.
    fn remark(&self) -> Option<&str> {
        None
    }
    /// Goes on with the counters of the version that it replaces.
    fn follow(&mut self, previous: &Self);
}

impl Version for Plugin {
    fn digest(&self) -> &Digest {
        Plugin::digest(self)
    }

    fn manifest(&self) -> &Arc<Manifest> {
        Plugin::manifest(self)
    }

    fn counts(&self) -> CountsNow {
        Plugin::counts(self).read()
    }

    fn remark(&self) -> Option<&str> {
        Plugin::remark(self)
    }

    fn follow(&mut self, previous: &Self) {
        self.continue_counts(previous);
    }
}

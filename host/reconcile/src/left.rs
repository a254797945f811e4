//! A primary that its plugin does not select any more, and what was made for it.
//!
//! Selected by label, an object leaves the watch when the label goes, and from the cache that looks like its
//! end. But nobody collects the children of an object that lives. So the absence of a primary that has
//! children is checked with the API server: if the object is there, the plugin wants nothing for it, and
//! its children go as after an empty decision. The plugin is not asked.

use std::sync::Arc;

use windlass_core::claim::BootClock;
use windlass_core::decision::{Decision, Verdict};
use windlass_core::memo::Basis;
use windlass_core::outcome::Outcome;
use windlass_core::plan::plan;
use windlass_core::ports::{Apply, Cache, Decide};

use crate::pass::{Attempt, Seen, UNSYNCED, others, unapplied, unplanned};
use crate::run::{Reconciler, primary_of};

impl<C: Cache, D: Decide, A: Apply, K: BootClock> Reconciler<C, D, A, K> {
    /// Takes away what was made for a primary that is there and not selected; `None` when it is selected, or
    /// has nothing, or nothing of it can be known: then the pass goes on as for any other.
    pub(crate) async fn left(&self, pass: &mut Attempt) -> Result<Option<Outcome>, Outcome> {
        let cache = &self.ports.cache;
        let Some(serving) = self.ports.decide.serving(&pass.key.plugin) else { return Ok(None) };
        let selects = &serving.manifest.selects;
        if selects.is_everything() {
            return Ok(None);
        }
        let basis = Basis::of(&serving, |gvk| cache.era(gvk));
        let Some(kind) = cache.kind(&serving.manifest.primary) else { return Ok(None) };
        let object = primary_of(&pass.key, &kind.gvk);
        if cache.object(&object).is_some_and(|primary| selects.selects(&primary)) {
            return Ok(None);
        }
        self.synced(pass, &[&kind.gvk])?;
        self.synced(pass, &others(&serving.manifest))?;
        self.caught_up(&pass.key)?;
        let children = cache.children(&pass.key);
        if children.is_empty() {
            return Ok(None);
        }
        if pass.standby {
            // Whether it lives is for a leader to ask.
            return Ok(Some(Outcome::Planned { steps: children.len() }));
        }
        let live = self.ports.apply.read(&kind, &object).await.map_err(|error| unapplied(pass, error))?;
        let Some(primary) = live.filter(|live| !live.meta().deleting) else {
            // The API server collects them.
            return Ok(None);
        };
        if selects.selects(&primary) {
            // The watch has not shown it yet.
            pass.wait = Some(UNSYNCED.pause(self.traces().waited(&pass.key), 1.0));
            return Ok(Some(Outcome::Waiting));
        }
        let seen = Seen { serving, basis, kind, primary: Arc::new(primary), children };
        let nothing = Verdict::Decision(Decision::default());
        let plan = self.with_inputs(pass, &seen, |inputs| plan(inputs, nothing));
        let plan = plan.map_err(|error| unplanned(pass, &error))?;
        tracing::info!(
            children = plan.steps().len(),
            "the primary is not selected any more: what was made for it goes"
        );
        let writes = self.carry_out(pass, &seen, &plan).await?;
        Ok(Some(Outcome::Converged { writes, requeue_after: None }))
    }
}

//! Rights that are missing: which plugin waits for which, in `/debug/plugins`, and as an Event on its ConfigMap while this
//! replica leads.
//!
//! A pass that is refused says so on its object, as the plugin. Nobody would hear of what keeps that from happening: a plugin
//! that may not publish Events, a host that may not act as it or may not read its kinds. So the host says all of it once more where
//! the plugin was installed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};
use windlass_apply::Writer;
use windlass_core::claim::{BootClock, Gate, Term};
use windlass_core::decision::{Notice, Severity};
use windlass_core::name::PluginName;
use windlass_core::ports::Apply as _;
use windlass_core::rights::{Missing, MissingView};
use windlass_lease::clock::Boottime;
use windlass_watch::watches::Watches;

use crate::observe::Observed;
use crate::plugins::Plugins;

/// How often it is looked what is missing.
const LOOK: Duration = Duration::from_secs(2);
/// A right that nobody was refused for want of for so long is there, or needed no more: whatever is refused is tried again
/// within 30 s.
const OVER: Duration = Duration::from_secs(60);
/// How often a right that stays missing is said again.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// Rights of one plugin that are kept. Who lacks more has none at all, and these show it.
const MOST: usize = 32;
/// The reason of the Events.
const REASON: &str = "RightMissing";

/// What is missing.
#[derive(Debug, Default)]
pub(crate) struct Rights(Mutex<BTreeMap<PluginName, Vec<Lacking>>>);

#[derive(Debug)]
struct Lacking {
    missing: Missing,
    /// When it was missed last.
    last: Instant,
    /// When and in which term it was said last.
    said: Option<(Instant, Term)>,
}

impl Rights {
    /// Something was refused to the plugin, or for it, for want of this right.
    pub(crate) fn lacks(&self, plugin: &PluginName, missing: &Missing) {
        let now = Instant::now();
        let mut all = self.lock();
        let of = all.entry(plugin.clone()).or_default();
        if let Some(known) = of.iter_mut().find(|known| known.missing.is_rule_of(missing)) {
            known.last = now;
            return;
        }
        if of.len() < MOST {
            warn!(%plugin, "a right is missing: {}", missing.advice());
            of.push(Lacking { missing: missing.clone(), last: now, said: None });
        }
    }

    /// What the plugin lacks, for people.
    pub(crate) fn of(&self, plugin: &PluginName) -> Vec<MissingView> {
        self.lock().get(plugin).into_iter().flatten().map(|lacking| lacking.missing.view()).collect()
    }

    /// Forgets what is over.
    fn sweep(&self) {
        let now = Instant::now();
        self.lock().retain(|plugin, of| {
            of.retain(|lacking| {
                let stays = now.duration_since(lacking.last) < OVER;
                if !stays {
                    info!(%plugin, "missed no more: {}", lacking.missing);
                }
                stays
            });
            !of.is_empty()
        });
    }

    /// What is to be said in this term now; it counts as said.
    fn to_say(&self, term: Term) -> Vec<(PluginName, Missing)> {
        let now = Instant::now();
        let mut all = self.lock();
        let each =
            all.iter_mut().flat_map(|(plugin, of)| of.iter_mut().map(move |lacking| (plugin, lacking)));
        let due = each.filter_map(|(plugin, lacking)| {
            let said = lacking
                .said
                .is_some_and(|(at, in_term)| in_term == term && now.duration_since(at) < SAY_AGAIN);
            (!said).then(|| {
                lacking.said = Some((now, term));
                (plugin.clone(), lacking.missing.clone())
            })
        });
        due.collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PluginName, Vec<Lacking>>> {
        // Entries are independent of each other.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows what is missing, and says it while this replica leads. Never returns.
pub(crate) async fn follow(
    observed: Arc<Observed>,
    watches: Arc<Watches>,
    plugins: Arc<Plugins>,
    writer: Arc<Writer>,
    gate: Arc<Gate>,
) {
    let rights = &observed.rights;
    loop {
        tokio::time::sleep(LOOK).await;
        for (missing, plugins) in watches.denied() {
            plugins.iter().for_each(|plugin| rights.lacks(plugin, &missing));
        }
        rights.sweep();
        let Some(claim) = gate.claim(Boottime.now()) else { continue };
        for (plugin, missing) in rights.to_say(claim.term) {
            let Some(config_map) = plugins.config_map_of(&plugin) else { continue };
            let message = format!("plugin {plugin} waits: {}", missing.advice());
            let notice = Notice { severity: Severity::Warning, reason: REASON.to_owned(), message };
            writer.notify(&config_map, &notice, &claim).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(verb: &str) -> Missing {
        let said = format!(
            r#"pods is forbidden: User "x" cannot {verb} resource "pods" in API group "" at the cluster scope"#
        );
        Missing::of_refusal(&said).expect("a refusal")
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_is_said_once_a_minute_and_term_until_it_is_missed_no_more() {
        let (rights, plugin) = (Rights::default(), PluginName::try_new("p").expect("valid"));
        rights.lacks(&plugin, &missing("create"));
        rights.lacks(&plugin, &missing("create"));
        assert_eq!(rights.of(&plugin), [missing("create").view()]);
        assert_eq!(rights.to_say(Term(1)), [(plugin.clone(), missing("create"))]);
        assert!(rights.to_say(Term(1)).is_empty(), "it has been said");
        assert_eq!(rights.to_say(Term(2)).len(), 1, "another leader may have said nothing");
        tokio::time::advance(OVER / 2).await;
        rights.lacks(&plugin, &missing("delete"));
        assert_eq!(rights.to_say(Term(2)), [(plugin.clone(), missing("delete"))]);
        tokio::time::advance(OVER / 2).await;
        rights.sweep();
        assert_eq!(rights.of(&plugin), [missing("delete").view()]);
        tokio::time::advance(OVER / 2).await;
        rights.sweep();
        assert!(rights.of(&plugin).is_empty() && rights.to_say(Term(3)).is_empty());
    }

    #[tokio::test]
    async fn what_is_kept_of_one_plugin_has_a_bound() {
        let (rights, plugin) = (Rights::default(), PluginName::try_new("p").expect("valid"));
        (0..2 * MOST).for_each(|i| rights.lacks(&plugin, &missing(&format!("do{i}"))));
        assert_eq!(rights.of(&plugin).len(), MOST);
    }
}

//! One look at one ConfigMap: from its text to a version that serves, or to the reason why not.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::{error, warn};
use windlass_apply::Writer;
use windlass_core::code::{Code, Refusal};
use windlass_core::name::PluginName;
use windlass_core::object::Object;
use windlass_plugin::{Begun, Item, PartsNow, Plugin, Source, State, Step, Ticket, Whole};

use super::{Overdue, Plugins, Told, config_map_gvk};
use crate::trust::Which;

/// How long a set of parts may be incomplete before that is a refusal: they are applied one
/// after the other.
const PARTS_COME_WITHIN: Duration = Duration::from_secs(5);
/// Pause before a ConfigMap is read again that could not be read.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// A look that goes on; its end frees the plugin for the next one.
struct Looking {
    plugins: Arc<Plugins>,
    config_map: String,
    lane: String,
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.plugins.known().agenda.done(&self.config_map, &self.lane);
        self.plugins.states.notify_one();
    }
}

impl Plugins {
    /// Takes one ConfigMap through its life.
    pub(super) async fn look(self: Arc<Self>, item: Item<Told>, writer: Arc<Writer>) {
        let Item { config_map, lane, what } = item;
        let looking = Looking { plugins: self.clone(), config_map, lane };
        let text = match what {
            Told::There => read(&looking.config_map, &writer).await,
            Told::Gone => None,
        };
        let (this, config_map) = (self.clone(), looking.config_map.clone());
        let begun = blocking(move || this.offered(&config_map, text)).await.unwrap_or_default();
        for (ticket, whole) in begun {
            match whole {
                Ok(whole) => self.try_whole(&ticket, whole).await,
                Err(refusal) => self.incomplete(&ticket, refusal),
            }
            self.fall_back(&ticket, &writer).await;
        }
    }

    /// Tells the registry what is offered now. Answers what is to be loaded.
    pub(super) fn offered(
        &self,
        config_map: &str,
        text: Option<Arc<str>>,
    ) -> Vec<(Ticket, Result<Whole, Refusal>)> {
        let PartsNow { offered, gone, stray } = self.parts_now(config_map, text);
        for (config_map, refusal) in stray {
            warn!(config_map, %refusal, "this ConfigMap belongs to no plugin");
        }
        for config_map in gone {
            let changes = self.known().registry.remove(&config_map);
            self.carry_out(changes);
        }
        let mut begun = Vec::new();
        for offered in offered {
            let name = offered.offer.plugin.clone();
            let Begun { load, changes } = self.known().registry.begin(offered.offer, Timestamp::now());
            self.carry_out(changes);
            if load.is_none() {
                self.is_as_it_serves(&name, config_map);
            }
            begun.extend(load.map(|ticket| (ticket, offered.whole)));
        }
        begun
    }

    /// If what a ConfigMap offers serves already, its signature was judged when it began to.
    fn is_as_it_serves(&self, plugin: &PluginName, config_map: &str) {
        let state = self.known().registry.status(config_map).map(|status| status.state);
        if matches!(state, Some(State::Serving | State::Quarantined)) {
            self.trusts.offered_again(plugin);
        }
    }

    fn parts_now(&self, config_map: &str, text: Option<Arc<str>>) -> PartsNow {
        let mut known = self.known();
        let Some(text) = text else {
            known.seen.remove(config_map);
            known.agenda.forget(config_map);
            return known.parts.gone(config_map);
        };
        known.parts.offer(text).unwrap_or_else(|refusal| {
            warn!(config_map, %refusal, "this ConfigMap is no plugin; mend its label");
            known.seen.remove(config_map);
            known.parts.gone(config_map)
        })
    }

    pub(super) async fn try_whole(self: &Arc<Self>, ticket: &Ticket, whole: Whole) {
        let (this, attempt, of) = (self.clone(), ticket.clone(), whole.clone());
        // A new version has the old one serve meanwhile, and the others; the first one is waited for.
        let serves = self.catalogue.get(&ticket.plugin).is_some();
        let loaded = blocking(move || {
            let load = || {
                refused_if_it_panics(|| {
                    let source = this.unpack(&of)?;
                    let step = Step::Checked { digest: source.digest.clone(), key: Some(source.key) };
                    let mut progress = |step| {
                        this.known().registry.step(&attempt, step, Timestamp::now());
                        this.states.notify_one();
                    };
                    progress(step);
                    let remark = this.trusts.judge(&source, Which::Offered)?;
                    this.watches.room(&attempt.plugin, &source.digest)?;
                    let loaded = this.loader().load_in_steps(&source, &attempt.plugin, &mut progress)?;
                    Ok(loaded.remarked(remark))
                })
            };
            if serves { in_no_hurry(load) } else { load() }
        });
        let loaded = loaded.await.unwrap_or_else(|| Err(mistake()));
        if loaded.is_ok() && whole.parts() > 1 {
            self.known().wholes.insert(ticket.plugin.clone(), whole);
        }
        self.end(ticket, loaded);
    }

    pub(super) fn unpack(&self, whole: &Whole) -> Result<Source, Refusal> {
        whole.source(self.loader().limits(), self.loader().maxima())
    }

    fn end(&self, ticket: &Ticket, loaded: Result<Plugin, Refusal>) {
        let changes = self.known().registry.finish(ticket, loaded, Timestamp::now());
        self.carry_out(changes);
        self.states.notify_one();
    }

    /// Not all of it is there. What is missing may be under way.
    fn incomplete(&self, ticket: &Ticket, refusal: Refusal) {
        self.known().registry.step(ticket, Step::Waiting(refusal.clone()), Timestamp::now());
        self.later(PARTS_COME_WITHIN, Overdue::Ends(ticket.clone(), refusal));
    }

    pub(super) async fn overdue(self: Arc<Self>, what: Overdue, writer: Arc<Writer>) {
        match what {
            Overdue::Ends(ticket, refusal) => {
                self.end(&ticket, Err(refusal));
                self.fall_back(&ticket, &writer).await;
            }
            Overdue::Again(config_map) => {
                self.known().agenda.told(&config_map, None, Told::There, Instant::now());
                self.news.notify_one();
            }
        }
    }
}

/// A ConfigMap as it is now; `None`: it is gone, which the watch tells as well. While the API
/// server cannot be reached this goes on: a plugin that was found but not read has not settled.
async fn read(config_map: &str, writer: &Writer) -> Option<Arc<str>> {
    let name = config_map.rsplit('/').next().unwrap_or_default();
    loop {
        match writer.config_map(name).await {
            Ok(text) => return text,
            Err(error) => {
                warn!(config_map, %error, "a plugin's ConfigMap cannot be read; trying again");
                tokio::time::sleep(READ_AGAIN).await;
            }
        }
    }
}

/// The nice level of what is done for a plugin that already serves: nobody waits for it.
const IN_NO_HURRY: i32 = 10;

/// Does `work` on a thread that is behind all others of this machine, and so is every thread and process that it starts; on
/// this one, which waits for it, where there is no thread to be had.
fn in_no_hurry<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let work = Mutex::new(Some(work));
    let take = || work.lock().unwrap_or_else(PoisonError::into_inner).take().expect("it is done once");
    std::thread::scope(|threads| {
        let thread = std::thread::Builder::new().name("in-no-hurry".into()).spawn_scoped(threads, || {
            // Where the pod's own filter denies it everybody stays equal.
            let _denied = rustix::process::setpriority_process(None, IN_NO_HURRY);
            take()()
        });
        match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => take()(),
        }
    })
}

/// Runs what blocks on a thread that may. `None`: it panicked, which is logged.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Some(done),
        Err(error) => {
            error!(%error, "looking at a plugin failed by a mistake of the host; please report this log");
            None
        }
    }
}

/// A mistake of ours or of the compiler's is this component's refusal: without an end
/// its plugin would never settle, and the replica never be ready.
pub(super) fn refused_if_it_panics<T>(load: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
    catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|_| Err(mistake()))
}

fn mistake() -> Refusal {
    Refusal::new(Code::CompileFailed, "loading it ended by a mistake of the host; please report its log")
}

/// A ConfigMap without its data.
pub(super) fn bare(text: &str) -> Option<Object> {
    #[derive(serde::Deserialize)]
    struct Bare<'a> {
        #[serde(borrow)]
        metadata: &'a serde_json::value::RawValue,
    }
    let bare: Bare<'_> = serde_json::from_str(text).ok()?;
    Object::parse(&config_map_gvk(), &format!(r#"{{"metadata":{}}}"#, bare.metadata)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_waits_for_is_done_behind_all_others() {
        let here = rustix::thread::gettid();
        let (level, thread) = in_no_hurry(|| {
            (rustix::process::getpriority_process(None).expect("a level"), rustix::thread::gettid())
        });
        assert_eq!(level, IN_NO_HURRY);
        assert_ne!(thread, here);
        let left = rustix::process::getpriority_process(None).expect("a level");
        assert!(left < IN_NO_HURRY, "this one is as it was");
        assert!(catch_unwind(|| in_no_hurry(|| panic!("on purpose"))).is_err());
    }
}

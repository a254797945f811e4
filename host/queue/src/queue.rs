//! The queue itself: the machine behind a lock, with a clock, chance and wake-ups.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use windlass_core::backoff::Backoff;
use windlass_core::key::Key;
use windlass_core::name::PluginName;
use windlass_core::ports::Sink;
use windlass_core::urgency::Urgency;

use crate::entry::Ended;
use crate::lanes::{Lanes, Rate};
use crate::running::Running;
use crate::state::{Sizes, State, Stats, Waiting};
use crate::view::View;

/// How a queue behaves.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Pauses after failures in a row. Default 100 ms, doubling to 5 min.
    pub backoff: Backoff,
    /// The shortest pause after a failure that an event can bring about, which
    /// grows while each failure follows an event. Default 100 ms, doubling to 5 s:
    /// a mended object is looked at after at most so long.
    pub hurry: Backoff,
    /// Whether the queue begins paused. Default false.
    pub paused: bool,
    /// Whether the queue begins as a standby's, see [`Queue::stand_by`]. Default false.
    pub standby: bool,
    /// How many keys the caller works on at once. While there are several plugins, the last
    /// of these slots is only for a plugin that has none in work. Default `None`: not known.
    pub slots: Option<NonZeroUsize>,
    /// Keys of one plugin that may run at once while there are others; [`Queue::bound`]
    /// sets another number for one of them. A plugin that is the only one so far may
    /// have all slots. Default `None`: as many as the caller has slots; a host with
    /// several plugins wants [`half_of`] its slots.
    pub per_plugin: Option<NonZeroUsize>,
    /// Passes of one plugin that may begin in a second; whoever has begun so many waits, and
    /// nobody else. Default `None`: any number.
    pub rate: Option<Rate>,
}

/// Half of the slots, at least one: the bound of one plugin with which another still
/// finds a free slot, however slow the first one is.
pub const fn half_of(slots: usize) -> NonZeroUsize {
    match NonZeroUsize::new(slots / 2) {
        Some(half) => half,
        None => NonZeroUsize::MIN,
    }
}

const fn backoff(first: Duration, most: Duration) -> Backoff {
    match Backoff::try_new(first, most) {
        Ok(backoff) => backoff,
        Err(_) => panic!("the defaults are a valid backoff"),
    }
}

const BACKOFF: Backoff = backoff(Duration::from_millis(100), Duration::from_secs(300));
const HURRY: Backoff = backoff(Duration::from_millis(100), Duration::from_secs(5));

impl Default for Config {
    fn default() -> Self {
        Self {
            backoff: BACKOFF,
            hurry: HURRY,
            paused: false,
            standby: false,
            slots: None,
            per_plugin: None,
            rate: None,
        }
    }
}

/// Is told how long keys wait and work; for histograms. Called without the
/// queue's lock, on the task that takes or finishes a key: must not wait.
pub trait Observer: Send + Sync + 'static {
    /// A key was handed out after it had been ready for so long
    /// (`workqueue_queue_duration_seconds`).
    fn taken(&self, _key: &Key, _queued: Duration) {}
    /// A key came back after it had run for so long (`workqueue_work_duration_seconds`).
    fn finished(&self, _key: &Key, _worked: Duration) {}
}

/// An observer that keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}

/// Keys that something may have changed for. Shared through an [`Arc`].
pub struct Queue {
    state: Mutex<State>,
    /// Holds a permit when a waiter may find something new in `state`. Each
    /// waiter passes it on when it goes, so that one permit reaches all.
    wake: Notify,
    config: Config,
    observer: Box<dyn Observer>,
}

impl Queue {
    /// An empty queue that nobody observes.
    pub fn new(config: Config) -> Arc<Self> {
        Self::observed(config, Silent)
    }

    /// An empty queue that tells `observer` of its durations.
    pub fn observed(config: Config, observer: impl Observer) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new(
                config.paused,
                config.standby,
                Lanes::new(config.slots, config.per_plugin).with_rate(config.rate),
            )),
            wake: Notify::new(),
            config,
            observer: Box::new(observer),
        })
    }

    /// Waits for the next key and hands it out. How many run at once is up to the
    /// caller: it asks when it has room. While the queue is paused nothing comes.
    ///
    /// # Cancel safety
    /// A dropped call has taken no key.
    pub async fn next(self: &Arc<Self>) -> Running {
        let _baton = Baton(&self.wake);
        loop {
            let woken = self.wake.notified();
            let (taken, due) = {
                let mut state = self.lock();
                (state.take(Instant::now()), state.next_due())
            };
            if let Some(taken) = taken {
                self.observer.taken(&taken.key, taken.queued);
                return Running::new(self.clone(), taken, rand::random());
            }
            match due {
                None => woken.await,
                Some(due) => tokio::select! {
                    () = woken => {}
                    () = sleep_until(due) => {}
                },
            }
        }
    }

    /// Queues a key for which nothing is known to have changed, as
    /// [`offer_as`](Sink::offer_as) does with [`Urgency::Resync`].
    pub fn offer_resync(&self, key: Key) {
        self.put(key, Duration::ZERO, Urgency::Resync);
    }

    /// Queues a key for a later time. If it is queued for an earlier one already
    /// nothing changes.
    pub fn offer_after(&self, key: Key, after: Duration) {
        self.put(key, after, Urgency::Change);
    }

    /// Drops every key of a plugin that is gone, and its bound. A key that runs is
    /// dropped when its pass ends, unless it is offered again.
    pub fn forget_plugin(&self, plugin: &PluginName) {
        self.lock().forget_plugin(plugin);
        // Whoever is left alone may have more slots than before.
        self.wake.notify_one();
    }

    /// Lets at most `most` keys of a plugin run at once from now on, also while it is the
    /// only one; `None` brings back [`Config::per_plugin`]. Passes that run are not
    /// touched. Holds until the plugin is forgotten.
    pub fn bound(&self, plugin: &PluginName, most: Option<NonZeroUsize>) {
        self.lock().bound(plugin, most);
        self.wake.notify_one();
    }

    /// How many keys of a plugin may run at once now; `None` for as many as the caller
    /// has slots.
    pub fn bound_of(&self, plugin: &PluginName) -> Option<NonZeroUsize> {
        self.lock().bound_of(plugin)
    }

    /// Hands out nothing until [`resume`](Self::resume). Keys are still taken in,
    /// and passes that run are not touched.
    pub fn pause(&self) {
        self.lock().set_paused(true);
    }

    /// Hands out keys again.
    pub fn resume(&self) {
        self.lock().set_paused(false);
        self.wake.notify_one();
    }

    /// Whether nothing is handed out.
    pub fn is_paused(&self) -> bool {
        self.lock().is_paused()
    }

    /// This replica leads from now on, in a new term. What it found as a standby not to
    /// be where it should be is handed out first; then whatever changed a moment ago or
    /// failed when it was looked at last, without what is left of its backoff. Every
    /// other key stays where it is: a settled one costs nothing. Meant to be called
    /// after the gate has been opened; also when nobody told of an end between two terms.
    pub fn lead(&self) {
        self.lock().lead(Instant::now());
        self.wake.notify_one();
    }

    /// This replica only looks from now on: keys are handed out as ever, and one whose
    /// pass ends with [`Next::WhenLeading`](windlass_core::outcome::Next) rests until
    /// [`lead`](Self::lead) or the next change. Changes gather for a moment (100 ms), so
    /// that a key is not looked at more often than that. No key is lost.
    pub fn stand_by(&self) {
        self.lock().stand_by();
    }

    /// Whether this replica only looks.
    pub fn is_standing_by(&self) -> bool {
        self.lock().is_standing_by()
    }

    /// Keys that rest until this replica leads.
    pub fn parked(&self) -> usize {
        self.lock().sizes(Instant::now()).parked
    }

    /// Keys that are ready or parked now, for [`discard`](Self::discard): while the queue
    /// is paused nobody else finds out that an object is gone.
    pub fn waiting(&self) -> Vec<Waiting> {
        let mut state = self.lock();
        state.promote(Instant::now());
        state.waiting()
    }

    /// Drops a key that is still ready or parked, unless it has been offered again since
    /// [`waiting`](Self::waiting) listed it. Answers whether it was dropped.
    pub fn discard(&self, waiting: &Waiting) -> bool {
        self.lock().discard(waiting)
    }

    /// Keys that could be handed out now.
    pub fn depth(&self) -> usize {
        self.lock().sizes(Instant::now()).ready
    }

    /// Keys that wait for their time.
    pub fn delayed(&self) -> usize {
        self.lock().sizes(Instant::now()).delayed
    }

    /// Keys that run.
    pub fn in_flight(&self) -> usize {
        self.lock().sizes(Instant::now()).running
    }

    /// All keys: ready, delayed, running and parked.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers for each plugin that has keys or had any since it was forgotten
    /// last. Visits every entry: meant for a scrape.
    pub fn stats(&self) -> BTreeMap<PluginName, Stats> {
        self.lock().stats(Instant::now())
    }

    /// What `/debug/queue` shows: at most [`ROWS_MAX`](crate::ROWS_MAX) keys, those
    /// that run first, then by when they are due, then those that are parked.
    pub fn snapshot(&self) -> View {
        View::of(&mut self.lock(), Instant::now())
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// `error`: why it failed, if it did.
    pub(crate) fn finish(
        &self,
        running: &Running,
        ended: Ended,
        at_least: Option<Duration>,
        error: Option<&str>,
    ) {
        let now = Instant::now();
        {
            let mut state = self.lock();
            state.finish(running.key(), ended, at_least, now);
            if let (Ended::Backoff { .. }, Some(error)) = (ended, error) {
                state.explain(running.key(), error);
            }
        }
        self.wake.notify_one();
        self.observer.finished(running.key(), running.worked(now));
    }

    fn put(&self, key: Key, after: Duration, urgency: Urgency) {
        let now = Instant::now();
        self.lock().offer(key, now + after, urgency, now);
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock means that an `expect` above was wrong; the entries are
        // still the best that is known, and going on beats stopping all plugins.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Queue {
    fn offer_as(&self, key: Key, urgency: Urgency) {
        self.put(key, Duration::ZERO, urgency);
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sizes { ready, delayed, running, parked } = self.lock().sizes(Instant::now());
        write!(f, "Queue {{ {ready} ready, {delayed} delayed, {running} running, {parked} parked }}")
    }
}

/// Wakes the next waiter when this one goes, with a key or without: what woke it
/// may have been meant for more than one, or only for an earlier timer.
struct Baton<'a>(&'a Notify);

impl Drop for Baton<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

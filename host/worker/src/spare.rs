//! The spare share of memory: one turn at a time for whoever needs as much as a second worker.
//!
//! The pod's budget has room for the host, the shared worker and *one* more process. The compile
//! child and the worker of suspects take turns at it. Turns are given in the order in which they were
//! asked for; whoever holds one for long looks at [`Spare::wanted`] between two pieces of work
//! and gives it back, so that neither starves the other.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One share that is held by one at a time.
#[derive(Debug, Default)]
pub struct Spare {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    held: bool,
    closed: bool,
    /// Who waits, the first in front.
    waiting: VecDeque<u64>,
    next: u64,
}

/// The share; given back when dropped. Held until the process that uses it is gone.
#[derive(Debug)]
#[must_use = "the share is given back at once"]
pub struct Held(Arc<Spare>);

impl Spare {
    /// A share that nobody holds.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Waits for the share, until then or, with `None`, for as long as those in front need. `None`
    /// when the time is up or the share was closed.
    pub fn take(self: &Arc<Self>, until: Option<Instant>) -> Option<Held> {
        let mut state = self.lock();
        let me = state.next;
        state.next += 1;
        state.waiting.push_back(me);
        loop {
            let left = match until {
                Some(until) => until.saturating_duration_since(Instant::now()),
                // Woken when something changes; the bound is for form.
                None => Duration::from_secs(3600),
            };
            if !state.closed && !state.held && state.waiting.front() == Some(&me) {
                state.waiting.pop_front();
                state.held = true;
                return Some(Held(Arc::clone(self)));
            }
            if state.closed || left.is_zero() {
                state.waiting.retain(|other| *other != me);
                // Whoever was behind may be in front now.
                self.changed.notify_all();
                return None;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether somebody waits for it.
    pub fn wanted(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// Gives no more turns: everybody who waits, or will, gets `None` at once.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.lock().held = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_holds_it_at_a_time_and_everybody_gets_a_turn() {
        let (spare, inside, turns) = (Spare::new(), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    for _ in 0..50 {
                        let _held = spare.take(None).expect("a turn");
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        turns.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(turns.into_inner(), 400);
        assert!(!spare.wanted());
    }

    #[test]
    fn turns_come_in_the_order_in_which_they_were_asked_for() {
        let (spare, order) = (Spare::new(), Mutex::new(Vec::new()));
        let first = spare.take(None).expect("free");
        std::thread::scope(|threads| {
            for number in 0..4 {
                threads.spawn({
                    let (spare, order) = (&spare, &order);
                    move || {
                        let _held = spare.take(None).expect("a turn");
                        order.lock().expect("unpoisoned").push(number);
                    }
                });
                while spare.lock().waiting.len() <= number {
                    std::thread::yield_now();
                }
            }
            assert!(spare.wanted());
            drop(first);
        });
        assert_eq!(*order.lock().expect("unpoisoned"), [0, 1, 2, 3]);
    }

    #[test]
    fn nobody_waits_longer_than_they_said_or_for_what_is_closed() {
        let spare = Spare::new();
        let held = spare.take(None).expect("free");
        assert!(spare.take(Some(Instant::now())).is_none());
        assert!(!spare.wanted(), "gone again");
        std::thread::scope(|threads| {
            let waiting = threads.spawn(|| spare.take(None));
            while !spare.wanted() {
                std::thread::yield_now();
            }
            spare.close();
            assert!(waiting.join().expect("no panic").is_none());
        });
        drop(held);
        assert!(spare.take(None).is_none());
    }
}

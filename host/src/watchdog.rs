//! Ends the process when work does not stop although the claim has ended.
//!
//! A replica that loses its claim becomes a standby in place. That is only safe while the
//! parts that have to stop do run: the lease's thread closes the gate, timers end requests.
//! So somebody looks who shares nothing with them: a thread of its own, with a clock of
//! its own, that waits for nobody.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use windlass_core::claim::{BootClock, Gate};
use windlass_lease::clock::Boottime;

/// How often it looks.
const EVERY: Duration = Duration::from_millis(250);

/// So many looks in a row have to find the same before it acts: a process that was frozen
/// finds everything overdue when it wakes, and gets this long to put it right.
const PATIENCE: u32 = 8;

/// The running thread. Dropping it ends the thread.
pub(crate) struct Watchdog {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What is wrong, once it has been wrong for long enough.
#[derive(Debug, Default)]
struct Judge {
    looks: u32,
}

impl Watchdog {
    /// Starts the thread. When work does not stop it calls `end` with a sentence, which
    /// must end the process: nothing else can be relied on then.
    pub(crate) fn start(gate: Arc<Gate>, end: fn(String)) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            let mut judge = Judge::default();
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                if let Some(why) = judge.look(&gate, &Boottime) {
                    end(why);
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has no way to panic but one in `end`, which does not return.
            let _ = thread.join();
        }
    }
}

impl Judge {
    fn look(&mut self, gate: &Gate, clock: &dyn BootClock) -> Option<String> {
        let now = clock.now();
        let wrong = match (gate.overdue(now), gate.left_open(now)) {
            (Some(by), _) => Some(format!("a write has not stopped {by:?} after its deadline")),
            (None, Some(by)) => Some(format!("nobody has closed the gate {by:?} after the claim ended")),
            (None, None) => None,
        };
        self.looks = if wrong.is_some() { self.looks + 1 } else { 0 };
        wrong.filter(|_| self.looks >= PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use windlass_core::claim::{BootTime, Claim, Term};

    struct Hand(AtomicU64);

    impl BootClock for Hand {
        fn now(&self) -> BootTime {
            BootTime(0).plus(Duration::from_secs(self.0.load(Ordering::Relaxed)))
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn claim() -> Claim {
        Claim { holder: "a".into(), term: Term(1), ends: BootTime(0).plus(10 * SECOND) }
    }

    fn looks(judge: &mut Judge, gate: &Gate, clock: &Hand, count: u32) -> Option<String> {
        (0..count).filter_map(|_| judge.look(gate, clock)).last()
    }

    #[test]
    fn a_gate_that_is_closed_in_time_is_nobodys_business() {
        let (gate, clock, mut judge) = (Gate::new(), Hand(AtomicU64::new(0)), Judge::default());
        gate.open(claim(), BootTime(0));
        assert_eq!(looks(&mut judge, &gate, &clock, 100), None);
        clock.0.store(20, Ordering::Relaxed);
        assert_eq!(looks(&mut judge, &gate, &clock, PATIENCE - 1), None, "it has just woken up");
        gate.close();
        assert_eq!(looks(&mut judge, &gate, &clock, 100), None);
    }

    #[test]
    fn a_lease_that_does_not_close_its_gate_ends_the_process() {
        let (gate, clock, mut judge) = (Gate::new(), Hand(AtomicU64::new(0)), Judge::default());
        gate.open(claim(), BootTime(0));
        clock.0.store(20, Ordering::Relaxed);
        let why = looks(&mut judge, &gate, &clock, PATIENCE).expect("it says so");
        assert_eq!(why, "nobody has closed the gate 10s after the claim ended");
    }

    #[test]
    fn a_write_that_does_not_end_ends_the_process() {
        let (gate, clock, mut judge) = (Gate::new(), Hand(AtomicU64::new(0)), Judge::default());
        gate.open(claim(), BootTime(0));
        let stuck = gate.permit(&claim(), clock.now(), SECOND, SECOND).expect("open");
        gate.close();
        clock.0.store(4, Ordering::Relaxed);
        let why = looks(&mut judge, &gate, &clock, PATIENCE).expect("it says so");
        assert_eq!(why, "a write has not stopped 3s after its deadline");
        drop(stuck);
        assert_eq!(looks(&mut judge, &gate, &clock, 100), None);
    }
}

//! Time: how much a call has used, and the clock that it sees.
//!
//! CPU time is what counts, so that a busy or throttled machine does not make
//! good plugins look bad; wall time is bounded too. Both are only looked at when
//! the epoch moves.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use wasmtime::{Error, Result};
use windlass_core::code::{Code, Refusal};

use crate::courtesy::Courtesy;
use crate::ticker::TICK;

/// Wall time of a call as a multiple of its CPU time: 2 s by default.
const WALL_PER_CPU: u32 = 2;

/// CPU time for which a call that keeps growing may put off stepping back.
const GROWS_FOR: Duration = Duration::from_millis(64);

/// The time that one call may use. Lives on the thread that runs the call.
#[derive(Debug)]
pub(crate) struct Budget {
    cpu: Duration,
    cpu_start: Duration,
    wall_start: Instant,
    /// What is still to be done once the call has taken long.
    courtesy: Option<Courtesy>,
    has_stepped_back: bool,
    /// Bytes of memory that it held at the last look.
    memory_bytes: usize,
}

impl Budget {
    /// Begins now, on this thread.
    pub(crate) fn start(cpu: Duration, courtesy: Option<Courtesy>) -> Self {
        Self {
            cpu,
            cpu_start: thread_cpu(),
            wall_start: Instant::now(),
            courtesy,
            has_stepped_back: false,
            memory_bytes: 0,
        }
    }

    /// Whether the call's thread is behind all others by now.
    pub(crate) fn has_stepped_back(&self) -> bool {
        self.has_stepped_back
    }

    /// CPU time used so far.
    pub(crate) fn used(&self) -> Duration {
        thread_cpu().saturating_sub(self.cpu_start)
    }

    /// Ticks after which it is worth looking again, for a call that holds so many bytes of memory. One that has taken long steps
    /// back, but not as long as it grows: whoever waits for a processor while it holds the lock on the process's
    /// memory map has everybody wait.
    ///
    /// # Errors
    /// E202 when the time is used up.
    pub(crate) fn look(&mut self, memory_bytes: usize) -> Result<u64> {
        let used = self.used();
        let grows = memory_bytes > std::mem::replace(&mut self.memory_bytes, memory_bytes);
        let wall = self.wall_start.elapsed();
        let wall_limit = self.cpu * WALL_PER_CPU;
        if used < self.cpu && wall < wall_limit {
            let mut left = (self.cpu - used).min(wall_limit - wall);
            if let Some(courtesy) = self.courtesy {
                match courtesy.after.checked_sub(used) {
                    Some(patience) if !patience.is_zero() => left = left.min(patience),
                    _ if grows && used < GROWS_FOR => left = left.min(TICK),
                    _ => {
                        self.courtesy = None;
                        self.has_stepped_back = true;
                        (courtesy.step_back)(self.wall_start + wall_limit, used);
                    }
                }
            }
            return Ok(u64::try_from(left.as_nanos() / TICK.as_nanos()).unwrap_or(u64::MAX).max(1));
        }
        Err(Error::new(Refusal::new(
            Code::Timeout,
            format!(
                "still running after {:.2} s of CPU time and {:.2} s of wall time, limits {:?} and {wall_limit:?}",
                used.as_secs_f64(),
                wall.as_secs_f64(),
                self.cpu,
            ),
        )))
    }
}

/// CPU time of this thread.
fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or_default(),
        u32::try_from(now.tv_nsec).unwrap_or_default(),
    )
}

/// The clock that a guest sees: it stands still at the start of the pass.
#[derive(Debug)]
pub(crate) struct StandingClock {
    wall: Duration,
    read: bool,
}

impl StandingClock {
    /// Stands at `wall` since 1970.
    pub(crate) fn at(wall: Duration) -> Self {
        Self { wall, read: false }
    }

    /// Time since 1970, remembered as asked for.
    pub(crate) fn read(&mut self) -> Duration {
        self.read = true;
        self.wall
    }

    /// Whether the guest has asked: then its decision depends on when it was made.
    pub(crate) fn was_read(&self) -> bool {
        self.read
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static STEPPED_BACK: Cell<u32> = const { Cell::new(0) };
    }

    fn spin(budget: &Budget, cpu: Duration) {
        while budget.used() < cpu {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn a_call_that_takes_long_steps_back_once() {
        let courtesy = Courtesy {
            after: Courtesy::AFTER,
            step_back: |until, used| {
                assert!(used >= Courtesy::AFTER && until > Instant::now());
                STEPPED_BACK.set(STEPPED_BACK.get() + 1);
            },
        };
        let mut budget = Budget::start(Duration::from_secs(10), Some(courtesy));
        let ticks = budget.look(0).expect("just begun");
        assert!((1..=4).contains(&ticks), "the next look is when it might be long: {ticks}");
        spin(&budget, Courtesy::AFTER / 2);
        assert!((1..=2).contains(&budget.look(0).expect("time left")));
        assert_eq!(STEPPED_BACK.get(), 0);
        for _ in 0..3 {
            spin(&budget, Courtesy::AFTER);
            assert!(budget.look(0).expect("time left") > 1000, "there is nothing to look for soon");
        }
        assert_eq!(STEPPED_BACK.get(), 1);
    }

    #[test]
    fn a_call_that_grows_does_not_step_back_meanwhile() {
        let courtesy = Courtesy {
            after: Courtesy::AFTER,
            step_back: |_, used| {
                assert!(used >= Courtesy::AFTER);
                STEPPED_BACK.set(STEPPED_BACK.get() + 1);
            },
        };
        let mut budget = Budget::start(Duration::from_secs(10), Some(courtesy));
        for memory in 1..4 {
            spin(&budget, Courtesy::AFTER + TICK * memory);
            assert_eq!(budget.look(memory as usize).expect("time left"), 1, "it may be over soon");
            assert!(!budget.has_stepped_back());
        }
        budget.look(3).expect("time left");
        assert_eq!((STEPPED_BACK.get(), budget.has_stepped_back()), (1, true));
        let mut endless = Budget::start(Duration::from_secs(10), Some(courtesy));
        spin(&endless, GROWS_FOR);
        endless.look(1).expect("time left");
        assert!(endless.has_stepped_back(), "one that grows all the time");
    }

    #[test]
    fn time_that_is_left_is_given_back_as_ticks() {
        let left = Budget::start(Duration::from_secs(10), None).look(0).expect("just begun");
        assert!((4900..=5000).contains(&left), "{left}");
        let error = Budget::start(Duration::ZERO, None).look(0).expect_err("nothing to use");
        assert_eq!(error.downcast_ref::<Refusal>().expect("ours").code, Code::Timeout);
    }
}

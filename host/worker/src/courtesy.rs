//! Courtesy: a call that takes long steps back behind all others on this machine.
//!
//! Most calls take less than a millisecond, and wait for a processor for longer than that when another call
//! loops beside them. So a thread whose call has had its share of CPU time goes to a nice level: it gets what
//! nobody else needs and a tenth of a share besides, never nothing. That cannot be taken back without rights.
//! The thread goes when its call ends, and the lane goes on with another one that was started at normal
//! priority.
//!
//! A call of which there is no reason to think that it ends in time, because its plugin has used up its
//! time and not shown better since, goes to `SCHED_IDLE` instead: whoever wakes up then runs at once, while a thread that is only nice
//! first uses up its slice of some milliseconds. What holds others up all the same is what the two share in the kernel, the map of the
//! process's memory: so no call steps back while its memory grows, and what is left of one that has is given back by a
//! thread of normal priority (`windlass_plugin`). On a busy machine it may wait for seconds, which would be wrong for
//! a plugin that works; its deadline is looked at by somebody else meanwhile.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::served::Voice;

/// The nice level of a thread that has stepped back: a tenth of the share of a thread at normal priority. The filter of
/// system calls lets no other level through.
pub(crate) const NICE: i32 = 10;

thread_local! {
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

struct Here {
    voice: Arc<Voice>,
    is_suspect: bool,
    has_stepped_back: bool,
}

/// This thread speaks on a lane for as long as this lives.
#[must_use = "forgotten at once"]
pub(crate) struct Speaks;

/// Puts this thread behind those of normal priority for the rest of its call, which has used `used` of CPU time so
/// far. Should the call not end itself by `until`, its wall time, a thread of normal priority answers
/// for it with E202. Does nothing on a thread that serves no lane.
pub fn step_back(until: Instant, used: Duration) {
    HERE.with_borrow_mut(|here| {
        let Some(here) = here else { return };
        // Where the pod's own filter denies it everybody stays equal.
        here.has_stepped_back |= here.is_suspect && to_the_end().is_ok();
        here.has_stepped_back |= rustix::process::setpriority_process(None, NICE).is_ok();
        here.voice.watch(until, used);
    });
}

pub(crate) fn speaks_for(voice: &Arc<Voice>) -> Speaks {
    HERE.set(Some(Here { voice: Arc::clone(voice), is_suspect: false, has_stepped_back: false }));
    Speaks
}

/// A call is about to be made on this thread.
pub(crate) fn is_asked(suspect: bool) {
    HERE.with_borrow_mut(|here| {
        if let Some(here) = here {
            here.is_suspect = suspect;
        }
    });
}

/// Has this thread run when nobody else wants to.
#[allow(unsafe_code)]
fn to_the_end() -> io::Result<()> {
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads one parameter, which lives here. By number, because one C library has no more than
    // the name of it.
    let done =
        unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_IDLE, &raw const priority) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether this thread is not what it was when it began.
pub(crate) fn has_stepped_back() -> bool {
    HERE.with_borrow(|here| here.as_ref().is_some_and(|here| here.has_stepped_back))
}

impl Drop for Speaks {
    fn drop(&mut self) {
        HERE.set(None);
    }
}

//! Relief: a thread that runs no guest, and so is always at normal priority.
//!
//! It starts the threads that go on where one has stepped back (they inherit its priority), and answers for
//! calls whose time is over although their own thread, behind everybody else, has not come to see it.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::frame::Buffer;
use crate::served::{AnsweredFor, Served, Voice, or_die};

/// Stack of the thread: it calls nothing deep, and all of it counts as data of the process.
const STACK_BYTES: usize = 128 << 10;
/// Jobs that wait. When there are more, a call that is to be watched is not, and a thread that is to be relieved goes on.
const JOBS_MAX: usize = 256;
/// How long after its time a call may still answer for itself: it knows more.
const GRACE: Duration = Duration::from_millis(10);
/// How long until another look at a call that could not be answered for.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Calls that were answered for and have not ended yet, at most: each has a stack and a guest's memory. Further ones
/// are waited for, and what then is not answered in time costs this process its life.
const SILENCED_MAX: usize = 8;

/// Where jobs for the thread go.
#[derive(Clone)]
pub(crate) struct Relief(SyncSender<Job>);

enum Job {
    TakeOver { lane: Arc<Served>, frame: Buffer, back: SyncSender<Result<(), Buffer>> },
    Watch(Watched),
}

/// A call that is to be answered for when its time is over.
pub(crate) struct Watched {
    voice: Weak<Voice>,
    call: u64,
    until: Instant,
    used: Duration,
    look: Instant,
}

impl Watched {
    pub(crate) fn new(voice: Weak<Voice>, call: u64, until: Instant, used: Duration) -> Self {
        Self { voice, call, until, used, look: until + GRACE }
    }
}

impl Relief {
    /// Starts the thread, which must have normal priority: so must whoever calls this.
    ///
    /// # Errors
    /// The system's: no thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (jobs, todo) = sync_channel(JOBS_MAX);
        let thread = std::thread::Builder::new().name("relief".into()).stack_size(STACK_BYTES);
        // Ends with the process: lanes hold the other end.
        let _ends_with_the_process = thread.spawn(move || or_die(|| attend(&todo)))?;
        Ok(Self(jobs))
    }

    /// Has a new thread say `frame` and serve the lane.
    ///
    /// # Errors
    /// The frame: there is no room for a thread.
    pub(crate) fn take_over(&self, lane: &Arc<Served>, frame: Buffer) -> Result<(), Buffer> {
        let (back, came) = sync_channel(1);
        match self.0.try_send(Job::TakeOver { lane: Arc::clone(lane), frame, back }) {
            Ok(()) => came.recv().expect("the thread answers each job or the process ends"),
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => match job {
                Job::TakeOver { frame, .. } => Err(frame),
                Job::Watch(_) => unreachable!("this job came back"),
            },
        }
    }

    /// Has a call answered for when its time is over.
    pub(crate) fn watch(&self, watched: Watched) {
        // Full: it answers for itself, somewhat late.
        let _full = self.0.try_send(Job::Watch(watched));
    }
}

fn attend(todo: &Receiver<Job>) {
    let mut watched: Vec<Watched> = Vec::new();
    let mut silenced: Vec<Weak<Voice>> = Vec::new();
    loop {
        let job = match watched.iter().map(|watched| watched.look).min() {
            Some(next) => todo.recv_timeout(next.saturating_duration_since(Instant::now())),
            None => todo.recv().map_err(RecvTimeoutError::from),
        };
        match job {
            Ok(Job::TakeOver { lane, frame, back }) => {
                let started = lane.start(Some(frame));
                let started = started.map_err(|frame| frame.expect("it comes back"));
                let _waits_for_it = back.send(started);
            }
            Ok(Job::Watch(more)) => watched.push(more),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        silenced.retain(|voice| voice.strong_count() > 0);
        watched.retain_mut(|watched| is_still_watched(watched, &mut silenced));
    }
}

/// Looks at one call, and answers for it if it is time.
fn is_still_watched(watched: &mut Watched, silenced: &mut Vec<Weak<Voice>>) -> bool {
    let Some(voice) = watched.voice.upgrade() else { return false };
    let now = Instant::now();
    if now < watched.look {
        return voice.is_at(watched.call);
    }
    let answered = match silenced.len() < SILENCED_MAX {
        true => voice.answer_for(watched.call, watched.until, watched.used),
        false if voice.is_at(watched.call) => AnsweredFor::NotYet,
        false => AnsweredFor::Nobody,
    };
    match answered {
        AnsweredFor::It => silenced.push(Weak::clone(&watched.voice)),
        AnsweredFor::NotYet => watched.look = now + LOOK_AGAIN,
        AnsweredFor::Nobody => {}
    }
    matches!(answered, AnsweredFor::NotYet)
}

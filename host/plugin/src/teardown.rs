//! Teardown: a thread of normal priority that drops what is left of a call whose own thread has stepped back.
//!
//! To give a guest's memory back the kernel locks the map of the whole process, and that lock knows no priorities.
//! A thread behind all others that is preempted while it holds the lock keeps every other call from
//! mapping its memory for as long as a busy machine likes: hundreds of milliseconds were measured.

use std::any::Any;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

/// Calls that wait for it; each waits with its own thread.
const JOBS_MAX: usize = 64;
/// Stack of the thread: no guest runs on it.
const STACK_BYTES: usize = 128 << 10;

/// Owns the thread. Dropping it ends and joins the thread.
#[derive(Debug)]
pub(crate) struct Teardown {
    /// Nothing only while it is dropped.
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Job {
    left: Box<dyn Any + Send>,
    /// Closed when it is done.
    done: SyncSender<()>,
}

impl Teardown {
    /// Starts the thread, with the priority of the one that calls this.
    ///
    /// # Errors
    /// The system's: no thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (jobs, todo) = sync_channel(JOBS_MAX);
        let thread =
            Builder::new().name("teardown".into()).stack_size(STACK_BYTES).spawn(move || work(&todo))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Has `left` dropped there, and waits until it is: its memory counts until then.
    pub(crate) fn drop(&self, left: impl Any + Send) {
        let (done, is_done) = sync_channel(0);
        let job = Job { left: Box::new(left), done };
        if let Some(jobs) = &self.jobs {
            // A thread that is gone gives the job back, and it is dropped here.
            let _gone = jobs.send(job);
            let _closed = is_done.recv();
        }
    }
}

impl Drop for Teardown {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn work(todo: &Receiver<Job>) {
    for Job { left, done } in todo {
        drop(left);
        drop(done);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    struct Says(std::sync::mpsc::Sender<String>);

    impl Drop for Says {
        fn drop(&mut self) {
            let name = thread::current().name().unwrap_or_default().to_owned();
            self.0.send(name).expect("somebody listens");
        }
    }

    #[test]
    fn what_is_handed_over_is_dropped_there_before_the_caller_goes_on() {
        let teardown = Teardown::start().expect("a thread");
        let (say, said) = channel();
        teardown.drop(Says(say.clone()));
        assert_eq!(said.try_recv().expect("it is done"), "teardown");
        drop(teardown);
        assert!(said.try_recv().is_err(), "once");
    }
}

//! The tasks of one port. They outlive the connections that began them, and end with the port.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::runtime::runtime;

/// How many tasks a port may have at once: connections, requests on their way, streams of h2. More than any test means to have.
const LIMIT: usize = 8192;

/// A set of tasks on the testbed's runtime that can be ended together. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Tasks {
    runtime: Handle,
    /// `None` once they were ended.
    set: Arc<Mutex<Option<JoinSet<()>>>>,
}

impl Tasks {
    pub(super) fn new() -> Result<Self> {
        let set = Arc::new(Mutex::new(Some(JoinSet::new())));
        Ok(Self { runtime: runtime()?.handle().clone(), set })
    }

    /// Runs a future unless there are too many or the end has come; then it is dropped, which its caller sees by what it held.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(set) = set.as_mut() else { return };
        while set.try_join_next().is_some() {}
        if set.len() < LIMIT {
            set.spawn_on(task, &self.runtime);
        }
    }

    /// Ends all of them.
    pub(super) fn end(&self) {
        let set = self.set.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Outside the lock: what is dropped with a task may ask for another one.
        drop(set);
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.spawn(async move { drop(future.await) });
    }
}

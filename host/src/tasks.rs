//! The only spawner: every task has a name, is joined, and ends the process when it
//! ends before it was told to.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::task::{Id, JoinSet};

/// The tasks of this process.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    running: JoinSet<Result<(), String>>,
    names: Vec<(Id, &'static str)>,
}

/// A task that ended although nobody had asked it to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EndedEarly {
    /// Its name.
    pub(crate) task: &'static str,
    /// How: it returned, failed or panicked.
    pub(crate) how: String,
}

impl fmt::Display for EndedEarly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {:?} ended early: {}", self.task, self.how)
    }
}

impl Tasks {
    /// Starts a task. It ends by itself only after shutdown has begun.
    pub(crate) fn spawn<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let handle = self.running.spawn(task);
        self.names.push((handle.id(), name));
    }

    /// Waits for the first task that ends. Cancel safe.
    pub(crate) async fn first_to_end(&mut self) -> EndedEarly {
        match self.running.join_next_with_id().await {
            Some(Ok((id, result))) => {
                EndedEarly { task: self.name(id), how: result.err().unwrap_or_else(|| "it returned".into()) }
            }
            Some(Err(error)) => EndedEarly { task: self.name(error.id()), how: error.to_string() },
            None => std::future::pending().await,
        }
    }

    /// Joins every task; what still runs after `deadline` is aborted and named.
    pub(crate) async fn join_all(mut self, deadline: Duration) -> Result<(), Vec<&'static str>> {
        let joined = tokio::time::timeout(deadline, async {
            while let Some(ended) = self.running.join_next_with_id().await {
                let id = ended.map_or_else(|e| e.id(), |(id, _)| id);
                self.names.retain(|(known, _)| *known != id);
            }
        });
        if joined.await.is_ok() {
            return Ok(());
        }
        self.running.shutdown().await;
        Err(self.names.into_iter().map(|(_, name)| name).collect())
    }

    fn name(&self, id: Id) -> &'static str {
        self.names.iter().find(|(known, _)| *known == id).map_or("unnamed", |(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_named() {
        let mut tasks = Tasks::default();
        tasks.spawn("quiet", std::future::pending());
        tasks.spawn("loud", async { panic!("as the test wants") });
        let ended = tasks.first_to_end().await;
        assert_eq!(ended.task, "loud");
        assert!(ended.how.contains("panic"), "{ended}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_in_time_is_named_and_aborted() {
        let mut tasks = Tasks::default();
        tasks.spawn("slow", std::future::pending());
        tasks.spawn("quick", async { Ok(()) });
        assert_eq!(tasks.join_all(Duration::from_secs(1)).await, Err(vec!["slow"]));
    }
}

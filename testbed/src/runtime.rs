//! The one runtime that the testbed works on, apart from its callers' runtimes.
//!
//! A caller may pause its clock, run single-threaded, or end its runtime between two tests that share a control plane. None of
//! that may stop a server from being waited for, so what the testbed does runs here and callers await the result.

use std::future::Future;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};
use tokio::runtime::{Builder, Runtime};

/// The runtime, made when it is first needed. It lives as long as the process: dropping one inside another is a panic.
pub(crate) fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let build = || Builder::new_multi_thread().worker_threads(2).thread_name("testbed").enable_all().build();
    RUNTIME
        .get_or_init(build)
        .as_ref()
        .map_err(|error| anyhow!("the testbed's runtime could not be made: {error}"))
}

/// Runs a future on it. Dropping the result aborts the work.
pub(crate) async fn on_runtime<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn_on(work, runtime()?.handle());
    tasks.join_next().await.context("one task was started")?.context("the testbed's work was cut off")?
}

/// The same for a caller that cannot await: blocks its thread.
pub(crate) fn block_on<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let (reply, answer) = std::sync::mpsc::sync_channel(1);
    // Joined through the channel: the sender is dropped with the task, whatever becomes of it.
    drop(runtime()?.spawn(async move { reply.send(work.await).ok() }));
    answer.recv().context("the testbed's work was cut off")?
}

/// Runs blocking work on the runtime's pool.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    runtime()?.spawn_blocking(work).await.context("the testbed's work was cut off")?
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_callers_paused_clock_is_not_ours() {
        let started = std::time::Instant::now();
        on_runtime(async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(())
        })
        .await
        .unwrap();
        assert!(started.elapsed() >= Duration::from_millis(20));
    }

    #[tokio::test]
    async fn blocking_inside_a_callers_runtime_is_no_deadlock() {
        assert_eq!(block_on(async { Ok(7) }).unwrap(), 7);
    }
}

//! Calls that no thread waits for.

use std::time::Duration;

use tokio::runtime::Builder;
use windlass_core::code::Code;
use windlass_core::decision::Verdict;
use windlass_core::guests::{Called, Guests as _};

use crate::scene::{Scene, call, shelf, until};

fn children(called: Called) -> Vec<String> {
    match called.result {
        Ok(Verdict::Decision(decision)) => decision.children,
        other => panic!("{other:?}"),
    }
}

/// Threads of this process.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("listed").count()
}

pub(crate) fn a_call_needs_no_thread_that_blocks() {
    let scene = Scene::narrow();
    let load = scene.load("web");
    let runtime =
        Builder::new_current_thread().enable_all().max_blocking_threads(1).build().expect("a runtime");
    let (free, taken) = std::sync::mpsc::channel::<()>();
    // The only thread that may block has something else to do.
    let taken = runtime.spawn_blocking(move || taken.recv());
    runtime.block_on(async {
        let threads_before = threads();
        for script in ["answer", "get:a", "flood:1000", "get:secret"] {
            let pending = scene.pool.begin(&call(load, script), &shelf()).expect("a lane is free");
            let answered = tokio::time::timeout(Duration::from_secs(20), pending).await;
            let called = answered.expect("in time").expect("an answer");
            match script {
                "answer" => assert_eq!(children(called), ["ns/a"]),
                "get:a" => assert_eq!(children(called), ["ns/a"]),
                "flood:1000" => assert!(children(called).is_empty()),
                _ => assert!(called.result.is_err_and(|error| error.to_string().contains("E231"))),
            }
        }
        assert_eq!(threads(), threads_before);
    });
    drop(free);
    assert!(runtime.block_on(taken).expect("joined").is_err());
    assert_eq!((scene.pool.status().lanes, scene.pool.status().in_flight), (1, 0));
}

pub(crate) fn what_nobody_waits_for_any_more_ends_and_its_lane_is_used_again() {
    let scene = Scene::narrow();
    let (load, pid) = (scene.load("web"), scene.pid());
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    // It goes before it has begun to wait, and while it waits.
    for waits in [Duration::ZERO, Duration::from_millis(20)] {
        for script in ["sleep:100", "thread:sleep=100,get=a"] {
            runtime.block_on(async {
                let mut pending = scene.pool.begin(&call(load, script), &shelf()).expect("a lane is free");
                if !waits.is_zero() {
                    assert!(tokio::time::timeout(waits, &mut pending).await.is_err(), "it sleeps for longer");
                }
                drop(pending);
                assert!(scene.pool.begin(&call(load, "answer"), &shelf()).is_none(), "the lane is in use");
                while scene.pool.begin(&call(load, "answer"), &shelf()).is_none() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
            assert!(scene.answers(load));
        }
    }
    let status = scene.pool.status();
    assert_eq!((scene.pid(), status.lanes, status.restarts), (pid, 1, 0));
}

pub(crate) fn what_hangs_and_is_not_waited_for_any_more_is_known_all_the_same() {
    let scene = Scene::narrow();
    let (load, pid) = (scene.load("web"), scene.pid());
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime
        .block_on(async { drop(scene.pool.begin(&call(load, "hang"), &shelf()).expect("a lane is free")) });
    scene.next_worker(pid);
    until("the suspicion", || scene.pool.status().suspects.iter().any(|s| s.load == load).then_some(()));
    assert_eq!(scene.refusal(load, "hang").code, Code::WorkerUnresponsive);
    assert_eq!(scene.pool.status().restarts, 1, "alone from then on");
}

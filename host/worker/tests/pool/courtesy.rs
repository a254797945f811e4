//! Calls that take long step back behind others, and are answered in time all the same.

use std::time::{Duration, Instant};

use windlass_core::code::Code;

use crate::scene::{Scene, until};

/// Threads that serve lanes in process `pid`: number and nice level.
fn lanes_of(pid: u32) -> Vec<(String, i32)> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    let numbers = threads.filter_map(|thread| thread.ok()?.file_name().into_string().ok());
    let lane = |number: String| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{number}/stat")).ok()?;
        let (before, after) = stat.rsplit_once(") ")?;
        // The level is the 19th field, and the state the third.
        let level = after.split(' ').nth(16)?.parse().ok()?;
        before.ends_with("(lane").then_some((number, level))
    };
    numbers.filter_map(lane).collect()
}

pub(crate) fn a_call_that_takes_long_is_nice_and_the_next_is_not() {
    let scene = Scene::narrow();
    let (load, pid) = (scene.load("web"), scene.pid());
    let first = scene.children(load, "thread:");
    assert_eq!(lanes_of(pid), [(first[0].clone(), 0)]);
    std::thread::scope(|threads| {
        let slow = threads.spawn(|| scene.children(load, "thread:back=5000,spin=300"));
        until("a thread that steps back", || (lanes_of(pid) == [(first[0].clone(), 10)]).then_some(()));
        assert_eq!(slow.join().expect("an answer"), first, "the same thread to the end of the call");
    });
    let next = scene.children(load, "thread:");
    assert_ne!(next, first);
    until("its end", || (lanes_of(pid) == [(next[0].clone(), 0)]).then_some(()));
    let status = scene.pool.status();
    assert_eq!((scene.pid(), status.lanes, status.restarts), (pid, 1, 0));
}

pub(crate) fn a_call_that_is_suspected_waits_for_everybody_and_the_next_does_not() {
    let scene = Scene::narrow();
    let (load, pid) = (scene.load("web"), scene.pid());
    let classes = || -> Vec<Option<String>> {
        let field = |(number, _): (String, i32)| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{number}/stat")).ok()?;
            // The policy is the 41st field.
            stat.rsplit_once(") ")?.1.split(' ').nth(38).map(str::to_owned)
        };
        lanes_of(pid).into_iter().map(field).collect()
    };
    let is = |class: &str| (classes() == [Some(class.to_owned())]).then_some(());
    let (normal, idle) = ("0", "5");
    until("a thread like others", || is(normal));
    std::thread::scope(|threads| {
        // What it comes to is not the question: on a busy machine nobody may want it to run in time.
        let slow = threads.spawn(|| scene.ask(load, "thread:suspect,back=400,get=slow"));
        until("a thread behind all others", || is(idle));
        slow.join().expect("no panic");
    });
    assert!(scene.answers(load));
    until("a thread like others", || is(normal));
    assert_eq!((scene.pid(), scene.pool.status().restarts), (pid, 0));
}

pub(crate) fn a_call_whose_time_is_over_is_answered_for() {
    let scene = Scene::narrow();
    let (load, pid) = (scene.load("web"), scene.pid());
    let begun = Instant::now();
    let called = scene.ask(load, "thread:back=100,sleep=2000");
    let took = begun.elapsed();
    let refusal = called.result.expect_err("its time is over").to_string();
    assert!(refusal.contains("s of wall time, limit 0.10 s"), "{refusal}");
    assert_eq!(called.used.cpu, Duration::from_millis(8), "what is known of it");
    assert!((Duration::from_millis(100)..Duration::from_millis(1500)).contains(&took), "{took:?}");
    // It still sleeps, and the lane goes on meanwhile.
    assert!(scene.answers(load));
    assert_eq!(lanes_of(pid).len(), 2);
    until("its end", || (lanes_of(pid).len() == 1).then_some(()));
    let status = scene.pool.status();
    assert_eq!((scene.pid(), status.lanes, status.restarts), (pid, 1, 0));
}

pub(crate) fn a_load_whose_time_is_over_is_answered_for() {
    let scene = Scene::narrow();
    let (load, pid) = (scene.load("web"), scene.pid());
    let refusal = scene.try_load("late", "late:60").expect_err("it does not say what it is in time");
    assert_eq!(refusal.code, Code::InitTimeout, "{refusal}");
    assert!(scene.answers(load));
    until("its end", || (lanes_of(pid).len() == 1).then_some(()));
    assert_eq!((scene.pid(), scene.pool.status().restarts), (pid, 0));
}

pub(crate) fn what_is_answered_for_is_not_heard_later() {
    let scene = Scene::narrow();
    let (load, pid) = (scene.load("web"), scene.pid());
    // One asks the cache when its time is over, one answers; both find that nobody listens.
    for script in ["thread:back=30,sleep=120,get=a", "thread:back=30,sleep=120"] {
        assert_eq!(scene.refusal(load, script).code, Code::Timeout);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(200) {
            assert_eq!(scene.children(load, "get:b"), ["ns/b"]);
        }
    }
    until("their end", || (lanes_of(pid).len() == 1).then_some(()));
    assert_eq!((scene.pid(), scene.pool.status().restarts), (pid, 0));
}

pub(crate) fn a_call_that_ends_in_time_answers_for_itself() {
    let scene = Scene::narrow();
    let load = scene.load("web");
    for _ in 0..50 {
        scene.children(load, "thread:back=20,get=a");
    }
    std::thread::sleep(Duration::from_millis(60));
    assert!(scene.answers(load));
    assert_eq!(scene.pool.status().restarts, 0);
}

pub(crate) fn without_room_for_another_thread_the_same_one_goes_on() {
    let scene = Scene::narrow();
    let load = scene.load("web");
    let first = scene.children(load, "thread:hold=3");
    assert_eq!(scene.children(load, "thread:back=5000"), first);
    assert_eq!(scene.children(load, "thread:"), first);
    assert_eq!(scene.pool.status().restarts, 0);
}

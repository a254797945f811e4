//! What a pool does as long as nobody dies.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use windlass_core::code::Code;
use windlass_core::guests::Guests as _;
use windlass_core::ports::CallError;
use windlass_worker::pool::{Pool, PoolConfig};
use windlass_worker::spare::Spare;

use crate::scene::{LANES, Scene, kill, launch, until};

pub(crate) fn a_call_is_answered_and_may_ask_the_cache() {
    let scene = Scene::narrow();
    let load = scene.load("web");
    assert!(scene.answers(load));
    assert_eq!(scene.children(load, "get:a"), ["ns/a"]);
    assert!(scene.children(load, "get:absent").is_empty());
    assert_eq!(scene.children(load, "list:2"), [(1 << 20).to_string(), (1 << 20).to_string()]);
    let status = scene.pool.status();
    assert_eq!((status.restarts, status.lanes, status.loaded, status.in_flight), (0, 1, 1, 0));
    assert!(status.confined.expect("a worker").no_new_privileges);
}

pub(crate) fn refusals_of_the_cache_end_the_call_and_nothing_else() {
    let scene = Scene::new();
    let (load, pid) = (scene.load("web"), scene.pid());
    assert_eq!(scene.refusal(load, "get:secret").code, Code::ReadNotAllowed);
    let refusal = scene.refusal(load, "list:20");
    assert_eq!(refusal.code, Code::InputTooLarge, "{refusal}");
    assert!(scene.answers(load));
    assert_eq!(scene.pid(), pid);
}

pub(crate) fn a_snapshot_of_eight_mebibytes_arrives() {
    let scene = Scene::new();
    let load = scene.load("web");
    let snapshot = "x".repeat(8 << 20);
    let called = scene.ask(load, &snapshot);
    assert_eq!(called.used.memory_bytes, 8 << 20, "the guest counts what it was given");
    let refusal = scene.refusal(load, &"x".repeat(9 << 20));
    assert_eq!(refusal.code, Code::InputTooLarge);
    assert!(scene.answers(load));
}

pub(crate) fn an_answer_that_is_too_large_is_refused_by_its_size() {
    let scene = Scene::new();
    let load = scene.load("web");
    assert_eq!(scene.refusal(load, "bytes:6000000").code, Code::OutputTooLarge);
    assert_eq!(scene.refusal(load, "children:20000").code, Code::TooManyChildren);
    assert_eq!(scene.children(load, "children:10000").len(), 10_000);
    assert_eq!(scene.pool.status().restarts, 0);
}

pub(crate) fn time_that_the_host_takes_does_not_count() {
    let scene = Scene::new();
    let load = scene.load("web");
    // The deadline is 650 ms.
    assert_eq!(scene.children(load, "get:slow"), ["slow"]);
    assert_eq!(scene.pool.status().restarts, 0);
}

pub(crate) fn what_was_unloaded_is_not_asked_any_more() {
    let scene = Scene::new();
    let (gone, stays) = (scene.load("gone"), scene.load("stays"));
    scene.pool.unload(gone);
    scene.pool.unload(gone);
    let result = scene.ask(gone, "answer").result;
    assert!(matches!(&result, Err(CallError::Refused(r)) if r.code == Code::WorkerMissing), "{result:?}");
    assert!(scene.answers(stays));
    assert_eq!(scene.pool.status().loaded, 1);
}

pub(crate) fn a_worker_that_cannot_run_guests_says_why() {
    let folder = tempfile::tempdir().expect("a directory");
    let start = |folder: &Path| {
        let launch = launch(Path::new("/proc/self/exe"), folder, 64);
        Pool::start(PoolConfig {
            shared: launch.clone(),
            solo: launch,
            lanes: 1,
            require_sandbox: false,
            spare: Spare::new(),
        })
    };
    let broken = folder.path().join("broken");
    std::fs::create_dir(&broken).expect("made");
    let error = start(&broken).expect_err("does not start").to_string();
    assert_eq!(error, "the process cannot run guests: it is broken");
    let error = start(Path::new("/nonexistent")).expect_err("does not start").to_string();
    assert!(error.contains("exited with code 1"), "{error}");
}

pub(crate) fn a_pool_that_is_shut_down_leaves_no_process() {
    let scene = Scene::new();
    let (load, pid) = (scene.load("web"), scene.pid());
    std::thread::scope(|threads| {
        let busy = threads.spawn(|| scene.refusal(load, "hang"));
        until("the call", || (scene.pool.status().in_flight == 1).then_some(()));
        scene.pool.shutdown();
        let refusal = busy.join().expect("no panic");
        assert_eq!(refusal.code, Code::WorkerMissing, "{refusal}");
    });
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    let begun = Instant::now();
    assert_eq!(scene.refusal(load, "answer").code, Code::WorkerMissing);
    assert!(begun.elapsed() < Duration::from_millis(100), "nothing to wait for");
}

pub(crate) fn a_worker_without_room_serves_over_fewer_lanes() {
    let scene = Scene::sized(Path::new("/proc/self/exe"), 24);
    let load = scene.load("web");
    std::thread::scope(|threads| {
        let calls: Vec<_> = (0..LANES).map(|_| threads.spawn(|| scene.children(load, "sleep:50"))).collect();
        for call in calls {
            assert_eq!(call.join().expect("an answer"), ["ns/a"]);
        }
    });
    let status = scene.pool.status();
    assert!(status.restarts == 0 && (4..LANES).contains(&status.lanes), "{status:?}");
}

/// A host that waits to be killed: says which worker it has.
pub(crate) fn host(args: &[String]) -> ExitCode {
    let launch = launch(Path::new("/proc/self/exe"), Path::new(&args[0]), 64);
    let config = PoolConfig {
        shared: launch.clone(),
        solo: launch,
        lanes: LANES,
        require_sandbox: false,
        spare: Spare::new(),
    };
    let pool = Pool::start(config).expect("a pool");
    println!("{}", pool.status().pid.expect("a worker"));
    loop {
        std::thread::park();
    }
}

pub(crate) fn a_worker_ends_with_its_host() {
    let folder = tempfile::tempdir().expect("a directory");
    let mut host = Command::new("/proc/self/exe")
        .args(["host".as_ref(), folder.path().as_os_str()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a host");
    let mut line = String::new();
    let stdout = host.stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    let worker: u32 = line.trim().parse().expect("a number");
    assert!(Path::new(&format!("/proc/{worker}")).exists());
    kill(host.id());
    host.wait().expect("waited");
    // Whoever inherits it may take its time to reap it.
    let gone = || {
        let stat = std::fs::read_to_string(format!("/proc/{worker}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z ")).then_some(())
    };
    until("the end of its worker", gone);
}

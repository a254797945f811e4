//! What a pool does when a worker dies.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use windlass_core::code::Code;
use windlass_core::guests::Guests as _;

use crate::scene::{Scene, kill, until};

pub(crate) fn a_worker_that_dies_fails_only_the_guilty_plugin() {
    let scene = Scene::new();
    let (good, bad) = (scene.load("good"), scene.load("bad"));
    for (script, how) in [
        ("abort", "signal 6"),
        ("panic", "signal 6"),
        ("exit:0", "exited with code 0"),
        ("exit:3", "exited with code 3"),
        ("eat", "signal 6"),
    ] {
        let refusal = std::thread::scope(|threads| {
            let slow = threads.spawn(|| scene.children(good, "sleep:100"));
            let refusal = threads.spawn(|| scene.refusal(bad, script));
            assert_eq!(slow.join().expect("an answer"), ["ns/a"]);
            refusal.join().expect("a refusal")
        });
        assert_eq!(refusal.code, Code::WorkerDied, "{script}: {refusal}");
        assert!(refusal.message.contains(how), "{script}: {refusal}");
        assert!(scene.answers(good), "after {script}");
    }
    // Known from then on, and alone: only its first death was everybody's.
    assert_eq!(scene.pool.status().restarts, 1);
    let suspects = scene.pool.status().suspects;
    assert!(suspects.iter().any(|s| s.load == bad && s.owes == 20), "{suspects:?}");
}

pub(crate) fn twenty_innocent_calls_in_flight_all_get_their_answer() {
    let scene = Scene::new();
    let bad = scene.load("bad");
    let good: Vec<_> = (0..20).map(|i| scene.load(&format!("good-{i}"))).collect();
    std::thread::scope(|threads| {
        let scene = &scene;
        let calls: Vec<_> =
            good.iter().map(|load| threads.spawn(|| scene.children(*load, "sleep:150"))).collect();
        until("all calls", || (scene.pool.status().lanes >= 20).then_some(()));
        assert_eq!(scene.refusal(bad, "abort").code, Code::WorkerDied);
        for call in calls {
            assert_eq!(call.join().expect("an answer"), ["ns/a"]);
        }
    });
    assert_eq!(scene.pool.status().restarts, 1);
}

pub(crate) fn a_worker_that_hangs_is_killed_within_its_deadline() {
    let scene = Scene::new();
    let (load, pid) = (scene.load("web"), scene.pid());
    let good = scene.load("good");
    let begun = Instant::now();
    std::thread::scope(|threads| {
        let hung = threads.spawn(|| scene.refusal(load, "hang"));
        scene.next_worker(pid);
        // The deadline is 650 ms; the rest is for a busy machine.
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(650) && took < Duration::from_secs(3), "{took:?}");
        assert!(scene.answers(good));
        let refusal = hung.join().expect("a refusal");
        assert_eq!(refusal.code, Code::WorkerUnresponsive, "{refusal}");
    });
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    let begun = Instant::now();
    assert_eq!(scene.refusal(load, "hang").code, Code::WorkerUnresponsive);
    assert!(begun.elapsed() >= Duration::from_millis(650));
    assert_eq!(scene.pool.status().restarts, 1, "alone from then on");
}

pub(crate) fn others_in_flight_beside_one_that_hangs_get_their_answer() {
    let scene = Scene::new();
    let (good, bad) = (scene.load("good"), scene.load("bad"));
    std::thread::scope(|threads| {
        let hung = threads.spawn(|| scene.refusal(bad, "hang"));
        until("the call", || {
            (scene.pool.status().lanes == 2).then_some(()).or_else(|| {
                scene.answers(good);
                None
            })
        });
        // In flight when the other's time is up.
        let calls: Vec<_> = (0..8)
            .map(|_| threads.spawn(|| (0..6).map(|_| scene.children(good, "sleep:150")).collect::<Vec<_>>()))
            .collect();
        assert_eq!(hung.join().expect("a refusal").code, Code::WorkerUnresponsive);
        for call in calls {
            assert_eq!(call.join().expect("answers"), vec![["ns/a"]; 6]);
        }
    });
    let status = scene.pool.status();
    assert!(status.suspects.iter().all(|s| s.load == bad), "who did it is known: {status:?}");
}

pub(crate) fn garbage_from_the_worker_ends_the_worker() {
    let scene = Scene::new();
    let (good, bad) = (scene.load("good"), scene.load("bad"));
    for script in ["garbage", "length"] {
        let pid = scene.pid();
        let suspected = !scene.pool.status().suspects.is_empty();
        let refusal = std::thread::scope(|threads| {
            let slow = threads.spawn(|| scene.children(good, "sleep:100"));
            until("the call", || (scene.pool.status().in_flight == 1).then_some(()));
            let refusal = scene.refusal(bad, script);
            assert_eq!(slow.join().expect("an answer"), ["ns/a"]);
            refusal
        });
        assert_eq!(refusal.code, Code::WorkerDied, "{script}: {refusal}");
        assert!(refusal.message.contains("because it said"), "{script}: {refusal}");
        assert_eq!(Path::new(&format!("/proc/{pid}")).exists(), suspected, "{script}");
        assert!(scene.answers(good));
    }
}

pub(crate) fn a_flood_of_questions_ends_the_worker() {
    let scene = Scene::new();
    let load = scene.load("web");
    assert!(scene.children(load, "flood:1000").is_empty());
    let refusal = scene.refusal(load, "flood:20000");
    assert_eq!(refusal.code, Code::WorkerDied, "{refusal}");
    assert!(refusal.message.contains("more than 10000 questions"), "{refusal}");
}

pub(crate) fn suspects_are_trusted_again_after_twenty_good_calls() {
    let scene = Scene::new();
    let load = scene.load("web");
    let pid = scene.pid();
    std::thread::scope(|threads| {
        let slow = threads.spawn(|| scene.children(load, "sleep:100"));
        until("the call", || (scene.pool.status().in_flight == 1).then_some(()));
        kill(pid);
        slow.join().expect("an answer");
    });
    for owes in (1..20).rev() {
        assert_eq!(scene.pool.status().suspects.first().map(|s| s.owes), Some(owes));
        assert!(scene.answers(load));
    }
    let status = scene.pool.status();
    assert!(status.suspects.is_empty() && status.solo_calls == 20, "{status:?}");
    assert!(scene.answers(load));
    assert_eq!(scene.pool.status().solo_calls, 20);
}

pub(crate) fn a_component_that_dies_when_it_is_loaded_is_refused_alone() {
    let scene = Scene::new();
    let good = scene.load("good");
    let refusal = scene.try_load("bad", "abort").expect_err("refused");
    assert_eq!(refusal.code, Code::WorkerDied, "{refusal}");
    assert!(scene.answers(good));
    assert_eq!(scene.pool.status().loaded, 1);
    let load = scene.offer("gone", "fine");
    std::fs::remove_file(&load.artefact).expect("removed");
    assert_eq!(scene.pool.load(&load).expect_err("refused").code, Code::Malformed);
}

pub(crate) fn a_component_that_dies_when_it_is_loaded_again_kills_one_worker() {
    let scene = Scene::new();
    let good = scene.load("good");
    let load = scene.offer("bad", "fine");
    scene.pool.load(&load).expect("loads");
    std::fs::write(&load.artefact, "abort").expect("written");
    kill(scene.pid());
    // The first of the two deaths is the kill, the second its new load.
    until("both deaths", || (scene.pool.status().restarts == 2).then_some(()));
    assert!(scene.answers(good));
    assert_eq!(scene.refusal(load.id, "answer").code, Code::WorkerDied);
    assert_eq!(scene.pool.status().restarts, 2, "alone from then on");
}

pub(crate) fn without_a_worker_calls_fail_within_their_deadline() {
    let folder = tempfile::tempdir().expect("a directory");
    let program = folder.path().join("windlass");
    let own = std::env::current_exe().expect("a program");
    std::os::unix::fs::symlink(&own, &program).expect("linked");
    let scene = Scene::with(&program);
    let load = scene.load("web");
    std::fs::remove_file(&program).expect("removed");
    kill(scene.pid());
    until("its end", || scene.pool.status().pid.is_none().then_some(()));
    let begun = Instant::now();
    let refusal = scene.refusal(load, "answer");
    let took = begun.elapsed();
    assert_eq!(refusal.code, Code::WorkerMissing, "{refusal}");
    assert!(refusal.message.contains("start /tmp"), "says what is wrong: {refusal}");
    assert!(took >= Duration::from_millis(600) && took < Duration::from_secs(3), "{took:?}");
    std::os::unix::fs::symlink(&own, &program).expect("linked");
    scene.pid();
    assert!(scene.answers(load));
}

/// Says so when it is dropped.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(crate) fn good_plugins_never_fail_beside_bad_ones() {
    let scene = Scene::new();
    let good: Vec<_> = (0..6).map(|i| scene.load(&format!("good-{i}"))).collect();
    let scripts = ["abort", "exit:1", "garbage", "panic", "length", "flood:20000", "hang"];
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let (scene, over) = (&scene, &over);
        let bad = threads.spawn(move || {
            let _over = Ends(over);
            for (i, script) in scripts.iter().cycle().take(21).enumerate() {
                // A new one each time: it has the shared worker to itself once.
                let load = scene.load(&format!("bad-{i}"));
                let code = scene.refusal(load, script).code;
                assert!(matches!(code, Code::WorkerDied | Code::WorkerUnresponsive), "{script}: {code}");
                scene.pool.unload(load);
            }
        });
        let calls: Vec<_> = good
            .iter()
            .map(|load| {
                threads.spawn(move || {
                    let mut asked = 0;
                    while !over.load(Ordering::Relaxed) {
                        assert!(scene.answers(*load));
                        assert_eq!(scene.children(*load, "sleep:3"), ["ns/a"]);
                        asked += 2;
                    }
                    asked
                })
            })
            .collect();
        let asked: u32 = calls.into_iter().map(|call| call.join().expect("no panic")).sum();
        println!("  {asked} good calls beside {} deaths", scene.pool.status().restarts);
        bad.join().expect("no panic");
    });
    assert!(scene.pool.status().restarts >= 21);
    assert_eq!(scene.pool.status().loaded, good.len());
}

pub(crate) fn no_zombies_and_no_descriptors_are_left() {
    let scene = Scene::new();
    let (load, good) = (scene.load("web"), scene.load("good"));
    let open = || std::fs::read_dir("/proc/self/fd").expect("listed").count();
    let threads = || std::fs::read_dir("/proc/self/task").expect("listed").count();
    let (before, running) = (open(), threads());
    for death in 0..50 {
        if death % 2 == 0 {
            let pid = scene.pid();
            kill(pid);
            scene.next_worker(pid);
        } else {
            scene.refusal(load, "abort");
        }
        // Without it the next start would wait: longer each time.
        assert!(scene.answers(good));
    }
    assert!(scene.pool.status().restarts >= 25);
    // One lane may be open that was not before.
    until("descriptors", || (open() <= before + 1).then_some(()));
    until("threads", || (threads() <= running).then_some(()));
    assert_eq!(zombies(), 0);
}

fn zombies() -> usize {
    let own = std::process::id().to_string();
    let stats = std::fs::read_dir("/proc")
        .expect("listed")
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    stats
        .filter(|stat| {
            let Some((_, rest)) = stat.rsplit_once(") ") else { return false };
            let mut fields = rest.split(' ');
            fields.next() == Some("Z") && fields.next() == Some(own.as_str())
        })
        .count()
}

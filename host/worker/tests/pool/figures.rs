//! How fast a pool is.

use std::time::{Duration, Instant};

use crate::scene::{Scene, kill};

/// A real component takes about as long to be mapped, linked and asked what it is.
const LOAD: &str = "spin:500";

pub(crate) fn a_new_worker_has_all_plugins_soon() {
    let scene = Scene::new();
    let loads: Vec<_> =
        (0..100).map(|i| scene.try_load(&format!("plugin-{i}"), LOAD).expect("loads").0).collect();
    let mut worst = (Duration::ZERO, Duration::ZERO);
    for _ in 0..5 {
        let begun = Instant::now();
        kill(scene.pid());
        assert!(scene.answers(loads[99]));
        let first = begun.elapsed();
        for load in &loads {
            assert!(scene.answers(*load));
        }
        worst = worst.max((first, begun.elapsed()));
    }
    println!("  after a kill: first answer {:?}, one of each of 100 plugins {:?}", worst.0, worst.1);
    assert!(worst.1 < Duration::from_secs(2), "{worst:?}");
}

pub(crate) fn round_trips() {
    let scene = Scene::new();
    let load = scene.load("web");
    for (what, script, rounds) in [
        ("an empty call", "answer".to_owned(), 20_000),
        ("a call with one question", "get:a".to_owned(), 20_000),
        ("a snapshot of 64 KiB", "x".repeat(64 << 10), 5_000),
        ("a snapshot of 8 MiB", "x".repeat(8 << 20), 50),
    ] {
        let mut times: Vec<Duration> = (0..rounds)
            .map(|_| {
                let begun = Instant::now();
                scene.children(load, &script);
                begun.elapsed()
            })
            .collect();
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!("  {what}: median {:?}, p99 {:?}", at(0.5), at(0.99));
    }
}

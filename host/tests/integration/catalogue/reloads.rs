//! Reloading costs nothing that stays: memory, descriptors and threads of the host and of the
//! worker come back to where they were, and compiled files are bounded.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::calls::KIND;
use super::guest::{Answer, Guest};
use super::processes::{Holds, Process};
use crate::scene::{Scene, count};

/// What the host, the worker and the files hold.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    host: Holds,
    worker: Holds,
    file_bytes: u64,
}

/// Compiled code that is kept, in the test: some thirty of these guests.
const KEPT_BYTES: u64 = 2 << 20;
/// Memory that may come on top, of the host and of the worker: what allocators keep, and no more
/// however many reloads there are.
const SPREAD_KIB: u64 = 8 << 10;
/// Reloads before the measurement begins: pools fill, code is touched for the first time.
const WARM_UP: usize = 10;

#[tokio::test]
async fn memory_descriptors_and_threads_come_back_after_many_reloads() {
    let scene = Scene::fresh("reloads").await;
    let artefacts = tempfile::tempdir().expect("a directory");
    install(&scene, 0).await;
    let directory = format!("--artefact-dir={}", artefacts.path().join("kept").display());
    let bound = format!("--artefact-limit={KEPT_BYTES}");
    scene.replicas(1, &[&directory, &bound]).await;
    scene.widget("w", json!({})).await;
    serves(&scene, 0).await;
    let mut version = 0;
    for _ in 0..WARM_UP {
        version += 1;
        reload(&scene, version).await;
    }
    let before = settled(&scene, artefacts.path()).await;

    let reloads = count(30, 1000);
    let began = Instant::now();
    for _ in 0..reloads {
        version += 1;
        reload(&scene, version).await;
    }
    let took = began.elapsed();
    let after = settled(&scene, artefacts.path()).await;
    println!("{reloads} reloads in {took:.1?}\nbefore {before:?}\nafter  {after:?}");
    // What grew by a page a reload would show in the long form; the short form sees leaks of whole instances.
    for (what, before, after) in [("host", before.host, after.host), ("worker", before.worker, after.worker)]
    {
        assert!(after.private_kib <= before.private_kib + SPREAD_KIB, "{what}: {before:?}, then {after:?}");
        assert!(after.descriptors <= before.descriptors + 4, "{what}: {before:?}, then {after:?}");
        assert!(after.threads <= before.threads + 4, "{what}: {before:?}, then {after:?}");
    }
    assert!(after.file_bytes <= KEPT_BYTES, "{after:?}");
    let replicas = scene.all().await;
    assert_eq!(replicas[0].metric("windlass_worker_restarts_total").await, Some(0.0));
}

/// The next version of one plugin, and its effect.
async fn reload(scene: &Scene, version: usize) {
    install(scene, version).await;
    serves(scene, version).await;
}

async fn install(scene: &Scene, version: usize) {
    let child = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "made"},
        "data": {"version": version.to_string()}});
    let guest = Guest {
        name: "reloaded",
        primary: KIND,
        answer: Answer::children([child.to_string()]),
        // Code enough that a copy that is kept would show: some 64 KiB of constants.
        fields: &format!("(data \"{}\")", noise(64 << 10)),
        ..Guest::default()
    };
    scene.install("reloaded", &guest.build()).await;
}

/// Text that compresses to half at best, as code does.
fn noise(len: usize) -> String {
    let mut random = 1_u32;
    let letters = std::iter::repeat_with(|| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'a' + u8::try_from((random >> 16) % 26).expect("a letter"))
    });
    letters.take(len).collect()
}

async fn serves(scene: &Scene, version: usize) {
    scene
        .until("the new version decides", || async {
            let child: Value = scene.own("ConfigMap", "made").await?;
            (child["data"]["version"] == version.to_string().as_str()).then_some(())
        })
        .await;
}

/// What is held once nothing falls any more: what runs out does so within some seconds.
async fn settled(scene: &Scene, artefacts: &Path) -> Held {
    let mut least = held(scene, artefacts).await;
    let mut since = Instant::now();
    let began = Instant::now();
    while since.elapsed() < Duration::from_secs(2) && began.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = held(scene, artefacts).await;
        if sum(&now) < sum(&least) {
            (least, since) = (now, Instant::now());
        }
    }
    least
}

/// Memory first, then all that is counted.
fn sum(held: &Held) -> (u64, u64) {
    let counted = |holds: &Holds| holds.descriptors + holds.threads;
    (held.host.private_kib + held.worker.private_kib, counted(&held.host) + counted(&held.worker))
}

async fn held(scene: &Scene, artefacts: &Path) -> Held {
    let host = Process(scene.all().await[0].pid());
    let worker = host.children("worker");
    let worker = worker.first().expect("a worker runs");
    Held {
        host: host.holds().expect("it lives"),
        worker: worker.holds().expect("it lives, and we may look at it"),
        file_bytes: bytes_below(artefacts),
    }
}

/// Bytes of all files below a directory.
fn bytes_below(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let bytes = entries.filter_map(|entry| match entry.metadata().ok()? {
        found if found.is_dir() => Some(bytes_below(&entry.path())),
        found => Some(found.len()),
    });
    bytes.sum()
}

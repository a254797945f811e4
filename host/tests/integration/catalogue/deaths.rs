//! What runs plugins dies, hangs or is starved: the host goes on, and no plugin is blamed.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::good::{self, Worked};
use super::offer::{self, Signer};
use super::processes::Process;
use super::{bombs, guest};
use crate::scene::{HOST, Scene, count, path};

/// How long a new worker may take, with what is loaded, on a busy machine. Unloaded it is 50 ms.
const BACK_WITHIN: Duration = Duration::from_secs(5);
/// Descriptors that a starved host may have: fewer than it has, so that it gets no further one.
const FEW: u64 = 8;
/// What the kernel's answer looks like in a log.
const SHORT: &str = "os error 24";

#[tokio::test]
async fn a_worker_that_dies_or_hangs_under_load_costs_time_and_no_plugin() {
    let scene = Scene::fresh("deaths").await;
    good::install(&scene, &Signer::new()).await;
    scene.install_fixture("orphans").await;
    scene.replicas(1, &[]).await;
    let pid = scene.all().await[0].pid();
    let host = Process(pid);

    let done = AtomicBool::new(false);
    let hurt = async {
        // First: plugins that are asked alone need a process each time.
        let starved = starved(&scene, host).await;
        scene.install("newcomer", &never_seen("newcomer")).await;
        newcomer_serves(&scene).await;
        let (mut back, began) = (Vec::new(), Instant::now());
        for _ in 0..count(8, 100) {
            back.push(killed(&scene, host, Signal::KILL).await);
        }
        // It does not end by itself: calls run into their deadline, and the host ends it (E203's way).
        let hung = killed(&scene, host, Signal::STOP).await;
        let died = began..=Instant::now();
        done.store(true, Ordering::Relaxed);
        (back, hung, died, starved)
    };
    let (worked, (mut back, hung, died, starved)) = tokio::join!(good::work(&scene, &done), hurt);

    back.sort_unstable();
    println!(
        "{} deaths of the worker: next decision after p50 {:?}, longest {:?}; after a hang {hung:?}; {} results of others, longest {:?}, and {:?} while it is short of descriptors",
        back.len(),
        back[back.len() / 2],
        back[back.len() - 1],
        worked.times.len(),
        worked.longest(&died),
        worked.longest(&starved),
    );
    assert!(back.iter().all(|took| *took < BACK_WITHIN), "{back:?}");
    blameless(&scene, pid, &worked).await;
    let replicas = scene.all().await;
    let restarts = replicas[0].metric("windlass_worker_restarts_total").await.expect("a metric");
    assert!(restarts >= f64::from(u32::try_from(back.len() + 1).expect("few")), "{restarts} restarts");
    let workers = host.children("worker");
    assert!(
        workers.iter().filter(|worker| worker.lives()).count() <= 2,
        "one shared, one alone: {workers:?}"
    );
}

/// Sends the worker a signal that it cannot hear, changes something, and answers with how long
/// it took until that change had its effect.
async fn killed(scene: &Scene, host: Process, signal: Signal) -> Duration {
    let worker = scene.until("a worker runs", || async { worker_of(scene, host).await }).await;
    worker.signal(signal);
    let since = Instant::now();
    let text = format!("after {worker:?}");
    scene.widget("hurt", json!({"text": text})).await;
    scene
        .until("the next decision", || async {
            let greeting = scene.own("ConfigMap", "hurt-greeting").await?;
            (greeting["data"]["text"] == text.as_str()).then_some(())
        })
        .await;
    let took = since.elapsed();
    scene
        .until("another worker runs", || async { worker_of(scene, host).await.filter(|now| *now != worker) })
        .await;
    took
}

/// The worker that all plugins share.
async fn worker_of(scene: &Scene, host: Process) -> Option<Process> {
    let (_, view) = scene.all().await[0].ask("/debug/sandbox").await.ok()?;
    let view: serde_json::Value = serde_json::from_str(&view).ok()?;
    let pid = u32::try_from(view["worker"]["pid"].as_u64()?).ok()?;
    host.children("worker").into_iter().find(|worker| worker.0 == pid && worker.lives())
}

/// F41: the host gets no further descriptor for a while. What it has open goes on working; what
/// comes afterwards is taken up.
async fn starved(scene: &Scene, host: Process) -> RangeInclusive<Instant> {
    let began = Instant::now();
    let before = host.allow_descriptors(Some(FEW));
    scene.install("newcomer", &never_seen("newcomer")).await;
    for turn in 0..10 {
        let text = format!("starved {turn}");
        scene.widget("hurt", json!({"text": text})).await;
        scene
            .until("a starved host goes on", || async {
                let greeting = scene.own("ConfigMap", "hurt-greeting").await?;
                (greeting["data"]["text"] == text.as_str()).then_some(())
            })
            .await;
    }
    scene
        .until("the newcomer is short of descriptors, and that is said", || async {
            let log = scene.all().await[0].log();
            log.lines().any(|line| line.contains(SHORT) && line.contains("newcomer")).then_some(())
        })
        .await;
    host.allow_descriptors(before);
    began..=Instant::now()
}

/// Waits until what the newcomer's ConfigMap offers serves.
async fn newcomer_serves(scene: &Scene) {
    let newcomer = path("ConfigMap", HOST, "newcomer-plugin");
    scene
        .until("the newcomer serves", || async {
            let map = scene.get(&newcomer).await?;
            (map["metadata"]["annotations"]["windlass.dev/state"] == "serving").then_some(())
        })
        .await;
}

#[tokio::test]
async fn what_came_during_a_shortage_serves_when_that_is_over() {
    let scene = Scene::fresh("shortage").await;
    good::install(&scene, &Signer::new()).await;
    scene.replicas(1, &[]).await;
    let host = Process(scene.all().await[0].pid());
    starved(&scene, host).await;
    newcomer_serves(&scene).await;
}

/// A component that wants nothing, and that no cache can know.
fn never_seen(plugin: &str) -> Vec<u8> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let fields = format!("(data \"{} {}\")", std::process::id(), now.as_nanos());
    guest::Guest { name: plugin, fields: &fields, ..guest::Guest::default() }.build()
}

/// The host is the one that began, it is well, and nobody was left alone or blamed.
async fn blameless(scene: &Scene, pid: u32, worked: &Worked) {
    assert!(worked.times.len() > 5, "{worked:?}");
    let mut replicas = scene.all().await;
    let replica = &mut replicas[0];
    replica.check_alive().expect("the host lives");
    assert_eq!(replica.pid(), pid);
    assert_eq!(replica.probe("/livez").await.expect("it answers").0, 200);
    assert_eq!(replica.metric("windlass_plugin_quarantined").await, Some(0.0));
    let (_, metrics) = replica.ask("/metrics").await.expect("it answers");
    let blamed = metrics.lines().find(|line| {
        line.starts_with("windlass_plugin_errors_total")
            && line.contains("code=\"E2")
            && !line.contains("code=\"E207")
    });
    assert_eq!(blamed, None, "an innocent plugin is blamed");
}

/// F39: on cgroup v2 the kernel ends a container's processes all at once.
#[tokio::test]
async fn the_death_of_all_processes_of_a_replica_at_once_is_a_takeover() {
    let scene = Scene::fresh("all-at-once").await;
    good::install(&scene, &Signer::new()).await;
    scene.replicas(2, &bombs::FLAGS).await;
    scene.widget("w", json!({"text": "before"})).await;
    says(&scene, "before").await;

    let leader = scene.leader().await;
    let replica = scene.take(&leader).await;
    let host = Process(replica.pid());
    // The compiler has something to do that takes it seconds.
    scene.apply(offer::holding("bomb", "plugin.wasm", &bombs::slow("bomb"))).await;
    scene.until("the compiler works", || async { host.children("compile").pop() }).await;
    let family: Vec<Process> =
        [host].into_iter().chain(host.children("worker")).chain(host.children("compile")).collect();
    assert!(family.len() >= 3, "host, worker and compiler: {family:?}");
    for process in &family {
        process.signal(Signal::KILL);
    }
    let since = Instant::now();
    let _ended_before = replica.kill().await;
    scene.widget("w", json!({"text": "after"})).await;
    says(&scene, "after").await;
    println!(
        "all {} processes of the leader died at once: taken over after {:?}",
        family.len(),
        since.elapsed()
    );
    assert_ne!(scene.leader().await, leader);

    // The same without the children: they do not outlive their host.
    scene.start(&leader, &bombs::FLAGS).await;
    scene.ready().await;
    let leader = scene.leader().await;
    let replica = scene.take(&leader).await;
    let host = Process(replica.pid());
    let children = host.children("worker");
    assert!(!children.is_empty());
    host.signal(Signal::KILL);
    let _ended_before = replica.kill().await;
    scene
        .until("no child is left", || async { children.iter().all(|child| !child.lives()).then_some(()) })
        .await;
    scene.widget("w", json!({"text": "and again"})).await;
    says(&scene, "and again").await;
}

async fn says(scene: &Scene, text: &str) {
    scene
        .until("the greeter has decided", || async {
            let greeting = scene.own("ConfigMap", "w-greeting").await?;
            scene.own("ConfigMap", "w-sibling").await?;
            (greeting["data"]["text"] == text).then_some(())
        })
        .await;
}

/// F40: what was compiled is damaged while nobody looks, and where it should go cannot be written.
#[tokio::test]
async fn damaged_or_impossible_artefacts_cost_a_compilation_and_nothing_else() {
    let scene = Scene::fresh("artefacts").await;
    good::install(&scene, &Signer::new()).await;
    let root = tempfile::tempdir().expect("a directory");
    let kept = root.path().join("kept");
    let directory = format!("--artefact-dir={}", kept.display());
    for plugin in ["one", "two", "three"] {
        scene.install(plugin, &never_seen(plugin)).await;
    }
    scene.replicas(1, &[&directory]).await;
    scene.widget("w", json!({"text": "compiled"})).await;
    says(&scene, "compiled").await;

    scene.take("windlass-0").await.kill().await.expect("it lived");
    let damaged = damage(&kept);
    assert!(damaged >= 3, "{damaged} artefacts in {}", kept.display());
    scene.start("windlass-0", &[&directory]).await;
    scene.ready().await;
    scene.widget("w", json!({"text": "compiled again"})).await;
    says(&scene, "compiled again").await;
    all_serve(&scene).await;
    let corrupt = scene.all().await[0].metric("windlass_plugin_artefact_cache_corrupt_total").await;
    assert!(corrupt.is_some_and(|corrupt| corrupt >= 3.0), "{corrupt:?} of {damaged}");

    // Nothing can be made here, by whatever user.
    scene.take("windlass-0").await.kill().await.expect("it lived");
    scene.start("windlass-0", &["--artefact-dir=/proc/sys/windlass"]).await;
    scene.ready().await;
    scene.widget("w", json!({"text": "elsewhere"})).await;
    says(&scene, "elsewhere").await;
    all_serve(&scene).await;
    let mut replicas = scene.all().await;
    replicas[0].check_alive().expect("the host lives");
}

/// Every plugin serves what its ConfigMap offers.
async fn all_serve(scene: &Scene) {
    scene
        .until("every plugin serves", || async {
            let (_, view) = scene.all().await[0].ask("/debug/plugins").await.ok()?;
            let view: serde_json::Value = serde_json::from_str(&view).ok()?;
            let plugins = view.as_array()?;
            (plugins.len() == 5 && plugins.iter().all(|plugin| plugin["state"] == "serving")).then_some(())
        })
        .await;
}

/// Changes a byte in the middle of every other file below a directory and cuts the rest in half.
fn damage(directory: &Path) -> usize {
    let mut damaged = 0;
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            damaged += damage(&path);
            continue;
        }
        let mut bytes = std::fs::read(&path).expect("readable");
        let middle = bytes.len() / 2;
        if damaged % 2 == 0 {
            bytes[middle] ^= 0xff;
        } else {
            bytes.truncate(middle);
        }
        std::fs::write(&path, bytes).expect("ours");
        damaged += 1;
    }
    damaged
}

//! The probes' port, which everybody may ask.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{parsed, plugins};
use crate::scene::{Scene, built};

/// Words that probes say: parts of the host, paths, and how they are.
const WORDS: [&str; 13] = [
    "ok",
    "not",
    "ready",
    "yet",
    "see",
    "debug",
    "signatures",
    "plugins",
    "watches",
    "there",
    "is",
    "nothing",
    "here",
];

/// Fails unless `text` is made of the words above, numbers and signs.
fn names_nothing(path: &str, text: &str) {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let other: BTreeSet<_> =
        words.filter(|word| !WORDS.contains(word) && word.parse::<u64>().is_err()).collect();
    assert!(other.is_empty(), "{path} says {other:?}: {text}");
}

#[tokio::test]
async fn probes_name_no_plugin_no_namespace_and_no_object() {
    let scene = Scene::fresh("probes").await;
    scene.install_fixture("greeter").await;
    let sockets = built("windlass-fixtures", Some("needs_sockets")).await;
    scene.install("needs-sockets", &sockets).await;
    scene.install_fixture("fails").await;
    scene.install("broken-bytes", b"no component at all").await;
    scene.widget("an-object", json!({"mode": "transient"})).await;
    let replica = scene.replica("windlass-0", &[]).expect("it starts");
    // While it starts, and while it serves: each answer that is not the one before.
    let mut answers = BTreeSet::new();
    let began = Instant::now();
    let mut was_ready = false;
    let states = loop {
        for path in ["/readyz", "/livez", "/healthz", "/", "/readyz/plugins", "/readyz?verbose"] {
            if let Ok((status, text)) = replica.probe(path).await {
                answers.insert((path, status, text));
            }
        }
        let maps = scene.get(&plugins()).await.unwrap_or_default();
        let states: BTreeSet<String> =
            maps["items"].as_array().into_iter().flatten().filter_map(state).collect();
        let settled = ["serving", "refused"].iter().all(|state| states.contains(*state));
        // Once more all of them when it is.
        if was_ready {
            break states;
        }
        was_ready = settled && replica.is_ready().await;
        assert!(began.elapsed() < Duration::from_secs(60), "{states:?}\n{}", replica.log());
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    assert!(states.contains("refused"), "{states:?}");
    let (_, view) = replica.ask("/debug/plugins").await.expect("it answers");
    assert!(parsed(&view).to_string().contains("broken-bytes"), "the views do name them: {view}");
    assert!(answers.iter().any(|(path, status, _)| *path == "/readyz" && *status == 503), "{answers:?}");
    assert!(answers.iter().any(|(path, status, _)| *path == "/readyz" && *status == 200), "{answers:?}");
    for (path, _, text) in &answers {
        names_nothing(path, text);
    }
    for path in ["/metrics", "/debug/plugins"] {
        assert_eq!(replica.probe(path).await.expect("it answers").0, 404, "{path} is not for everybody");
    }
}

fn state(map: &Value) -> Option<String> {
    map["metadata"]["annotations"]["windlass.dev/state"].as_str().map(str::to_owned)
}

#[tokio::test]
async fn slow_clients_of_every_port_keep_no_probe_out() {
    let scene = Scene::fresh("slow").await;
    scene.replicas(1, &[]).await;
    let replicas = scene.all().await;
    let replica = &replicas[0];
    let mut slow = Vec::new();
    for address in [replica.probes_address(), replica.metrics_address(), replica.pulse_address()] {
        for _ in 0..200 {
            let mut stream = TcpStream::connect(address).await.expect("connected");
            drop(stream.write_all(b"GET /readyz HTTP/1.1\r\nx-slow: ").await);
            slow.push(stream);
        }
    }
    for _ in 0..20 {
        let began = Instant::now();
        let (status, _) = replica.probe("/readyz").await.expect("it answers");
        // A kubelet waits for a second.
        assert!(status == 200 && began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        let began = Instant::now();
        let (status, _) = replica.ask("/metrics").await.expect("it answers");
        assert!(status == 200 && began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        let began = Instant::now();
        let mut pulse = TcpStream::connect(replica.pulse_address()).await.expect("connected");
        let mut line = [0; 17];
        pulse.read_exact(&mut line).await.expect("its line");
        assert_eq!(&line, b"windlass-pulse/1 ");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    drop(slow);
}

//! What stands in a Secret, or in a token, is in nothing that the host says: no log line, Event, metric or view.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::endpoints::{Reader, bound_token, metrics_auth};
use crate::scene::{HOST, Scene};

/// What the Secret holds, in base64: long enough to be found by a part of it.
const MARKER: &str = "Qw7hunter2VeryMuchSecret";
/// How much of it is looked for.
const PART: usize = 10;
/// Two tokens that are nobody's.
const TOKENS: [&str; 2] =
    ["Zt4MadeUpTokenThatIsNobodys", "eyJhbGciOiJub25lIn0.Zt4MadeUpTokenThatIsNobodys.x"];

/// Rights of the plugin `leaks`, and of the host to read for it.
const RIGHTS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: leaks
  labels: {windlass.dev/aggregate-to-host: 'true'}
rules:
  - {apiGroups: [''], resources: [secrets], verbs: [get, list, watch, create, patch, delete]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: leaks
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: leaks}
subjects:
  - {apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:serviceaccounts:windlass-system'}
";

/// Every mode of the fixture, with the code or the words by which it is known to have been refused.
const MODES: [(&str, &str); 17] = [
    ("typed", "does not fit"),
    ("read", ""),
    ("undeclared", "E231"),
    ("panics", "E201"),
    ("status", "E2"),
    ("not-an-object", "E223"),
    ("kind", "E2"),
    ("name", "E2"),
    ("namespace", "E2"),
    ("label", "E2"),
    ("label-key", "E2"),
    ("annotation", "E2"),
    ("metadata-field", "E2"),
    ("oversize", "E210"),
    ("unknown-field", "Next try"),
    ("type", "Next try"),
    ("invalid-key", "Next try"),
];
/// The same of those that the API server alone judges, and only by what is in them.
const SECRETS: [(&str, &str); 2] = [("secret-type", "Next try"), ("secret-data", "Next try")];

#[tokio::test]
async fn what_stands_in_a_secret_or_a_token_is_in_no_log_event_metric_or_view() {
    let scene = Scene::fresh("secrets").await;
    scene.control().apply(RIGHTS).await.expect("the rights apply");
    metrics_auth(&scene).await;
    scene.install_fixture("leaks").await;
    let decoded = STANDARD.decode(MARKER).expect("it is base64");
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "login", "namespace": scene.namespace}, "data": {"password": STANDARD.encode(&decoded)},
    });
    scene.control().apply(&secret.to_string()).await.expect("the Secret applies");
    scene.replicas(1, &["--metrics-secure=true", "--log=trace", "--quarantine-faults=1000000"]).await;
    let address = scene.all().await[0].metrics_address();
    let token = bound_token(&scene, "looker", &["windlass-metrics-reader", "windlass-debug-reader"]).await;
    let reader = Reader::new(address, &token);

    let all: Vec<_> = MODES.into_iter().chain(SECRETS).collect();
    for (mode, _) in &all {
        scene.widget(mode, json!({"mode": mode})).await;
    }
    for (mode, says) in &all {
        if says.is_empty() {
            continue;
        }
        scene.event(mode, "PassFailed", says).await;
    }
    for token in TOKENS {
        assert_eq!(Reader::new(address, token).get("/metrics").await.0, 401);
    }
    let stuck = || async {
        let (_, view) = reader.get("/debug/queue").await;
        let view: Value = serde_json::from_str(&view).ok()?;
        let stuck = view["stuck"].as_array()?.len();
        (stuck >= all.len() / 2).then_some(())
    };
    scene.until("errors are quoted in /debug/queue", stuck).await;

    let mut said = vec![("log", scene.all().await[0].log())];
    for path in ["plugins", "queue", "watches", "leadership", "sandbox", "signatures"] {
        let (status, view) = reader.get(&format!("/debug/{path}")).await;
        assert_eq!(status, 200, "{path}: {view}");
        said.push((path, view));
    }
    said.push(("metrics", reader.get("/metrics").await.1));
    let events = scene.get("/api/v1/events?limit=1000").await.expect("Events");
    said.push(("Events", events["items"].to_string()));
    let maps = scene.get(&format!("/api/v1/namespaces/{HOST}/configmaps")).await.expect("ConfigMaps");
    let annotations = maps["items"].as_array().expect("a list").iter().map(|map| map["metadata"].to_string());
    said.push(("annotations of plugins", annotations.collect()));

    let decoded = String::from_utf8_lossy(&decoded).into_owned();
    let own = [MARKER, decoded.as_str()].into_iter().chain(TOKENS).chain([token.as_str()]);
    let mut leaks = Vec::new();
    for text in own {
        // What was cut is a leak too. The middle of a JWT is what tells one from another.
        let part = |from: usize| text.chars().skip(from).take(PART).collect::<String>();
        let parts =
            if text == token { vec![part(text.len() / 2)] } else { vec![part(0), part(text.len() / 2)] };
        for (place, said) in &said {
            let lines = said.lines().filter(|line| parts.iter().any(|part| line.contains(part)));
            leaks
                .extend(lines.map(|line| format!("{place}: {}", line.chars().take(400).collect::<String>())));
        }
    }
    assert!(
        leaks.is_empty(),
        "{} lines, of which these:\n{}",
        leaks.len(),
        leaks[..leaks.len().min(60)].join("\n")
    );
}

//! What one version leaves in the cluster for the next one, and for the one before: a rollout has both side by side.
//!
//! `host/tests/released/<version>.json` is what that version writes, with everything that is new each time blotted out. A change
//! here is a promise changed: docs/operations.md says what has to hold then.

use serde_json::{Value, json};

use crate::scene::{HOST, Scene, tree};

/// The file of the version that is being made.
const RELEASED: &str = concat!("host/tests/released/", env!("CARGO_PKG_VERSION"), ".json");

/// Text without what differs from run to run: digests, nonces, times, ports, uids.
fn blotted(text: &str) -> String {
    let mut blotted = String::new();
    let mut word = String::new();
    let end = |word: &mut String, blotted: &mut String| {
        let digits = word.chars().any(|letter| letter.is_ascii_digit());
        let hex = word.len() >= 8 && word.chars().all(|letter| letter.is_ascii_hexdigit());
        blotted.push_str(if hex || (digits && word.chars().all(|l| l.is_ascii_digit())) {
            "#"
        } else {
            &*word
        });
        word.clear();
    };
    for letter in text.chars() {
        if letter.is_ascii_alphanumeric() {
            word.push(letter);
            continue;
        }
        end(&mut word, &mut blotted);
        blotted.push(letter);
    }
    end(&mut word, &mut blotted);
    blotted
}

/// The same with all strings of an object, and numbers that count something.
fn blot(value: &Value) -> Value {
    match value {
        Value::String(text) => json!(blotted(text)),
        Value::Array(items) => items.iter().map(blot).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), blot(value))).collect(),
        Value::Number(_) => json!("#"),
        other => other.clone(),
    }
}

/// Those labels or annotations that are ours.
fn ours(map: &Value) -> Value {
    let all = map.as_object().cloned().unwrap_or_default();
    all.into_iter().filter(|(name, _)| name.starts_with("windlass.dev/")).collect()
}

#[tokio::test]
async fn what_is_left_in_the_cluster_is_what_this_version_promises() {
    let scene = Scene::fresh("formats").await;
    scene.install_fixture("finalizes").await;
    scene.replicas(1, &[]).await;
    let leader = scene.leader().await;
    scene.widget("one", json!({"text": "hello"})).await;
    let (child, primary) = scene
        .until("there is a child, and a finalizer", || async {
            let child =
                scene.list("ConfigMap", "labelSelector=windlass.dev/owned-by%3Dfinalizes").await.pop()?;
            let primary = scene.own("Widget", "one").await?;
            primary["metadata"]["finalizers"].is_array().then_some((child, primary))
        })
        .await;
    let map = scene
        .until("the plugin's state is written", || async {
            let map = scene.get(&format!("/api/v1/namespaces/{HOST}/configmaps/finalizes-plugin")).await?;
            (map["metadata"]["annotations"]["windlass.dev/state"] == "serving").then_some(map)
        })
        .await;
    let good = scene
        .until("a copy of the good version is kept", || async {
            scene.get(&format!("/api/v1/namespaces/{HOST}/configmaps/windlass-good-finalizes")).await
        })
        .await;
    let lease = scene.get(&format!("/apis/coordination.k8s.io/v1/namespaces/{HOST}/leases/windlass")).await;
    let role = scene
        .get(&format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{HOST}/roles/windlass-claim"))
        .await;
    let (lease, role) = (lease.expect("a Lease"), role.expect("a claim Role"));
    let managers = |object: &Value| -> Vec<Value> {
        let fields = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let names = fields
            .iter()
            .filter(|one| one["manager"].as_str().is_some_and(|name| name.starts_with("windlass")));
        names.map(|one| json!([one["manager"], one["operation"]])).collect()
    };
    let keys = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>());
    let found = json!({
        "lease": {
            "annotations": blot(&ours(&lease["metadata"]["annotations"])),
            "holderIdentity": blotted(&lease["spec"]["holderIdentity"].as_str().unwrap_or_default().replace(&leader, "<pod>")),
            "spec": keys(&lease["spec"]),
        },
        "claim": blotted(&role["rules"].to_string().replace(&leader, "<pod>")),
        "child": {
            "labels": blot(&ours(&child["metadata"]["labels"])),
            "annotations": keys(&ours(&child["metadata"]["annotations"])),
            "primary": child["metadata"]["annotations"]["windlass.dev/primary"].as_str().map(|text| text.replace(&scene.namespace, "<namespace>")),
            "managers": managers(&child),
        },
        "primary": { "finalizers": primary["metadata"]["finalizers"], "managers": managers(&primary) },
        "plugin": { "annotations": keys(&ours(&map["metadata"]["annotations"])), "state": map["metadata"]["annotations"]["windlass.dev/state"] },
        "copy of a good version": {
            "labels": blot(&ours(&good["metadata"]["labels"])),
            "annotations": keys(&ours(&good["metadata"]["annotations"])),
        },
    });
    let text = format!("{found:#}\n");
    let file = tree(RELEASED);
    let promised = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        text == promised,
        "{RELEASED} promises\n{promised}\nand this version writes\n{text}\nIf that is meant: docs/operations.md says what else it takes."
    );
}

#[test]
fn what_differs_from_run_to_run_is_blotted_out_and_words_are_not() {
    assert_eq!(blotted("windlass-0_0123abcdef/12"), "windlass-#_#/#");
    assert_eq!(blotted("sha256:00ff00ff00ff"), "sha256:#");
    assert_eq!(blotted("v1.ConfigMap decade"), "v1.ConfigMap decade");
}

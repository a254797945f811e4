//! Signatures, as replicas judge them on a real cluster: what nobody vouches for does not
//! serve, nothing goes back, keys come and go, and the guard outlives every process.

use std::io::Cursor;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;
use windlass_core::name::Digest;

use crate::scene::{HOST, Scene, built, path};

/// Keys are read again every two seconds; the rest is for a machine that is busy.
const SOON: Duration = Duration::from_secs(10);

/// Somebody with a pair of keys.
struct Signer(KeyPair);

impl Signer {
    fn new() -> Self {
        Self(KeyPair::generate_unencrypted_keypair().expect("randomness"))
    }

    /// As the stock command signs: the digest as one line, and the statement.
    fn sign(&self, component: &[u8], plugin: &str, sequence: u64) -> String {
        let digest = Digest::of(component);
        let comment = format!("windlass plugin={plugin} sequence={sequence} digest={digest}");
        let text = Cursor::new(format!("{digest}\n").into_bytes());
        let made = minisign::sign(Some(&self.0.pk), &self.0.sk, text, Some(&comment), Some("anything"));
        made.expect("it signs").into_string()
    }
}

/// The folder of trusted keys, as a Secret is mounted.
struct Keys(TempDir);

impl Keys {
    fn of(trusted: &[(&str, &Signer)]) -> Self {
        let keys = Self(tempfile::tempdir().expect("a folder"));
        for (file, signer) in trusted {
            keys.trust(file, signer);
        }
        keys
    }

    fn trust(&self, file: &str, signer: &Signer) {
        let text = format!("untrusted comment: of the test\n{}\n", signer.0.pk.to_base64());
        std::fs::write(self.0.path().join(file), text).expect("written");
    }

    fn distrust(&self, file: &str) {
        std::fs::remove_file(self.0.path().join(file)).expect("it was there");
    }

    fn flags(&self, mode: &str) -> [String; 2] {
        [format!("--plugin-signatures={mode}"), format!("--plugin-keys={}", self.0.path().display())]
    }
}

/// Starts replicas that look at signatures; they need not become ready.
async fn start(scene: &Scene, names: &[&str], flags: &[String; 2]) {
    let flags = flags.each_ref().map(String::as_str);
    for name in names {
        scene.start(name, &flags).await;
    }
}

/// Kills every replica and starts as many others, which know nothing.
async fn replace(scene: &Scene, before: &[&str], after: &[&str], flags: &[String; 2]) {
    for name in before {
        scene.take(name).await.kill().await.expect("it ran");
    }
    start(scene, after, flags).await;
    scene.ready().await;
}

/// What an overlay that turns signatures on renders to: the Deployment, and all the rest.
async fn component(scene: &Scene) -> (String, String) {
    let overlay = tempfile::tempdir().expect("a folder");
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").canonicalize().expect("it is there");
    let folder = overlay.path().canonicalize().expect("it is there");
    // kustomize wants paths that are relative.
    let up = "../".repeat(folder.components().count() - 1);
    let deploy = format!("{up}{}", deploy.strip_prefix("/").expect("absolute").display());
    let text = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n\
         resources: [{deploy}/base]\ncomponents: [{deploy}/components/signatures]\n"
    );
    std::fs::write(folder.join("kustomization.yaml"), text).expect("written");
    let rendered = scene.kubectl(&["kustomize", &folder.display().to_string()]).await.expect("it renders");
    let (deployment, rest): (Vec<&str>, Vec<&str>) =
        rendered.split("\n---\n").partition(|document| document.contains("\nkind: Deployment\n"));
    (deployment.join("\n---\n"), rest.join("\n---\n"))
}

async fn install_component(scene: &Scene) {
    let (_, rest) = component(scene).await;
    scene.control().apply(&rest).await.expect("all of it is accepted");
}

fn plugin_path(plugin: &str) -> String {
    path("ConfigMap", HOST, &format!("{plugin}-plugin"))
}

/// Writes a plugin's ConfigMap, its signature beside the component.
async fn offer(scene: &Scene, plugin: &str, wasm: &[u8], signature: Option<String>) {
    let packed = STANDARD.encode(zstd::encode_all(wasm, 3).expect("in memory"));
    let data = signature.map_or(json!({}), |text| json!({"plugin.sig": text}));
    scene
        .apply(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("{plugin}-plugin"), "namespace": HOST, "labels": {"windlass.dev/plugin": plugin}},
            "data": data, "binaryData": {"plugin.wasm.zst": packed},
        }))
        .await;
}

/// Waits until the plugin's ConfigMap says so, and answers the message.
async fn state(scene: &Scene, plugin: &str, state: &str, says: &str) -> String {
    scene
        .until(&format!("{plugin} is {state}: {says}"), || async {
            let map = scene.get(&plugin_path(plugin)).await?;
            let note = &map["metadata"]["annotations"];
            let message = note["windlass.dev/message"].as_str().unwrap_or_default();
            (note["windlass.dev/state"] == state && message.contains(says)).then(|| message.to_owned())
        })
        .await
}

/// Waits until the first replica's metric says so of the plugin's signature.
async fn result(scene: &Scene, plugin: &str, mode: &str, result: &str) {
    let metric =
        format!("windlass_plugin_signature{{plugin=\"{plugin}\",mode=\"{mode}\",result=\"{result}\"}}");
    scene
        .until(&metric, || async {
            let value = scene.all().await[0].metric(&metric).await;
            (value == Some(1.0)).then_some(())
        })
        .await;
}

/// Waits until the widget's child of this plugin holds the text.
async fn says(scene: &Scene, child: &str, text: &str) -> Value {
    scene
        .until(&format!("{child} says {text:?}"), || async {
            let child = scene.own("ConfigMap", child).await?;
            (child["data"]["text"] == text).then(|| child.clone())
        })
        .await
}

/// What the guard holds of the plugin, once that is `sequence`.
async fn accepted(scene: &Scene, plugin: &str, sequence: u64) -> Value {
    let secret = format!("/api/v1/namespaces/{HOST}/secrets/windlass-accepted");
    scene
        .until(&format!("{plugin} {sequence} is recorded"), || async {
            let data = scene.get(&secret).await?["data"][plugin].as_str().map(str::to_owned)?;
            let text = STANDARD.decode(data).expect("base64");
            let version: Value = serde_json::from_slice(&text).expect("json");
            (version["sequence"] == sequence).then_some(version)
        })
        .await
}

async fn debug_view(scene: &Scene, at: usize, page: &str) -> Value {
    let (_, text) = scene.all().await[at].ask(page).await.expect("it answers");
    serde_json::from_str(&text).expect("json")
}

#[tokio::test]
async fn what_nobody_vouches_for_does_not_serve_and_nothing_goes_back_even_with_new_replicas() {
    let scene = Scene::fresh("signed").await;
    install_component(&scene).await;
    let (release, stranger) = (Signer::new(), Signer::new());
    let keys = Keys::of(&[("release.pub", &release)]);
    let flags = keys.flags("enforce");
    let old = built("windlass-fixtures", Some("greeter")).await;
    let new = built("windlass-fixtures", Some("greeter_loud")).await;

    offer(&scene, "greeter", &new, None).await;
    start(&scene, &["windlass-0", "windlass-1"], &flags).await;
    scene.ready().await;
    let message = state(&scene, "greeter", "refused", "E130 SignatureInvalid").await;
    assert!(message.contains("there is no key plugin.sig"), "{message}");
    result(&scene, "greeter", "enforce", "refused").await;
    offer(&scene, "greeter", &new, Some(stranger.sign(&new, "greeter", 5))).await;
    state(&scene, "greeter", "refused", "E131 UnknownKey").await;
    offer(&scene, "greeter", &new, Some(release.sign(&old, "greeter", 5))).await;
    state(&scene, "greeter", "refused", "E132 DigestMismatch").await;
    offer(&scene, "greeter", &new, Some(release.sign(&new, "sibling", 5))).await;
    state(&scene, "greeter", "refused", "is for the plugin sibling").await;
    scene.widget("w", json!({})).await;
    offer(&scene, "greeter", &new, Some(release.sign(&new, "greeter", 5))).await;
    assert_eq!(state(&scene, "greeter", "serving", "version").await, "version 0.2.0");
    says(&scene, "w-greeting", "HELLO").await;
    result(&scene, "greeter", "enforce", "verified").await;
    let guard = accepted(&scene, "greeter", 5).await;
    assert_eq!(guard["digest"], Digest::of(&new).as_str());
    // As an upgrade does.
    install_component(&scene).await;
    assert_eq!(accepted(&scene, "greeter", 5).await, guard, "what the host has written is left alone");

    let good = path("ConfigMap", HOST, "windlass-good-greeter");
    let copy = scene.until("a copy is kept", || scene.get(&good)).await;
    assert!(copy["data"]["plugin.sig"].is_string(), "with its signature");
    offer(&scene, "greeter", &old, Some(release.sign(&old, "greeter", 5))).await;
    state(&scene, "greeter", "refused", "sequence 5 was accepted for component").await;
    offer(&scene, "greeter", &old, Some(release.sign(&old, "greeter", 4))).await;
    let message = state(&scene, "greeter", "refused", "sequence 4 < accepted 5").await;
    assert!(message.starts_with("E134 Downgrade") && message.ends_with("goes on serving"), "{message}");

    replace(&scene, &["windlass-0", "windlass-1"], &["windlass-2", "windlass-3"], &flags).await;
    for replica in 0..2 {
        let view = debug_view(&scene, replica, "/debug/plugins").await;
        assert_eq!((&view[0]["state"], &view[0]["serving"]["lastGood"]), (&json!("refused"), &json!(true)));
    }
    state(&scene, "greeter", "refused", "which the host had kept, goes on serving").await;
    scene.widget("late", json!({})).await;
    says(&scene, "late-greeting", "HELLO").await;

    // Who may write ConfigMaps may write the copy as well.
    scene.patch(&good, json!({"data": {"plugin.sig": release.sign(&old, "greeter", 4)}})).await;
    replace(&scene, &["windlass-2", "windlass-3"], &["windlass-4"], &flags).await;
    let view = debug_view(&scene, 0, "/debug/plugins").await;
    assert_eq!((&view[0]["state"], &view[0]["serving"]), (&json!("refused"), &Value::Null));
    let log = scene.all().await[0].log();
    assert!(log.contains("the last good version is refused too") && log.contains("E132"), "{log}");
    offer(&scene, "greeter", &old, Some(release.sign(&old, "greeter", 6))).await;
    state(&scene, "greeter", "serving", "version 0.1.0").await;
    accepted(&scene, "greeter", 6).await;
}

#[tokio::test]
async fn without_the_guard_nothing_is_loaded_and_a_key_that_goes_takes_its_plugins_along_until_it_is_back() {
    let scene = Scene::fresh("keys").await;
    let (ours, theirs) = (Signer::new(), Signer::new());
    let keys = Keys::of(&[("ours.pub", &ours), ("theirs.pub", &theirs)]);
    let greeter = built("windlass-fixtures", Some("greeter")).await;
    let sibling = built("windlass-fixtures", Some("sibling")).await;
    offer(&scene, "greeter", &greeter, Some(ours.sign(&greeter, "greeter", 1))).await;
    offer(&scene, "sibling", &sibling, Some(theirs.sign(&sibling, "sibling", 1))).await;
    scene.widget("w", json!({})).await;
    start(&scene, &["windlass-0"], &keys.flags("enforce")).await;

    // There is no Secret yet. The replica says so and does not become ready, so that a rollout stops.
    scene
        .until("the log says what to do", || async {
            scene.all().await[0].log().contains("install deploy/components/signatures").then_some(())
        })
        .await;
    let (status, text) = scene.all().await[0].probe("/readyz").await.expect("it answers");
    assert_eq!(status, 503);
    assert!(text.contains("[-]signatures not ready yet, see /debug/signatures"), "{text}");
    let view = debug_view(&scene, 0, "/debug/signatures").await;
    assert!(view["problems"][0].as_str().is_some_and(|text| text.contains("windlass-accepted")), "{view}");
    assert_eq!(debug_view(&scene, 0, "/debug/plugins").await, json!([]), "nothing is loaded");
    install_component(&scene).await;
    scene.ready().await;
    let child = says(&scene, "w-greeting", "hello").await;
    says(&scene, "w-sibling", "I am here as well").await;
    // The copy, too, is vouched for by that key alone.
    let good = path("ConfigMap", HOST, "windlass-good-greeter");
    scene.until("a copy is kept", || scene.get(&good)).await;

    keys.distrust("ours.pub");
    let began = Instant::now();
    let message = state(&scene, "greeter", "refused", "E131 UnknownKey").await;
    assert!(began.elapsed() < SOON, "after {:?}", began.elapsed());
    assert!(!message.contains("goes on serving"), "{message}");
    scene.widget("late", json!({})).await;
    says(&scene, "late-sibling", "I am here as well").await;
    assert!(scene.own("ConfigMap", "late-greeting").await.is_none(), "nobody decides for it");
    let still = scene.own("ConfigMap", "w-greeting").await.expect("objects stay");
    assert_eq!(still["metadata"]["uid"], child["metadata"]["uid"]);
    result(&scene, "greeter", "enforce", "refused").await;
    result(&scene, "sibling", "enforce", "verified").await;

    keys.trust("ours.pub", &ours);
    let began = Instant::now();
    state(&scene, "greeter", "serving", "version 0.1.0").await;
    assert!(began.elapsed() < SOON, "after {:?}", began.elapsed());
    says(&scene, "late-greeting", "hello").await;
    result(&scene, "greeter", "enforce", "verified").await;
}

#[tokio::test]
async fn what_is_only_warned_of_serves_and_says_so() {
    let scene = Scene::fresh("warned").await;
    let release = Signer::new();
    let keys = Keys::of(&[("release.pub", &release)]);
    let greeter = built("windlass-fixtures", Some("greeter")).await;
    offer(&scene, "greeter", &greeter, None).await;
    scene.widget("w", json!({})).await;
    // Without the Secret: nothing is demanded, so nothing waits for it.
    start(&scene, &["windlass-0"], &keys.flags("warn")).await;
    scene.ready().await;
    let message = state(&scene, "greeter", "serving", "not verified, and let in all the same").await;
    assert!(message.contains("E130 SignatureInvalid"), "{message}");
    result(&scene, "greeter", "warn", "doubted").await;
    says(&scene, "w-greeting", "hello").await;

    offer(&scene, "greeter", &greeter, Some(release.sign(&greeter, "greeter", 1))).await;
    scene
        .until("it is verified", || async {
            (state(&scene, "greeter", "serving", "version").await == "version 0.1.0").then_some(())
        })
        .await;
    result(&scene, "greeter", "warn", "verified").await;
    install_component(&scene).await;
    accepted(&scene, "greeter", 1).await;
    keys.distrust("release.pub");
    state(&scene, "greeter", "serving", "let in all the same: E131 UnknownKey").await;
    result(&scene, "greeter", "warn", "doubted").await;
    scene.widget("late", json!({})).await;
    says(&scene, "late-greeting", "hello").await;
}

#[tokio::test]
async fn the_component_is_admitted_and_keeps_plugins_away_from_what_signatures_rest_on() {
    let scene = Scene::shared("guarded").await;
    let (deployment, rest) = component(&scene).await;
    scene.control().apply(&rest).await.expect("all of it is accepted");
    let applied = ["apply", "--server-side", "--dry-run=server", "-f", "-"];
    let answer = scene.control().kubectl_with_input(&applied, &deployment).await.expect("kubectl runs");
    let warnings = String::from_utf8_lossy(&answer.stderr);
    assert!(answer.status.success() && !warnings.contains("PodSecurity"), "{warnings}");
    for part in ["value: enforce", "mountPath: /etc/windlass/plugin-keys", "secretName: windlass-plugin-keys"]
    {
        assert!(deployment.contains(part), "{part} in {deployment}");
    }

    let rights = format!(
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: too-much, namespace: {HOST}}}
rules: [{{apiGroups: [''], resources: [secrets], verbs: [create, delete, get, patch]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: too-much, namespace: {HOST}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: too-much}}
subjects: [{{kind: ServiceAccount, name: plugin-greeter, namespace: {HOST}}}]
"
    );
    scene.control().apply(&rights).await.expect("the rights apply");
    let plugin = format!("--as=system:serviceaccount:{HOST}:plugin-greeter");
    let denied = async |verb: &[&str]| {
        let mut arguments = vec!["--namespace", HOST, plugin.as_str()];
        arguments.extend(verb);
        let answer = scene.control().kubectl(&arguments).await.expect("kubectl runs");
        let text = String::from_utf8_lossy(&answer.stderr).into_owned();
        text.contains("no plugin may write what signatures rest on").then_some(())
    };
    let patch =
        ["patch", "secret", "windlass-accepted", "--type=merge", "--patch={\"data\":{\"greeter\":null}}"];
    scene.until("a plugin may not turn the guard back", || denied(&patch)).await;
    denied(&["create", "secret", "generic", "windlass-plugin-keys"]).await.expect("nor add a key");
    denied(&["delete", "secret", "windlass-accepted"]).await.expect("nor remove the guard");
    let host = ["auth", "can-i", "patch", "secrets/windlass-accepted", "--as", crate::scene::HOST_USER];
    for (secret, may) in [("windlass-accepted", true), ("windlass-plugin-keys", false)] {
        let resource = format!("secrets/{secret}");
        let mut asked = host;
        asked[3] = &resource;
        let asked = [&asked[..], &["--namespace", HOST]].concat();
        let answer = scene.control().kubectl(&asked).await.expect("kubectl runs");
        assert_eq!(answer.status.success(), may, "patch {secret}");
    }
}

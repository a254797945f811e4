//! Hosts that serve a few namespaces, beside others in one cluster: each with its own fence and without a right to read
//! the cluster, and none of them felt by another.

use base64::Engine as _;
use kubectl_windlass::Place;
use serde_json::{Value, json};
use windlass_testbed::{Replica, ReplicaOptions};

use crate::catalogue::guest::{Guest, Kind};
use crate::packages::packaged;
use crate::scene::{PATIENCE, Scene, built, path};

const GREETER: &str = "greeter";

/// One team: its host's namespace, and those of its objects.
struct Team<'a> {
    scene: &'a Scene,
    host: String,
    served: &'a [&'a str],
    replica: Replica,
}

impl<'a> Team<'a> {
    /// Installs `deploy/overlays/namespaced` for a team, the greeter with rights in the namespaces that are served, and
    /// starts one replica.
    async fn start(scene: &'a Scene, name: &str, served: &'a [&'a str], flags: &[&str]) -> Self {
        let overlay = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/overlays/namespaced");
        let rendered = scene.kubectl(&["kustomize", overlay]).await.expect("it renders");
        let rendered = rendered.replace("team-a", name);
        // There is no kubelet.
        let documents = rendered.split("\n---\n").filter(|doc| !doc.contains("\nkind: Deployment\n"));
        let documents = documents.collect::<Vec<_>>().join("\n---\n");
        scene.control().apply(&documents).await.expect("it applies");
        let host = format!("{name}-windlass");
        rights(scene, &host, served).await;
        install(scene, &host, GREETER, &built("windlass-fixtures", Some(GREETER)).await).await;
        let token = scene.control().service_account_token(&host, "windlass").await.expect("a token");
        let kubeconfig = scene.control().kubeconfig_with_token(name, &token).expect("a kubeconfig");
        let namespaces = format!("--namespaces={}", served.join(","));
        let short =
            ["--lease-duration=3s", "--renew-deadline=2s", "--retry-period=400ms", "--request-timeout=2s"];
        let all =
            short.into_iter().chain(["--log=info,windlass=debug", &namespaces]).chain(flags.iter().copied());
        let replica = Replica::start(ReplicaOptions {
            binary: env!("CARGO_BIN_EXE_windlass").into(),
            name: format!("windlass-{name}"),
            namespace: host.clone(),
            kubeconfig,
            directory: scene.control().directory().expect("a directory").to_owned(),
            flags: all.map(Into::into).collect(),
            environment: Vec::new(),
        });
        let replica = replica.expect("the host starts");
        let ready = || async { replica.is_ready().await.then_some(()) };
        scene.until(&format!("the host of {name} is ready"), ready).await;
        Self { scene, host, served, replica }
    }

    /// Waits until a Widget of this namespace has been greeted by this team's host.
    async fn greets(&self, namespace: &str, widget: &str) {
        let child = format!("{widget}-greeting");
        let child = self
            .scene
            .until(&format!("{} greets {namespace}/{widget}", self.host), || {
                self.scene.get_in("ConfigMap", namespace, &child)
            })
            .await;
        assert_eq!(child["metadata"]["labels"]["windlass.dev/host"], self.host);
    }

    fn user(&self) -> String {
        format!("system:serviceaccount:{}:windlass", self.host)
    }

    /// What the host says of its own fence.
    async fn fence(&self) -> String {
        let (_, view) = self.replica.ask("/debug/leadership").await.expect("it answers");
        let view: Value = serde_json::from_str(&view).expect("JSON");
        view["fence"]["state"].as_str().unwrap_or_default().to_owned()
    }

    /// The claim under which it writes.
    async fn claim(&self) -> String {
        let role =
            format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles/windlass-claim", self.host);
        let role = self.scene.until("a claim", || self.scene.get(&role)).await;
        role["rules"][0]["resourceNames"][0].as_str().expect("a claim").to_owned()
    }
}

/// What `kubectl windlass package --namespace` grants the greeter: nothing outside of what is served.
async fn rights(scene: &Scene, host: &str, served: &[&str]) {
    let place = Place {
        namespaces: served.iter().map(|name| (*name).to_owned()).collect(),
        host_namespace: host.to_owned(),
        ..Place::default()
    };
    let greeter = packaged(built("windlass-fixtures", Some(GREETER)).await, "plugins/fixtures", place).await;
    let rights = greeter.rights_yaml().expect("its kinds are known");
    assert!(!rights.contains("kind: ClusterRole"), "{rights}");
    scene.control().apply(&rights).await.expect("the rights apply");
}

async fn install(scene: &Scene, host: &str, plugin: &str, wasm: &[u8]) {
    let wasm = base64::engine::general_purpose::STANDARD.encode(zstd::encode_all(wasm, 3).expect("memory"));
    scene
        .apply(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("{plugin}-plugin"), "namespace": host, "labels": {"windlass.dev/plugin": plugin}},
            "binaryData": {"plugin.wasm.zst": wasm},
        }))
        .await;
}

async fn namespaces(scene: &Scene, names: &[&str]) {
    for name in names {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        scene.apply_cluster("/api/v1/namespaces", object).await;
    }
}

async fn widget(scene: &Scene, namespace: &str, name: &str) {
    scene
        .apply(json!({"apiVersion": "fixtures.windlass.dev/v1alpha1", "kind": "Widget",
            "metadata": {"name": name, "namespace": namespace}, "spec": {"text": "hello"}}))
        .await;
}

/// Waits until a plugin is refused, and gives back why.
async fn refused(scene: &Scene, host: &str, plugin: &str) -> String {
    scene
        .until(&format!("{plugin} is refused"), || async {
            let map = scene.get_in("ConfigMap", host, &format!("{plugin}-plugin")).await?;
            let notes = &map["metadata"]["annotations"];
            let message = notes["windlass.dev/message"].as_str()?.to_owned();
            (notes["windlass.dev/state"] == "refused").then_some(message)
        })
        .await
}

#[tokio::test]
async fn teams_have_hosts_of_their_own_and_no_host_sees_or_disturbs_another() {
    let scene = Scene::fresh("tenancy").await;
    namespaces(&scene, &["team-a", "team-a-too", "team-b", "nobodys"]).await;
    for namespace in ["team-a", "team-a-too", "team-b", "nobodys"] {
        widget(&scene, namespace, "w").await;
    }
    let mark = scene.mark();
    let a = Team::start(&scene, "team-a", &["team-a", "team-a-too"], &[]).await;
    let b = Team::start(&scene, "team-b", &["team-b"], &[]).await;
    for (team, namespace) in [(&a, "team-a"), (&a, "team-a-too"), (&b, "team-b")] {
        team.greets(namespace, "w").await;
        widget(&scene, namespace, "later").await;
        team.greets(namespace, "later").await;
    }

    // Asked of the API server: the host's own namespace and those that are served, and nothing was refused.
    let events = scene.control().audit().and_then(|audit| audit.since(mark)).expect("an audit log");
    for team in [&a, &b] {
        let asked = events.iter().filter(|event| event.user.username == team.user());
        let mut counted = 0;
        for event in asked {
            let Some(object) = event.object_ref.as_ref() else { continue };
            let namespace = object.namespace.as_str();
            let own = namespace == team.host || team.served.contains(&namespace);
            let of_fence = object.resource.starts_with("validatingadmissionpolic");
            assert!(own || of_fence, "{} {}", event.verb, event.request_uri);
            counted += 1;
        }
        assert!(counted > 10, "{counted}");
        for (verb, what) in
            [("list", "widgets.fixtures.windlass.dev"), ("get", "configmaps"), ("list", "secrets")]
        {
            let mut may = vec!["auth", "can-i", verb, what, "--as"];
            let user = team.user();
            may.extend([user.as_str(), "-n", "nobodys"]);
            let answer = scene.control().kubectl(&may).await.expect("kubectl runs");
            assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), "no", "{verb} {what}");
        }
    }
    assert_eq!(scene.get_in("ConfigMap", "nobodys", "w-greeting").await, None);

    // Each is fenced, and by itself: a claim of one host opens nothing of the other's.
    for team in [&a, &b] {
        scene.until("the fence is seen", || async { (team.fence().await == "present").then_some(()) }).await;
    }
    let (of_a, of_b) = (a.claim().await, b.claim().await);
    for (claim, code) in [(&of_a, Some(403)), (&of_b, None)] {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "probe", "namespace": "team-b"}, "data": {"claim": claim}});
        let request = http::Request::patch(format!(
            "{}?fieldManager=probe&force=true",
            path("ConfigMap", "team-b", "probe")
        ))
        .header("content-type", "application/apply-patch+yaml")
        .header("impersonate-user", format!("system:serviceaccount:{}:plugin-greeter", b.host))
        .header("impersonate-extra-windlass.dev%2fclaim", claim)
        .body(object.to_string().into_bytes());
        let client = scene.control().client().expect("a client");
        let answer = client.request::<Value>(request.expect("a request")).await;
        let found = match answer {
            Err(kube::Error::Api(status)) => Some((status.code, status.message)),
            other => other.map(|_| None).expect("an answer"),
        };
        assert_eq!(found.as_ref().map(|(code, _)| *code), code, "{found:?}");
        assert!(found.is_none_or(|(_, message)| message.contains("fenced")), "by the fence");
    }

    // One goes; the other does not notice.
    a.replica.kill().await.expect("it ran");
    widget(&scene, "team-a", "alone").await;
    widget(&scene, "team-b", "again").await;
    b.greets("team-b", "again").await;
    assert_eq!(scene.get_in("ConfigMap", "team-a", "alone-greeting").await, None);
    assert_eq!(b.claim().await, of_b, "still in the same term");
}

#[tokio::test]
async fn a_plugin_for_more_than_is_served_is_refused_and_says_what_is_missing() {
    let scene = Scene::fresh("outside").await;
    namespaces(&scene, &["team-a"]).await;
    let a = Team::start(&scene, "team-a", &["team-a"], &[]).await;
    // Its manifest names namespaces that this host does not serve.
    install(&scene, &a.host, "scoped", &built("windlass-fixtures", Some("scoped")).await).await;
    let message = refused(&scene, &a.host, "scoped").await;
    assert!(
        message.contains("E182 OutsideNamespaces") && message.contains("serves team-a only"),
        "{message}"
    );
    // What it reconciles is in no namespace.
    let of_cluster: Kind<'_> = ("", "v1", "Namespace");
    let guest = Guest { name: "wide", primary: of_cluster, ..Guest::default() }.build();
    install(&scene, &a.host, "wide", &guest).await;
    let message = refused(&scene, &a.host, "wide").await;
    assert!(message.contains("E182 OutsideNamespaces") && message.contains("v1/Namespace"), "{message}");
    // Neither is in the way of the others.
    widget(&scene, "team-a", "w").await;
    a.greets("team-a", "w").await;
    // A replica that starts now is ready although they are there.
    a.replica.terminate(PATIENCE).await.expect("it ran");
    let again = Team::start(&scene, "team-a", &["team-a"], &[]).await;
    widget(&scene, "team-a", "later").await;
    again.greets("team-a", "later").await;
}

#[tokio::test]
async fn a_host_without_any_right_of_the_cluster_works_when_it_says_no_claims() {
    let scene = Scene::fresh("unclaimed").await;
    namespaces(&scene, &["team-a"]).await;
    let flags = ["--claim-extras=false"];
    let a = Team::start(&scene, "team-a", &["team-a"], &flags).await;
    // What a person with rights in two namespaces cannot install is taken away.
    for (kind, name) in [
        ("validatingadmissionpolicybinding", "windlass-fence.team-a-windlass"),
        ("validatingadmissionpolicy", "windlass-fence.team-a-windlass"),
        ("clusterrolebinding", "windlass-claims.team-a-windlass"),
        ("clusterrolebinding", "windlass-fence.team-a-windlass"),
    ] {
        scene.kubectl(&["delete", kind, name]).await.expect("it was there");
    }
    widget(&scene, "team-a", "w").await;
    a.greets("team-a", "w").await;
    let mark = scene.mark();
    widget(&scene, "team-a", "later").await;
    a.greets("team-a", "later").await;
    let events = scene.control().audit().and_then(|audit| audit.since(mark)).expect("an audit log");
    let plugin = format!("system:serviceaccount:{}:plugin-greeter", a.host);
    let by_plugin = |event: &&windlass_testbed::AuditEvent| {
        event.impersonated_user.as_ref().is_some_and(|user| user.username == plugin)
    };
    let writes: Vec<_> = events.iter().filter(by_plugin).collect();
    assert!(!writes.is_empty());
    assert!(
        writes.iter().all(|event| event.impersonated_user.as_ref().is_some_and(|user| user.extra.is_empty()))
    );
}

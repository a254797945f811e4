//! The ports of a running host, as strangers find them: who may see metrics and debug views, with which certificate,
//! and what the probes say to everybody.

mod certificates;
mod components;
mod probes;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_testbed::{Options, Stop};

use crate::scene::{HOST, HOST_USER, Scene, read};

/// Namespace of the accounts that look.
const MONITORING: &str = "monitoring";

/// Somebody who asks with a token, over TLS and without looking at the certificate.
pub(crate) struct Reader(kube::Client);

impl Reader {
    pub(crate) fn new(address: SocketAddr, token: &str) -> Self {
        let mut config = kube::Config::new(format!("https://{address}").parse().expect("an address"));
        config.accept_invalid_certs = true;
        Self::with(config, token)
    }

    fn with(mut config: kube::Config, token: &str) -> Self {
        config.default_retry = false;
        config.auth_info.token = (!token.is_empty()).then(|| token.to_owned().into());
        Self(kube::Client::try_from(config).expect("a client"))
    }

    /// The status and the body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        self.try_get(path).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    async fn try_get(&self, path: &str) -> Result<(u16, String), kube::Error> {
        let request = http::Request::get(path).body(kube::client::Body::empty()).expect("a request");
        let answer = self.0.send(request).await?;
        let status = answer.status().as_u16();
        let body = http_body_util::BodyExt::collect(answer.into_body()).await.expect("a body").to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

/// Installs deploy/components/metrics-auth, which its overlays put beside the base.
pub(crate) async fn metrics_auth(scene: &Scene) {
    scene.control().apply(&read("deploy/components/metrics-auth/rbac.yaml")).await.expect("it applies");
}

/// A token of a new account in another namespace that is bound to these ClusterRoles, by `kubectl create token`.
pub(crate) async fn bound_token(scene: &Scene, account: &str, roles: &[&str]) -> String {
    token_for(scene, account, roles, &[]).await
}

async fn token_for(scene: &Scene, account: &str, roles: &[&str], flags: &[&str]) -> String {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": MONITORING}});
    let own = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": MONITORING}});
    for object in [namespace, own] {
        scene.control().apply(&object.to_string()).await.expect("it applies");
    }
    for role in roles {
        let (role, account) =
            (format!("--clusterrole={role}"), format!("--serviceaccount={MONITORING}:{account}"));
        let name = format!("{role}-{account}").replace(['=', ':'], "-").trim_start_matches('-').to_owned();
        scene.kubectl(&["create", "clusterrolebinding", &name, &role, &account]).await.expect("bound");
    }
    let mut create = vec!["create", "token", account, "-n", MONITORING];
    create.extend(flags);
    scene.kubectl(&create).await.expect("a token").trim().to_owned()
}

/// How many reviews the host has asked for, by what the API server counts.
async fn reviews(scene: &Scene) -> f64 {
    let request = http::Request::get("/metrics").body(Vec::new()).expect("a request");
    let text = scene.control().client().expect("a client").request_text(request).await.expect("metrics");
    let of = |resource: &str| -> f64 {
        let lines = text.lines().filter(|line| {
            line.starts_with("apiserver_request_total{") && line.contains(&format!("resource=\"{resource}\""))
        });
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    of("tokenreviews") + of("subjectaccessreviews")
}

#[tokio::test]
async fn metrics_and_views_are_for_accounts_that_may_see_them_and_for_nobody_else() {
    let scene = Scene::fresh("endpoints").await;
    scene.install_fixture("greeter").await;
    scene.replicas(1, &["--metrics-secure=true"]).await;
    let address = scene.all().await[0].metrics_address();
    let scraper = bound_token(&scene, "scraper", &["windlass-metrics-reader"]).await;

    // Before the component is installed the host may not ask, and says which component is missing.
    let (status, text) = Reader::new(address, &scraper).get("/metrics").await;
    assert_eq!((status, text.lines().count()), (503, 1), "{text}");
    assert!(scene.all().await[0].log().contains("install deploy/components/metrics-auth"));
    for review in ["tokenreviews.authentication.k8s.io", "subjectaccessreviews.authorization.k8s.io"] {
        let may = async || {
            let ask = ["auth", "can-i", "create", review, "--as", HOST_USER];
            scene.control().kubectl(&ask).await.expect("kubectl runs").status.success()
        };
        assert!(!may().await, "the host has no right of its own to {review}");
    }
    metrics_auth(&scene).await;
    let ready = || async { (Reader::new(address, &scraper).get("/metrics").await.0 == 200).then_some(()) };
    scene.until("the right to ask is felt", ready).await;

    let debugger = bound_token(&scene, "debugger", &["windlass-debug-reader"]).await;
    let nobody = bound_token(&scene, "nobody", &[]).await;
    let elsewhere = token_for(&scene, "scraper", &[], &["--audience=https://vault.example"]).await;
    let admin = bound_token(&scene, "admin", &["cluster-admin"]).await;
    for (who, token, path, expected) in [
        ("a scraper", &*scraper, "/metrics", 200),
        ("a scraper", &*scraper, "/debug/plugins", 403),
        ("a debugger", &*debugger, "/debug/plugins", 200),
        ("a debugger", &*debugger, "/debug/queue", 200),
        ("a debugger", &*debugger, "/metrics", 403),
        ("an account without rights", &*nobody, "/metrics", 403),
        ("a token for another audience", &*elsewhere, "/metrics", 401),
        ("a token that is none", "made-up", "/metrics", 401),
        ("nobody", "", "/metrics", 401),
        ("nobody", "", "/debug/plugins", 401),
        ("nobody", "", "/nothing", 401),
        ("a scraper", &*scraper, "/nothing", 403),
        ("who may see everything", &*admin, "/nothing", 404),
        ("who may see everything", &*admin, "/debug/leadership", 200),
    ] {
        let (status, text) = Reader::new(address, token).get(path).await;
        assert_eq!(status, expected, "{who}, {path}: {text}");
        assert!(status == 200 || (text.lines().count() == 1 && text.len() < 100), "{text}");
    }
    let (_, metrics) = Reader::new(address, &scraper).get("/metrics").await;
    assert!(metrics.contains("windlass_metrics_certificate_expiration_timestamp_seconds 1"), "{metrics}");
    // No plain HTTP beside it.
    assert!(scene.all().await[0].ask("/metrics").await.is_err());

    // A right that is given is felt within ten seconds, which is how long a no is remembered.
    let given = Instant::now();
    scene
        .kubectl(&[
            "create",
            "clusterrolebinding",
            "late",
            "--clusterrole=windlass-metrics-reader",
            &format!("--serviceaccount={MONITORING}:nobody"),
        ])
        .await
        .expect("bound");
    let allowed = || async { (Reader::new(address, &nobody).get("/metrics").await.0 == 200).then_some(()) };
    scene.until("a right that is given is felt", allowed).await;
    assert!(given.elapsed() < Duration::from_secs(15), "{:?}", given.elapsed());

    // And scrapes in between cost the API server nothing.
    let before = reviews(&scene).await;
    for _ in 0..20 {
        assert_eq!(Reader::new(address, &nobody).get("/metrics").await.0, 200);
    }
    let asked = reviews(&scene).await - before;
    assert!(asked <= 2.0, "one round at most, should the minute end just now: {asked}");
}

#[tokio::test]
async fn only_tokens_of_the_audience_that_is_asked_for_count() {
    let scene = Scene::fresh("audience").await;
    metrics_auth(&scene).await;
    scene.start("windlass-0", &["--metrics-secure=true", "--metrics-token-audiences=windlass.example"]).await;
    scene.ready().await;
    let address = scene.all().await[0].metrics_address();
    let ours =
        token_for(&scene, "scraper", &["windlass-metrics-reader"], &["--audience=windlass.example"]).await;
    let two = ["--audience=windlass.example", "--audience=other.example"];
    let both = token_for(&scene, "scraper", &[], &two).await;
    let default = token_for(&scene, "scraper", &[], &[]).await;
    for (token, expected) in [(ours, 200), (both, 200), (default, 401)] {
        assert_eq!(Reader::new(address, &token).get("/metrics").await.0, expected);
    }
}

#[tokio::test]
async fn without_an_api_server_known_answers_go_on_for_a_minute_and_then_it_is_503() {
    let scene = Scene::fresh_with("outage", Options::default()).await;
    metrics_auth(&scene).await;
    scene.replicas(1, &["--metrics-secure=true"]).await;
    let address = scene.all().await[0].metrics_address();
    let known = bound_token(&scene, "scraper", &["windlass-metrics-reader"]).await;
    let stranger = bound_token(&scene, "stranger", &["windlass-metrics-reader"]).await;
    let reader = Reader::new(address, &known);
    let seen = Instant::now();
    assert_eq!(reader.get("/metrics").await.0, 200);
    scene.control().stop_apiserver(Stop::Kill).await.expect("it ran");
    let asked = Instant::now();
    assert_eq!(reader.get("/metrics").await.0, 200, "what is known goes on");
    assert_eq!(Reader::new(address, &stranger).get("/metrics").await.0, 503);
    assert!(asked.elapsed() < Duration::from_secs(5), "--request-timeout is 2 s: {:?}", asked.elapsed());
    let ended = loop {
        match reader.get("/metrics").await {
            (200, _) => {
                assert!(seen.elapsed() < Duration::from_secs(70), "an answer is a minute old at most")
            }
            (503, _) => break seen.elapsed(),
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    assert!(ended > Duration::from_secs(55), "{ended:?}");
    scene.control().start_apiserver().await.expect("it starts");
    let back = || async { (reader.get("/metrics").await.0 == 200).then_some(()) };
    scene.until("metrics are there again", back).await;
    let queue = Reader::new(address, &known).get("/debug/queue").await;
    assert_eq!(queue.0, 403);
}

#[tokio::test]
async fn plain_metrics_on_an_address_that_others_reach_are_refused_at_the_start() {
    let run = async |flags: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_windlass"));
        command.args(["run", "--kubeconfig", "/nowhere"]).args(flags).kill_on_drop(true);
        let output = command.output().await.expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(&["--metrics-secure=false"]).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("--metrics-secure=false on 0.0.0.0:8443") && said.contains("--metrics-insecure-remote")
    );
    // These come as far as the kubeconfig.
    let local = ["--metrics-secure=false", "--metrics-bind-address=localhost:0"];
    for flags in [&local[..], &["--metrics-secure=false", "--metrics-insecure-remote"]] {
        let (code, said) = run(flags).await;
        assert!(code == Some(2) && said.contains("/nowhere"), "{said}");
    }
}

/// The JSON of a text that must be some.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Where plugins are.
fn plugins() -> String {
    format!("/api/v1/namespaces/{HOST}/configmaps?labelSelector=windlass.dev/plugin")
}

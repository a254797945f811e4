//! The fence in the API server, as it is shipped, with real replicas behind it: what is
//! taken away, broken, restarted or slow never touches anybody else, never lets a stale
//! write through, and needs nobody to mend it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_testbed::prober::is_fenced;
use windlass_testbed::{AuditEvent, Prober, SlowWebhook, Stop, Writes};

use crate::scene::{HOST, PATIENCE, Scene};

/// A claim that was never the current one.
const STALE: Option<&str> = Some("windlass-gone/0");
const JSON: &str = "application/json";

/// The fence, a plugin, and somebody who tries all that is forbidden.
struct Fenced {
    scene: Scene,
    prober: Prober,
}

impl Fenced {
    async fn new(prefix: &str) -> Self {
        let scene = Scene::fresh(prefix).await;
        let manifests = scene.control().manifests(HOST, &["fence", "flowschema"]).await.expect("it renders");
        scene.control().apply(&manifests).await.expect("the fence applies");
        let prober = Prober::new(scene.control(), HOST).await.expect("a prober");
        let fenced = Self { scene, prober };
        fenced.closed().await;
        fenced.scene.install_fixture("greeter").await;
        fenced
    }

    /// Waits until a write without the current claim is refused.
    async fn closed(&self) {
        self.scene
            .until("the fence stands", || async {
                is_fenced(&self.prober.create(STALE).await.expect("an answer"), STALE).then_some(())
            })
            .await;
    }

    /// What holds in every case: nobody else is touched, nothing stale passes.
    async fn holds(&self, stale: &[Option<&str>]) {
        self.prober.others_pass().await.expect("others are not touched");
        for claim in stale {
            self.prober.is_refused(*claim).await.expect("a stale write is refused");
        }
    }

    /// The leader makes a child for a new widget, whatever it takes. How long that took.
    async fn works(&self, name: &str) -> Duration {
        let began = Instant::now();
        self.scene.widget(name, json!({})).await;
        let child = format!("{name}-greeting");
        self.scene.until("the leader works", || self.scene.own("ConfigMap", &child)).await;
        began.elapsed()
    }

    /// The claim that the Role names.
    async fn claim(&self) -> Option<String> {
        let role = self.scene.get(&role_path()).await?;
        role["rules"][0]["resourceNames"][0].as_str().map(str::to_owned)
    }

    async fn damage(&self, method: &str, path: &str, body: &Value) {
        let content = if method == "PATCH" { "application/merge-patch+json" } else { JSON };
        let (code, answer) = self.prober.as_admin(method, path, content, body).await.expect("an answer");
        assert!(code < 300, "{method} {path}: {code} {answer}");
    }

    /// Nobody was restarted.
    async fn nobody_ended(&self) {
        for replica in self.scene.all().await.iter_mut() {
            replica.check_alive().expect("no process ends");
        }
    }
}

fn role_path() -> String {
    format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{HOST}/roles/windlass-claim")
}

fn rules(claims: &[&str]) -> Value {
    json!([{"apiGroups": ["windlass.dev"], "resources": ["claims"], "resourceNames": claims, "verbs": ["write"]}])
}

fn number(claim: &str) -> u64 {
    claim.rsplit('/').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

#[tokio::test]
async fn a_fence_that_is_there_before_anything_else_opens_for_the_first_leader() {
    let fenced = Fenced::new("first").await;
    fenced.holds(&[None, STALE]).await;
    fenced.scene.replicas(2, &[]).await;
    let took = fenced.works("a").await;
    let claim = fenced.claim().await.expect("the leader made its Role");
    println!("first child {took:?} after the widget, under {claim}");
    fenced.holds(&[None, STALE]).await;
    let old = fenced.scene.leader().await;
    fenced.scene.take(&old).await.kill().await.expect("it ran");
    fenced.works("b").await;
    let next = fenced.claim().await.expect("a Role");
    assert!(number(&next) > number(&claim), "{claim} then {next}");
    fenced.holds(&[None, STALE, Some(&claim)]).await;
    fenced.nobody_ended().await;
}

#[tokio::test]
async fn a_fence_that_is_deleted_and_applied_again_disturbs_nobody() {
    let fenced = Fenced::new("again").await;
    fenced.scene.replicas(2, &[]).await;
    fenced.works("before").await;
    let claim = fenced.claim().await.expect("a Role");
    let manifests = fenced.scene.control().manifests(HOST, &["fence"]).await.expect("it renders");
    let admission = "/apis/admissionregistration.k8s.io/v1";
    let (policies, bindings) = ("validatingadmissionpolicies", "validatingadmissionpolicybindings");
    for (round, gone) in [vec![bindings], vec![policies], vec![policies, bindings]].into_iter().enumerate() {
        for plural in gone {
            fenced.damage("DELETE", &format!("{admission}/{plural}/windlass-fence"), &json!({})).await;
        }
        fenced
            .scene
            .until("the fence is gone", || async {
                let (code, _) = fenced.prober.create(STALE).await.expect("an answer");
                (code == 201).then_some(())
            })
            .await;
        fenced.prober.others_pass().await.expect("others are not touched");
        fenced.works(&format!("without-{round}")).await;
        fenced.scene.control().apply(&manifests).await.expect("it applies again");
        fenced.closed().await;
        fenced.holds(&[None, STALE]).await;
        fenced.works(&format!("with-{round}")).await;
    }
    assert_eq!(fenced.claim().await, Some(claim), "all in one term");
    fenced.nobody_ended().await;
}

#[tokio::test]
async fn whatever_becomes_of_the_claim_role_the_leader_mends_it_with_its_next_write() {
    let fenced = Fenced::new("role").await;
    fenced.scene.replicas(2, &[]).await;
    fenced.works("before").await;
    let role = |rules: Value| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "windlass-claim", "namespace": HOST}, "rules": rules})
    };
    let roles = role_path().replace("/windlass-claim", "");
    let mut before = fenced.claim().await.expect("a Role");
    let damages = [
        ("deleted", None),
        ("emptied", Some(json!([]))),
        ("junk", Some(rules(&["junk"]))),
        ("taken", Some(rules(&[&format!("somebody/{}", number(&before) + 20)]))),
        ("doubled", Some(rules(&["x/99999999999999999999", "y/z/"]))),
    ];
    for (what, made) in damages {
        // A young term waits for a claim to be seen; this one is old enough to know better.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        fenced.damage("DELETE", &role_path(), &json!({})).await;
        if let Some(rules) = made {
            fenced.damage("POST", &roles, &role(rules)).await;
        }
        fenced
            .scene
            .until("the damage is heard of", || async {
                is_fenced(&fenced.prober.create(Some(&before)).await.expect("an answer"), Some(&before))
                    .then_some(())
            })
            .await;
        fenced.holds(&[None, STALE, Some(&before)]).await;
        let took = fenced.works(what).await;
        let after = fenced.claim().await.expect("a Role");
        println!(
            "claim Role {what}: works again {took:?} after the next write was wanted, {before} -> {after}"
        );
        assert!(number(&after) > number(&before), "{what}: {before} -> {after}");
        fenced.holds(&[None, STALE, Some(&before)]).await;
        before = after;
    }
    fenced.nobody_ended().await;
}

#[tokio::test]
async fn an_api_server_that_is_killed_judges_rightly_from_its_first_answer() {
    let fenced = Fenced::new("killed").await;
    fenced.scene.replicas(2, &[]).await;
    fenced.works("before").await;
    let (mut answers, mut refused) = (0, 0);
    for round in 0..crate::scene::count(2, 10) {
        fenced.scene.control().stop_apiserver(Stop::Kill).await.expect("it ran");
        let hammer = async {
            let mut codes = Vec::new();
            let began = Instant::now();
            // Until it has answered for a second in which it was asked all the time.
            let mut first = None;
            while first.is_none_or(|first: Instant| first.elapsed() < Duration::from_secs(1)) {
                assert!(began.elapsed() < PATIENCE, "it does not come back");
                match fenced.prober.create(STALE).await {
                    Ok(answer) => {
                        first.get_or_insert_with(Instant::now);
                        codes.push(answer);
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
                }
            }
            codes
        };
        let (started, codes) = tokio::join!(fenced.scene.control().start_apiserver(), hammer);
        started.expect("it starts");
        for answer in codes {
            answers += 1;
            // Until its RBAC is loaded it refuses to impersonate, or says that it is not ready.
            assert!(matches!(answer.0, 401 | 403 | 429 | 500 | 503), "round {round}: {answer:?}");
            refused += usize::from(is_fenced(&answer, STALE));
        }
        fenced.holds(&[None, STALE]).await;
        fenced.works(&format!("after-{round}")).await;
        fenced.nobody_ended().await;
    }
    println!(
        "{answers} answers to stale writes from the first moment on, {refused} of them the fence's, 0 accepted"
    );
    assert!(refused > 0);
}

#[tokio::test]
async fn of_two_api_servers_the_slower_one_follows_within_moments() {
    let fenced = Fenced::new("two").await;
    let scene = &fenced.scene;
    let second = scene.control().second_apiserver().await.expect("a second API server");
    let token = scene.control().service_account_token(HOST, "windlass").await.expect("a token");
    let through = scene.control().kubeconfig_through(second.server_url(), "second", &token).expect("written");
    let other = fenced
        .prober
        .through(second.config_with_token(&token).expect("a URL"), second.config().expect("a URL"))
        .expect("a client");
    // One replica on each server, and the stale writer on both.
    scene.start("windlass-0", &[]).await;
    scene.keep(scene.replica_with("windlass-1", &through, &[]).expect("it starts")).await;
    scene.ready().await;
    fenced.works("before").await;
    let (mut behind, mut tried) = (Vec::new(), 0);
    for round in 0..crate::scene::count(6, 40) {
        let (leader, old) = (scene.leader().await, fenced.claim().await.expect("a Role"));
        let leaving = scene.take(&leader).await;
        let next = async {
            let began = Instant::now();
            loop {
                if let Some(new) = fenced.claim().await.filter(|claim| *claim != old) {
                    break (new, Instant::now());
                }
                assert!(began.elapsed() < PATIENCE, "nobody claims");
            }
        };
        let hammer = async {
            let mut accepted = Vec::new();
            let mut quiet = Instant::now();
            // On while it gets through, and a second more.
            while quiet.elapsed() < Duration::from_secs(1) {
                for prober in [&fenced.prober, &other] {
                    tried += 1;
                    let sent = Instant::now();
                    if prober.create(Some(&old)).await.expect("an answer").0 == 201 {
                        accepted.push(sent);
                        quiet = Instant::now();
                    }
                }
            }
            accepted
        };
        let ended = async { leaving.terminate(Duration::from_secs(20)).await.expect("it ran") };
        let (_, (new, seen), accepted) = tokio::join!(ended, next, hammer);
        assert!(number(&new) > number(&old), "{old} then {new}");
        let late = accepted.into_iter().filter_map(|sent| sent.checked_duration_since(seen));
        behind.extend(late.filter(|late| !late.is_zero()));
        fenced.works(&format!("round-{round}")).await;
        if leader == "windlass-0" {
            scene.start("windlass-0", &[]).await;
        } else {
            scene.keep(scene.replica_with("windlass-1", &through, &[]).expect("it starts")).await;
        }
        scene.ready().await;
    }
    behind.sort();
    let most = behind.last().copied().unwrap_or_default();
    println!(
        "two API servers: {} of {tried} stale writes accepted after the new claim was seen, at most {most:?} after",
        behind.len()
    );
    // The shared machine may stop a server for a moment; unloaded it is below 50 ms.
    assert!(most < Duration::from_millis(500), "{behind:?}");
    for prober in [&fenced.prober, &other] {
        prober.others_pass().await.expect("others are not touched");
        prober.is_refused(STALE).await.expect("refused");
    }
    fenced.nobody_ended().await;
}

/// A create that waits in the API server while the claim changes: admitted before, it may
/// land after, but no later than its own timeout, and what nobody wants is pruned.
#[tokio::test]
async fn a_create_that_waits_in_a_slow_webhook_lands_within_its_timeout_and_is_pruned() {
    let fenced = Fenced::new("slow").await;
    let scene = &fenced.scene;
    scene.install_webapp().await;
    let flags = ["--lease-duration=15s", "--renew-deadline=10s", "--retry-period=1s", "--request-timeout=7s"];
    scene.replicas(2, &flags).await;
    fenced.works("before").await;
    let webhook = SlowWebhook::start(scene.control(), Duration::from_secs(5)).await.expect("a webhook");
    let configuration = webhook.configuration("slow", &scene.namespace, "networking.k8s.io", "ingresses");
    scene.control().apply(&configuration.to_string()).await.expect("it applies");
    let mut asked = webhook.asked();
    scene
        .until("the webhook is asked", || async {
            let backend = json!({"service": {"name": "x", "port": {"number": 1}}});
            let body = json!({"metadata": {"name": "try"}, "spec": {"defaultBackend": backend}});
            let path = scene.path("Ingress", "").trim_end_matches('/').to_owned();
            drop(fenced.prober.as_admin("POST", &format!("{path}?dryRun=All&timeout=1s"), JSON, &body).await);
            asked.has_changed().ok().filter(|asked| *asked)
        })
        .await;

    let old = fenced.claim().await.expect("a Role");
    let mark = scene.mark();
    let before = *asked.borrow_and_update();
    scene.webapp("late", json!({"host": "late.example.com"})).await;
    let waits = tokio::time::timeout(PATIENCE, asked.wait_for(|asked| *asked > before));
    drop(waits.await.expect("the create waits").expect("open"));
    // Leadership changes under it: the Lease is gone, and whoever takes it claims anew.
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/{HOST}/leases/windlass");
    fenced.damage("DELETE", &lease, &json!({})).await;
    let new =
        scene.until("a new claim", || async { fenced.claim().await.filter(|claim| *claim != old) }).await;
    scene.patch(&scene.path("WebApp", "late"), json!({"spec": {"host": null}})).await;
    webhook.set_delay(Duration::ZERO);
    fenced.holds(&[None, STALE]).await;
    fenced.works("meanwhile").await;

    let filter = Writes::new().to("ingresses").within(&scene.namespace).named("late");
    let ended = || {
        let events = scene.control().audit().and_then(|audit| audit.writes(mark, &filter));
        let is_of_old = |event: &AuditEvent| event.extra("windlass.dev/claim") == Some(&old);
        events.expect("an audit log").into_iter().find(|event| event.is_complete() && is_of_old(event))
    };
    let late = scene.until("the create of the old claim ends", || async { ended() }).await;
    println!(
        "create under {old}, {new} since: {}, received {}, ended {}",
        late.code(),
        late.request_received_timestamp,
        late.stage_timestamp
    );
    assert!(late.request_uri.contains("timeout="), "{}", late.request_uri);
    assert_eq!(late.code(), 201, "admitted under the old claim, before the new one");
    let began = Instant::now();
    scene
        .until("nothing of it is left", || async {
            scene.own("Ingress", "late").await.is_none().then_some(())
        })
        .await;
    println!("gone {:?} after it landed", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(30));
    let pruned = scene.control().audit().and_then(|audit| audit.writes(mark, &filter)).expect("an audit log");
    let pruned =
        pruned.into_iter().find(|event| event.verb == "delete" && event.succeeded()).expect("pruned");
    assert_ne!(pruned.extra("windlass.dev/claim"), Some(&*old), "by whoever leads now, not by the collector");
    assert!(pruned.extra("windlass.dev/claim").is_some());
    fenced.holds(&[None, STALE, Some(&old)]).await;
    fenced.nobody_ended().await;
}

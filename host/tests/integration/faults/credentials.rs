//! Tokens and certificates: replaced in their files while the host runs, and revoked, expired or signed by somebody else.

use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use windlass_testbed::{AuditEvent, Authority, Identity, Mark, Options, Stop};

use super::stand::Stand;
use crate::scene::{HOST, HOST_USER, Scene};

/// How long after it can be reached again everything may take to be as it should be.
const RESUMES: Duration = Duration::from_secs(60);
/// For how long credentials are of no use, so that attempts can be counted.
const REFUSED: Duration = Duration::from_secs(10);
/// By what name the host calls the API server where its certificate is another than everybody's.
const NAME: &str = "windlass.test";

/// A folder with a kubeconfig and the files that it names, as a projected volume has them.
struct Wallet(tempfile::TempDir);

impl Wallet {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        self.0.path().join(file)
    }

    /// Replaces a file as a whole, as the kubelet does.
    fn says(&self, file: &str, text: &str) {
        let new = self.path("new");
        std::fs::write(&new, text).and_then(|()| std::fs::rename(new, self.path(file))).expect("a file");
    }

    fn certificate(&self, name: &str, identity: &Identity) {
        self.says(&format!("{name}.crt"), &identity.certificate_pem);
        self.says(&format!("{name}.key"), &identity.key_pem);
    }

    /// Writes a kubeconfig for this user, which trusts whoever `ca.crt` names.
    fn kubeconfig(&self, scene: &Scene, called: Option<&str>, user: &Value) -> std::path::PathBuf {
        let mut cluster = json!({"server": scene.control().server_url(), "certificate-authority": "ca.crt"});
        if let Some(name) = called {
            cluster["tls-server-name"] = name.into();
        }
        let config = json!({
            "clusters": [{"name": "testbed", "cluster": cluster}],
            "users": [{"name": "host", "user": user}],
            "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "host"}}],
            "current-context": "testbed",
        });
        self.says("kubeconfig", &config.to_string());
        self.path("kubeconfig")
    }
}

fn secret(name: &str) -> String {
    format!("/api/v1/namespaces/{HOST}/secrets/{name}")
}

/// A token of the host's account that is good for as long as there is a Secret of this name.
async fn token(scene: &Scene, name: &str) -> String {
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": HOST}});
    let made = scene.apply_cluster(secret("").trim_end_matches('/'), object).await;
    let bound = json!({"apiVersion": "v1", "kind": "Secret", "name": name, "uid": made["metadata"]["uid"]});
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600, "boundObjectRef": bound}});
    let path = format!("/api/v1/namespaces/{HOST}/serviceaccounts/windlass/token");
    let request = http::Request::post(path)
        .header("content-type", "application/json")
        .body(request.to_string().into_bytes())
        .expect("a request");
    let client = scene.control().client().expect("a client");
    let answer: Value = client.request(request).await.expect("a token");
    answer["status"]["token"].as_str().expect("a token").to_owned()
}

/// What the audit log calls a token.
fn credential(token: &str) -> String {
    let payload = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let payload: Value = serde_json::from_slice(&payload.expect("a JWT")).expect("claims");
    format!("JTI={}", payload["jti"].as_str().expect("an id"))
}

/// Requests of the host that were not accepted since the mark.
fn not_accepted(stand: &Stand, mark: Mark) -> usize {
    let events = stand.scene.control().audit().and_then(|audit| audit.since(mark)).expect("an audit log");
    events.iter().filter(|event| event.code() == 401 && event.user_agent.starts_with("windlass/")).count()
}

/// Waits until the Lease is written, a child is written and all that plugins need is watched with this credential: the next
/// watch begins within 30 s. That of the Lease may go on for five minutes with the one that it began with.
async fn is_used(stand: &Stand, mark: Mark, credential: &str) {
    let wanted =
        [("update", "leases"), ("watch", "widgets"), ("watch", "configmaps"), ("patch", "configmaps")];
    let with_it = |event: &&AuditEvent| {
        let ids = event.user.extra.get("authentication.kubernetes.io/credential-id");
        event.user.username == HOST_USER && ids.is_some_and(|ids| ids.iter().any(|id| id == credential))
    };
    let all = async || {
        // Objects have to change for anything to be written.
        stand.stir().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let events = stand.scene.control().audit().and_then(|audit| audit.since(mark)).expect("an audit log");
        let events: Vec<_> = events.iter().filter(with_it).collect();
        let done = |(verb, resource): &(&str, &str)| {
            events.iter().any(|event| {
                event.verb == *verb
                    && event.object_ref.as_ref().is_some_and(|object| object.resource == *resource)
            })
        };
        wanted.iter().all(done).then_some(())
    };
    stand.scene.until("every path uses the new credential", all).await;
}

async fn leads(stand: &Stand, wanted: bool) {
    let wanted = if wanted { 1.0 } else { 0.0 };
    let says = async || {
        let leads = stand.scene.all().await[0].metric("leader_election_master_status").await;
        (leads == Some(wanted)).then_some(())
    };
    stand.scene.until(&format!("the replica says that it leads: {wanted}"), says).await;
}

async fn term(stand: &Stand) -> Value {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{HOST}/leases/windlass");
    let lease = stand.scene.get(&path).await.expect("there is a Lease");
    lease["metadata"]["annotations"]["windlass.dev/term"].clone()
}

/// F33: as a kubelet replaces them, with what is no token in between, and revoked before there is another one.
#[tokio::test]
async fn a_token_that_is_replaced_costs_nothing_and_one_that_was_revoked_is_got_over() {
    let wallet = Wallet::new();
    let stand = Stand::reached_by("f33", Options::default(), async |scene| {
        wallet.says("ca.crt", scene.control().ca_pem());
        wallet.says("token", &token(scene, "first").await);
        wallet.kubeconfig(scene, None, &json!({"tokenFile": "token"}))
    })
    .await;
    let (mark, before) = (stand.scene.mark(), term(&stand).await);
    let second = token(&stand.scene, "second").await;
    wallet.says("token", &second);
    is_used(&stand, mark, &credential(&second)).await;
    stand.scene.delete(&secret("first")).await;
    stand.settles("a token that was replaced", Instant::now()).await;

    for none in ["", "\n", "<html>a login page</html>"] {
        std::fs::write(wallet.path("token"), none).expect("it can be written in place");
        stand.stir().await;
        stand.settles("what is no token", Instant::now()).await;
    }
    // Within that time whoever answers for the first token has forgotten it.
    assert_eq!(not_accepted(&stand, mark), 0, "nothing was sent with what is not accepted");
    assert_eq!(term(&stand).await, before, "leadership has not noticed");

    let mark = stand.scene.mark();
    stand.scene.delete(&secret("second")).await;
    leads(&stand, false).await;
    stand.stir().await;
    tokio::time::sleep(REFUSED).await;
    let refused = not_accepted(&stand, mark);
    eprintln!("F33: {refused} requests were not accepted");
    // The Lease is tried for every 400 ms here, and watched with pauses of up to 2 s; all else pauses longer.
    assert!((1..=100).contains(&refused), "{refused} in {REFUSED:?} and a little more");
    wallet.says("token", &token(&stand.scene, "third").await);
    let ended = Instant::now();
    leads(&stand, true).await;
    eprintln!("F33: it leads again {:.1?} after there is a token", ended.elapsed());
    stand.settles_within("a token that was revoked", ended, RESUMES).await;
}

/// F34, the API server's side: another certificate, one that has expired, another authority.
#[tokio::test]
async fn a_serving_certificate_and_its_authority_are_replaced_without_a_restart() {
    let (wallet, served) = (Wallet::new(), Wallet::new());
    let [first, second, third] = std::array::from_fn(|_| Authority::new().expect("an authority"));
    let serves = |by: &Authority| served.certificate("api", &by.server(&[NAME]).expect("a certificate"));
    serves(&first);
    wallet.says("ca.crt", first.certificate_pem());
    let pair = format!("{},{}", served.path("api.crt").display(), served.path("api.key").display());
    let flags = vec![format!("--tls-sni-cert-key={pair}:{NAME}")];
    let options = Options { apiserver_flags: flags, ..Options::default() };
    let stand = Stand::reached_by("f34", options, async |scene| {
        wallet.says("token", &token(scene, "first").await);
        wallet.kubeconfig(scene, Some(NAME), &json!({"tokenFile": "token"}))
    })
    .await;
    let restart = async || {
        stand.scene.control().restart_apiserver(Stop::Term).await.expect("it restarts");
        Instant::now()
    };

    serves(&first);
    let ended = restart().await;
    stand.stir().await;
    stand.settles_within("another serving certificate", ended, RESUMES).await;

    let past = SystemTime::now() - Duration::from_secs(60);
    served.certificate("api", &first.server_until(&[NAME], past).expect("a certificate"));
    restart().await;
    leads(&stand, false).await;
    serves(&first);
    let ended = restart().await;
    stand.stir().await;
    stand.settles_within("a serving certificate that had expired", ended, RESUMES).await;

    serves(&second);
    restart().await;
    leads(&stand, false).await;
    stand.stir().await;
    // What cannot be read as certificates does not replace those that can.
    wallet.says("ca.crt", "-----BEGIN CERTIFICATE-----\nhalf of");
    wallet.says("ca.crt", second.certificate_pem());
    let ended = Instant::now();
    leads(&stand, true).await;
    eprintln!("F34: it leads again {:.1?} after the authority is known", ended.elapsed());
    stand.settles_within("an authority that was not known", ended, RESUMES).await;

    wallet.says("ca.crt", &format!("{}{}", second.certificate_pem(), third.certificate_pem()));
    serves(&third);
    let ended = restart().await;
    stand.stir().await;
    stand.settles_within("an authority that was known before", ended, RESUMES).await;
}

/// F34, the host's side: a client certificate that is replaced in time, and one that is not.
#[tokio::test]
async fn a_client_certificate_is_replaced_without_a_restart() {
    let wallet = Wallet::new();
    let user = json!({"client-certificate": "host.crt", "client-key": "host.key"});
    let until = |seconds| SystemTime::now() + Duration::from_secs(seconds);
    let issue = |scene: &Scene, until: SystemTime| {
        let authority = scene.control().authority().expect("it is ours");
        wallet.certificate(
            "host",
            &authority.client_until(HOST_USER, "windlass", until).expect("a certificate"),
        );
    };
    let mut first_ends = SystemTime::now();
    let stand = Stand::reached_by("f34-client", Options::default(), async |scene| {
        wallet.says("ca.crt", scene.control().ca_pem());
        first_ends = until(60);
        issue(scene, first_ends);
        wallet.kubeconfig(scene, None, &user)
    })
    .await;
    let (mark, before) = (stand.scene.mark(), term(&stand).await);
    let second_ends = until(75);
    issue(&stand.scene, second_ends);
    stand.stir().await;
    tokio::time::sleep(first_ends.duration_since(SystemTime::now()).unwrap_or_default()).await;
    stand.stir().await;
    stand.settles("a client certificate that was replaced", Instant::now()).await;
    assert_eq!(not_accepted(&stand, mark), 0);
    assert_eq!(term(&stand).await, before, "leadership has not noticed");

    leads(&stand, false).await;
    assert!(SystemTime::now() >= second_ends, "it has expired");
    issue(&stand.scene, until(3600));
    let ended = Instant::now();
    stand.stir().await;
    stand.settles_within("a client certificate that had expired", ended, RESUMES).await;
}

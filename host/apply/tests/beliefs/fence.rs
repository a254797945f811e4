//! The fence as it is shipped, judged by a real API server: what it refuses, what it
//! leaves alone, and that the writer knows its words.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};
use windlass_apply::FENCE_SETTLES;
use windlass_core::class::Class;
use windlass_core::ports::{Apply, ApplyError};
use windlass_testbed::prober::{Answer, is_fenced};
use windlass_testbed::{Prober, shared};

use crate::world::{PATIENCE, World, config_map};

type Written = std::result::Result<(), ApplyError>;
/// Labels and annotations.
type Marks<'a> = (&'a Value, &'a Value);

/// The fence on the shared control plane, for one host namespace at a time: its names
/// are the cluster's.
struct Fenced {
    namespace: String,
    prober: Prober,
    _alone: MutexGuard<'static, ()>,
}

impl Fenced {
    async fn new(namespace: &str) -> Result<Self> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
        let alone = ONE_AT_A_TIME.lock().await;
        let plane = shared()?;
        plane.apply(&plane.manifests(namespace, &["fence", "flowschema"]).await?).await?;
        let prober = Prober::new(plane, namespace).await?;
        let fenced = Self { namespace: namespace.to_owned(), prober, _alone: alone };
        // Policies, bindings and roles are heard of a moment later, each on its own.
        fenced
            .until("the fence stands", async || Ok(is_fenced(&fenced.prober.create(None).await?, None)))
            .await?;
        Ok(fenced)
    }

    async fn until(&self, what: &str, fits: impl AsyncFn() -> Result<bool>) -> Result<()> {
        let began = Instant::now();
        while !fits().await? {
            ensure!(began.elapsed() < PATIENCE, "not in time: {what}");
        }
        Ok(())
    }

    fn role_path(&self) -> String {
        format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles", self.namespace)
    }

    /// Writes the claim Role with the host's own rights, over whatever is there.
    async fn claim(&self, claim: &str) -> Result<Answer> {
        self.role(json!([{"apiGroups": ["windlass.dev"], "resources": ["claims"], "resourceNames": [claim], "verbs": ["write"]}])).await
    }

    async fn role(&self, rules: Value) -> Result<Answer> {
        let named = format!("{}/windlass-claim", self.role_path());
        let mut role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "windlass-claim"}, "rules": rules});
        match self.host("GET", &named, &Value::Null).await? {
            (200, live) => {
                role["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
                self.host("PUT", &named, &role).await
            }
            _ => self.host("POST", &self.role_path(), &role).await,
        }
    }

    /// The same, and waits until it is heard of.
    async fn lead(&self, claim: &str) -> Result<()> {
        let (code, body) = self.claim(claim).await?;
        ensure!(code < 300, "{claim}: {code} {body}");
        self.until("the claim is seen", async || Ok(self.prober.create(Some(claim)).await?.0 == 201)).await
    }

    async fn host(&self, method: &str, path: &str, body: &Value) -> Result<Answer> {
        let request =
            http::Request::builder().method(method).uri(path).header("content-type", "application/json");
        let response = self
            .prober
            .host()
            .send(request.body(kube::client::Body::from(body.to_string().into_bytes()))?)
            .await?;
        let code = response.status().as_u16();
        Ok((code, serde_json::from_slice(&response.into_body().collect_bytes().await?)?))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_writer_waits_for_its_claim_to_be_seen_and_knows_when_it_was_replaced() -> Result<()> {
    let world = World::new("fence").await?;
    world.primary().await?;
    let fenced = Fenced::new(&world.namespace).await?;
    let write = async |name: &str| -> Result<Written> {
        let plan = world.plan(&[], &[config_map(name, "x")], None).await?;
        Ok(world.writer.execute(&plan, &world.claim).await.result)
    };
    // The very next write after the Role: it is not seen yet, or it is, and nobody notices.
    let (code, body) = fenced.claim("host-0/3").await?;
    ensure!(code == 201, "{body}");
    assert_eq!(write("current").await?, Ok(()));

    // This world's term is older than that by now.
    tokio::time::sleep(FENCE_SETTLES).await;
    fenced.lead("host-1/4").await?;
    let error = write("stale").await?.expect_err("another leads");
    assert_eq!(error.class, Class::Fatal, "{error}");
    assert!(error.message.contains("fenced: host-0/3 is not the current claim"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_write_needs_the_current_claim_and_nobody_elses_is_touched() -> Result<()> {
    let fenced = Fenced::new(&shared()?.namespace("fence-host").await?).await?;
    let prober = &fenced.prober;
    // Before there is a Role: applied before anything else.
    prober.is_refused(None).await?;
    prober.is_refused(Some("a/1")).await?;
    prober.others_pass().await?;

    fenced.lead("a/1").await?;
    prober.is_accepted("a/1").await?;
    for claim in [None, Some("a/0"), Some("a/2"), Some("b/1"), Some("a/1x"), Some("none"), Some("*")] {
        prober.is_refused(claim).await?;
    }
    fenced.lead("b/2").await?;
    prober.is_refused(Some("a/1")).await?;
    prober.is_accepted("b/2").await?;
    prober.others_pass().await?;

    // Taken away: everything is refused, also to the account that may do everything.
    let (code, _) = prober
        .as_admin("DELETE", &format!("{}/windlass-claim", fenced.role_path()), "application/json", &json!({}))
        .await?;
    assert_eq!(code, 200);
    fenced
        .until("the deletion is heard of", async || {
            Ok(is_fenced(&prober.create(Some("b/2")).await?, Some("b/2")))
        })
        .await?;
    prober.is_refused(Some("b/2")).await?;
    prober.others_pass().await?;
    // A Role without names allows every name there is, but not to have none.
    let (code, body) = fenced
        .role(json!([{"apiGroups": ["windlass.dev"], "resources": ["claims"], "verbs": ["write"]}]))
        .await?;
    ensure!(code == 201, "{body}");
    prober.is_refused(None).await?;
    fenced.lead("c/3").await?;
    fenced
        .until("the nonsense is gone", async || {
            Ok(is_fenced(&prober.create(Some("x/9")).await?, Some("x/9")))
        })
        .await?;
    prober.is_accepted("c/3").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_a_claim_only_rises_and_a_broken_role_can_be_mended() -> Result<()> {
    let fenced = Fenced::new(&shared()?.namespace("fence-host").await?).await?;
    fenced.lead("a/5").await?;
    for claim in ["a/5x", "b/5", "a/4", "a", "", "b/04", "b/99999999999999999999"] {
        let (code, body) = fenced.claim(claim).await?;
        assert!(
            code == 403 && body["message"].as_str().is_some_and(|m| m.contains("does not rise")),
            "{claim}: {code} {body}"
        );
    }
    let named = format!("{}/windlass-claim", fenced.role_path());
    let rules = |names: Value| json!({"rules": [{"apiGroups": ["windlass.dev"], "resources": ["claims"], "resourceNames": names, "verbs": ["write"]}]});
    let merge = "application/merge-patch+json";
    // A person too; two names at once are no claim, whatever their numbers.
    for rules in [rules(json!(["a/4"])), rules(json!(["a/6", "b/7"])), json!({"rules": []})] {
        let (code, body) = fenced.prober.as_admin("PATCH", &named, merge, &rules).await?;
        assert_eq!(code, 403, "{body}");
    }
    let (code, body) =
        fenced.prober.as_admin("PATCH", &named, merge, &json!({"metadata": {"labels": {"a": "b"}}})).await?;
    assert_eq!(code, 200, "what is not the claim is anybody's: {body}");
    assert_eq!(fenced.claim("b/6").await?.0, 200);
    // Other Roles, and Roles of this name elsewhere, are nobody's business.
    let elsewhere =
        format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles", fenced.prober.namespace());
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "windlass-claim"}, "rules": []});
    assert_eq!(fenced.prober.as_admin("POST", &elsewhere, "application/json", &role).await?.0, 201);
    let (code, body) = fenced
        .prober
        .as_admin("PATCH", &format!("{elsewhere}/windlass-claim"), merge, &rules(json!(["a/1"])))
        .await?;
    assert_eq!(code, 200, "{body}");

    // Deleted and made again as nonsense, each is mended by the next claim.
    for nonsense in [
        json!([]),
        rules(json!(["junk"]))["rules"].clone(),
        rules(json!(["x/1234567890123456", "y/7"]))["rules"].clone(),
    ] {
        assert_eq!(fenced.prober.as_admin("DELETE", &named, "application/json", &json!({})).await?.0, 200);
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "windlass-claim"}, "rules": nonsense});
        assert_eq!(
            fenced.prober.as_admin("POST", &fenced.role_path(), "application/json", &role).await?.0,
            201
        );
        let (code, body) = fenced.claim("b/8").await?;
        assert_eq!(code, 200, "over {nonsense}: {body}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_to_claims_grants_nothing_else() -> Result<()> {
    let fenced = Fenced::new(&shared()?.namespace("fence-host").await?).await?;
    fenced.lead("a/1").await?;
    let secrets = json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]});
    let (code, body) = fenced.role(json!([secrets])).await?;
    assert_eq!(code, 403, "{body}");
    let claim = json!({"apiGroups": ["windlass.dev"], "resources": ["claims"], "resourceNames": ["a/2"], "verbs": ["write"]});
    let (code, body) = fenced.role(json!([claim, secrets])).await?;
    assert_eq!(code, 403, "{body}");
    // Shaped like a claim whose number rises; for an account that may `escalate` here only the policy objects.
    for (field, value) in [
        ("apiGroups", json!(["*"])),
        ("apiGroups", json!(["windlass.dev", ""])),
        ("resources", json!(["claims", "secrets"])),
        ("verbs", json!(["write", "get"])),
        ("verbs", json!(["*"])),
    ] {
        let mut rule = claim.clone();
        rule[field] = value;
        let (code, body) = fenced.role(json!([rule])).await?;
        let said = body["message"].as_str().unwrap_or_default();
        assert!(code == 403 && said.contains("holds one claim"), "{rule}: {code} {body}");
    }
    let other = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "other"}, "rules": [secrets]});
    assert_eq!(
        fenced.host("POST", &fenced.role_path(), &other).await?.0,
        403,
        "it may create Roles, with no more than it holds"
    );
    let named = format!("{}/windlass", fenced.role_path());
    assert_eq!(fenced.host("GET", &named, &Value::Null).await?.0, 403, "no other Role");
    Ok(())
}

/// Without `escalate` on this Role each write of it waits for caches that follow etcd by up to
/// 100 ms: half of them and more would take longer than the 50 ms that are asked for here.
#[tokio::test(flavor = "multi_thread")]
async fn the_claim_is_written_without_waiting_for_caches() -> Result<()> {
    let fenced = Fenced::new(&shared()?.namespace("fence-host").await?).await?;
    fenced.lead("a/1").await?;
    let mut times = Vec::new();
    for number in 2..42 {
        // As the Lease does: a write elsewhere, just before, leaves every cache behind.
        fenced.prober.create(Some(&format!("a/{}", number - 1))).await?;
        let began = Instant::now();
        assert_eq!(fenced.claim(&format!("a/{number}")).await?.0, 200);
        times.push(began.elapsed());
    }
    times.sort_unstable();
    println!("a read and a write of the claim Role: median {:?}, most {:?}", times[20], times[39]);
    ensure!(times[20].as_millis() < 50, "median {:?}", times[20]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_plugin_installs_a_plugin_or_takes_anothers_child() -> Result<()> {
    let fenced = Fenced::new(&shared()?.namespace("fence-host").await?).await?;
    fenced.lead("a/1").await?;
    let (host, prober) = (&*fenced.namespace, &fenced.prober);
    let ours = json!({"windlass.dev/owned-by": "prober", "windlass.dev/host": host});
    let theirs = json!({"windlass.dev/owned-by": "other", "windlass.dev/host": host});
    let elsewhere = json!({"windlass.dev/owned-by": "prober", "windlass.dev/host": "elsewhere"});
    let plugin = json!({"windlass.dev/plugin": "prober"});
    let none = json!({});
    let marks = json!({"windlass.dev/primary": "ns/a", "windlass.dev/applied": "1"});
    let adopt = json!({"windlass.dev/adopt": "prober"});
    let adopted = json!({"windlass.dev/adopt": "prober", "windlass.dev/primary": "ns/a"});
    let primary = json!({"windlass.dev/primary": "ns/b"});
    let digest = json!({"windlass.dev/digest": "x"});
    // What was there, what the plugin makes of it, and whether it may.
    let table: [(Option<Marks<'_>>, Marks<'_>, bool); 18] = [
        (None, (&none, &none), true),
        (None, (&ours, &marks), true),
        (None, (&theirs, &none), false),
        (None, (&elsewhere, &none), false),
        (None, (&plugin, &none), false),
        (None, (&none, &adopt), false),
        (None, (&none, &digest), false),
        (Some((&none, &none)), (&ours, &marks), true),
        (Some((&ours, &marks)), (&none, &none), true),
        (Some((&ours, &marks)), (&ours, &primary), true),
        (Some((&ours, &marks)), (&theirs, &marks), false),
        (Some((&ours, &marks)), (&plugin, &marks), false),
        (Some((&theirs, &marks)), (&theirs, &marks), true),
        (Some((&theirs, &marks)), (&ours, &marks), false),
        (Some((&theirs, &marks)), (&theirs, &primary), false),
        (Some((&theirs, &marks)), (&none, &none), false),
        (Some((&elsewhere, &marks)), (&ours, &marks), false),
        (Some((&theirs, &adopt)), (&ours, &adopted), true),
    ];
    for (number, (before, after, may)) in table.into_iter().enumerate() {
        let name = format!("marked-{number}");
        let object = |(labels, annotations): Marks<'_>, data: &str| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": data},
                "metadata": {"name": name, "labels": labels, "annotations": annotations}})
        };
        let (collection, path) =
            (prober.path("/api/v1", "configmaps", ""), prober.path("/api/v1", "configmaps", &name));
        let (method, at) = match before {
            Some(before) => {
                assert_eq!(
                    prober.as_admin("POST", &collection, "application/json", &object(before, "1")).await?.0,
                    201
                );
                ("PUT", &path)
            }
            None => ("POST", &collection),
        };
        let (code, body) =
            prober.send(Some("a/1"), method, at, "application/json", &object(after, "2")).await?;
        let reserved = body["message"]
            .as_str()
            .is_some_and(|m| m.contains("denied request: reserved: plugin-prober may not"));
        assert!(
            if may { code < 300 } else { code == 403 && reserved },
            "{number}: {before:?} -> {after:?}: {code} {body}"
        );
    }

    // A plugin's ConfigMap is neither changed nor deleted, whatever its labels stay.
    let path = format!("/api/v1/namespaces/{host}/configmaps");
    let installed = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "p", "labels": {"windlass.dev/plugin": "p"}}});
    assert_eq!(prober.as_admin("POST", &path, "application/json", &installed).await?.0, 201);
    let path = format!("{path}/p");
    let merge = "application/merge-patch+json";
    let json = "application/json";
    for (method, kind, body) in
        [("PATCH", merge, json!({"data": {"settings.yaml": "x"}})), ("DELETE", json, json!({}))]
    {
        let (code, body) = prober.send(Some("a/1"), method, &path, kind, &body).await?;
        assert!(
            code == 403 && body["message"].as_str().is_some_and(|m| m.contains("may not write a plugin")),
            "{body}"
        );
    }
    // A person, and the host, may.
    let (code, body) = prober
        .as_admin("PATCH", &path, merge, &json!({"metadata": {"labels": {"windlass.dev/part": "x"}}}))
        .await?;
    assert_eq!(code, 200, "{body}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_claim_is_never_accepted_once_the_new_one_is() -> Result<()> {
    let fenced = Arc::new(Fenced::new(&shared()?.namespace("fence-host").await?).await?);
    let changes = if std::env::var_os("WINDLASS_TEST_FULL").is_some() { 400 } else { 100 };
    fenced.lead("h1/1").await?;
    let (mut seen, mut late, mut tried) = (Vec::new(), 0, 0_u32);
    for term in 2..changes + 2 {
        let (old, new) = (format!("h{}/{}", term - 1, term - 1), format!("h{term}/{term}"));
        let (code, body) = fenced.claim(&new).await?;
        ensure!(code == 200, "{body}");
        let began = Instant::now();
        // The stale writer hammers on while the new one knocks.
        let knock = async {
            while fenced.prober.create(Some(&new)).await?.0 != 201 {
                ensure!(began.elapsed() < FENCE_SETTLES, "not seen within {FENCE_SETTLES:?}");
            }
            Ok(Instant::now())
        };
        let hammer = async {
            let mut accepted = Vec::new();
            for _ in 0..12 {
                let sent = Instant::now();
                if fenced.prober.create(Some(&old)).await?.0 == 201 {
                    accepted.push(sent);
                }
            }
            Ok::<_, anyhow::Error>(accepted)
        };
        let (first, accepted) = tokio::join!(knock, hammer);
        let first = first?;
        seen.push(first - began);
        tried += 12;
        // Sent after the first write of the new claim was answered.
        late += accepted?.into_iter().filter(|sent| *sent > first).count();
    }
    seen.sort();
    println!(
        "first write of a new claim accepted after the Role was written: median {:?}, most {:?} of {}; {late} late of {tried} old",
        seen[seen.len() / 2],
        seen[seen.len() - 1],
        seen.len()
    );
    assert_eq!(late, 0);
    assert!(seen[seen.len() - 1] < Duration::from_millis(500), "{seen:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_and_the_claim_are_served_like_leader_elections() -> Result<()> {
    let fenced = Fenced::new(&shared()?.namespace("fence-host").await?).await?;
    let uid_of = async |path: &str| -> Result<String> {
        let (code, body) = fenced.prober.as_admin("GET", path, "application/json", &Value::Null).await?;
        ensure!(code == 200, "{path}: {body}");
        Ok(body["metadata"]["uid"].as_str().unwrap_or_default().to_owned())
    };
    let flows = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let schema = uid_of(&format!("{flows}/flowschemas/windlass-leader-election")).await?;
    let level = uid_of(&format!("{flows}/prioritylevelconfigurations/leader-election")).await?;
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/windlass", fenced.namespace);
    let role = format!("{}/windlass-claim", fenced.role_path());
    for path in [lease, role] {
        fenced
            .until("the schema is heard of", async || {
                let request = http::Request::get(&path).body(kube::client::Body::empty())?;
                let answer = fenced.prober.host().send(request).await?;
                let header =
                    |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
                let flow = header("x-kubernetes-pf-flowschema-uid");
                Ok(flow.as_ref() == Some(&schema)
                    && header("x-kubernetes-pf-prioritylevel-uid").as_ref() == Some(&level))
            })
            .await?;
    }
    Ok(())
}

//! The claim Role on a real API server, with the rights that `deploy/base` gives and no
//! more, and the look at the fence with those of the component.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kube::Client;
use serde_json::{Value, json};
use windlass_core::claim::{BootClock, Claim, Term};
use windlass_lease::claim_role::ClaimRole;
use windlass_lease::clock::Boottime;
use windlass_lease::fence::{Presence, look};
use windlass_lease::hook::{AcquireHook, HookError};
use windlass_testbed::{ControlPlane, Mark, Writes, shared};

const PATIENCE: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(5);

/// A namespace with the host's account and its rights.
struct Scene {
    plane: &'static ControlPlane,
    namespace: String,
    host: Client,
    admin: Client,
}

impl Scene {
    async fn new() -> Result<Self> {
        let plane = shared()?;
        let namespace = plane.namespace("claim").await?;
        plane.apply(&plane.manifests(&namespace, &[]).await?).await?;
        let token = plane.service_account_token(&namespace, "windlass").await?;
        let mut config = plane.config_with_token(&token)?;
        config.default_retry = false;
        let scene = Self { plane, namespace, host: Client::try_from(config)?, admin: plane.client()? };
        let began = Instant::now();
        // The rights are heard of a moment later.
        while scene.role(&scene.host).await?.0 == 403 {
            ensure!(began.elapsed() < PATIENCE, "the host gets no rights");
        }
        Ok(scene)
    }

    fn hook(&self) -> Arc<ClaimRole> {
        Arc::new(ClaimRole::new(&*self.namespace, TIMEOUT, Arc::new(Boottime)))
    }

    fn path(&self) -> String {
        format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles", self.namespace)
    }

    async fn role(&self, client: &Client) -> Result<(u16, Value)> {
        self.send(client, "GET", &format!("{}/windlass-claim", self.path()), &Value::Null).await
    }

    async fn send(&self, client: &Client, method: &str, path: &str, body: &Value) -> Result<(u16, Value)> {
        let request =
            http::Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = request.body(kube::client::Body::from(body.to_string().into_bytes()))?;
        let response = client.send(request).await?;
        let code = response.status().as_u16();
        Ok((code, serde_json::from_slice(&response.into_body().collect_bytes().await?)?))
    }

    /// Makes the Role by hand, over nothing.
    async fn make(&self, rules: Value) -> Result<()> {
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "windlass-claim"}, "rules": rules});
        let (code, body) = self.send(&self.admin, "POST", &self.path(), &role).await?;
        ensure!(code == 201, "{body}");
        Ok(())
    }

    async fn delete(&self) -> Result<()> {
        let (code, body) =
            self.send(&self.admin, "DELETE", &format!("{}/windlass-claim", self.path()), &json!({})).await?;
        ensure!(code == 200, "{body}");
        Ok(())
    }

    async fn named(&self) -> Result<Value> {
        Ok(self.role(&self.admin).await?.1["rules"][0]["resourceNames"].clone())
    }

    fn mark(&self) -> Result<Mark> {
        self.plane.audit()?.mark()
    }

    /// (verb, code) of the requests about Roles of this namespace that write, since `mark`.
    fn writes(&self, mark: Mark) -> Result<Vec<(String, u16)>> {
        let writes = self.plane.audit()?.writes(mark, &Writes::new().to("roles").within(&self.namespace))?;
        Ok(writes.iter().map(|write| (write.verb.clone(), write.code())).collect())
    }
}

fn claim(holder: &str, term: u64) -> Claim {
    Claim { holder: holder.into(), term: Term(term), ends: Boottime.now().plus(Duration::from_secs(30)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_costs_one_write_when_the_role_was_followed() -> Result<()> {
    let scene = Scene::new().await?;
    let (a, b) = (scene.hook(), scene.hook());
    assert_eq!(a.acquired(&scene.host, &claim("a", 1)).await, Ok(()), "it makes the Role");
    assert_eq!(scene.named().await?, json!(["a/1"]));
    assert_eq!(a.current().as_deref(), Some("a/1"));

    let follower = tokio::spawn({
        let (b, client) = (b.clone(), scene.host.clone());
        async move { b.follow(client).await }
    });
    let (mut spent, mut slow) = (Vec::new(), Vec::new());
    for term in 2..30 {
        let (hook, holder) = if term % 2 == 0 { (&b, "b") } else { (&a, "a") };
        let before = format!("{}/{}", if term % 2 == 0 { "a" } else { "b" }, term - 1);
        let began = Instant::now();
        while Arc::ptr_eq(hook, &b) && hook.current().as_deref() != Some(&before) {
            ensure!(began.elapsed() < PATIENCE, "the watch does not show {before}");
            tokio::task::yield_now().await;
        }
        let mark = scene.mark()?;
        let began = Instant::now();
        assert_eq!(hook.acquired(&scene.host, &claim(holder, term)).await, Ok(()));
        let took = began.elapsed();
        if Arc::ptr_eq(hook, &b) { &mut spent } else { &mut slow }.push(took);
        assert_eq!(scene.named().await?, json!([format!("{holder}/{term}")]));
        let writes = scene.writes(mark)?;
        if Arc::ptr_eq(hook, &b) {
            assert_eq!(writes, [("update".to_owned(), 200)], "one exchange");
        } else {
            let expected = [("update".to_owned(), 409), ("update".to_owned(), 200)];
            assert_eq!(writes, expected, "the copy was old: found out, read, written");
        }
    }
    follower.abort();
    for (what, times) in [("as it was followed", &mut spent), ("over an old copy", &mut slow)] {
        times.sort();
        println!(
            "the claim Role {what}: median {:?}, most {:?}",
            times[times.len() / 2],
            times[times.len() - 1]
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_role_was_the_claim_stands_or_a_higher_number_is_asked_for() -> Result<()> {
    let scene = Scene::new().await?;
    let rule = |names: Value| json!([{"apiGroups": ["windlass.dev"], "resources": ["claims"], "resourceNames": names, "verbs": ["write"]}]);
    let table = [
        (json!([]), Ok(())),
        (Value::Null, Ok(())),
        (rule(json!([])), Ok(())),
        (rule(json!(["junk"])), Ok(())),
        (rule(json!(["x/99999999999999999999", "y/3"])), Ok(())),
        (rule(json!(["x/6"])), Ok(())),
        (rule(json!(["a/7"])), Ok(())),
        (rule(json!(["x/7"])), Err(HookError::Used(Term(7)))),
        (rule(json!(["x/8"])), Err(HookError::Used(Term(8)))),
        (rule(json!(["a/9"])), Err(HookError::Used(Term(9)))),
    ];
    for (rules, result) in table {
        let hook = scene.hook();
        scene.make(rules.clone()).await?;
        assert_eq!(hook.acquired(&scene.host, &claim("a", 7)).await, result, "over {rules}");
        if result.is_ok() {
            assert_eq!(scene.role(&scene.admin).await?.1["rules"], rule(json!(["a/7"])), "over {rules}");
        }
        scene.delete().await?;
        // Deleted behind its back: the copy is of no use, and that costs no failure.
        assert_eq!(hook.acquired(&scene.host, &claim("a", 11)).await, Ok(()), "after {rules}");
        assert_eq!(scene.named().await?, json!(["a/11"]));
        scene.delete().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_claims_at_once_the_highest_stands() -> Result<()> {
    let scene = Scene::new().await?;
    for round in 0..10_u64 {
        let tries = (1..=5_u64).map(|n| {
            let (hook, claim) = (scene.hook(), claim(&format!("r{n}"), round * 5 + n));
            let client = scene.host.clone();
            async move { (claim.term, hook.acquired(&client, &claim).await) }
        });
        let results = futures::future::join_all(tries).await;
        for (term, result) in &results {
            // Whoever wrote did so over a lower number, and whoever did not was told a higher one.
            match result {
                Ok(()) | Err(HookError::Failed(_)) => {}
                Err(HookError::Used(other)) => assert!(other > term, "{results:?}"),
            }
        }
        let highest = (round + 1) * 5;
        match &results[4].1 {
            Ok(()) => assert_eq!(scene.named().await?, json!([format!("r5/{highest}")])),
            // Four others may each have come between; the elector calls again.
            Err(error) => assert!(matches!(error, HookError::Failed(_)), "{error}"),
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_has_ended_is_not_written() -> Result<()> {
    let scene = Scene::new().await?;
    let ended = Claim { ends: Boottime.now(), ..claim("a", 1) };
    let result = scene.hook().acquired(&scene.host, &ended).await;
    assert!(matches!(&result, Err(HookError::Failed(why)) if why.contains("has ended")), "{result:?}");
    assert_eq!(scene.role(&scene.admin).await?.0, 404);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_sees_whether_the_fence_stands() -> Result<()> {
    let scene = Scene::new().await?;
    // Nobody has said that it may look.
    assert!(
        matches!(look(&scene.host, &scene.namespace).await, Presence::Unknown(why) if why.contains("deploy/components/fence"))
    );
    let fence = scene.plane.manifests(&scene.namespace, &["fence"]).await?;
    scene.plane.apply(&fence).await?;
    let until = async |what: &str, fits: &dyn Fn(&Presence) -> bool| -> Result<()> {
        let began = Instant::now();
        loop {
            let presence = look(&scene.host, &scene.namespace).await;
            if fits(&presence) {
                return Ok(());
            }
            ensure!(began.elapsed() < PATIENCE, "not {what} but {presence:?}");
        }
    };
    until("present", &|now| *now == Presence::Present).await?;
    assert!(
        matches!(look(&scene.host, "elsewhere").await, Presence::Absent(why) if why.contains("another namespace"))
    );
    let binding = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/windlass-fence";
    assert_eq!(scene.send(&scene.admin, "DELETE", binding, &json!({})).await?.0, 200);
    until("absent", &|now| matches!(now, Presence::Absent(why) if why.contains("does not exist"))).await?;
    scene.plane.apply(&fence).await?;
    until("present again", &|now| *now == Presence::Present).await
}

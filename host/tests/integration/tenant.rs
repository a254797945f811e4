//! The second real operator: a built-in primary without a selector, children in the namespace that the
//! primary is, and reads that bring back exactly the keys that read them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::scene::{HOST, Scene, built, path, read};

const PLAN: &str = "tenant.example.com/plan";
const SHARE: &str = "tenant.example.com/share";
/// The source namespace of the plugin's defaults.
const SOURCE: &str = "tenant-defaults";
/// Tenants of the plan `small`, then of `large`, then none.
const SMALL: [&str; 2] = ["tenant-s1", "tenant-s2"];
const LARGE: &str = "tenant-l1";
const STRANGER: &str = "tenant-none";

/// A host with the tenant operator, four namespaces, and what they look like once all is quiet.
async fn tenants() -> Scene {
    let scene = Scene::fresh("tenants").await;
    let rights = read("plugins/tenant/rbac.yaml");
    scene.control().apply(&rights).await.expect("the rights apply");
    scene.install("tenant", &built("tenant", None).await).await;
    scene.replicas(1, &["--sync-period=1h"]).await;
    namespace(&scene, SOURCE, None).await;
    for name in SMALL {
        namespace(&scene, name, Some("small")).await;
    }
    namespace(&scene, LARGE, Some("large")).await;
    namespace(&scene, STRANGER, None).await;
    for name in SMALL.into_iter().chain([LARGE]) {
        for kind in ["ResourceQuota", "LimitRange", "NetworkPolicy"] {
            scene.until(&format!("{name} has its {kind}"), || scene.get_in(kind, name, "tenant")).await;
        }
        // What the quota controller says of it is a change of a child, and must not come later.
        scene
            .until(&format!("the quota of {name} is counted"), async || {
                let quota = scene.get_in("ResourceQuota", name, "tenant").await?;
                (quota["status"]["hard"] == quota["spec"]["hard"]).then_some(())
            })
            .await;
    }
    scene.silence().await;
    scene
}

async fn namespace(scene: &Scene, name: &str, plan: Option<&str>) {
    let labels = plan.map_or(json!({}), |plan| json!({ PLAN: plan }));
    scene
        .apply_cluster(
            "/api/v1/namespaces",
            json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": labels}}),
        )
        .await;
}

async fn source(scene: &Scene, name: &str, share: Option<&str>, data: &str) {
    let labels = share.map_or(json!({}), |share| json!({ SHARE: share }));
    scene
        .apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata":
            {"name": name, "namespace": SOURCE, "labels": labels}, "data": {"v": data}}))
        .await;
}

/// The passes of each namespace's key so far, by the host's own log.
async fn passes(scene: &Scene) -> BTreeMap<String, BTreeSet<u64>> {
    let mut passes: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for replica in scene.all().await.iter() {
        for line in replica.log().lines() {
            let Some((_, rest)) = line.split_once("pass{plugin=tenant key=/") else { continue };
            let Some((name, rest)) = rest.split_once(" pass=") else { continue };
            let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
            passes.entry(name.to_owned()).or_default().extend(number.parse::<u64>());
        }
    }
    passes
}

/// Runs `change`, waits until `effect` shows and all is quiet, and gives back which keys ran.
async fn woken<F: Future<Output = Option<()>>>(
    scene: &Scene,
    change: impl Future<Output = ()>,
    what: &str,
    effect: impl FnMut() -> F,
) -> Vec<String> {
    let before = passes(scene).await;
    change.await;
    scene.until(what, effect).await;
    scene.silence().await;
    let after = passes(scene).await;
    let ran = after.into_iter().filter(|(name, ran)| {
        before.get(name).is_none_or(|earlier| ran.difference(earlier).next().is_some())
    });
    ran.map(|(name, _)| name).collect()
}

/// Whether exactly these namespaces have a copy of that name with that value.
async fn copied(scene: &Scene, name: &str, value: &str, to: &[&str]) -> Option<()> {
    for namespace in SMALL.into_iter().chain([LARGE, STRANGER]) {
        let copy = scene.get_in("ConfigMap", namespace, name).await;
        let has = copy.is_some_and(|copy| copy["data"]["v"] == value);
        if has != to.contains(&namespace) {
            return None;
        }
    }
    Some(())
}

#[tokio::test]
async fn a_change_to_what_was_read_wakes_exactly_the_keys_that_read_it() {
    let scene = tenants().await;
    let everybody = [LARGE, SMALL[0], SMALL[1]];

    let ran = woken(
        &scene,
        source(&scene, "rules", Some("all"), "1"),
        "a new shared ConfigMap is copied",
        async || copied(&scene, "rules", "1", &everybody).await,
    )
    .await;
    assert_eq!(ran, everybody, "one that matches all");

    let ran =
        woken(&scene, source(&scene, "extra", Some("small"), "1"), "it is copied to the plan", async || {
            copied(&scene, "extra", "1", &SMALL).await
        })
        .await;
    assert_eq!(ran, SMALL, "one that matches a plan");

    let ran =
        woken(&scene, source(&scene, "extra", Some("small"), "2"), "the change is copied", async || {
            copied(&scene, "extra", "2", &SMALL).await
        })
        .await;
    assert_eq!(ran, SMALL, "a change of it");

    let ran = woken(
        &scene,
        source(&scene, "extra", Some("large"), "2"),
        "it moves to the other plan",
        async || copied(&scene, "extra", "2", &[LARGE]).await,
    )
    .await;
    assert_eq!(ran, everybody, "one list loses it, one wins it");

    let unshared = source(&scene, "extra", None, "2");
    let ran =
        woken(&scene, unshared, "it is no longer shared", async || copied(&scene, "extra", "2", &[]).await)
            .await;
    assert_eq!(ran, [LARGE], "one that stops matching");

    let quota = async |namespace: &str| {
        let quota = scene.get_in("ResourceQuota", namespace, "tenant").await?;
        quota["spec"]["hard"]["services"].as_str().map(str::to_owned)
    };
    let extra = async {
        scene
            .apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata":
                {"name": format!("quota-{}", SMALL[0]), "namespace": SOURCE}, "data": {"services": "5"}}))
            .await;
    };
    let ran = woken(&scene, extra, "what was absent is there", async || {
        (quota(SMALL[0]).await.as_deref() == Some("5")).then_some(())
    })
    .await;
    assert_eq!(ran, [SMALL[0]], "one that was absent");
    assert_eq!(quota(SMALL[1]).await, None);

    let private = async {
        source(&scene, "private", None, "1").await;
        // Something that is seen after it, so that it has been seen itself.
        source(&scene, "rules", Some("all"), "2").await;
    };
    let before = passes(&scene).await;
    let ran = woken(&scene, private, "the later change is copied", async || {
        copied(&scene, "rules", "2", &everybody).await
    })
    .await;
    assert_eq!(ran, everybody);
    let strangers = |passes: &BTreeMap<String, BTreeSet<u64>>| passes.get(STRANGER).map_or(0, BTreeSet::len);
    assert_eq!(strangers(&passes(&scene).await), strangers(&before), "who has no plan reads nothing");
}

#[tokio::test]
async fn a_tenant_is_kept_changed_and_let_go() {
    let scene = tenants().await;
    let quota = path("ResourceQuota", SMALL[0], "tenant");
    let pods = async || Some(scene.get(&quota).await?["spec"]["hard"]["pods"].as_str()?.to_owned());
    let made = scene.get(&quota).await.expect("it was waited for");
    assert_eq!(made["metadata"]["ownerReferences"][0]["kind"], "Namespace");
    assert_eq!(made["metadata"]["annotations"]["windlass.dev/primary"], format!("/{}", SMALL[0]));

    scene.patch(&quota, json!({"spec": {"hard": {"pods": "1000"}}})).await;
    scene
        .until("a foreign edit of the quota is put back", async || (pods().await? == "10").then_some(()))
        .await;

    namespace(&scene, SMALL[0], Some("large")).await;
    scene.until("another plan is another quota", async || (pods().await? == "160").then_some(())).await;

    // A typo takes nothing away, and is said where the label is.
    namespace(&scene, SMALL[0], Some("lagre")).await;
    scene
        .until("the typo is said", async || {
            let events = scene.get("/api/v1/namespaces/default/events").await?;
            let said = |e: &Value| {
                e["involvedObject"]["name"] == SMALL[0]
                    && e["message"].as_str().is_some_and(|m| m.contains("there is no plan `lagre`"))
            };
            events["items"].as_array()?.iter().any(said).then_some(())
        })
        .await;
    assert_eq!(pods().await.as_deref(), Some("160"));

    source(&scene, "rules", Some("all"), "1").await;
    scene
        .until("the other tenant has a copy", async || scene.get_in("ConfigMap", SMALL[1], "rules").await)
        .await;
    namespace(&scene, SMALL[1], None).await;
    for (kind, name) in [
        ("ResourceQuota", "tenant"),
        ("LimitRange", "tenant"),
        ("NetworkPolicy", "tenant"),
        ("ConfigMap", "rules"),
    ] {
        scene
            .until(&format!("without the label there is no {kind}"), async || {
                scene.get_in(kind, SMALL[1], name).await.is_none().then_some(())
            })
            .await;
    }
    assert!(scene.get_in("ConfigMap", SOURCE, "rules").await.is_some(), "the original stays");
}

#[tokio::test]
async fn nothing_is_made_in_a_namespace_that_terminates_or_beside_the_host() {
    let scene = tenants().await;
    // Something with a finalizer keeps the namespace terminating for as long as the test wants.
    scene
        .apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "keeps",
            "namespace": LARGE, "finalizers": ["tenant.example.com/keeps"]}}))
        .await;
    scene.delete(&format!("/api/v1/namespaces/{LARGE}")).await;
    scene
        .until("its children are collected", async || {
            scene.get_in("ResourceQuota", LARGE, "tenant").await.is_none().then_some(())
        })
        .await;
    scene.silence().await;
    let mark = scene.mark();
    source(&scene, "rules", Some("all"), "1").await;
    scene.until("the others have a copy", async || copied(&scene, "rules", "1", &SMALL).await).await;
    scene.silence().await;
    let inside = scene
        .writes_since(mark)
        .into_iter()
        .filter(|write| write.object_ref.as_ref().is_some_and(|object| object.namespace == LARGE));
    let inside: Vec<_> = inside.map(|write| format!("{} {}", write.verb, write.request_uri)).collect();
    assert!(inside.is_empty(), "not even tried: {inside:?}");
    let keeps = path("ConfigMap", LARGE, "keeps");
    scene.patch(&keeps, json!({"metadata": {"finalizers": null}})).await;

    // The host's own namespace is no tenant, whatever its labels say.
    let labels = json!({"metadata": {"labels": { PLAN: "small" }}});
    scene.patch(&format!("/api/v1/namespaces/{HOST}"), labels).await;
    scene
        .until("that is refused by name", async || {
            let events = scene.get("/api/v1/namespaces/default/events").await?;
            let said = |e: &Value| {
                e["involvedObject"]["name"] == HOST
                    && e["message"].as_str().is_some_and(|m| m.contains("E233"))
            };
            events["items"].as_array()?.iter().any(said).then_some(())
        })
        .await;
    assert!(scene.get_in("ResourceQuota", HOST, "tenant").await.is_none());
}

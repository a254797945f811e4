//! Many objects: nothing twice, nothing for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::json;
use windlass_testbed::AuditEvent;

use crate::scene::{HOST_USER, Scene, count};

#[tokio::test]
async fn five_hundred_objects_at_once_converge_without_a_duplicate() {
    let many = count(500, 5000);
    let scene = Scene::fresh("storm").await;
    scene.install_fixture("greeter").await;
    scene.replicas(2, &[]).await;
    let mark = scene.mark();
    let creates = (0..many).map(|i| {
        let scene = &scene;
        async move { scene.widget(&format!("w{i}"), json!({"text": format!("hi {i}")})).await }
    });
    futures::stream::iter(creates).buffer_unordered(32).collect::<Vec<_>>().await;
    scene
        .until("every object has its child and its status", || async {
            let widgets = scene.list("Widget", "").await;
            let done = widgets.iter().filter(|w| w["status"]["greeting"].is_string()).count();
            (done == many).then_some(())
        })
        .await;
    scene.silence().await;
    let children = scene.list("ConfigMap", "labelSelector=windlass.dev/owned-by=greeter").await;
    assert_eq!(children.len(), many);
    let mut creates = BTreeMap::new();
    for write in scene.writes_since(mark) {
        let Some(object) = &write.object_ref else { continue };
        if object.resource == "configmaps" && object.namespace == scene.namespace && write.code() == 201 {
            *creates.entry(object.name.clone()).or_insert(0) += 1;
        }
    }
    assert_eq!(creates.len(), many);
    assert!(creates.values().all(|n| *n == 1), "no child was made twice");
}

#[tokio::test]
async fn fifty_objects_at_once_cost_their_children_once_and_no_status_from_before_them() {
    let scene = Scene::fresh("cost").await;
    scene.install_webapp().await;
    scene.replicas(1, &[]).await;
    let mark = scene.mark();
    let apps = (0..50).map(|i| {
        let scene = &scene;
        async move { scene.webapp(&format!("a{i}"), json!({"replicas": 0, "config": {"I": "1"}})).await }
    });
    futures::stream::iter(apps).buffer_unordered(32).collect::<Vec<_>>().await;
    scene
        .until("every object is as it should be", || async {
            let apps = scene.list("WebApp", "").await;
            let ready = apps.iter().filter(|a| crate::scene::condition(a, "Ready") == Some("True")).count();
            (ready == 50).then_some(())
        })
        .await;
    scene.silence().await;
    let mut writes: BTreeMap<(String, String), usize> = BTreeMap::new();
    for write in scene.writes_since(mark).iter().filter(|write| (200..300).contains(&write.code())) {
        let Some(object) = write.object_ref.as_ref().filter(|o| o.namespace == scene.namespace) else {
            continue;
        };
        if object.resource != "webapps" {
            *writes.entry((object.resource.clone(), object.name.clone())).or_default() += 1;
            continue;
        }
        // The Deployment's controller changes what there is to say, so there may be several of them. But the first
        // is already about the children: what was decided before they were there was not worth a write.
        let said = write.request_object.as_ref().map_or("", |sent| sent.get());
        assert_eq!(object.subresource, "status", "{}", write.request_uri);
        assert!(said.contains("\"RollingOut\"") || said.contains("\"RolledOut\""), "{said}");
    }
    // Fewer where the API server was too slow to answer a write that it carried out.
    assert!(writes.values().all(|n| *n == 1), "a child was written twice: {writes:?}");
    for kind in ["ConfigMap", "Deployment", "Service"] {
        let children = scene.list(kind, "labelSelector=windlass.dev/owned-by=webapp").await;
        assert_eq!(children.len(), 50, "{kind}");
    }
}

#[tokio::test]
async fn a_forced_resync_of_a_converged_fleet_asks_and_writes_nothing() {
    let scene = Scene::fresh("resync").await;
    scene.install_webapp().await;
    scene.replicas(2, &["--sync-period=3s"]).await;
    let apps = (0..200).map(|i| {
        let scene = &scene;
        async move { scene.webapp(&format!("a{i}"), json!({"config": {"I": i.to_string()}})).await }
    });
    futures::stream::iter(apps).buffer_unordered(16).collect::<Vec<_>>().await;
    scene
        .until("the fleet converges", || async {
            let apps = scene.list("WebApp", "").await;
            let ready = apps.iter().filter(|a| crate::scene::condition(a, "Ready") == Some("True")).count();
            (ready == 200).then_some(())
        })
        .await;
    scene.silence().await;
    let leader = scene.leader().await;
    let looked = looked_at(&scene, &leader).await.expect("metrics");
    let mark = scene.mark();
    let again = scene
        .until("every object was looked at twice", || async {
            looked_at(&scene, &leader).await.filter(|now| now.skipped - looked.skipped >= 400.0)
        })
        .await;
    assert_eq!(again.asked, looked.asked, "nothing has changed, and the plugin was asked");
    let writes = scene.writes_since(mark);
    assert!(writes.is_empty(), "{} writes: {:?}", writes.len(), writes.first());

    // The same after a takeover: what it found out as a standby holds for the leader.
    scene.take(&leader).await.kill().await.expect("it ran");
    let successor =
        scene.until("a successor leads", || async { scene.holder().await.filter(|h| *h != leader) }).await;
    let (mark, looked) = (scene.mark(), looked_at(&scene, &successor).await.expect("metrics"));
    let again = scene
        .until("the successor looked at everything", || async {
            looked_at(&scene, &successor).await.filter(|now| now.skipped - looked.skipped >= 200.0)
        })
        .await;
    assert_eq!(again.asked, looked.asked, "nothing has changed, and the plugin was asked");
    let writes = scene.writes_since(mark);
    assert!(writes.is_empty(), "{} writes after a takeover: {:?}", writes.len(), writes.first());
}

/// What a replica has done about WebApps so far.
struct Looked {
    /// Passes that were not needed.
    skipped: f64,
    /// Calls into the plugin.
    asked: f64,
}

async fn looked_at(scene: &Scene, replica: &str) -> Option<Looked> {
    let replicas = scene.all().await;
    let replica = replicas.iter().find(|r| r.name() == replica)?;
    let skipped = replica.metric("windlass_passes_skipped_total{plugin=\"webapp\"}").await.unwrap_or(0.0);
    let asked = replica.metric("windlass_plugin_decision_seconds_count{plugin=\"webapp\"}").await?;
    Some(Looked { skipped, asked })
}

/// Waits until so many Ingresses exist, however long that takes as long as it goes on.
async fn ingresses(scene: &Scene, wanted: impl Fn(usize) -> bool) -> usize {
    let (mut last, mut moved) = (usize::MAX, Instant::now());
    loop {
        if let Some(now) = how_many(scene).await {
            if wanted(now) {
                return now;
            }
            if now != last {
                (last, moved) = (now, Instant::now());
            }
        }
        assert!(moved.elapsed() < crate::scene::PATIENCE, "nothing moves any more at {last} Ingresses");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How many Ingresses exist, without reading them all: that would be most of the API server's work. Nothing when it does
/// not say.
async fn how_many(scene: &Scene) -> Option<usize> {
    let first = scene.get(&format!("{}?limit=1", scene.path("Ingress", "").trim_end_matches('/'))).await?;
    let rest = first["metadata"]["remainingItemCount"].as_u64().unwrap_or(0);
    Some(first["items"].as_array()?.len() + usize::try_from(rest).ok()?)
}

#[tokio::test]
async fn a_takeover_in_the_middle_of_a_flood_renews_in_time_lists_nothing_and_looks_before_it_deletes() {
    let many = count(300, 10_000);
    let scene = Scene::fresh("takeover").await;
    scene.install_webapp().await;
    // Ten thousand are judged by the durations that are shipped.
    let shipped =
        ["--lease-duration=15s", "--renew-deadline=10s", "--retry-period=2s", "--request-timeout=5s"];
    let durations = &shipped[..count(0, shipped.len())];
    scene.replicas(2, &[&["--sync-period=1h"], durations].concat()).await;
    let each = |change: fn() -> serde_json::Value| {
        let scene = &scene;
        let all = (0..many).map(move |i| async move { scene.webapp(&format!("a{i}"), change()).await });
        async move { drop(futures::stream::iter(all).buffer_unordered(32).collect::<Vec<_>>().await) }
    };
    each(|| json!({"replicas": 0, "host": "a.example.com"})).await;
    ingresses(&scene, |found| found == many).await;

    // The flood: none of them wants its Ingress any more. In the middle of it the leader is killed.
    let old = scene.leader().await;
    let killed = async {
        ingresses(&scene, |found| found < many * 3 / 4).await;
        let mark = scene.mark();
        scene.take(&old).await.kill().await.expect("it ran");
        mark
    };
    let (mark, ()) = tokio::join!(killed, each(|| json!({"replicas": 0})));
    ingresses(&scene, |found| found == 0).await;

    let replicas = scene.all().await;
    let successor = replicas.first().expect("one is left");
    assert_eq!(scene.leader().await, successor.name());
    let renewals = |part: &str| {
        let name = format!("windlass_renew_seconds_{part}");
        async move { successor.metric(&name).await }
    };
    // The bucket of 1.024 s is the one next to a second.
    let in_time = renewals("bucket{le=\"1.024\"}").await.expect("a metric");
    let all = renewals("count").await.expect("a metric");
    let mut bound = 0.001;
    while bound < 32.0
        && renewals(&format!("bucket{{le=\"{bound}\"}}")).await.unwrap_or_default() / all < 0.99
    {
        bound *= 2.0;
    }
    println!("takeover of {many}: {all} renewals by the successor, 99 % within {bound} s");
    assert!(all >= 1.0 && in_time / all >= 0.99, "{in_time} of {all} renewals within a second");

    let events = scene.control().audit().and_then(|audit| audit.since(mark)).expect("an audit log");
    let hosts = |event: &&AuditEvent| event.user.username == HOST_USER && event.is_complete();
    // The election reads its one Lease anew when its own watch of it has ended.
    let of_the_election =
        |e: &AuditEvent| e.object_ref.as_ref().is_some_and(|object| object.resource == "leases");
    let lists = events.iter().filter(hosts).filter(|e| e.verb == "list" && !of_the_election(e));
    let lists: Vec<_> = lists.map(|event| &event.request_uri).collect();
    assert!(lists.is_empty(), "{lists:#?}");

    // Deletes of the new leader alone: its claim is another one.
    let claim = |event: &AuditEvent| event.extra("windlass.dev/claim").unwrap_or_default().to_owned();
    let (mut looked, mut deleted, mut refused) = (BTreeSet::new(), BTreeSet::new(), 0);
    for event in events.iter().filter(hosts) {
        let Some(object) = &event.object_ref else { continue };
        match (&*event.verb, &*object.resource) {
            ("get", "webapps") => drop(looked.insert(object.name.clone())),
            ("delete", "ingresses") if claim(event).starts_with(successor.name()) => {
                assert!(looked.contains(&object.name), "{} was deleted without a look", object.name);
                match event.succeeded() {
                    true => assert!(deleted.insert(object.name.clone()), "{} was deleted twice", object.name),
                    false => refused += 1,
                }
            }
            _ => {}
        }
    }
    assert!(deleted.len() > many / 10, "{} deleted by the successor, {refused} refused", deleted.len());
}

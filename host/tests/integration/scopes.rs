//! What manifests select, on a real API server: what is asked for and held, what each plugin sees of it, and what
//! is said when it cannot be had.

use serde_json::{Value, json};
use windlass_testbed::Mark;

use crate::catalogue::guest::{Answer, Guest};
use crate::scene::{HOST_USER, Scene, path};

const ONE: &str = "scoped-one";
const TWO: &str = "scoped-two";
const OUTSIDE: &str = "scoped-none";

/// The host may see Secrets of one namespace, and of no other.
const SECRETS_OF_ONE: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: scoped, namespace: scoped-one}
rules:
  - {apiGroups: [''], resources: [secrets], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: scoped, namespace: scoped-one}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: scoped}
subjects:
  - {kind: ServiceAccount, name: windlass, namespace: windlass-system}
";

/// Three namespaces with a Secret and a ConfigMap of each tier and one without.
async fn stage(prefix: &str) -> Scene {
    let scene = Scene::fresh(prefix).await;
    for namespace in [ONE, TWO, OUTSIDE] {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        scene.apply_cluster("/api/v1/namespaces", object).await;
    }
    scene.control().apply(SECRETS_OF_ONE).await.expect("the rights apply");
    for namespace in [ONE, TWO, OUTSIDE] {
        for (name, labels) in
            [("web", json!({"tier": "web"})), ("db", json!({"tier": "db"})), ("none", json!({}))]
        {
            let metadata = json!({"name": name, "namespace": namespace, "labels": labels});
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata,
                "stringData": {"k": "x".repeat(64 << 10)}});
            scene.apply_cluster(&format!("/api/v1/namespaces/{namespace}/secrets"), secret).await;
            scene
                .apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"k": "v"}}))
                .await;
        }
    }
    scene
}

async fn widget(scene: &Scene, namespace: &str, labels: Value, mode: &str) {
    scene
        .apply(json!({"apiVersion": "fixtures.windlass.dev/v1alpha1", "kind": "Widget",
            "metadata": {"name": "w", "namespace": namespace, "labels": labels}, "spec": {"mode": mode}}))
        .await;
}

/// What the Widget of a namespace has seen.
async fn seen(scene: &Scene, namespace: &str) -> Option<String> {
    let child = scene.get_in("ConfigMap", namespace, "w-seen").await?;
    child["data"]["text"].as_str().map(str::to_owned)
}

/// Paths and queries of the host's lists and watches of a resource since `mark`.
fn asked(scene: &Scene, mark: Mark, resource: &str) -> Vec<String> {
    let events = scene.control().audit().and_then(|audit| audit.since(mark)).expect("an audit log");
    let by_host = events.into_iter().filter(|event| {
        event.user.username == HOST_USER
            && matches!(event.verb.as_str(), "list" | "watch")
            && event.object_ref.as_ref().is_some_and(|object| object.resource == resource)
            // The host's own ConfigMaps are those of plugins, and of what it keeps.
            && !event.request_uri.contains("/namespaces/windlass-system/")
    });
    by_host.map(|event| event.request_uri).collect()
}

async fn gauge(scene: &Scene, name: &str, kind: &str) -> Option<f64> {
    scene.all().await[0].metric(&format!("{name}{{kind=\"{kind}\"}}")).await
}

async fn until_held(scene: &Scene, kind: &str, count: f64) {
    scene
        .until(&format!("{count} of {kind} are held"), || async {
            (gauge(scene, "windlass_cache_objects", kind).await? == count).then_some(())
        })
        .await;
}

#[tokio::test]
async fn no_more_is_asked_for_held_or_shown_than_manifests_select() {
    let scene = stage("scopes").await;
    let mark = scene.mark();
    scene.install_fixture("scoped").await;
    scene.replicas(1, &["--sync-period=1h"]).await;
    for namespace in [ONE, TWO, OUTSIDE] {
        widget(&scene, namespace, json!({"scoped": "yes"}), "").await;
    }
    let all = "Secret/scoped-one/web ConfigMap/scoped-one/web! ConfigMap/scoped-two/web!";
    for namespace in [ONE, TWO] {
        scene
            .until(&format!("the Widget of {namespace} has seen its part"), || async {
                (seen(&scene, namespace).await? == all).then_some(())
            })
            .await;
    }

    // Asked for: one namespace, the labels, the fields, and no body.
    let secrets = asked(&scene, mark, "secrets");
    let selects = "labelSelector=tier%3Dweb&fieldSelector=type%3DOpaque";
    assert!(secrets.iter().any(|uri| uri.contains("watch=1")), "{secrets:?}");
    for uri in &secrets {
        let tried =
            uri.starts_with("/api/v1/namespaces/scoped-one/secrets?fieldSelector=type%3DOpaque&limit=1");
        let path = format!("/api/v1/namespaces/{ONE}/secrets?{selects}");
        assert!(tried || uri.starts_with(&path), "{uri}");
    }
    let widgets = asked(&scene, mark, "widgets");
    assert!(widgets.iter().all(|uri| uri.contains("labelSelector=scoped&")), "{widgets:?}");
    // Held: one Secret of nine and little of it, Widgets of two namespaces of three.
    until_held(&scene, "v1/Secret", 1.0).await;
    let bytes = gauge(&scene, "windlass_cache_bytes", "v1/Secret").await.expect("a metric");
    assert!(bytes < 4096.0, "{bytes} bytes for a Secret of 64 KiB");
    until_held(&scene, "fixtures.windlass.dev/v1alpha1/Widget", 2.0).await;
    // ConfigMaps are made and read: all are asked for, and those of nobody's are not kept.
    until_held(&scene, "v1/ConfigMap", 4.0 + 2.0).await;
    let (_, watches) = scene.all().await[0].ask("/debug/watches").await.expect("it answers");
    assert!(
        watches.contains("tier=web in namespace scoped-one where type=Opaque, metadata only"),
        "{watches}"
    );
    assert_eq!(seen(&scene, OUTSIDE).await, None, "a namespace that is not declared has no primary");

    // A neighbour that needs all of them changes what is held, and nothing of what is seen.
    scene.install_fixture("greeter").await;
    scene
        .until("all ConfigMaps are held", || async {
            (gauge(&scene, "windlass_cache_objects", "v1/ConfigMap").await? >= 11.0).then_some(())
        })
        .await;
    let touched = json!({"metadata": {"annotations": {"touched": "yes"}}});
    scene.patch(&path("Widget", ONE, "w"), touched).await;
    scene.silence().await;
    assert_eq!(seen(&scene, ONE).await.as_deref(), Some(all));
    assert_eq!(seen(&scene, OUTSIDE).await, None);

    // What is read is followed; what is not is not.
    let label = |tier: &str| json!({"metadata": {"labels": {"tier": tier}}});
    scene.patch(&format!("/api/v1/namespaces/{ONE}/secrets/db"), label("web")).await;
    scene
        .until("the Secret that got the label is seen", || async {
            seen(&scene, TWO).await?.starts_with("Secret/scoped-one/db Secret/scoped-one/web ").then_some(())
        })
        .await;

    // What was made for a Widget that loses its label goes, although nobody deleted the Widget.
    scene.patch(&path("Widget", TWO, "w"), json!({"metadata": {"labels": {"scoped": null}}})).await;
    scene
        .until("its child is gone", || async {
            scene.get_in("ConfigMap", TWO, "w-seen").await.is_none().then_some(())
        })
        .await;
    assert!(scene.get_in("Widget", TWO, "w").await.is_some());
    assert!(seen(&scene, ONE).await.is_some());
}

#[tokio::test]
async fn a_question_outside_of_the_manifest_and_a_field_that_no_server_knows_are_said_clearly() {
    let scene = stage("outside").await;
    scene.install_fixture("scoped").await;
    scene.install_fixture("unselectable").await;
    let child = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "by-an-old-one"}});
    let old = Guest {
        name: "old",
        primary: ("fixtures.windlass.dev", "v1alpha1", "Widget"),
        answer: Answer::children([child.to_string()]),
        ..Guest::default()
    };
    scene.install("old", &old.build()).await;
    scene.replicas(1, &[]).await;
    for (mode, says) in [
        (
            "namespace",
            "E231 ReadNotAllowed: v1/ConfigMap: scoped asked for namespace \"scoped-none\"; its manifest declares ",
        ),
        (
            "labels",
            "E231 ReadNotAllowed: v1/Secret: scoped asked for labels tier=db; its manifest declares labels tier=web; ",
        ),
    ] {
        widget(&scene, ONE, json!({"scoped": ""}), mode).await;
        scene
            .until(&format!("an Event says {says}"), || async {
                let events = scene.get(&format!("/api/v1/namespaces/{ONE}/events")).await?;
                let said =
                    |event: &Value| event["message"].as_str().is_some_and(|message| message.contains(says));
                events["items"].as_array()?.iter().any(said).then_some(())
            })
            .await;
    }
    widget(&scene, ONE, json!({"scoped": ""}), "").await;
    scene.until("the next call works", || seen(&scene, ONE)).await;
    // A component of the first version of the contract serves beside it, and sees every Widget.
    widget(&scene, OUTSIDE, json!({}), "").await;
    for namespace in [ONE, OUTSIDE] {
        scene
            .until("what an older plugin makes is made", || {
                scene.get_in("ConfigMap", namespace, "by-an-old-one")
            })
            .await;
    }
    assert_eq!(seen(&scene, OUTSIDE).await, None);

    let annotation = async |name: &str| {
        let map = scene.get(&path("ConfigMap", crate::scene::HOST, "unselectable-plugin")).await?;
        map["metadata"]["annotations"][name].as_str().map(str::to_owned)
    };
    let message = scene
        .until("the plugin that names the field is told", || async {
            annotation("windlass.dev/message").await.filter(|message| message.contains("E181"))
        })
        .await;
    let says = "reads of v1/ConfigMap: the API server does not select by the field data.tier: ";
    assert!(message.contains(says) && message.contains("not a known field selector"), "{message}");
    // No hot loop: it is tried again after pauses that grow.
    let mark = scene.mark();
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let tries = asked(&scene, mark, "configmaps");
    assert!(tries.iter().filter(|uri| uri.contains("data.tier")).count() <= 1, "{tries:?}");
    scene.ready().await;
}

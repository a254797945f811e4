//! The ordinary flow: what is wanted comes to be, stays, and goes.

use serde_json::{Value, json};

use crate::scene::{Scene, condition, path};

#[tokio::test]
async fn a_webapp_becomes_its_children_and_a_status() {
    let scene = Scene::shared("create").await;
    let spec = json!({"replicas": 2, "config": {"A": "1"}, "host": "app.example.com"});
    scene.webapp("app", spec).await;
    let app = scene
        .until("the WebApp is Ready", || async {
            let app = scene.own("WebApp", "app").await?;
            (condition(&app, "Ready") == Some("True")).then_some(app)
        })
        .await;
    assert_eq!(app["status"]["readyReplicas"], 2);
    assert_eq!(app["status"]["observedGeneration"], app["metadata"]["generation"]);
    for kind in ["Deployment", "Service", "ConfigMap", "Ingress", "PodDisruptionBudget"] {
        let child = scene.own(kind, "app").await.unwrap_or_else(|| panic!("{kind}"));
        let meta = &child["metadata"];
        assert_eq!(meta["labels"]["windlass.dev/owned-by"], "webapp", "{kind}");
        assert_eq!(meta["labels"]["windlass.dev/host"], "windlass-system", "{kind}");
        assert_eq!(meta["annotations"]["windlass.dev/primary"], format!("{}/app", scene.namespace), "{kind}");
        assert_eq!(meta["ownerReferences"][0]["uid"], app["metadata"]["uid"], "{kind}");
        let managers = meta["managedFields"].as_array().expect("recorded");
        assert!(
            managers.iter().any(|m| m["manager"] == "windlass/webapp" && m["operation"] == "Apply"),
            "{kind}"
        );
    }
}

#[tokio::test]
async fn a_change_rolls_the_deployment() {
    let scene = Scene::shared("change").await;
    scene.webapp("app", json!({"config": {"A": "1"}})).await;
    let template = |child: Value| child["spec"]["template"]["metadata"]["annotations"].clone();
    let before = scene.until("the Deployment exists", || scene.own("Deployment", "app")).await;
    scene
        .webapp("app", json!({"image": "registry.example/app:2", "replicas": 3, "config": {"A": "2"}}))
        .await;
    scene
        .until("the Deployment follows", || async {
            let now = scene.own("Deployment", "app").await?;
            let image = &now["spec"]["template"]["spec"]["containers"][0]["image"];
            let rolled = template(now.clone()) != template(before.clone());
            (image == "registry.example/app:2" && now["spec"]["replicas"] == 3 && rolled).then_some(())
        })
        .await;
    scene
        .until("the status follows", || async {
            let app = scene.own("WebApp", "app").await?;
            (app["status"]["observedGeneration"] == app["metadata"]["generation"]
                && app["status"]["readyReplicas"] == 3)
                .then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_foreign_edit_of_a_child_is_repaired() {
    let scene = Scene::shared("edit").await;
    scene.webapp("app", json!({"replicas": 2})).await;
    scene.until("the Deployment exists", || scene.own("Deployment", "app")).await;
    let deployment = scene.path("Deployment", "app");
    scene.patch(&deployment, json!({"spec": {"replicas": 5}, "metadata": {"labels": {"theirs": "x"}}})).await;
    let repaired = scene
        .until("the edit is repaired", || async {
            scene.own("Deployment", "app").await.filter(|d| d["spec"]["replicas"] == 2)
        })
        .await;
    assert_eq!(repaired["metadata"]["labels"]["theirs"], "x", "what is not ours is left alone");
}

#[tokio::test]
async fn marks_that_somebody_takes_off_a_child_are_put_back() {
    let scene = Scene::shared("marks").await;
    scene.widget("w", json!({})).await;
    scene.until("the child exists", || scene.own("ConfigMap", "w-sibling")).await;
    let child = scene.path("ConfigMap", "w-sibling");
    for gone in [json!({"windlass.dev/owned-by": null}), json!({"windlass.dev/host": null})] {
        scene.patch(&child, json!({"metadata": {"labels": gone}})).await;
        scene
            .until("the label is back", || async {
                let labels = scene.own("ConfigMap", "w-sibling").await?["metadata"]["labels"].take();
                (labels["windlass.dev/owned-by"] == "sibling"
                    && labels["windlass.dev/host"] == "windlass-system")
                    .then_some(())
            })
            .await;
    }
}

#[tokio::test]
async fn a_deleted_child_is_made_again() {
    let scene = Scene::shared("again").await;
    scene.webapp("app", json!({})).await;
    let service = scene.until("the Service exists", || scene.own("Service", "app")).await;
    scene.delete(&scene.path("Service", "app")).await;
    scene
        .until("the Service is made again", || async {
            let again = scene.own("Service", "app").await?;
            (again["metadata"]["uid"] != service["metadata"]["uid"]).then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_no_longer_wanted_child_is_pruned() {
    let scene = Scene::shared("prune").await;
    scene.webapp("app", json!({"replicas": 2, "host": "app.example.com"})).await;
    scene.until("the Ingress exists", || scene.own("Ingress", "app")).await;
    scene.until("the budget exists", || scene.own("PodDisruptionBudget", "app")).await;
    scene.patch(&scene.path("WebApp", "app"), json!({"spec": {"replicas": 1, "host": null}})).await;
    for kind in ["Ingress", "PodDisruptionBudget"] {
        scene
            .until(&format!("the {kind} is gone"), || async {
                scene.own(kind, "app").await.is_none().then_some(())
            })
            .await;
    }
    assert!(scene.own("Deployment", "app").await.is_some());
}

#[tokio::test]
async fn an_orphaned_child_stays_without_our_marks() {
    let scene = Scene::shared("orphan").await;
    scene.widget("w", json!({})).await;
    scene.until("the child exists", || scene.own("ConfigMap", "w-orphan")).await;
    scene.widget("w", json!({"keep": false})).await;
    let left = scene
        .until("it is let go", || async {
            let child = scene.own("ConfigMap", "w-orphan").await?;
            child["metadata"]["labels"]["windlass.dev/owned-by"].is_null().then_some(child)
        })
        .await;
    assert_eq!(left["data"]["text"], "keep me");
    assert!(left["metadata"]["ownerReferences"].is_null());
    assert!(left["metadata"]["annotations"]["windlass.dev/primary"].is_null());
}

#[tokio::test]
async fn a_deleted_primary_is_finalized_and_all_is_gone() {
    let scene = Scene::shared("finalize").await;
    scene.widget("w", json!({})).await;
    scene.until("the child exists", || scene.own("ConfigMap", "w-resource")).await;
    let widget = scene.own("Widget", "w").await.expect("it exists");
    assert!(widget["metadata"]["finalizers"].to_string().contains("windlass.dev/finalizes"));
    scene.delete(&scene.path("Widget", "w")).await;
    scene
        .until("the Widget is gone", || async { scene.own("Widget", "w").await.is_none().then_some(()) })
        .await;
    assert!(scene.own("ConfigMap", "w-resource").await.is_none(), "the clean-up came first");
    scene
        .until("all children are collected", || async {
            let rest = scene.list("ConfigMap", "labelSelector=windlass.dev/host").await;
            rest.is_empty().then_some(())
        })
        .await;
}

#[tokio::test]
async fn what_a_pass_reads_brings_its_key_back() {
    let scene = Scene::shared("reads").await;
    scene.widget("w", json!({"source": "theirs", "text": "hi"})).await;
    scene.until("the child exists", || scene.own("ConfigMap", "w-greeting")).await;
    let source = |value: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "theirs", "namespace": scene.namespace}, "data": {"copied": value}})
    };
    for value in ["one", "two"] {
        scene.apply(source(value)).await;
        scene
            .until("the child follows what was read", || async {
                let child = scene.own("ConfigMap", "w-greeting").await?;
                (child["data"]["copied"] == value).then_some(())
            })
            .await;
    }
    for (count, name) in [(1, "p1"), (2, "p2")] {
        scene
            .apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name,
                "namespace": scene.namespace, "labels": {"fixture": "part"}}}))
            .await;
        scene
            .until("the list that was read is followed", || async {
                let widget = scene.own("Widget", "w").await?;
                (widget["status"]["parts"] == count).then_some(())
            })
            .await;
    }
}

#[tokio::test]
async fn two_plugins_share_a_watch() {
    let scene = Scene::shared("sharing").await;
    scene.widget("w", json!({})).await;
    scene.until("the greeter's child exists", || scene.own("ConfigMap", "w-greeting")).await;
    scene.until("the sibling's child exists", || scene.own("ConfigMap", "w-sibling")).await;
    let agent = |uri: &str| uri.contains("/widgets?") && uri.contains("watch=");
    let events = scene.control().audit().and_then(|a| a.events()).expect("an audit log");
    let mut open = std::collections::BTreeSet::new();
    for event in events.iter().filter(|e| e.user.username == crate::scene::HOST_USER && agent(&e.request_uri))
    {
        match event.stage.as_str() {
            "ResponseStarted" => open.insert(event.audit_id.clone()),
            "ResponseComplete" => open.remove(&event.audit_id),
            _ => false,
        };
    }
    assert_eq!(open.len(), 1, "one watch on widgets for all plugins");
}

#[tokio::test]
async fn a_strangers_object_is_left_untouched() {
    let scene = Scene::shared("stranger").await;
    let theirs = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "app",
        "namespace": scene.namespace}, "data": {"theirs": "x"}});
    let before = scene.apply(theirs).await;
    scene.webapp("app", json!({"config": {"A": "1"}})).await;
    scene.event("app", "PassFailed", "E234 NotOwner").await;
    let after = scene.own("ConfigMap", "app").await.expect("it exists");
    assert_eq!(after["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
    scene.until("the other children are made all the same", || scene.own("Deployment", "app")).await;

    let offered = json!({"metadata": {"annotations": {"windlass.dev/adopt": "webapp"}}});
    scene.patch(&scene.path("ConfigMap", "app"), offered).await;
    // An edit brings the key back at once; the offer itself is on an object that is not watched.
    scene.webapp("app", json!({"config": {"A": "2"}})).await;
    scene
        .until("an object that is offered is taken over", || async {
            let child = scene.own("ConfigMap", "app").await?;
            (child["metadata"]["labels"]["windlass.dev/owned-by"] == "webapp" && child["data"]["A"] == "2")
                .then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_terminating_namespace_ends_in_peace() {
    let scene = Scene::shared("terminating").await;
    for i in 0..5 {
        scene.widget(&format!("w{i}"), json!({})).await;
        scene.webapp(&format!("a{i}"), json!({})).await;
    }
    scene.until("children exist", || scene.own("ConfigMap", "w4-resource")).await;
    let mark = scene.mark();
    let namespace = format!("/api/v1/namespaces/{}", scene.namespace);
    scene.delete(&namespace).await;
    scene
        .until("the namespace is gone", || async { scene.get(&namespace).await.is_none().then_some(()) })
        .await;
    let refused = scene.writes_since(mark).into_iter().filter(|w| {
        !w.succeeded()
            && w.object_ref.as_ref().is_some_and(|o| o.namespace == scene.namespace && o.resource != "events")
    });
    let refused: Vec<_> = refused.map(|w| format!("{} {}", w.verb, w.request_uri)).collect();
    assert!(refused.len() <= 60, "at most three attempts for each child: {refused:#?}");
}

#[tokio::test]
async fn a_recreated_primary_gets_children_of_its_own() {
    let scene = Scene::shared("recreate").await;
    let first = scene.webapp("app", json!({})).await;
    scene.until("the Deployment exists", || scene.own("Deployment", "app")).await;
    scene.delete(&path("WebApp", &scene.namespace, "app")).await;
    let second = scene.webapp("app", json!({})).await;
    assert_ne!(first["metadata"]["uid"], second["metadata"]["uid"]);
    scene
        .until("its Deployment is its own", || async {
            let child = scene.own("Deployment", "app").await?;
            let owner = &child["metadata"]["ownerReferences"][0]["uid"];
            (*owner == second["metadata"]["uid"] && child["metadata"]["deletionTimestamp"].is_null())
                .then_some(())
        })
        .await;
}

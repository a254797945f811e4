//! The confused deputy: a tenant with every right in a namespace of its own, who tries to have the host act elsewhere.

use serde_json::{Value, json};

use crate::scene::{HOST, Scene, built, path};

/// Somebody who may edit one namespace, as Kubernetes' own role `edit` says, and widgets there.
struct Tenant {
    client: kube::Client,
}

impl Tenant {
    async fn of(scene: &Scene) -> Self {
        let namespace = &scene.namespace;
        let rights = format!(
            "apiVersion: v1
kind: ServiceAccount
metadata: {{name: tenant, namespace: {namespace}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: tenant, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}}
subjects: [{{kind: ServiceAccount, name: tenant, namespace: {namespace}}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: tenant, namespace: {namespace}}}
rules: [{{apiGroups: [fixtures.windlass.dev], resources: [widgets], verbs: ['*']}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: tenant-widgets, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: tenant}}
subjects: [{{kind: ServiceAccount, name: tenant, namespace: {namespace}}}]"
        );
        scene.control().apply(&rights).await.expect("the tenant's rights apply");
        let token = scene.control().service_account_token(namespace, "tenant").await.expect("a token");
        let config = scene.control().config_with_token(&token).expect("a configuration");
        let tenant = Self { client: kube::Client::try_from(config).expect("a client") };
        // Rights count a moment after they were given.
        scene
            .until("the tenant may work", || async {
                let probe = json!({"apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": "probe", "namespace": namespace}});
                let widgets = format!("/apis/fixtures.windlass.dev/v1alpha1/namespaces/{namespace}/widgets");
                let widgets = http::Request::get(widgets).body(Vec::new()).expect("a request");
                tenant.client.request::<Value>(widgets).await.ok()?;
                tenant.apply(&probe).await.ok()
            })
            .await;
        tenant
    }

    async fn apply(&self, object: &Value) -> kube::Result<Value> {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let metadata = &object["metadata"];
        let path = path(&text(&object["kind"]), &text(&metadata["namespace"]), &text(&metadata["name"]));
        let request = http::Request::patch(format!("{path}?fieldManager=tenant&force=true"))
            .header("content-type", "application/apply-patch+yaml");
        self.client.request(request.body(object.to_string().into_bytes()).expect("a request")).await
    }
}

fn widget(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "fixtures.windlass.dev/v1alpha1", "kind": "Widget",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

fn config_map(namespace: &str, name: &str, labels: Value, annotations: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"text": "the tenant's"},
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations}})
}

/// Changes a Widget of the tenant's and waits until the host has followed: whatever it would have done before is done.
async fn host_has_passed(scene: &Scene, tenant: &Tenant) {
    tenant.apply(&widget(&scene.namespace, "passed", &json!({"text": "passed"}))).await.expect("its own");
    scene.until("the host has come by", || scene.own("ConfigMap", "passed-greeting")).await;
}

#[tokio::test]
async fn a_tenant_makes_no_plugin_and_reaches_nothing_of_the_hosts() {
    let scene = Scene::shared("tenant-plugin").await;
    let tenant = Tenant::of(&scene).await;
    let wasm = zstd::encode_all(&*built("windlass-fixtures", Some("greeter")).await, 3).expect("memory");
    let mut plugin = config_map(&scene.namespace, "own", json!({"windlass.dev/plugin": "own"}), json!({}));
    plugin["binaryData"] = json!({"plugin.wasm.zst": base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD, wasm)});
    tenant.apply(&plugin).await.expect("in its own namespace it may label what it likes");
    host_has_passed(&scene, &tenant).await;
    let found = scene.own("ConfigMap", "own").await.expect("it is there");
    assert_eq!(found["metadata"]["annotations"]["windlass.dev/state"], Value::Null, "nobody looks at it");
    for object in [
        config_map(HOST, "greeter-plugin", json!({"windlass.dev/plugin": "greeter"}), json!({})),
        config_map(HOST, "more", json!({"windlass.dev/plugin": "more"}), json!({})),
    ] {
        let refused = tenant.apply(&object).await.expect_err("the host's namespace");
        assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
    }
}

#[tokio::test]
async fn marks_that_a_tenant_forges_move_nobody_elses_objects() {
    let scene = Scene::shared("tenant-marks").await;
    let tenant = Tenant::of(&scene).await;
    // Somebody else's Widget, with its child, in a namespace of its own.
    let other = scene.control().namespace("tenant-other").await.expect("a namespace");
    scene.apply(widget(&other, "victim", &json!({"text": "theirs"}))).await;
    let child = || scene.get_in("ConfigMap", &other, "victim-greeting");
    let before = scene.until("the victim is greeted", child).await;

    // Here, the tenant's own object says that it is a child of that Widget, which never wanted it; and of one that is not there.
    let ours = json!({"windlass.dev/owned-by": "greeter", "windlass.dev/host": HOST});
    for (name, primary) in [("forged", format!("{other}/victim")), ("orphan", format!("{other}/nobody"))] {
        let object =
            config_map(&scene.namespace, name, ours.clone(), json!({"windlass.dev/primary": primary}));
        tenant.apply(&object).await.expect("its own namespace");
    }
    // It takes the name that a child of its own Widget would have, and offers what it does not own.
    tenant
        .apply(&config_map(&scene.namespace, "taken-greeting", json!({}), json!({})))
        .await
        .expect("its own");
    tenant.apply(&widget(&scene.namespace, "taken", &json!({"text": "mine"}))).await.expect("its own");
    scene.event("taken", "PassFailed", "E234 NotOwner").await;
    // A Widget that names another namespace's object as its source reads it as the plugin may, and writes here.
    tenant
        .apply(&widget(
            &scene.namespace,
            "reach",
            &json!({"text": "x", "source": "../kube-system/extension-apiserver-authentication"}),
        ))
        .await
        .expect("its own");
    host_has_passed(&scene, &tenant).await;

    let taken = scene.own("ConfigMap", "taken-greeting").await.expect("it stays");
    assert_eq!(taken["data"]["text"], "the tenant's", "what is not ours is not overwritten");
    assert_eq!(taken["metadata"]["labels"]["windlass.dev/owned-by"], Value::Null);
    let after = child().await.expect("it stays");
    assert_eq!(
        after["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"],
        "nobody touched it"
    );
    let users: Vec<String> = scene
        .list("ConfigMap", "")
        .await
        .iter()
        .filter(|map| map["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("reach")))
        .map(|map| map["data"].to_string())
        .collect();
    assert!(users.iter().all(|data| !data.contains("BEGIN CERTIFICATE")), "{users:?}");
}

#[tokio::test]
async fn a_tenants_rights_end_where_they_ended_before_there_was_a_host() {
    let scene = Scene::shared("tenant-rights").await;
    let tenant = Tenant::of(&scene).await;
    // Neither the account of a plugin nor that of the host is for a tenant to be, and no claim is for it to hold.
    for (user, header) in [
        (format!("system:serviceaccount:{HOST}:plugin-greeter"), None),
        (format!("system:serviceaccount:{HOST}:windlass"), None),
        (format!("system:serviceaccount:{}:tenant", scene.namespace), Some("a_1/999")),
    ] {
        let mut request = http::Request::get(format!("/api/v1/namespaces/{}/configmaps", scene.namespace))
            .header("impersonate-user", &user);
        if let Some(claim) = header {
            request = request.header("impersonate-extra-windlass.dev%2fclaim", claim);
        }
        let answer = tenant.client.request::<Value>(request.body(Vec::new()).expect("a request")).await;
        assert!(matches!(&answer, Err(kube::Error::Api(status)) if status.code == 403), "{user}: {answer:?}");
    }
    let held = format!("/apis/coordination.k8s.io/v1/namespaces/{HOST}/leases/windlass");
    let claim = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{HOST}/roles/windlass-claim");
    for path in [
        held,
        claim,
        format!("/api/v1/namespaces/{HOST}/secrets"),
        format!("/api/v1/namespaces/{HOST}/configmaps"),
    ] {
        let answer = tenant
            .client
            .request::<Value>(http::Request::get(&path).body(Vec::new()).expect("a request"))
            .await;
        assert!(matches!(&answer, Err(kube::Error::Api(status)) if status.code == 403), "{path}: {answer:?}");
    }
}

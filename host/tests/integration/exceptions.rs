//! Exceptions from what plugins may write, which only the operator of a host can make: each is
//! refused with its code without the flag, and works with it.

use serde_json::{Value, json};
use windlass_core::limits::Limits;
use windlass_core::name::PluginName;
use windlass_plugin::{Loader, Source};

use crate::catalogue::guest::{Answer, CONFIG_MAP, Guest, Kind};
use crate::scene::{HOST, Scene};

const ROLE: Kind<'static> = ("rbac.authorization.k8s.io", "v1", "Role");
const ALLOW_ROLE: &str = "--allow-reserved-kind=rbac.authorization.k8s.io/v1/Role";
/// The fixtures' account may create, delete, get and patch ConfigMaps, so it may grant one of that.
const ROLE_RIGHTS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: windlass-plugin-roles
rules:
  - {apiGroups: [rbac.authorization.k8s.io], resources: [roles], verbs: [create, delete, get, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: windlass-plugin-roles
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: windlass-plugin-roles}
subjects:
  - {kind: ServiceAccount, name: plugin-roles, namespace: windlass-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: windlass-plugin-roles-watches
  labels: {windlass.dev/aggregate-to-host: 'true'}
rules:
  - {apiGroups: [rbac.authorization.k8s.io], resources: [roles], verbs: [get, list, watch]}
";

/// A plugin that wants this one child for each widget.
fn wanting(name: &str, children: &[Kind<'_>], child: &Value) -> Vec<u8> {
    Guest { name, children, answer: Answer::children([child.to_string()]), ..Guest::default() }.build()
}

/// Waits until the plugin's ConfigMap has this state and says this.
async fn state(scene: &Scene, plugin: &str, state: &str, says: &str) -> String {
    let map = format!("/api/v1/namespaces/{HOST}/configmaps/{plugin}-plugin");
    scene
        .until(&format!("{plugin} is {state}: {says}"), || async {
            let map = scene.get(&map).await?;
            let note = &map["metadata"]["annotations"];
            let message = note["windlass.dev/message"].as_str().unwrap_or_default();
            (note["windlass.dev/state"] == state && message.contains(says)).then(|| message.to_owned())
        })
        .await
}

/// Ends the host, and starts it with these flags.
async fn again(scene: &Scene, flags: &[&str]) {
    let old = scene.leader().await;
    scene.take(&old).await.terminate(crate::scene::PATIENCE).await.expect("it ran");
    scene.replicas(1, flags).await;
}

/// Who packages a plugin is no host: it may be for one that allows more.
#[test]
fn a_plugin_with_a_reserved_kind_can_be_looked_into_and_is_not_loaded() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let name = PluginName::try_new("roles").expect("valid");
    let component = wanting("roles", &[CONFIG_MAP, ROLE], &json!({}));
    let source = Source::local(name.clone(), component.into(), None);
    assert_eq!(loader.inspect(&source).expect("it says what it is").children.len(), 2);
    let refusal = loader.load(&source, &name).expect_err("it is reserved");
    assert!(refusal.to_string().starts_with("E238 ReservedKind: children[1]"), "{refusal}");
    assert!(refusal.to_string().contains(ALLOW_ROLE), "{refusal}");
}

#[tokio::test]
async fn a_reserved_kind_is_refused_without_its_flag_and_written_with_it() {
    let scene = Scene::fresh("reserved").await;
    scene.control().apply(ROLE_RIGHTS).await.expect("the rights apply");
    let child = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}],
    });
    scene.install("roles", &wanting("roles", &[CONFIG_MAP, ROLE], &child)).await;
    scene.widget("w", json!({})).await;
    let role = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles/reader", scene.namespace);

    scene.replicas(1, &[]).await;
    let message = state(&scene, "roles", "refused", "E238 ReservedKind").await;
    assert!(message.contains("children[1]") && message.contains(ALLOW_ROLE), "{message}");
    assert_eq!(scene.get(&role).await, None);

    again(&scene, &[ALLOW_ROLE]).await;
    state(&scene, "roles", "serving", "").await;
    let made = scene.until("the Role is made", || scene.get(&role)).await;
    assert_eq!(made["rules"], child["rules"]);
    assert_eq!(made["metadata"]["labels"]["windlass.dev/owned-by"], "roles");
    // The flag says what manifests may ask for, not what plugins get that do not ask.
    scene.install("sly", &wanting("sly", &[CONFIG_MAP], &child)).await;
    scene.event("w", "PassFailed", "E230 KindNotAllowed").await;
    // And it is about this kind alone.
    let binding = ("rbac.authorization.k8s.io", "v1", "RoleBinding");
    scene.install("binds", &wanting("binds", &[ROLE, binding], &child)).await;
    let message = state(&scene, "binds", "refused", "E238 ReservedKind").await;
    assert!(message.contains("children[1]"), "{message}");

    // Neither the ConfigMap nor the copy of the last good version serves where it would be refused.
    again(&scene, &[]).await;
    let message = state(&scene, "roles", "refused", "E238 ReservedKind").await;
    assert!(!message.contains("goes on serving"), "{message}");
    let (_, view) = scene.all().await[0].ask("/debug/plugins").await.expect("it answers");
    let view: Value = serde_json::from_str(&view).expect("JSON");
    let roles = view.as_array().and_then(|all| all.iter().find(|p| p["name"] == "roles"));
    assert!(roles.is_some_and(|roles| roles["serving"].is_null()), "{view}");
    assert!(scene.get(&role).await.is_some(), "what it made stays");
}

#[tokio::test]
async fn beside_the_host_children_live_only_where_its_flag_allows_it() {
    let scene = Scene::fresh("beside").await;
    scene.install_fixture("greeter").await;
    scene.replicas(1, &[]).await;
    let widget = async |name: &str| {
        scene
            .apply(json!({"apiVersion": "fixtures.windlass.dev/v1alpha1", "kind": "Widget",
                "metadata": {"name": name, "namespace": HOST}, "spec": {"text": "hello"}}))
            .await;
    };
    let failed = async |object: &str, says: &str| {
        let events = format!("/api/v1/namespaces/{HOST}/events");
        scene
            .until(&format!("an Event on {object} says {says}"), || async {
                let events = scene.get(&events).await?;
                let said = events["items"].as_array()?.iter().any(|e| {
                    e["involvedObject"]["name"] == object
                        && e["reason"] == "PassFailed"
                        && e["message"].as_str().is_some_and(|m| m.contains(says))
                });
                said.then_some(())
            })
            .await;
    };
    widget("w").await;
    failed("w", "E233 NamespaceEscape").await;
    assert_eq!(scene.get_in("ConfigMap", HOST, "w-greeting").await, None);

    again(&scene, &["--allow-host-namespace"]).await;
    let child = scene.until("the child is made", || scene.get_in("ConfigMap", HOST, "w-greeting")).await;
    assert_eq!(child["data"]["text"], "hello");
    // What is the host's own stays its own.
    widget("windlass").await;
    failed("windlass", "E238 ReservedKind").await;
    assert_eq!(scene.get_in("ConfigMap", HOST, "windlass-greeting").await, None);
}

#[tokio::test]
async fn a_field_that_only_the_server_sets_is_left_out_or_refused_as_the_flag_says() {
    let scene = Scene::fresh("strict").await;
    let child = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"text": "hello"},
        "metadata": {"name": "stamped", "uid": "00000000-0000-4000-8000-00000000dead"},
    });
    scene.install("stamps", &wanting("stamps", &[CONFIG_MAP], &child)).await;
    scene.replicas(1, &[]).await;
    scene.widget("w", json!({})).await;
    let made = scene.until("the child is made", || scene.own("ConfigMap", "stamped")).await;
    assert_ne!(made["metadata"]["uid"], child["metadata"]["uid"]);
    let warned = || async { scene.all().await[0].log().contains("W301").then_some(()) };
    scene.until("the log warns", warned).await;

    again(&scene, &["--strict-decisions"]).await;
    scene.event("w", "PassFailed", "E239 UnsupportedField").await;
}

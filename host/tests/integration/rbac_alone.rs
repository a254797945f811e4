//! The host's own check of decisions switched off: what is left is RBAC. Everything that the API server serves is asked
//! for as the plugin's account, and every write beyond the manifest is sent as the host would send it.

use std::collections::BTreeSet;

use kubectl_windlass::Place;
use serde_json::{Value, json};
use windlass_core::limits::Limits;
use windlass_core::name::PluginName;
use windlass_plugin::{Loader, Source};

use crate::packages::packaged;
use crate::scene::{HOST, Scene, built};

const VERBS: &[&str] = &[
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "impersonate",
    "escalate",
    "bind",
];

/// A right: group, resource with its subresource, verb.
type Right = (String, String, String);

/// What every ServiceAccount of a cluster may do, by Kubernetes' own default roles: ask about itself, and read whom to trust.
const OF_EVERYBODY: &[(&str, &str, &[&str])] = &[
    ("authentication.k8s.io", "selfsubjectreviews", &["create"]),
    ("authorization.k8s.io", "selfsubjectaccessreviews", &["create"]),
    ("authorization.k8s.io", "selfsubjectrulesreviews", &["create"]),
    ("certificates.k8s.io", "clustertrustbundles", &["get", "list", "watch"]),
];

/// The example operator with its own rights, and no others: those that all fixtures share are taken away.
async fn stage(prefix: &str) -> Scene {
    let scene = Scene::fresh(prefix).await;
    scene.install_webapp().await;
    scene.kubectl(&["delete", "clusterrolebinding", "windlass-fixtures"]).await.expect("it was there");
    let user = format!("system:serviceaccount:{HOST}:plugin-webapp");
    let (maps, deployments) = (right("", "configmaps", "create"), right("apps", "deployments", "create"));
    let widgets = right("fixtures.windlass.dev", "widgets", "get");
    scene
        .until("the rights are the plugin's", || async {
            let lost = !may(&scene, &user, &scene.namespace, &widgets).await;
            let kept = may(&scene, &user, &scene.namespace, &maps).await
                && may(&scene, &user, &scene.namespace, &deployments).await;
            (lost && kept).then_some(())
        })
        .await;
    scene
}

fn right(group: &str, resource: &str, verb: &str) -> Right {
    (group.to_owned(), resource.to_owned(), verb.to_owned())
}

/// All that is served: group and resource.
async fn served(scene: &Scene) -> BTreeSet<(String, String)> {
    let mut all = BTreeSet::new();
    let mut roots = vec![(String::new(), "/api/v1".to_owned())];
    let groups = scene.get("/apis").await.expect("discovery");
    for group in groups["groups"].as_array().expect("groups") {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        for version in group["versions"].as_array().expect("versions") {
            roots.push((text(&group["name"]), format!("/apis/{}", text(&version["groupVersion"]))));
        }
    }
    for (group, root) in roots {
        let found = scene.get(&root).await.expect("discovery");
        let names = found["resources"].as_array().expect("resources").iter();
        all.extend(names.filter_map(|one| Some((group.clone(), one["name"].as_str()?.to_owned()))));
    }
    all
}

async fn may(scene: &Scene, user: &str, namespace: &str, (group, resource, verb): &Right) -> bool {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let groups =
        ["system:serviceaccounts", &format!("system:serviceaccounts:{HOST}"), "system:authenticated"];
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
        "user": user, "groups": groups, "resourceAttributes": {"namespace": namespace, "group": group,
        "resource": resource, "subresource": subresource, "verb": verb}}});
    let request = http::Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews")
        .header("content-type", "application/json")
        .body(review.to_string().into_bytes());
    let client = scene.control().client().expect("a client");
    let answer: Value = client.request(request.expect("a request")).await.expect("an answer");
    answer["status"]["allowed"] == true
}

/// What the manifest of the example operator asks for.
async fn declared() -> BTreeSet<Right> {
    let component = built("webapp", None).await;
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let name = PluginName::try_new("webapp").expect("valid");
    let manifest = loader.inspect(&Source::local(name, component.into(), None)).expect("a manifest");
    let plural = |kind: &str| match kind {
        "Ingress" => "ingresses".to_owned(),
        other => format!("{}s", other.to_lowercase()),
    };
    let mut rights = BTreeSet::new();
    let mut add = |group: &str, resource: &str, verbs: &[&str]| {
        rights.extend(verbs.iter().map(|verb| (group.to_owned(), resource.to_owned(), (*verb).to_owned())));
    };
    let primary = &manifest.primary;
    let resource = plural(&primary.kind);
    add(&primary.group, &resource, &["patch"]);
    add(&primary.group, &format!("{resource}/status"), &["patch"]);
    add(&primary.group, &format!("{resource}/finalizers"), &["update"]);
    for child in &manifest.children {
        add(&child.kind.group, &plural(&child.kind.kind), &["create", "delete", "patch"]);
    }
    add("", "events", &["create", "patch"]);
    for (group, resource, verbs) in OF_EVERYBODY {
        add(group, resource, verbs);
    }
    rights
}

#[tokio::test]
async fn the_account_of_a_plugin_may_do_what_its_manifest_says_and_nothing_else_that_is_served() {
    let scene = stage("alone").await;
    let (user, declared) = (format!("system:serviceaccount:{HOST}:plugin-webapp"), declared().await);
    let mut asked: BTreeSet<Right> = declared.clone();
    for (group, resource) in served(&scene).await {
        asked.extend(VERBS.iter().map(|verb| (group.clone(), resource.clone(), (*verb).to_owned())));
    }
    assert!(asked.len() > 1_000, "{}", asked.len());
    let mut wrong = Vec::new();
    for right in &asked {
        if may(&scene, &user, &scene.namespace, right).await != declared.contains(right) {
            wrong.push(right);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// A write beyond the manifest: method, path, body.
type Trick = (&'static str, String, Value);

fn tricks(namespace: &str) -> Vec<Trick> {
    let core = "/api/v1/namespaces";
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let object = |api: &str, kind: &str, extra: Value| {
        let mut object = json!({"apiVersion": api, "kind": kind, "metadata": {"name": "trick"}});
        object.as_object_mut().expect("an object").extend(extra.as_object().expect("fields").clone());
        object
    };
    let role = json!({"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    let bind = json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "plugin-webapp", "namespace": HOST}]});
    let pod =
        json!({"spec": {"serviceAccountName": "windlass", "containers": [{"name": "c", "image": "i"}]}});
    let secret = json!({"stringData": {"a": "b"}});
    let token = json!({"metadata": {"name": "trick", "annotations": {"kubernetes.io/service-account.name": "windlass"}},
        "type": "kubernetes.io/service-account-token"});
    vec![
        ("PATCH", format!("{core}/{namespace}/secrets/trick"), object("v1", "Secret", secret)),
        ("PATCH", format!("{core}/{HOST}/secrets/trick"), object("v1", "Secret", token)),
        ("PATCH", format!("{core}/{HOST}/pods/trick"), object("v1", "Pod", pod.clone())),
        ("PATCH", format!("{core}/kube-system/pods/trick"), object("v1", "Pod", pod)),
        ("PATCH", "/api/v1/namespaces/trick".into(), object("v1", "Namespace", json!({}))),
        ("PATCH", "/api/v1/nodes/trick".into(), object("v1", "Node", json!({}))),
        ("PATCH", format!("{core}/{HOST}/serviceaccounts/trick"), object("v1", "ServiceAccount", json!({}))),
        (
            "POST",
            format!("{core}/{HOST}/serviceaccounts/windlass/token"),
            json!({"apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest", "spec": {}}),
        ),
        (
            "PATCH",
            format!("{rbac}/namespaces/{namespace}/roles/trick"),
            object("rbac.authorization.k8s.io/v1", "Role", role.clone()),
        ),
        (
            "PATCH",
            format!("{rbac}/namespaces/{HOST}/roles/windlass-claim"),
            object("rbac.authorization.k8s.io/v1", "Role", role.clone()),
        ),
        (
            "PATCH",
            format!("{rbac}/clusterroles/trick"),
            object("rbac.authorization.k8s.io/v1", "ClusterRole", role),
        ),
        (
            "PATCH",
            format!("{rbac}/clusterrolebindings/trick"),
            object("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", bind.clone()),
        ),
        (
            "PATCH",
            format!("{rbac}/namespaces/{HOST}/rolebindings/trick"),
            object("rbac.authorization.k8s.io/v1", "RoleBinding", bind),
        ),
        (
            "PATCH",
            format!("/apis/coordination.k8s.io/v1/namespaces/{HOST}/leases/windlass"),
            object("coordination.k8s.io/v1", "Lease", json!({})),
        ),
        (
            "PATCH",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/windlass-fence".into(),
            object("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", json!({})),
        ),
        (
            "PATCH",
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/webapps.apps.windlass.dev".into(),
            object("apiextensions.k8s.io/v1", "CustomResourceDefinition", json!({})),
        ),
        (
            "PATCH",
            format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/trick"),
            object("apps/v1", "DaemonSet", json!({})),
        ),
        (
            "PATCH",
            format!("/apis/apps/v1/namespaces/{namespace}/deployments/trick/scale"),
            object("autoscaling/v1", "Scale", json!({})),
        ),
        (
            "PATCH",
            format!("/apis/fixtures.windlass.dev/v1alpha1/namespaces/{namespace}/widgets/trick"),
            object("fixtures.windlass.dev/v1alpha1", "Widget", json!({})),
        ),
        (
            "PUT",
            format!("/apis/apps.windlass.dev/v1alpha1/namespaces/{namespace}/webapps/trick"),
            object("apps.windlass.dev/v1alpha1", "WebApp", json!({})),
        ),
        (
            "DELETE",
            format!("/apis/apps.windlass.dev/v1alpha1/namespaces/{namespace}/webapps/trick"),
            Value::Null,
        ),
        ("DELETE", format!("{core}/{namespace}/configmaps"), Value::Null),
        ("DELETE", format!("/apis/apps/v1/namespaces/{namespace}/deployments"), Value::Null),
        ("DELETE", format!("{core}/{namespace}/pods/trick"), Value::Null),
        (
            "POST",
            format!("{core}/{namespace}/pods/trick/eviction"),
            object("policy/v1", "Eviction", json!({})),
        ),
        ("GET", format!("{core}/{namespace}/secrets"), Value::Null),
        ("GET", format!("{core}/{namespace}/configmaps"), Value::Null),
    ]
}

#[tokio::test]
async fn every_write_beyond_the_manifest_is_refused_by_the_api_server_alone() {
    let scene = stage("tricks").await;
    let client = scene.control().client().expect("a client");
    for (method, path, body) in tricks(&scene.namespace) {
        let (query, kind) = match method {
            "PATCH" => ("?fieldManager=windlass%2Fwebapp&force=true", "application/apply-patch+yaml"),
            _ => ("", "application/json"),
        };
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{path}{query}"))
            .header("content-type", kind)
            .header("impersonate-user", format!("system:serviceaccount:{HOST}:plugin-webapp"))
            .header("impersonate-extra-windlass.dev%2fplugin", "webapp@sha256:00")
            .body(if body.is_null() { Vec::new() } else { body.to_string().into_bytes() });
        let answer = client.request::<Value>(request.expect("a request")).await;
        match answer {
            Err(kube::Error::Api(status)) => {
                assert_eq!(status.code, 403, "{method} {path}: {}", status.message)
            }
            other => panic!("{method} {path}: {other:?}"),
        }
    }
}

/// What `kubectl auth can-i --list` says of an account in a namespace and of no other account, in order.
async fn listed(scene: &Scene, account: &str, namespace: &str) -> Vec<String> {
    let ask = async |user: &str| {
        let ask = ["auth", "can-i", "--list", "--no-headers", "--as", user, "--namespace", namespace];
        let table = scene.kubectl(&ask).await.expect("kubectl answers");
        let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        lines.collect::<BTreeSet<String>>()
    };
    let anybody = ask("system:serviceaccount:default:nobody").await;
    let found = ask(&format!("system:serviceaccount:{HOST}:{account}")).await;
    // The claim has another name each time.
    let named = |line: &String| match line.split_once(" [windlass-0_") {
        Some((before, after)) => {
            format!("{before} [<holder>/<term>{}", after.split_once(']').map_or("]", |(_, rest)| rest))
        }
        None => line.clone(),
    };
    found.difference(&anybody).map(named).map(|line| line.replace("<term> ", "<term>] ")).collect()
}

/// The lines of the page's block that begins with this line.
fn block(page: &str, title: &str) -> Vec<String> {
    let start = format!("```text\n# {title}\n");
    let block = page.split_once(&start).unwrap_or_else(|| panic!("no block {title:?}")).1;
    let block = block.split_once("```").expect("it ends").0;
    block.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[tokio::test]
async fn the_account_of_the_host_may_do_what_the_page_on_security_says() {
    let scene = Scene::bare("page", windlass_testbed::Options::default()).await;
    let production = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/overlays/production");
    let rendered = scene.kubectl(&["kustomize", production]).await.expect("it renders");
    let documents = rendered.split("\n---\n").filter(|doc| !doc.contains("\nkind: Deployment\n"));
    scene.control().apply(&documents.collect::<Vec<_>>().join("\n---\n")).await.expect("it applies");
    let package = packaged(built("webapp", None).await, "plugins/webapp", Place::default()).await;
    scene.control().apply(&package.yaml().expect("its kinds are known")).await.expect("it applies");
    scene.replicas(1, &[]).await;
    let page = crate::scene::read("docs/security.md");
    let mut wrong = Vec::new();
    for (title, account, namespace) in [
        ("windlass, in every namespace", "windlass", "default"),
        ("windlass, in its own", "windlass", HOST),
        ("plugin-webapp, in every namespace", "plugin-webapp", "default"),
        ("plugin-webapp, in the host's", "plugin-webapp", HOST),
    ] {
        let mut expected = block(&page, title);
        expected.sort();
        let mut found = Vec::new();
        for _ in 0..100 {
            found = listed(&scene, account, namespace).await;
            found.sort();
            if found == expected {
                break;
            }
            // RBAC is heard of a moment after it is written.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        if found != expected {
            wrong.push(format!("# {title}\n{}", found.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "docs/security.md has other lines than these:\n{}", wrong.join("\n"));
}

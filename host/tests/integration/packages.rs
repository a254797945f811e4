//! Packages as `kubectl windlass package` writes them, on a real API server: what is in them is enough for a
//! host that has the rights of `deploy/base` and no other, and nothing else is allowed by them.

use std::collections::BTreeSet;

use http::Request;
use kubectl_windlass::{Beside, Package, Place};
use serde_json::{Value, json};
use windlass_testbed::Options;

use crate::scene::{HOST, HOST_USER, Scene, built, condition, path, tree};

const WEBAPP: &str = "system:serviceaccount:windlass-system:plugin-webapp";
const TENANT: &str = "system:serviceaccount:windlass-system:plugin-tenant";

/// What the package allows the WebApp operator's account, everywhere.
const WEBAPP_MAY: [&str; 9] = [
    "configmaps [] [] [create delete patch]",
    "deployments.apps [] [] [create delete patch]",
    "events [] [] [create patch]",
    "ingresses.networking.k8s.io [] [] [create delete patch]",
    "poddisruptionbudgets.policy [] [] [create delete patch]",
    "services [] [] [create delete patch]",
    "webapps.apps.windlass.dev [] [] [patch]",
    "webapps.apps.windlass.dev/finalizers [] [] [update]",
    "webapps.apps.windlass.dev/status [] [] [patch]",
];

/// The tenant operator's: nothing on Namespaces but to own from them.
const TENANT_MAY: [&str; 6] = [
    "configmaps [] [] [create delete patch]",
    "events [] [] [create patch]",
    "limitranges [] [] [create delete patch]",
    "namespaces/finalizers [] [] [update]",
    "networkpolicies.networking.k8s.io [] [] [create delete patch]",
    "resourcequotas [] [] [create delete patch]",
];

/// The host's, everywhere: to read what the two name, and to say for whom it writes.
const HOST_MAY: [&str; 12] = [
    "configmaps [] [] [get list watch]",
    "deployments.apps [] [] [get list watch]",
    "ingresses.networking.k8s.io [] [] [get list watch]",
    "limitranges [] [] [get list watch]",
    "namespaces [] [] [get list watch]",
    "networkpolicies.networking.k8s.io [] [] [get list watch]",
    "poddisruptionbudgets.policy [] [] [get list watch]",
    "resourcequotas [] [] [get list watch]",
    "services [] [] [get list watch]",
    "userextras.authentication.k8s.io/windlass.dev/claim [] [] [impersonate]",
    "userextras.authentication.k8s.io/windlass.dev/plugin [] [] [impersonate]",
    "webapps.apps.windlass.dev [] [] [get list watch]",
];

/// The package of a plugin of this tree, for a place.
async fn package(plugin: &'static str, place: Place) -> Package {
    let component = built(plugin, None).await;
    packaged(component, &format!("plugins/{plugin}"), place).await
}

/// A component packaged with what lies in a folder of this tree.
pub(crate) async fn packaged(component: Vec<u8>, beside: &str, place: Place) -> Package {
    let beside = Beside::of(&tree(beside)).expect("what lies beside it");
    let made = tokio::task::spawn_blocking(move || Package::of(component, beside));
    let package = made.await.expect("it does not panic").expect("a host takes it");
    Package { place, ..package }
}

/// Applies a package as its documentation says, and lets nothing pass that the API server does not know.
async fn apply(scene: &Scene, package: &Package) {
    let strictly = ["apply", "--server-side", "--validate=strict", "-f", "-"];
    let yaml = package.yaml().expect("its kinds are known");
    let applied = scene.control().kubectl_with_input(&strictly, &yaml).await.expect("kubectl runs");
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
}

/// What `kubectl auth can-i --list` says that `user` may do in `namespace`.
async fn listed(scene: &Scene, user: &str, namespace: &str) -> BTreeSet<String> {
    let ask = ["auth", "can-i", "--list", "--no-headers", "--as", user, "--namespace", namespace];
    let table = scene.kubectl(&ask).await.expect("kubectl answers");
    table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// The same without what every account may do, waited for until it is as expected: RBAC is heard of a moment after
/// it is written.
async fn may(scene: &Scene, user: &str, namespace: &str, expected: &[&str]) {
    let anybody = listed(scene, "system:serviceaccount:default:nobody", namespace).await;
    let expected: Vec<&str> = expected.to_vec();
    let mut found = Vec::new();
    for _ in 0..100 {
        found = listed(scene, user, namespace).await.difference(&anybody).cloned().collect();
        if found == expected {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(found, expected, "{user} in {namespace}");
}

async fn namespace(scene: &Scene, name: &str, labels: Value) {
    let object =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    scene.apply_cluster("/api/v1/namespaces", object).await;
}

/// A WebApp that is made, changed and let go, each child with it.
async fn webapp_reconciles(scene: &Scene) {
    scene.webapp("shop", json!({"replicas": 2, "host": "shop.example.com", "config": {"A": "1"}})).await;
    scene
        .until("the WebApp is Ready", || async {
            let app = scene.own("WebApp", "shop").await?;
            (condition(&app, "Ready") == Some("True")).then_some(())
        })
        .await;
    for kind in ["Deployment", "Service", "ConfigMap", "Ingress", "PodDisruptionBudget"] {
        let child = scene.own(kind, "shop").await.unwrap_or_else(|| panic!("no {kind}"));
        let owner = &child["metadata"]["ownerReferences"][0];
        assert_eq!(
            (&owner["kind"], &owner["blockOwnerDeletion"]),
            (&json!("WebApp"), &json!(true)),
            "{kind}"
        );
    }
    scene.webapp("shop", json!({"replicas": 3, "config": {"A": "1"}})).await;
    scene
        .until("what is not wanted is gone", || async {
            let deployment = scene.own("Deployment", "shop").await?;
            let gone = scene.own("Ingress", "shop").await.is_none();
            (gone && deployment["spec"]["replicas"] == 3).then_some(())
        })
        .await;
}

/// A tenant that is made, gets what is shared, and is let go.
async fn tenant_reconciles(scene: &Scene) {
    namespace(scene, "tenant-defaults", json!({})).await;
    namespace(scene, "tenant-a", json!({"tenant.example.com/plan": "small"})).await;
    let shared = json!({"name": "rules", "namespace": "tenant-defaults", "labels": {"tenant.example.com/share": "all"}});
    scene
        .apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": shared, "data": {"v": "1"}}))
        .await;
    let children = [
        ("ResourceQuota", "tenant"),
        ("LimitRange", "tenant"),
        ("NetworkPolicy", "tenant"),
        ("ConfigMap", "rules"),
    ];
    for (kind, name) in children {
        scene.until(&format!("{kind} is made"), || scene.get_in(kind, "tenant-a", name)).await;
    }
    namespace(scene, "tenant-a", json!({})).await;
    for (kind, name) in children {
        scene
            .until(&format!("{kind} is gone"), || async {
                scene.get_in(kind, "tenant-a", name).await.is_none().then_some(())
            })
            .await;
    }
}

/// As whom the API server takes a request of the host's account with these headers; the HTTP status when it refuses.
async fn acting_as(scene: &Scene, headers: &[(&str, &str)]) -> Result<String, u16> {
    let token = scene.control().service_account_token(HOST, "windlass").await.expect("a token");
    let mut config = scene.control().config_with_token(&token).expect("a configuration");
    config.default_retry = false;
    let client = kube::Client::try_from(config).expect("a client");
    let mut request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let request = request.body(body.to_string().into_bytes()).expect("a request");
    match client.request::<Value>(request).await {
        Ok(review) => Ok(review["status"]["userInfo"]["username"].as_str().expect("a name").to_owned()),
        Err(kube::Error::Api(status)) => {
            assert!(status.message.contains("cannot impersonate"), "{}", status.message);
            Err(status.code)
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_package_is_enough_for_its_plugin_and_nothing_else_is_allowed() {
    let scene = Scene::bare("packages", Options::default()).await;
    for plugin in ["webapp", "tenant"] {
        apply(&scene, &package(plugin, Place::default()).await).await;
    }
    scene.replicas(1, &[]).await;
    webapp_reconciles(&scene).await;
    tenant_reconciles(&scene).await;

    for (user, expected) in [(WEBAPP, &WEBAPP_MAY[..]), (TENANT, &TENANT_MAY), (HOST_USER, &HOST_MAY)] {
        may(&scene, user, "default", expected).await;
    }
    // The claim of the leader, which every account of the namespace may ask for, allows nothing.
    let beside = listed(&scene, WEBAPP, HOST).await;
    let more: Vec<_> = beside.difference(&listed(&scene, WEBAPP, "default").await).cloned().collect();
    assert!(
        matches!(&more[..], [claim] if claim.starts_with("claims.windlass.dev [] [windlass-0")),
        "{more:?}"
    );
    // In its own namespace the host may act as the accounts of the two.
    let own = listed(&scene, HOST_USER, HOST).await;
    let acts_as: Vec<_> = own.iter().filter(|line| line.starts_with("serviceaccounts")).collect();
    assert_eq!(
        acts_as,
        [
            "serviceaccounts [] [plugin-tenant] [impersonate]",
            "serviceaccounts [] [plugin-webapp] [impersonate]"
        ]
    );
}

#[tokio::test]
async fn the_host_acts_as_the_accounts_of_packages_and_as_nobody_else() {
    let scene = Scene::bare("acts-as", Options::default()).await;
    apply(&scene, &package("webapp", Place::default()).await).await;
    let other = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "plugin-other", "namespace": HOST}});
    scene.apply_cluster(&format!("/api/v1/namespaces/{HOST}/serviceaccounts"), other).await;
    let user = |name: &'static str| ("impersonate-user", name);
    let claim = ("impersonate-extra-windlass.dev%2fclaim", "a/1");
    let plugin = ("impersonate-extra-windlass.dev%2fplugin", "webapp@sha256:00");
    scene
        .until("the host acts as the plugin", async || {
            (acting_as(&scene, &[user(WEBAPP), claim, plugin]).await.ok()? == WEBAPP).then_some(())
        })
        .await;
    for name in [
        "system:serviceaccount:windlass-system:plugin-other",
        "system:serviceaccount:windlass-system:default",
        "system:serviceaccount:windlass-system:plugin-webapp2",
        "system:serviceaccount:default:plugin-webapp",
        "system:serviceaccount:default:default",
        "system:serviceaccount:kube-system:clusterrole-aggregation-controller",
        "system:kube-controller-manager",
        "admin",
    ] {
        assert_eq!(acting_as(&scene, &[user(name)]).await, Err(403), "{name}");
    }
    for more in [
        ("impersonate-group", "system:masters"),
        ("impersonate-group", "system:serviceaccounts"),
        ("impersonate-uid", "00000000-0000-4000-8000-000000000000"),
        ("impersonate-extra-scopes", "everything"),
        ("impersonate-extra-windlass.dev%2fother", "x"),
        ("impersonate-extra-authentication.kubernetes.io%2fpod-name", "windlass-0"),
    ] {
        assert_eq!(acting_as(&scene, &[user(WEBAPP), more]).await, Err(403), "{more:?}");
    }
}

#[tokio::test]
async fn where_owning_needs_rights_of_its_own_packages_have_them() {
    let flag = "--enable-admission-plugins=OwnerReferencesPermissionEnforcement".to_owned();
    let scene = Scene::bare("owners", Options { apiserver_flags: vec![flag], ..Options::default() }).await;
    apply(&scene, &package("webapp", Place::default()).await).await;
    let orphans = built("windlass-fixtures", Some("orphans")).await;
    apply(&scene, &packaged(orphans, "plugins/fixtures", Place::default()).await).await;
    scene.replicas(1, &[]).await;
    webapp_reconciles(&scene).await;

    // Letting go takes the owner off, which that admission plugin allows to who may delete.
    scene.widget("kept", json!({})).await;
    scene.until("the child is made", || scene.own("ConfigMap", "kept-orphan")).await;
    let let_go = async |name: &str| {
        scene.widget(name.trim_end_matches("-orphan"), json!({"keep": false})).await;
        scene
            .until("the child is let go", || async {
                let child = scene.own("ConfigMap", name).await?;
                child["metadata"]["ownerReferences"].is_null().then_some(())
            })
            .await;
    };
    let_go("kept-orphan").await;

    // Without them it does not work: what is granted is needed.
    let take = async |role: &str, resource: &str, verbs: &[&str]| {
        let at = format!("/apis/rbac.authorization.k8s.io/v1/clusterroles/{role}");
        let mut rules = scene.get(&at).await.expect("the role is there")["rules"].clone();
        for rule in
            rules.as_array_mut().expect("a list").iter_mut().filter(|rule| rule["resources"][0] == resource)
        {
            rule["verbs"] = json!(verbs);
        }
        scene.patch(&at, json!({ "rules": rules })).await;
    };
    scene.widget("held", json!({})).await;
    scene.until("the child is made", || scene.own("ConfigMap", "held-orphan")).await;
    take("windlass-plugin-orphans", "configmaps", &["create", "patch"]).await;
    scene.widget("held", json!({"keep": false})).await;
    scene.event("held", "PassFailed", "cannot set an ownerRef on a resource you can't delete").await;
    take("windlass-plugin-webapp", "webapps/finalizers", &["get"]).await;
    scene.webapp("late", json!({})).await;
    scene.event("late", "PassFailed", "cannot set blockOwnerDeletion").await;
}

#[tokio::test]
async fn a_package_for_a_namespace_allows_nothing_outside_of_it() {
    let scene = Scene::bare("namespaced", Options::default()).await;
    namespace(&scene, "team-a", json!({})).await;
    let place = Place { namespaces: vec!["team-a".to_owned()], ..Place::default() };
    let package = package("webapp", place.clone()).await;
    let yaml = package.yaml().expect("its kinds are known");
    assert!(!yaml.contains("kind: ClusterRole"), "{yaml}");
    apply(&scene, &package).await;

    may(&scene, WEBAPP, "team-a", &WEBAPP_MAY).await;
    let reads: Vec<&str> = HOST_MAY
        .into_iter()
        .filter(|line| WEBAPP_MAY.iter().any(|may| may.split(' ').next() == line.split(' ').next()))
        .collect();
    let extras = HOST_MAY.into_iter().filter(|line| line.starts_with("userextras"));
    let mut inside: Vec<&str> = reads.into_iter().chain(extras.clone()).collect();
    inside.sort_unstable();
    may(&scene, HOST_USER, "team-a", &inside).await;
    for elsewhere in ["default", "kube-system"] {
        may(&scene, WEBAPP, elsewhere, &[]).await;
        may(&scene, HOST_USER, elsewhere, &extras.clone().collect::<Vec<_>>()).await;
    }
    // A list of one namespace is answered, a list of all is not: what a host that looks at namespaces asks for.
    for (asked, answered) in [
        (path("WebApp", "team-a", ""), true),
        (path("WebApp", "default", ""), false),
        ("/apis/apps.windlass.dev/v1alpha1/webapps".to_owned(), false),
    ] {
        let raw = ["get", "--raw", asked.trim_end_matches('/'), "--as", HOST_USER];
        let served = async || scene.kubectl(&raw).await.is_ok();
        if answered {
            scene.until("the kind is served", async || served().await.then_some(())).await;
        }
        assert_eq!(served().await, answered, "{asked}");
    }

    let tenant = self::package("tenant", place).await;
    let refused = tenant.yaml().expect_err("its primary is in no namespace").to_string();
    assert!(refused.contains("the primary v1/Namespace is in no namespace"), "{refused}");
}

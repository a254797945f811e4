//! deploy/components/{metrics-auth,network-policy,prometheus}, as an API server takes them with strict validation.
//!
//! There is no Prometheus operator here: its two kinds are CRDs that have the fields that are used, under the names and
//! types of its API, and nothing else. So a field that is misspelt is refused, one that the operator has renamed is not.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::parsed;
use crate::scene::{Scene, read};

/// The fields that are used of a ServiceMonitor and of a PrometheusRule.
fn crds() -> String {
    let crd = |kind: &str, plural: &str, spec: Value| {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.monitoring.coreos.com")},
            "spec": {
                "group": "monitoring.coreos.com", "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                    "type": "object", "required": ["spec"], "properties": {"spec": spec},
                }}}],
            },
        })
    };
    let text = json!({"type": "string"});
    let texts = json!({"type": "object", "additionalProperties": text});
    let of = |fields: Value| json!({"type": "object", "properties": fields});
    let list = |items: Value| json!({"type": "array", "items": items});
    let endpoint = of(json!({
        "port": text, "path": text, "scheme": {"type": "string", "enum": ["http", "https"]},
        "interval": text, "scrapeTimeout": text, "bearerTokenFile": text,
        "tlsConfig": of(json!({"insecureSkipVerify": {"type": "boolean"}, "serverName": text})),
    }));
    let monitor = of(json!({"selector": of(json!({"matchLabels": texts})), "endpoints": list(endpoint)}));
    let rule = json!({
        "type": "object", "required": ["alert", "expr"],
        "properties": {"alert": text, "expr": text, "for": text, "labels": texts, "annotations": texts},
    });
    let groups = list(of(json!({"name": text, "rules": list(rule)})));
    let rules = of(json!({"groups": groups}));
    let both =
        [crd("ServiceMonitor", "servicemonitors", monitor), crd("PrometheusRule", "prometheusrules", rules)];
    both.map(|crd| crd.to_string()).join("\n---\n")
}

/// The base with the components, rendered for a namespace.
async fn rendered(scene: &Scene, namespace: &str) -> Vec<Value> {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let tree = tempfile::tempdir().expect("a folder");
    crate::deploy::copy(&source, &tree.path().join("deploy"));
    for (folder, text) in [
        ("lower", format!("namespace: {namespace}\nresources: [../deploy/base]\n")),
        (
            "upper",
            "resources: [../lower]\ncomponents:\n  - ../deploy/components/metrics-auth\n  \
             - ../deploy/components/network-policy\n  - ../deploy/components/prometheus\n"
                .to_owned(),
        ),
    ] {
        let folder = tree.path().join(folder);
        std::fs::create_dir(&folder).expect("a folder");
        let head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n";
        std::fs::write(folder.join("kustomization.yaml"), format!("{head}{text}")).expect("written");
    }
    let yaml = scene.kubectl(&["kustomize", &tree.path().join("upper").display().to_string()]).await;
    let yaml = yaml.expect("it renders");
    let input = ["create", "--dry-run=client", "--validate=false", "-o", "json", "-f", "-"];
    let output = scene.control().kubectl_with_input(&input, &yaml).await.expect("kubectl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // One JSON value after another.
    let values = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let all: Vec<Value> = values.map(|value| value.expect("JSON")).collect();
    match all.as_slice() {
        [list] if list["kind"] == "List" => list["items"].as_array().expect("items").clone(),
        _ => all,
    }
}

/// What a strict API server says to it, without keeping it.
async fn judged(scene: &Scene, objects: &[Value]) -> Result<(), String> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    let apply =
        ["apply", "--server-side", "--validate=strict", "--dry-run=server", "--force-conflicts", "-f", "-"];
    let output = scene.control().kubectl_with_input(&apply, &list).await.expect("kubectl runs");
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn one<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

#[tokio::test]
async fn the_components_are_taken_by_a_strict_api_server_in_any_namespace() {
    let scene = Scene::shared("components").await;
    scene.control().apply(&crds()).await.expect("the CRDs apply");
    let established = ["wait", "--for=condition=Established", "crd", "-l", "", "--all", "--timeout=30s"];
    scene.kubectl(&established).await.expect("they are served");
    let namespace = scene.namespace.clone();
    let objects = rendered(&scene, &namespace).await;
    // That the namespace exists already is no matter: it is the test's own.
    judged(&scene, &objects).await.expect("all of it is accepted");

    // A test that cannot fail shows nothing.
    for (kind, at, field) in
        [("ServiceMonitor", "/spec/endpoints/0", "bearerTokenFil"), ("NetworkPolicy", "/spec", "podSelektor")]
    {
        let mut wrong = one(&objects, kind, "windlass").clone();
        wrong.pointer_mut(at).expect("there")[field] = json!("x");
        let said = judged(&scene, &[wrong]).await.expect_err("misspelt");
        assert!(said.contains(field), "{said}");
    }

    for (kind, name) in
        [("NetworkPolicy", "windlass"), ("ServiceMonitor", "windlass"), ("PrometheusRule", "windlass")]
    {
        assert_eq!(one(&objects, kind, name)["metadata"]["namespace"], *namespace, "{kind}");
    }
    let binding = one(&objects, "ClusterRoleBinding", "windlass-metrics-auth");
    assert_eq!(binding["subjects"][0]["namespace"], *namespace);
    // Exactly the ports that the pods have, each for whom it is meant.
    let container = &one(&objects, "Deployment", "windlass")["spec"]["template"]["spec"]["containers"][0];
    let names = |ports: &Value| -> BTreeSet<String> {
        let ports = ports.as_array().into_iter().flatten();
        ports.filter_map(|port| port["name"].as_str().or(port["port"].as_str()).map(str::to_owned)).collect()
    };
    let policy = &one(&objects, "NetworkPolicy", "windlass")["spec"];
    let rules = policy["ingress"].as_array().expect("rules");
    let open: BTreeSet<String> = rules.iter().flat_map(|rule| names(&rule["ports"])).collect();
    assert_eq!(open, names(&container["ports"]));
    for rule in rules {
        let from = &rule["from"];
        match names(&rule["ports"]).first().map(String::as_str) {
            Some("probes") => assert!(from.is_null(), "a kubelet has no label"),
            Some("pulse") => assert_eq!(from[0]["podSelector"], policy["podSelector"]),
            Some("metrics") => {
                assert_eq!(*from, json!([{"namespaceSelector": {"matchLabels": {"metrics": "enabled"}}}]));
            }
            other => panic!("{other:?}"),
        }
    }
    let monitor = &one(&objects, "ServiceMonitor", "windlass")["spec"];
    let service = one(&objects, "Service", "windlass-metrics");
    assert_eq!(
        monitor["selector"]["matchLabels"]["app.kubernetes.io/name"],
        service["metadata"]["labels"]["app.kubernetes.io/name"]
    );
    assert_eq!(monitor["endpoints"][0]["port"], service["spec"]["ports"][0]["name"]);
}

#[tokio::test]
async fn each_metric_that_an_alert_asks_for_is_there() {
    let scene = Scene::fresh("alerts").await;
    scene.install_fixture("greeter").await;
    metrics_and_states(&scene).await;
}

async fn metrics_and_states(scene: &Scene) {
    let own = tempfile::tempdir().expect("a folder");
    let identity = scene.control().issue_serving_certificate(&["127.0.0.1"]).expect("signed");
    std::fs::write(own.path().join("tls.crt"), identity.certificate_pem).expect("written");
    std::fs::write(own.path().join("tls.key"), identity.key_pem).expect("written");
    super::metrics_auth(scene).await;
    let folder = format!("--metrics-cert-dir={}", own.path().display());
    scene.replicas(1, &["--metrics-secure=true", &folder]).await;
    scene.widget("w", json!({})).await;
    scene.until("the child exists", || scene.own("ConfigMap", "w-greeting")).await;
    let token = super::bound_token(scene, "scraper", &["windlass-metrics-reader"]).await;
    let address = scene.all().await[0].metrics_address();
    let (status, metrics) = super::Reader::new(address, &token).get("/metrics").await;
    assert_eq!(status, 200);
    let yaml = read("deploy/components/prometheus/rules.yaml");
    let json = ["create", "--dry-run=client", "--validate=false", "-o", "json", "-f", "-"];
    // Its kind is known to nobody here.
    scene.control().apply(&crds()).await.expect("the CRDs apply");
    let rules = || async {
        let output = scene.control().kubectl_with_input(&json, &yaml).await.ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let rules = parsed(&scene.until("the kind is served", rules).await);
    let mut seen = 0;
    for rule in rules["spec"]["groups"][0]["rules"].as_array().expect("rules") {
        let expr = rule["expr"].as_str().expect("a text");
        let names = expr.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
        let ours = names.filter(|name| name.starts_with("windlass_") || name.starts_with("leader_election_"));
        for name in ours {
            let there = metrics.lines().any(|line| {
                line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
            });
            assert!(there, "{}: no sample of {name} in\n{metrics}", rule["alert"]);
            seen += 1;
        }
        for text in ["summary", "description"] {
            assert!(rule["annotations"][text].as_str().is_some_and(|text| text.ends_with('.')), "{rule}");
        }
    }
    assert!(seen >= 8, "{seen}");
}

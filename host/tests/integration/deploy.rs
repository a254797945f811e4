//! `deploy/` as a real API server takes it.

use serde_json::Value;
use windlass_testbed::{ControlPlane, Options};

use crate::scene::{Scene, built, read};

/// Renders a folder, `deploy` or a plugin's own, as `cargo xtask dist` prepares it.
async fn rendered(control: &ControlPlane, folder: &str) -> String {
    let tree = tempfile::tempdir().expect("a directory");
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    copy(&source.join("deploy"), &tree.path().join("deploy"));
    for plugin in ["webapp", "tenant"] {
        let place = format!("plugins/{plugin}");
        copy(&source.join(&place), &tree.path().join(&place));
        let component = zstd::encode_all(&*built(plugin, None).await, 19).expect("memory");
        std::fs::write(tree.path().join(place).join("plugin.wasm.zst"), component).expect("written");
    }
    let output = control.kubectl(&["kustomize", &tree.path().join(folder).display().to_string()]).await;
    let output = output.expect("kubectl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

pub(crate) fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy(&path, &target),
            false => std::fs::copy(&path, &target).map(drop).expect("a copy"),
        }
    }
}

#[tokio::test]
async fn what_kustomize_renders_is_admitted_under_the_restricted_standard() {
    let control = ControlPlane::start(Options::default()).await.expect("a control plane");
    let yaml = rendered(&control, "deploy").await;
    control.apply(&yaml).await.expect("all of it is accepted");
    let client = control.client().expect("a client");
    let get = async |path: &str| -> Value {
        let request = http::Request::get(path).body(Vec::new()).expect("a request");
        client.request(request).await.unwrap_or_else(|e| panic!("{path}: {e}"))
    };
    let namespace = get("/api/v1/namespaces/windlass-system").await;
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");

    // The Deployment's pods are admitted and become ready: three of three.
    let path = "/apis/apps/v1/namespaces/windlass-system/deployments/windlass";
    let began = std::time::Instant::now();
    let deployment = loop {
        let deployment = get(path).await;
        if deployment["status"]["readyReplicas"] == 3 {
            break deployment;
        }
        assert!(began.elapsed().as_secs() < 60, "{deployment:#}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["resources"]["requests"]["memory"], "128Mi");
    assert_eq!(container["resources"]["limits"]["cpu"], "500m");
    let liveness = &container["livenessProbe"];
    assert_eq!((&liveness["initialDelaySeconds"], &liveness["periodSeconds"]), (&15.into(), &20.into()));
    let readiness = &container["readinessProbe"];
    assert_eq!((&readiness["initialDelaySeconds"], &readiness["periodSeconds"]), (&5.into(), &10.into()));
    let budget = get("/apis/policy/v1/namespaces/windlass-system/poddisruptionbudgets/windlass").await;
    assert_eq!(budget["spec"]["minAvailable"], 2);

    // The plugin's ConfigMap has no name suffix and carries the component; its rights reach the host.
    let plugin = get("/api/v1/namespaces/windlass-system/configmaps/webapp-plugin").await;
    assert_eq!(plugin["metadata"]["labels"]["windlass.dev/plugin"], "webapp");
    assert!(plugin["binaryData"]["plugin.wasm.zst"].is_string());
    for (verb, resource) in [("watch", "deployments.apps"), ("watch", "webapps.apps.windlass.dev")] {
        let may = ["auth", "can-i", verb, resource, "--as", crate::scene::HOST_USER];
        let answer = control.kubectl(&may).await.expect("kubectl runs");
        assert!(answer.status.success(), "{verb} {resource}");
    }
    // An upgrade is the same command again, also after the control plane has filled in what is its own.
    control.apply(&yaml).await.expect("the second apply meets no conflict");
    for (verb, resource) in [
        ("get", "secrets"),
        ("patch", "deployments.apps"),
        ("create", "clusterroles.rbac.authorization.k8s.io"),
    ] {
        let may = ["auth", "can-i", verb, resource, "--as", crate::scene::HOST_USER];
        let answer = control.kubectl(&may).await.expect("kubectl runs");
        assert!(!answer.status.success(), "the host must not {verb} {resource}");
    }
}

#[tokio::test]
async fn the_tenant_operator_is_one_command_beside_it_and_may_not_relabel_a_namespace() {
    let scene = Scene::shared("tenant-deploy").await;
    let control = scene.control();
    let yaml = rendered(control, "plugins/tenant").await;
    // Not applied as a plugin: the hosts of other tests on this control plane would take it up.
    assert!(
        yaml.contains("sourceNamespace: tenant-defaults") && yaml.contains("windlass.dev/plugin: tenant")
    );
    assert!(yaml.contains("plugin.wasm.zst: "));
    let rights = yaml.split("\n---\n").filter(|doc| !doc.contains("kind: ConfigMap\n"));
    control.apply(&rights.collect::<Vec<_>>().join("\n---\n")).await.expect("the rights apply");
    let account = "system:serviceaccount:windlass-system:plugin-tenant";
    for (verb, resource, may) in [
        ("create", "resourcequotas", true),
        ("patch", "networkpolicies.networking.k8s.io", true),
        ("patch", "namespaces", false),
        ("patch", "namespaces/status", false),
        ("get", "secrets", false),
    ] {
        let ask = ["auth", "can-i", verb, resource, "--as", account, "--all-namespaces"];
        let answer = control.kubectl(&ask).await.expect("kubectl runs");
        assert_eq!(answer.status.success(), may, "{verb} {resource}");
    }
}

#[tokio::test]
async fn each_size_is_a_component_that_applies() {
    let control = tokio::task::spawn_blocking(windlass_testbed::shared)
        .await
        .expect("no panic")
        .expect("a control plane");
    for (size, memory) in [("small", "128Mi"), ("medium", "512Mi"), ("large", "1Gi")] {
        let tree = tempfile::tempdir().expect("a directory");
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        copy(&source, &tree.path().join("deploy"));
        let overlay = tree.path().join("overlay");
        std::fs::create_dir(&overlay).expect("a directory");
        let text = format!(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../deploy/base]\ncomponents: [../deploy/components/size-{size}]\n"
        );
        std::fs::write(overlay.join("kustomization.yaml"), text).expect("written");
        let output =
            control.kubectl(&["kustomize", &overlay.display().to_string()]).await.expect("kubectl runs");
        let yaml = String::from_utf8_lossy(&output.stdout);
        assert!(
            yaml.contains(&format!("memory: {memory}")),
            "{size}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert!(read("deploy/base/deployment.yaml").contains("replicas: 3"));
}

/// Renders a folder of `deploy/` in the tree itself.
async fn kustomize(control: &ControlPlane, folder: &std::path::Path) -> String {
    let output = control.kubectl(&["kustomize", &folder.display().to_string()]).await.expect("kubectl runs");
    assert!(output.status.success(), "{}: {}", folder.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Applies it, and has every field that the API server does not know refused.
async fn apply_strictly(control: &ControlPlane, what: &str, yaml: &str) {
    let arguments = ["apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", "-"];
    let output = control.kubectl_with_input(&arguments, yaml).await.expect("kubectl runs");
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stderr);
    // The fence's checks of types have nothing to say either.
    assert!(!said.contains("Warning"), "{what}: {said}");
}

fn folders(of: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(of).unwrap_or_else(|e| panic!("{}: {e}", of.display())).flatten();
    let mut all: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    all.sort();
    all
}

#[tokio::test]
async fn every_overlay_and_every_component_is_taken_by_a_strict_api_server_and_makes_pods() {
    let control = ControlPlane::start(Options::default()).await.expect("a control plane");
    let client = control.client().expect("a client");
    let get = async |path: &str| -> Option<Value> {
        client.request(http::Request::get(path).body(Vec::new()).expect("a request")).await.ok()
    };
    let deploy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let overlays = folders(&deploy.join("overlays"));
    assert!(overlays.len() >= 3, "{overlays:?}");
    for overlay in overlays {
        let yaml = kustomize(&control, &overlay).await;
        apply_strictly(&control, &overlay.display().to_string(), &yaml).await;
        let namespace =
            yaml.lines().find_map(|line| line.trim().strip_prefix("namespace: ")).expect("a namespace");
        let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/windlass");
        let began = std::time::Instant::now();
        // Under the restricted standard pods are admitted, or there are none.
        loop {
            let deployment = get(&path).await.expect("it was applied");
            let (spec, status) = (&deployment["spec"], &deployment["status"]);
            if status["readyReplicas"] == spec["replicas"]
                && status["observedGeneration"] == deployment["metadata"]["generation"]
            {
                break;
            }
            assert!(began.elapsed().as_secs() < 60, "{}: {status:#}", overlay.display());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    let tree = tempfile::tempdir().expect("a directory");
    copy(&deploy, &tree.path().join("deploy"));
    for component in folders(&deploy.join("components")) {
        let name = component.file_name().expect("a name").to_string_lossy().into_owned();
        // Needs kinds that somebody else brings: `endpoints` has them.
        if name == "prometheus" {
            continue;
        }
        let overlay = tree.path().join(&name);
        std::fs::create_dir(&overlay).expect("a directory");
        let text = format!(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../deploy/base]\ncomponents: [../deploy/components/{name}]\n"
        );
        std::fs::write(overlay.join("kustomization.yaml"), text).expect("written");
        apply_strictly(&control, &name, &kustomize(&control, &overlay).await).await;
    }
}

#[tokio::test]
async fn production_asks_for_the_memory_that_it_may_use_and_is_not_throttled() {
    let control = tokio::task::spawn_blocking(windlass_testbed::shared)
        .await
        .expect("no panic")
        .expect("a control plane");
    let deploy = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let yaml = kustomize(control, &deploy.join("overlays/production")).await;
    let deployment =
        yaml.split("\n---\n").find(|doc| doc.contains("\nkind: Deployment\n")).expect("a Deployment");
    assert_eq!(deployment.matches("memory: 512Mi").count(), 2, "{deployment}");
    assert_eq!(deployment.matches("cpu: ").count(), 1, "a request and no limit: {deployment}");
    for said in [
        "priorityClassName: windlass",
        "readOnlyRootFilesystem: true",
        "maxUnavailable: 0",
        "topologySpreadConstraints:",
    ] {
        assert!(deployment.contains(said), "{said}");
    }
    // What ends a pod gives the host its whole drain: --shutdown-timeout is 20 s.
    assert!(deployment.contains("terminationGracePeriodSeconds: 30"));
}

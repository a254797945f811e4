//! The command as people run it, by kubectl, and what it writes as kustomize and a real API server take it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kubectl_windlass::{Beside, Package, built_ins};
use serde_json::{Value, json};
use windlass_testbed::{Binaries, ControlPlane, Options, component, progress};

/// A folder with kubectl and its plugin on the path.
struct Desk {
    folder: tempfile::TempDir,
    programs: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self {
            folder: tempfile::tempdir().expect("a folder"),
            programs: tempfile::tempdir().expect("a folder"),
        };
        let kubectl = Binaries::locate_or_build(&*progress::detect()).expect("kubectl is there").kubectl();
        let link = |from: &Path, name: &str| {
            std::os::unix::fs::symlink(from, desk.programs.path().join(name)).expect("a link");
        };
        link(&kubectl, "kubectl");
        link(Path::new(env!("CARGO_BIN_EXE_kubectl-windlass")), "kubectl-windlass");
        desk
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).expect("written");
        path
    }

    /// `kubectl <arguments>`, in the folder; no cluster is known.
    fn kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_at(Path::new("/nowhere"), arguments)
    }

    /// The same with a cluster.
    fn kubectl_at(&self, kubeconfig: &Path, arguments: &[&str]) -> Output {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(self.programs.path().to_owned()).chain(std::env::split_paths(&path));
        let mut command = Command::new(self.programs.path().join("kubectl"));
        command.args(arguments).current_dir(self.folder.path());
        command.env("PATH", std::env::join_paths(paths).expect("a path")).env("KUBECONFIG", kubeconfig);
        command.output().expect("kubectl starts")
    }

    /// Exit code and standard output of `kubectl windlass check`.
    fn check(&self, arguments: &[&str]) -> (i32, String) {
        let said = self.kubectl(&[&["windlass", "check"], arguments].concat());
        let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        (said.status.code().expect("it ended by itself"), format!("{out}{err}"))
    }
}

fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(component("windlass-fixtures", Some(name)).expect("it builds")).expect("it is there")
}

fn webapp() -> Package {
    let component = fs::read(component("webapp", None).expect("it builds")).expect("it is there");
    let beside = Beside::of(&tree("plugins/webapp")).expect("what lies beside it");
    Package::of(component, beside).expect("a host takes it")
}

/// The objects in a YAML text, each under kind, namespace and name.
fn objects(yaml: &str) -> BTreeMap<String, Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(yaml).expect("YAML");
    let key = |object: &Value| {
        let metadata = &object["metadata"];
        format!("{} {} {}", object["kind"], metadata["namespace"], metadata["name"])
    };
    all.into_iter().map(|object| (key(&object), object)).collect()
}

#[test]
fn what_a_host_refuses_is_said_with_its_code_and_its_cure() {
    let desk = Desk::new();
    let cut_off = &fixture("greeter")[..2000];
    for (name, bytes, code) in [
        ("empty.wasm", &b""[..], "E101 NoPluginBytes"),
        ("image.wasm", b"\x89PNG\r\n", "E110 NotWasm"),
        ("text.wasm", b"(component)", "E111 TextFormat"),
        ("module.wasm", b"\0asm\x01\0\0\0", "E112 CoreModule"),
        ("half.wasm", cut_off, "E113 Malformed"),
        ("native.wasm", b"\x7fELF\x02\x01\x01", "E114 PrecompiledRefused"),
        ("sockets.wasm", &fixture("needs_sockets"), "E120 ForbiddenImport"),
        ("traps.wasm", &fixture("traps_at_start"), "E160 InitTrap"),
        ("manifest.wasm", &fixture("bad_manifest"), "E170 BadManifest"),
    ] {
        desk.write(name, bytes);
        let (exit, said) = desk.check(&[name]);
        assert_eq!(exit, 1, "{name}: {said}");
        assert!(said.contains(&format!("\n  {code}: ")) && said.contains("    cure   "), "{name}: {said}");
    }
    let (exit, said) = desk.check(&["image.wasm", "--json"]);
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((exit, &said["refused"]["code"]), (1, &json!("E110 NotWasm")));
    assert!(said["refused"]["cure"].as_str().is_some_and(|cure| cure.len() > 10), "{said}");
}

#[test]
fn what_a_host_takes_is_described_and_what_cannot_be_looked_at_is_another_matter() {
    let desk = Desk::new();
    desk.write("greeter.wasm", &fixture("greeter"));
    let (exit, said) = desk.check(&["greeter.wasm"]);
    assert_eq!(exit, 0, "{said}");
    assert!(said.starts_with("greeter 0.1.0: a host takes it\n"), "{said}");
    assert!(said.contains("nothing here says what fixtures.windlass.dev/Widget is called"), "{said}");
    let crds = tree("plugins/fixtures/crd.yaml").display().to_string();
    let (exit, said) = desk.check(&["greeter.wasm", "--crds", &crds]);
    assert_eq!(exit, 0, "{said}");
    for line in [
        "reconciles  fixtures.windlass.dev/v1alpha1/Widget",
        "makes       v1/ConfigMap",
        "patch                 widgets.fixtures.windlass.dev/status",
        "impersonate           serviceaccounts plugin-greeter",
    ] {
        assert!(said.contains(line), "{line} in {said}");
    }
    for (arguments, says) in [
        (&["nowhere.wasm"][..], "read nowhere.wasm"),
        (&["."], "no Cargo.toml"),
        (&["greeter.wasm", "--plural", "nonsense"], "no <group>/<Kind>=<plural>"),
        (&["greeter.wasm", "--namespace", "Team A"], "a DNS label is expected"),
    ] {
        let (exit, said) = desk.check(arguments);
        assert_eq!(exit, 2, "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
}

#[test]
fn a_package_is_checked_as_the_config_map_that_it_holds() {
    let desk = Desk::new();
    desk.write("greeter.wasm", &fixture("greeter"));
    fs::copy(tree("plugins/fixtures/crd.yaml"), desk.folder.path().join("crd.yaml")).expect("copied");
    let made = desk.kubectl(&["windlass", "package", "greeter.wasm"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let yaml = fs::read_to_string(desk.folder.path().join("greeter.yaml")).expect("it was written");
    let (exit, said) = desk.check(&["greeter.yaml"]);
    assert_eq!(exit, 0, "{said}");
    assert!(said.contains("patch                 widgets.fixtures.windlass.dev\n"), "{said}");
    for (from, to, code) in [
        (r#""windlass.dev/plugin": "greeter""#, r#""windlass.dev/plugin": "other""#, "E172 NameMismatch"),
        (r#""plugin.wasm.zst""#, r#""plugin.wasm""#, "E110 NotWasm"),
        (
            r#""labels": {"#,
            r#""annotations": {"windlass.dev/limit-memory": "1Gi"}, "labels": {"#,
            "E171 LimitAboveMax",
        ),
        (
            r#""labels": {"#,
            r#""annotations": {"windlass.dev/part": "1-of-2"}, "labels": {"#,
            "E118 PartsIncomplete",
        ),
    ] {
        assert!(yaml.contains(from), "{from}");
        desk.write("changed.yaml", yaml.replacen(from, to, 1).as_bytes());
        let (exit, said) = desk.check(&["changed.yaml"]);
        assert_eq!(exit, 1, "{code}: {said}");
        assert!(said.contains(code), "{code}: {said}");
    }
    desk.write("settings.yaml", b"a: [");
    let (exit, said) = desk.check(&["greeter.wasm"]);
    assert!(exit == 1 && said.contains("E173 BadSettings"), "{said}");
}

#[test]
fn a_folder_for_kustomize_holds_what_the_file_holds() {
    let desk = Desk::new();
    let mut package = webapp();
    package.beside.settings = Some("ingressClass: internal\n".to_owned());
    package.signature = Some("untrusted comment: x\n".to_owned());
    for parts in [1, 3] {
        if parts > 1 {
            // No text, as no component is one.
            package.compressed =
                (0..2_000_000_u32).map(|i| (i.wrapping_mul(i) >> 7).to_le_bytes()[0] | 0x80).collect();
        }
        let folder = desk.folder.path().join("package");
        let written = package.write_kustomize(&folder).expect("written");
        assert!(!written.kept_kustomization);
        let rendered = desk.kubectl(&["kustomize", "package"]);
        assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
        let (found, expected) =
            (objects(&String::from_utf8_lossy(&rendered.stdout)), objects(&package.yaml().expect("known")));
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        assert_eq!(found.keys().filter(|key| key.contains("webapp-plugin")).count(), parts);
        for (key, object) in &expected {
            let mut found = found[key].clone();
            let data =
                found["binaryData"]["plugin.wasm.zst"].as_str().map(|text| text.replace(['\n', ' '], ""));
            if let Some(data) = data {
                found["binaryData"]["plugin.wasm.zst"] = data.into();
            }
            assert_eq!(&found, object, "{key}");
        }
    }
    // What somebody has made their own is left alone, and parts that are no more go.
    let own = desk.folder.path().join("package/kustomization.yaml");
    fs::write(&own, "# mine\n").expect("written");
    let written = webapp().write_kustomize(&desk.folder.path().join("package")).expect("written");
    assert!(written.kept_kustomization && !written.files.contains(&own));
    assert_eq!(fs::read_to_string(&own).expect("it is there"), "# mine\n");
    assert!(!desk.folder.path().join("package/plugin.wasm.zst.1").exists());
}

#[test]
fn the_rights_in_the_tree_are_those_that_the_manifests_need() {
    for plugin in ["webapp", "tenant"] {
        let folder = tree("plugins").join(plugin);
        let wasm = fs::read(component(plugin, None).expect("it builds")).expect("it is there");
        let package = Package::of(wasm, Beside::of(&folder).expect("readable")).expect("a host takes it");
        let found = fs::read_to_string(folder.join("rbac.yaml")).expect("it is there");
        assert_eq!(
            found,
            package.rights_yaml().expect("known"),
            "run `cargo xtask plugin plugins/{plugin} --kustomize`"
        );
    }
}

/// What an API server says that it serves: group, kind, plural, whether in namespaces.
async fn served(plane: &ControlPlane) -> BTreeSet<(String, String, String, bool)> {
    let raw = async |path: &str| -> Value {
        let answer = plane.kubectl(&["get", "--raw", path]).await.expect("kubectl runs");
        serde_json::from_slice(&answer.stdout).expect("JSON")
    };
    let groups = raw("/apis").await;
    let mut versions = vec!["/api/v1".to_owned()];
    for group in groups["groups"].as_array().expect("a list") {
        let of = |version: &Value| format!("/apis/{}", version["groupVersion"].as_str().expect("a text"));
        versions.extend(group["versions"].as_array().expect("a list").iter().map(of));
    }
    let mut kinds = BTreeSet::new();
    for version in versions {
        let list = raw(&version).await;
        let group =
            list["groupVersion"].as_str().and_then(|gv| gv.split_once('/')).map_or("", |(group, _)| group);
        for resource in list["resources"].as_array().expect("a list") {
            let text = |name: &str| resource[name].as_str().expect("a text").to_owned();
            if !text("name").contains('/') {
                let namespaced = resource["namespaced"].as_bool().expect("a truth");
                kinds.insert((group.to_owned(), text("kind"), text("name"), namespaced));
            }
        }
    }
    kinds
}

#[tokio::test]
async fn a_cluster_is_asked_about_kinds_only_when_that_is_said() {
    let plane = ControlPlane::start(Options { kubelet: None, ..Options::default() }).await;
    let plane = plane.expect("a control plane");
    plane
        .apply(&fs::read_to_string(tree("plugins/fixtures/crd.yaml")).expect("a CRD"))
        .await
        .expect("it applies");
    let wait = ["wait", "--for=condition=Established", "--timeout=60s", "crd/widgets.fixtures.windlass.dev"];
    assert!(plane.kubectl(&wait).await.expect("kubectl runs").status.success(), "the kind is not served");
    let desk = Desk::new();
    desk.write("greeter.wasm", &fixture("greeter"));
    let rbac = |more: &[&str]| {
        let arguments = [&["windlass", "rbac", "greeter.wasm"], more].concat();
        let said = desk.kubectl_at(plane.kubeconfig_path(), &arguments);
        let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        (said.status.success(), format!("{out}{err}"))
    };
    let (known, said) = rbac(&[]);
    assert!(!known && said.contains("--from-cluster"), "{said}");
    let (known, said) = rbac(&["--from-cluster", "--namespace", "team-a"]);
    assert!(known && said.contains("resources: [widgets]") && !said.contains("ClusterRole"), "{said}");
    let (known, said) = rbac(&["--plural", "fixtures.windlass.dev/Widget=widgets"]);
    assert!(known && said.contains("resources: [widgets]"), "{said}");
}

#[tokio::test]
async fn kubernetes_own_kinds_are_known_as_an_api_server_has_them() {
    let apiserver_flags = vec!["--runtime-config=api/all=true".to_owned()];
    let plane = ControlPlane::start(Options { apiserver_flags, kubelet: None, ..Options::default() }).await;
    let served = served(&plane.expect("a control plane")).await;
    let known: BTreeSet<_> = built_ins()
        .map(|(group, kind, plural, namespaced)| (group.to_owned(), kind.to_owned(), plural, namespaced))
        .collect();
    let unknown: Vec<_> = served.difference(&known).collect();
    assert!(unknown.is_empty(), "served, and not known here: {unknown:?}");
    // Behind feature gates that are off.
    let gated = ["CompositePodGroup", "PodGroup", "Workload"];
    let not_served: Vec<_> = known.difference(&served).map(|(_, kind, ..)| kind.as_str()).collect();
    assert_eq!(not_served, gated, "known here, and not served");
}

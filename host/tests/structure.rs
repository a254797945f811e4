//! The tree is the design: which crate may know which, asked of cargo.

use std::collections::BTreeSet;
use std::process::Command;

use windlass_core::code::Code;

const STAGES: [&str; 8] = [
    "windlass-watch",
    "windlass-queue",
    "windlass-reconcile",
    "windlass-plugin",
    "windlass-apply",
    "windlass-lease",
    "windlass-admin",
    "windlass-worker",
];

/// Every crate that `package` needs to run, by name.
fn needs(package: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = Command::new(cargo)
        .args(["tree", "--locked", "--offline", "-p", package, "-e", "normal", "--prefix", "none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).expect("text");
    text.lines().skip(1).filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn stages_know_core_and_never_each_other() {
    for stage in STAGES {
        let needs = needs(stage);
        assert!(needs.contains("windlass-core"), "{stage} does not know core");
        let ours: BTreeSet<_> =
            needs.iter().filter(|name| name.starts_with("windlass")).map(String::as_str).collect();
        let allowed: BTreeSet<_> = match stage {
            "windlass-reconcile" => BTreeSet::from(["windlass-core", "windlass-queue"]),
            _ => BTreeSet::from(["windlass-core"]),
        };
        assert!(ours.is_subset(&allowed), "{stage} knows {ours:?}, may know {allowed:?}");
    }
}

#[test]
fn every_code_is_documented_with_its_cause_and_cure_and_no_other_is() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/plugin-errors.md");
    let page = std::fs::read_to_string(page).expect("it is there");
    let entries: Vec<(&str, &str)> =
        page.split("\n### ").skip(1).map(|entry| entry.split_once('\n').unwrap_or((entry, ""))).collect();
    let documented: Vec<&str> = entries.iter().map(|(code, _)| *code).collect();
    let mut codes: Vec<String> = Code::ALL.iter().map(Code::to_string).collect();
    codes.sort();
    assert_eq!(documented, codes, "one entry a code, in the order of their numbers");
    for (code, text) in entries {
        let parts = ["- **Found:** ", "- **Why:** ", "- **Cure:** "];
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("- **")).collect();
        assert_eq!(lines.len(), parts.len(), "{code}");
        for (line, part) in lines.iter().zip(parts) {
            assert!(
                line.len() > part.len() + 10 && line.starts_with(part),
                "{code}: expected {part}, found {line}"
            );
        }
    }
}

#[test]
fn every_fixture_is_tested() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = |folder: &str| -> String {
        let files = std::fs::read_dir(root.join(folder)).expect(folder).flatten();
        files.map(|file| std::fs::read_to_string(file.path()).unwrap_or_default()).collect()
    };
    let tests = text("tests/integration")
        + &text("tests/integration/catalogue")
        + &text("plugin/tests")
        // A fixture may be there to be measured.
        + &text("../xtask/src/bench");
    for fixture in std::fs::read_dir(root.join("../plugins/fixtures/examples")).expect("fixtures").flatten() {
        let path = fixture.path();
        let name = path.file_stem().expect("a name").to_string_lossy();
        assert!(tests.contains(&format!("\"{name}\"")), "no test uses the fixture {name}");
    }
}

#[test]
fn each_stage_has_only_the_powers_that_its_work_needs() {
    for (package, forbidden) in [
        ("windlass-core", &["tokio", "kube", "wasmtime", "hyper", "libc", "rand"][..]),
        ("windlass-queue", &["kube", "wasmtime", "hyper"][..]),
        ("windlass-reconcile", &["kube", "wasmtime", "hyper"][..]),
        ("windlass-plugin", &["kube"][..]),
        ("windlass-watch", &["wasmtime"][..]),
        ("windlass-apply", &["wasmtime"][..]),
        ("windlass-lease", &["wasmtime"][..]),
        ("windlass-admin", &["wasmtime", "kube"][..]),
        ("windlass", &["tokio", "kube", "k8s-openapi", "wasmtime"][..]),
    ] {
        let needs = needs(package);
        for name in forbidden {
            assert!(!needs.contains(*name), "{package} must not need {name}");
        }
    }
}

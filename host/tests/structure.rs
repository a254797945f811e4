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

/// Faults of the data plane that the host promises to survive.
const FAULTS: [&str; 23] = [
    "F09", "F10", "F11", "F13", "F14", "F15", "F16", "F18", "F19", "F21", "F22", "F23", "F24", "F25", "F26",
    "F27", "F28", "F30", "F32", "F33", "F34", "F47", "F48",
];

/// All sources of tests below a folder.
fn sources(folder: &std::path::Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            text += &sources(&path);
        } else if path.extension().is_some_and(|end| end == "rs") {
            text += &std::fs::read_to_string(&path).expect("text");
        }
    }
    text
}

#[test]
fn every_fault_has_a_row_and_every_test_that_a_row_names_exists() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("../docs/faults.md")).expect("it is there");
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| F"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), FAULTS);
    let sources = sources(root);
    for row in rows {
        assert_eq!(row.len(), 4, "{row:?}");
        let tests: Vec<&str> = row[3].split(", ").map(|name| name.trim_matches('`')).collect();
        for test in tests {
            assert!(sources.contains(&format!("fn {test}()")), "{}: there is no test {test}", row[0]);
        }
    }
}

#[test]
fn every_threat_names_tests_that_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("../docs/security.md")).expect("it is there");
    let sources: String =
        ["", "../cli", "../fuzz", "../testbed"].iter().map(|folder| sources(&root.join(folder))).collect();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| T")).collect();
    assert!(rows.len() >= 9, "{}", rows.len());
    for row in rows {
        let shown = row.trim_matches('|').rsplit('|').next().unwrap_or_default();
        let tests: Vec<&str> =
            shown.split('`').skip(1).step_by(2).filter(|name| !name.contains('/')).collect();
        assert!(!tests.is_empty(), "{row}");
        for test in tests {
            assert!(sources.contains(&format!("fn {test}(")), "there is no test {test}: {row}");
        }
    }
}

/// What the page tells operators to look at is there to be looked at.
#[test]
fn every_metric_that_operators_are_told_of_exists() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("../docs/operations.md")).expect("it is there");
    let sources = sources(root);
    let words = page.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let ours = |word: &&str| word.starts_with("windlass_") || word.starts_with("leader_election_");
    let named: std::collections::BTreeSet<_> = words.filter(ours).collect();
    assert!(named.len() >= 10, "{named:?}");
    for metric in named {
        // The library appends the last word to counters.
        let name = format!("\"{}\"", metric.trim_end_matches("_total"));
        assert!(sources.contains(&name), "no metric is called {metric}");
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

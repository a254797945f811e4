//! The contract does not change under those who built against it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use windlass_core::name::Digest;
use wit_component::{OutputToString, WitPrinter};
use wit_parser::{PackageId, Resolve};

/// Every version that was ever released, and the digest of its text. Lines are added here,
/// never changed and never taken away.
const RELEASED: [(&str, &str); 2] = [
    ("0.1.0", "sha256:f60b5d35afb6fa07c82ef4355e64d09300c8fb0456eef10ca75b4867d34d1907"),
    ("0.2.0", "sha256:869248074a7021431e7c88703d01d1c080294161da695c4f1668c24c81f62872"),
];

const WHAT_TO_DO: &str = "a released contract never changes: give wit/windlass.wit a new version in its \
    package line (see wit/released/README.md), or take the change back";

fn wit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit")
}

fn parse(path: &Path) -> (Resolve, PackageId) {
    let mut resolve = Resolve::default();
    let parsed = resolve.push_path(path).unwrap_or_else(|e| panic!("{}: {e:#}", path.display()));
    (resolve, parsed.0)
}

fn version(path: &Path) -> String {
    let (resolve, package) = parse(path);
    let name = &resolve.packages[package].name;
    assert_eq!((name.namespace.as_str(), name.name.as_str()), ("windlass", "operator"), "{}", path.display());
    name.version.as_ref().expect("the package has a version").to_string()
}

/// What the text means: without comments, in one way of writing.
fn meaning(path: &Path) -> String {
    let (resolve, package) = parse(path);
    let mut printer = WitPrinter::<OutputToString>::default();
    printer.emit_docs(false).print(&resolve, package, &[]).expect("it prints");
    printer.output.to_string()
}

fn released() -> BTreeMap<String, PathBuf> {
    let folders = std::fs::read_dir(wit().join("released")).expect("a folder").flatten();
    let folders = folders.filter(|entry| entry.path().is_dir());
    folders
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path().join("windlass.wit")))
        .collect()
}

#[test]
fn a_released_contract_is_what_it_was_to_the_byte() {
    let released = released();
    let expected: Vec<&str> = RELEASED.iter().map(|(version, _)| *version).collect();
    assert_eq!(released.keys().collect::<Vec<_>>(), expected, "{WHAT_TO_DO}");
    for (name, digest) in RELEASED {
        let path = &released[name];
        let bytes = std::fs::read(path).expect("it is there");
        assert_eq!(Digest::of(&bytes).as_str(), digest, "{}: {WHAT_TO_DO}", path.display());
        assert_eq!(version(path), name, "the folder is named like the version");
    }
}

#[test]
fn the_contract_of_the_sdk_is_a_released_one_or_has_a_new_version() {
    let current = wit().join("windlass.wit");
    if let Some(path) = released().get(&version(&current)) {
        assert_eq!(meaning(&current), meaning(path), "{WHAT_TO_DO}");
    }
}

#[test]
fn a_change_in_meaning_is_seen_and_a_comment_is_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = std::fs::read_to_string(wit().join("released/0.1.0/windlass.wit")).expect("it is there");
    let with = |name: &str, from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        let path = folder.path().join(name);
        std::fs::write(&path, text.replacen(from, to, 1)).expect("written");
        meaning(&path)
    };
    let same = with("same.wit", "interface types", "interface types");
    assert!(same.contains("requeue-after-ms"), "{same}");
    assert_eq!(
        with("comment.wit", "/// A kind of Kubernetes object.", "/// Any kind of object.\n  // At all."),
        same
    );
    for (name, from, to) in [
        ("field.wit", "finalizes: bool,", "finalizes: bool,\n    more: bool,"),
        ("case.wit", "permanent(string),", "permanent(string),\n    other,"),
        ("function.wit", "export manifest: func()", "export manifest: func(x: u8)"),
        ("order.wit", "orphan,", "orphan,\n    keep,"),
        ("type.wit", "requeue-after-ms: option<u32>", "requeue-after-ms: option<u64>"),
    ] {
        assert_ne!(with(name, from, to), same, "{name}");
    }
}

//! A small workspace, built and packed at two places.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::Command;

use auditable_info::audit_info_from_slice;
use flate2::read::GzDecoder;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::*;

/// A program that says where its source was, with a library of its workspace; debug information and all.
fn workspace(at: &Path) -> Product {
    let package = |name: &str| {
        format!(
            "[package]\nname = \"{name}\"\nversion = \"1.2.3\"\nedition = \"2024\"\nlicense = \"MIT/Apache-2.0\"\n"
        )
    };
    let uses = "[dependencies]\npart = { path = \"../part\" }\n";
    let files = [
        ("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"program\", \"part\"]\n".to_owned()),
        ("Cargo.lock", "version = 4\n\n[[package]]\nname = \"part\"\nversion = \"1.2.3\"\n\n[[package]]\nname = \"program\"\nversion = \"1.2.3\"\ndependencies = [\n \"part\",\n]\n".to_owned()),
        ("program/Cargo.toml", package("program") + uses),
        ("program/src/main.rs", "fn main() { println!(\"{} {:?}\", part::place(), std::env::args().nth(1)) }".to_owned()),
        ("part/Cargo.toml", package("part")),
        ("part/src/lib.rs", "#[track_caller]\npub fn place() -> &'static str { include!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/src/place.rs\")) }".to_owned()),
        ("part/src/place.rs", "file!()".to_owned()),
    ];
    for (path, text) in files {
        let path = at.join(path);
        fs::create_dir_all(path.parent().expect("a folder"))
            .and_then(|()| fs::write(path, text))
            .expect("a file");
    }
    let (package, binary) = ("program".into(), "program".into());
    Product { root: at.to_owned(), package, binary, target_folder: at.join("target") }
}

/// The regular files of a tar file: mode, owner and content by path.
fn unpacked(bytes: &[u8]) -> BTreeMap<String, (u32, u64, Vec<u8>)> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().expect("a tar file").map(|entry| {
        let mut entry = entry.expect("an entry");
        assert!(entry.header().entry_type().is_file());
        let (mode, owner) = (entry.header().mode().expect("a mode"), entry.header().uid().expect("an owner"));
        let path = entry.path().expect("a path").display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("whole");
        (path, (mode, owner, content))
    });
    entries.collect()
}

struct Layout(BTreeMap<String, (u32, u64, Vec<u8>)>);

impl Layout {
    fn of(archive: &Path) -> Self {
        Self(unpacked(&fs::read(archive).expect("the archive")))
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&self.0[path].2).expect("JSON")
    }

    /// What a descriptor describes, which has to be as it says.
    fn blob(&self, descriptor: &Value) -> &[u8] {
        let digest = descriptor["digest"]
            .as_str()
            .and_then(|digest| digest.strip_prefix("sha256:"))
            .expect("a digest");
        let (_, _, bytes) = &self.0[&format!("blobs/sha256/{digest}")];
        assert_eq!(image::hex(&Sha256::digest(bytes)), digest);
        assert_eq!(descriptor["size"], bytes.len());
        bytes
    }
}

#[test]
fn two_builds_at_different_places_are_one_image_that_runs_by_itself() {
    let (one, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let made = [one.path().join("a"), other.path().join("a/folder/with a longer name")].map(|place| {
        let product = workspace(&place);
        let binary = compile::build(&product, "dev").expect("it builds");
        make(&product, &binary, "registry.example/program:1.2.3", &place.join("dist")).expect("it packs")
    });
    assert_eq!(made[0].digest, made[1].digest, "two builds");
    let read = |path: &Path| fs::read(path).expect("it is there");
    assert!(read(&made[0].archive) == read(&made[1].archive), "to the last byte");
    assert!(read(&made[0].bom) == read(&made[1].bom));

    let layout = Layout::of(&made[0].archive);
    assert_eq!(layout.json("oci-layout")["imageLayoutVersion"], "1.0.0");
    let index = layout.json("index.json");
    let [manifest] = &index["manifests"].as_array().expect("a list")[..] else {
        panic!("one image: {index}")
    };
    for name in ["io.containerd.image.name", "org.opencontainers.image.ref.name"] {
        assert_eq!(manifest["annotations"][name], "registry.example/program:1.2.3");
    }
    assert_eq!(manifest["digest"], *made[0].digest);
    let manifest: Value = serde_json::from_slice(layout.blob(manifest)).expect("JSON");
    let config: Value = serde_json::from_slice(layout.blob(&manifest["config"])).expect("JSON");
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"][0], "/program");
    let [layer] = &manifest["layers"].as_array().expect("a list")[..] else {
        panic!("one layer: {manifest}")
    };
    let mut tar = Vec::new();
    GzDecoder::new(layout.blob(layer)).read_to_end(&mut tar).expect("gzip");
    assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", image::hex(&Sha256::digest(&tar))));
    let files = unpacked(&tar);
    assert_eq!(files.keys().collect::<Vec<_>>(), ["program"], "nothing else is in it");
    let (mode, owner, program) = &files["program"];
    assert_eq!((*mode, *owner), (0o755, 0));
    assert_eq!(layout.0.len(), 5, "no blob that nobody names");
    runs_alone(program);
    is_listed(program, &read(&made[0].bom));
}

/// In a folder with nothing beside it, as the user of the image. Only root can arrange that.
fn runs_alone(program: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("program");
    fs::write(&file, program).expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("a mode");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    if chown(&file, Some(0), Some(0)).is_err() {
        eprintln!("note: not root, so the program was not run in a root folder of its own");
        return;
    }
    let run = Command::new("chroot")
        .args(["--userspec", "65532:65532"])
        .arg(folder.path())
        .args(["/program", "word"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").expect("a path"))
        .output()
        .expect("chroot");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("Some(\"word\")"), "{run:?}");
    assert!(said.contains("/windlass/part/src/place.rs"), "it does not say where it was built: {said}");
}

/// The list in the program and the bill beside it name the same packages.
fn is_listed(program: &[u8], bom: &[u8]) {
    let list = audit_info_from_slice(program, audit::LIST_MAX_BYTES).expect("it has a list");
    let names: Vec<_> = list.packages.iter().map(|package| (&*package.name, package.root)).collect();
    assert_eq!(names, [("part", false), ("program", true)]);
    assert_eq!(list.packages[1].dependencies, [0]);
    let bom: Value = serde_json::from_slice(bom).expect("JSON");
    assert_eq!((&bom["bomFormat"], &bom["specVersion"]), (&"CycloneDX".into(), &"1.6".into()));
    let own = &bom["metadata"]["component"];
    assert_eq!(own["hashes"][0]["content"], image::hex(&Sha256::digest(program)));
    assert_eq!(bom["components"].as_array().map(Vec::len), Some(1));
    assert_eq!(bom["components"][0]["purl"], "pkg:cargo/part@1.2.3");
    assert_eq!(bom["components"][0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
    let uses =
        bom["dependencies"].as_array().expect("a list").iter().find(|one| one["ref"] == own["bom-ref"]);
    assert_eq!(uses.expect("it is in it")["dependsOn"][0], "pkg:cargo/part@1.2.3");
}

#[test]
fn a_program_that_needs_libraries_is_refused() {
    let this = std::env::current_exe().and_then(fs::read).expect("a program");
    let error = compile::check_static(&this).expect_err("it is linked as usual");
    assert!(error.to_string().starts_with("not static"), "{error}");
    assert!(compile::check_static(b"#!/bin/sh").is_err());
}

#[test]
fn the_hosts_own_list_is_what_is_linked_into_it() {
    let packages = packages::linked(&Product::host(&root())).expect("cargo says");
    let of = |name: &str| packages.all.iter().find(|package| package.name == name);
    assert_eq!(packages.all[packages.root].name, "windlass-host");
    assert!(of("wasmtime").is_some_and(|package| package.is_published && package.checksum.is_some()));
    assert!(of("windlass-core").is_some_and(|package| !package.is_published));
    for other in ["proptest", "windlass-testbed", "webapp"] {
        assert!(of(other).is_none(), "{other} is only used to test it");
    }
    let nobodys: Vec<_> = packages.all.iter().filter(|package| package.licence.is_empty()).collect();
    assert!(nobodys.is_empty(), "each says under which licence it is: {nobodys:?}");
}

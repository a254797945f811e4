//! An image of one file, as an OCI image layout in a tar file: what `ctr images import`, `skopeo` and `docker load` read.
//!
//! Everything that tar and gzip would like to know of the day and of the builder is left out or fixed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::ARCHITECTURE;

/// Who the program runs as: nobody in particular, and not root.
const USER: &str = "65532:65532";
/// What gzip says instead of the system that it ran on: it is not known.
const UNKNOWN_SYSTEM: u8 = 255;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What is in an image.
pub(super) struct Contents<'a> {
    /// The image's whole name, with its tag.
    pub(super) name: &'a str,
    /// The file's name in the root folder; it is what is started.
    pub(super) file: &'a str,
    /// The file.
    pub(super) bytes: &'a [u8],
    pub(super) version: &'a str,
    pub(super) licence: &'a str,
    pub(super) repository: &'a str,
    /// The commit, if it is known.
    pub(super) revision: Option<&'a str>,
    /// What counts as the time at which everything was made.
    pub(super) created: Timestamp,
}

/// An image.
pub(super) struct Written {
    /// The tar file.
    pub(super) archive: Vec<u8>,
    /// The digest of the manifest, by which a registry will know it.
    pub(super) digest: String,
}

/// The files below `blobs/sha256`.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Adds one, and answers with its descriptor.
    fn put(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = hex(&Sha256::digest(&bytes));
        let descriptor =
            json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()});
        self.0.insert(digest, bytes);
        descriptor
    }
}

/// Writes the image.
///
/// # Errors
/// If the file's name does not fit into a tar file.
pub(super) fn write(contents: &Contents<'_>) -> Result<Written> {
    let layer = tar(contents.created, [(contents.file, 0o755, contents.bytes)])?;
    let diff_id = format!("sha256:{}", hex(&Sha256::digest(&layer)));
    let mut gzip =
        GzBuilder::new().mtime(0).operating_system(UNKNOWN_SYSTEM).write(Vec::new(), Compression::new(6));
    gzip.write_all(&layer)?;
    let mut blobs = Blobs::default();
    let layer = blobs.put(LAYER, gzip.finish()?);
    let config = blobs.put(CONFIG, config(contents, &diff_id).to_string().into_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config,
        "layers": [layer],
        "annotations": labels(contents),
    });
    let mut manifest = blobs.put(MANIFEST, manifest.to_string().into_bytes());
    let digest = manifest["digest"].as_str().context("it was just made")?.to_owned();
    manifest["platform"] = json!({"architecture": ARCHITECTURE, "os": "linux"});
    // By the first containerd names what it imports, by the second everybody else.
    manifest["annotations"] = json!({"io.containerd.image.name": contents.name, "org.opencontainers.image.ref.name": contents.name});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]}).to_string();
    let mut files = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), index.into_bytes()),
    ];
    files.extend(blobs.0.into_iter().map(|(digest, bytes)| (format!("blobs/sha256/{digest}"), bytes)));
    let archive = tar(contents.created, files.iter().map(|(path, bytes)| (&**path, 0o644, &**bytes)))?;
    Ok(Written { archive, digest })
}

fn config(contents: &Contents<'_>, diff_id: &str) -> Value {
    let created = contents.created.to_string();
    json!({
        "created": created,
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": {
            "User": USER,
            "Entrypoint": [format!("/{}", contents.file)],
            "Cmd": ["run"],
            "WorkingDir": "/",
            "Labels": labels(contents),
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": created, "created_by": "cargo xtask image"}],
    })
}

fn labels(contents: &Contents<'_>) -> BTreeMap<&'static str, String> {
    let mut labels = BTreeMap::from([
        ("org.opencontainers.image.created", contents.created.to_string()),
        ("org.opencontainers.image.licenses", contents.licence.to_owned()),
        ("org.opencontainers.image.source", contents.repository.to_owned()),
        ("org.opencontainers.image.title", contents.file.to_owned()),
        ("org.opencontainers.image.version", contents.version.to_owned()),
    ]);
    labels.extend(contents.revision.map(|commit| ("org.opencontainers.image.revision", commit.to_owned())));
    labels.retain(|_, value| !value.is_empty());
    labels
}

/// A tar file of regular files, each owned by root.
fn tar<'a>(made: Timestamp, files: impl IntoIterator<Item = (&'a str, u32, &'a [u8])>) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for (path, mode, bytes) in files {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(made.as_second().try_into().context("made before 1970")?);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, bytes).with_context(|| format!("pack {path}"))?;
    }
    Ok(tar.into_inner()?)
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all");
        text
    })
}

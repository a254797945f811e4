//! An image as an OCI image layout in a tar file: what `ctr images import`, `skopeo` and `docker load` read.
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

/// The only platform so far, as OCI names it.
pub const ARCHITECTURE: &str = "amd64";
/// Who a program runs as: nobody in particular, and not root.
const USER: &str = "65532:65532";
/// What gzip says instead of the system that it ran on: it is not known.
const UNKNOWN_SYSTEM: u8 = 255;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A file of an image. It belongs to root, and everybody may run it.
#[derive(Debug, Clone)]
pub struct File<'a> {
    /// Without a slash at its beginning.
    pub path: &'a str,
    /// All of it.
    pub bytes: &'a [u8],
}

/// What is in an image.
#[derive(Debug, Clone)]
pub struct Contents<'a> {
    /// The image's whole name, with its tag.
    pub name: &'a str,
    /// The first is what is started.
    pub files: &'a [File<'a>],
    /// The arguments of the program when a pod names none.
    pub command: &'a [&'a str],
    /// What is said of it, by the names of `org.opencontainers.image`; what is empty is left out.
    pub labels: BTreeMap<&'static str, String>,
    /// By what it was made.
    pub made_by: &'a str,
    /// What counts as the time at which everything was made.
    pub created: Timestamp,
}

/// An image.
#[derive(Debug)]
pub struct Written {
    /// The tar file.
    pub archive: Vec<u8>,
    /// The digest of the manifest, by which a registry will know it.
    pub digest: String,
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
/// If there is no file, or the name of one does not fit into a tar file.
pub fn write(contents: &Contents<'_>) -> Result<Written> {
    let layer = tar(contents.created, contents.files.iter().map(|file| (file.path, 0o755, file.bytes)))?;
    let diff_id = format!("sha256:{}", hex(&Sha256::digest(&layer)));
    let mut gzip =
        GzBuilder::new().mtime(0).operating_system(UNKNOWN_SYSTEM).write(Vec::new(), Compression::new(6));
    gzip.write_all(&layer)?;
    let mut blobs = Blobs::default();
    let layer = blobs.put(LAYER, gzip.finish()?);
    let config = blobs.put(CONFIG, config(contents, &diff_id)?.to_string().into_bytes());
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

fn config(contents: &Contents<'_>, diff_id: &str) -> Result<Value> {
    let created = contents.created.to_string();
    let program = contents.files.first().context("an image without a program")?.path;
    let mut config = json!({
        "User": USER,
        "Entrypoint": [format!("/{program}")],
        "WorkingDir": "/",
        "Labels": labels(contents),
    });
    if !contents.command.is_empty() {
        config["Cmd"] = json!(contents.command);
    }
    Ok(json!({
        "created": created,
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": created, "created_by": contents.made_by}],
    }))
}

fn labels(contents: &Contents<'_>) -> BTreeMap<String, String> {
    let mut labels = contents.labels.clone();
    labels.insert("created", contents.created.to_string());
    labels.retain(|_, value| !value.is_empty());
    labels.into_iter().map(|(name, value)| (format!("org.opencontainers.image.{name}"), value)).collect()
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
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all");
        text
    })
}

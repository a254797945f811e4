//! Where artefacts are kept between compilation and loading.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;
use windlass_core::code::{Code, Refusal};
use windlass_core::guests::Tier;
use windlass_core::name::Digest;

/// An artefact in its place, whole and unaltered since it was put there. It stays there for as
/// long as this, or a clone, lives: a process that starts anew can load it again.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The file.
    pub path: PathBuf,
    /// How it was compiled.
    pub tier: Tier,
    /// What keeps it from making room for others; `None` where nothing has to.
    pub hold: Option<Arc<File>>,
}

/// What compiles into a path that does not exist yet, and says how hard it tried.
pub type CompileInto<'a> = &'a mut dyn FnMut(&Path) -> Result<Tier, Refusal>;

/// Keeps artefacts by the digest of their component. One engine's, so nothing else is in the key.
pub trait Artefacts: Send + Sync + 'static {
    /// The artefact, if it is there and is what was put there.
    fn find(&self, digest: &Digest) -> Option<Kept>;
    /// Puts what `compile` makes in its place.
    ///
    /// # Errors
    /// What `compile` says, and E152 where there is no place for a file.
    fn keep(&self, digest: &Digest, compile: CompileInto<'_>) -> Result<Kept, Refusal>;
    /// Forgets one that turned out to be of no use.
    fn discard(&self, digest: &Digest);
}

/// A directory that goes with the process: for tests and tools. Nothing in it is found again.
#[derive(Debug)]
pub struct Scratch {
    directory: TempDir,
    number: AtomicU64,
}

impl Scratch {
    /// Makes the directory.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> std::io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("windlass-artefacts-").tempdir()?;
        Ok(Self { directory, number: AtomicU64::new(0) })
    }
}

impl Artefacts for Scratch {
    fn find(&self, _: &Digest) -> Option<Kept> {
        None
    }

    fn keep(&self, _: &Digest, compile: CompileInto<'_>) -> Result<Kept, Refusal> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.path().join(format!("{number}.cwasm"));
        let tier = compile(&path)?;
        if !path.is_file() {
            return Err(Refusal::new(Code::CompileFailed, "the compiler left no artefact"));
        }
        Ok(Kept { path, tier, hold: None })
    }

    fn discard(&self, _: &Digest) {}
}

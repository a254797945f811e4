//! The artefact cache: compiled components on disk, so that a restart compiles nothing.
//!
//! An artefact is native code, so this is a private place: directories of mode 0700 that
//! belong to this user, refused when others may write there, and never filled from the cluster.
//! A file's name says what it is of and what its bytes must be: `<key>-<sha256>-<length>-<tier>`.
//! There is nothing beside it that could be lost or swapped, and all of it is compared each time
//! before anybody maps the file. What does not fit is deleted, counted and compiled again.
//!
//! # Guarantees
//! A name appears only when its whole content is on disk (temporary file, fsync, link). Processes
//! may share a directory. Nothing that a [`Kept`] stands for is evicted, by this process or another.
//! When the first directory cannot be written, or is full, a second one in the system's temporary
//! directory takes what is new.
//!
//! # Caveats
//! Whoever has this user's rights can write what will run in the process without powers. Two
//! processes that store at once may exceed the bound by one artefact each.

mod directory;
mod entry;

use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};
use windlass_core::code::{Code, Refusal};
use windlass_core::name::Digest;

use crate::artefacts::{Artefacts, CompileInto, Kept};
use directory::{Directory, Found};

/// A place with less room than this, in bytes, is the last to be tried: most artefacts are smaller.
const ROOM_BYTES: u64 = 16 << 20;
/// With less room than this, in bytes, a compilation that failed may have failed for it.
const AMPLE_BYTES: u64 = 64 << 20;

/// Why there is no cache, or no place in it.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It would be somewhere that its owner did not say.
    #[error("{} is not a directory (symbolic links are not followed)", .0.display())]
    NotADirectory(PathBuf),
    /// Whoever owns it decides what is in it.
    #[error("{} belongs to user {owner}, and this is user {us}: name a directory that does not exist yet, or one of one's own", path.display())]
    ForeignOwner {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who asks.
        us: u32,
    },
    /// Others could put native code there.
    #[error("{} may be written by others (mode {mode:o}): chmod 0700, or name a directory that does not exist yet", path.display())]
    OpenToOthers {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Neither the configured directory nor any of the temporary ones can be written.
    #[error("compiled components cannot be stored anywhere: {0}")]
    NowhereToWrite(String),
    /// All that is stored is in use.
    #[error("{} holds {used} bytes of compiled components that are in use, {more} more would be above its limit of {most}", path.display())]
    Full {
        /// The directory.
        path: PathBuf,
        /// Bytes in use.
        used: u64,
        /// Bytes to be stored.
        more: u64,
        /// The limit.
        most: u64,
    },
    /// The system said no.
    #[error("{step} in {}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// The directory.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

/// What makes artefacts usable for one engine and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of anything that changes when artefacts must not be used any more: the engine's
    /// `precompile_compatibility_hash`, and the limits of the check that came before compilation.
    /// The version of this crate always counts.
    pub fn of(what: &impl Hash) -> Self {
        let mut feed = Feed(Sha256::new_with_prefix(env!("CARGO_PKG_VERSION")));
        what.hash(&mut feed);
        Self(feed.0.finalize().into())
    }
}

/// Hands what is hashed on to sha256: 64 bits are few for what decides over native code.
struct Feed(Sha256);

impl Hasher for Feed {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let sum = self.0.clone().finalize();
        sum.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

/// What has happened since the cache was opened, and what is there now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Artefacts that were there and whole.
    pub hits: u64,
    /// Artefacts that were not there.
    pub misses: u64,
    /// Files that were not what their name says, and were deleted.
    pub corrupt: u64,
    /// Artefacts that made room for others.
    pub evicted: u64,
    /// Artefacts that were stored outside the configured directory.
    pub elsewhere: u64,
    /// Bytes of all artefacts.
    pub bytes: u64,
    /// Number of all artefacts.
    pub entries: u64,
}

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    corrupt: AtomicU64,
    evicted: AtomicU64,
    elsewhere: AtomicU64,
}

/// Artefacts on disk, bounded in bytes; the least recently used one goes first.
#[derive(Debug)]
pub struct Cache {
    fingerprint: Fingerprint,
    /// Never empty. Only the first may be unwritable.
    places: Vec<Directory>,
    counters: Counters,
}

impl Cache {
    /// Opens `directory`, which is made (mode 0700) unless it exists, for at most `most` bytes of
    /// artefacts. The parent may be anybody's: in a pod, name a directory inside the volume. The
    /// fallback is `windlass-artefacts-<uid>` in the system's temporary directory or in `/dev/shm`.
    ///
    /// # Errors
    /// [`CacheError`]: a directory that is not private, or nothing that can be written. A
    /// directory that is only read-only, full or impossible to make is not an error.
    pub fn open(directory: &Path, most: u64, fingerprint: Fingerprint) -> Result<Self, CacheError> {
        let spares = [std::env::temp_dir(), PathBuf::from("/dev/shm")];
        let name = format!("windlass-artefacts-{}", rustix::process::geteuid().as_raw());
        Self::open_with(directory, &spares.map(|spare| spare.join(&name)), most, fingerprint)
    }

    /// As [`open`](Self::open), with the directories that are tried when the first cannot be written.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        directory: &Path,
        spares: &[PathBuf],
        most: u64,
        fingerprint: Fingerprint,
    ) -> Result<Self, CacheError> {
        let mut reasons = Vec::new();
        let mut places = Vec::new();
        match Directory::open(directory, most) {
            Ok(first) => {
                if let Some(reason) = first.unwritable() {
                    reasons.push(reason.to_owned());
                }
                places.push(first);
            }
            Err(CacheError::Io { step, path, source }) => {
                reasons.push(format!("{step} in {}: {source}", path.display()));
            }
            Err(unsafe_place) => return Err(unsafe_place),
        }
        // Somebody named the first. That there is no spare, as in a pod with nothing to write but its
        // volume, is nobody's fault.
        let of_the_first = reasons.len();
        // One that works is enough. It exists from now on: the process without powers is told once
        // which directories it may read.
        for spare in spares {
            match Directory::open(spare, most) {
                // The same directory under both names: once is enough.
                Ok(spare) if places.iter().any(|place: &Directory| place.path() == spare.path()) => {}
                Ok(spare) if spare.unwritable().is_none() => {
                    places.push(spare);
                    break;
                }
                Ok(spare) => reasons.extend(spare.unwritable().map(str::to_owned)),
                Err(error) => reasons.push(sentence(&error)),
            }
        }
        if !places.iter().any(|place| place.unwritable().is_none()) {
            return Err(CacheError::NowhereToWrite(reasons.join("; ")));
        }
        for (number, reason) in reasons.iter().enumerate() {
            if number < of_the_first {
                tracing::warn!(reason, "the directory for compiled components is not written to");
            } else {
                tracing::debug!(reason, "no spare directory for compiled components there");
            }
        }
        Ok(Self { fingerprint, places, counters: Counters::default() })
    }

    /// The directories whose files must be readable to whoever loads artefacts.
    pub fn directories(&self) -> impl Iterator<Item = &Path> {
        self.places.iter().map(Directory::path)
    }

    /// What has happened so far; reads the directories.
    pub fn stats(&self) -> CacheStats {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { hits, misses, corrupt, evicted, elsewhere } = &self.counters;
        let sizes: Vec<u64> = self.places.iter().flat_map(Directory::sizes).collect();
        CacheStats {
            hits: of(hits),
            misses: of(misses),
            corrupt: of(corrupt),
            evicted: of(evicted),
            elsewhere: of(elsewhere),
            bytes: sizes.iter().sum(),
            entries: sizes.len() as u64,
        }
    }

    fn key(&self, digest: &Digest) -> String {
        let sum = Sha256::new_with_prefix(self.fingerprint.0).chain_update(digest.as_str()).finalize();
        entry::hex(&sum)
    }

    fn look(&self, digest: &Digest) -> Option<Kept> {
        let key = self.key(digest);
        self.places.iter().find_map(|place| {
            let Found { kept, corrupt } = place.find(&key);
            self.counters.corrupt.fetch_add(corrupt, Ordering::Relaxed);
            kept
        })
    }

    /// Compiles into one place and stores what came of it there.
    fn keep_in(&self, place: &Directory, key: &str, compile: CompileInto<'_>) -> Result<Kept, Failed> {
        let temporary = place.temporary();
        let tier = compile(temporary.path()).map_err(Failed::Refused)?;
        let (kept, evicted) = place.store(&temporary, key, tier).map_err(Failed::Place)?;
        self.counters.evicted.fetch_add(evicted, Ordering::Relaxed);
        Ok(kept)
    }
}

/// Why one place holds no artefact now.
enum Failed {
    Refused(Refusal),
    Place(CacheError),
}

impl Failed {
    /// Whether another place may do better: the component is not to blame.
    fn is_the_places(&self, place: &Directory) -> bool {
        match self {
            Failed::Refused(refusal) => refusal.code == Code::CompileFailed && place.room() < AMPLE_BYTES,
            Failed::Place(error) => matches!(error, CacheError::Io { .. }),
        }
    }

    fn into_refusal(self) -> Refusal {
        match self {
            Failed::Refused(refusal) => refusal,
            Failed::Place(error) => Refusal::new(Code::CompileFailed, sentence(&error)),
        }
    }
}

impl Artefacts for Cache {
    fn find(&self, digest: &Digest) -> Option<Kept> {
        let kept = self.look(digest);
        let counter = if kept.is_some() { &self.counters.hits } else { &self.counters.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        kept
    }

    fn keep(&self, digest: &Digest, compile: CompileInto<'_>) -> Result<Kept, Refusal> {
        let key = self.key(digest);
        let mut last = None;
        let writable: Vec<&Directory> =
            self.places.iter().filter(|place| place.unwritable().is_none()).collect();
        // A place with little room is only tried when there is no other.
        let roomy = writable.iter().filter(|place| place.room() >= ROOM_BYTES);
        let tight = writable.iter().filter(|place| place.room() < ROOM_BYTES);
        for place in roomy.chain(tight) {
            match self.keep_in(place, &key, &mut *compile) {
                Ok(kept) => {
                    let first = self.places.first().is_some_and(|first| std::ptr::eq(first, *place));
                    self.counters.elsewhere.fetch_add(u64::from(!first), Ordering::Relaxed);
                    return Ok(kept);
                }
                Err(failed) if failed.is_the_places(place) => last = Some(failed),
                Err(failed) => return Err(failed.into_refusal()),
            }
        }
        Err(last.map_or_else(
            || Refusal::new(Code::CompileFailed, "compiled components cannot be stored anywhere"),
            Failed::into_refusal,
        ))
    }

    fn discard(&self, digest: &Digest) {
        let key = self.key(digest);
        for place in &self.places {
            place.forget(&key);
        }
    }
}

/// An error with its cause, for a refusal.
fn sentence(error: &CacheError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

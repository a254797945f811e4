//! One directory of artefacts: private, shared by processes of one user, bounded.
//!
//! Locks are `flock`s on the artefacts themselves: whoever uses one holds it shared, whoever
//! evicts one must get it alone. They go with the process, however it ends.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};
use windlass_core::guests::Tier;

use super::CacheError;
use super::entry::{Entry, hex};
use crate::artefacts::Kept;

/// How the names of unfinished files begin.
const TEMPORARY: &str = ".windlass-new-";
/// Unfinished files are a dead process's after this long: nothing compiles for minutes.
const ABANDONED: Duration = Duration::from_secs(3600);
/// How often a new artefact is given its name before somebody is said to hold on to it. The pauses
/// between add up to a second: who evicts the old one under that name needs microseconds, on a
/// machine without processors to spare a few turns of the scheduler.
const ATTEMPTS: u32 = 45;
/// The longest pause between two attempts; the first is one millisecond.
const PAUSE_AT_MOST: Duration = Duration::from_millis(25);

/// What a look into the directory gave.
pub(super) struct Found {
    pub(super) kept: Option<Kept>,
    /// Files that were deleted because they were not what they should be.
    pub(super) corrupt: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    most: u64,
    us: u32,
    /// Why nothing can be written here.
    unwritable: Option<String>,
}

/// A path for a new file, which is removed unless it was stored.
pub(super) struct Temporary(PathBuf);

impl Temporary {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Usually gone: it was stored under its name, or the compiler removed it.
        let _ = fs::remove_file(&self.0);
    }
}

/// Why a file is not taken for an artefact.
enum Unfit {
    /// It has just gone, or is about to.
    Gone,
    /// It is not what its name says.
    Corrupt,
}

impl Directory {
    pub(super) fn open(path: &Path, most: u64) -> Result<Self, CacheError> {
        let io = |step| move |source| CacheError::Io { step, path: path.to_owned(), source };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .or_else(|e| if fs::symlink_metadata(path).is_ok() { Ok(()) } else { Err(e) })
            .map_err(io("make the directory"))?;
        let meta = fs::symlink_metadata(path).map_err(io("look at the directory"))?;
        let us = rustix::process::geteuid().as_raw();
        if !meta.is_dir() {
            return Err(CacheError::NotADirectory(path.to_owned()));
        }
        if meta.uid() != us {
            return Err(CacheError::ForeignOwner { path: path.to_owned(), owner: meta.uid(), us });
        }
        if meta.mode() & 0o022 != 0 {
            return Err(CacheError::OpenToOthers { path: path.to_owned(), mode: meta.mode() & 0o7777 });
        }
        let path = fs::canonicalize(path).map_err(io("look at the directory"))?;
        let mut directory = Self { path, most, us, unwritable: None };
        directory.unwritable = directory.trial().err().map(|e| format!("{}: {e}", directory.path.display()));
        directory.remove_abandoned();
        Ok(directory)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Why nothing can be written here; `None` if it can.
    pub(super) fn unwritable(&self) -> Option<&str> {
        self.unwritable.as_deref()
    }

    /// Bytes that are free on its file system; plenty where that is not known.
    pub(super) fn room(&self) -> u64 {
        rustix::fs::statvfs(&self.path).map_or(u64::MAX, |now| now.f_bavail.saturating_mul(now.f_frsize))
    }

    /// The artefact of `key`, checked; the better tier first.
    pub(super) fn find(&self, key: &str) -> Found {
        let mut known: Vec<Entry> = self.entries().filter(|entry| entry.key == key).collect();
        known.sort_by_key(|entry| entry.tier == Tier::Cheap);
        let mut corrupt = 0;
        for entry in known {
            match self.take(&entry) {
                Ok(kept) => return Found { kept: Some(kept), corrupt },
                Err(Unfit::Corrupt) => corrupt += 1,
                Err(Unfit::Gone) => {}
            }
        }
        Found { kept: None, corrupt }
    }

    /// Where a new artefact may be written. The name is nobody else's.
    pub(super) fn temporary(&self) -> Temporary {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let name = format!("{TEMPORARY}{}-{number}-{}", std::process::id(), now.as_nanos());
        Temporary(self.path.join(name))
    }

    /// Gives a finished file its name, and says how many others had to go.
    pub(super) fn store(
        &self,
        temporary: &Temporary,
        key: &str,
        tier: Tier,
    ) -> Result<(Kept, u64), CacheError> {
        let io = |step| move |source| CacheError::Io { step, path: self.path.clone(), source };
        self.remove_abandoned();
        let mut file = self.open_own(&temporary.0).map_err(io("read the new artefact"))?;
        file.sync_all().map_err(io("write the new artefact"))?;
        let (sum, bytes) = sum_of(&mut file).map_err(io("read the new artefact"))?;
        let entry = Entry { key: key.to_owned(), sum, bytes, tier };
        let evicted = self.make_room(bytes)?;
        // Ours from the first moment on: nobody may evict it before it is used.
        lock(&file).map_err(io("lock the new artefact"))?;
        let path = self.path.join(entry.file_name());
        for attempt in 1..=ATTEMPTS {
            match fs::hard_link(&temporary.0, &path) {
                Ok(()) => {
                    self.sync();
                    return Ok((Kept { path, tier, hold: Some(Arc::new(file)) }, evicted));
                }
                // Somebody was faster, or a file that is not what it says is in the way.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    match self.take(&entry) {
                        Ok(kept) => return Ok((kept, evicted)),
                        // It is just being evicted: the name is free in a moment.
                        Err(Unfit::Gone) => {
                            std::thread::sleep(PAUSE_AT_MOST.min(Duration::from_millis(attempt.into())));
                        }
                        Err(Unfit::Corrupt) => {}
                    }
                }
                // A file system without links; two who store the same at once replace like with like.
                Err(_) => {
                    fs::rename(&temporary.0, &path).map_err(io("name the new artefact"))?;
                    self.sync();
                    return Ok((Kept { path, tier, hold: Some(Arc::new(file)) }, evicted));
                }
            }
        }
        let blocked = io::Error::new(io::ErrorKind::AlreadyExists, "its name is taken");
        Err(io("name the new artefact")(blocked))
    }

    /// Deletes what there is of `key`, in use or not: it is of no use to anybody with this key.
    pub(super) fn forget(&self, key: &str) {
        for entry in self.entries().filter(|entry| entry.key == key) {
            let _ = fs::remove_file(self.path.join(entry.file_name()));
        }
    }

    /// Bytes of each artefact.
    pub(super) fn sizes(&self) -> Vec<u64> {
        self.entries().map(|entry| entry.bytes).collect()
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        let files = fs::read_dir(&self.path).into_iter().flatten().flatten();
        files.filter_map(|file| Entry::parse(file.file_name().to_str()?))
    }

    /// Opens what `entry` names and compares all of it; holds it from then on.
    fn take(&self, entry: &Entry) -> Result<Kept, Unfit> {
        let path = self.path.join(entry.file_name());
        let mut file = match self.open_own(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Unfit::Gone),
            Err(_) => return Err(self.corrupt(&path)),
        };
        // Whoever holds it alone is about to delete it.
        if matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)) {
            return Err(Unfit::Gone);
        }
        match file.metadata() {
            Ok(meta) if meta.nlink() == 0 => return Err(Unfit::Gone),
            Ok(meta) if meta.len() == entry.bytes => {}
            _ => return Err(self.corrupt(&path)),
        }
        match sum_of(&mut file) {
            Ok((sum, bytes)) if sum == entry.sum && bytes == entry.bytes => {}
            _ => return Err(self.corrupt(&path)),
        }
        // Says when it was used last; where the directory is read-only nothing is evicted anyway.
        let _ = file.set_modified(SystemTime::now());
        Ok(Kept { path, tier: entry.tier, hold: Some(Arc::new(file)) })
    }

    /// Opens a regular file that belongs to this user and that nobody else may write.
    fn open_own(&self, path: &Path) -> io::Result<File> {
        // Neither follows a link nor waits for the other end of a pipe.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let meta = file.metadata()?;
        let own = meta.is_file() && meta.uid() == self.us && meta.mode() & 0o022 == 0;
        own.then_some(file).ok_or_else(|| io::Error::other("not a private file of this user"))
    }

    /// Deletes what is not what it should be.
    fn corrupt(&self, path: &Path) -> Unfit {
        tracing::warn!(path = %path.display(), "a compiled component is not what was stored; it is compiled again");
        if let Err(error) = fs::remove_file(path) {
            tracing::debug!(%error, path = %path.display(), "it cannot be deleted");
        }
        Unfit::Corrupt
    }

    /// Evicts until `more` bytes fit.
    fn make_room(&self, more: u64) -> Result<u64, CacheError> {
        let used_at = |entry: &Entry| {
            let meta = fs::symlink_metadata(self.path.join(entry.file_name()));
            meta.and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
        };
        let mut oldest_first: Vec<(SystemTime, Entry)> =
            self.entries().map(|entry| (used_at(&entry), entry)).collect();
        oldest_first.sort_by_key(|(at, _)| *at);
        let mut used: u64 = oldest_first.iter().map(|(_, entry)| entry.bytes).sum();
        let mut evicted = 0;
        for (_, entry) in oldest_first {
            if used.saturating_add(more) <= self.most {
                break;
            }
            if self.evict(&entry) {
                used -= entry.bytes;
                evicted += 1;
            }
        }
        if used.saturating_add(more) > self.most {
            return Err(CacheError::Full { path: self.path.clone(), used, more, most: self.most });
        }
        Ok(evicted)
    }

    /// Deletes an artefact that nobody uses.
    fn evict(&self, entry: &Entry) -> bool {
        let path = self.path.join(entry.file_name());
        match self.open_own(&path) {
            Ok(file) if matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)) => false,
            // Held alone, or nothing that could be used.
            _ => fs::remove_file(&path).is_ok(),
        }
    }

    /// Deletes what processes left unfinished that are no more.
    fn remove_abandoned(&self) {
        for file in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let ours = file.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY));
            let age = file.metadata().and_then(|meta| meta.modified()).map(|at| at.elapsed());
            if ours && age.is_ok_and(|age| age.is_ok_and(|age| age > ABANDONED)) {
                let _ = fs::remove_file(file.path());
            }
        }
    }

    /// Whether a file can be made here.
    fn trial(&self) -> io::Result<()> {
        let trial = self.temporary();
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(trial.path()).map(drop)
    }

    /// Makes names last through a crash. Losing one costs a compilation.
    fn sync(&self) {
        let _ = File::open(&self.path).and_then(|directory| directory.sync_all());
    }
}

/// Holds a new file shared. Where the file system knows no locks, nothing is protected from
/// eviction by other processes.
fn lock(file: &File) -> io::Result<()> {
    match file.try_lock_shared() {
        Err(fs::TryLockError::Error(e)) if e.kind() != io::ErrorKind::Unsupported => Err(e),
        _ => Ok(()),
    }
}

/// The sha256 of all that a file holds, and its length.
fn sum_of(file: &mut File) -> io::Result<(String, u64)> {
    let mut sum = Sha256::new();
    let mut bytes = 0;
    let mut buffer = vec![0; 128 << 10];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((hex(&sum.finalize()), bytes));
        }
        sum.update(&buffer[..read]);
        bytes += read as u64;
    }
}

//! The artefact cache, against everything that can be wrong with a directory.
//!
//! Artefacts are plain bytes here: the cache must never need to understand them.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use windlass_core::code::{Code, Refusal};
use windlass_core::guests::Tier;
use windlass_core::name::Digest;
use windlass_plugin::{Artefacts, Cache, CacheError, Fingerprint, Kept};

const MANY: u64 = 1 << 30;

struct Scene {
    root: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self { root: TempDir::new().expect("a directory") }
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join("artefacts")
    }

    fn spare(&self) -> PathBuf {
        self.root.path().join("spare")
    }

    fn open(&self, most: u64) -> Cache {
        self.try_open(most).expect("a cache")
    }

    fn try_open(&self, most: u64) -> Result<Cache, CacheError> {
        Cache::open_with(&self.directory(), &[self.spare()], most, Fingerprint::of(&1))
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).expect("readable").map(|file| file.expect("a file").path()).collect()
}

/// As the host does it: a new file that nobody else may read.
fn write(bytes: &[u8], into: &Path) {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(into).expect("new");
    file.write_all(bytes).expect("written");
}

fn keep(cache: &Cache, name: &str, bytes: &[u8]) -> Result<Kept, Refusal> {
    cache.keep(&Digest::of(name.as_bytes()), &mut |into| {
        write(bytes, into);
        Ok(Tier::Optimised)
    })
}

fn find(cache: &Cache, name: &str) -> Option<Kept> {
    cache.find(&Digest::of(name.as_bytes()))
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 % 251) as u8).collect()
}

#[test]
fn what_was_kept_is_found_by_the_next_process() {
    let scene = Scene::new();
    let kept = keep(&scene.open(MANY), "a", b"code").expect("kept");
    assert_eq!(fs::read(&kept.path).expect("there"), b"code");
    assert_eq!(fs::metadata(scene.directory()).expect("there").mode() & 0o777, 0o700);
    let cache = scene.open(MANY);
    let found = find(&cache, "a").expect("found");
    assert_eq!((&found.path, found.tier), (&kept.path, Tier::Optimised));
    assert!(find(&cache, "b").is_none());
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.entries, stats.bytes), (1, 1, 1, 4));
}

#[test]
fn artefacts_of_another_engine_are_not_found() {
    let scene = Scene::new();
    keep(&scene.open(MANY), "a", b"code").expect("kept");
    let other =
        Cache::open_with(&scene.directory(), &[], MANY, Fingerprint::of(&2)).expect("the same directory");
    assert!(find(&other, "a").is_none());
}

#[test]
fn the_better_tier_is_found_and_says_which_it_is() {
    let scene = Scene::new();
    let cache = scene.open(MANY);
    let digest = Digest::of(b"a");
    for tier in [Tier::Cheap, Tier::Optimised] {
        let kept = cache.keep(&digest, &mut |into| {
            write(format!("{tier:?}").as_bytes(), into);
            Ok(tier)
        });
        assert_eq!(kept.expect("kept").tier, tier);
        assert_eq!(cache.find(&digest).expect("found").tier, tier);
    }
}

#[test]
fn a_flipped_bit_anywhere_is_noticed_and_the_file_made_again() {
    let scene = Scene::new();
    let cache = scene.open(MANY);
    let good = bytes(64 << 10);
    let path = keep(&cache, "a", &good).expect("kept").path;
    let offsets: Vec<usize> = (0..good.len()).step_by(1 << 10).chain([good.len() - 1]).collect();
    for at in &offsets {
        let mut bad = good.clone();
        bad[*at] ^= 1;
        fs::write(&path, bad).expect("written");
        assert!(find(&cache, "a").is_none(), "the bit at {at}");
        assert!(!path.exists(), "deleted");
        keep(&cache, "a", &good).expect("kept again");
        assert!(find(&cache, "a").is_some());
    }
    assert_eq!(cache.stats().corrupt, offsets.len() as u64);
}

#[test]
fn a_truncated_lengthened_or_empty_file_is_noticed() {
    let scene = Scene::new();
    let cache = scene.open(MANY);
    let good = bytes(10_000);
    let path = keep(&cache, "a", &good).expect("kept").path;
    for bad in [&good[..9_999], &good[..4096], &[], &[good.as_slice(), b"x"].concat()] {
        fs::write(&path, bad).expect("written");
        assert!(find(&cache, "a").is_none(), "{} bytes", bad.len());
        keep(&cache, "a", &good).expect("kept again");
    }
    assert_eq!(cache.stats().corrupt, 4);
}

#[test]
fn what_is_no_private_file_is_not_taken_for_an_artefact() {
    let scene = Scene::new();
    let cache = scene.open(MANY);
    let path = keep(&cache, "a", b"code").expect("kept").path;
    let elsewhere = scene.root.path().join("elsewhere");
    write(b"code", &elsewhere);

    fs::remove_file(&path).expect("removed");
    symlink(&elsewhere, &path).expect("linked");
    assert!(find(&cache, "a").is_none(), "a symbolic link to the right bytes");
    assert!(elsewhere.exists(), "what it points to is left alone");

    keep(&cache, "a", b"code").expect("kept again");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("set");
    assert!(find(&cache, "a").is_none(), "anybody may write it");

    let pipe =
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0);
    pipe.expect("a pipe");
    assert!(find(&cache, "a").is_none(), "a pipe that nobody writes into");

    fs::create_dir(&path).expect("made");
    assert!(find(&cache, "a").is_none(), "a directory");
    assert_eq!(cache.stats().corrupt, 4);
}

#[test]
fn a_file_of_another_user_is_not_taken() {
    let scene = Scene::new();
    let cache = scene.open(MANY);
    let path = keep(&cache, "a", b"code").expect("kept").path;
    if std::os::unix::fs::chown(&path, Some(12_345), None).is_err() {
        eprintln!("not tried: only root can give files away");
        return;
    }
    assert!(find(&cache, "a").is_none());
    assert_eq!(cache.stats().corrupt, 1);
}

#[test]
fn a_directory_that_is_not_private_is_refused() {
    let scene = Scene::new();
    fs::create_dir(scene.directory()).expect("made");
    for mode in [0o777, 0o770, 0o1777, 0o702] {
        fs::set_permissions(scene.directory(), fs::Permissions::from_mode(mode)).expect("set");
        let error = scene.try_open(MANY).expect_err("open to others");
        assert!(matches!(error, CacheError::OpenToOthers { .. }), "{mode:o}: {error}");
    }
    fs::set_permissions(scene.directory(), fs::Permissions::from_mode(0o755)).expect("set");
    scene.try_open(MANY).expect("others may look");
    if std::os::unix::fs::chown(scene.directory(), Some(12_345), None).is_ok() {
        let error = scene.try_open(MANY).expect_err("somebody else's");
        assert!(matches!(error, CacheError::ForeignOwner { owner: 12_345, .. }), "{error}");
    }
}

#[test]
fn a_link_or_a_file_instead_of_the_directory_is_refused() {
    let scene = Scene::new();
    let real = scene.root.path().join("real");
    fs::create_dir(&real).expect("made");
    symlink(&real, scene.directory()).expect("linked");
    assert!(matches!(scene.try_open(MANY), Err(CacheError::NotADirectory(_))));
    fs::remove_file(scene.directory()).expect("removed");
    write(b"", &scene.directory());
    assert!(matches!(scene.try_open(MANY), Err(CacheError::NotADirectory(_))));
}

#[test]
fn foreign_files_in_the_directory_are_left_alone() {
    let scene = Scene::new();
    fs::create_dir(scene.directory()).expect("made");
    fs::set_permissions(scene.directory(), fs::Permissions::from_mode(0o700)).expect("set");
    let names = ["notes.txt", ".hidden", "ü", "0000-1111-5-cheap", "-", "a-b-c-d-e"];
    for name in names {
        write(b"somebody's", &scene.directory().join(name));
    }
    fs::create_dir(scene.directory().join("folder")).expect("made");
    let cache = scene.open(4);
    keep(&cache, "a", b"code").expect("the bound is about artefacts");
    assert_eq!(cache.stats().entries, 1);
    assert_eq!(files(&scene.directory()).len(), names.len() + 2);
}

#[test]
fn what_dead_processes_left_unfinished_is_cleaned_away() {
    let scene = Scene::new();
    let cache = scene.open(MANY);
    let (old, young) =
        (scene.directory().join(".windlass-new-1-1-1"), scene.directory().join(".windlass-new-2-2-2"));
    for path in [&old, &young] {
        write(b"half", path);
    }
    let two_hours_ago = SystemTime::now() - Duration::from_secs(7200);
    OpenOptions::new().write(true).open(&old).and_then(|f| f.set_modified(two_hours_ago)).expect("set");
    keep(&cache, "a", b"code").expect("kept");
    assert!(!old.exists());
    assert!(young.exists(), "its process may live");
}

#[test]
fn a_compilation_that_fails_leaves_nothing() {
    let scene = Scene::new();
    let cache = scene.open(MANY);
    let refusal = cache.keep(&Digest::of(b"a"), &mut |into| {
        write(b"half", into);
        Err(Refusal::new(Code::CompileTimeout, "too slow"))
    });
    assert_eq!(refusal.expect_err("refused").code, Code::CompileTimeout);
    let refusal = cache.keep(&Digest::of(b"a"), &mut |_| Ok(Tier::Cheap)).expect_err("there is no file");
    assert_eq!(refusal.code, Code::CompileFailed);
    assert!(files(&scene.directory()).is_empty());
    assert!(files(&scene.spare()).is_empty());
}

#[test]
fn the_least_recently_used_goes_first_and_nothing_in_use_goes() {
    let scene = Scene::new();
    let cache = scene.open(30);
    let used_at = |kept: &Kept, seconds: u64| {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        OpenOptions::new().write(true).open(&kept.path).and_then(|f| f.set_modified(at)).expect("set");
    };
    for (name, at) in [("a", 1), ("b", 2), ("c", 3)] {
        used_at(&keep(&cache, name, &[0; 10]).expect("fits"), at);
    }
    let a = find(&cache, "a").expect("found");
    used_at(&a, 1);
    keep(&cache, "d", &[0; 10]).expect("b makes room: a is older, but in use");
    assert!(find(&cache, "b").is_none());
    assert!(find(&cache, "c").is_some(), "looked at: now it is the youngest");
    drop(a);
    keep(&cache, "e", &[0; 20]).expect("a and d make room");
    let left: Vec<&str> =
        ["a", "b", "c", "d", "e"].into_iter().filter(|n| find(&cache, n).is_some()).collect();
    assert_eq!(left, ["c", "e"]);
    assert_eq!(cache.stats().evicted, 3);
    assert_eq!(cache.stats().bytes, 30);
}

#[test]
fn the_bound_holds_when_everything_is_in_use() {
    let scene = Scene::new();
    let cache = scene.open(30);
    let held: Vec<Kept> = ["a", "b", "c"].map(|name| keep(&cache, name, &[0; 10]).expect("fits")).into();
    // Another process, as far as locks can tell.
    let other = scene.open(30);
    for cache in [&cache, &other] {
        let refusal = keep(cache, "d", &[0; 10]).expect_err("no room");
        assert_eq!(refusal.code, Code::CompileFailed);
        assert!(refusal.message.contains("30 bytes of compiled components that are in use"), "{refusal}");
    }
    assert!(held.iter().all(|kept| kept.path.exists()));
    drop(held);
    keep(&other, "d", &[0; 10]).expect("one made room");
}

#[test]
fn what_is_of_no_use_is_made_again() {
    let scene = Scene::new();
    let cache = scene.open(MANY);
    let held = keep(&cache, "a", b"code").expect("kept");
    cache.discard(&Digest::of(b"a"));
    assert!(find(&cache, "a").is_none());
    assert!(!held.path.exists());
}

#[test]
fn many_writers_and_readers_in_one_directory_see_whole_artefacts_only() {
    let scene = Scene::new();
    let contents: Vec<Vec<u8>> = (0..4).map(|i| bytes(20_000 + i)).collect();
    let most = 60_000;
    std::thread::scope(|threads| {
        for worker in 0..4 {
            let (scene, contents) = (&scene, &contents);
            threads.spawn(move || {
                let cache = scene.open(most);
                for round in 0..40 {
                    let which = (round * 7 + worker) % 4;
                    let name = which.to_string();
                    let kept = find(&cache, &name).map_or_else(|| keep(&cache, &name, &contents[which]), Ok);
                    match kept {
                        Ok(kept) => {
                            assert_eq!(fs::read(&kept.path).expect("in use"), contents[which]);
                        }
                        Err(refusal) => assert!(refusal.message.contains("in use"), "{refusal}"),
                    }
                }
                assert_eq!(cache.stats().corrupt, 0);
            });
        }
    });
    // Once more by one alone: then the bound is exact. Nobody had to leave the directory for it.
    let cache = scene.open(most);
    keep(&cache, "last", &bytes(20_000)).expect("kept");
    assert_eq!(files(&scene.spare()), [] as [PathBuf; 0]);
    assert!(cache.stats().bytes <= most);
}

#[test]
fn what_is_being_evicted_under_the_same_name_is_waited_for() {
    let scene = Scene::new();
    let cache = scene.open(MANY);
    let path = keep(&cache, "a", b"code").expect("kept").path;
    // Whoever evicts holds the file alone, and deletes it.
    let evicting = fs::File::open(&path).expect("there");
    evicting.try_lock().expect("nobody uses it");
    let kept = std::thread::scope(|threads| {
        let stored = threads.spawn(|| keep(&cache, "a", b"code").expect("kept"));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!stored.is_finished(), "it has to wait for the name");
        fs::remove_file(&path).expect("deleted");
        drop(evicting);
        stored.join().expect("no panic")
    });
    assert_eq!((&kept.path, cache.stats().elsewhere), (&path, 0));
}

#[test]
fn a_directory_that_cannot_be_made_is_replaced_by_a_spare_one() {
    let scene = Scene::new();
    let fingerprint = Fingerprint::of(&1);
    // The kernel's own: not even root can make anything there.
    let impossible = Path::new("/proc/windlass/artefacts");
    let cache = Cache::open_with(impossible, &[scene.spare()], MANY, fingerprint).expect("the spare one");
    let kept = keep(&cache, "a", b"code").expect("kept");
    assert!(kept.path.starts_with(fs::canonicalize(scene.spare()).expect("there")));
    assert!(cache.directories().any(|directory| kept.path.starts_with(directory)));
    assert!(find(&cache, "a").is_some());

    let error =
        Cache::open_with(impossible, &[impossible.to_owned()], MANY, fingerprint).expect_err("nowhere");
    assert!(matches!(error, CacheError::NowhereToWrite(_)));
    assert!(error.to_string().contains("/proc/windlass/artefacts"), "{error}");
}

#[test]
fn a_spare_directory_of_somebody_else_is_not_used() {
    let scene = Scene::new();
    fs::create_dir(scene.spare()).expect("made");
    fs::set_permissions(scene.spare(), fs::Permissions::from_mode(0o777)).expect("set");
    let cache = scene.open(MANY);
    assert_eq!(cache.directories().count(), 1);
}

#[test]
fn a_spare_directory_that_is_the_first_one_counts_once() {
    let scene = Scene::new();
    let cache = Cache::open_with(&scene.directory(), &[scene.directory()], MANY, Fingerprint::of(&1));
    let cache = cache.expect("a cache");
    keep(&cache, "a", b"code").expect("kept");
    assert_eq!((cache.directories().count(), cache.stats().entries), (1, 1));
}

/// Runs this test again in a mount namespace of its own, with a file system of 24 MiB in the
/// directory that the variable names. Nothing of it is left in this one.
fn on_a_small_disk(test: &str, options: &str) -> Option<PathBuf> {
    const VARIABLE: &str = "WINDLASS_TEST_SMALL_DISK";
    if let Some(directory) = std::env::var_os(VARIABLE) {
        return Some(directory.into());
    }
    let scene = Scene::new();
    let (directory, this) = (scene.root.path(), std::env::current_exe().expect("a path"));
    let script = format!("mount -t tmpfs -o {options} none \"$1\" && exec \"$2\" --exact {test} --nocapture");
    let probe = Command::new("unshare").args(["-rm", "true"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("not tried: this machine lets nobody make a mount namespace");
        return None;
    }
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", &script, "sh"])
        .args([directory, &this])
        .env(VARIABLE, directory)
        .output()
        .expect("it has just been there");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
    None
}

#[test]
fn a_full_disk_is_avoided_and_then_said() {
    let Some(small) = on_a_small_disk("a_full_disk_is_avoided_and_then_said", "size=24m,mode=755") else {
        return;
    };
    let scene = Scene::new();
    let directory = small.join("artefacts");
    let cache =
        Cache::open_with(&directory, &[scene.spare()], MANY, Fingerprint::of(&1)).expect("room for now");
    // While it is compiled the disk runs full.
    let mut tries = 0;
    let kept = cache.keep(&Digest::of(b"a"), &mut |into| {
        tries += 1;
        let made = fs::write(into, vec![7; 40 << 20]);
        made.map(|()| Tier::Cheap).map_err(|e| Refusal::new(Code::CompileFailed, e.to_string()))
    });
    // 40 MiB do not fit into 24: compiled once more, into the spare directory.
    assert_eq!(tries, 2);
    assert!(kept.expect("kept").path.starts_with(scene.spare()));
    assert_eq!(cache.stats().elsewhere, 1);
    assert!(files(&directory).is_empty());

    // Full from the start: nothing is compiled twice.
    fs::write(small.join("ballast"), vec![1; 12 << 20]).expect("room for now");
    let kept = keep(&cache, "b", b"code").expect("kept");
    assert!(kept.path.starts_with(scene.spare()));

    // Full and no spare: what fits is kept all the same, what does not is refused with the reason.
    let alone = Cache::open_with(&directory, &[], MANY, Fingerprint::of(&1)).expect("room for a name");
    keep(&alone, "c", b"code").expect("fits");
    let refusal = alone.keep(&Digest::of(b"d"), &mut |into| {
        let made = fs::write(into, vec![7; 40 << 20]);
        made.map(|()| Tier::Cheap).map_err(|e| Refusal::new(Code::CompileFailed, e.to_string()))
    });
    let refusal = refusal.expect_err("40 MiB do not fit");
    assert!(refusal.message.contains("No space left"), "{refusal}");
    assert_eq!(files(&directory).len(), 1);
}

#[test]
fn a_read_only_directory_serves_and_new_ones_go_elsewhere() {
    let Some(small) =
        on_a_small_disk("a_read_only_directory_serves_and_new_ones_go_elsewhere", "size=24m,mode=755")
    else {
        return;
    };
    let scene = Scene::new();
    let directory = small.join("artefacts");
    let open = || Cache::open_with(&directory, &[scene.spare()], MANY, Fingerprint::of(&1)).expect("a cache");
    keep(&open(), "a", b"code").expect("kept");
    let status = Command::new("mount").args(["-o", "remount,ro"]).arg(&small).status().expect("mount");
    assert!(status.success());
    let cache = open();
    assert!(find(&cache, "a").expect("found").path.starts_with(&small));
    assert!(keep(&cache, "b", b"code").expect("kept").path.starts_with(scene.spare()));
    let error = Cache::open_with(&directory, &[], MANY, Fingerprint::of(&1)).expect_err("nowhere to write");
    assert!(error.to_string().contains("Read-only file system"), "{error}");
}

//! A pool over fake workers, and what is asked of it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use windlass_core::code::{Code, Refusal};
use windlass_core::decision::Verdict;
use windlass_core::guests::{Call, Called, Guests, Load, LoadId, Text, Texts};
use windlass_core::key::ObjectRef;
use windlass_core::limits::Limits;
use windlass_core::manifest::Manifest;
use windlass_core::name::{Digest, PluginName};
use windlass_core::ports::CallError;
use windlass_core::reads::Query;
use windlass_worker::pool::{Pool, PoolConfig};
use windlass_worker::process::Launch;
use windlass_worker::spare::Spare;

pub(crate) const LANES: usize = 32;

/// Whether calls are asked as tasks where that can be.
pub(crate) static AS_TASKS: AtomicBool = AtomicBool::new(false);
/// Calls that were.
pub(crate) static TASKS: AtomicU64 = AtomicU64::new(0);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // Soon gone when they have nothing to do: a test counts threads.
    let runtime = runtime.worker_threads(2).enable_all().thread_keep_alive(Duration::from_millis(10));
    runtime.build().expect("a runtime")
});

pub(crate) struct Scene {
    pub(crate) pool: Pool,
    pub(crate) folder: tempfile::TempDir,
    next: AtomicU64,
}

/// This program as a worker that may read `folder` and use so many MiB.
pub(crate) fn launch(program: &Path, folder: &Path, mib: u64) -> Launch {
    let folder = folder.to_str().expect("a plain path");
    let args = ["worker", folder, &mib.to_string(), &LANES.to_string()].map(Into::into);
    Launch { program: program.into(), args: args.into() }
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with(Path::new("/proc/self/exe"))
    }

    pub(crate) fn with(program: &Path) -> Self {
        // Its threads are there before anybody counts.
        LazyLock::force(&RUNTIME);
        Self::sized(program, 192)
    }

    /// With workers that may use so many MiB.
    pub(crate) fn sized(program: &Path, mib: u64) -> Self {
        Self::of(program, mib, LANES)
    }

    /// Where one call is made at a time, also by whoever fills a new worker.
    pub(crate) fn narrow() -> Self {
        Self::of(Path::new("/proc/self/exe"), 192, 1)
    }

    fn of(program: &Path, mib: u64, lanes: usize) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let pool = Pool::start(PoolConfig {
            shared: launch(program, folder.path(), mib),
            solo: launch(program, folder.path(), mib),
            lanes,
            require_sandbox: false,
            spare: Spare::new(),
        });
        Self { pool: pool.expect("a pool"), folder, next: AtomicU64::new(1) }
    }

    pub(crate) fn offer(&self, plugin: &str, script: &str) -> Load {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let artefact = self.folder.path().join(format!("{id}"));
        std::fs::write(&artefact, script).expect("written");
        Load {
            id: LoadId(id),
            plugin: PluginName::try_new(plugin).expect("a name"),
            digest: Digest::of(plugin.as_bytes()),
            artefact,
            limits: Limits { cpu: Duration::from_millis(200), ..Limits::default() },
        }
    }

    /// Loads a plugin that does `script` when it is loaded.
    pub(crate) fn try_load(&self, plugin: &str, script: &str) -> Result<(LoadId, Manifest), Refusal> {
        let load = self.offer(plugin, script);
        self.pool.load(&load).map(|manifest| (load.id, manifest))
    }

    pub(crate) fn load(&self, plugin: &str) -> LoadId {
        self.try_load(plugin, "fine").expect("loads").0
    }

    /// Has a plugin do `script`, the way the host does: as a task where that can be, and else on this thread.
    pub(crate) fn ask(&self, load: LoadId, script: &str) -> Called {
        let call = call(load, script);
        if AS_TASKS.load(Ordering::Relaxed) {
            let called = RUNTIME.block_on(async { self.pool.begin(&call, &shelf())?.await });
            if let Some(called) = called {
                TASKS.fetch_add(1, Ordering::Relaxed);
                return called;
            }
        }
        self.pool.call(&call, shelf())
    }

    /// As [`ask`](Self::ask), for the children of the decision.
    pub(crate) fn children(&self, load: LoadId, script: &str) -> Vec<String> {
        match self.ask(load, script).result {
            Ok(Verdict::Decision(decision)) => decision.children,
            other => panic!("{script}: {other:?}"),
        }
    }

    /// As [`ask`](Self::ask), for the refusal.
    pub(crate) fn refusal(&self, load: LoadId, script: &str) -> Refusal {
        match self.ask(load, script).result {
            Err(CallError::Refused(refusal)) => refusal,
            other => panic!("{script}: {other:?}"),
        }
    }

    pub(crate) fn answers(&self, load: LoadId) -> bool {
        self.children(load, "answer") == ["ns/a"]
    }

    /// Waits until there is a worker other than `pid`.
    pub(crate) fn next_worker(&self, pid: u32) -> u32 {
        until("another worker", || self.pool.status().pid.filter(|now| *now != pid))
    }

    pub(crate) fn pid(&self) -> u32 {
        until("a worker", || self.pool.status().pid)
    }
}

/// A call that has a plugin do `script`.
pub(crate) fn call(load: LoadId, script: &str) -> Call<'_> {
    Call {
        load,
        key: "ns/a".into(),
        pass: 1,
        finalize: false,
        suspect: script.starts_with("thread:suspect"),
        seed: "uid".into(),
        now: Duration::ZERO,
        primary: script.into(),
        children: Vec::new(),
        settings: None,
    }
}

pub(crate) fn shelf() -> Arc<dyn Texts> {
    Arc::new(Shelf)
}

pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a number");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("a process of ours");
}

/// Looks until there is something to see.
pub(crate) fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "waited for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A cache with an answer to everything.
pub(crate) struct Shelf;

impl Texts for Shelf {
    fn get(&self, of: &ObjectRef) -> Result<Option<Text>, Refusal> {
        match &*of.name {
            "secret" => Err(Refusal::new(Code::ReadNotAllowed, "v1/Secret is not in the manifest")),
            "absent" => Ok(None),
            "slow" => {
                std::thread::sleep(Duration::from_millis(900));
                Ok(Some(Text::Own("slow".into())))
            }
            name => Ok(Some(Text::Own(format!("{}/{name}", of.namespace).into()))),
        }
    }

    fn list(&self, query: &Query) -> Result<Vec<Text>, Refusal> {
        let count: usize = query.labels[0].1.parse().expect("a number");
        Ok((0..count).map(|_| Text::Own("x".repeat(1 << 20).into())).collect())
    }
}

//! Where strangers' code is kept, compiled and run: not in this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{info, warn};
use windlass_core::guests::Guests;
use windlass_core::limits::Limits;
use windlass_core::plan::Policy;
use windlass_plugin::verify::Verifier;
use windlass_plugin::{Cache, CacheStats, Fingerprint, Loader, Setup, compatibility};
use windlass_worker::budget::{Budget, cgroup_limit};
use windlass_worker::compile::{CompileChild, Compiling};
use windlass_worker::pool::{Pool, PoolConfig, Status};
use windlass_worker::process::Launch;
use windlass_worker::spare::Spare;

use crate::args::Run;
use crate::end::End;

/// Where the kernel shows control groups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// What holds, compiles and runs plugins.
pub(crate) struct Sandbox {
    pool: Arc<Pool>,
    compile: Arc<CompileChild>,
    artefacts: Arc<Cache>,
    budget: Budget,
}

/// The sandbox for the debug view.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SandboxView {
    worker: Status,
    memory: Budget,
}

/// Everything about the sandbox that can be refused before a process is started.
pub(crate) struct Prepared {
    pool: PoolConfig,
    compile: Compiling,
    artefacts: Arc<Cache>,
    budget: Budget,
}

impl Prepared {
    /// Reads the flags, shares out memory and opens the cache.
    ///
    /// # Errors
    /// [`End::Unusable`] with a sentence: memory that does not suffice, a directory that is not
    /// private.
    pub(crate) fn new(flags: &Run) -> Result<Self, End> {
        let plugins = &flags.plugins;
        let maxima = plugins.maxima().map_err(End::Unusable)?;
        let largest = maxima.largest(&plugins.limits().map_err(End::Unusable)?);
        let budget = Budget::plan(cgroup_limit(Path::new(CGROUPS)), plugins.memory());
        let budget = budget.map_err(|error| End::Unusable(error.to_string()))?;
        let artefacts = Arc::new(open_cache(flags, &largest)?);
        let lanes = usize::from(flags.max_concurrent_reconciles);
        let pool = PoolConfig {
            shared: worker(&artefacts, &largest, budget.worker, lanes)?,
            solo: worker(&artefacts, &largest, budget.spare, 1)?,
            lanes,
            spare: Spare::new(),
            require_sandbox: plugins.require_sandbox,
        };
        let compile = Compiling {
            launch: Launch::own(["compile"]),
            data_bytes: budget.spare,
            cpu: plugins.compile_timeout,
            require_sandbox: plugins.require_sandbox,
        };
        Ok(Self { pool, compile, artefacts, budget })
    }

    /// What the cache may hold, in bytes: two thirds of what is left for the host, the rest being for the
    /// process itself and what is under way. `None`: nothing limits the host.
    pub(crate) fn cache_limit(&self) -> Option<u64> {
        Some(self.budget.host? / 3 * 2)
    }

    /// Starts the worker and waits until it is ready: blocks for some 20 ms.
    ///
    /// # Errors
    /// [`End::Unusable`]: there is no worker, or a kernel that keeps less back than `--require-sandbox` demands.
    pub(crate) fn start(self) -> Result<Sandbox, End> {
        let Self { pool, compile, artefacts, budget } = self;
        let (spare, required) = (Arc::clone(&pool.spare), pool.require_sandbox);
        let pool = Pool::start(pool);
        let pool = Arc::new(
            pool.map_err(|error| End::Unusable(format!("no worker for plugins: {}", whole(&error))))?,
        );
        let compile = Arc::new(CompileChild::new(compile, spare));
        let sandbox = Sandbox { pool, compile, artefacts, budget };
        sandbox.judge(required)?;
        Ok(sandbox)
    }
}

impl Sandbox {
    /// Says what holds the worker, and whether that is enough.
    fn judge(&self, required: bool) -> Result<(), End> {
        let Some(report) = self.pool.status().confined else {
            return Err(End::Unusable("the worker for plugins ended right after its start".into()));
        };
        if report.is_complete() {
            info!(%report, memory = ?self.budget, "plugins run in a process without powers");
            return Ok(());
        }
        if required {
            let missing = report.missing().join("; ");
            return Err(End::Unusable(format!(
                "--require-sandbox, and this kernel does not take everything from the process that runs plugins: {missing}"
            )));
        }
        warn!(%report, "the process that runs plugins keeps some of its powers; see docs/sandbox.md");
        Ok(())
    }

    /// Makes plugins that live here, judged by `policy`.
    ///
    /// # Errors
    /// [`End::Unusable`]: limits that cannot be.
    pub(crate) fn loader(&self, flags: &Run, policy: Policy) -> Result<Loader, End> {
        Ok(Loader::new(Setup {
            guests: Arc::clone(&self.pool) as Arc<dyn Guests>,
            compile: self.compile.clone(),
            artefacts: self.artefacts.clone(),
            defaults: flags.plugins.limits().map_err(End::Unusable)?,
            maxima: flags.plugins.maxima().map_err(End::Unusable)?,
            policy,
        }))
    }

    /// How the worker fares.
    pub(crate) fn status(&self) -> Status {
        self.pool.status()
    }

    /// What the artefact cache has counted.
    pub(crate) fn artefacts(&self) -> CacheStats {
        self.artefacts.stats()
    }

    /// For people.
    pub(crate) fn view(&self) -> SandboxView {
        SandboxView { worker: self.pool.status(), memory: self.budget }
    }

    /// Ends both processes. Blocks for as long as that takes.
    pub(crate) fn shutdown(&self) {
        self.compile.shutdown();
        self.pool.shutdown();
    }
}

/// Judges signatures as the flags demand.
///
/// # Errors
/// [`End::Unusable`]: keys that cannot be used.
pub(crate) fn verifier(flags: &Run) -> Result<Verifier, End> {
    let plugins = &flags.plugins;
    Verifier::new(plugins.plugin_signatures, plugins.plugin_keys.as_deref())
        .map_err(|error| End::Unusable(whole(&error)))
}

fn open_cache(flags: &Run, largest: &Limits) -> Result<Cache, End> {
    let unusable = |error: &dyn std::error::Error| End::Unusable(format!("--artefact-dir: {}", whole(error)));
    let engine = compatibility(largest).map_err(|e| End::Unusable(format!("no engine: {}", whole(&e))))?;
    let directory = flags.plugins.artefact_dir.clone().unwrap_or_else(own_directory);
    Cache::open(&directory, flags.plugins.artefact_limit, Fingerprint::of(&(engine, &largest.check)))
        .map_err(|e| unusable(&e))
}

/// In the system's temporary directory, one a user.
fn own_directory() -> PathBuf {
    use std::os::unix::fs::MetadataExt as _;
    let user = std::fs::metadata("/proc/self").map_or(0, |process| process.uid());
    std::env::temp_dir().join(format!("windlass-artefacts-{user}"))
}

/// How a worker is started.
fn worker(artefacts: &Cache, largest: &Limits, data_bytes: u64, lanes: usize) -> Result<Launch, End> {
    let limits = serde_json::to_string(largest).map_err(|e| End::Unusable(format!("limits: {e}")))?;
    let mut args: Vec<std::ffi::OsString> = vec![
        "worker".into(),
        format!("--data-bytes={data_bytes}").into(),
        format!("--lanes={lanes}").into(),
        format!("--limits={limits}").into(),
    ];
    for directory in artefacts.directories() {
        args.push("--readable".into());
        args.push(directory.into());
    }
    Ok(Launch::own(args))
}

/// An error with its causes.
pub(crate) fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

//! Plugins as the host has them, without the host: compiled and run in processes of the measured binary.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use windlass_core::code::Refusal;
use windlass_core::guests::Guests;
use windlass_core::key::{Key, ObjectRef};
use windlass_core::kind::Gvk;
use windlass_core::limits::Limits;
use windlass_core::name::PluginName;
use windlass_core::object::Object;
use windlass_core::plan::Policy;
use windlass_core::ports::{CallError, Pass, Reader};
use windlass_core::reads::Query;
use windlass_core::snapshot::Snapshot;
use windlass_plugin::{Cache, Fingerprint, LimitMaxima, Loader, Plugin, Setup, Source, compatibility};
use windlass_worker::compile::{CompileChild, Compiling};
use windlass_worker::pool::{Pool, PoolConfig};
use windlass_worker::process::Launch;
use windlass_worker::spare::Spare;

/// Memory of the process that runs plugins, and of the one that compiles: what a host without a limit gives.
const WORKER_BYTES: u64 = 512 << 20;
const SPARE_BYTES: u64 = 1 << 30;
/// Calls at once, as many as a host makes by default.
const LANES: usize = 16;

/// A loader whose plugins are compiled and run in other processes. Dropping it ends them.
pub(crate) struct Outside {
    pub(crate) loader: Loader,
    pool: Arc<Pool>,
    compile: Arc<CompileChild>,
    _artefacts: tempfile::TempDir,
}

impl Outside {
    /// Starts the worker of this binary.
    ///
    /// # Errors
    /// If it does not start.
    pub(crate) fn start(binary: &Path) -> Result<Self> {
        let (limits, maxima) = (Limits::default(), LimitMaxima::default());
        let largest = maxima.largest(&limits);
        let artefacts = tempfile::tempdir().context("make a folder for compiled plugins")?;
        let engine = compatibility(&largest).context("no engine")?;
        let cache = Arc::new(Cache::open(artefacts.path(), 1 << 30, Fingerprint::of(&engine))?);
        let binary = binary.canonicalize().with_context(|| format!("no {}", binary.display()))?;
        let launch = |args: Vec<OsString>| Launch { program: binary.clone(), args };
        let worker = |bytes: u64, lanes: usize| -> Result<Launch> {
            let mut args: Vec<OsString> = vec![
                "worker".into(),
                format!("--data-bytes={bytes}").into(),
                format!("--lanes={lanes}").into(),
                format!("--limits={}", serde_json::to_string(&largest)?).into(),
            ];
            for directory in cache.directories() {
                args.extend(["--readable".into(), directory.into()]);
            }
            Ok(launch(args))
        };
        let spare = Spare::new();
        let pool = Pool::start(PoolConfig {
            shared: worker(WORKER_BYTES, LANES)?,
            solo: worker(SPARE_BYTES, 1)?,
            lanes: LANES,
            spare: Arc::clone(&spare),
            require_sandbox: false,
        })?;
        let pool = Arc::new(pool);
        let compiling = Compiling {
            launch: launch(vec!["compile".into()]),
            data_bytes: SPARE_BYTES,
            cpu: Duration::from_secs(60),
            require_sandbox: false,
        };
        let compile = Arc::new(CompileChild::new(compiling, spare));
        let loader = Loader::new(Setup {
            guests: Arc::clone(&pool) as Arc<dyn Guests>,
            compile: compile.clone(),
            artefacts: cache,
            defaults: limits,
            maxima,
            policy: Policy::default(),
        });
        Ok(Self { loader, pool, compile, _artefacts: artefacts })
    }

    /// The process in which plugins run.
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) fn worker(&self) -> Result<u32> {
        self.pool.status().pid.context("the worker has ended")
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.compile.shutdown();
        self.pool.shutdown();
    }
}

/// There is nothing else in this cluster.
pub(crate) struct Empty;

impl Reader for Empty {
    fn get(&self, _: &ObjectRef) -> Result<Option<Arc<Object>>, Refusal> {
        Ok(None)
    }

    fn list(&self, _: &Query) -> Result<Vec<Arc<Object>>, Refusal> {
        Ok(Vec::new())
    }
}

/// Loads a component under a name.
///
/// # Errors
/// If it is refused.
pub(crate) fn load(loader: &Loader, name: &PluginName, wasm: &[u8]) -> Result<Plugin> {
    let source = Source::local(name.clone(), wasm.into(), None);
    loader.load(&source, name).with_context(|| format!("load {name}"))
}

/// One call, whatever it answers.
pub(crate) fn ask(plugin: &Plugin, snapshot: &Snapshot) -> Result<(), CallError> {
    let pass =
        Pass { key: Key::new(plugin.manifest().name.clone(), "ns", "shop"), number: 1, finalize: false };
    plugin.decide(&pass, snapshot, Arc::new(Empty)).map(drop)
}

/// A primary with these children, as the host would hand them over.
///
/// # Errors
/// If one of them is no object.
pub(crate) fn snapshot(kind: &Gvk, primary: &Value, children: &[(&str, Value)]) -> Result<Snapshot> {
    let children =
        children.iter().map(|(kind, child)| Ok(Arc::new(Object::parse(&kind.parse()?, &child.to_string())?)));
    Ok(Snapshot {
        primary: Arc::new(Object::parse(kind, &primary.to_string())?),
        children: children.collect::<Result<_>>()?,
        settings: None,
    })
}

/// A primary with nothing but a spec.
pub(crate) fn primary(spec: &Value) -> Value {
    json!({
        "metadata": {
            "name": "shop", "namespace": "ns", "uid": "5d6a2d0e-9f5c-4a57-8c5b-0a3b7c1f2d11", "resourceVersion": "7", "generation": 1,
        },
        "spec": spec,
    })
}

//! Flags about plugins: what they may use, where their code is kept, whose signature counts.

use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};
use windlass_core::limits::Limits;
use windlass_plugin::LimitMaxima;
use windlass_plugin::verify::Mode;
use windlass_worker::budget::Wanted;

use super::limits::LimitFlags;
use super::policy::PolicyFlags;
use super::{bytes, duration};

/// Flags about plugins.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Plugins")]
pub(crate) struct PluginFlags {
    /// CPU time of one plugin call; wall time is twice that.
    #[arg(long, env = "WINDLASS_PLUGIN_CPU_TIMEOUT", default_value = "1s", value_parser = duration)]
    pub(crate) plugin_cpu_timeout: Duration,

    /// Memory of one plugin call. Unit: MiB; 1 to 4095.
    #[arg(long, env = "WINDLASS_PLUGIN_MEMORY_MIB", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4095))]
    pub(crate) plugin_memory_mib: u16,

    /// Most memory that a plugin may ask for with `windlass.dev/limit-memory`.
    #[arg(long, env = "WINDLASS_MAX_LIMIT_MEMORY", default_value = "128Mi", value_name = "BYTES")]
    max_limit_memory: String,

    /// Most CPU time that a plugin may ask for with `windlass.dev/limit-cpu`.
    #[arg(long, env = "WINDLASS_MAX_LIMIT_CPU", default_value = "5s", value_name = "DURATION")]
    max_limit_cpu: String,

    /// Largest snapshot that a plugin may ask for with `windlass.dev/limit-snapshot`.
    #[arg(long, env = "WINDLASS_MAX_LIMIT_SNAPSHOT", default_value = "8Mi", value_name = "BYTES")]
    max_limit_snapshot: String,

    /// Largest decision that a plugin may ask for with `windlass.dev/limit-decision`.
    #[arg(long, env = "WINDLASS_MAX_LIMIT_DECISION", default_value = "4Mi", value_name = "BYTES")]
    max_limit_decision: String,

    /// Most log output of a call that a plugin may ask for with `windlass.dev/limit-log`.
    #[arg(long, env = "WINDLASS_MAX_LIMIT_LOG", default_value = "256Ki", value_name = "BYTES")]
    max_limit_log: String,

    /// Most table elements that a plugin may ask for with `windlass.dev/limit-table-elements`.
    #[arg(long, env = "WINDLASS_MAX_LIMIT_TABLE_ELEMENTS", default_value = "100000", value_name = "N")]
    max_limit_table_elements: String,

    /// Most children of a decision that a plugin may ask for with `windlass.dev/limit-children`.
    #[arg(long, env = "WINDLASS_MAX_LIMIT_CHILDREN", default_value = "100", value_name = "N")]
    max_limit_children: String,

    /// Passes of one plugin that may run at once; by default half of --max-concurrent-reconciles.
    #[arg(long, env = "WINDLASS_MAX_CONCURRENT_PER_PLUGIN", value_name = "N")]
    pub(crate) max_concurrent_per_plugin: Option<NonZeroU16>,

    /// Passes of one plugin that may begin in a second, and as many at once after a rest; by
    /// default any number.
    #[arg(long, env = "WINDLASS_MAX_RATE_PER_PLUGIN", value_name = "N")]
    pub(crate) max_rate_per_plugin: Option<NonZeroU32>,

    /// One decision in so many is asked for twice, with another clock and another seed, to find
    /// plugins whose decision depends on them; 0: none.
    #[arg(long, env = "WINDLASS_SAMPLE_DECISIONS", default_value_t = 64, value_name = "N")]
    sample_decisions: u32,

    /// Where compiled plugins are kept, private to this host's user; by default a directory in the
    /// system's temporary one, which a container loses.
    #[arg(long, env = "WINDLASS_ARTEFACT_DIR", value_name = "DIR")]
    pub(crate) artefact_dir: Option<PathBuf>,

    /// How much compiled code is kept; what was not used for longest goes first.
    #[arg(long, env = "WINDLASS_ARTEFACT_LIMIT", default_value = "384Mi", value_parser = bytes, value_name = "BYTES")]
    pub(crate) artefact_limit: u64,

    /// CPU time of one compilation.
    #[arg(long, env = "WINDLASS_COMPILE_TIMEOUT", default_value = "60s", value_parser = duration)]
    pub(crate) compile_timeout: Duration,

    /// Memory counted for the host itself; by default a share of the container's limit.
    #[arg(long, env = "WINDLASS_HOST_MEMORY", value_parser = bytes, value_name = "BYTES")]
    host_memory: Option<u64>,

    /// What the cache of watched objects may hold; a plugin whose kinds do not fit is refused with
    /// E180. By default two thirds of what is left for the host of the container's limit; without
    /// one, no limit.
    #[arg(long, env = "WINDLASS_CACHE_LIMIT", value_parser = bytes, value_name = "BYTES")]
    pub(crate) cache_limit: Option<u64>,

    /// Memory of the process that runs plugins; by default a share of the container's limit.
    #[arg(long, env = "WINDLASS_WORKER_MEMORY", value_parser = bytes, value_name = "BYTES")]
    worker_memory: Option<u64>,

    /// Memory of the process that compiles, or that runs a plugin under suspicion: one at a
    /// time. By default a share of the container's limit.
    #[arg(long, env = "WINDLASS_SPARE_MEMORY", value_parser = bytes, value_name = "BYTES")]
    spare_memory: Option<u64>,

    /// Refuse to run where the kernel cannot take every power from the processes that run and
    /// compile plugins; otherwise what is missing is said in the log and a metric.
    #[arg(long, env = "WINDLASS_REQUIRE_SANDBOX", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) require_sandbox: bool,

    /// What a plugin without a good signature gets: `enforce` refuses it, `warn` says so, `off`
    /// does not look.
    #[arg(long, env = "WINDLASS_PLUGIN_SIGNATURES", default_value = "off", value_name = "MODE")]
    pub(crate) plugin_signatures: Mode,

    /// A file or folder of minisign public keys that vouch for plugins.
    #[arg(long, env = "WINDLASS_PLUGIN_KEYS", value_name = "PATH")]
    pub(crate) plugin_keys: Option<PathBuf>,

    /// Bounds that no plugin can ask to be moved.
    #[command(flatten)]
    pub(crate) bounds: LimitFlags,

    /// Exceptions from the rules for what plugins may write.
    #[command(flatten)]
    pub(crate) exceptions: PolicyFlags,
}

impl PluginFlags {
    /// What a plugin may use that asks for nothing else.
    ///
    /// # Errors
    /// One sentence that names the flag.
    pub(crate) fn limits(&self) -> Result<Limits, String> {
        self.bounds.apply(Limits {
            cpu: self.plugin_cpu_timeout,
            memory_bytes: usize::from(self.plugin_memory_mib) << 20,
            ..Limits::default()
        })
    }

    /// What a plugin may ask for.
    ///
    /// # Errors
    /// One sentence that names the flag.
    pub(crate) fn maxima(&self) -> Result<LimitMaxima, String> {
        let mut maxima = LimitMaxima::default();
        for (name, text) in [
            ("memory", &self.max_limit_memory),
            ("cpu", &self.max_limit_cpu),
            ("snapshot", &self.max_limit_snapshot),
            ("decision", &self.max_limit_decision),
            ("log", &self.max_limit_log),
            ("table-elements", &self.max_limit_table_elements),
            ("children", &self.max_limit_children),
        ] {
            maxima.set(name, text).map_err(|sentence| format!("--max-limit-{name}: {sentence}"))?;
        }
        Ok(maxima)
    }

    /// One decision in how many is asked for twice.
    pub(crate) fn sampled(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.sample_decisions)
    }

    /// How memory is to be shared out.
    pub(crate) fn memory(&self) -> Wanted {
        Wanted { host: self.host_memory, worker: self.worker_memory, spare: self.spare_memory }
    }

    /// Checks what no flag can check by itself.
    ///
    /// # Errors
    /// One sentence that names the flags, what they are and what they must be.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.plugin_cpu_timeout.is_zero() || self.compile_timeout.is_zero() {
            return Err("--plugin-cpu-timeout and --compile-timeout must be above zero".into());
        }
        if self.cache_limit == Some(0) {
            return Err("--cache-limit must be above zero; leave it out for the default".into());
        }
        self.bounds.check()?;
        self.exceptions.policy(Vec::new())?;
        self.maxima().map(drop)
    }
}

//! Flags about bounds that no plugin can ask to be moved: of components, of every plugin's
//! defaults, and of how long one that fails is left alone.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;
use windlass_core::breaker::Rules;
use windlass_core::limits::{CheckLimits, Limits};
use windlass_plugin::set_default;

use super::duration;

/// Flags about bounds.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits of plugins")]
pub(crate) struct LimitFlags {
    /// Default of one limit of a plugin that asks for nothing else; may be given several times.
    /// NAME: snapshot, decision, log, component, decompressed, stack (bytes such as 512Ki),
    /// table-elements, children, packing-ratio (numbers).
    #[arg(long, env = "WINDLASS_PLUGIN_LIMIT", value_name = "NAME=QUANTITY", value_delimiter = ',')]
    plugin_limit: Vec<String>,

    /// What a component may consist of before it is compiled; may be given several times. NAME: bytes,
    /// functions, body-bytes, types, type-depth, modules, components, depth, instances,
    /// data-segments, element-segments, items, core-bytes, wiring-bytes, custom-sections,
    /// custom-bytes, name-bytes. Compiled plugins are checked again when it changes.
    #[arg(long, env = "WINDLASS_CHECK_LIMIT", value_name = "NAME=N", value_delimiter = ',')]
    check_limit: Vec<String>,

    /// Faults in a row after which a plugin is left alone. Unit: passes.
    #[arg(long, env = "WINDLASS_QUARANTINE_FAULTS", default_value = "5", value_name = "N")]
    quarantine_faults: NonZeroU32,

    /// For how long it is left alone the first time; doubled each time without a good pass between.
    #[arg(long, env = "WINDLASS_QUARANTINE_PAUSE", default_value = "1m", value_parser = duration)]
    quarantine_pause: Duration,

    /// For how long at most.
    #[arg(long, env = "WINDLASS_QUARANTINE_PAUSE_MAX", default_value = "1h", value_parser = duration)]
    quarantine_pause_max: Duration,
}

impl LimitFlags {
    /// `limits` with the defaults that the flags change.
    ///
    /// # Errors
    /// One sentence that names the flag.
    pub(super) fn apply(&self, mut limits: Limits) -> Result<Limits, String> {
        for text in &self.plugin_limit {
            let wrong = |sentence: String| format!("--plugin-limit {text:?}: {sentence}");
            let (name, quantity) = split(text).map_err(wrong)?;
            set_default(&mut limits, name, quantity).map_err(wrong)?;
        }
        limits.check = self.checks()?;
        Ok(limits)
    }

    fn checks(&self) -> Result<CheckLimits, String> {
        let mut limits = CheckLimits::default();
        for text in &self.check_limit {
            let wrong = |sentence: String| format!("--check-limit {text:?}: {sentence}");
            let (name, number) = split(text).map_err(wrong)?;
            let number = number.parse().map_err(|_| wrong(format!("{number:?} is no whole number")))?;
            limits.set(name, number).map_err(wrong)?;
        }
        Ok(limits)
    }

    /// When a plugin is left alone, and for how long.
    pub(crate) fn quarantine(&self) -> Rules {
        Rules {
            faults: self.quarantine_faults.get(),
            first: self.quarantine_pause,
            most: self.quarantine_pause_max,
        }
    }

    /// Checks what no flag can check by itself.
    ///
    /// # Errors
    /// One sentence that names the flags, what they are and what they must be.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.quarantine_pause.is_zero() || self.quarantine_pause > self.quarantine_pause_max {
            return Err(format!(
                "--quarantine-pause {:?} must be above zero and not longer than --quarantine-pause-max {:?}",
                self.quarantine_pause, self.quarantine_pause_max
            ));
        }
        self.apply(Limits::default()).map(drop)
    }
}

fn split(text: &str) -> Result<(&str, &str), String> {
    text.split_once('=').ok_or_else(|| "expected a name, '=' and a number".to_owned())
}

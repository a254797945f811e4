//! Flags about exceptions from the rules for what plugins may write.

use clap::{ArgAction, Args};
use windlass_core::plan::Policy;

/// Flags about exceptions from the rules.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "What plugins may write")]
pub(crate) struct PolicyFlags {
    /// Let plugins write into this host's own namespace (E233 otherwise): what runs there can run under
    /// the host's account, or read its Secrets.
    #[arg(long, env = "WINDLASS_ALLOW_HOST_NAMESPACE", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    allow_host_namespace: bool,

    /// Refuse a decision that sets a field which only the API server sets (E239), instead of leaving
    /// the field out with a warning (W301).
    #[arg(long, env = "WINDLASS_STRICT_DECISIONS", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    strict_decisions: bool,
}

impl PolicyFlags {
    /// The exceptions. Reserved kinds (E238) have none: a manifest that names one is refused before any plan.
    pub(crate) fn policy(&self) -> Policy {
        Policy { beside_host: self.allow_host_namespace, strict: self.strict_decisions, ..Policy::default() }
    }
}

//! Flags about exceptions from the rules for what plugins may write.

use clap::{ArgAction, Args};
use windlass_core::kind::Gvk;
use windlass_core::manifest::is_reserved;
use windlass_core::plan::Policy;

/// Flags about exceptions from the rules. The first two give plugins a part of the host's own rights.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "What plugins may write")]
pub(crate) struct PolicyFlags {
    /// Let plugins whose manifests say so write a reserved kind, such as `rbac.authorization.k8s.io/v1/Role`,
    /// which all are refused otherwise (E238); may be given several times. The plugin's account needs the
    /// rights too, and whoever may write the plugin's ConfigMap then holds what that account holds.
    #[arg(
        long,
        env = "WINDLASS_ALLOW_RESERVED_KIND",
        value_name = "GROUP/VERSION/KIND",
        value_delimiter = ','
    )]
    allow_reserved_kind: Vec<String>,

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
    /// The exceptions, in a host that serves these namespaces; none: all.
    ///
    /// # Errors
    /// One sentence that names the flag: a kind that is none, or that needs no exception.
    pub(crate) fn policy(&self, namespaces: Vec<String>) -> Result<Policy, String> {
        let kinds = self.allow_reserved_kind.iter().map(|text| reserved(text));
        Ok(Policy {
            unreserved: kinds.collect::<Result<_, _>>()?,
            beside_host: self.allow_host_namespace,
            namespaces,
            strict: self.strict_decisions,
        })
    }
}

/// A kind that is reserved: an exception for another one would be a misspelling that does nothing.
fn reserved(text: &str) -> Result<Gvk, String> {
    let kind = text.parse::<Gvk>().map_err(|error| format!("--allow-reserved-kind {text:?}: {error}"))?;
    if !is_reserved(&kind) {
        return Err(format!(
            "--allow-reserved-kind {text:?}: this kind is not reserved, plugins may write it"
        ));
    }
    Ok(kind)
}

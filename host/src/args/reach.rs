//! Flags about how far this host reaches: which namespaces it serves, and what it says of its writes.

use clap::{ArgAction, Args};
use windlass_watch::NAMESPACES_MAX;

/// Flags about how far this host reaches.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Where the host works")]
pub(crate) struct ReachFlags {
    /// Serve objects of these namespaces only, and ask the API server for nothing else: the host then needs no
    /// cluster-wide right to read. At most 16, separated by commas; by default the whole cluster. A plugin that
    /// needs other namespaces, or a kind that is in none, is refused (E182).
    #[arg(long, env = "WINDLASS_NAMESPACES", value_name = "NAMES", value_delimiter = ',')]
    namespaces: Vec<String>,

    /// Say with each write of a plugin under which claim it is made, and which component decided. The fence demands
    /// it and the audit log keeps it. It takes the cluster-wide right to impersonate two extras; with `false` the
    /// host needs no cluster-wide right at all, and cannot be fenced.
    #[arg(long, env = "WINDLASS_CLAIM_EXTRAS", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) claim_extras: bool,
}

impl ReachFlags {
    /// The namespaces that are served, sorted; none: all.
    ///
    /// # Errors
    /// One sentence that names the flag.
    pub(crate) fn namespaces(&self) -> Result<Vec<String>, String> {
        let mut namespaces = self.namespaces.clone();
        // An empty value in a Deployment is how one says nothing.
        if namespaces.iter().all(String::is_empty) {
            namespaces.clear();
        }
        namespaces.sort_unstable();
        namespaces.dedup();
        if let Some(bad) = namespaces.iter().find(|one| !windlass_core::name::is_dns_label(one, 63)) {
            return Err(format!(
                "--namespaces {bad:?} must be a DNS label: a-z, 0-9 and '-', at most 63 bytes"
            ));
        }
        if namespaces.len() > NAMESPACES_MAX {
            return Err(format!(
                "--namespaces names {}, at most {NAMESPACES_MAX} can be watched one by one: leave it out and \
                 bind the host's read rights cluster-wide, or run a second host",
                namespaces.len()
            ));
        }
        Ok(namespaces)
    }
}

//! Where a package is to go: which host, and which namespaces.

use windlass_core::name::PluginName;

/// The namespace of a host that `deploy/` installs.
pub const HOST_NAMESPACE: &str = "windlass-system";

/// Which host runs the plugin, and where the plugin may act.
#[derive(Clone, Debug, clap::Args)]
pub struct Place {
    /// Make a package for this namespace alone: Roles there, and no ClusterRole at all. May be given several times.
    ///
    /// The host has to look only at these namespaces too (`windlass run --namespaces`). Refused for a plugin
    /// with kinds that are in no namespace.
    #[arg(short, long = "namespace", value_name = "NAMESPACE", value_parser = dns_label)]
    pub namespaces: Vec<String>,
    /// Namespace of the host that is to run the plugin.
    #[arg(long, value_name = "NAMESPACE", default_value = HOST_NAMESPACE, value_parser = dns_label)]
    pub host_namespace: String,
    /// ServiceAccount of that host.
    #[arg(long, value_name = "NAME", default_value = "windlass", value_parser = dns_label)]
    pub host_account: String,
}

impl Default for Place {
    /// All namespaces, by the host that `deploy/` installs.
    fn default() -> Self {
        Self {
            namespaces: Vec::new(),
            host_namespace: HOST_NAMESPACE.to_owned(),
            host_account: "windlass".to_owned(),
        }
    }
}

impl Place {
    /// The name of a role of this plugin under this host: `windlass-<what>-<plugin>`, with the host's
    /// namespace behind a dot where that is not the usual one. No two plugins and no two hosts share one:
    /// neither of them can have a dot in its name.
    pub(crate) fn role(&self, what: &str, plugin: &PluginName) -> String {
        match &*self.host_namespace {
            HOST_NAMESPACE => format!("windlass-{what}-{plugin}"),
            other => format!("windlass-{what}-{plugin}.{other}"),
        }
    }
}

/// What goes into YAML as it is: a DNS label.
fn dns_label(text: &str) -> Result<String, String> {
    let bytes = text.as_bytes();
    let is_end = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let inside = bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    if bytes.len() <= 63 && is_end(bytes.first()) && is_end(bytes.last()) && inside {
        return Ok(text.to_owned());
    }
    Err("a DNS label is expected: a-z, 0-9 and '-', at most 63 bytes".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_plugins_and_no_two_hosts_share_the_name_of_a_role() {
        let name = |text: &str| PluginName::try_new(text).expect("valid");
        let at = |namespace: &str| Place { host_namespace: namespace.to_owned(), ..Place::default() };
        let mut names = vec![
            at(HOST_NAMESPACE).role("plugin", &name("a")),
            at(HOST_NAMESPACE).role("watches", &name("a")),
            at(HOST_NAMESPACE).role("plugin", &name("a-watches")),
            at("b").role("plugin", &name("a")),
            at("b").role("plugin", &name("a-b")),
            at("a-b").role("plugin", &name("a")),
            at("c").role("plugin", &name("a-b")),
        ];
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "{names:?}");
    }

    #[test]
    fn what_goes_into_yaml_is_a_dns_label() {
        assert!(dns_label("team-a").is_ok());
        for bad in ["", "-a", "a-", "A", "a.b", "a\nb: c", &"a".repeat(64)] {
            assert!(dns_label(bad).is_err(), "{bad:?}");
        }
    }
}

//! What a control plane can be asked for, and who may talk to it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::kubelet::Placement;
use crate::progress::{self, Progress};

/// Somebody with a bearer token. What the user may do is for RBAC to say; a new user may do nothing but discover.
#[derive(Debug, Clone)]
pub struct User {
    /// The name that RBAC and the audit log see; `system:serviceaccount:<namespace>:<name>` is possible.
    pub name: String,
    /// The groups besides `system:authenticated`.
    pub groups: Vec<String>,
    /// The bearer token, without commas or quotes.
    pub token: String,
}

impl User {
    /// A user in no group, with a random token.
    pub fn new(name: impl Into<String>) -> Self {
        let token = format!("{:032x}", rand::random::<u128>());
        Self { name: name.into(), groups: Vec::new(), token }
    }

    /// The same user in one more group.
    #[must_use]
    pub fn in_group(mut self, group: impl Into<String>) -> Self {
        self.groups.push(group.into());
        self
    }

    /// One line of the file that `--token-auth-file` reads. The name doubles as the uid.
    pub(crate) fn token_line(&self) -> String {
        format!("{},\"{}\",\"{}\",\"{}\"\n", self.token, self.name, self.name, self.groups.join(","))
    }
}

/// The group of the default users, for one ClusterRoleBinding that serves all replicas.
pub const REPLICAS: &str = "windlass-testbed:replicas";

/// How a control plane is to be.
#[derive(Clone)]
pub struct Options {
    /// Users with tokens. Default: `windlass-0`, `windlass-1` and `windlass-2`, all in the group [`REPLICAS`].
    pub users: Vec<User>,
    /// Whether etcd skips its fsync. Default true: tests want speed, and nothing here survives a power cut anyway. Benchmarks say false.
    pub unsafe_no_fsync: bool,
    /// Whether something makes pods Ready, and how. Default [`Placement::Unbound`]; `None` leaves pods Pending for ever.
    pub kubelet: Option<Placement>,
    /// An audit policy (YAML) instead of ours: see [`crate::audit`] for what ours keeps.
    pub audit_policy: Option<String>,
    /// Further flags for the API server; they come last and so win, for example `--etcd-compaction-interval=0`.
    pub apiserver_flags: Vec<String>,
    /// By how many percent the API server's heap may grow between two collections (`GOGC`). Default `None`: Go's 100. A collection
    /// takes most of a second of a processor; a benchmark that asks for something else has fewer of them with more.
    pub apiserver_gogc: Option<u32>,
    /// Further flags for etcd.
    pub etcd_flags: Vec<String>,
    /// The address of the API server, when pods have to reach it: then it counts with a kubelet for each node, and the controllers
    /// that look after nodes run too. Default `None`: 127.0.0.1, for processes of this machine.
    pub address: Option<Ipv4Addr>,
    /// Shows the first build of the programs. Default: [`progress::detect`].
    pub progress: Arc<dyn Progress>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            users: (0..3)
                .map(|replica| User::new(format!("windlass-{replica}")).in_group(REPLICAS))
                .collect(),
            unsafe_no_fsync: true,
            kubelet: Some(Placement::Unbound),
            audit_policy: None,
            apiserver_flags: Vec::new(),
            apiserver_gogc: None,
            etcd_flags: Vec::new(),
            address: None,
            progress: Arc::from(progress::detect()),
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Options")
            .field("users", &self.users.iter().map(|user| &user.name).collect::<Vec<_>>())
            .field("unsafe_no_fsync", &self.unsafe_no_fsync)
            .field("kubelet", &self.kubelet)
            .field("apiserver_flags", &self.apiserver_flags)
            .field("etcd_flags", &self.etcd_flags)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_line_is_what_the_api_server_parses() {
        let user = User {
            name: "a:b".to_owned(),
            groups: vec!["g1".to_owned(), "g2".to_owned()],
            token: "t".to_owned(),
        };
        assert_eq!(user.token_line(), "t,\"a:b\",\"a:b\",\"g1,g2\"\n");
    }

    #[test]
    fn no_two_users_share_a_token() {
        assert_ne!(User::new("a").token, User::new("a").token);
    }
}

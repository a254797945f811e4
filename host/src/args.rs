//! Flags and their environment variables of the same word, checked against each
//! other before anything starts.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::inside::{CompileFlags, WorkerFlags};

mod limits;
mod metrics;
mod plugins;
mod policy;
mod reach;

pub(crate) use metrics::MetricsFlags;
pub(crate) use plugins::PluginFlags;
pub(crate) use reach::ReachFlags;

/// A Kubernetes operator host: reconcilers are WebAssembly components.
///
/// Windlass owns what every operator needs (leader election, watches, caches, the
/// work queue, retries, health, metrics); what differs, the reconcile decision, is
/// a sandboxed component in a ConfigMap labelled windlass.dev/plugin.
#[derive(Debug, Parser)]
#[command(name = "windlass", version, max_term_width = 100, args_override_self = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the host: join the election, watch, and reconcile while leading.
    Run(Box<Run>),
    /// Run plugins for a host, over standard input. The host starts this by itself.
    #[command(hide = true)]
    Worker(Box<WorkerFlags>),
    /// Compile one plugin for a host, over standard input. The host starts this by itself.
    #[command(hide = true)]
    Compile(CompileFlags),
}

/// Flags of `windlass run`. Of a flag that is given twice the later one counts.
#[derive(Clone, Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Run {
    /// Kubeconfig to use; without it the pod's service account, else $KUBECONFIG or ~/.kube/config.
    #[arg(long, env = "WINDLASS_KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// Namespace of this host: its plugins, its Lease, its account. One host a namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "windlass-system")]
    pub(crate) namespace: String,

    /// Name of this replica, the beginning of its identity in the Lease.
    #[arg(long, env = "POD_NAME", default_value = "windlass")]
    pub(crate) pod_name: String,

    /// Elect one leader among the replicas. With `false` the Lease is taken once at
    /// start, and the process ends with code 72 if another holds it.
    #[arg(long, env = "WINDLASS_LEADER_ELECT", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) leader_elect: bool,

    /// Name of the Lease; one an operator host.
    #[arg(long, env = "WINDLASS_LEASE_NAME", default_value = "windlass")]
    pub(crate) lease_name: String,

    /// Namespace of the Lease; the host's own when absent.
    #[arg(long, env = "WINDLASS_LEASE_NAMESPACE")]
    pub(crate) lease_namespace: Option<String>,

    /// How long a standby waits without seeing the Lease change before it takes over.
    #[arg(long, env = "WINDLASS_LEASE_DURATION", default_value = "15s", value_parser = duration)]
    pub(crate) lease_duration: Duration,

    /// How long after sending its last successful renewal the leader stops to act.
    #[arg(long, env = "WINDLASS_RENEW_DEADLINE", default_value = "10s", value_parser = duration)]
    pub(crate) renew_deadline: Duration,

    /// How often the leader renews, and a standby that hears nothing looks.
    #[arg(long, env = "WINDLASS_RETRY_PERIOD", default_value = "2s", value_parser = duration)]
    pub(crate) retry_period: Duration,

    /// Take over from a leader as soon as its process is seen to be dead: its connection
    /// closes, and nobody or somebody else answers in its place. With `false` a crash
    /// costs the lease duration.
    #[arg(long, env = "WINDLASS_DEATH_EVIDENCE", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) death_evidence: bool,

    /// Where the other replicas hold a connection, to see it end if this process dies.
    #[arg(long, env = "WINDLASS_PULSE_BIND_ADDRESS", default_value = "0.0.0.0:8082", value_parser = address)]
    pub(crate) pulse_bind_address: SocketAddr,

    /// The address that other replicas reach, published in the Lease. By default the
    /// bound address, and the pod's IP where that is every interface.
    #[arg(long, env = "WINDLASS_PULSE_ADVERTISE_ADDRESS", value_parser = address)]
    pub(crate) pulse_advertise_address: Option<SocketAddr>,

    /// IP of this replica's pod, set by the Deployment.
    #[arg(long, env = "POD_IP", value_name = "IP")]
    pub(crate) pod_ip: Option<IpAddr>,

    /// Let a standby make every decision that the leader makes, and write none of them, so
    /// that a takeover only works on what is not as it should be. Costs CPU time of plugins.
    #[arg(long, env = "WINDLASS_STANDBY_DECIDES", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) standby_decides: bool,

    /// Breaks one rule of leadership on purpose, for tests of the tests.
    #[cfg(feature = "mutants")]
    #[arg(long, hide = true)]
    pub(crate) mutant: Option<String>,

    /// Where /healthz, /livez and /readyz are served.
    #[arg(long, env = "WINDLASS_HEALTH_PROBE_BIND_ADDRESS", default_value = "0.0.0.0:8081", value_parser = address)]
    pub(crate) health_probe_bind_address: SocketAddr,

    /// Where and to whom metrics and debug views are shown.
    #[command(flatten)]
    pub(crate) metrics: MetricsFlags,

    /// Reconcile passes that may run at once. Unit: passes; 1 to 256.
    #[arg(long, env = "WINDLASS_MAX_CONCURRENT_RECONCILES", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) max_concurrent_reconciles: u16,

    /// How often every object is looked at again although nothing changed; 0s never.
    #[arg(long, env = "WINDLASS_SYNC_PERIOD", default_value = "10h", value_parser = duration)]
    pub(crate) sync_period: Duration,

    /// How long one write may take, at the API server and here.
    #[arg(long, env = "WINDLASS_REQUEST_TIMEOUT", default_value = "5s", value_parser = duration)]
    pub(crate) request_timeout: Duration,

    /// How long the end may take after SIGTERM: passes, the Lease, everything.
    #[arg(long, env = "WINDLASS_SHUTDOWN_TIMEOUT", default_value = "20s", value_parser = duration)]
    pub(crate) shutdown_timeout: Duration,

    /// Where the host works.
    #[command(flatten)]
    pub(crate) reach: ReachFlags,

    /// What plugins may use.
    #[command(flatten)]
    pub(crate) plugins: PluginFlags,

    /// Format of the log on standard error.
    #[arg(long, env = "WINDLASS_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,

    /// What is logged: a level, or directives such as `info,windlass_apply=debug`.
    #[arg(long, env = "WINDLASS_LOG", default_value = "info")]
    pub(crate) log: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One line of text an event.
    Text,
    /// One JSON object an event.
    Json,
}

impl Run {
    /// Checks what no flag can check by itself.
    ///
    /// # Errors
    /// One sentence that names the flags, what they are and what they must be.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (flag, text) in [("--namespace", &self.namespace), ("--lease-name", &self.lease_name)] {
            if !windlass_core::name::is_dns_label(text, 63) {
                return Err(format!(
                    "{flag} {text:?} must be a DNS label: a-z, 0-9 and '-', at most 63 bytes"
                ));
            }
        }
        if self.request_timeout > self.renew_deadline {
            return Err(format!(
                "--request-timeout {:?} must not be longer than --renew-deadline {:?}: a write has to end inside the claim",
                self.request_timeout, self.renew_deadline
            ));
        }
        let listeners = [
            ("--health-probe-bind-address", self.health_probe_bind_address),
            ("--metrics-bind-address", self.metrics.metrics_bind_address),
            ("--pulse-bind-address", self.pulse_bind_address),
        ];
        for (i, (flag, address)) in listeners.iter().enumerate() {
            let same = listeners[..i].iter().find(|(_, other)| other == address && address.port() != 0);
            if let Some((other, _)) = same {
                return Err(format!("{other} and {flag} are both {address}; each needs its own port"));
            }
        }
        if let Some(advertised) = self.pulse_advertise_address
            && (advertised.ip().is_unspecified() || advertised.port() == 0)
        {
            return Err(format!(
                "--pulse-advertise-address {advertised} must be an address that other replicas can reach"
            ));
        }
        if self.request_timeout.is_zero() {
            return Err("--request-timeout must be above zero".into());
        }
        self.reach.namespaces()?;
        self.metrics.check()?;
        self.plugins.check()
    }
}

impl Run {
    /// The address of the pulse that other replicas are told of, for the address that was bound.
    pub(crate) fn pulse_address(&self, bound: SocketAddr) -> SocketAddr {
        let of_pod = || self.pod_ip.filter(|_| bound.ip().is_unspecified());
        self.pulse_advertise_address
            .unwrap_or_else(|| of_pod().map_or(bound, |ip| SocketAddr::new(ip, bound.port())))
    }
}

/// Parses `15s`, `500ms`, `2m`, `10h`, or a sum such as `1m30s`; a bare `0` too.
fn duration(text: &str) -> Result<Duration, String> {
    let expected =
        || format!("{text:?} is not a duration: expected a number with ms, s, m or h, such as 15s");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|n| *n > 0).ok_or_else(expected)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let unit = match unit {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(expected()),
        };
        let number: u32 = number.parse().map_err(|_| expected())?;
        total = total.saturating_add(unit.saturating_mul(number));
        rest = tail;
    }
    if text.is_empty() { Err(expected()) } else { Ok(total) }
}

/// Parses `384Mi`, `1Gi`, `65536`: bytes as Kubernetes writes them.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" => 0,
        "Ki" => 10,
        "Mi" => 20,
        "Gi" => 30,
        _ => 64,
    };
    let number: Option<u64> = number.parse().ok().filter(|_| shift < 64);
    number.and_then(|n| n.checked_mul(1_u64.checked_shl(shift)?)).ok_or_else(|| {
        format!("{text:?} is not a number of bytes: expected one with Ki, Mi or Gi, such as 384Mi")
    })
}

/// Parses `ip:port`, `:port` for every interface and `localhost:port`, as Kubernetes programs take it.
fn address(text: &str) -> Result<SocketAddr, String> {
    let full = match text.strip_prefix("localhost") {
        Some(port) => format!("127.0.0.1{port}"),
        None if text.starts_with(':') => format!("0.0.0.0{text}"),
        None => text.to_owned(),
    };
    full.parse()
        .map_err(|_| format!("{text:?} is not an address: expected <ip>:<port> or :<port>, such as :8081"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(flags: &[&str]) -> Result<Run, String> {
        let words = ["windlass", "run"].iter().chain(flags);
        match Cli::try_parse_from(words) {
            Ok(Cli { command: Command::Run(run) }) => run.check().map(|()| *run),
            Ok(other) => Err(format!("{other:?}")),
            Err(e) => Err(e.to_string()),
        }
    }

    #[test]
    fn durations_and_addresses_are_read_as_kubernetes_programs_do() {
        for (text, ms) in [("15s", 15_000), ("500ms", 500), ("1m30s", 90_000), ("10h", 36_000_000), ("0", 0)]
        {
            assert_eq!(duration(text).map(|d| d.as_millis()), Ok(ms), "{text}");
        }
        for bad in ["", "15", "s", "-1s", "1d", "1s2", "99999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!((bytes("384Mi"), bytes("1Gi"), bytes("9")), (Ok(384 << 20), Ok(1 << 30), Ok(9)));
        for bad in ["", "Mi", "1M", "-1", "1.5Gi", "99999999999Gi"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(address(":8081").map(|a| a.to_string()), Ok("0.0.0.0:8081".into()));
        assert_eq!(address("localhost:8443").map(|a| a.to_string()), Ok("127.0.0.1:8443".into()));
        assert!(address("8081").is_err());
    }

    #[test]
    fn other_replicas_are_told_of_an_address_that_they_reach() {
        let told = |flags: &[&str], bound: &str| {
            run(flags).expect("valid").pulse_address(bound.parse().expect("an address")).to_string()
        };
        assert_eq!(told(&["--pod-ip", "10.0.0.7"], "0.0.0.0:8082"), "10.0.0.7:8082");
        assert_eq!(told(&["--pod-ip", "fd00::7"], "[::]:8082"), "[fd00::7]:8082");
        assert_eq!(told(&["--pod-ip", "10.0.0.7"], "127.0.0.1:9"), "127.0.0.1:9", "bound on purpose");
        assert_eq!(told(&["--pulse-advertise-address", "10.0.0.9:80"], "0.0.0.0:8082"), "10.0.0.9:80");
    }

    #[test]
    fn the_defaults_work_together() {
        let run = run(&[]).expect("defaults");
        assert!(run.leader_elect);
        assert_eq!(
            (run.lease_duration.as_secs(), run.renew_deadline.as_secs(), run.retry_period.as_secs()),
            (15, 10, 2)
        );
    }

    #[test]
    fn metrics_are_plain_only_here_or_where_somebody_said_so() {
        assert!(run(&[]).expect("valid").metrics.metrics_secure);
        for address in ["127.0.0.1:1", "[::1]:1", "localhost:1", "127.8.0.1:1", "[::ffff:127.0.0.1]:1"] {
            let run = run(&["--metrics-secure=false", "--metrics-bind-address", address]).expect(address);
            assert!(!run.metrics.metrics_secure);
        }
        run(&["--metrics-secure=false", "--metrics-insecure-remote"]).expect("somebody said so");
        let run = run(&["--metrics-token-audiences=a,b", "--metrics-token-audiences", "c"]).expect("valid");
        assert_eq!(run.metrics.metrics_token_audiences, ["a", "b", "c"]);
    }

    #[test]
    fn leader_election_can_be_turned_off_in_each_usual_way() {
        for flags in [&["--leader-elect=false"][..], &["--leader-elect", "false"][..]] {
            assert!(!run(flags).expect("valid").leader_elect);
        }
        assert!(run(&["--leader-elect"]).expect("valid").leader_elect);
    }

    #[test]
    fn bounds_and_exceptions_have_flags_that_may_be_given_several_times() {
        let run = run(&[
            "--plugin-limit=log=4Ki,children=7",
            "--plugin-limit=stack=1Mi",
            "--check-limit=functions=100",
            "--check-limit=body-bytes=4096",
            "--quarantine-faults=2",
            "--quarantine-pause=3s",
            "--allow-reserved-kind=rbac.authorization.k8s.io/v1/Role,v1/Namespace",
            "--allow-reserved-kind=v1/ServiceAccount",
            "--allow-host-namespace",
            "--strict-decisions",
        ]);
        let plugins = run.expect("valid").plugins;
        let limits = plugins.limits().expect("valid");
        assert_eq!((limits.log_bytes, limits.children, limits.stack_bytes), (4 << 10, 7, 1 << 20));
        assert_eq!((limits.check.functions, limits.check.body_bytes), (100, 4096));
        let rules = plugins.bounds.quarantine();
        assert_eq!((rules.faults, rules.first.as_secs(), rules.most.as_secs()), (2, 3, 3600));
        let policy = plugins.exceptions.policy(Vec::new()).expect("valid");
        assert_eq!((policy.unreserved.len(), policy.strict, policy.beside_host), (3, true, true));
    }

    #[test]
    fn the_namespaces_that_are_served_are_sorted_and_an_empty_value_says_nothing() {
        let served = |flags: &[&str]| run(flags).expect("valid").reach.namespaces().expect("valid");
        assert_eq!(served(&[]), [""; 0]);
        assert_eq!(served(&["--namespaces", ""]), [""; 0]);
        assert_eq!(served(&["--namespaces", "b,a,b"]), ["a", "b"]);
    }

    #[test]
    fn flags_that_cannot_work_are_refused_in_one_sentence() {
        for (flags, says) in [
            (&["--namespace", "A B"][..], "--namespace"),
            (&["--namespaces", "a,B"][..], "--namespaces \"B\" must be a DNS label"),
            (&["--namespaces", "a,,b"][..], "--namespaces \"\" must be a DNS label"),
            (&["--namespaces", "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q"][..], "at most 16"),
            (&["--request-timeout", "11s"][..], "--renew-deadline"),
            (&["--metrics-bind-address", ":8081"][..], "own port"),
            (&["--metrics-secure=false"][..], "--metrics-secure=false on 0.0.0.0:8443"),
            (
                &["--metrics-secure=false", "--metrics-bind-address", "[::]:1"][..],
                "--metrics-insecure-remote",
            ),
            (&["--metrics-insecure-remote"][..], "--metrics-secure=false"),
            (
                &["--metrics-secure=false", "--metrics-bind-address=[::1]:1", "--metrics-cert-dir=/c"][..],
                "--metrics-cert-dir",
            ),
            (&["--pulse-bind-address", ":8081"][..], "--pulse-bind-address are both"),
            (&["--pulse-advertise-address", ":8082"][..], "can reach"),
            (&["--lease-duration", "x"][..], "not a duration"),
            (&["--max-concurrent-reconciles", "0"][..], "1..=256"),
            (&["--max-limit-memory", "much"][..], "--max-limit-memory"),
            (&["--artefact-limit", "1M"][..], "such as 384Mi"),
            (&["--plugin-signatures", "maybe"][..], "enforce, warn or off"),
            (&["--plugin-limit", "log"][..], "--plugin-limit \"log\": expected a name"),
            (&["--plugin-limit", "cpu=1s"][..], "there is no limit \"cpu\""),
            (&["--check-limit", "functions=x"][..], "no whole number"),
            (&["--check-limit", "depth=1000"][..], "between 1 and 100"),
            (&["--quarantine-pause", "2h"][..], "--quarantine-pause-max"),
            (&["--allow-reserved-kind", "Role"][..], "--allow-reserved-kind \"Role\""),
            (&["--allow-reserved-kind", "apps/v1/Deployment"][..], "is not reserved"),
        ] {
            let error = run(flags).expect_err(says);
            assert!(error.contains(says), "{error}");
        }
    }
}

//! Flags of the port for metrics and debug views.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::address;

/// Where and to whom metrics and debug views are shown.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Metrics and debug views")]
pub(crate) struct MetricsFlags {
    /// Where /metrics and /debug/{plugins,queue,watches,leadership,sandbox,signatures} are served.
    #[arg(long, env = "WINDLASS_METRICS_BIND_ADDRESS", default_value = "0.0.0.0:8443", value_parser = address)]
    pub(crate) metrics_bind_address: SocketAddr,

    /// Serve them over TLS, to bearer tokens that the API server accepts and whose account
    /// may `get` the path (deploy/components/metrics-auth). With `false` they are plain
    /// HTTP and open to everybody who reaches the address, which must be a loopback one.
    #[arg(long, env = "WINDLASS_METRICS_SECURE", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) metrics_secure: bool,

    /// Allow --metrics-secure=false on an address that other machines reach.
    #[arg(long, env = "WINDLASS_METRICS_INSECURE_REMOTE", default_value_t = false, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) metrics_insecure_remote: bool,

    /// Folder with tls.crt and tls.key in PEM, as a mounted Secret has them; read again
    /// every 5 s. Without it a certificate is made at the start that nobody has signed.
    #[arg(long, env = "WINDLASS_METRICS_CERT_DIR", value_name = "DIR")]
    pub(crate) metrics_cert_dir: Option<PathBuf>,

    /// Audiences, one of which a token must be for; without any, those of the API server.
    #[arg(long, env = "WINDLASS_METRICS_TOKEN_AUDIENCES", value_name = "AUDIENCE", value_delimiter = ',', action = ArgAction::Append)]
    pub(crate) metrics_token_audiences: Vec<String>,
}

impl MetricsFlags {
    /// Checks the flags against each other.
    ///
    /// # Errors
    /// One sentence that names the flags, what they are and what they must be.
    pub(super) fn check(&self) -> Result<(), String> {
        let address = self.metrics_bind_address;
        if self.metrics_secure {
            return match self.metrics_insecure_remote {
                true => Err("--metrics-insecure-remote means nothing without --metrics-secure=false".into()),
                false => Ok(()),
            };
        }
        if !address.ip().to_canonical().is_loopback() && !self.metrics_insecure_remote {
            return Err(format!(
                "--metrics-secure=false on {address} would show metrics and debug views to everybody who reaches it: \
                 leave TLS on, bind a loopback address such as 127.0.0.1:{}, or say --metrics-insecure-remote",
                address.port()
            ));
        }
        if self.metrics_cert_dir.is_some() || !self.metrics_token_audiences.is_empty() {
            return Err("--metrics-cert-dir and --metrics-token-audiences need --metrics-secure".into());
        }
        Ok(())
    }
}

//! The port for metrics and debug views as the flags want it: its certificate, and who may see what.

use std::net::SocketAddr;
use std::sync::Arc;

use tracing::{info, warn};
use windlass_admin::{Certificates, Entry, Guard};

use crate::args::Run;
use crate::end::End;
use crate::reviews::ApiReviews;

/// What stands between that port and what is shown there.
pub(crate) async fn entry(flags: &Run, client: &kube::Client) -> Result<Entry, End> {
    let wanted = &flags.metrics;
    if !wanted.metrics_secure {
        if wanted.metrics_insecure_remote {
            warn!(
                "metrics and debug views are shown to everybody who reaches {}",
                wanted.metrics_bind_address
            );
        }
        return Ok(Entry::open());
    }
    let certificates = match &wanted.metrics_cert_dir {
        Some(directory) => {
            let read = Certificates::from_directory(directory).await;
            read.map_err(|sentence| End::Unusable(format!("--metrics-cert-dir: {sentence}")))?
        }
        None => {
            info!("nobody has signed the certificate of metrics; --metrics-cert-dir names another");
            Certificates::own(names(flags)).map_err(End::Early)?
        }
    };
    let reviews = ApiReviews::new(client.clone(), wanted.metrics_token_audiences.clone());
    let guard = Guard::new(Arc::new(reviews), flags.request_timeout);
    Ok(Entry { certificates: Some(Arc::new(certificates)), guard: Some(Arc::new(guard)) })
}

/// By which names this port may be asked for. Whoever does not look, as with a certificate that nobody has signed, does
/// not care; the others find what they asked for.
fn names(flags: &Run) -> Vec<String> {
    let bound = flags.metrics.metrics_bind_address;
    let service = format!("windlass-metrics.{}.svc", flags.namespace);
    let addresses =
        [Some(bound).filter(|at| !at.ip().is_unspecified()).map(|at: SocketAddr| at.ip()), flags.pod_ip];
    let mut names = vec!["localhost".to_owned(), service, "127.0.0.1".to_owned(), "::1".to_owned()];
    names.extend(addresses.into_iter().flatten().map(|ip| ip.to_string()));
    names.dedup();
    names
}

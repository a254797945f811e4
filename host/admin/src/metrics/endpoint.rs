//! Metrics of the metrics endpoint itself: its certificate.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::{FloatGauge, one, reach};
use crate::certificates::CertificateNow;

/// The certificate of the port for metrics and debug views. Without TLS all are 0.
#[derive(Debug)]
pub struct EndpointMetrics {
    expires: FloatGauge,
    reads: Counter,
    errors: Counter,
}

impl EndpointMetrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        Self {
            expires: one(
                r,
                "windlass_metrics_certificate_expiration_timestamp_seconds",
                "When the certificate of this port ends, in Unix time; 0 without one",
            ),
            reads: one(r, "certwatcher_read_certificate", "Certificates taken"),
            errors: one(r, "certwatcher_read_certificate_errors", "Certificates that could not be used"),
        }
    }

    /// Sets how it stands with the certificate.
    pub fn set(&self, now: CertificateNow) {
        self.expires.set(now.expires.unwrap_or(0) as f64);
        reach(&self.reads, now.reads);
        reach(&self.errors, now.errors);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    #[test]
    fn the_end_of_the_certificate_can_be_alerted_on() {
        let metrics = Metrics::new();
        metrics.endpoint().set(CertificateNow { expires: Some(1_798_761_600), reads: 2, errors: 1 });
        let text = metrics.text();
        for line in [
            "windlass_metrics_certificate_expiration_timestamp_seconds 1798761600.0\n",
            "certwatcher_read_certificate_total 2\n",
            "certwatcher_read_certificate_errors_total 1\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}

//! Probes, metrics and debug views over HTTP.

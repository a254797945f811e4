//! Kubernetes equality.

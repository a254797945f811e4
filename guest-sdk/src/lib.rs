//! Write Kubernetes reconcilers as pure functions; Windlass runs them.

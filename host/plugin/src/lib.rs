//! ConfigMap -> checked, compiled, linked component -> Decision.

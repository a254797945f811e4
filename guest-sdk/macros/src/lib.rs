//! The attribute macros of the windlass crate.

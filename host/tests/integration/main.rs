//! The host as a whole, against a real API server: real replicas, real plugins, and
//! the API server's own records as the judge.
//!
//! Tests of ordinary behaviour share one control plane and one host (`Scene::shared`)
//! and keep to namespaces of their own; tests that disturb something have their own
//! (`Scene::fresh`), one at a time.

mod bad_plugins;
mod catalogue;
mod clocks;
mod deploy;
mod endpoints;
mod exceptions;
mod faults;
mod fence;
mod flow;
mod formats;
mod frozen;
mod last_good;
mod leadership;
mod nemesis;
mod packages;
mod plugins;
mod pressure;
mod rbac_alone;
mod scale;
mod scene;
mod scopes;
mod secrets;
mod signed;
mod tenancy;
mod tenant;
mod threats;
mod visible;

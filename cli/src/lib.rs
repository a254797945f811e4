//! A plugin at its author's desk: built, checked as a host checks it, and packaged with exactly the rights
//! that it needs.
//!
//! [`Package`] is a component that the host's own checks have accepted, with what lies beside it;
//! [`Rights`] follow from its manifest and from what is known of its [`Kinds`]; a package is written as one
//! YAML text ([`Package::yaml`]) or as a folder for kustomize ([`Package::write_kustomize`]).
//! [`check`] says what a host would say.
//!
//! The binary `kubectl-windlass` is a thin shell around this; `cargo xtask plugin` is another one.
//! What is absent: a Kubernetes client. What a cluster knows is asked through kubectl, and only when told to.

mod about;
mod check;
mod crates;
mod explain;
mod input;
mod kinds;
mod kustomize;
mod manifests;
mod package;
mod place;
mod rights;
mod sign;

pub use about::About;
pub use check::{Finding, Report, check};
pub use explain::{Explained, explain};
pub use input::{Beside, CrdFile, Input};
pub use kinds::{Facts, GroupKind, Kinds, Plural, UnknownKind, built_ins};
pub use kustomize::Written;
pub use manifests::{MARK, rights as rights_yaml};
pub use package::Package;
pub use place::{HOST_NAMESPACE, Place};
pub use rights::{Rights, Rule};
pub use sign::Sign;

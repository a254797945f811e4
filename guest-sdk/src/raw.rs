//! What the attribute's expansion stands on; nothing here is for authors, or stable.
//!
//! The generated bindings only exist on wasm. Tests of the host reach through them for what the
//! SDK makes impossible, such as a decision that is not JSON.

use crate::decode::written;
use crate::{Cache, Decision, Fault, Finalization, Kind, Object, Primary, Snapshot, decode};

/// A reconciler's function.
pub type Reconcile<T> = fn(&Snapshot<T>, &Cache) -> Result<crate::Decision, Fault>;
/// A finalize step's function.
pub type Finalize<T> = fn(&Snapshot<T>, &Cache) -> Result<Finalization, Fault>;

/// The kind that a reconciler is about, by its argument.
#[must_use]
pub const fn primary_of<T: Primary>(_: Reconcile<T>) -> Kind {
    T::KIND
}

/// Compiles only if the finalize step is about the same kind as the reconciler.
pub const fn finalizer_of<T: Primary>(_: Reconcile<T>, _: Finalize<T>) {}

/// The snapshot of the JSON that a component is given.
///
/// # Errors
/// Permanent if the primary does not fit the author's struct, or a text is no JSON.
pub fn lift<T: Primary>(
    primary: &str,
    children: Vec<String>,
    settings: Option<&str>,
) -> Result<Snapshot<T>, Fault> {
    let primary = decode::parse(primary, "the primary")?;
    let children =
        children.into_iter().map(|text| Object::parse(text, "a child")).collect::<Result<_, _>>()?;
    let settings = settings.map(|text| decode::parse(text, "settings.yaml")).transpose()?;
    Snapshot::with(primary, children, settings)
}

/// The children and the status of a decision as the JSON that a component gives back.
#[must_use]
pub fn texts(decision: &Decision) -> (Vec<String>, Option<String>) {
    let children = decision.children.iter().map(|child| written(child.as_value()));
    (children.collect(), decision.status.as_ref().map(written))
}

#[cfg(target_family = "wasm")]
pub use self::wasm::*;

/// The component's side.
#[cfg(target_family = "wasm")]
mod wasm {
    use super::{Finalize, Reconcile};
    use crate::manifest::{Manifest, Scope, Unwanted};
    use crate::{Cache, Decision, Fault, Finalization, Kind, Notice, Object, Primary, Snapshot, log};
    use std::mem::{self, ManuallyDrop};

    /// The bindings that `wit/` describes.
    #[allow(
        unsafe_code,
        missing_docs,
        unreachable_pub,
        clippy::all,
        reason = "generated: the calls across the boundary are not expressible in safe Rust"
    )]
    pub mod bindings {
        wit_bindgen::generate!({
            path: "../wit",
            world: "reconciler",
            pub_export_macro: true,
            default_bindings_module: "windlass::raw::bindings",
        });
    }

    pub use bindings::windlass::operator::{cache, log as raw_log, types};
    pub use bindings::{Guest, export};

    /// Longest text of a fault or a notice in bytes: the contract's bound.
    const MESSAGE_MAX_BYTES: usize = 1024;

    /// The manifest as it crosses the boundary.
    #[must_use]
    pub fn manifest(manifest: &Manifest) -> types::Manifest {
        let children = manifest.children.iter().map(|child| types::Child {
            kind: kind(child.kind),
            unwanted: match child.unwanted {
                Unwanted::Delete => types::Unwanted::Delete,
                Unwanted::Orphan => types::Unwanted::Orphan,
            },
        });
        let reads = manifest.reads.iter().map(|read| types::Read {
            kind: kind(read.kind),
            labels: requirements(&read.scope),
            namespaces: namespaces(&read.scope),
            fields: read.scope.fields.iter().map(|(path, value)| field(path, value)).collect(),
            metadata_only: read.scope.metadata_only,
        });
        types::Manifest {
            name: manifest.name.to_owned(),
            version: manifest.version.to_owned(),
            primary: types::Primary {
                kind: kind(manifest.primary),
                labels: requirements(&manifest.selects),
                namespaces: namespaces(&manifest.selects),
            },
            children: children.collect(),
            reads: reads.collect(),
            finalizes: manifest.finalizes,
        }
    }

    /// The labels of a scope as they cross the boundary.
    fn requirements(scope: &Scope) -> Vec<types::Requirement> {
        let one = |(key, value): &(&str, Option<&str>)| types::Requirement {
            key: (*key).to_owned(),
            value: value.map(str::to_owned),
        };
        scope.labels.iter().map(one).collect()
    }

    /// The namespaces of a scope as they cross the boundary.
    fn namespaces(scope: &Scope) -> Vec<String> {
        scope.namespaces.iter().map(|namespace| (*namespace).to_owned()).collect()
    }

    /// The field as it crosses the boundary.
    fn field(path: &str, value: &str) -> types::Field {
        types::Field { path: path.to_owned(), value: value.to_owned() }
    }

    /// Calls the author's reconciler.
    ///
    /// # Errors
    /// The author's, or permanent if the primary does not fit the author's struct.
    pub fn reconcile<T: Primary>(
        snapshot: types::Snapshot,
        reconcile: Reconcile<T>,
    ) -> Result<types::Decision, types::Fault> {
        // Kept to the end of the call, as all memory is: to give back what is thrown away anyway costs time.
        let snapshot = ManuallyDrop::new(lift(snapshot).map_err(fault)?);
        reconcile(&snapshot, &Cache::of_the_host()).map(decision).map_err(fault)
    }

    /// Calls the author's finalize step.
    ///
    /// # Errors
    /// The author's, or permanent if the primary does not fit the author's struct.
    pub fn finalize<T: Primary>(
        snapshot: types::Snapshot,
        finalize: Finalize<T>,
    ) -> Result<types::Finalization, types::Fault> {
        let outcome =
            lift(snapshot).and_then(|snapshot| finalize(&snapshot, &Cache::of_the_host())).map_err(fault)?;
        Ok(match outcome {
            Finalization::Done => types::Finalization::Done,
            Finalization::Pending(wanted) => types::Finalization::Pending(decision(wanted)),
        })
    }

    /// The finalize step of a reconciler without one; the host does not call it.
    ///
    /// # Errors
    /// None.
    pub fn nothing_to_finalize(_: types::Snapshot) -> Result<types::Finalization, types::Fault> {
        Ok(types::Finalization::Done)
    }

    /// The snapshot as the author sees it.
    fn lift<T: Primary>(snapshot: types::Snapshot) -> Result<Snapshot<T>, Fault> {
        super::lift(&snapshot.primary, snapshot.children, snapshot.settings.as_deref())
    }

    /// The decision as it crosses the boundary.
    fn decision(decision: Decision) -> types::Decision {
        let (children, status) = super::texts(&decision);
        // As the snapshot is.
        mem::forget((decision.children, decision.status));
        types::Decision {
            children,
            status,
            notices: decision.notices.into_iter().map(notice).collect(),
            // The host clamps it and says so; here it only has to fit.
            requeue_after_ms: decision
                .requeue_after
                .map(|pause| u32::try_from(pause.as_millis()).unwrap_or(u32::MAX)),
        }
    }

    /// The notice as it crosses the boundary.
    fn notice(notice: Notice) -> types::Notice {
        types::Notice {
            severity: if notice.warning { types::Severity::Warning } else { types::Severity::Normal },
            reason: notice.reason,
            message: shortened(notice.message),
        }
    }

    /// The fault as it crosses the boundary.
    fn fault(fault: Fault) -> types::Fault {
        match fault {
            Fault::Transient(message) => types::Fault::Transient(shortened(message)),
            Fault::Permanent(message) => types::Fault::Permanent(shortened(message)),
        }
    }

    /// The first 1,024 bytes, ending at a character.
    fn shortened(mut message: String) -> String {
        let end = message.floor_char_boundary(MESSAGE_MAX_BYTES);
        message.truncate(end);
        message
    }

    /// The kind as it crosses the boundary.
    fn kind(kind: Kind) -> types::Kind {
        types::Kind {
            group: kind.group.to_owned(),
            version: kind.version.to_owned(),
            kind: kind.kind.to_owned(),
        }
    }

    /// The label as it crosses the boundary.
    fn label(key: &str, value: &str) -> types::Label {
        types::Label { key: key.to_owned(), value: value.to_owned() }
    }

    /// What the host says an object is; by contract that is JSON.
    fn object(text: String) -> Object {
        match Object::parse(text, "an object from the cache") {
            Ok(object) => object,
            Err(fault) => panic!("{fault}"),
        }
    }

    /// Asks the host for one object.
    pub(crate) fn cache_get(of: Kind, namespace: &str, name: &str) -> Option<Object> {
        cache::get(&cache::ObjectKey {
            kind: kind(of),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
        .map(object)
    }

    /// Asks the host for a list.
    pub(crate) fn cache_list(of: Kind, namespace: Option<&str>, labels: &[(String, String)]) -> Vec<Object> {
        let query = cache::Query {
            kind: kind(of),
            namespace: namespace.map(str::to_owned),
            labels: labels.iter().map(|(key, value)| label(key, value)).collect(),
        };
        cache::list(&query).into_iter().map(object).collect()
    }

    /// Hands the host a log line.
    pub(crate) fn log(level: log::Level, line: &str) {
        let level = match level {
            log::Level::Debug => raw_log::Level::Debug,
            log::Level::Info => raw_log::Level::Info,
            log::Level::Warn => raw_log::Level::Warn,
            log::Level::Error => raw_log::Level::Error,
        };
        raw_log::write(level, line);
    }
}

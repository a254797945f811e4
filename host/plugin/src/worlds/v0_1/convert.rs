//! The version's values to core's nouns. No rule is applied here but those of the types
//! and of [`rules`]; `core::plan` judges what a decision contains.

use std::time::Duration;

use windlass_core::code::{Refusal, printable};
use windlass_core::decision::{Decision, Fault, Notice, Severity, Verdict};
use windlass_core::manifest::{ChildRule, Manifest, ReadRule, Unwanted};
use windlass_core::name::PluginName;
use windlass_core::scope::Scope;

use super::bindings;
use super::bindings::windlass::operator::types;
use crate::worlds::rules;

/// A manifest, checked as a whole. Whether its kinds are allowed is for the host to say.
///
/// # Errors
/// E170 with the path of the field.
pub(crate) fn manifest(from: types::Manifest) -> Result<Manifest, Refusal> {
    let name = PluginName::try_new(&from.name).map_err(|e| rules::bad("name", e))?;
    let primary = kind("primary", &from.primary)?;
    let children = from.children.iter().enumerate().map(|(i, child)| {
        Ok(ChildRule {
            kind: kind(&format!("children[{i}]"), &child.kind)?,
            unwanted: match child.unwanted {
                types::Unwanted::Delete => Unwanted::Delete,
                types::Unwanted::Orphan => Unwanted::Orphan,
            },
        })
    });
    let reads = from.reads.iter().enumerate().map(|(i, read)| {
        Ok(ReadRule {
            kind: kind(&format!("reads[{i}]"), &read.kind)?,
            scope: Scope::of_labels(read.labels.iter().map(|l| (l.key.clone(), l.value.clone()))),
        })
    });
    Manifest {
        name,
        version: printable(&from.version, 80),
        primary,
        selects: Scope::default(),
        children: children.collect::<Result<_, Refusal>>()?,
        reads: reads.collect::<Result<_, Refusal>>()?,
        strict: false,
        finalizes: from.finalizes,
    }
    .check()
}

fn kind(path: &str, from: &types::Kind) -> Result<windlass_core::kind::Gvk, Refusal> {
    rules::kind(path, &from.group, &from.version, &from.kind)
}

/// A verdict out of `reconcile`'s answer.
///
/// # Errors
/// E210 when the decision is larger than `limit` bytes.
pub(crate) fn decision(from: types::Decision, limit: usize) -> Result<Decision, Refusal> {
    let decision = Decision {
        children: from.children,
        status: from.status,
        notices: from.notices.into_iter().map(notice).collect(),
        requeue_after: from.requeue_after_ms.map(|ms| Duration::from_millis(ms.into())),
    };
    rules::within(decision, limit)
}

fn notice(from: types::Notice) -> Notice {
    Notice {
        severity: match from.severity {
            types::Severity::Normal => Severity::Normal,
            types::Severity::Warning => Severity::Warning,
        },
        reason: from.reason,
        message: from.message,
    }
}

/// A verdict out of `finalize`'s answer.
///
/// # Errors
/// As [`decision`].
pub(crate) fn finalization(from: bindings::Finalization, limit: usize) -> Result<Verdict, Refusal> {
    match from {
        types::Finalization::Done => Ok(Verdict::Finalized),
        types::Finalization::Pending(pending) => decision(pending, limit).map(Verdict::Decision),
    }
}

/// A fault, printable and cut.
pub(crate) fn fault(from: types::Fault) -> Fault {
    match from {
        types::Fault::Transient(text) => Fault::Transient(rules::fault_text(&text)),
        types::Fault::Permanent(text) => Fault::Permanent(rules::fault_text(&text)),
    }
}

//! What holds whatever version of the contract a component speaks: how an answer is bounded,
//! what of it is shown, what becomes of it.

use windlass_core::code::{Code, Refusal, printable};
use windlass_core::decision::{Decision, Verdict};
use windlass_core::guests::Called;
use windlass_core::kind::Gvk;
use windlass_core::ports::CallError;

use crate::call::Ended;

/// Longest text of a fault that is kept, in bytes.
const FAULT_BYTES: usize = 1024;

/// A kind out of a manifest.
///
/// # Errors
/// E170 with the path of the field.
pub(crate) fn kind(path: &str, group: &str, version: &str, kind: &str) -> Result<Gvk, Refusal> {
    Gvk::try_new(group, version, kind).map_err(|e| bad(path, e))
}

/// E170 at the field `path` of a manifest.
pub(crate) fn bad(path: &str, why: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::BadManifest, format!("{path}: {why}"))
}

/// # Errors
/// E210 when the decision is larger than `limit` bytes.
pub(crate) fn within(decision: Decision, limit: usize) -> Result<Decision, Refusal> {
    let bytes = bytes_of(&decision);
    if bytes > limit {
        return Err(Refusal::new(
            Code::OutputTooLarge,
            format!("a decision of {} KiB, at most {} KiB", bytes / 1024, limit / 1024),
        ));
    }
    Ok(decision)
}

/// The text of a fault, printable and cut.
pub(crate) fn fault_text(text: &str) -> String {
    printable(text, FAULT_BYTES)
}

/// Layers of an answer, from the call to the plugin's own word.
pub(crate) fn settle<T, F>(
    ended: Ended<Result<T, F>>,
    verdict: impl FnOnce(T) -> Result<Verdict, Refusal>,
    fault: impl FnOnce(F) -> windlass_core::decision::Fault,
) -> Called {
    let Ended { result, read_clock, lines, dropped_bytes, mut used } = ended;
    let result = match result {
        Err(refusal) => Err(CallError::Refused(refusal)),
        Ok(Err(theirs)) => Err(CallError::Fault(fault(theirs))),
        Ok(Ok(value)) => verdict(value).map_err(CallError::Refused),
    };
    if let Ok(Verdict::Decision(decision)) = &result {
        used.decision_bytes = bytes_of(decision) as u64;
    }
    Called { result, read_clock, lines, dropped_bytes, used }
}

/// Bytes of text in a decision.
fn bytes_of(decision: &Decision) -> usize {
    decision.children.iter().chain(&decision.status).map(String::len).sum::<usize>()
        + decision.notices.iter().map(|n| n.reason.len() + n.message.len()).sum::<usize>()
}

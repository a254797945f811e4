//! Terms: when each began, and when it first wrote.

use super::cause::Cause;
use super::history::{Change, Effect, Request};
use super::verdict::{Breach, Hole, Term, Verdict, Violation};

/// Reads the terms from the changes of one object, the claim Role or the Lease. A number that does not rise is a violation; a
/// change whose claim nobody recorded is a hole.
pub(crate) fn terms(
    resource: &str,
    changes: &[Change],
    causes: &[Cause],
    requests: &[&Request],
    verdict: &mut Verdict,
) -> Vec<Term> {
    let mut terms: Vec<Term> = Vec::new();
    let mut highest = 0;
    for (change, cause) in changes.iter().zip(causes) {
        if change.object.resource != resource || change.effect == Effect::Deleted {
            continue;
        }
        let Some(request) = cause.request().map(|number| requests[number]) else { continue };
        let Some(claim) = request.announces.clone() else {
            // An answer says everything.
            if request.succeeded().is_none() {
                let detail = "which claim was written here is not on record".to_owned();
                verdict.miss(Hole { revision: change.revision, object: change.object.to_string(), detail });
            }
            continue;
        };
        // A Lease without a holder is a released one.
        if claim.is_empty() || terms.last().is_some_and(|term| term.claim == claim) {
            continue;
        }
        let term = Term {
            claim,
            revision: change.revision,
            answered_us: answered_us(request),
            first_write: None,
            first_answered_us: None,
            writes: 0,
        };
        if term.number() <= highest {
            verdict.violate(Violation {
                breach: Breach::Term,
                audit_id: request.audit_id.clone(),
                object: change.object.to_string(),
                claim: term.claim.clone(),
                newest: terms.last().map(|term| term.claim.clone()).unwrap_or_default(),
                revision: change.revision,
                received_us: request.received_us,
                detail: format!("the number {} does not rise above {highest}", term.number()),
            });
        }
        highest = highest.max(term.number());
        terms.push(term);
    }
    terms
}

/// When a request was over at the latest.
pub(crate) fn answered_us(request: &Request) -> i64 {
    request.answer.as_ref().map_or(request.received_us + request.timeout_us, |answer| answer.at_us)
}

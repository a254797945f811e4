//! `windlass:operator@0.2.0`.

mod bindings;
mod convert;
mod imports;

use wasmtime::Result;
use wasmtime::component::{HasSelf, InstancePre, Linker};
use windlass_core::code::Refusal;
use windlass_core::decision::Verdict;
use windlass_core::guests::{Call, Called};
use windlass_core::limits::Limits;
use windlass_core::manifest::Manifest;

use self::bindings::{Reconciler, ReconcilerPre};
use super::{Guest, World, rules};
use crate::call::{Given, Inside, call};
use crate::engine::Sandbox;

/// The contract with scopes: which objects of a kind, and how much of each.
pub(crate) static WORLD: World =
    World { version: "0.2.0", component_type: bindings::COMPONENT_TYPE, offer, link };

fn offer(linker: &mut Linker<Inside>) -> Result<()> {
    Reconciler::add_to_linker::<_, HasSelf<_>>(linker, |inside| inside)
}

fn link(pre: InstancePre<Inside>) -> Result<Box<dyn Guest>> {
    Ok(Box::new(Linked(ReconcilerPre::new(pre)?)))
}

struct Linked(ReconcilerPre<Inside>);

impl Guest for Linked {
    fn manifest(&self, sandbox: &Sandbox, limits: &Limits, given: Given<'_>) -> Result<Manifest, Refusal> {
        let ended =
            call(sandbox, limits, given, |store| self.0.instantiate(&mut *store)?.call_manifest(store));
        convert::manifest(ended.result?)
    }

    fn decide(&self, sandbox: &Sandbox, limits: &Limits, given: Given<'_>, asked: &Call<'_>) -> Called {
        let children: Vec<&str> = asked.children.iter().map(|child| &**child).collect();
        let snapshot = bindings::Snapshot {
            primary: &asked.primary,
            children: &children,
            settings: asked.settings.as_deref(),
        };
        let most = limits.decision_bytes;
        if asked.finalize {
            let ended = call(sandbox, limits, given, |store| {
                self.0.instantiate(&mut *store)?.call_finalize(store, snapshot)
            });
            rules::settle(ended, |answer| convert::finalization(answer, most), convert::fault)
        } else {
            let ended = call(sandbox, limits, given, |store| {
                self.0.instantiate(&mut *store)?.call_reconcile(store, snapshot)
            });
            let verdict = |decision| convert::decision(decision, most).map(Verdict::Decision);
            rules::settle(ended, verdict, convert::fault)
        }
    }
}

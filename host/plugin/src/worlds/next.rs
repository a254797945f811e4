//! A version of the contract that does not exist, for tests: all that a new version takes is
//! a file like this one.

use std::time::Duration;

use wasmtime::Result;
use wasmtime::component::{HasSelf, InstancePre, Linker};
use windlass_core::code::{Refusal, printable};
use windlass_core::decision::{Decision, Fault, Notice, Severity, Verdict};
use windlass_core::guests::{Call, Called, Level};
use windlass_core::limits::Limits;
use windlass_core::manifest::{ChildRule, Manifest, Unwanted};
use windlass_core::name::PluginName;
use windlass_core::scope::Scope;

use self::bindings::windlass::operator::{cache, log, types};
use self::bindings::{Reconciler, ReconcilerPre};
use super::{Guest, World, rules};
use crate::call::{Given, Inside, call};
use crate::engine::Sandbox;

/// Generated.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit/next-for-tests/windlass.wit",
        world: "windlass:operator/reconciler",
        ownership: Borrowing { duplicate_if_necessary: true },
        imports: { default: trappable },
        include_component_type: true,
    });
}

/// `windlass:operator@0.3.0`, as it will never be.
pub(crate) static WORLD: World =
    World { version: "0.3.0", component_type: bindings::COMPONENT_TYPE, offer, link };

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
        manifest(ended.result?)
    }

    fn decide(&self, sandbox: &Sandbox, limits: &Limits, given: Given<'_>, asked: &Call<'_>) -> Called {
        // There is no `finalize`, so no manifest says so and the host never asks.
        let children: Vec<&str> = asked.children.iter().map(|child| &**child).collect();
        let snapshot = bindings::Snapshot {
            primary: &asked.primary,
            children: &children,
            settings: asked.settings.as_deref(),
        };
        let pass = bindings::Pass { number: asked.pass, key: &asked.key };
        let ended = call(sandbox, limits, given, |store| {
            self.0.instantiate(&mut *store)?.call_reconcile(store, pass, snapshot)
        });
        let most = limits.decision_bytes;
        rules::settle(ended, |made| rules::within(decision(made), most).map(Verdict::Decision), fault)
    }
}

fn manifest(from: types::Manifest) -> Result<Manifest, Refusal> {
    let children = from.children.iter().enumerate().map(|(i, child)| {
        Ok(ChildRule { kind: kind(&format!("children[{i}]"), child)?, unwanted: Unwanted::Delete })
    });
    Manifest {
        name: PluginName::try_new(&from.name).map_err(|e| rules::bad("name", e))?,
        version: printable(&from.version, 80),
        primary: kind("primary", &from.primary)?,
        selects: Scope::default(),
        children: children.collect::<Result<_, Refusal>>()?,
        reads: Vec::new(),
        strict: true,
        finalizes: false,
    }
    .check()
}

fn kind(path: &str, from: &types::Kind) -> Result<windlass_core::kind::Gvk, Refusal> {
    let (group, version) = parted(&from.api_version);
    rules::kind(path, group, version, &from.kind)
}

fn parted(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

fn decision(from: types::Decision) -> Decision {
    let reason = from.reason.map(|message| Notice {
        severity: Severity::Normal,
        reason: "Decided".to_owned(),
        message,
    });
    Decision {
        children: from.children,
        status: from.status,
        notices: reason.into_iter().collect(),
        requeue_after: from.requeue_after_ms.map(|ms| Duration::from_millis(ms.into())),
    }
}

fn fault(from: types::Fault) -> Fault {
    match from {
        types::Fault::Transient(text) => Fault::Transient(rules::fault_text(&text)),
        types::Fault::Permanent(text) => Fault::Permanent(rules::fault_text(&text)),
        types::Fault::Waiting(whom) => Fault::Transient(rules::fault_text(&format!("waiting for {whom}"))),
    }
}

impl cache::Host for Inside {
    fn get(&mut self, kind: types::Kind, namespace: String, name: String) -> Result<Option<String>> {
        let (group, version) = parted(&kind.api_version);
        self.look_up((group, version, &kind.kind), &namespace, &name)
    }
}

impl log::Host for Inside {
    fn write(&mut self, level: log::Level, message: String) -> Result<()> {
        let level = match level {
            log::Level::Debug => Level::Debug,
            log::Level::Info => Level::Info,
            log::Level::Warn => Level::Warn,
            log::Level::Error => Level::Error,
        };
        self.output.line(level, &message);
        Ok(())
    }
}

impl types::Host for Inside {}

//! Generated from `wit/released/0.2.0`, in quarantine: nothing here is written by hand.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]

wasmtime::component::bindgen!({
    path: "../../wit/released/0.2.0/windlass.wit",
    world: "windlass:operator/reconciler",
    ownership: Borrowing { duplicate_if_necessary: true },
    imports: { default: trappable },
    include_component_type: true,
});

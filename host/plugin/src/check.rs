//! The check before compilation: is this a component that could be a plugin?
//!
//! It measures and validates everything but function bodies (the compiler does
//! those) with the engine's own parser and features, so that an author hears what
//! is wrong before seconds of compilation, and the compiler sees less of what
//! strangers write. It never runs anything.

use wasmtime::wasmparser::types::Types;
use wasmtime::wasmparser::{BinaryReaderError, Parser, ValidPayload, Validator, WasmFeatures};
use windlass_core::code::{Code, Refusal, printable};
use windlass_core::limits::CheckLimits;

use crate::measure::{Fault, Surface, measure};
use crate::signature::{WORLDS, World};
use crate::{imports, signature};

/// What is known of a component that has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    /// Version of the contract that it was built for: one that this host serves.
    #[allow(dead_code, reason = "whoever serves several versions chooses the bindings by it")]
    pub(crate) world: String,
}

/// Checks `bytes` against the contract, within `limits`.
///
/// # Errors
/// E110 to E116 and E123 when it is not a component that the host takes, E120 and
/// E121 for an import, E122 for an export.
pub(crate) fn check(bytes: &[u8], features: WasmFeatures, limits: &CheckLimits) -> Result<Checked, Refusal> {
    check_within(bytes, features, limits, &WORLDS)
}

/// Checks `bytes` against `worlds`, the newest of them last.
pub(crate) fn check_within(
    bytes: &[u8],
    features: WasmFeatures,
    limits: &CheckLimits,
    worlds: &[World],
) -> Result<Checked, Refusal> {
    magic(bytes)?;
    let surface = measure(bytes, limits).map_err(|fault| match fault {
        Fault::Parse(error) => unreadable(bytes, &error),
        Fault::Refused(refusal) => refusal,
    })?;
    let types = validate(bytes, features).map_err(|error| malformed(bytes, &error))?;
    let Some(types) = types else {
        return Err(Refusal::new(Code::Malformed, "the component does not end"));
    };
    against(&types, &surface, worlds)
}

fn against(types: &Types, surface: &Surface, worlds: &[World]) -> Result<Checked, Refusal> {
    let world = imports::target(&surface.imports, worlds)?;
    for import in &surface.imports {
        signature::import(types.as_ref(), import, imports::allowed(import, world)?)?;
    }
    world.exports(types.as_ref(), &surface.exports)?;
    Ok(Checked { world: world.version.clone() })
}

/// Validates all but function bodies. `None`: it has no end.
fn validate(bytes: &[u8], features: WasmFeatures) -> Result<Option<Types>, BinaryReaderError> {
    let mut validator = Validator::new_with_features(features);
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match validator.payload(&payload?)? {
            ValidPayload::Parser(_) => depth += 1,
            ValidPayload::End(types) if depth == 0 => return Ok(Some(types)),
            ValidPayload::End(_) => depth -= 1,
            ValidPayload::Ok | ValidPayload::Func(..) => {}
        }
    }
    Ok(None)
}

/// What the compiler's complaint about a checked component means: it validates
/// the function bodies, which [`check`] leaves out.
pub(crate) fn compile_failure(bytes: &[u8], features: WasmFeatures, error: &wasmtime::Error) -> Refusal {
    match Validator::new_with_features(features).validate_all(bytes) {
        Err(e) => malformed(bytes, &e),
        Ok(_) => Refusal::new(Code::CompileFailed, format!("{error:#}")),
    }
}

/// E115 when the only fault is a feature that is off, E113 otherwise. Only for bytes that have
/// been measured: the validator recurses.
fn malformed(bytes: &[u8], error: &BinaryReaderError) -> Refusal {
    let with_all = WasmFeatures::all() - WasmFeatures::LEGACY_EXCEPTIONS;
    if Validator::new_with_features(with_all).validate_all(bytes).is_ok() {
        let (text, offset) = (printable(error.message(), 256), error.offset());
        return Refusal::new(
            Code::FeatureDisabled,
            format!("{text} at offset {offset:#x}: build it for wasm32-wasip2 without this feature"),
        );
    }
    unreadable(bytes, error)
}

fn unreadable(bytes: &[u8], error: &BinaryReaderError) -> Refusal {
    let (text, offset) = (printable(error.message(), 256), error.offset());
    Refusal::new(Code::Malformed, format!("malformed at offset {offset:#x} of {}: {text}", bytes.len()))
}

/// Judges the first eight bytes.
fn magic(bytes: &[u8]) -> Result<(), Refusal> {
    match bytes {
        [b'\0', b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(()),
        [b'\0', b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(Refusal::new(
            Code::CoreModule,
            "this is a core module, a component is needed: build for the target wasm32-wasip2, \
             or wrap it with wasm-tools component new",
        )),
        [b'\0', b'a', b's', b'm', rest @ ..] => Err(Refusal::new(
            Code::Malformed,
            format!(
                "malformed at offset 0x4: version and layer are {}, want 0d000100",
                hex(&rest[..rest.len().min(4)])
            ),
        )),
        [0x7f, b'E', b'L', b'F', ..] => Err(Refusal::new(
            Code::PrecompiledRefused,
            "this is native code (ELF), which is never loaded from the cluster: offer the component that it was compiled from",
        )),
        _ if is_text(bytes) => Err(Refusal::new(
            Code::TextFormat,
            "this is WebAssembly text: translate it with wasm-tools parse",
        )),
        _ => Err(not_wasm(bytes)),
    }
}

fn not_wasm(bytes: &[u8]) -> Refusal {
    let hint = match bytes {
        [0x1f, 0x8b, ..] => " (gzip: name the key plugin.wasm.gz)",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => " (zstd: name the key plugin.wasm.zst)",
        [b'A', b'G', b'F', b'z', ..] => " (base64: it has been encoded twice)",
        [b'#', b'!', ..] => " (a script)",
        _ => "",
    };
    let magic = hex(&bytes[..bytes.len().min(4)]);
    Refusal::new(Code::NotWasm, format!("magic is {magic}, want 0061736d{hint}"))
}

/// Whether it looks like WAT: comments, then `(component` or `(module`.
fn is_text(bytes: &[u8]) -> bool {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]);
    let code = head.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with(";;"));
    code.is_some_and(|line| ["(component", "(module", "(;"].iter().any(|start| line.starts_with(start)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

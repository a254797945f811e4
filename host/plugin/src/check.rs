//! The check before compilation: is this a component that could be a plugin?
//!
//! It parses and validates everything but function bodies (the compiler does
//! those) with the engine's own parser and features, so that an author hears what
//! is wrong before seconds of compilation, and the compiler sees less of what
//! strangers write. It never runs anything.

use wasmtime::wasmparser::BinaryReaderError;
use wasmtime::wasmparser::types::Types;
use wasmtime::wasmparser::{
    ComponentTypeRef, Parser, Payload, TypeBounds, ValidPayload, Validator, WasmFeatures,
};
use windlass_core::code::{Code, Refusal, printable};

use crate::{imports, signature};

/// Functions that one component may define, its core modules together.
const FUNCTIONS_MAX: u32 = 20_000;

/// Checks `bytes` against the contract.
///
/// # Errors
/// E110 to E116 when it is not a valid component, E120 and E121 for an import,
/// E122 for an export.
pub(crate) fn check(bytes: &[u8], features: WasmFeatures) -> Result<(), Refusal> {
    magic(bytes)?;
    let shape = walk(bytes, features).map_err(|e| match e {
        Fault::Parse(e) => malformed(bytes, &e),
        Fault::Refused(refusal) => refusal,
    })?;
    for import in &shape.imports {
        imports::allowed(import)?;
    }
    signature::check(shape.types.as_ref(), &shape.exports)
}

/// What the compiler's complaint about a checked component means: it validates
/// the function bodies, which [`check`] leaves out.
pub(crate) fn compile_failure(bytes: &[u8], features: WasmFeatures, error: &wasmtime::Error) -> Refusal {
    match Validator::new_with_features(features).validate_all(bytes) {
        Err(e) => malformed(bytes, &e),
        Ok(_) => Refusal::new(Code::CompileFailed, format!("{error:#}")),
    }
}

enum Fault {
    Parse(BinaryReaderError),
    Refused(Refusal),
}

impl From<BinaryReaderError> for Fault {
    fn from(e: BinaryReaderError) -> Self {
        Self::Parse(e)
    }
}

/// What the outermost component imports and exports.
struct Shape {
    imports: Vec<String>,
    exports: Vec<String>,
    types: Types,
}

fn walk(bytes: &[u8], features: WasmFeatures) -> Result<Shape, Fault> {
    let mut validator = Validator::new_with_features(features);
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut depth = 0_usize;
    let mut functions = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        match &payload {
            Payload::CodeSectionStart { count, .. } => {
                functions = functions.saturating_add(*count);
                if functions > FUNCTIONS_MAX {
                    return Err(Fault::Refused(Refusal::new(
                        Code::TooComplex,
                        format!("{functions} functions, limit {FUNCTIONS_MAX}"),
                    )));
                }
            }
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section.clone() {
                    let import = import?;
                    // A world's `use` becomes the import of a type that equals a known
                    // one: a name, nothing that anybody would have to provide.
                    if !matches!(import.ty, ComponentTypeRef::Type(TypeBounds::Eq(_))) {
                        imports.push(import.name.name.to_owned());
                    }
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section.clone() {
                    exports.push(export?.name.name.to_owned());
                }
            }
            _ => {}
        }
        match validator.payload(&payload)? {
            ValidPayload::Parser(_) => depth += 1,
            ValidPayload::End(types) if depth == 0 => {
                return Ok(Shape { imports, exports, types });
            }
            ValidPayload::End(_) => depth -= 1,
            ValidPayload::Ok | ValidPayload::Func(..) => {}
        }
    }
    Err(Fault::Refused(Refusal::new(Code::Malformed, "the component does not end")))
}

/// E115 when the only fault is a feature that is off, E113 otherwise.
fn malformed(bytes: &[u8], error: &BinaryReaderError) -> Refusal {
    let (text, offset) = (printable(error.message(), 256), error.offset());
    let with_all = WasmFeatures::all() - WasmFeatures::LEGACY_EXCEPTIONS;
    if Validator::new_with_features(with_all).validate_all(bytes).is_ok() {
        return Refusal::new(Code::FeatureDisabled, format!("{text} at offset {offset:#x}"));
    }
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

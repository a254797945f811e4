//! Artefacts: compiled components as files.
//!
//! An artefact is native code. Whoever loads one runs whatever it holds, so only files that
//! this host has written are ever loaded, after their checksum was compared (`cache`), and
//! only by a process that could do no harm with them.

use std::fs::File;
use std::path::Path;

use wasmtime::Engine;
use wasmtime::component::Component;
use windlass_core::code::{Code, Refusal, printable};

/// Writes compiled code to `into`.
///
/// # Errors
/// E152 when the file cannot take it.
pub(crate) fn write(component: &Component, mut into: impl std::io::Write) -> Result<(), Refusal> {
    let failed = |text: String| Refusal::new(Code::CompileFailed, format!("the artefact: {text}"));
    let bytes = component.serialize().map_err(|e| failed(format!("{e:#}")))?;
    into.write_all(&bytes).and_then(|()| into.flush()).map_err(|e| failed(e.to_string()))
}

/// Maps an artefact; its pages are shared by everybody who maps it.
///
/// # Errors
/// E152 when it was made by another version or for another processor, or is gone.
#[allow(unsafe_code)]
pub(crate) fn map(engine: &Engine, path: &Path) -> Result<Component, Refusal> {
    // SAFETY: the file was written by a compile child of this host into a directory that
    // nobody else may write, and its checksum was compared after that; it is replaced by
    // rename only, never written again while it is mapped.
    unsafe { Component::deserialize_file(engine, path) }.map_err(|e| {
        Refusal::new(
            Code::CompileFailed,
            format!("the artefact cannot be used and is made again: {}", printable(&format!("{e:#}"), 200)),
        )
    })
}

/// A new file for an artefact that only this user may read.
///
/// # Errors
/// E152 with the system's reason.
pub(crate) fn create(into: &Path) -> Result<File, Refusal> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(into).map_err(|e| {
        Refusal::new(Code::CompileFailed, format!("no place for an artefact at {}: {e}", into.display()))
    })
}

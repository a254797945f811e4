//! Why a call failed, as a code: the engine's errors and our own, told apart.

use std::collections::BTreeSet;

use wasmtime::{Error, Trap, WasmBacktrace};
use windlass_core::code::{Code, Refusal, printable};
use windlass_core::limits::Limits;

use crate::engine::FRAMES_MAX;

/// What the engine says when a value that a guest hands over is too large. It has
/// no type of its own; a test notices when the words change.
const FUEL_EXHAUSTED: &str = "fuel allocated for hostcalls";

/// What the engine says when a component has too many instances or memories.
const TOO_MANY: &str = "resource limit exceeded";

/// Turns the engine's error into a refusal. `last_words` is the end of stderr.
pub(crate) fn classify(error: &Error, last_words: &str, limits: &Limits) -> Refusal {
    if let Some(ours) = error.downcast_ref::<Refusal>() {
        return match ours.code {
            // Only these can have been preceded by a message that explains them.
            Code::Trap => Refusal::new(Code::Trap, with_words(&ours.message, last_words)),
            _ => ours.clone(),
        };
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return trapped(*trap, error, last_words, limits);
    }
    let text = error.root_cause().to_string();
    if text.contains(FUEL_EXHAUSTED) {
        return Refusal::new(
            Code::OutputTooLarge,
            format!("handed over more than {} KiB in one value", limits.decision_bytes / 1024),
        );
    }
    if text.contains(TOO_MANY) {
        return Refusal::new(Code::MemoryLimit, text);
    }
    Refusal::new(Code::BadAbiValue, format!("a value that the contract does not allow: {text}"))
}

fn trapped(trap: Trap, error: &Error, last_words: &str, limits: &Limits) -> Refusal {
    match trap {
        // Compiled languages keep large variables on a second stack in linear memory,
        // whose overflow the machine can only see as an access outside it.
        Trap::MemoryOutOfBounds if is_endless(error) => {
            Refusal::new(Code::StackOverflow, format!("the stack in linear memory is full{}", at(error)))
        }
        Trap::StackOverflow => Refusal::new(
            Code::StackOverflow,
            format!("the stack is full, limit {} KiB{}", limits.stack_bytes / 1024, at(error)),
        ),
        Trap::InvalidChar
        | Trap::InvalidDiscriminant
        | Trap::UnalignedPointer
        | Trap::StringOutOfBounds
        | Trap::ListOutOfBounds => Refusal::new(Code::BadAbiValue, trap.to_string()),
        _ => Refusal::new(Code::Trap, format!("{}{}", with_words(&trap.to_string(), last_words), at(error))),
    }
}

fn with_words(text: &str, last_words: &str) -> String {
    if last_words.is_empty() {
        return text.to_owned();
    }
    format!("{text}; stderr: {last_words}")
}

/// `; at inner < outer < …`, or nothing when no frame is known.
fn at(error: &Error) -> String {
    let frames = error.downcast_ref::<WasmBacktrace>().map(frames).unwrap_or_default();
    if frames.is_empty() {
        return String::new();
    }
    format!("; at {}", frames.join(" < "))
}

/// Whether the innermost frames are a few functions that call each other again
/// and again, as many as are remembered.
fn is_endless(error: &Error) -> bool {
    let Some(trace) = error.downcast_ref::<WasmBacktrace>() else {
        return false;
    };
    let functions: BTreeSet<u32> = trace.frames().iter().map(wasmtime::FrameInfo::func_index).collect();
    trace.frames().len() >= FRAMES_MAX && functions.len() <= FRAMES_MAX / 4
}

/// Names of the frames, innermost first. The engine's text is used because it has
/// the names demangled; functions without a name come with their number.
fn frames(trace: &WasmBacktrace) -> Vec<String> {
    trace
        .to_string()
        .lines()
        .filter_map(|line| {
            let (head, name) = line.split_once(" - ")?;
            let is_frame = head.trim().chars().next().is_none_or(|c| c.is_ascii_digit());
            let name = name.rsplit_once("unknown>!").map_or(name, |(_, name)| name);
            let number = name.strip_prefix("<wasm function ").and_then(|rest| rest.strip_suffix('>'));
            is_frame.then(|| number.map_or_else(|| printable(name, 80), |number| format!("#{number}")))
        })
        .take(FRAMES_MAX)
        .collect()
}

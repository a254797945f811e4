//! The compile child: takes powers away from itself, compiles one component, ends.
//!
//! What it holds then is a socket, one file to write to, and standard error. How a component is
//! compiled is the business of whoever calls.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};

use windlass_core::code::{Code, Refusal};
use windlass_core::guests::Tier;
use windlass_core::limits::Limits;

use crate::compile::{Outcome, receive_order};
use crate::confine::{self, ConfineError, Confinement};
use crate::frame::{Buffer, FrameError, Wire};
use crate::message::{Hello, SMALL_MAX_BYTES};
use crate::process::die_with_parent;

/// Why a compile child ends without an answer. The host sees only that it ends.
#[derive(Debug, thiserror::Error)]
pub enum CompileServeError {
    /// It would outlive its host.
    #[error("be ended with the host")]
    Parent(#[source] io::Error),
    /// It keeps powers.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// Standard input is no socket.
    #[error("use standard input")]
    Stdin(#[source] io::Error),
    /// The host is gone, or is none.
    #[error("talk to the host")]
    Talk(#[from] FrameError),
}

/// Serves one compilation over standard input, a socket, and returns when it was answered. To be
/// called at the very start of a process: with one thread, nothing opened and nothing read.
/// `compile` gets the component, the limits that shape its code, how hard to try, and the file.
/// When it panics that is E152; when it needs too much time or memory the process ends.
///
/// # Errors
/// [`CompileServeError`]: nothing was answered.
pub fn serve_compile(
    confinement: &Confinement,
    compile: impl FnOnce(&[u8], &Limits, Tier, &mut File) -> Result<(), Refusal>,
) -> Result<(), CompileServeError> {
    die_with_parent().map_err(CompileServeError::Parent)?;
    let confined = confine::apply(confinement)?;
    let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(CompileServeError::Stdin)?;
    let wire = Wire::patient(UnixStream::from(stdin));
    let mut buffer = Buffer::default();
    wire.send(&mut buffer, &Hello { confined }, SMALL_MAX_BYTES, None)?;
    let (order, mut output) = receive_order(&wire, &mut buffer)?;
    let compiled =
        catch_unwind(AssertUnwindSafe(|| compile(buffer.body(), &order.limits, order.tier, &mut output)));
    let outcome: Outcome = match compiled {
        Ok(Ok(())) => output.metadata().map(|meta| meta.len()).map_err(|e| failed(&e.to_string())),
        Ok(Err(refusal)) => Err(refusal),
        Err(_) => Err(failed("it panicked; its own words are on the host's standard error")),
    };
    drop(output);
    buffer.settle();
    wire.send(&mut buffer, &outcome, SMALL_MAX_BYTES, None)?;
    Ok(())
}

fn failed(text: &str) -> Refusal {
    Refusal::new(Code::CompileFailed, format!("the compiler: {text}"))
}

//! The worker's own side: takes powers away from itself, then serves lanes.
//!
//! What holds this process together is trust in the host alone: whatever else goes wrong in here ends it, because
//! after a panic nothing in here can be believed any more.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use windlass_core::guests::Guests;

use crate::confine::{self, ConfineError, Confinement};
use crate::frame::{Buffer, FrameError, Wire};
use crate::message::{Control, Hello, Ready, SMALL_MAX_BYTES};
use crate::process::die_with_parent;
use crate::relief::Relief;
use crate::served::{Open, Served};

/// What a worker is allowed.
#[derive(Clone, Debug)]
pub struct Serving {
    /// What it keeps of its powers.
    pub confinement: Confinement,
    /// Lanes that the host uses at once. Twice as many end it: the host is not itself.
    pub lanes: usize,
    /// Stack of each lane's thread, in bytes: what a guest may use and 256 KiB for the
    /// host's own frames. All of it counts as data of the process.
    pub lane_stack_bytes: usize,
}

/// Why a worker has ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It would outlive its host.
    #[error("be ended with the host")]
    Parent(#[source] io::Error),
    /// It keeps powers.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// Standard input is no socket.
    #[error("use standard input")]
    Stdin(#[source] io::Error),
    /// The host said something else than was agreed.
    #[error("talk to the host")]
    Talk(#[from] FrameError),
    /// Guests cannot be run; the host knows why.
    #[error("run guests: {0}")]
    Guests(String),
    /// Nobody would take over from threads that step back.
    #[error("start the thread that relieves others")]
    Relief(#[source] io::Error),
    /// More lanes than there may be, or one without its socket.
    #[error("a lane that was not agreed")]
    Lane,
}

/// Serves the host on standard input, a socket, until it closes it. To be called at the very
/// start of a process: with one thread, nothing opened and nothing read. `make` is called
/// once confined. The process should end when this returns: lanes may still be busy.
///
/// # Errors
/// [`ServeError`]. The host learns of the end of this process, and of [`ServeError::Guests`] in words.
pub fn serve<G: Guests + 'static, E: Display>(
    serving: &Serving,
    make: impl FnOnce() -> Result<G, E>,
) -> Result<(), ServeError> {
    die_with_parent().map_err(ServeError::Parent)?;
    let confined = confine::apply(&serving.confinement)?;
    let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(ServeError::Stdin)?;
    let control = Wire::patient(UnixStream::from(stdin));
    match make() {
        Ok(guests) => {
            say(&control, &Ok(Hello { confined }))?;
            let guests: Arc<dyn Guests> = Arc::new(guests);
            attend(&control, serving, &guests)
        }
        Err(error) => {
            let text = error.to_string();
            say(&control, &Err(text.clone()))?;
            Err(ServeError::Guests(text))
        }
    }
}

fn say(control: &Wire, ready: &Ready) -> Result<(), FrameError> {
    control.send(&mut Buffer::default(), ready, SMALL_MAX_BYTES, None)
}

/// Takes lanes until the host has no more use for this process.
fn attend(control: &Wire, serving: &Serving, guests: &Arc<dyn Guests>) -> Result<(), ServeError> {
    let open = Arc::new(AtomicUsize::new(0));
    let relief = Relief::start().map_err(ServeError::Relief)?;
    loop {
        match control.receive_with(SMALL_MAX_BYTES, None) {
            Ok((Control::Lane, sockets)) => {
                let socket = only(sockets)?;
                // Those that the host has just closed may still count.
                let open = Open::one(&open, serving.lanes.saturating_mul(2)).ok_or(ServeError::Lane)?;
                let (stack_bytes, relief) = (serving.lane_stack_bytes, relief.clone());
                let lane = Served::new(socket, Arc::clone(guests), stack_bytes, relief, open);
                // Without room for its thread its socket is closed: the host goes on with the lanes that there are.
                let _ = lane.start(None);
            }
            Ok((Control::Unload(id), _)) => guests.unload(id),
            Err(FrameError::Closed) => return Ok(()),
            Err(other) => return Err(other.into()),
        }
    }
}

fn only(mut sockets: Vec<OwnedFd>) -> Result<OwnedFd, ServeError> {
    let socket = sockets.pop().ok_or(ServeError::Lane)?;
    if sockets.is_empty() { Ok(socket) } else { Err(ServeError::Lane) }
}

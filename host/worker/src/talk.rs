//! A call that no thread waits for: a task is told by the socket, asks the cache itself, and is woken
//! once, when there is an answer.
//!
//! Only what needs no wait begins here: the component is loaded, a lane is free, nobody is suspected. The rest, and
//! whatever goes wrong later, is for a thread that may block. So is what is left of a call whose task has been
//! dropped: the conversation has to end before its lane can be used again.

use std::sync::Arc;

use tokio::runtime::Handle;
use windlass_core::guests::{Call, Called, Texts};
use windlass_core::ports::CallError;

use crate::known::Known;
use crate::lane::{Lane, LaneError, Turn};
use crate::worker::{Doom, Lost, Worker};

/// Frames of more bytes are written by a thread that may block: they do not fit into a socket, and
/// take long anyway.
const WRITE_MAX_BYTES: usize = 64 << 10;

/// A call under way. Dropped before its end it goes on without anybody who listens.
pub(crate) struct Talk(Option<Parts>);

struct Parts {
    worker: Arc<Worker>,
    known: Arc<Known>,
    texts: Arc<dyn Texts>,
    lane: Lane,
    turn: Turn,
    /// How much of the lane's last frame has been written.
    sent: usize,
}

impl Talk {
    /// Asks `known`, if that can be done at once.
    pub(crate) fn begin(
        worker: Arc<Worker>,
        known: Arc<Known>,
        call: &Call<'_>,
        texts: &Arc<dyn Texts>,
    ) -> Option<Self> {
        Handle::try_current().ok()?;
        let mut lane = worker.check_out_now(&known)?;
        let asked = lane.watched().ok().and_then(|()| lane.ask(&known.load.limits, call).ok());
        let Some(turn) = asked else {
            // Nothing was said on it. Why not is said by whoever asks again.
            worker.check_in(lane);
            return None;
        };
        lane.expect_answer();
        let mut parts = Parts { worker, known, texts: Arc::clone(texts), lane, turn, sent: 0 };
        // What breaks here is seen again by whoever waits.
        let _broken = parts.write();
        Some(Self(Some(parts)))
    }

    /// Waits for the answer. Nothing when it has to be asked again.
    pub(crate) async fn answer(mut self) -> Option<Called> {
        let said = match &mut self.0 {
            Some(parts) => parts.converse().await,
            None => return None,
        };
        let parts = self.0.take()?;
        match said {
            Some(said @ (Ok(_) | Err(LaneError::Refused(_)))) => parts.conclude(said),
            Some(broken) => tokio::task::spawn_blocking(|| parts.conclude(broken)).await.ok()?,
            None => tokio::task::spawn_blocking(|| parts.finish()).await.ok()?,
        }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let Some(parts) = self.0.take() else { return };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(|| parts.finish())),
            // The host ends, and the other process with it.
            Err(_) => parts.worker.kill(),
        }
    }
}

impl Parts {
    /// Writes what can be written now; whether that is all.
    fn write(&mut self) -> Result<bool, LaneError> {
        if self.lane.to_write() > WRITE_MAX_BYTES {
            return Ok(false);
        }
        self.sent = self.lane.write_now(self.sent)?;
        Ok(self.sent == self.lane.to_write())
    }

    /// Until the call is answered, or a thread that may block has to go on with it.
    ///
    /// # Cancel safety
    /// What is left can be finished.
    async fn converse(&mut self) -> Option<Result<Called, LaneError>> {
        loop {
            match self.write() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
            let heard = match self.lane.heard_of(&self.turn).await {
                Ok(heard) => heard,
                Err(error) => return Some(Err(error)),
            };
            match self.lane.heard(&mut self.turn, &self.known.load.limits, &*self.texts, heard) {
                Ok(None) => self.sent = 0,
                Ok(Some(called)) => return Some(Ok(called)),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The same on a thread that may block.
    fn finish(mut self) -> Option<Called> {
        let limits = &self.known.load.limits;
        let said = self.lane.finish(self.sent, &mut self.turn, limits, &*self.texts);
        self.conclude(said)
    }

    /// Gives the lane back, and judges.
    fn conclude(self, said: Result<Called, LaneError>) -> Option<Called> {
        let Self { worker, known, lane, .. } = self;
        let concluded = worker.conclude(lane, said);
        if known.is_gone() {
            worker.unload(known.id());
        }
        match concluded {
            Ok(called) => Some(called.unwrap_or_else(|error: CallError| Called::failed(error))),
            Err(Lost::NotAsked | Lost::InFlight { doom: Some(Doom::Hung), .. }) => None,
            Err(Lost::Hung | Lost::InFlight { .. }) => {
                // Whoever asks again asks it alone.
                known.suspect();
                None
            }
        }
    }
}

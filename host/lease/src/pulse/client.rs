//! The side that listens: one connection to the process that leads.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch as channel};
use tokio::time::Instant;
use windlass_core::backoff::Backoff;

use super::{Address, GREETING, LONGEST_NONCE, greeted};
use crate::record::Lease;
use crate::step::Input;

/// A connection that closed sooner than this is not followed by the next one at once:
/// or a box that accepts and closes would be asked without a pause.
const SHORT: Duration = Duration::from_millis(100);

/// How long a connection may take, and then the line.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whose pulse is to be listened to, as the Lease has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The holder.
    pub identity: Arc<str>,
    /// What stands in its annotation, whatever that is.
    pub pulse: Arc<str>,
}

impl Target {
    /// Whose pulse the holder of `lease` is. Nothing when nobody holds it, or says nothing.
    pub fn of(lease: &Lease) -> Option<Self> {
        Some(Self { identity: lease.holder()?.into(), pulse: lease.pulse()?.into() })
    }
}

/// How things stand with the pulse of another process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerState {
    /// There is nobody to listen to.
    #[default]
    None,
    /// The holder says nothing about a pulse that could be used.
    Unknown,
    /// A connection is being made.
    Connecting,
    /// Its nonce was read; the connection is open.
    Verified,
    /// No answer in time. Proves nothing.
    Silent,
    /// No connection, or not to a process that was known. Proves nothing.
    Unreachable,
    /// Something else answers there. Proves nothing.
    Strange,
    /// It has ended.
    Dead,
}

impl PeerState {
    /// A word for people and for label values.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Unknown => "unknown",
            Self::Connecting => "connecting",
            Self::Verified => "verified",
            Self::Silent => "silent",
            Self::Unreachable => "unreachable",
            Self::Strange => "strange",
            Self::Dead => "dead",
        }
    }
}

/// What this process knows of another one's pulse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Whose.
    pub target: Option<Target>,
    /// How things stand with it.
    pub state: PeerState,
    /// The last death that was found; kept until the next.
    pub found: Option<Found>,
}

/// A death that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Who has ended.
    pub identity: Arc<str>,
    /// By what that was seen.
    pub by: &'static str,
    /// When, in wall time.
    pub at: Timestamp,
}

/// Listens to the pulse of whoever leads.
#[derive(Clone, Debug)]
pub struct Ear {
    /// This process's own nonce: never evidence.
    nonce: Arc<str>,
    /// This process's own pulse: nobody else's can be there.
    own: Option<SocketAddr>,
    patience: Duration,
    /// Only of a mutant: how often a connection that is well is made anew.
    redial: Option<Duration>,
}

/// What one attempt showed.
enum Heard {
    /// The nonce that was looked for, on this connection.
    Alive(TcpStream),
    /// Another nonce, of a process of our kind.
    Other,
    /// Nothing listens there.
    Refused,
    /// Nothing in time.
    Nothing,
    /// No connection.
    Unreachable,
    /// What no pulse says.
    Strange,
}

impl Ear {
    /// An ear of the process that says `nonce` at `own`, if it has a pulse itself.
    pub fn new(nonce: &str, own: Option<SocketAddr>) -> Self {
        Self { nonce: nonce.into(), own, patience: PATIENCE, redial: None }
    }

    /// As it is needed by a mutant that takes silence for a death: asks again and again.
    pub(crate) fn restless(mut self) -> Self {
        (self.patience, self.redial) = (Duration::from_millis(300), Some(Duration::from_millis(300)));
        self
    }

    /// Listens for ever to whoever `targets` names, and tells of deaths and of silence.
    ///
    /// Cancel safety: may be dropped at any point; the connection closes.
    pub async fn follow(
        self,
        mut targets: channel::Receiver<Option<Target>>,
        tell: mpsc::Sender<Input>,
        peer: channel::Sender<Peer>,
    ) -> Infallible {
        loop {
            let target = targets.borrow_and_update().clone();
            peer.send_modify(|peer| (peer.target, peer.state) = (target.clone(), PeerState::None));
            tokio::select! {
                changed = targets.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
                never = self.attend(target, &tell, &peer) => match never {},
            }
        }
    }

    /// Listens to one process, until it has ended.
    async fn attend(
        &self,
        target: Option<Target>,
        tell: &mpsc::Sender<Input>,
        peer: &channel::Sender<Peer>,
    ) -> Infallible {
        let is = |state| peer.send_modify(|peer| peer.state = state);
        let Some(target) = target else {
            return std::future::pending().await;
        };
        let address = Address::parse(&target.pulse, &target.identity).filter(|at| Some(at.at) != self.own);
        let Some(address) = address else {
            tracing::debug!(holder = %target.identity, pulse = %target.pulse, "no pulse to listen to");
            is(PeerState::Unknown);
            return std::future::pending().await;
        };
        is(PeerState::Connecting);
        if let Some(by) = self.listen(&address, &target, tell, &is).await {
            let identity = target.identity.clone();
            tracing::info!(%identity, by, "the leader's process has ended");
            peer.send_modify(|peer| {
                let found = Found { identity: identity.clone(), by, at: Timestamp::now() };
                (peer.state, peer.found) = (PeerState::Dead, Some(found));
            });
            say(tell, Input::Died(identity)).await;
        }
        std::future::pending().await
    }

    /// By what it was seen that the process has ended.
    async fn listen(
        &self,
        address: &Address,
        target: &Target,
        tell: &mpsc::Sender<Input>,
        is: &(impl Fn(PeerState) + Sync),
    ) -> Option<&'static str> {
        let (mut verified, mut failures) = (false, 0);
        loop {
            match self.dial(address).await {
                Heard::Alive(stream) => {
                    verified = true;
                    is(PeerState::Verified);
                    let begun = Instant::now();
                    self.hold(stream).await;
                    if begun.elapsed() >= SHORT {
                        failures = 0;
                        continue;
                    }
                }
                Heard::Refused if verified => return Some("connection refused"),
                Heard::Other if verified => return Some("another process at its address"),
                Heard::Nothing => {
                    is(PeerState::Silent);
                    say(tell, Input::Silent(target.identity.clone())).await;
                }
                Heard::Refused | Heard::Unreachable => is(PeerState::Unreachable),
                Heard::Other | Heard::Strange => is(PeerState::Strange),
            }
            failures += 1;
            tokio::time::sleep(pauses(verified).pause(failures, rand::random())).await;
        }
    }

    /// One connection, up to its line.
    async fn dial(&self, address: &Address) -> Heard {
        let stream = match tokio::time::timeout(self.patience, TcpStream::connect(address.at)).await {
            Err(_) => return Heard::Nothing,
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => return Heard::Refused,
            Ok(Err(error)) => {
                tracing::debug!(%error, at = %address.at, "no connection to the pulse");
                return Heard::Unreachable;
            }
            Ok(Ok(stream)) => stream,
        };
        match tokio::time::timeout(self.patience, read_nonce(stream)).await {
            Err(_) => Heard::Nothing,
            Ok(Some((nonce, stream))) if nonce == *address.nonce => Heard::Alive(stream),
            Ok(Some((nonce, _))) if nonce == *self.nonce => Heard::Strange,
            Ok(Some(_)) => Heard::Other,
            Ok(None) => Heard::Strange,
        }
    }

    /// Returns when the connection is closed.
    async fn hold(&self, mut stream: TcpStream) {
        let closes = async {
            let mut buffer = [0; 256];
            while let Ok(1..) = stream.read(&mut buffer).await {}
        };
        match self.redial {
            Some(time) => drop(tokio::time::timeout(time, closes).await),
            None => closes.await,
        }
    }
}

/// The nonce of the process at the other end, if it is of our kind. Reads no more than
/// the line may have.
async fn read_nonce(mut stream: TcpStream) -> Option<(String, TcpStream)> {
    let mut line = [0; GREETING.len() + LONGEST_NONCE + 1];
    let mut length = 0;
    while length < line.len() {
        match stream.read(&mut line[length..]).await {
            Ok(0) | Err(_) => return None,
            Ok(bytes) => length += bytes,
        }
        if let Some(end) = line[..length].iter().position(|byte| *byte == b'\n') {
            let nonce = greeted(&line[..end])?.to_owned();
            return Some((nonce, stream));
        }
    }
    None
}

/// The pauses after attempts that showed nothing. A process that was known, and whose
/// port may be closing just now, is asked again within milliseconds.
fn pauses(verified: bool) -> Backoff {
    let (first, most) = if verified { (2, 1_000) } else { (50, 2_000) };
    Backoff::try_new(Duration::from_millis(first), Duration::from_millis(most))
        .expect("the first pause is shorter than the longest")
}

async fn say(tell: &mpsc::Sender<Input>, input: Input) {
    // The other end lives as long as this future: both are parts of one task.
    let _ = tell.send(input).await;
}

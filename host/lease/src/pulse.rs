//! The pulse: evidence that a process has ended, within milliseconds.
//!
//! Each replica listens on a port all its life. The one that leads says in its Lease
//! where, and by which nonce it is known; each standby holds one connection to it. The
//! operating system closes that connection when the process ends, however it ends.
//!
//! What is evidence, and what is not:
//!
//! * Only a process whose nonce was read on a connection can be found to have ended.
//! * That connection closes, and the next one is *refused*, or answered with *another*
//!   nonce: it has ended. The port of a process that lives is open.
//! * The same nonce again: it lives, something between the two closed the connection.
//! * Everything else proves nothing: no answer in time, no route, silence, a line that is
//!   not a pulse's, this process's own nonce.
//!
//! One line is all that is said, `windlass-pulse/1 <nonce>`; the nonce is the random
//! part of the identity, so evidence is about exactly one process.

mod client;
mod server;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

pub use client::{Ear, Found, Peer, PeerState, Target};
pub use server::Server;

/// What a pulse's line begins with. The number rises when the line changes its meaning.
const GREETING: &str = "windlass-pulse/1 ";

/// A nonce has at most this many bytes.
const LONGEST_NONCE: usize = 64;

/// What a replica that has a pulse needs for it.
#[derive(Debug)]
pub struct Pulse {
    /// Already bound, so that an address in use is found at the start.
    pub listener: std::net::TcpListener,
    /// Where other replicas reach it; not 0.0.0.0.
    pub advertise: SocketAddr,
}

/// Where a pulse is and what it says; in the Lease as `<ip>:<port>/<nonce>`, an IPv6
/// address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Where it listens.
    pub at: SocketAddr,
    /// What it says.
    pub nonce: Arc<str>,
}

impl Address {
    /// From the text in a Lease. Nothing, when it is not the address of a pulse of `holder`.
    pub fn parse(text: &str, holder: &str) -> Option<Self> {
        let (at, nonce) = text.split_once('/')?;
        let at: SocketAddr = at.parse().ok()?;
        let reachable = at.port() != 0 && !at.ip().is_unspecified() && !at.ip().is_multicast();
        (reachable && nonce == nonce_of(holder) && is_nonce(nonce)).then(|| Self { at, nonce: nonce.into() })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.at, self.nonce)
    }
}

/// The random part of an identity: what follows its last `_`, or all of it.
pub fn nonce_of(identity: &str) -> &str {
    identity.rsplit('_').next().unwrap_or(identity)
}

fn is_nonce(text: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
    !text.is_empty() && text.len() <= LONGEST_NONCE && text.bytes().all(fine)
}

/// The nonce in a pulse's line, which came without its line feed.
fn greeted(line: &[u8]) -> Option<&str> {
    let nonce = std::str::from_utf8(line).ok()?.strip_prefix(GREETING)?;
    is_nonce(nonce).then_some(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_was_written() {
        for at in ["10.0.0.7:8082", "[fd00::7]:8082"] {
            let address = Address { at: at.parse().expect("an address"), nonce: "ab12".into() };
            assert_eq!(Address::parse(&address.to_string(), "pod-0_ab12"), Some(address));
        }
        assert_eq!(
            Address::parse("[fd00::7]:8082/x", "x").map(|read| read.to_string()),
            Some("[fd00::7]:8082/x".to_owned())
        );
    }

    #[test]
    fn junk_is_no_address() {
        let long = format!("10.0.0.7:8082/{}", "a".repeat(65));
        for junk in [
            "",
            "/",
            "10.0.0.7/ab",
            "10.0.0.7:8082",
            "10.0.0.7:8082/",
            "10.0.0.7:0/ab",
            "0.0.0.0:8082/ab",
            "224.0.0.1:8082/ab",
            "host:8082/ab",
            "10.0.0.7:99999/ab",
            "10.0.0.7:8082/ab/ab",
            "10.0.0.7:8082/a b",
            &long,
        ] {
            let nonce = junk.split_once('/').map_or("", |(_, nonce)| nonce);
            assert_eq!(Address::parse(junk, nonce), None, "{junk:?}");
        }
        assert_eq!(Address::parse("10.0.0.7:8082/ab", "pod_cd"), None, "the nonce of another process");
    }

    #[test]
    fn a_line_of_a_pulse_is_told_from_others() {
        assert_eq!(greeted(b"windlass-pulse/1 ab12"), Some("ab12"));
        for junk in [&b""[..], b"windlass-pulse/2 ab", b"windlass-pulse/1 ", b"HTTP/1.1 400", b"\xff\xfe"] {
            assert_eq!(greeted(junk), None);
        }
    }
}

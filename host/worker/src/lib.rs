//! A process without powers that runs guests, and how the host talks to it.
//!
//! The host starts its own binary again over a socket pair; that process takes away
//! from itself whatever it could do harm with and then runs what strangers wrote. Whatever
//! happens to it, an abort, a bomb or an escape, is a plugin's fault and never the host's.
//!
//! What is absent: kube and wasmtime, and over there tokio too: here it only tells when a socket has something to say. How a
//! guest is run is the business of whoever implements [`Guests`](windlass_core::guests::Guests).

pub mod budget;
pub mod compile;
mod compile_serve;
pub mod confine;
pub mod courtesy;
pub mod frame;
mod known;
mod lane;
pub mod message;
pub mod pool;
pub mod process;
mod relief;
mod rights;
pub mod serve;
mod served;
mod shared;
mod solo;
pub mod spare;
mod talk;
mod worker;

//! What this crate believes of a real API server, asked of one; and the writer
//! against it. If a new Kubernetes version breaks a belief, this is where it shows.

mod accepted;
mod fence;
mod raw;
mod world;
mod writes;

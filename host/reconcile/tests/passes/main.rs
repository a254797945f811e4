//! The loop on paused time with fakes for all ports: each test is a promise.

mod cache;
mod claim;
mod deletion;
mod failures;
mod loops;
mod memos;
mod order;
mod pressure;
mod scopes;
mod standby;
mod takeover;
#[allow(dead_code, reason = "shared with other tests of the loop")]
mod world;

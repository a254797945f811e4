//! The proxy between clients and the API server: what it lets through, and every way in which it fails on request.

mod requests;
mod rig;
mod streams;
mod switches;

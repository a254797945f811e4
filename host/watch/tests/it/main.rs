//! The watches against an API server that each test plays by hand, on paused time.

mod budget;
mod fingerprints;
mod kinds;
mod lab;
mod lists;
mod one;
mod relists;
mod routing;
mod scopes;
mod streams;

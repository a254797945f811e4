//! Everything that is run by hand.
fn main() {}

//! The life of a plugin without a single component: every turn that it can take, as a table
//! and as random histories.

mod histories;
mod turns;
mod world;

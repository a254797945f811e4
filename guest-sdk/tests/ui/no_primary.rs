//! A struct that does not say what it stands for.

use serde::Deserialize;
use windlass::{Cache, Decision, Fault, Snapshot};

#[derive(Deserialize)]
struct WebApp {}

#[windlass::reconciler(name = "a")]
fn reconcile(_: &Snapshot<WebApp>, _: &Cache) -> Result<Decision, Fault> {
    Ok(Decision::new())
}

fn main() {}

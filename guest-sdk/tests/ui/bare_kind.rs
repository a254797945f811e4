//! Kinds without their group and version.

use serde::Deserialize;
use windlass::{Cache, Decision, Fault, Primary, Snapshot};

#[derive(Primary, Deserialize)]
#[primary(group = "apps.example.com", version = "v1", kind = "WebApp")]
struct WebApp {}

#[windlass::reconciler(name = "a", children = ["Deployment", "v1/Service"])]
fn reconcile(_: &Snapshot<WebApp>, _: &Cache) -> Result<Decision, Fault> {
    Ok(Decision::new())
}

fn main() {}

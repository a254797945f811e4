//! A finalize step that decides like a reconciler.

use serde::Deserialize;
use windlass::{Cache, Decision, Fault, Primary, Snapshot};

#[derive(Primary, Deserialize)]
#[primary(group = "apps.example.com", version = "v1", kind = "WebApp")]
struct WebApp {}

#[windlass::reconciler(name = "a", finalize = clean_up)]
fn reconcile(_: &Snapshot<WebApp>, _: &Cache) -> Result<Decision, Fault> {
    Ok(Decision::new())
}

fn clean_up(_: &Snapshot<WebApp>, _: &Cache) -> Result<Decision, Fault> {
    Ok(Decision::new())
}

fn main() {}

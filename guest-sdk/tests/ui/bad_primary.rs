//! A primary without its version.

use serde::Deserialize;
use windlass::Primary;

#[derive(Primary, Deserialize)]
#[primary(group = "apps.example.com", kind = "WebApp")]
struct WebApp {}

fn main() {}

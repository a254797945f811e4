//! What has to follow once faults and load have ended: everything as it is wanted within 30 s, and then silence.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::load::Wanted;
use super::stage::now_us;
use crate::checker::Records;

/// How long it may take until everything is as it is wanted.
const CONVERGE_WITHIN: Duration = Duration::from_secs(30);

/// How long nothing may be written then.
const SILENCE: Duration = Duration::from_secs(3);

/// Between two looks.
const POLL: Duration = Duration::from_millis(100);

/// Where it has to come about.
pub(crate) struct Place<'a> {
    pub(crate) client: &'a kube::Client,
    /// Of the load's objects.
    pub(crate) namespace: &'a str,
    pub(crate) records: &'a Records,
}

/// What came about.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// How long it took; nothing when it did not. Unit: milliseconds.
    pub(crate) converged_ms: Option<u64>,
    /// Writes in the time of silence after that.
    pub(crate) writes_after: u64,
    /// What did not, in words.
    pub(crate) problems: Vec<String>,
}

/// Waits for it, and reports what does not come about.
pub(crate) async fn settle(place: &Place<'_>, wanted: &Wanted) -> Result<Settled> {
    let mut settled = Settled::default();
    let began = Instant::now();
    let mut wrong = Vec::new();
    while began.elapsed() < CONVERGE_WITHIN {
        wrong = differences(place, wanted).await?;
        if wrong.is_empty() {
            settled.converged_ms = u64::try_from(began.elapsed().as_millis()).ok();
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    if !wrong.is_empty() {
        let few: Vec<_> = wrong.iter().take(5).map(String::as_str).collect();
        let all = wrong.len();
        settled
            .problems
            .push(format!("{all} differences remain after {CONVERGE_WITHIN:?}: {}", few.join("; ")));
    }
    settled.writes_after = writes_in_silence(place).await?;
    if settled.writes_after > 0 {
        let problem = format!("{} writes after everything was as it is wanted", settled.writes_after);
        settled.problems.push(problem);
    }
    Ok(settled)
}

/// How many writes there are in a time in which none should be. The last status may still be on its way when it begins.
async fn writes_in_silence(place: &Place<'_>) -> Result<u64> {
    let began = Instant::now();
    loop {
        let from = now_us();
        tokio::time::sleep(SILENCE).await;
        let done = place.records.plugin_requests()?;
        let late = done.iter().filter(|request| request.received_us > from && request.succeeded().is_some());
        let writes = late.count() as u64;
        if writes == 0 || began.elapsed() > CONVERGE_WITHIN {
            return Ok(writes);
        }
    }
}

/// What is not as it is wanted.
async fn differences(place: &Place<'_>, wanted: &Wanted) -> Result<Vec<String>> {
    let (namespace, list) = (place.namespace, async |path: String| -> Result<BTreeMap<String, Value>> {
        let request = http::Request::get(&path).body(Vec::new())?;
        let list: Value =
            place.client.request(request).await.with_context(|| format!("{path} cannot be read"))?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        Ok(items
            .into_iter()
            .map(|item| (item["metadata"]["name"].as_str().unwrap_or_default().to_owned(), item))
            .collect())
    });
    let widgets =
        list(format!("/apis/fixtures.windlass.dev/v1alpha1/namespaces/{namespace}/widgets")).await?;
    let owned = "labelSelector=windlass.dev/owned-by%3Dgreeter";
    let mut children = list(format!("/api/v1/namespaces/{namespace}/configmaps?{owned}")).await?;
    let mut wrong = Vec::new();
    for (name, text) in wanted {
        let child = children.remove(&format!("{name}-greeting"));
        let said = child.as_ref().and_then(|child| child["data"]["text"].as_str());
        if said != text.as_deref() {
            wrong.push(format!("the child of {name} says {said:?} instead of {text:?}"));
        }
        let status =
            widgets.get(name).map(|widget| widget["status"]["greeting"].as_str().unwrap_or_default());
        if status != text.as_deref() {
            wrong.push(format!("the status of {name} says {status:?} instead of {text:?}"));
        }
    }
    wrong.extend(children.into_keys().map(|name| format!("{name} is nobody's")));
    Ok(wrong)
}

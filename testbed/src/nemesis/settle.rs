//! What has to follow once faults and load have ended: everything as it is wanted within 30 s, and then silence.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::load::Wanted;
use super::report::Report;
use super::stage::{Stage, now_us};

/// How long it may take until everything is as it is wanted.
const CONVERGE_WITHIN: Duration = Duration::from_secs(30);

/// How long nothing may be written then.
const SILENCE: Duration = Duration::from_secs(3);

/// Between two looks.
const POLL: Duration = Duration::from_millis(100);

/// Waits for it, and reports what does not come about.
pub(super) async fn settle(stage: &Stage, wanted: &Wanted, report: &mut Report) -> Result<()> {
    let began = Instant::now();
    let mut wrong = Vec::new();
    while began.elapsed() < CONVERGE_WITHIN {
        wrong = differences(stage, wanted).await?;
        if wrong.is_empty() {
            report.converged_ms = u64::try_from(began.elapsed().as_millis()).ok();
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    if !wrong.is_empty() {
        let few: Vec<_> = wrong.iter().take(5).map(String::as_str).collect();
        let all = wrong.len();
        report
            .problems
            .push(format!("{all} differences remain after {CONVERGE_WITHIN:?}: {}", few.join("; ")));
    }
    report.writes_after = writes_in_silence(stage).await?;
    if report.writes_after > 0 {
        report.problems.push(format!("{} writes after everything was as it is wanted", report.writes_after));
    }
    Ok(())
}

/// How many writes there are in a time in which none should be. The last status may still be on its way when it begins.
async fn writes_in_silence(stage: &Stage) -> Result<u64> {
    let began = Instant::now();
    loop {
        let from = now_us();
        tokio::time::sleep(SILENCE).await;
        let done = stage.records.plugin_requests()?;
        let late = done.iter().filter(|request| request.received_us > from && request.succeeded().is_some());
        let writes = late.count() as u64;
        if writes == 0 || began.elapsed() > CONVERGE_WITHIN {
            return Ok(writes);
        }
    }
}

/// What is not as it is wanted.
async fn differences(stage: &Stage, wanted: &Wanted) -> Result<Vec<String>> {
    let (namespace, list) = (&stage.namespace, async |path: String| -> Result<BTreeMap<String, Value>> {
        let list = stage.get(&path).await.with_context(|| format!("{path} cannot be read"))?;
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

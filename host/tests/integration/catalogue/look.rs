//! What a host says of its plugins, in all the places where it says it, and whether that is
//! what a row has to get.

use serde_json::Value;

use super::row::{Row, Seen};
use crate::scene::{HOST, Scene, path};

/// What there is to be seen at one moment.
pub(crate) struct Facts {
    plugins: Value,
    metrics: String,
    log: String,
    /// Events of the host's namespace and of the objects'.
    events: Vec<Value>,
}

impl Facts {
    /// Looks everywhere once.
    pub(crate) async fn now(scene: &Scene, namespaces: &[String]) -> Self {
        let (plugins, metrics, log) = {
            let replicas = scene.all().await;
            let (_, plugins) = replicas[0].ask("/debug/plugins").await.expect("it answers");
            let (_, metrics) = replicas[0].ask("/metrics").await.expect("it answers");
            (plugins, metrics, replicas[0].log())
        };
        let mut events = Vec::new();
        for namespace in namespaces.iter().map(String::as_str).chain([HOST]) {
            let list = scene.get(path("Event", namespace, "").trim_end_matches('/')).await;
            events.extend(list.and_then(|list| list["items"].as_array().cloned()).unwrap_or_default());
        }
        let plugins = serde_json::from_str(&plugins).expect("JSON");
        Self { plugins, metrics, log, events }
    }

    /// What a row has not got yet; nothing when all of it is there.
    pub(crate) async fn missing(&self, scene: &Scene, row: &Row) -> Option<String> {
        let lacks = match row.seen {
            Seen::Refused => self.state(scene, row, "refused").await,
            Seen::Quarantined => {
                let of_pass = self.failed_pass(row);
                if of_pass.is_some() { of_pass } else { self.state(scene, row, "quarantined").await }
            }
            Seen::Failed => self.failed_pass(row),
            Seen::Warned => self.served(scene, row).await,
        };
        lacks.or_else(|| self.counted(row)).or_else(|| self.logged(row))
    }

    /// The state on the ConfigMap, as an Event and in the debug view.
    async fn state(&self, scene: &Scene, row: &Row, state: &str) -> Option<String> {
        let map = row.config_map();
        let full = format!("{HOST}/{map}");
        let Some(view) = of_config_map(&self.plugins, &full) else {
            return Some(format!("/debug/plugins does not show {full}"));
        };
        let is_listed =
            view["duplicates"].as_array().is_some_and(|all| all.iter().any(|one| *one == full.as_str()));
        if !is_listed && !view.to_string().contains(row.code) {
            return Some(format!("/debug/plugins says of {full}: {view}"));
        }
        let Some(object) = scene.get(&path("ConfigMap", HOST, map)).await else {
            return Some(format!("there is no ConfigMap {map}"));
        };
        let said = |name: &str| {
            let text = object["metadata"]["annotations"][format!("windlass.dev/{name}")].as_str();
            text.unwrap_or_default().to_owned()
        };
        let (found, message) = (said("state"), said("message"));
        let where_it_is = format!("plugin {}, ConfigMap {full}", row.plugin);
        let mut wanted = vec![row.code, where_it_is.as_str()];
        wanted.extend(row.says.iter().map(String::as_str));
        let lacking: Vec<&str> = wanted.into_iter().filter(|text| !message.contains(text)).collect();
        if found != state || !lacking.is_empty() {
            return Some(format!("its ConfigMap says {found:?}, {message:?}; lacking {lacking:?}"));
        }
        let reason = if state == "refused" { "PluginRefused" } else { "PluginQuarantined" };
        let event = self.events.iter().any(|event| {
            event["reason"] == reason && on(event, "ConfigMap", map) && text(event).contains(row.code)
        });
        (!event).then(|| format!("no Event {reason} on ConfigMap {map}"))
    }

    /// The Event on a primary.
    fn failed_pass(&self, row: &Row) -> Option<String> {
        let about = format!("{}@", row.plugin);
        let of_row = |event: &&Value| event["reason"] == "PassFailed" && text(event).starts_with(&about);
        let all: Vec<&str> = self.events.iter().filter(of_row).map(text).collect();
        let fits = |said: &&str| {
            said.contains(row.code)
                && said.contains("Next try in")
                && row.says.iter().all(|wanted| said.contains(wanted.as_str()))
        };
        (!all.iter().any(fits)).then(|| format!("no Event on a primary fits; there are {all:?}"))
    }

    async fn served(&self, scene: &Scene, row: &Row) -> Option<String> {
        let object = scene.get(&path("ConfigMap", HOST, row.config_map())).await?;
        let state = &object["metadata"]["annotations"]["windlass.dev/state"];
        (state != "serving").then(|| format!("it is {state} and should serve"))
    }

    fn counted(&self, row: &Row) -> Option<String> {
        let sample =
            format!("windlass_plugin_errors_total{{plugin=\"{}\",code=\"{}\"}} ", row.plugin, row.number());
        let value = self.metrics.lines().find_map(|line| line.strip_prefix(&sample));
        match value.and_then(|value| value.parse::<f64>().ok()) {
            Some(count) if count >= 1.0 => None,
            found => Some(format!("{sample}is {found:?}")),
        }
    }

    fn logged(&self, row: &Row) -> Option<String> {
        let of_row = |line: &&str| line.contains(&row.plugin) && line.contains(row.code);
        let warned = row.seen != Seen::Warned;
        let fits = |line: &str| warned || row.says.iter().all(|text| line.contains(text.as_str()));
        let lines: Vec<&str> = self.log.lines().filter(of_row).collect();
        (!lines.iter().any(|line| fits(line))).then(|| format!("the log does not say it: {lines:?}"))
    }
}

fn text(event: &Value) -> &str {
    event["message"].as_str().unwrap_or_default()
}

fn on(event: &Value, kind: &str, name: &str) -> bool {
    event["involvedObject"]["kind"] == kind && event["involvedObject"]["name"] == name
}

/// The part of the debug view that is about one ConfigMap, wherever it is.
fn of_config_map<'v>(view: &'v Value, config_map: &str) -> Option<&'v Value> {
    match view {
        Value::Object(fields)
            if fields.get("configMap").is_some_and(|found| found == config_map)
                || fields
                    .get("duplicates")
                    .and_then(Value::as_array)
                    .is_some_and(|all| all.iter().any(|one| one == config_map)) =>
        {
            Some(view)
        }
        Value::Object(fields) => fields.values().find_map(|value| of_config_map(value, config_map)),
        Value::Array(items) => items.iter().find_map(|value| of_config_map(value, config_map)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

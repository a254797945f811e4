//! The last good version of a plugin, kept by the host in ConfigMaps of its own.
//!
//! New pods have empty caches: when what a ConfigMap offers is broken by then, nothing else
//! knows what served before. A copy is the plugin's ConfigMaps as they came, one for one:
//! component as it was packed, parts, signature, settings, limits. It carries the label
//! `windlass.dev/good`, not the one that makes a plugin, and belongs to the plugin's ConfigMap, so
//! that the garbage collector takes it along. Nothing in it is trusted: whoever reads it
//! judges it as if it were offered.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderValue, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use windlass_core::claim::Claim;
use windlass_core::class::Class;
use windlass_core::key::ObjectRef;
use windlass_core::name::{Digest, LABEL_GOOD, LABEL_PLUGIN, PluginName};
use windlass_core::ports::ApplyError;

use crate::announce::config_map;
use crate::answer::{Failed, refused};
use crate::request::{Actor, Call, object_path, with_preconditions};
use crate::wire::exchange;
use crate::writer::{Verb, Writer};

/// Annotation: fingerprint of what was copied.
const CONTENT: &str = "windlass.dev/good-content";
/// Annotation: digest of the component.
const DIGEST: &str = "windlass.dev/digest";
/// Annotation: `1-of-2`; absent when there is only one.
const PART: &str = "windlass.dev/part";
/// Annotations that say how the original fares.
const STATES: [&str; 4] = ["windlass.dev/state", DIGEST, "windlass.dev/message", "windlass.dev/since"];
/// Most ConfigMaps of one copy.
const PARTS_MAX: usize = 64;
/// A version that no object ever has: an apply with it creates or conflicts.
const NEVER: &str = "1";
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// What is to be kept.
#[derive(Clone, Debug)]
pub struct Good<'a> {
    /// The plugin.
    pub plugin: &'a PluginName,
    /// Digest of its component.
    pub digest: &'a Digest,
    /// Fingerprint of the whole: nothing is written while the copy has the same.
    pub content: &'a Digest,
    /// The ConfigMaps that it was loaded from, as JSON, in the order of their parts; the first
    /// one owns the copy.
    pub config_maps: &'a [Arc<str>],
}

/// A copy, ready to be judged and loaded like what a ConfigMap offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastGood {
    /// Digest of the component as it was noted when it served. Not proven.
    pub digest: Digest,
    /// Its ConfigMaps in the order of their parts, as JSON, labelled like a plugin's.
    pub config_maps: Vec<Arc<str>>,
}

#[derive(Deserialize)]
struct Partial {
    metadata: Meta,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    name: String,
    uid: String,
    resource_version: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    owner_references: Vec<Owner>,
}

#[derive(Deserialize)]
struct Owner {
    uid: String,
}

impl Meta {
    fn is_of(&self, plugin: &PluginName) -> bool {
        self.labels.get(LABEL_GOOD).map(String::as_str) == Some(plugin.as_str())
    }

    fn has(&self, annotation: &str, value: &str) -> bool {
        self.annotations.get(annotation).map(String::as_str) == Some(value)
    }

    /// Number of ConfigMaps of the set that this one is of.
    fn parts(&self) -> usize {
        let whole = self.annotations.get(PART).and_then(|part| part.rsplit_once('-'));
        whole.and_then(|(_, parts)| parts.parse().ok()).unwrap_or(1)
    }
}

impl Writer {
    /// A ConfigMap of the host's namespace as JSON, as it is now; `None`: there is none.
    ///
    /// # Errors
    /// [`ApplyError`]: the caller asks again.
    pub async fn config_map(&self, name: &str) -> Result<Option<Arc<str>>, ApplyError> {
        let body = self.ask(name, false).await.map_err(|failed| failed.of_step(format!("read {name}")))?;
        Ok(body.map(Into::into))
    }

    /// Keeps a copy of a version that has proven itself, as the host. `Ok(false)`: there is
    /// such a copy, and nothing was sent.
    ///
    /// # Errors
    /// [`ApplyError`]: the caller tries again later. Conflict when somebody else wrote the copy
    /// meanwhile, Permanent when its name is taken by what is no copy or a right is missing.
    pub async fn keep_good(&self, good: &Good<'_>, claim: &Claim) -> Result<bool, ApplyError> {
        let name = part_name(good.plugin, 1);
        let failed = |failed: Failed| failed.of_step(format!("keep {name}"));
        let first = self.meta(good.plugin, &name).await.map_err(failed)?;
        let owner = parse(good.config_maps.first().map_or("", |text| text)).map_err(failed)?;
        let kept = first.as_ref().is_some_and(|meta| {
            meta.has(CONTENT, good.content.as_str())
                && meta.owner_references.iter().any(|reference| reference.uid == text(&owner, "uid"))
        });
        if kept {
            return Ok(false);
        }
        // The first one last: only with it the copy is whole.
        for (index, config_map) in good.config_maps.iter().enumerate().skip(1).take(PARTS_MAX) {
            let part = part_name(good.plugin, index + 1);
            let before = self.meta(good.plugin, &part).await.map_err(failed)?;
            self.put(good, &part, config_map, &owner, before, claim).await.map_err(failed)?;
        }
        self.put(good, &name, &good.config_maps[0], &owner, first, claim).await.map_err(failed)?;
        Ok(true)
    }

    /// The copy of `plugin` that belongs to the ConfigMap with this uid. `None`: there is none,
    /// or not a whole one.
    ///
    /// # Errors
    /// [`ApplyError`]: the caller asks again.
    pub async fn last_good(
        &self,
        plugin: &PluginName,
        owner_uid: &str,
    ) -> Result<Option<LastGood>, ApplyError> {
        let name = part_name(plugin, 1);
        let failed = |failed: Failed| failed.of_step(format!("read {name}"));
        let Some(first) = self.ask(&name, false).await.map_err(failed)? else {
            return Ok(None);
        };
        let meta: Partial = parse(&first).map_err(failed)?;
        let meta = meta.metadata;
        let (Some(content), Some(digest)) = (meta.annotations.get(CONTENT), meta.annotations.get(DIGEST))
        else {
            return Ok(None);
        };
        let owned = meta.owner_references.iter().any(|owner| owner.uid == owner_uid);
        let (Ok(digest), true, parts @ 1..=PARTS_MAX) =
            (digest.parse(), owned && meta.is_of(plugin), meta.parts())
        else {
            return Ok(None);
        };
        let mut config_maps = vec![as_plugin(&first, plugin).map_err(failed)?];
        for number in 2..=parts {
            let Some(part) = self.ask(&part_name(plugin, number), false).await.map_err(failed)? else {
                return Ok(None);
            };
            let of: Partial = parse(&part).map_err(failed)?;
            if !of.metadata.is_of(plugin) || !of.metadata.has(CONTENT, content) {
                return Ok(None);
            }
            config_maps.push(as_plugin(&part, plugin).map_err(failed)?);
        }
        Ok(Some(LastGood { digest, config_maps }))
    }

    /// Writes one ConfigMap of the copy over what was there `before`.
    async fn put(
        &self,
        good: &Good<'_>,
        name: &str,
        from: &str,
        owner: &Value,
        before: Option<Meta>,
        claim: &Claim,
    ) -> Result<(), Failed> {
        let body = copy(good, name, &self.config.host_namespace, &parse(from)?, owner);
        let (uid, version) = match &before {
            Some(meta) => (Some(meta.uid.as_str()), meta.resource_version.as_str()),
            None => (None, NEVER),
        };
        let call = Call::apply(self.path(name)?, with_preconditions(&body, uid, version)?);
        self.write(Verb::Keep, call, &Actor::Host, claim).await.map(|_| ())
    }

    /// The metadata of one ConfigMap of a copy.
    async fn meta(&self, plugin: &PluginName, name: &str) -> Result<Option<Meta>, Failed> {
        let Some(body) = self.ask(name, true).await? else {
            return Ok(None);
        };
        let found: Partial = parse(&body)?;
        if found.metadata.is_of(plugin) && found.metadata.name == name {
            return Ok(Some(found.metadata));
        }
        let text = format!(
            "ConfigMap {name} exists and is no copy of ours: rename it, then plugin {plugin} is kept"
        );
        Err(Failed::new(Class::Permanent, text))
    }

    async fn ask(&self, name: &str, metadata_only: bool) -> Result<Option<String>, Failed> {
        let timeout = self.config.request_timeout;
        let mut request = Call::get(self.path(name)?).build(&Actor::Host, timeout)?;
        if metadata_only {
            request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(METADATA_ONLY));
        }
        let reply = exchange(&self.client, request, timeout).await?;
        match reply.code {
            200 => match String::from_utf8(reply.body.to_vec()) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(Failed::garbled(&reply, "not UTF-8")),
            },
            404 => Ok(None),
            _ => Err(refused(&reply, &Actor::Host)),
        }
    }

    fn path(&self, name: &str) -> Result<String, crate::request::RequestError> {
        let kind = config_map();
        let namespace = self.config.host_namespace.clone();
        object_path(&kind, &ObjectRef { gvk: kind.gvk.clone(), namespace, name: name.into() })
    }
}

/// The dot keeps the second part of `a` apart from the first of a plugin named `a-2`.
fn part_name(plugin: &PluginName, number: usize) -> String {
    match number {
        1 => format!("windlass-good-{plugin}"),
        number => format!("windlass-good-{plugin}.{number}"),
    }
}

/// The copy of one ConfigMap.
fn copy(good: &Good<'_>, name: &str, namespace: &str, from: &Value, owner: &Value) -> Value {
    let mut annotations = Map::new();
    let original = from["metadata"]["annotations"].as_object();
    for (key, value) in original.into_iter().flatten() {
        if key.starts_with("windlass.dev/") && !STATES.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    annotations.insert(CONTENT.to_owned(), good.content.as_str().into());
    annotations.insert(DIGEST.to_owned(), good.digest.as_str().into());
    let mut body = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": { LABEL_GOOD: good.plugin.as_str() },
            "annotations": annotations,
            "ownerReferences": [{
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "name": text(owner, "name"),
                "uid": text(owner, "uid"),
            }],
        },
    });
    for section in ["data", "binaryData"] {
        if from[section].is_object() {
            body[section] = from[section].clone();
        }
    }
    body
}

/// A copy as the ConfigMap of a plugin, under its own name.
fn as_plugin(copy: &str, plugin: &PluginName) -> Result<Arc<str>, Failed> {
    let mut value: Value = parse(copy)?;
    value["metadata"]["labels"] = json!({ LABEL_PLUGIN: plugin.as_str() });
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    Ok(value.to_string().into())
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Failed> {
    serde_json::from_str(text)
        .map_err(|error| Failed::new(Class::Transient, format!("this is not a ConfigMap: {error}")))
}

/// A text of the metadata.
fn text<'a>(of: &'a Value, field: &str) -> &'a str {
    of["metadata"][field].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Api, claim};
    use http::StatusCode;

    fn plugin() -> PluginName {
        PluginName::try_new("webapp").expect("valid")
    }

    fn offered(name: &str, part: Option<&str>) -> Arc<str> {
        let mut map = json!({
            "metadata": {"name": name, "namespace": "sys", "uid": format!("uid-{name}"),
                "labels": {"windlass.dev/plugin": "webapp", "app": "x"},
                "annotations": {"windlass.dev/limit-memory": "32Mi", "windlass.dev/state": "serving",
                    "windlass.dev/message": "version 1", "example.com/note": "x"}},
            "data": {"settings.yaml": "a: 1"}, "binaryData": {"plugin.wasm.zst": "AAAA"},
        });
        if let Some(part) = part {
            map["metadata"]["annotations"]["windlass.dev/part"] = part.into();
        }
        map.to_string().into()
    }

    /// The API server's copy of what was sent.
    fn stored(sent: &Value, version: &str) -> Value {
        let mut stored = sent.clone();
        stored["metadata"]["uid"] = "g1".into();
        stored["metadata"]["resourceVersion"] = version.into();
        stored
    }

    fn not_found(api: &Api) {
        api.answer(StatusCode::NOT_FOUND, json!({"kind": "Status", "message": "not found"}));
    }

    async fn keep(api: &Api, content: &str, config_maps: &[Arc<str>]) -> Result<bool, ApplyError> {
        let (plugin, digest, content) = (plugin(), Digest::of(b"component"), Digest::of(content.as_bytes()));
        let good = Good { plugin: &plugin, digest: &digest, content: &content, config_maps };
        api.writer().keep_good(&good, &claim()).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_holds_what_was_offered_and_is_no_plugin() {
        let api = Api::new();
        not_found(&api);
        api.answer(StatusCode::CREATED, json!({}));
        assert_eq!(keep(&api, "v1", &[offered("webapp-plugin", None)]).await, Ok(true));
        let sent = api.requests().pop().expect("sent");
        assert_eq!(sent.path, "/api/v1/namespaces/sys/configmaps/windlass-good-webapp");
        assert!(!sent.headers.contains_key("impersonate-user"));
        let metadata = &sent.body["metadata"];
        assert_eq!(metadata["labels"], json!({"windlass.dev/good": "webapp"}));
        assert_eq!(metadata["ownerReferences"][0]["uid"], "uid-webapp-plugin");
        assert_eq!(metadata["resourceVersion"], NEVER, "it creates or conflicts");
        assert_eq!(
            metadata["annotations"],
            json!({"windlass.dev/limit-memory": "32Mi", CONTENT: Digest::of(b"v1").as_str(),
                DIGEST: Digest::of(b"component").as_str()})
        );
        assert_eq!(sent.body["binaryData"], json!({"plugin.wasm.zst": "AAAA"}));
        assert_eq!(sent.body["data"], json!({"settings.yaml": "a: 1"}));

        api.answer(StatusCode::OK, stored(&sent.body, "7"));
        let asked = api.requests().len();
        assert_eq!(keep(&api, "v1", &[offered("webapp-plugin", None)]).await, Ok(false));
        assert_eq!(api.requests().len(), asked + 1, "one look and no write");
        let look = api.requests().pop().expect("asked");
        assert_eq!(look.headers["accept"], METADATA_ONLY);

        api.answer(StatusCode::OK, stored(&sent.body, "7"));
        api.answer(StatusCode::OK, json!({}));
        assert_eq!(keep(&api, "v2", &[offered("webapp-plugin", None)]).await, Ok(true));
        let sent = api.requests().pop().expect("sent");
        assert_eq!(
            (&sent.body["metadata"]["uid"], &sent.body["metadata"]["resourceVersion"]),
            (&json!("g1"), &json!("7"))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_kept_comes_back_as_it_was_offered() {
        let api = Api::new();
        for _ in 0..2 {
            not_found(&api);
        }
        api.answer(StatusCode::CREATED, json!({}));
        api.answer(StatusCode::CREATED, json!({}));
        let parts = [offered("one", Some("1-of-2")), offered("two", Some("2-of-2"))];
        assert_eq!(keep(&api, "v1", &parts).await, Ok(true));
        let sent: Vec<Value> =
            api.requests().into_iter().filter(|r| r.method == "PATCH").map(|r| r.body).collect();
        let names: Vec<_> = sent.iter().map(|body| body["metadata"]["name"].clone()).collect();
        assert_eq!(names, ["windlass-good-webapp.2", "windlass-good-webapp"], "the first one last");
        for body in &sent {
            assert_eq!(body["metadata"]["ownerReferences"][0]["name"], "one");
        }

        let read = |first: Value, second: Option<Value>| {
            let api = Api::new();
            api.answer(StatusCode::OK, stored(&first, "8"));
            match second {
                Some(second) => api.answer(StatusCode::OK, stored(&second, "9")),
                None => not_found(&api),
            }
            async move { api.writer().last_good(&plugin(), "uid-one").await.expect("read") }
        };
        let good = read(sent[1].clone(), Some(sent[0].clone())).await.expect("whole");
        assert_eq!((good.digest, good.config_maps.len()), (Digest::of(b"component"), 2));
        let second: Value = serde_json::from_str(&good.config_maps[1]).expect("json");
        assert_eq!(second["metadata"]["labels"], json!({"windlass.dev/plugin": "webapp"}));
        assert_eq!(second["metadata"]["annotations"]["windlass.dev/part"], "2-of-2");
        assert_eq!(second["binaryData"], json!({"plugin.wasm.zst": "AAAA"}));

        assert_eq!(read(sent[1].clone(), None).await, None, "a part is missing");
        let mut other = sent[0].clone();
        other["metadata"]["annotations"][CONTENT] = Digest::of(b"v2").as_str().into();
        assert_eq!(read(sent[1].clone(), Some(other)).await, None, "a part is of another version");
        let mut stranger = sent[1].clone();
        stranger["metadata"]["ownerReferences"][0]["uid"] = "uid-of-an-earlier-one".into();
        assert_eq!(read(stranger, Some(sent[0].clone())).await, None, "it is an earlier plugin's");
        let mut unmarked = sent[1].clone();
        unmarked["metadata"]["labels"] = json!({});
        assert_eq!(read(unmarked, Some(sent[0].clone())).await, None, "it is no copy");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_taken_is_not_written_over() {
        let api = Api::new();
        let taken = json!({"metadata": {"name": "windlass-good-webapp", "uid": "x", "resourceVersion": "1"}});
        api.answer(StatusCode::OK, taken);
        let error = keep(&api, "v1", &[offered("webapp-plugin", None)]).await.expect_err("taken");
        assert_eq!(error.class, Class::Permanent);
        assert!(error.message.contains("is no copy of ours"), "{}", error.message);
        assert_eq!(api.requests().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_leader_keeps() {
        let api = Api::new();
        not_found(&api);
        api.gate.close();
        let error = keep(&api, "v1", &[offered("webapp-plugin", None)]).await.expect_err("no claim");
        assert_eq!(error.class, Class::Fatal);
        assert_eq!(api.requests().len(), 1, "a look");
    }

    #[test]
    fn no_two_plugins_share_a_name_of_a_copy() {
        let named = |name: &str| PluginName::try_new(name).expect("valid");
        assert_ne!(part_name(&named("a"), 2), part_name(&named("a-2"), 1));
        assert_eq!(part_name(&named("a"), 2), "windlass-good-a.2");
    }
}

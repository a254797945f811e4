//! The plugin of these tests: a pure function of what was observed, compiled into the test.
//!
//! It has all that a decision can depend on: the primary, its children, settings, an object and a list that it reads.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use windlass_core::decision::{Decision, Verdict};
use windlass_core::guests::LoadId;
use windlass_core::key::ObjectRef;
use windlass_core::kind::Gvk;
use windlass_core::manifest::{ChildRule, Manifest, ReadRule, Unwanted};
use windlass_core::name::{Digest, PluginName};
use windlass_core::ports::{Answer, CallError, Decide, Pass, Reader, Serving};
use windlass_core::reads::Query;
use windlass_core::scope::Scope;
use windlass_core::snapshot::Snapshot;

use crate::api::store::{Kind, NAMESPACE};

/// Decides for all replicas of a scene.
pub(crate) struct Brain {
    manifest: Arc<Manifest>,
    settings: Mutex<Arc<str>>,
}

impl Brain {
    /// Whether it `finalizes` decides what else can happen to its objects.
    pub(crate) fn new(finalizes: bool) -> Self {
        let child = |kind: Kind| ChildRule { kind: gvk(kind), unwanted: Unwanted::Delete };
        let manifest = Manifest {
            name: plugin(),
            version: "1".into(),
            primary: gvk(Kind::Web),
            selects: Scope::default(),
            strict: true,
            children: Kind::CHILDREN.map(child).to_vec(),
            reads: vec![ReadRule { kind: gvk(Kind::Palette), scope: Scope::default() }],
            finalizes,
        };
        let manifest = Arc::new(manifest.check().expect("a valid manifest"));
        Self { manifest, settings: Mutex::new("\"plain\"".into()) }
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Other settings, as somebody would write them into the plugin's ConfigMap.
    pub(crate) fn set(&self, settings: &str) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings.into();
    }

    pub(crate) fn settings(&self) -> Arc<str> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Decide for Brain {
    fn serving(&self, of: &PluginName) -> Option<Serving> {
        (*of == self.manifest.name).then(|| Serving {
            manifest: self.manifest.clone(),
            digest: Digest::of(b"native"),
            load: LoadId(1),
            settings: Some(self.settings()),
            children_max: 64,
        })
    }

    fn plugins(&self) -> Vec<PluginName> {
        vec![self.manifest.name.clone()]
    }

    fn may_skip(&self, _: &PluginName) -> bool {
        true
    }

    async fn decide(
        &self,
        pass: Pass,
        snapshot: Snapshot,
        reader: Arc<dyn Reader>,
    ) -> Result<Answer, CallError> {
        // As long as a call takes, things go on.
        tokio::time::sleep(std::time::Duration::from_micros(700)).await;
        let verdict = if !pass.finalize {
            Verdict::Decision(reconcile(&snapshot, &*reader).map_err(CallError::Refused)?)
        } else if snapshot.children.is_empty() {
            Verdict::Finalized
        } else {
            Verdict::Decision(Decision::default())
        };
        Ok(Answer { verdict, repeatable: true })
    }
}

fn reconcile(snapshot: &Snapshot, reader: &dyn Reader) -> Result<Decision, windlass_core::code::Refusal> {
    let primary = snapshot.primary.value();
    let (name, spec) = (snapshot.primary.meta().name.clone(), &primary["spec"]);
    let (text, parts) = (spec["text"].as_str().unwrap_or_default(), spec["parts"].as_u64().unwrap_or(0));
    let mut data = json!({"text": text, "color": "none", "settings": snapshot.settings.as_deref()});
    if let Some(palette) = spec["palette"].as_str() {
        let palette =
            ObjectRef { gvk: gvk(Kind::Palette), namespace: NAMESPACE.into(), name: palette.into() };
        if let Some(palette) = reader.get(&palette)? {
            data["color"] = palette.value()["spec"]["color"].clone();
        }
    }
    if text.len() % 2 == 0 {
        data["even"] = "yes".into();
    }
    let config_map = |part: u64| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("{name}-{part}")}, "data": data});
    let mut children: Vec<Value> = (0..parts).map(config_map).collect();
    if spec["box"] == true {
        let all = Query { gvk: gvk(Kind::Palette), namespace: Some(NAMESPACE.into()), labels: Vec::new() };
        let palettes = reader.list(&all)?.len();
        let spec = json!({"size": parts, "palettes": palettes, "empty": {}});
        children.push(
            json!({"apiVersion": "x.dev/v1", "kind": "Box", "metadata": {"name": &*name, "labels": {"of": &*name}}, "spec": spec}),
        );
    }
    // A status that follows its children brings the key back after each write; one that does not leaves that to the children.
    let mut status = json!({"parts": parts});
    let is_ready = |child: &&Arc<windlass_core::object::Object>| child.value()["data"]["text"] == text;
    if spec["follows"] == true {
        status["ready"] = snapshot.children.iter().filter(is_ready).count().into();
        status["seen"] = snapshot.children.len().into();
    }
    Ok(Decision {
        children: children.iter().map(Value::to_string).collect(),
        status: Some(status.to_string()),
        ..Decision::default()
    })
}

/// Its name.
pub(crate) fn plugin() -> PluginName {
    PluginName::try_new("web").expect("valid")
}

pub(crate) fn gvk(kind: Kind) -> Gvk {
    Gvk::from_api_version(kind.api_version(), kind.name()).expect("valid")
}

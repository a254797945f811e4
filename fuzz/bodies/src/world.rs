//! A plugin, its primary and its children, as decisions are judged against them.

use std::sync::Arc;

use serde_json::{Value, json};
use windlass_core::decision::Verdict;
use windlass_core::guests::LoadId;
use windlass_core::key::Key;
use windlass_core::kind::{Gvk, Kind};
use windlass_core::manifest::{ChildRule, Manifest, Unwanted};
use windlass_core::memory::Memory;
use windlass_core::name::{Digest, PluginName};
use windlass_core::object::Object;
use windlass_core::plan::{Inputs, Plan, PlanError, Policy, plan};
use windlass_core::ports::Serving;

use crate::choices::Choices;

/// The namespace of the host.
pub(crate) const HOST: &str = "windlass-system";

/// Kinds that discovery knows: kind, plural, whether in namespaces.
const SERVED: &[(&str, &str, bool)] = &[
    ("v1/ConfigMap", "configmaps", true),
    ("v1/Service", "services", true),
    ("v1/Secret", "secrets", true),
    ("apps/v1/Deployment", "deployments", true),
    ("x.dev/v1/Cluster", "clusters", false),
    ("rbac.authorization.k8s.io/v1/Role", "roles", true),
    ("v1/Pod", "pods", true),
];

/// Kinds that the manifest lists, one that no manifest may list among them: plan has to
/// hold by itself.
const LISTED: &[&str] = &[
    "v1/ConfigMap",
    "v1/Service",
    "v1/Secret",
    "apps/v1/Deployment",
    "x.dev/v1/Cluster",
    "x.dev/v1/Missing",
    "rbac.authorization.k8s.io/v1/Role",
];

/// All that is not the decision.
pub(crate) struct World {
    pub(crate) key: Key,
    pub(crate) serving: Serving,
    pub(crate) policy: Policy,
    pub(crate) primary_kind: Kind,
    pub(crate) primary: Object,
    pub(crate) children: Vec<Arc<Object>>,
    memory: Memory,
}

fn gvk(text: &str) -> Gvk {
    text.parse().expect("written here")
}

impl World {
    /// One of a few worlds.
    pub(crate) fn new(choices: &mut Choices<'_>) -> Self {
        let namespace = if choices.rarely() { choices.one(&["", HOST]) } else { "ns" };
        let plugin = PluginName::try_new("web").expect("valid");
        let rule = |kind: &&str| {
            let unwanted = if *kind == "v1/Service" { Unwanted::Orphan } else { Unwanted::Delete };
            ChildRule { kind: gvk(kind), unwanted }
        };
        let manifest = Manifest {
            name: plugin.clone(),
            version: "1".into(),
            primary: gvk("x.dev/v1/Web"),
            children: LISTED.iter().map(rule).collect(),
            reads: vec![],
            selects: windlass_core::scope::Scope::default(),
            strict: true,
            finalizes: true,
        };
        let kind = gvk("x.dev/v1/Web");
        let primary = json!({"metadata": {"name": "a", "namespace": namespace, "uid": "p", "resourceVersion": "7",
            "finalizers": ["windlass.dev/web"]}, "status": {"ready": 1}});
        let mut world = Self {
            key: Key::new(plugin, namespace, "a"),
            serving: Serving {
                manifest: Arc::new(manifest),
                digest: Digest::of(b"x"),
                load: LoadId(1),
                settings: None,
                children_max: 5,
            },
            policy: Policy { strict: choices.rarely(), ..Policy::default() },
            primary_kind: Kind {
                gvk: kind.clone(),
                plural: "webs".into(),
                namespaced: !namespace.is_empty(),
                has_status: true,
            },
            primary: Object::parse(&kind, &primary.to_string()).expect("an object"),
            children: vec![],
            memory: Memory::default(),
        };
        let child = |kind, name, owner, extra| world.child(kind, name, owner, extra);
        let mut children =
            vec![child("v1/ConfigMap", "seen", "p", json!({})), child("v1/Service", "svc", "p", json!({}))];
        if choices.rarely() {
            children.push(child("v1/Secret", "taken", "another", json!({})));
            children.push(child(
                "v1/Secret",
                "going",
                "p",
                json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}),
            ));
        }
        world.children = children;
        world
    }

    fn child(&self, kind: &str, name: &str, owner: &str, extra: Value) -> Arc<Object> {
        let mut metadata = json!({"name": name, "namespace": *self.key.namespace, "uid": name, "resourceVersion": "9",
            "labels": {"windlass.dev/owned-by": "web", "windlass.dev/host": HOST},
            "annotations": {"windlass.dev/primary": self.key.primary()},
            "ownerReferences": [{"uid": owner, "controller": true, "kind": "Web", "name": "a"}]});
        if let (Value::Object(metadata), Value::Object(extra)) = (&mut metadata, extra) {
            metadata.extend(extra);
        }
        Arc::new(Object::parse(&gvk(kind), &json!({"metadata": metadata}).to_string()).expect("an object"))
    }

    /// What discovery says.
    pub(crate) fn kind(of: &Gvk) -> Option<Kind> {
        let served = SERVED.iter().find(|(kind, _, _)| gvk(kind) == *of);
        served.map(|(_, plural, namespaced)| Kind {
            gvk: of.clone(),
            plural: (*plural).into(),
            namespaced: *namespaced,
            has_status: true,
        })
    }

    /// Has a verdict judged.
    pub(crate) fn plan(&self, verdict: Verdict) -> Result<Plan, PlanError> {
        let inputs = Inputs {
            key: &self.key,
            serving: &self.serving,
            host_namespace: HOST,
            policy: &self.policy,
            primary_kind: &self.primary_kind,
            primary: &self.primary,
            children: &self.children,
            kinds: &Self::kind,
            memory: &self.memory,
        };
        plan(&inputs, verdict)
    }
}

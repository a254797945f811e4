//! The controller: WebApps and what they own, watched once each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt as _, predicates, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::webapp::WebApp;
use crate::{children, status};

/// The name that the API server keeps beside what is applied.
const MANAGER: &str = "webapp-operator";

/// What every pass needs.
struct Context {
    client: Client,
    kinds: HashMap<&'static str, Kind>,
    tuned: bool,
    /// When every object is looked at again although nothing changed.
    again: Option<Duration>,
}

/// One kind of child, and those that exist.
struct Kind {
    resource: ApiResource,
    store: Store<DynamicObject>,
}

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

/// Works until it is dropped.
pub(crate) async fn run(client: Client, namespace: &str, tuned: bool, again: Option<Duration>) {
    let (apps, writer) = reflector::store();
    let stream = watcher(Api::<WebApp>::namespaced(client.clone(), namespace), watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .touched_objects()
        .predicate_filter(predicates::generation, Default::default());
    let mut controller = Controller::for_stream(stream, apps);
    let mut kinds = HashMap::new();
    for resource in [
        ApiResource::erase::<Deployment>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<ConfigMap>(&()),
        ApiResource::erase::<Ingress>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
    ] {
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource);
        let writer = reflector::store::Writer::new(resource.clone());
        let store = writer.as_reader();
        let stream =
            watcher(api, watcher::Config::default()).default_backoff().reflect(writer).touched_objects();
        controller = controller.owns_stream_with(stream, resource.clone());
        let kind = match resource.kind.as_str() {
            "Deployment" => "Deployment",
            "Service" => "Service",
            "ConfigMap" => "ConfigMap",
            "Ingress" => "Ingress",
            _ => "PodDisruptionBudget",
        };
        kinds.insert(kind, Kind { resource, store });
    }
    let context = Arc::new(Context { client, kinds, tuned, again });
    controller
        .run(
            reconcile,
            |_, error, _| {
                tracing::warn!(%error, "a pass failed");
                Action::requeue(Duration::from_secs(1))
            },
            context,
        )
        .for_each(|_| std::future::ready(()))
        .await;
}

async fn reconcile(app: Arc<WebApp>, context: Arc<Context>) -> Result<Action, Failed> {
    if app.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let name = app.name_any();
    let namespace = app.namespace().unwrap_or_default();
    let mut wanted_deployment = Value::Null;
    for (kind, wanted) in children::all(&app) {
        let kind_of = &context.kinds[kind];
        let key = ObjectRef::new_with(&name, kind_of.resource.clone()).within(&namespace);
        let found = kind_of.store.get(&key);
        let api =
            Api::<DynamicObject>::namespaced_with(context.client.clone(), &namespace, &kind_of.resource);
        match wanted {
            Some(wanted) => {
                let same = |found: Arc<DynamicObject>| {
                    serde_json::to_value(&*found).is_ok_and(|found| children::holds(&found, &wanted))
                };
                if !(context.tuned && found.is_some_and(same)) {
                    api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&wanted)).await?;
                }
                if kind == "Deployment" {
                    wanted_deployment = wanted;
                }
            }
            None if found.is_some_and(|found| owned(&found, &app)) => {
                match api.delete(&name, &DeleteParams::default()).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    result => drop(result?),
                }
            }
            None => {}
        }
    }
    write_status(&app, &context, &wanted_deployment).await?;
    Ok(context.again.map_or_else(Action::await_change, Action::requeue))
}

fn owned(child: &DynamicObject, app: &WebApp) -> bool {
    child.owner_references().iter().any(|owner| Some(&owner.uid) == app.metadata.uid.as_ref())
}

/// Writes the status, if it differs from what is there.
async fn write_status(app: &WebApp, context: &Context, wanted: &Value) -> Result<(), Failed> {
    let (name, namespace) = (app.name_any(), app.namespace().unwrap_or_default());
    let kind = &context.kinds["Deployment"];
    let key = ObjectRef::new_with(&name, kind.resource.clone()).within(&namespace);
    let found = kind.store.get(&key).map(|found| serde_json::to_value(&*found)).transpose()?;
    let status = status::of(app, found.as_ref(), wanted);
    if app.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let api = Api::<WebApp>::namespaced(context.client.clone(), &namespace);
    let body = json!({ "apiVersion": "apps.windlass.dev/v1alpha1", "kind": "WebApp", "status": status });
    api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&body)).await?;
    Ok(())
}

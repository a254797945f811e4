//! One selection for a caller of its own.

use std::sync::{Arc, Mutex};

use windlass_core::kind::Kind;
use windlass_core::name::LABEL_PLUGIN;
use windlass_watch::doubt::Doubt;
use windlass_watch::one::{News, watch_one};
use windlass_watch::selection::Selection;

use crate::lab::*;

const PLUGINS: &str = "/api/v1/namespaces/sys/configmaps?labelSelector=windlass.dev%2Fplugin&";

fn told(all: &Arc<Mutex<Vec<String>>>) -> Vec<String> {
    std::mem::take(&mut *all.lock().expect("no test panics with it"))
}

#[tokio::test(start_paused = true)]
async fn a_selection_is_told_by_object_and_each_list_ends_with_synced() {
    let (mut api, client) = Api::new();
    let all = Arc::new(Mutex::new(Vec::new()));
    let into = all.clone();
    let task = tokio::spawn(async move {
        let kind = Kind {
            gvk: gvk("v1/ConfigMap"),
            plural: "configmaps".into(),
            namespaced: true,
            has_status: false,
        };
        let selection = Selection::all(kind).in_namespace("sys").with_label(LABEL_PLUGIN);
        watch_one(&client, &selection, &Doubt::default(), |news| {
            let line = match news {
                News::Upsert { name, json, .. } => format!("{name} {}", json.len()),
                News::Gone { namespace, name } => format!("gone {namespace}/{name}"),
                News::Synced => "synced".into(),
            };
            into.lock().expect("no test panics with it").push(line);
        })
        .await;
    });
    let length = object("a", 1).len();
    // The namespace may come later than the host.
    api.list(PLUGINS).await.fail(404);
    api.list(PLUGINS).await.objects(10, &[object("a", 1), object("b", 2)]);
    let stream = api.watch(PLUGINS, "10").await.stream();
    assert_eq!(told(&all), [format!("a {length}"), format!("b {length}"), "synced".into()]);
    stream.event("MODIFIED", &object("a", 11));
    stream.event("MODIFIED", &object("a", 11));
    stream.event("DELETED", &object("b", 12));
    stream.event("ERROR", r#"{"kind":"Status","code":410}"#);
    settle().await;
    assert_eq!(told(&all), [format!("a {}", length + 1), "gone ns/b".into()]);
    api.list(PLUGINS).await.objects(20, &[object("c", 19)]);
    let _stream = api.watch(PLUGINS, "20").await.stream();
    assert_eq!(told(&all), [format!("c {}", length + 1), "gone ns/a".into(), "synced".into()]);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn of_a_selection_by_metadata_no_content_is_asked_for() {
    let (mut api, client) = Api::new();
    let task = tokio::spawn(async move {
        let kind = Kind {
            gvk: gvk("v1/ConfigMap"),
            plural: "configmaps".into(),
            namespaced: true,
            has_status: false,
        };
        let selection = Selection::all(kind).in_namespace("sys").with_label(LABEL_PLUGIN).metadata_only();
        watch_one(&client, &selection, &Doubt::default(), |_| ()).await;
    });
    let list = api.list(PLUGINS).await;
    assert_eq!(list.accept, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    list.objects(10, &[object("a", 1)]);
    let watch = api.watch(PLUGINS, "10").await;
    assert_eq!(watch.accept, "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
    task.abort();
}

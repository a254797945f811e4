//! Holds every ConfigMap of the cluster and does nothing with them: for the benchmarks of memory and of cold starts.

use std::future::ready;
use std::sync::atomic::Ordering;

use anyhow::{Result, bail};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::signal::unix::{SignalKind, signal};

/// Ready as soon as the store is. Tuned, it leaves `managedFields` out, as the documentation advises.
pub(crate) async fn hold(client: Client, tuned: bool) -> Result<()> {
    let (reader, writer) = reflector::store::<ConfigMap>();
    let stream = watcher(Api::<ConfigMap>::all(client), watcher::Config::default()).default_backoff();
    let stream = stream.modify(move |map| {
        if tuned {
            map.managed_fields_mut().clear();
        }
    });
    let stream = stream.reflect(writer).for_each(|_| ready(()));
    let told = async {
        if reader.wait_until_ready().await.is_ok() {
            crate::READY.store(true, Ordering::Relaxed);
        }
        std::future::pending::<()>().await
    };
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        () = stream => bail!("the watch ended"),
        () = told => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

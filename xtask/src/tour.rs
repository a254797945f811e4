//! `cargo xtask up --tour`: create, change, drift repair, hot swap, kill, delete;
//! each step waited for and timed, so that a broken one ends the tour with an error.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use kubectl_windlass::Package;
use serde_json::{Value, json};

use crate::demo::Demo;
use crate::plugin::rebuilt;
use crate::up::{HELLO, children, create_sample, line, ready};

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/default/deployments/hello";
const PLUGIN: &str = "/api/v1/namespaces/windlass-system/configmaps/webapp-plugin";

/// Plays the tour on a demo whose sample is Ready.
pub(crate) async fn play(demo: &mut Demo, package: &Package, app: &Value) -> Result<()> {
    println!("\n The tour: what an operator's day holds, in a minute.\n");
    change(demo, app).await?;
    drift(demo).await?;
    lost_child(demo).await?;
    swap(demo, package).await?;
    broken(demo, package).await?;
    kill(demo).await?;
    stop(demo).await?;
    delete(demo).await?;
    println!("\n That was all of it. Everything is ended and removed now.");
    Ok(())
}

async fn change(demo: &Demo, app: &Value) -> Result<()> {
    let began = Instant::now();
    let change =
        json!({"spec": {"replicas": 3, "host": "hello.example.com", "config": {"GREETING": "Hello again"}}});
    demo.patch(HELLO, change).await?;
    let now = ready(demo, began).await?;
    ensure!(now["metadata"]["generation"] != app["metadata"]["generation"], "the change did not count");
    line(
        "change",
        &format!(
            "replicas 2 -> 3, a host, new config: rolled and Ready in {}; {}",
            took(began),
            children(demo).await
        ),
    );
    Ok(())
}

async fn drift(demo: &Demo) -> Result<()> {
    let began = Instant::now();
    demo.patch(DEPLOYMENT, json!({"spec": {"replicas": 9}})).await?;
    demo.until("the drift is repaired", || async {
        demo.get(DEPLOYMENT).await.filter(|d| d["spec"]["replicas"] == 3)
    })
    .await?;
    line("drift", &format!("somebody set the Deployment to 9 replicas: back to 3 after {}", took(began)));
    Ok(())
}

async fn lost_child(demo: &Demo) -> Result<()> {
    let path = "/api/v1/namespaces/default/services/hello";
    let before = demo.get(path).await.context("the Service exists")?;
    let began = Instant::now();
    demo.delete(path).await?;
    demo.until("the Service is made again", || async {
        demo.get(path).await.filter(|s| s["metadata"]["uid"] != before["metadata"]["uid"])
    })
    .await?;
    line("lost", &format!("somebody deleted the Service: made again after {}", took(began)));
    Ok(())
}

/// Another build of the plugin, with settings so that its decisions differ to the eye.
async fn swap(demo: &Demo, package: &Package) -> Result<()> {
    let ingress = "/apis/networking.k8s.io/v1/namespaces/default/ingresses/hello";
    let rebuilt = base64::engine::general_purpose::STANDARD.encode(rebuilt(package)?);
    let began = Instant::now();
    let change = json!({"binaryData": {"plugin.wasm.zst": rebuilt}, "data": {"settings.yaml": "ingressClass: internal\n"}});
    demo.patch(PLUGIN, change).await?;
    demo.until("the swapped plugin decides", || async {
        demo.get(ingress).await.filter(|i| i["spec"]["ingressClassName"] == "internal")
    })
    .await?;
    let decided = took(began);
    let digest = demo
        .until("the new digest is announced", || async {
            let map = demo.get(PLUGIN).await?;
            let digest = map["metadata"]["annotations"]["windlass.dev/digest"].as_str()?.to_owned();
            (digest != package.digest.as_str()).then_some(digest)
        })
        .await?;
    line(
        "hot swap",
        &format!(
            "a new build of {} ({}…) in the ConfigMap: compiled, serving, decided anew after {decided}, no restart",
            package.manifest.name,
            &digest[..19]
        ),
    );
    Ok(())
}

async fn broken(demo: &Demo, package: &Package) -> Result<()> {
    let began = Instant::now();
    // Half of a component, as a cut-off upload would leave it.
    demo.patch(PLUGIN, json!({"binaryData": {"plugin.wasm.zst": "AGFzbQ0AAQA="}})).await?;
    let message = demo
        .until("the broken plugin is refused", || async {
            let map = demo.get(PLUGIN).await?;
            let note = &map["metadata"]["annotations"];
            let message = note["windlass.dev/message"].as_str()?.to_owned();
            (note["windlass.dev/state"] == "refused").then_some(message)
        })
        .await?;
    line("broken", &format!("a broken component is refused after {}: {message}", took(began)));
    let began = Instant::now();
    demo.patch(HELLO, json!({"spec": {"replicas": 2}})).await?;
    ready(demo, began).await?;
    line("", &format!("the last good version goes on: replicas 3 -> 2, Ready in {}", took(began)));
    demo.install(package).await?;
    demo.until("the plugin serves again", || async {
        demo.get(PLUGIN).await.filter(|m| m["metadata"]["annotations"]["windlass.dev/state"] == "serving")
    })
    .await?;
    Ok(())
}

async fn kill(demo: &mut Demo) -> Result<()> {
    let (_, leader) = demo.leading().await?;
    let leader_process = demo.take(&leader.name)?;
    // A change that the dying leader may or may not see: the next one finishes it.
    let began = Instant::now();
    leader_process.kill().await?;
    demo.patch(HELLO, json!({"spec": {"replicas": 4}})).await?;
    let next = demo
        .until("another replica leads", || async {
            demo.leader().await.filter(|next| next.term > leader.term)
        })
        .await?;
    let led = took(began);
    ready(demo, began).await?;
    line(
        "kill -9",
        &format!(
            "{} (term {}) died; {} leads (term {}) after {led}; the change it left is done after {}",
            leader.name,
            leader.term,
            next.name,
            next.term,
            took(began)
        ),
    );
    let replica = demo.replica(&leader.name)?;
    demo.replicas.push(replica);
    Ok(())
}

async fn stop(demo: &mut Demo) -> Result<()> {
    let (_, leader) = demo.leading().await?;
    let leaving = demo.take(&leader.name)?;
    let began = Instant::now();
    let ended = tokio::spawn(leaving.terminate(Duration::from_secs(30)));
    let next = demo
        .until("another replica leads", || async {
            demo.leader().await.filter(|next| next.term > leader.term)
        })
        .await?;
    let led = took(began);
    let (status, took) = ended.await.context("wait for the end")??;
    ensure!(status.success(), "the stopped replica ended with {status}");
    line(
        "SIGTERM",
        &format!(
            "{} released its Lease and ended in {} ms; {} leads (term {}) after {led}",
            leader.name,
            took.as_millis(),
            next.name,
            next.term
        ),
    );
    let replica = demo.replica(&leader.name)?;
    demo.replicas.push(replica);
    Ok(())
}

async fn delete(demo: &Demo) -> Result<()> {
    let began = Instant::now();
    demo.delete(HELLO).await?;
    demo.until("everything is gone", || async {
        (demo.get(HELLO).await.is_none() && children(demo).await.is_empty()).then_some(())
    })
    .await?;
    line(
        "delete",
        &format!(
            "the WebApp and all its children are gone after {}, when the garbage collector came round",
            took(began)
        ),
    );
    create_sample(demo).await?;
    let began = Instant::now();
    ready(demo, began).await?;
    demo.delete(HELLO).await
}

fn took(began: Instant) -> String {
    let took = began.elapsed();
    if took < Duration::from_secs(1) {
        format!("{} ms", took.as_millis())
    } else {
        format!("{:.1} s", took.as_secs_f64())
    }
}

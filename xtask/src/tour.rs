//! `cargo xtask up --tour`: create, change, drift repair, hot swap, kill, delete;
//! each step waited for and timed, so that a broken one ends the tour with an error.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use kubectl_windlass::Package;
use serde_json::{Value, json};
use windlass_testbed::Signal;
use windlass_testbed::nodes::is_ready;

use crate::demo::{Demo, Leader};
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
    if demo.cluster().is_some() {
        kill_container(demo).await?;
        drain(demo).await?;
        roll(demo).await?;
    } else {
        kill(demo).await?;
        stop(demo).await?;
    }
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

/// The leader's pod, and the node that it is on.
async fn leading_pod(demo: &Demo) -> Result<(Leader, Value)> {
    let leader = demo.until("a replica leads", || demo.leader()).await?;
    let pods = demo.host_pods().await;
    let pod = pods.into_iter().find(|pod| pod["metadata"]["name"] == *leader.name);
    Ok((leader, pod.context("the leader's pod is there")?))
}

/// Waits for the next term. Says what became of it, in words.
async fn led_next(demo: &Demo, before: &Leader, began: Instant) -> Result<String> {
    let next = demo
        .until("another term begins", || async { demo.leader().await.filter(|next| next.term > before.term) })
        .await?;
    Ok(format!("{} leads (term {}) after {}", next.name, next.term, took(began)))
}

async fn kill_container(demo: &Demo) -> Result<()> {
    let (leader, pod) = leading_pod(demo).await?;
    let (node, uid) = (pod["spec"]["nodeName"].as_str(), pod["metadata"]["uid"].as_str());
    let (node, uid) = (node.context("it has a node")?, uid.context("it has a uid")?);
    let cluster = demo.cluster().context("there are nodes")?;
    let began = Instant::now();
    cluster.signal(node, uid, "windlass", Signal::KILL)?;
    demo.patch(HELLO, json!({"spec": {"replicas": 4}})).await?;
    let next = led_next(demo, &leader, began).await?;
    ready(demo, began).await?;
    let done = took(began);
    line(
        "kill -9",
        &format!(
            "the container of {} (term {}) died; {next}; the change it left is done after {done}",
            leader.name, leader.term
        ),
    );
    demo.pods(3).await.map(drop)
}

async fn drain(demo: &Demo) -> Result<()> {
    let (leader, pod) = leading_pod(demo).await?;
    let node = pod["spec"]["nodeName"].as_str().context("it has a node")?;
    let began = Instant::now();
    let flags = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=55s"];
    let arguments = [&["drain", node][..], &flags[..]].concat();
    let (drained, next) = tokio::join!(demo.kubectl(&arguments), led_next(demo, &leader, began));
    let next = next?;
    drained?;
    let all = took(began);
    demo.kubectl(&["uncordon", node]).await?;
    demo.pods(3).await?;
    line(
        "drain",
        &format!("{node} was drained in {all}, by the disruption budget never below two ready; {next}"),
    );
    Ok(())
}

async fn roll(demo: &Demo) -> Result<()> {
    let (leader, _) = leading_pod(demo).await?;
    let before: Vec<_> =
        demo.host_pods().await.into_iter().map(|pod| pod["metadata"]["name"].clone()).collect();
    let began = Instant::now();
    demo.kubectl(&["rollout", "restart", "deployment/windlass", "--namespace", "windlass-system"]).await?;
    demo.until("every pod is a new one", || async {
        let pods = demo.host_pods().await;
        let new =
            pods.iter().filter(|pod| is_ready(pod) && !before.contains(&pod["metadata"]["name"])).count();
        (new == 3 && pods.len() == 3).then_some(())
    })
    .await?;
    let all = took(began);
    let next = demo.until("a replica leads", || demo.leader()).await?;
    ensure!(next.term > leader.term, "nobody took over");
    line(
        "rollout",
        &format!(
            "three new pods after {all}, one by one and never below three ready; {} leads (term {})",
            next.name, next.term
        ),
    );
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

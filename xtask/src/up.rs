//! `cargo xtask up`: the main job. Builds, starts, shows, cleans up.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kubectl_windlass::Package;
use serde_json::Value;
use windlass_testbed::Options;
use windlass_testbed::nodes::{Cluster, HELLO as SERVER};

use crate::demo::Demo;
use crate::image::Image;
use crate::{build, plugin, root, tour};

/// How to run it.
#[derive(clap::Args)]
pub(crate) struct Up {
    /// Play a fixed tour and exit: create, change, drift repair, hot swap, kill of the leader, delete.
    #[arg(long)]
    tour: bool,
    /// Use this cluster instead of a control plane of our own.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Replicas to start.
    #[arg(long, default_value_t = 3, conflicts_with = "nodes")]
    replicas: usize,
    /// Start real nodes beside the control plane, and deploy the host's image on them as deploy/overlays/production says.
    ///
    /// Takes root, Linux and Debian packages (unpacked, not installed). The image is built for release first: ten minutes, once.
    #[arg(long, value_name = "N", conflicts_with = "kubeconfig", value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: Option<u8>,
    /// With --nodes: an image of the host as an OCI archive, instead of one that is built here.
    #[arg(long, value_name = "FILE", requires = "nodes")]
    image: Option<PathBuf>,
}

impl Up {
    pub(crate) fn run(self) -> Result<()> {
        // For an image a binary is built on its own.
        let host = match (self.nodes, &self.image) {
            (None, _) => build::host(false)?,
            (Some(_), image) => {
                Cluster::possible().context("this machine allows no nodes")?;
                image.clone().map_or_else(Image::of_this_tree, Ok)?
            }
        };
        let began = Instant::now();
        let package = plugin::build(&root().join("plugins/webapp"))?;
        line("plugin", &format!("webapp built for wasm32-wasip2 in {:.1} s", began.elapsed().as_secs_f64()));
        let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
        runtime.block_on(async {
            tokio::select! {
                result = self.show(host, &package) => result,
                _ = tokio::signal::ctrl_c() => Ok(()),
            }
        })
    }

    async fn show(&self, host: PathBuf, package: &Package) -> Result<()> {
        let began = Instant::now();
        let demo = match self.nodes {
            None => Demo::start(self.kubeconfig.as_deref(), host, Options::default()).await?,
            Some(nodes) => Demo::on_nodes(nodes, vec![host]).await?,
        };
        let mut demo = demo.with_flags(&["--log=info"]);
        line(
            "cluster",
            &format!(
                "ready in {:.1} s        export KUBECONFIG={}",
                began.elapsed().as_secs_f64(),
                demo.control.kubeconfig_path().display()
            ),
        );
        if let Some(cluster) = demo.cluster() {
            line(
                "nodes",
                &format!("{}        kubelet, containerd, a network; Ready", cluster.nodes().join("  ")),
            );
        }
        line("fence", "the API server itself refuses what a stale leader sends (deploy/overlays/production)");
        demo.install(package).await?;
        let (leader, names) = if demo.cluster().is_some() {
            let leader = demo.pods(3).await?;
            let name = |pod: &Value| text(&pod["metadata"]["name"]).to_owned();
            (leader, demo.host_pods().await.iter().map(name).collect())
        } else {
            let leader = demo.replicas(self.replicas).await?;
            (leader, demo.replicas.iter().map(|r| r.name().to_owned()).collect::<Vec<_>>())
        };
        line(
            "replicas",
            &format!("{}        {} leads (term {})", names.join("  "), leader.name, leader.term),
        );
        serving(&demo, package).await?;
        let began = Instant::now();
        create_sample(&demo).await?;
        let app = ready(&demo, began).await?;
        line(
            "webapp",
            &format!(
                "default/hello  created … Ready in {:.1} s        {}",
                began.elapsed().as_secs_f64(),
                children(&demo).await
            ),
        );
        if self.tour {
            tour::play(&mut demo, package, &app).await?;
        } else {
            hints(&demo).await?;
            watch(&mut demo).await?;
        }
        demo.clean_up(package).await
    }
}

/// One line of the story: a short word, then what happened.
pub(crate) fn line(word: &str, text: &str) {
    println!(" {word:<10} {text}");
}

/// Waits until the plugin's ConfigMap and every replica say that it serves.
async fn serving(demo: &Demo, package: &Package) -> Result<()> {
    let state = demo
        .until("the plugin serves", || async {
            let map = demo.get("/api/v1/namespaces/windlass-system/configmaps/webapp-plugin").await?;
            let note = &map["metadata"]["annotations"];
            (note["windlass.dev/state"] == "serving").then(|| note.clone())
        })
        .await?;
    let mut count = 0;
    for replica in &demo.replicas {
        let (_, plugins) = replica.ask("/debug/plugins").await?;
        count += usize::from(plugins.contains("serving"));
    }
    let digest = state["windlass.dev/digest"].as_str().unwrap_or_default();
    // Pods say it of themselves to whoever has a token.
    let on = match demo.replicas.len() {
        0 => String::new(),
        all => format!(" on {count} of {all}"),
    };
    line(
        "plugin",
        &format!(
            "{} {}  {}…  {} KB  {}{on}",
            package.manifest.name,
            package.manifest.version,
            &digest[..digest.len().min(19)],
            package.compressed.len() / 1000,
            state["windlass.dev/state"].as_str().unwrap_or_default(),
        ),
    );
    Ok(())
}

/// Path of the sample.
pub(crate) const HELLO: &str = "/apis/apps.windlass.dev/v1alpha1/namespaces/default/webapps/hello";

/// Creates the sample WebApp.
pub(crate) async fn create_sample(demo: &Demo) -> Result<()> {
    let mut sample =
        std::fs::read_to_string(root().join("plugins/webapp/sample.yaml")).context("read the sample")?;
    if demo.cluster().is_some() {
        // Nodes fetch nothing: their pods run an image of ours.
        sample = sample
            .lines()
            .map(|line| {
                if line.starts_with("  image:") {
                    format!("  image: {SERVER}\n")
                } else {
                    format!("{line}\n")
                }
            })
            .collect();
    }
    // The kind may have been served a moment ago only.
    let mut attempts = 0;
    loop {
        match demo.control.apply(&sample).await {
            Ok(()) => return Ok(()),
            Err(error) if attempts == 50 => return Err(error),
            Err(_) => attempts += 1,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until the sample is Ready with the spec that it has now.
pub(crate) async fn ready(demo: &Demo, _began: Instant) -> Result<Value> {
    demo.until("default/hello is Ready", || async {
        let app = demo.get(HELLO).await?;
        let ready = app["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == "Ready")?;
        let current = app["status"]["observedGeneration"] == app["metadata"]["generation"];
        (ready["status"] == "True" && current).then_some(app)
    })
    .await
}

/// The children of the sample, in words.
pub(crate) async fn children(demo: &Demo) -> String {
    let mut found = Vec::new();
    for (word, path) in [
        ("deployment", "/apis/apps/v1/namespaces/default/deployments/hello"),
        ("service", "/api/v1/namespaces/default/services/hello"),
        ("configmap", "/api/v1/namespaces/default/configmaps/hello"),
        ("ingress", "/apis/networking.k8s.io/v1/namespaces/default/ingresses/hello"),
        ("pdb", "/apis/policy/v1/namespaces/default/poddisruptionbudgets/hello"),
    ] {
        if demo.get(path).await.is_some() {
            found.push(word);
        }
    }
    found.join(", ")
}

async fn hints(demo: &Demo) -> Result<()> {
    let kubeconfig = format!("export KUBECONFIG={}", demo.control.kubeconfig_path().display());
    let mut hints = vec![
        ("try:", kubeconfig, ""),
        ("", "kubectl get webapps -w".to_owned(), ""),
        ("", "kubectl edit webapp hello".to_owned(), "change replicas, watch it follow"),
    ];
    if demo.cluster().is_some() {
        let leader = demo.until("a replica leads", || demo.leader()).await?;
        let system = "--namespace windlass-system";
        hints.extend([
            ("", "kubectl get pods --all-namespaces --output wide".to_owned(), ""),
            ("", format!("kubectl delete pod {system} {}", leader.name), "that is the leader"),
            (
                "",
                "kubectl drain node1 --ignore-daemonsets --delete-emptydir-data".to_owned(),
                "never below two ready",
            ),
            ("", format!("kubectl rollout restart {system} deployment/windlass"), "watch the leader move"),
        ]);
    } else {
        let (leader, _) = demo.leading().await?;
        let view = format!("curl {}/debug/queue", leader.metrics_address());
        let more = "also /debug/plugins, /debug/watches, /debug/leadership, /metrics";
        hints.extend([("", format!("kill -9 {}", leader.pid()), "that is the leader"), ("", view, more)]);
    }
    println!();
    for (word, command, why) in hints {
        println!("   {word:<5} {command:<45} {why}");
    }
    println!("\n   Ctrl-C ends it and leaves nothing behind.\n");
    Ok(())
}

/// Shows what happens until somebody ends it: leaders, plugin states, WebApps.
async fn watch(demo: &mut Demo) -> Result<()> {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let mut gone: Option<(String, Instant)> = None;
    loop {
        let dead: Vec<_> = demo
            .replicas
            .iter_mut()
            .filter_map(|r| r.check_alive().err().map(|_| r.name().to_owned()))
            .collect();
        for name in dead {
            line(&now(), &format!("{name} died"));
            drop(demo.take(&name)?);
            gone = Some((name, Instant::now()));
        }
        for (what, text) in facts(demo).await {
            let before = seen.insert(what.clone(), text.clone());
            if before.as_ref().is_some_and(|b| *b == text)
                || (before.is_none() && !what.starts_with("webapp"))
            {
                continue;
            }
            let after = match (&gone, what.as_str()) {
                (Some((_, at)), "leader") => format!("   {} ms after the death", at.elapsed().as_millis()),
                _ => String::new(),
            };
            line(&now(), &format!("{text}{after}"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What may change, each under a name.
async fn facts(demo: &Demo) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    if let Some(leader) = demo.leader().await {
        facts.push(("leader".to_owned(), format!("{} leads (term {})", leader.name, leader.term)));
    }
    if let Some(map) = demo.get("/api/v1/namespaces/windlass-system/configmaps/webapp-plugin").await {
        let note = |name: &str| {
            map["metadata"]["annotations"][format!("windlass.dev/{name}")].as_str().unwrap_or("").to_owned()
        };
        facts.push(("plugin".to_owned(), format!("plugin webapp {} {}", note("state"), note("message"))));
    }
    let list = demo.get("/apis/apps.windlass.dev/v1alpha1/webapps").await.unwrap_or_default();
    for app in list["items"].as_array().into_iter().flatten() {
        let name = format!("{}/{}", text(&app["metadata"]["namespace"]), text(&app["metadata"]["name"]));
        let conditions = app["status"]["conditions"].as_array();
        let ready = conditions.and_then(|c| c.iter().find(|c| c["type"] == "Ready"));
        let says =
            ready.map_or_else(String::new, |c| format!("{} ({})", text(&c["message"]), text(&c["reason"])));
        facts.push((format!("webapp {name}"), format!("webapp {name}: {says}")));
    }
    facts
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The time of day with milliseconds.
pub(crate) fn now() -> String {
    jiff::Zoned::now().strftime("%H:%M:%S.%3f").to_string()
}

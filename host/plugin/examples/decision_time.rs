//! What a plugin costs: compile, call and memory, for `plugins/webapp`.
//!
//! `cargo run --release -p windlass-plugin --example decision_time`. Figures of a
//! debug build say little about the host and nothing about the compiler.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_core::code::Refusal;
use windlass_core::key::{Key, ObjectRef};
use windlass_core::kind::Gvk;
use windlass_core::limits::Limits;
use windlass_core::name::PluginName;
use windlass_core::object::Object;
use windlass_core::ports::{Pass, Reader};
use windlass_core::reads::Query;
use windlass_core::snapshot::Snapshot;
use windlass_plugin::{Loader, Plugin, Source};

/// Calls that are measured, after a tenth as many that are not.
const CALLS: usize = 2000;

/// There is nothing else in this cluster.
struct Empty;

impl Reader for Empty {
    fn get(&self, _: &ObjectRef) -> Result<Option<Arc<Object>>, Refusal> {
        Ok(None)
    }

    fn list(&self, _: &Query) -> Result<Vec<Arc<Object>>, Refusal> {
        Ok(Vec::new())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let component = std::fs::read(windlass_testbed::components::component("webapp", None)?)?;
    let name = PluginName::try_new("webapp")?;
    let source = Source::local(name.clone(), component.into(), None);
    println!("component      {:>9} bytes", source.component.len());
    println!("resident       {:>9} KiB at start", resident_kib()?);
    let begun = Instant::now();
    let loader = Loader::in_process(Limits::default())?;
    println!("engine         {:>9.1} ms", begun.elapsed().as_secs_f64() * 1e3);
    let begun = Instant::now();
    let plugin = loader.load(&source, &name)?;
    println!(
        "load           {:>9.1} ms (check, compile, link, manifest)",
        begun.elapsed().as_secs_f64() * 1e3
    );
    println!("resident       {:>9} KiB loaded", resident_kib()?);

    let snapshot = snapshot(&plugin.manifest().primary)?;
    let bytes = snapshot.bytes();
    measure("decide", CALLS, || decide(&plugin, &snapshot, &name))?;
    println!("               {bytes:>9} bytes of snapshot");
    floor(&loader, &name)?;
    measure("load, cached", CALLS, || loader.load(&source, &name).map(drop).map_err(Into::into))?;
    println!("resident       {:>9} KiB after {CALLS} calls", resident_kib()?);
    on_two_threads(&plugin, &snapshot, &name)?;
    println!("resident       {:>9} KiB at the end", resident_kib()?);
    Ok(())
}

fn decide(plugin: &Plugin, snapshot: &Snapshot, name: &PluginName) -> Result<(), Box<dyn Error>> {
    let pass = Pass { key: Key::new(name.clone(), "ns", "shop"), number: 1, finalize: false };
    plugin.decide(&pass, snapshot, Arc::new(Empty)).map(drop).map_err(|e| e.to_string().into())
}

/// What any call costs at least: instantiate a component of the SDK that decodes a
/// small object, answers with a fault, and is dropped.
fn floor(loader: &Loader, key: &PluginName) -> Result<(), Box<dyn Error>> {
    let component =
        std::fs::read(windlass_testbed::components::component("windlass-fixtures", Some("fails"))?)?;
    let name = PluginName::try_new("fails")?;
    let source = Source::local(name.clone(), component.into(), None);
    let plugin = loader.load(&source, &name)?;
    let json =
        json!({"metadata": {"name": "x", "namespace": "ns", "uid": "u-1"}, "spec": {"mode": "transient"}});
    let snapshot = Snapshot {
        primary: Arc::new(Object::parse(&plugin.manifest().primary, &json.to_string())?),
        children: Vec::new(),
        settings: None,
    };
    measure("smallest call", CALLS, || match decide(&plugin, &snapshot, key) {
        Ok(()) => Err("a fault was expected".into()),
        Err(_) => Ok(()),
    })
}

/// Calls a second when two threads ask at once.
fn on_two_threads(plugin: &Plugin, snapshot: &Snapshot, name: &PluginName) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| (0..CALLS).all(|_| decide(plugin, snapshot, name).is_ok())))
            .collect();
        threads.into_iter().all(|thread| thread.join().unwrap_or(false))
    })
    .then_some(())
    .ok_or("a call failed")?;
    let rate = (2 * CALLS) as f64 / begun.elapsed().as_secs_f64();
    println!("two threads    {rate:>9.0} decisions a second");
    Ok(())
}

fn measure(
    what: &str,
    times: usize,
    mut call: impl FnMut() -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let mut took = Vec::with_capacity(times);
    for i in 0..times + times / 10 {
        let begun = Instant::now();
        call()?;
        if i >= times / 10 {
            took.push(begun.elapsed());
        }
    }
    took.sort_unstable();
    let us = |of: Duration| of.as_secs_f64() * 1e6;
    println!(
        "{what:<14} {:>9.1} µs p50, {:.1} µs p99, {:.1} µs max of {times}",
        us(took[times / 2]),
        us(took[times * 99 / 100]),
        us(took[times - 1])
    );
    Ok(())
}

fn snapshot(kind: &Gvk) -> Result<Snapshot, Box<dyn Error>> {
    let object = |gvk: &str, json: &Value| -> Result<Arc<Object>, Box<dyn Error>> {
        Ok(Arc::new(Object::parse(&gvk.parse()?, &json.to_string())?))
    };
    let labels = json!({"app.kubernetes.io/name": "shop", "windlass.dev/owned-by": "webapp"});
    let primary = json!({
        "metadata": {"name": "shop", "namespace": "ns", "uid": "5d6a2d0e-9f5c-4a57-8c5b-0a3b7c1f2d11", "resourceVersion": "7", "generation": 1},
        "spec": {"image": "example.com/shop:1", "replicas": 2, "port": 8080},
    });
    let deployment = json!({
        "metadata": {"name": "shop", "namespace": "ns", "uid": "u-2", "resourceVersion": "8", "labels": labels},
        "spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "app", "image": "example.com/shop:1"}]}}},
        "status": {"replicas": 2, "readyReplicas": 2, "availableReplicas": 2, "observedGeneration": 1},
    });
    let service = json!({
        "metadata": {"name": "shop", "namespace": "ns", "uid": "u-3", "resourceVersion": "9", "labels": labels},
        "spec": {"ports": [{"port": 80, "targetPort": 8080}]},
    });
    Ok(Snapshot {
        primary: object(&kind.to_string(), &primary)?,
        children: vec![object("apps/v1/Deployment", &deployment)?, object("v1/Service", &service)?],
        settings: None,
    })
}

/// Resident memory of this process.
fn resident_kib() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
}

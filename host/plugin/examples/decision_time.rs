//! What a plugin costs: compile, call and memory, for `plugins/webapp`.
//!
//! `cargo run --release -p windlass-plugin --example decision_time`. Figures of a
//! debug build say little about the host and nothing about the compiler. What is decided about is in `webapp.json`: a WebApp
//! and its children as a cluster has them.
//!
//! With paths of components behind `--` it compares those: each is asked in turn, round after round.

use std::error::Error;
use std::ffi::OsString;
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
    let components: Vec<_> = std::env::args_os().skip(1).collect();
    if !components.is_empty() {
        return compare(&components);
    }
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

/// What one call of each component uses, the least and the middle of 11 rounds that take turns.
fn compare(components: &[OsString]) -> Result<(), Box<dyn Error>> {
    let loader = Loader::in_process(Limits::default())?;
    let name = PluginName::try_new("webapp")?;
    let mut plugins = Vec::new();
    for path in components {
        let source = Source::local(name.clone(), std::fs::read(path)?.into(), None);
        plugins.push((path, source.component.len(), loader.load(&source, &name)?, Vec::new()));
    }
    for _ in 0..11 {
        for (_, _, plugin, used) in &mut plugins {
            let snapshot = snapshot(&plugin.manifest().primary)?;
            for _ in 0..CALLS / 10 {
                decide(plugin, &snapshot, &name)?;
            }
            let before = used_by_this_thread()?;
            for _ in 0..CALLS {
                decide(plugin, &snapshot, &name)?;
            }
            let after = used_by_this_thread()?;
            used.push(((after.0 - before.0) / CALLS as f64, (after.1 - before.1) / CALLS as f64));
        }
    }
    for (path, bytes, _, mut used) in plugins {
        used.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (least, middle) = (used[0], used[used.len() / 2]);
        println!(
            "{:>9} bytes, {:>6.1} µs of CPU time a call (least {:.1}), {:>5.1} page faults  {}",
            bytes,
            middle.0,
            least.0,
            middle.1,
            path.display()
        );
    }
    Ok(())
}

/// Microseconds of CPU time, and page faults without reading from disk.
fn used_by_this_thread() -> Result<(f64, f64), Box<dyn Error>> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/{name}"));
    let (schedule, stat) = (read("schedstat")?, read("stat")?);
    let cpu: f64 = schedule.split(' ').next().ok_or("no CPU time")?.parse()?;
    let faults =
        stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(7)).ok_or("no faults")?;
    Ok((cpu / 1e3, faults.parse()?))
}

fn snapshot(kind: &Gvk) -> Result<Snapshot, Box<dyn Error>> {
    let object = |gvk: &Gvk, json: &Value| -> Result<Arc<Object>, Box<dyn Error>> {
        Ok(Arc::new(Object::parse(gvk, &json.to_string())?))
    };
    let seen: Value = serde_json::from_str(include_str!("webapp.json"))?;
    let children = seen["children"].as_object().ok_or("no children")?;
    Ok(Snapshot {
        primary: object(kind, &seen["primary"])?,
        children: children
            .iter()
            .map(|(kind, child)| object(&kind.parse()?, child))
            .collect::<Result<_, _>>()?,
        settings: None,
    })
}

/// Resident memory of this process.
fn resident_kib() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
}

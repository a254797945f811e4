//! Starting, disturbing and ending, on control planes of their own: nothing may be lost in between and nothing left at the end.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use windlass_testbed::{ControlPlane, Options, Placement, Server, Signal, Stop, User};

const PATIENCE: Duration = Duration::from_secs(60);
const SERVERS: [Server; 3] = [Server::Etcd, Server::Apiserver, Server::ControllerManager];

/// Set in the copy of this program that is started to be killed.
const VICTIM: &str = "WINDLASS_TESTBED_VICTIM";

/// A zombie has ended too, it only was not reaped yet by whoever inherited it.
fn runs(id: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{id}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}

fn ids(control_plane: &ControlPlane) -> Result<Vec<u32>> {
    SERVERS.into_iter().map(|server| control_plane.process_id(server)?.context("it runs")).collect()
}

fn eventually(what: &str, holds: impl Fn() -> bool) -> Result<()> {
    let started = Instant::now();
    while !holds() {
        ensure!(started.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

async fn get(control_plane: &ControlPlane, path: &str) -> Result<Value> {
    Ok(control_plane.client()?.request(http::Request::get(path).body(Vec::new())?).await?)
}

#[tokio::test]
async fn a_restart_keeps_data_and_an_end_leaves_nothing() -> Result<()> {
    let started = Instant::now();
    let options = Options {
        users: vec![User::new("me").in_group("system:masters")],
        kubelet: Some(Placement::Bound),
        ..Options::default()
    };
    let control_plane = ControlPlane::start(options).await?;
    eprintln!("ready after {:.1?}", started.elapsed());
    let namespace = control_plane.namespace("kept").await?;
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: web, namespace: {namespace} }}\nspec: {{ containers: [{{ name: web, image: web }}] }}"
    );
    let url = control_plane.server_url().to_owned();

    for how in [Stop::Term, Stop::Kill] {
        let started = Instant::now();
        control_plane.restart_apiserver(how).await?;
        eprintln!("restarted ({how:?}) after {:.1?}", started.elapsed());
        assert_eq!(control_plane.server_url(), url);
        get(&control_plane, &format!("/api/v1/namespaces/{namespace}")).await?;
    }

    // The kubelet and the controllers have found the new server.
    control_plane.apply(&pod).await?;
    let path = format!("/api/v1/namespaces/{namespace}/pods/web");
    let started = Instant::now();
    loop {
        let found = get(&control_plane, &path).await?;
        if found["status"]["phase"] == "Running" && found["spec"]["nodeName"] == "testbed" {
            break;
        }
        ensure!(started.elapsed() < PATIENCE, "{found:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eprintln!("a new pod ran {:.1?} after the restart", started.elapsed());
    let started = Instant::now();
    let output =
        control_plane.kubectl(&["delete", "namespace", &namespace, "--wait", "--timeout=60s"]).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("a namespace was removed in {:.1?}", started.elapsed());

    let (ids, directory) = (ids(&control_plane)?, control_plane.directory()?.to_owned());
    assert!(ids.iter().all(|id| runs(*id)) && directory.exists());
    let started = Instant::now();
    drop(control_plane);
    eprintln!("gone after {:.1?}", started.elapsed());
    assert!(!ids.iter().any(|id| runs(*id)), "a process is left");
    assert!(!directory.exists(), "{} is left", directory.display());
    Ok(())
}

#[tokio::test]
async fn a_server_that_refuses_its_flags_is_quoted() -> Result<()> {
    let options = Options { apiserver_flags: vec!["--no-such-flag".to_owned()], ..Options::default() };
    let message = ControlPlane::start(options).await.unwrap_err().to_string();
    assert!(
        message.contains("kube-apiserver ended early") && message.contains("unknown flag: --no-such-flag"),
        "{message}"
    );
    Ok(())
}

#[tokio::test]
async fn a_frozen_etcd_thaws_and_a_killed_one_comes_back() -> Result<()> {
    let control_plane = ControlPlane::start(Options { kubelet: None, ..Options::default() }).await?;
    let namespace = control_plane.namespace("etcd").await?;
    control_plane.signal(Server::Etcd, Signal::STOP)?;
    control_plane.signal(Server::Etcd, Signal::CONT)?;
    control_plane.stop(Server::Etcd, Stop::Kill).await?;
    assert_eq!(control_plane.process_id(Server::Etcd)?, None);
    control_plane.start_again(Server::Etcd).await?;
    let started = Instant::now();
    while get(&control_plane, &format!("/api/v1/namespaces/{namespace}")).await.is_err() {
        ensure!(started.elapsed() < PATIENCE, "the API server does not find etcd again");
    }
    Ok(())
}

/// Not a test of its own: what the copy does for the next one. Says where it is, and waits.
#[tokio::test]
async fn a_copy_of_this_program_waits_to_be_killed() -> Result<()> {
    let Some(file) = std::env::var_os(VICTIM) else { return Ok(()) };
    let control_plane = windlass_testbed::shared()?;
    let report = format!("{}\n{:?}\n", control_plane.directory()?.display(), ids(control_plane)?);
    let file = PathBuf::from(file);
    std::fs::write(file.with_extension("new"), report)?;
    std::fs::rename(file.with_extension("new"), file)?;
    std::future::pending().await
}

#[test]
fn nothing_outlives_a_process_that_is_killed() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let file = scratch.path().join("report");
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "a_copy_of_this_program_waits_to_be_killed"])
        .env(VICTIM, &file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let ready = eventually("the copy never got ready", || file.exists());
    child.kill()?;
    child.wait()?;
    ready?;
    let report = std::fs::read_to_string(&file)?;
    let (directory, ids) = report.trim().split_once('\n').context("two lines")?;
    let ids: Vec<u32> = serde_json::from_str(ids)?;
    let started = Instant::now();
    eventually("a process is left", || !ids.iter().any(|id| runs(*id)))?;
    eventually("the directory is left", || !Path::new(directory).exists())?;
    eprintln!("gone {:.0?} after the kill", started.elapsed());
    Ok(())
}

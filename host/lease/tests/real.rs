//! The driver against a real API server, with the rights that it will have there and no more.
//!
//! Lease 2 s, renew deadline 1.5 s, retry 0.25 s: what is waited for is short, and
//! nothing else is scaled.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::time::timeout;
use windlass_core::claim::{BootClock, Claim, Gate, Term};
use windlass_lease::clock::Boottime;
use windlass_lease::driver::{Config, Handle, LeaseDriver, identity};
use windlass_lease::durations::Durations;
use windlass_lease::pulse::Pulse;
use windlass_lease::step::Leadership;
use windlass_testbed::{ControlPlane, Options, Server, Signal, Writes, shared};

const PATIENCE: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(2);
const RENEW_DEADLINE: Duration = Duration::from_millis(1_500);

fn start(cluster: &ControlPlane, namespace: &str, user: &str) -> Result<(Handle, Arc<Gate>)> {
    run(cluster, user, config(namespace, user)?)
}

/// One that does not act on a death.
fn start_deaf(cluster: &ControlPlane, namespace: &str, user: &str) -> Result<(Handle, Arc<Gate>)> {
    run(cluster, user, Config { death_evidence: false, ..config(namespace, user)? })
}

fn config(namespace: &str, user: &str) -> Result<Config> {
    let durations = Durations::try_new(LEASE, RENEW_DEADLINE, Duration::from_millis(250))?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let advertise = listener.local_addr()?;
    let pulse = Some(Pulse { listener, advertise });
    Ok(Config { pulse, ..Config::new(namespace, "windlass", identity(user), durations) })
}

fn run(cluster: &ControlPlane, user: &str, config: Config) -> Result<(Handle, Arc<Gate>)> {
    let gate = Gate::new();
    Ok((LeaseDriver::start(config, cluster.config_for(user)?, kube::Client::try_from, gate.clone())?, gate))
}

/// The rights of the lease: everything but the creation is on this one object.
async fn grant(cluster: &ControlPlane, namespace: &str) -> Result<()> {
    let manifests = format!(
        r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{ name: lease, namespace: {namespace} }}
rules:
- {{ apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create] }}
- {{ apiGroups: [coordination.k8s.io], resources: [leases], resourceNames: [windlass], verbs: [get, list, watch, update] }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{ name: lease, namespace: {namespace} }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: Role, name: lease }}
subjects:
- {{ apiGroup: rbac.authorization.k8s.io, kind: Group, name: "{}" }}
"#,
        windlass_testbed::REPLICAS
    );
    cluster.apply(&manifests).await
}

async fn leads(handle: &Handle) -> Result<Claim> {
    let mut leading = handle.leading();
    let led = timeout(PATIENCE, leading.wait_for(|now| matches!(now, Leadership::Leading(_)))).await;
    match &*led.context("nobody leads in time")?? {
        Leadership::Leading(claim) => Ok(claim.clone()),
        Leadership::Standby { .. } => unreachable!("waited for"),
    }
}

async fn follows(handle: &Handle, leader: &Claim) -> Result<()> {
    let mut leading = handle.leading();
    let known = Leadership::Standby { holder: Some(leader.holder.clone()) };
    timeout(PATIENCE, leading.wait_for(|now| *now == known))
        .await
        .context("a standby knows its leader")??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_taken_at_once_and_a_crash_after_the_lease() -> Result<()> {
    let cluster = shared()?;
    let namespace = cluster.namespace("lease").await?;
    grant(cluster, &namespace).await?;
    let mark = cluster.audit()?.mark()?;

    let mut gaps = Vec::new();
    let mut term = Term(1);
    let (mut leader, _) = start(cluster, &namespace, "windlass-0")?;
    let mut claim = leads(&leader).await?;
    assert_eq!(claim.term, term);
    for round in 1..=10 {
        let (next, _) = start(cluster, &namespace, &format!("windlass-{}", round % 3))?;
        follows(&next, &claim).await?;
        let begun = Instant::now();
        leader.shutdown(PATIENCE).await?;
        claim = leads(&next).await?;
        gaps.push(begun.elapsed());
        term = Term(term.0 + 1);
        assert_eq!(claim.term, term);
        leader = next;
    }
    gaps.sort();
    println!("release to leading: median {:?}, most {:?}", gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    assert!(gaps[gaps.len() / 2] < Duration::from_millis(200), "{gaps:?}");

    let (standby, _) = start_deaf(cluster, &namespace, "windlass-2")?;
    follows(&standby, &claim).await?;
    let begun = Instant::now();
    drop(leader);
    assert_eq!(leads(&standby).await?.term, Term(term.0 + 1));
    println!("crash to leading: {:?} with a lease of {LEASE:?}", begun.elapsed());
    assert!(begun.elapsed() < LEASE + Duration::from_secs(1), "{:?}", begun.elapsed());
    standby.shutdown(PATIENCE).await?;

    // What the API server has on record: nobody needed more than these rights.
    let writes = cluster.audit()?.writes(mark, &Writes::new().to("leases").within(&namespace))?;
    let denied = writes.iter().filter(|write| write.code() == 403).count();
    assert_eq!(denied, 0);
    assert!(writes.iter().all(|write| ["create", "update"].contains(&&*write.verb)));
    Ok(())
}

/// Waits until the status says so: there is no event for this.
async fn listens(handle: &Handle) -> Result<()> {
    let verified = async {
        while handle.status().pulse.peer_state != "verified" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, verified).await.context("the leader's pulse is never heard")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_is_taken_over_in_milliseconds() -> Result<()> {
    let cluster = shared()?;
    let namespace = cluster.namespace("pulse").await?;
    grant(cluster, &namespace).await?;
    let mut gaps = Vec::new();
    let (mut leader, _) = start(cluster, &namespace, "windlass-0")?;
    leads(&leader).await?;
    for round in 1..=20 {
        let (standby, _) = start(cluster, &namespace, &format!("windlass-{}", round % 3))?;
        listens(&standby).await?;
        let begun = Instant::now();
        // As a crash is, for others: nothing is released, the port closes.
        drop(leader);
        let claim = leads(&standby).await?;
        gaps.push(begun.elapsed());
        assert_eq!(claim.term, Term(round + 1));
        leader = standby;
    }
    gaps.sort();
    println!("death to open gate, of 20: median {:?}, most {:?}", gaps[10], gaps[19]);
    assert!(gaps[10] < Duration::from_millis(100), "{gaps:?}");
    leader.shutdown(PATIENCE).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_stands_still_closes_the_gate_and_is_survived() -> Result<()> {
    let cluster = ControlPlane::start(Options::default()).await?;
    let namespace = cluster.namespace("lease").await?;
    grant(&cluster, &namespace).await?;
    let (handle, gate) = start(&cluster, &namespace, "windlass-0")?;
    let first = leads(&handle).await?;

    cluster.signal(Server::Apiserver, Signal::STOP)?;
    let begun = Instant::now();
    let mut leading = handle.leading();
    timeout(PATIENCE, leading.wait_for(|now| matches!(now, Leadership::Standby { .. }))).await??;
    assert!(begun.elapsed() < RENEW_DEADLINE + Duration::from_millis(300), "{:?}", begun.elapsed());
    assert_eq!(gate.claim(Boottime.now()), None);

    cluster.signal(Server::Apiserver, Signal::CONT)?;
    let second = leads(&handle).await?;
    assert!(second.term > first.term);
    assert_eq!(second.holder, first.holder, "the same process");
    handle.shutdown(PATIENCE).await?;
    Ok(())
}

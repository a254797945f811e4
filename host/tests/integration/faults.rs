//! What stands between a leader and its API server fails: answers come late, requests are refused, lost or cut off.
//!
//! Three replicas, each behind a port of `faultd`, with durations scaled down to a fifth: D, the lease, 3 s; V, the claim, 2 s;
//! renewals every 400 ms. The judge is the API server's audit log, in which every write carries the claim it was made under.
//!
//! What breaks below the leadership (watches, single requests, servers, kinds) is in the modules beside this file.

mod credentials;
mod kinds;
mod requests;
mod rights;
mod servers;
mod stand;
mod streams;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::json;
use windlass_testbed::faultd::{Action, Active, Faultd, Port, Reply, Rule, Verb, Way};
use windlass_testbed::{AuditEvent, Mark};

use crate::scene::{HOST, HOST_USER, PATIENCE, Scene, count};

/// V: how long a leader writes after the last renewal that was answered was sent.
const CLAIM: Duration = Duration::from_secs(2);
/// D: how long a standby waits after the last change of the Lease that it saw.
const LEASE: Duration = Duration::from_secs(3);
/// How much longer than that a handover by time may take, up to the first write of the successor.
const HANDOVER: Duration = Duration::from_secs(2);
/// What a loaded machine may add between a moment here and its record there.
const SLACK: Duration = Duration::from_millis(500);
/// How many objects the load changes in turn.
const WIDGETS: usize = 8;
/// Between two changes.
const PACE: Duration = Duration::from_millis(25);

/// Replicas behind the proxy; `windlass-<i>` has port `i`.
struct Lab {
    scene: Scene,
    ports: Vec<Port>,
    _faultd: Faultd,
}

/// Somebody's term.
#[derive(Debug, Clone, PartialEq)]
struct Led {
    name: String,
    /// As in the impersonation extra of every write.
    claim: String,
}

impl Lab {
    async fn new(prefix: &str) -> Self {
        let scene = Scene::fresh(prefix).await;
        scene.install_fixture("greeter").await;
        let faultd = Faultd::start(scene.control()).expect("a proxy");
        let token = scene.control().service_account_token(HOST, "windlass").await.expect("a token");
        let mut ports = Vec::new();
        for i in 0..3 {
            let name = format!("windlass-{i}");
            let port = faultd.listen().await.expect("a port");
            let kubeconfig = port.kubeconfig(scene.control(), &name, &token).expect("a kubeconfig");
            scene.keep(scene.replica_with(&name, &kubeconfig, &[]).expect("the host starts")).await;
            ports.push(port);
        }
        scene.ready().await;
        scene.leader().await;
        Self { scene, ports, _faultd: faultd }
    }

    fn port(&self, of: &Led) -> &Port {
        let number: usize = of.name.trim_start_matches("windlass-").parse().expect("replicas are numbered");
        &self.ports[number]
    }

    /// Who the Lease says leads.
    async fn led(&self) -> Option<Led> {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{HOST}/leases/windlass");
        let lease = self.scene.get(&path).await?;
        let holder = lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty())?;
        let term = lease["metadata"]["annotations"]["windlass.dev/term"].as_str()?;
        let name = holder.split('_').next().unwrap_or(holder).to_owned();
        Some(Led { name, claim: format!("{holder}/{term}") })
    }

    /// Waits until the leader writes in its term, and says who it is.
    async fn at_work(&self, mark: Mark) -> Led {
        self.scene
            .until("a leader writes", || async {
                let led = self.led().await?;
                (!self.writes(mark, &led).is_empty()).then_some(led)
            })
            .await
    }

    /// Waits until another replica leads and writes.
    async fn succeeded(&self, mark: Mark, old: &Led) -> Led {
        self.next(mark, "another replica leads and writes", |led| led.name != old.name).await
    }

    /// Waits until somebody, the old leader not excepted, leads and writes in a later term.
    async fn next_term(&self, mark: Mark, old: &Led) -> Led {
        self.next(mark, "a later term is at work", |led| led.claim != old.claim).await
    }

    async fn next(&self, mark: Mark, what: &str, fits: impl Fn(&Led) -> bool) -> Led {
        self.scene
            .until(what, || async {
                let led = self.led().await.filter(&fits)?;
                (!self.writes(mark, &led).is_empty()).then_some(led)
            })
            .await
    }

    /// Waits until the replica itself says that it does not lead, which has to be within V of the beginning of the fault.
    async fn demoted(&self, led: &Led, began: Instant) {
        self.scene
            .until("the old leader says that it leads no more", || async {
                let replicas = self.scene.all().await;
                let replica = replicas.iter().find(|replica| replica.name() == led.name)?;
                let leads = replica.metric("leader_election_master_status").await;
                (leads == Some(0.0)).then_some(())
            })
            .await;
        let after = began.elapsed();
        eprintln!("{} leads no more {after:.2?} after the fault", led.name);
        assert!(after <= CLAIM + SLACK, "it led for {after:?}");
    }

    /// What was written in a term since the mark, whatever came of it.
    fn writes(&self, mark: Mark, led: &Led) -> Vec<AuditEvent> {
        let mut writes = self.scene.writes_since(mark);
        writes.retain(|write| write.extra("windlass.dev/claim") == Some(&led.claim));
        writes
    }

    /// The rules that hold whatever the fault: nothing of the old term is sent once its claim has ended, and nothing of it
    /// is accepted that arrives after the successor's first write was answered.
    fn judge(&self, mark: Mark, old: &Led, new: &Led, fault: Timestamp) {
        let first = self.writes(mark, new).iter().map(answered).min().expect("the successor wrote");
        for write in self.writes(mark, old) {
            let after = received(&write).duration_since(fault);
            assert!(
                after <= (CLAIM + SLACK).try_into().expect("short"),
                "a write of {} arrived {after:#} after the fault: {write:?}",
                old.claim
            );
            assert!(
                received(&write) <= first || !write.succeeded(),
                "{} wrote behind {}: {write:?}",
                old.claim,
                new.claim
            );
        }
    }

    /// Runs a scenario while objects change all the time, past the proxy.
    async fn under_load<T>(&self, scenario: impl Future<Output = T>) -> T {
        let load = async {
            for i in 0_usize.. {
                self.scene.widget(&format!("w{}", i % WIDGETS), json!({"text": format!("text {i}")})).await;
                tokio::time::sleep(PACE).await;
            }
        };
        tokio::select! {
            done = scenario => done,
            () = load => unreachable!("it has no end"),
        }
    }

    /// Nothing was lost, nothing was restarted, and nothing is written any more.
    async fn settles(&self) {
        self.scene
            .until("every child says what its primary wants, and so does its status", || async {
                for i in 0..WIDGETS {
                    let widget = self.scene.own("Widget", &format!("w{i}")).await?;
                    let child = self.scene.own("ConfigMap", &format!("w{i}-greeting")).await?;
                    let wanted = &widget["spec"]["text"];
                    if child["data"]["text"] != *wanted || widget["status"]["greeting"] != *wanted {
                        return None;
                    }
                }
                Some(())
            })
            .await;
        self.scene.silence().await;
        for replica in self.scene.all().await.iter_mut() {
            replica.check_alive().expect("no process restarts");
        }
    }

    async fn transitions(&self) -> u64 {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{HOST}/leases/windlass");
        let lease = self.scene.get(&path).await.expect("the Lease is there");
        lease["spec"]["leaseTransitions"].as_u64().unwrap_or(0)
    }
}

fn received(event: &AuditEvent) -> Timestamp {
    event.request_received_timestamp.parse().expect("a time")
}

fn answered(event: &AuditEvent) -> Timestamp {
    event.stage_timestamp.parse().expect("a time")
}

/// F03: a packet that was sent in one term and arrives in the next.
#[tokio::test]
async fn a_write_that_arrives_after_its_term_changes_nothing() {
    let lab = Lab::new("f03").await;
    for _ in 0..count(2, 50) {
        let mark = lab.scene.mark();
        lab.under_load(async {
            let old = lab.at_work(mark).await;
            let port = lab.port(&old);
            // The load's objects are there by now, so this is a change of a child.
            let hold = Rule::new(Action::Hold(Way::Request)).verb(Verb::Patch).path("-greeting").first(1);
            let held = port.rule(hold);
            held.hit(1, PATIENCE).await.expect("it writes");
            port.cut();
            let new = lab.succeeded(mark, &old).await;
            let first = lab.writes(mark, &new).iter().map(answered).min().expect("the successor wrote");
            // Every object is touched in the new term before the old write arrives.
            lab.scene
                .until("the successor has changed every child", || async {
                    let writes = lab.writes(mark, &new);
                    let changed = |child: &str| {
                        let of_child = |write: &&AuditEvent| {
                            write.object_ref.as_ref().is_some_and(|object| object.name == child)
                        };
                        writes.iter().filter(of_child).any(AuditEvent::succeeded)
                    };
                    (0..WIDGETS).all(|i| changed(&format!("w{i}-greeting"))).then_some(())
                })
                .await;
            held.release();
            held.land(1, PATIENCE).await.expect("it arrives");
            let late = lab
                .scene
                .until("it is on record", || async {
                    let writes = lab.writes(mark, &old);
                    writes.into_iter().find(|write| received(write) > first)
                })
                .await;
            eprintln!("{} came behind {}: {} {}", old.claim, new.claim, late.verb, late.code());
            assert!(matches!(late.code(), 403 | 409), "it was answered {}: {late:?}", late.code());
            held.remove();
            port.heal().await.expect("it heals");
        })
        .await;
        lab.settles().await;
    }
}

/// Renewals of this leader are carried out at once and answered this much later.
fn late(lab: &Lab, led: &Led, by: Duration) -> Active {
    lab.port(led).rule(Rule::new(Action::Delay(Way::Response, by)).verb(Verb::Update).resource("leases"))
}

/// F04.
#[tokio::test]
async fn a_leader_whose_renewals_are_answered_late_stops_as_if_they_were_lost() {
    let lab = Lab::new("f04").await;
    lab.under_load(async {
        let mark = lab.scene.mark();
        let old = lab.at_work(mark).await;
        // Late, but well inside the claim: nothing changes.
        let slow = late(&lab, &old, CLAIM / 4);
        slow.land(4, PATIENCE).await.expect("renewals go on");
        assert_eq!(lab.led().await.as_ref(), Some(&old));
        slow.remove();
        let (fault, began) = (Timestamp::now(), Instant::now());
        let slow = late(&lab, &old, CLAIM * 9 / 10);
        lab.demoted(&old, began).await;
        assert!(slow.landed() >= 1, "the API server has renewed its Lease all the same");
        slow.remove();
        let new = lab.next_term(mark, &old).await;
        lab.judge(mark, &old, &new, fault);
    })
    .await;
    lab.settles().await;
}

/// F04, as long as it lasts.
#[tokio::test]
async fn a_leader_whose_renewals_stay_late_leaves_the_lease_to_another() {
    let lab = Lab::new("f04-other").await;
    lab.under_load(async {
        let mark = lab.scene.mark();
        let old = lab.at_work(mark).await;
        let slow = late(&lab, &old, CLAIM * 9 / 10);
        lab.succeeded(mark, &old).await;
        slow.remove();
    })
    .await;
    lab.settles().await;
}

/// F05.
#[tokio::test]
async fn a_leader_whose_renewals_are_refused_tries_again_and_then_stops() {
    let lab = Lab::new("f05").await;
    lab.under_load(async {
        let mark = lab.scene.mark();
        let old = lab.at_work(mark).await;
        let (fault, began) = (Timestamp::now(), Instant::now());
        let busy = Rule::new(Action::Answer(Way::Request, Reply::status(503))).resource("leases");
        let storm = lab.port(&old).rule(busy);
        lab.demoted(&old, began).await;
        assert!((3..100).contains(&storm.hits()), "{} attempts in {CLAIM:?}", storm.hits());
        let new = lab.succeeded(mark, &old).await;
        storm.remove();
        lab.judge(mark, &old, &new, fault);
    })
    .await;
    lab.settles().await;
}

/// F06.
#[tokio::test]
async fn a_leader_that_is_cut_off_stops_by_its_own_clock_before_another_may_begin() {
    let lab = Lab::new("f06").await;
    for _ in 0..count(1, 5) {
        lab.under_load(async {
            let mark = lab.scene.mark();
            let old = lab.at_work(mark).await;
            let (fault, began) = (Timestamp::now(), Instant::now());
            lab.port(&old).cut();
            lab.demoted(&old, began).await;
            let new = lab.succeeded(mark, &old).await;
            let after = began.elapsed();
            eprintln!("{} writes {after:.2?} after the cut", new.name);
            assert!(after <= LEASE + HANDOVER, "nobody led for {after:?}");
            lab.judge(mark, &old, &new, fault);
            lab.port(&old).heal().await.expect("it heals");
        })
        .await;
        lab.settles().await;
    }
}

/// F07, for single writes: the leader stays, and finds out what became of them.
#[tokio::test]
async fn a_write_whose_answer_is_lost_is_read_back_and_not_made_twice() {
    let lab = Lab::new("f07").await;
    let mark = lab.scene.mark();
    let old = lab.scene.until("a leader", || lab.led()).await;
    let children = format!("/namespaces/{}/configmaps", lab.scene.namespace);
    let lost = Rule::new(Action::Blackhole(Way::Response)).writes().path(children).first(3);
    let lost = lab.port(&old).rule(lost);
    for i in 0..WIDGETS {
        lab.scene.widget(&format!("w{i}"), json!({"text": "once"})).await;
    }
    lab.settles().await;
    assert_eq!((lost.hits(), lost.landed()), (3, 3), "carried out, and never answered");
    assert_eq!(lab.led().await.as_ref(), Some(&old), "single losses cost no leadership");
    let events = lab.scene.control().audit().and_then(|audit| audit.since(mark)).expect("an audit log");
    let mut looked_up = 0;
    for i in 0..WIDGETS {
        let name = format!("w{i}-greeting");
        let ours = |event: &&AuditEvent| {
            event.is_complete()
                && event.user.username == HOST_USER
                && event.object_ref.as_ref().is_some_and(|object| object.name == name)
        };
        let (writes, reads): (Vec<_>, Vec<_>) =
            events.iter().filter(ours).partition(|event| event.is_write());
        let codes: Vec<u16> = writes.iter().map(|event| event.code()).collect();
        assert_eq!(codes, [201], "{name} is written once");
        looked_up += reads.len();
    }
    assert_eq!(looked_up, 3, "each unknown outcome is looked up, and no other");
}

/// F07, for everything: the Lease is renewed and nobody hears of it.
#[tokio::test]
async fn a_leader_that_hears_no_answers_stops_although_its_requests_arrive() {
    let lab = Lab::new("f07-all").await;
    lab.under_load(async {
        let mark = lab.scene.mark();
        let old = lab.at_work(mark).await;
        let (fault, began) = (Timestamp::now(), Instant::now());
        let deaf = lab.port(&old).rule(Rule::new(Action::Blackhole(Way::Response)));
        lab.demoted(&old, began).await;
        assert!(deaf.landed() >= 1, "its requests arrive");
        let new = lab.succeeded(mark, &old).await;
        deaf.remove();
        lab.judge(mark, &old, &new, fault);
    })
    .await;
    lab.settles().await;
}

/// F08.
#[tokio::test]
async fn a_leader_that_comes_and_goes_is_not_replaced_each_time() {
    let lab = Lab::new("f08").await;
    lab.under_load(async {
        let mark = lab.scene.mark();
        let led = lab.at_work(mark).await;
        let before = lab.transitions().await;
        for _ in 0..count(8, 30) {
            lab.port(&led).cut();
            tokio::time::sleep(Duration::from_secs(1)).await;
            lab.port(&led).heal().await.expect("it heals");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let transitions = lab.transitions().await - before;
        eprintln!("F08: {transitions} transitions in {} s of flapping", count(16, 60));
        assert!(transitions <= 1, "{transitions} transitions");
    })
    .await;
    lab.settles().await;
}

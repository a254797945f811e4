//! Drivers with pulses: a death is taken over within milliseconds, and what must not be
//! taken for one is not; terms that come to nothing.

use std::net::TcpListener;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::fake::{Fake, Mood};
use tokio::sync::mpsc;
use tokio::time::timeout;
use windlass_core::claim::{BootClock, Claim, Gate, Term};
use windlass_lease::clock::Boottime;
use windlass_lease::driver::{Config, DriverError, Handle, LeaseDriver};
use windlass_lease::durations::Durations;
use windlass_lease::hook::{AcquireHook, HookError};
use windlass_lease::observe::Observe;
use windlass_lease::pulse::Pulse;
use windlass_lease::step::{Cause, Leadership, StepDown};

const PATIENCE: Duration = Duration::from_secs(20);
const LEASE: Duration = Duration::from_secs(3);

fn config(identity: &str) -> Config {
    let ms = Duration::from_millis;
    let durations = Durations::try_new(LEASE, ms(2_000), ms(200)).unwrap();
    Config { pulse: Some(pulse()), ..Config::new("ns", "windlass", identity.into(), durations) }
}

fn pulse() -> Pulse {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let advertise = listener.local_addr().unwrap();
    Pulse { listener, advertise }
}

fn start(fake: &Arc<Fake>, config: Config) -> (Handle, Arc<Gate>) {
    let (gate, fake) = (Gate::new(), fake.clone());
    let connect = Box::new(move || Ok(fake.client()));
    (LeaseDriver::start_with(config, connect, Arc::new(Boottime), gate.clone()).unwrap(), gate)
}

async fn leads(handle: &Handle) -> Claim {
    leads_after(handle, Term(0)).await
}

/// Leads in a term above `before`.
async fn leads_after(handle: &Handle, before: Term) -> Claim {
    let mut leading = handle.leading();
    let newer = |now: &Leadership| matches!(now, Leadership::Leading(claim) if claim.term > before);
    let led = timeout(PATIENCE, leading.wait_for(newer)).await;
    match &*led.expect("it leads in time").expect("it lives") {
        Leadership::Leading(claim) => claim.clone(),
        Leadership::Standby { .. } => unreachable!("waited for"),
    }
}

/// Waits until the status says so: there is no event for this.
async fn listens(handle: &Handle) {
    let verified = async {
        while handle.status().pulse.peer_state != "verified" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, verified).await.unwrap();
}

#[derive(Default)]
struct Seen(Mutex<Vec<String>>);

impl Observe for Seen {
    fn renewed(&self, took: Duration) {
        assert!(took < PATIENCE);
        self.note("renewed");
    }

    fn acquired(&self, cause: Cause, waited: Duration) {
        assert!(waited < LEASE * 2, "{waited:?}");
        self.note(cause.as_str());
    }

    fn stepped_down(&self, reason: &StepDown) {
        self.note(reason.as_str());
    }
}

impl Seen {
    fn note(&self, what: &str) {
        let mut notes = self.0.lock().unwrap();
        if notes.last().is_none_or(|last| last != what) {
            notes.push(what.to_owned());
        }
    }
}

#[tokio::test]
async fn a_death_is_taken_over_within_100_ms() {
    let fake = Fake::new();
    let (mut leader, _) = start(&fake, config("p_0"));
    let mut term = leads(&leader).await.term;
    let mut gaps = Vec::new();
    for round in 1..=10 {
        let (standby, _) = start(&fake, config(&format!("p_{round}")));
        listens(&standby).await;
        let begun = Instant::now();
        // As a crash is: nothing is released, the port closes.
        drop(leader);
        let claim = leads(&standby).await;
        gaps.push(begun.elapsed());
        assert_eq!(claim.term, Term(term.0 + 1));
        let status = standby.status();
        assert_eq!(status.last_acquired, Some("died"));
        let evidence = status.pulse.last_evidence.unwrap();
        assert_eq!(evidence, format!("p_{}: connection refused", round - 1));
        (leader, term) = (standby, claim.term);
    }
    gaps.sort();
    println!("death to leading: median {:?}, most {:?}", gaps[5], gaps[9]);
    assert!(gaps[5] < Duration::from_millis(100), "{gaps:?}");
    leader.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn of_two_standbys_one_takes_over_and_the_other_stands_by() {
    let fake = Fake::new();
    let (leader, _) = start(&fake, config("p_0"));
    leads(&leader).await;
    let (first, first_gate) = start(&fake, config("p_1"));
    let (second, second_gate) = start(&fake, config("p_2"));
    listens(&first).await;
    listens(&second).await;
    let before = *fake.writes().borrow();
    let begun = Instant::now();
    drop(leader);
    let (one, claim) = tokio::select! {
        claim = leads(&first) => (true, claim),
        claim = leads(&second) => (false, claim),
    };
    assert!(begun.elapsed() < LEASE / 3, "{:?}", begun.elapsed());
    let (winner, loser, loser_gate) =
        if one { (&first, &second, &second_gate) } else { (&second, &first, &first_gate) };
    // It may listen to the dead one still: the end that counts is that it knows the winner.
    let knows = |now: &Leadership| *now == Leadership::Standby { holder: Some(claim.holder.clone()) };
    timeout(PATIENCE, loser.leading().wait_for(knows)).await.unwrap().unwrap();
    listens(loser).await;
    assert_eq!(loser_gate.claim(Boottime.now()), None);
    assert_eq!(*fake.writes().borrow() - before, 1, "one write was accepted, no thrash");
    winner.shutdown(PATIENCE).await.unwrap();
    assert_eq!(leads(loser).await.term, Term(3));
    loser.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn who_does_not_want_evidence_waits_for_the_lease() {
    let fake = Fake::new();
    let (leader, _) = start(&fake, config("p_0"));
    leads(&leader).await;
    let (standby, _) = start(&fake, Config { death_evidence: false, ..config("p_1") });
    let knows = |now: &Leadership| *now == Leadership::Standby { holder: Some("p_0".into()) };
    timeout(PATIENCE, standby.leading().wait_for(knows)).await.unwrap().unwrap();
    let begun = Instant::now();
    drop(leader);
    leads(&standby).await;
    assert!(begun.elapsed() > LEASE / 2, "{:?}", begun.elapsed());
    let status = standby.status();
    assert_eq!((status.pulse.peer_state, status.last_acquired), ("none", Some("expired")));
    assert!(status.pulse.address.is_some(), "its own pulse is there for others");
    standby.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_leader_without_a_pulse_is_waited_for() {
    let fake = Fake::new();
    let (leader, _) = start(&fake, Config { pulse: None, ..config("p_0") });
    leads(&leader).await;
    assert_eq!(
        fake.lease().unwrap()["metadata"]["annotations"]["windlass.dev/pulse"],
        serde_json::Value::Null
    );
    let (standby, _) = start(&fake, config("p_1"));
    let knows = |now: &Leadership| *now == Leadership::Standby { holder: Some("p_0".into()) };
    timeout(PATIENCE, standby.leading().wait_for(knows)).await.unwrap().unwrap();
    let begun = Instant::now();
    drop(leader);
    leads(&standby).await;
    assert!(begun.elapsed() > LEASE / 2, "{:?}", begun.elapsed());
    standby.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_release_removes_the_pulse_and_a_new_leader_is_listened_to() {
    let fake = Fake::new();
    let (first, _) = start(&fake, config("p_0"));
    leads(&first).await;
    let annotations = fake.lease().unwrap()["metadata"]["annotations"].clone();
    let address = first.status().pulse.address.unwrap();
    assert_eq!(annotations["windlass.dev/pulse"], format!("{address}/0"));
    let (second, _) = start(&fake, config("p_1"));
    let (third, _) = start(&fake, Config { leader_elect: true, ..config("p_2") });
    listens(&second).await;
    listens(&third).await;
    let removed = Arc::new(Mutex::new(false));
    let noted = removed.clone();
    fake.witness(move |lease| {
        if lease["spec"]["holderIdentity"] == "" {
            *noted.lock().unwrap() = lease["metadata"]["annotations"]["windlass.dev/pulse"].is_null();
        }
    });
    first.shutdown(PATIENCE).await.unwrap();
    assert!(*removed.lock().unwrap());
    let follower = tokio::select! {
        _ = leads(&second) => &third,
        _ = leads(&third) => &second,
    };
    let followed = async {
        while follower.status().pulse.peer.is_none_or(|peer| peer.starts_with(&address)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        listens(follower).await;
    };
    timeout(PATIENCE, followed).await.unwrap();
}

#[tokio::test]
async fn an_outage_of_the_api_server_is_no_death() {
    let fake = Fake::new();
    let (leader, gate) = start(&fake, config("p_0"));
    leads(&leader).await;
    let (standby, standby_gate) = start(&fake, config("p_1"));
    listens(&standby).await;
    fake.mood(Mood::Failing);
    let stands_by = |now: &Leadership| matches!(now, Leadership::Standby { .. });
    timeout(PATIENCE, leader.leading().wait_for(stands_by)).await.unwrap().unwrap();
    assert_eq!((gate.claim(Boottime.now()), standby_gate.claim(Boottime.now())), (None, None));
    assert_eq!(standby.status().pulse.peer_state, "verified");
    assert_eq!(standby.status().pulse.last_evidence, None);
}

#[tokio::test]
async fn a_refused_term_is_given_up_for_a_new_one() {
    let (fake, seen) = (Fake::new(), Arc::new(Seen::default()));
    let (refuse, refused) = mpsc::channel(1);
    let config = Config { refused: Some(refused), observe: Some(seen.clone()), ..config("p_0") };
    let (leader, _) = start(&fake, config);
    let mut term = leads(&leader).await.term;
    for _ in 0..3 {
        refuse.send(term).await.unwrap();
        term = leads_after(&leader, term).await.term;
    }
    assert_eq!(term, Term(4));
    let status = leader.status();
    assert_eq!(status.step_downs.get("fenced"), Some(&3));
    assert!(status.last_step_down.unwrap().contains("the claim is not the current one"));
    leader.shutdown(PATIENCE).await.unwrap();
    let mut notes = seen.0.lock().unwrap().clone();
    notes.retain(|note| note != "renewed");
    assert_eq!(notes, ["first", "fenced", "own", "fenced", "own", "fenced", "own", "shutdown"]);
}

/// Fails for ever.
struct Hopeless;

impl AcquireHook for Hopeless {
    fn acquired<'a>(
        &'a self,
        _: &'a kube::Client,
        _: &'a Claim,
    ) -> Pin<Box<dyn Future<Output = Result<(), HookError>> + Send + 'a>> {
        Box::pin(async { Err(HookError::Failed("no".to_owned())) })
    }
}

#[tokio::test]
async fn who_cannot_prepare_its_claim_lets_another_one_lead() {
    let fake = Fake::new();
    let (hopeless, _) = start(&fake, Config { hook: Some(Arc::new(Hopeless)), ..config("p_0") });
    let mut writes = fake.writes();
    timeout(PATIENCE, writes.wait_for(|writes| *writes >= 1)).await.unwrap().unwrap();
    let (other, _) = start(&fake, config("p_1"));
    let claim = leads(&other).await;
    assert_eq!((&*claim.holder, claim.term), ("p_1", Term(2)));
    assert_eq!(hopeless.status().step_downs.get("unprepared"), Some(&1));
    assert_eq!(other.status().last_acquired, Some("released"));
    other.shutdown(PATIENCE).await.unwrap();
}

/// Two processes that have one name: one leads, the other leaves it alone.
#[tokio::test]
async fn a_second_process_of_the_same_identity_is_noticed() {
    let fake = Fake::new();
    let (first, first_gate) = start(&fake, config("p_0"));
    leads(&first).await;
    let (second, second_gate) = start(&fake, config("p_0"));
    let noticed = async {
        loop {
            let downs = |handle: &Handle| handle.status().step_downs;
            let seen = |handle: &Handle| {
                downs(handle).contains_key("impostor") || downs(handle).contains_key("taken")
            };
            if seen(&first) || seen(&second) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, noticed).await.unwrap();
    let now = Boottime.now();
    assert!(first_gate.claim(now).is_none() || second_gate.claim(now).is_none());
    // When one has gone the other goes on.
    drop(second);
    leads(&first).await;
    first.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn the_pulse_outlives_the_lease_and_ends_with_the_handle() {
    let fake = Fake::new();
    let (handle, _) = start(&fake, config("p_0"));
    leads(&handle).await;
    let address = handle.status().pulse.address.unwrap();
    handle.shutdown(PATIENCE).await.unwrap();
    assert!(std::net::TcpStream::connect(&address).is_ok(), "the process still lives");
    drop(handle);
    let gone = std::net::TcpStream::connect(&address).unwrap_err();
    assert_eq!(gone.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn an_abandoned_driver_closes_its_gate_before_its_pulse() {
    let fake = Fake::new();
    let (leader, gate) = start(&fake, config("p_0"));
    leads(&leader).await;
    let (standby, _) = start(&fake, config("p_1"));
    listens(&standby).await;
    let ended = leader.ended();
    drop(leader);
    assert_eq!(gate.claim(Boottime.now()), None);
    assert_eq!(ended.await, Err(DriverError::Abandoned));
    leads(&standby).await;
}

//! What the driver does with its Lease: leads, renews, releases, survives.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::fake::{Fake, Mood};
use serde_json::json;
use tokio::time::timeout;
use windlass_core::claim::{BootClock, Claim, Gate, Term};
use windlass_lease::clock::Boottime;
use windlass_lease::driver::{Config, DriverError, Handle, LeaseDriver};
use windlass_lease::durations::Durations;
use windlass_lease::hook::{AcquireHook, HookError};
use windlass_lease::step::Leadership;

const PATIENCE: Duration = Duration::from_secs(20);
const LEASE: Duration = Duration::from_secs(1);

fn config(identity: &str) -> Config {
    let ms = Duration::from_millis;
    let durations = Durations::try_new(LEASE, ms(700), ms(100)).unwrap();
    Config::new("ns", "windlass", identity.into(), durations)
}

fn start(fake: &Arc<Fake>, config: Config) -> (Handle, Arc<Gate>) {
    let (gate, fake) = (Gate::new(), fake.clone());
    let handle = LeaseDriver::start_with(
        config,
        Box::new(move || Ok(fake.client())),
        Arc::new(Boottime),
        gate.clone(),
    );
    (handle.unwrap(), gate)
}

async fn leads(handle: &Handle) -> Claim {
    let mut leading = handle.leading();
    let led = timeout(PATIENCE, leading.wait_for(|now| matches!(now, Leadership::Leading(_)))).await;
    match &*led.expect("it leads in time").expect("it lives") {
        Leadership::Leading(claim) => claim.clone(),
        Leadership::Standby { .. } => unreachable!("waited for"),
    }
}

async fn stands_by(handle: &Handle) {
    let mut leading = handle.leading();
    let led = timeout(PATIENCE, leading.wait_for(|now| matches!(now, Leadership::Standby { .. }))).await;
    led.expect("it stops in time").expect("it lives");
}

#[tokio::test]
async fn one_replica_leads_renews_and_releases() {
    let fake = Fake::new();
    let (handle, gate) = start(&fake, config("a"));
    let claim = leads(&handle).await;
    assert_eq!((&*claim.holder, claim.term), ("a", Term(1)));
    let mut writes = fake.writes();
    timeout(PATIENCE, writes.wait_for(|writes| *writes >= 4)).await.unwrap().unwrap();
    assert!(gate.claim(Boottime.now()).unwrap().ends > claim.ends, "renewals move the end");
    let status = handle.status();
    assert!(status.leading && status.renew_age_ms < Some(700), "{status:?}");
    handle.shutdown(PATIENCE).await.unwrap();
    assert_eq!(gate.claim(Boottime.now()), None);
    let lease = fake.lease().unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 1);
    assert_eq!(lease["metadata"]["annotations"]["windlass.dev/term"], "1");
    assert_eq!(handle.ended().await, Ok(()));
    assert_eq!(handle.status().step_downs.get("shutdown"), Some(&1));
}

#[tokio::test]
async fn a_release_follows_the_last_write() {
    let fake = Fake::new();
    let (handle, gate) = start(&fake, config("a"));
    let claim = leads(&handle).await;
    let permit = gate.permit(&claim, Boottime.now(), LEASE, Duration::ZERO).unwrap();
    let (seen, gate_seen) = (Arc::new(AtomicUsize::new(usize::MAX)), gate.clone());
    let at_release = seen.clone();
    fake.witness(move |lease| {
        if lease["spec"]["holderIdentity"] == "" {
            at_release.store(gate_seen.in_flight(), Ordering::SeqCst);
        }
    });
    let mut leading = handle.leading();
    let write_ends = async {
        leading.wait_for(|now| matches!(now, Leadership::Standby { .. })).await.unwrap();
        assert_eq!(seen.load(Ordering::SeqCst), usize::MAX, "not released yet");
        drop(permit);
    };
    let (released, ()) = tokio::join!(handle.shutdown(PATIENCE), write_ends);
    released.unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_release_is_taken_over_within_200_ms() {
    let fake = Fake::new();
    let (first, _) = start(&fake, config("a"));
    leads(&first).await;
    let (second, _) = start(&fake, config("b"));
    let mut standing = second.leading();
    let knows = |now: &Leadership| *now == Leadership::Standby { holder: Some("a".into()) };
    timeout(PATIENCE, standing.wait_for(knows)).await.unwrap().unwrap();
    let begun = Instant::now();
    first.shutdown(PATIENCE).await.unwrap();
    let claim = leads(&second).await;
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
    assert_eq!(claim.term, Term(2));
    second.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_crash_is_taken_over_when_the_lease_has_expired() {
    let fake = Fake::new();
    let (first, first_gate) = start(&fake, config("a"));
    leads(&first).await;
    let (second, _) = start(&fake, config("b"));
    let ended = first.ended();
    let begun = Instant::now();
    drop(first);
    assert_eq!(first_gate.claim(Boottime.now()), None, "closed with the handle");
    assert_eq!(ended.await, Err(DriverError::Abandoned));
    assert_eq!(fake.lease().unwrap()["spec"]["holderIdentity"], "a", "not released");
    assert_eq!(leads(&second).await.term, Term(2));
    let took = begun.elapsed();
    assert!(took >= LEASE - Duration::from_millis(100) && took < LEASE * 2, "{took:?}");
    second.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn an_api_outage_closes_the_gate_in_time_and_is_survived() {
    for mood in [Mood::Silent, Mood::Mute, Mood::Failing] {
        let fake = Fake::new();
        let (handle, gate) = start(&fake, config("a"));
        let first = leads(&handle).await;
        fake.mood(mood);
        stands_by(&handle).await;
        assert_eq!(gate.claim(Boottime.now()), None);
        fake.mood(Mood::Healthy);
        let second = leads(&handle).await;
        assert!(second.term > first.term, "{mood:?}");
        assert_eq!(handle.status().step_downs.get("expired"), Some(&1), "{mood:?}");
        assert!(handle.status().last_error.is_some(), "{mood:?}");
        handle.shutdown(PATIENCE).await.unwrap();
    }
}

#[tokio::test]
async fn a_deleted_lease_comes_back_in_a_new_term() {
    let fake = Fake::new();
    let (handle, _) = start(&fake, config("a"));
    leads(&handle).await;
    fake.delete();
    let mut leading = handle.leading();
    let newer = |now: &Leadership| matches!(now, Leadership::Leading(claim) if claim.term == Term(2));
    timeout(PATIENCE, leading.wait_for(newer)).await.unwrap().unwrap();
    assert_eq!(handle.status().step_downs.get("deleted"), Some(&1));
    handle.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn another_name_in_the_lease_is_obeyed() {
    let fake = Fake::new();
    let (handle, gate) = start(&fake, config("a"));
    leads(&handle).await;
    fake.edit(json!({ "holderIdentity": "other", "leaseDurationSeconds": 1 }));
    stands_by(&handle).await;
    assert_eq!(gate.claim(Boottime.now()), None);
    // Nobody renews that one, so it is taken back.
    leads(&handle).await;
    handle.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_shutdown_that_cannot_release_ends_at_its_deadline() {
    let fake = Fake::new();
    let (handle, gate) = start(&fake, config("a"));
    leads(&handle).await;
    fake.mood(Mood::Silent);
    let begun = Instant::now();
    assert_eq!(handle.shutdown(Duration::from_millis(300)).await, Err(DriverError::OutOfTime));
    assert!(begun.elapsed() < Duration::from_millis(800), "{:?}", begun.elapsed());
    assert_eq!(gate.claim(Boottime.now()), None);
}

#[tokio::test]
async fn without_election_a_living_holder_ends_the_driver() {
    let fake = Fake::new();
    let (first, _) = start(&fake, config("a"));
    leads(&first).await;
    let (second, _) = start(&fake, Config { leader_elect: false, ..config("b") });
    let ended = timeout(PATIENCE, second.ended()).await.unwrap();
    assert!(matches!(ended, Err(DriverError::HeldByAnother(held)) if &*held.holder == "a"));
    first.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn without_election_a_free_lease_is_held_and_renewed() {
    let fake = Fake::new();
    let (handle, _) = start(&fake, Config { leader_elect: false, ..config("a") });
    leads(&handle).await;
    let mut writes = fake.writes();
    timeout(PATIENCE, writes.wait_for(|writes| *writes >= 3)).await.unwrap().unwrap();
    handle.shutdown(PATIENCE).await.unwrap();
}

/// Fails twice, then says that its number is used, then is content. Looks at the gate.
struct Reluctant {
    gate: Arc<Gate>,
    calls: AtomicUsize,
}

impl AcquireHook for Reluctant {
    fn acquired<'a>(
        &'a self,
        _: &'a kube::Client,
        claim: &'a Claim,
    ) -> Pin<Box<dyn Future<Output = Result<(), HookError>> + Send + 'a>> {
        Box::pin(async move {
            assert_eq!(self.gate.claim(Boottime.now()), None, "the gate is still closed");
            match self.calls.fetch_add(1, Ordering::SeqCst) {
                0 | 1 => Err(HookError::Failed("not yet".to_owned())),
                2 => Err(HookError::Used(Term(claim.term.0 + 3))),
                _ => Ok(()),
            }
        })
    }
}

#[tokio::test]
async fn the_gate_opens_after_the_claim_was_prepared() {
    let (fake, gate) = (Fake::new(), Gate::new());
    let hook = Arc::new(Reluctant { gate: gate.clone(), calls: AtomicUsize::new(0) });
    let (shared, client) = (gate.clone(), fake.clone());
    let config = Config { hook: Some(hook), ..config("a") };
    let handle =
        LeaseDriver::start_with(config, Box::new(move || Ok(client.client())), Arc::new(Boottime), shared)
            .unwrap();
    assert_eq!(leads(&handle).await.term, Term(5));
    assert_eq!(fake.lease().unwrap()["metadata"]["annotations"]["windlass.dev/term"], "5");
    handle.shutdown(PATIENCE).await.unwrap();
}

struct Panics;

impl AcquireHook for Panics {
    fn acquired<'a>(
        &'a self,
        _: &'a kube::Client,
        _: &'a Claim,
    ) -> Pin<Box<dyn Future<Output = Result<(), HookError>> + Send + 'a>> {
        Box::pin(async { panic!("of the hook") })
    }
}

#[tokio::test]
async fn a_panic_in_the_thread_is_told() {
    let fake = Fake::new();
    let (handle, gate) = start(&fake, Config { hook: Some(Arc::new(Panics)), ..config("a") });
    assert_eq!(
        timeout(PATIENCE, handle.ended()).await.unwrap(),
        Err(DriverError::Panicked("of the hook".to_owned()))
    );
    assert_eq!(gate.claim(Boottime.now()), None);
    assert_eq!(handle.shutdown(PATIENCE).await, Err(DriverError::Panicked("of the hook".to_owned())));
}

#[tokio::test]
async fn a_client_that_cannot_be_made_is_told() {
    let connect = Box::new(|| Err(kube::Error::LinesCodecMaxLineLengthExceeded));
    let handle = LeaseDriver::start_with(config("a"), connect, Arc::new(Boottime), Gate::new()).unwrap();
    assert!(matches!(timeout(PATIENCE, handle.ended()).await.unwrap(), Err(DriverError::Client(_))));
}

#[tokio::test]
async fn an_api_server_that_answers_again_after_it_did_not_is_told_of_and_a_refusal_is_an_answer() {
    let fake = Fake::new();
    let (handle, _gate) = start(&fake, config("a"));
    leads(&handle).await;
    let mut contacts = handle.contacts();
    let mut writes = fake.writes();
    assert_eq!(*contacts.borrow_and_update(), 0);
    // 500 is an answer: nobody has to doubt a connection.
    fake.mood(Mood::Failing);
    stands_by(&handle).await;
    fake.mood(Mood::Healthy);
    leads(&handle).await;
    let before = *writes.borrow_and_update();
    timeout(PATIENCE, writes.wait_for(|writes| *writes > before + 2)).await.unwrap().unwrap();
    assert_eq!(*contacts.borrow(), 0);
    fake.mood(Mood::Silent);
    stands_by(&handle).await;
    assert_eq!(*contacts.borrow(), 0, "not before it answers");
    fake.mood(Mood::Healthy);
    timeout(PATIENCE, contacts.wait_for(|times| *times == 1)).await.expect("in time").expect("it lives");
    handle.shutdown(PATIENCE).await.unwrap();
}

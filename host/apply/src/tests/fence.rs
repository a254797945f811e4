//! What the writer makes of the fence's words: "not seen yet" while a term is young, the
//! loss of leadership after that.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;
use windlass_core::claim::{BootTime, Claim};
use windlass_core::class::Class;
use windlass_core::name::PluginName;
use windlass_core::plan::Step;

use super::{class_of, failure, run, status, update};
use crate::fake::{Api, Say, child, claim, primary, stored};
use crate::writer::{FENCE_SETTLES, Observe, Verb, Writer, lock};

const REFUSED: &str = "configmaps \"a-cfg\" is forbidden: ValidatingAdmissionPolicy 'windlass-fence' with binding \
                       'windlass-fence' denied request: fenced: host-0/3 is not the current claim";

/// What the writer told.
#[derive(Default)]
struct Told {
    fenced: Mutex<Vec<Claim>>,
    unseen: Mutex<u32>,
    wrote: Mutex<Vec<Result<(), Class>>>,
}

impl Observe for Told {
    fn wrote(&self, _: Option<&PluginName>, _: Verb, result: Result<(), Class>, _: Duration) {
        lock(&self.wrote).push(result);
    }

    fn fenced(&self, claim: &Claim) {
        lock(&self.fenced).push(claim.clone());
    }

    fn fence_unseen(&self, _: &Claim) {
        *lock(&self.unseen) += 1;
    }
}

fn observed(api: &Api) -> (Writer, Arc<Told>) {
    let told = Arc::new(Told::default());
    (api.writer().observed(told.clone()), told)
}

async fn execute(writer: &Writer, steps: &[Step]) -> windlass_core::ports::Applied {
    let digest = windlass_core::name::Digest::of(b"x");
    writer.run(&crate::fake::key(), &digest, &primary(), steps, &claim()).await
}

#[tokio::test(start_paused = true)]
async fn a_refusal_in_a_settled_term_is_the_loss_of_leadership_and_is_told() {
    let api = Api::new();
    api.clock.set(FENCE_SETTLES);
    api.answer(StatusCode::FORBIDDEN, failure(403, REFUSED));
    let (writer, told) = observed(&api);
    let applied = execute(&writer, &[update(), status()]).await;
    assert_eq!(class_of(&applied), Some(Class::Fatal));
    assert_eq!(api.requests().len(), 1, "neither again nor the next step");
    assert_eq!(*lock(&told.fenced), [claim()]);
    assert_eq!(*lock(&told.unseen), 0);
    assert_eq!(api.gate.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_in_a_young_term_is_sent_again_until_the_claim_is_seen() {
    let api = Api::new();
    for _ in 0..3 {
        api.answer(StatusCode::FORBIDDEN, failure(403, REFUSED));
    }
    api.answer(StatusCode::OK, stored(&child(), "43"));
    let (writer, told) = observed(&api);
    let began = Instant::now();
    let applied = execute(&writer, &[update()]).await;
    assert!(applied.result.is_ok(), "{:?}", applied.result);
    assert_eq!(began.elapsed(), Duration::from_millis(1 + 2 + 4));
    let requests = api.requests();
    assert_eq!(requests.len(), 4);
    assert!(requests.iter().all(|r| r.body == requests[0].body && r.path == requests[0].path));
    assert!(requests.iter().all(|r| r.in_flight == 1), "each under one permit");
    assert_eq!((lock(&told.fenced).len(), *lock(&told.unseen)), (0, 3));
    assert_eq!(*lock(&told.wrote), [Ok(())], "it counts as one write");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_never_seen_is_given_up_when_the_term_is_settled() {
    let api = Api::new();
    api.always(StatusCode::FORBIDDEN, failure(403, REFUSED));
    let (clock, began) = (api.clock.clone(), Instant::now());
    api.hook(move |_| clock.set(began.elapsed()));
    let (writer, told) = observed(&api);
    // The clock is set when a request arrives, so a permit sees the one before it.
    let applied = execute(&writer, &[update()]).await;
    assert_eq!(class_of(&applied), Some(Class::Fatal));
    assert!(
        began.elapsed() >= FENCE_SETTLES && began.elapsed() <= FENCE_SETTLES * 6 / 5,
        "{:?}",
        began.elapsed()
    );
    let requests = api.requests().len();
    assert!((20..40).contains(&requests), "{requests} requests, at most one each 50 ms in the end");
    assert_eq!(lock(&told.fenced).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_lost_meanwhile_never_reaches_the_wire_again() {
    let api = Api::new();
    api.always(StatusCode::FORBIDDEN, failure(403, REFUSED));
    let gate = api.gate.clone();
    api.hook(move |number| {
        if number == 2 {
            gate.close();
        }
    });
    let (writer, told) = observed(&api);
    let applied = execute(&writer, &[update(), status()]).await;
    assert_eq!(class_of(&applied), Some(Class::Fatal));
    assert_eq!(api.requests().len(), 3);
    assert_eq!(lock(&told.fenced).len(), 0, "the election knows already");
    api.gate.open(claim(), BootTime(0));
    api.clock.set(Duration::from_secs(10));
    let applied = execute(&writer, &[update()]).await;
    assert_eq!(class_of(&applied), Some(Class::Fatal));
    assert_eq!(api.requests().len(), 3, "the claim has ended");
}

#[tokio::test(start_paused = true)]
async fn only_the_fences_words_about_our_own_claim_are_waited_out() {
    for said in [
        REFUSED.replace("host-0/3", "host-0/2"),
        REFUSED.replace("ValidatingAdmissionPolicy", "admission webhook"),
        REFUSED.replace("fenced", "reserved"),
    ] {
        let api = Api::new();
        api.answer(StatusCode::FORBIDDEN, failure(403, &said));
        let applied = run(&api, &[update()]).await;
        assert_eq!(class_of(&applied), Some(Class::Permanent), "{said}");
        assert_eq!(api.requests().len(), 1);
    }
    let api = Api::new();
    api.answer(StatusCode::FORBIDDEN, failure(403, REFUSED));
    api.say(Say::Refuse);
    assert_eq!(
        class_of(&run(&api, &[update()]).await),
        Some(Class::Transient),
        "the second attempt's own end"
    );
}

//! Many writes: at once where order does not matter, never against the API server's word, never
//! after the claim is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use windlass_core::ports::Apply as _;

use super::*;

fn named(name: &str) -> Step {
    let Step::Create { kind, mut object, mut body, wanted } = create() else { unreachable!("a create") };
    object.name = name.into();
    body["metadata"]["name"] = name.into();
    Step::Create { kind, object, body, wanted }
}

fn creates(count: usize) -> Vec<Step> {
    (0..count).map(|i| named(&format!("c{i}"))).collect()
}

#[tokio::test(start_paused = true)]
async fn children_that_are_made_are_on_the_wire_at_once() {
    let api = Api::new();
    api.echo(Duration::from_millis(10));
    let began = tokio::time::Instant::now();
    let applied = run(&api, &creates(5)).await;
    assert_eq!(applied.result, Ok(()));
    assert_eq!(began.elapsed(), Duration::from_millis(10), "one round trip for five writes");
    let names: Vec<_> = applied.writes.iter().map(|write| &*write.object.name).collect();
    assert_eq!(names, ["c0", "c1", "c2", "c3", "c4"], "told in the plan's order");
    assert!(api.requests().iter().all(|request| request.in_flight == 5));
}

#[tokio::test(start_paused = true)]
async fn a_status_is_left_to_the_pass_that_sees_the_children_but_not_twice_in_a_row() {
    let api = Api::new();
    api.echo(Duration::from_millis(10));
    let writer = api.writer();
    let written = async |steps: &[Step]| {
        let applied = writer.run(&key(), &Digest::of(b"x"), &primary(), steps, &claim()).await;
        assert_eq!(applied.result, Ok(()));
        applied.writes.iter().map(|write| write.object.name.to_string()).collect::<Vec<_>>()
    };
    let makes = |name: &str| [named(name), status()];
    assert_eq!(written(&makes("c0")).await, ["c0"], "it was decided before c0 was there");
    assert_eq!(
        written(&makes("c1")).await,
        ["c1", "a"],
        "a plugin that makes one after the other says so too"
    );
    assert_eq!(written(&makes("c2")).await, ["c2"]);
    assert_eq!(written(&[status()]).await, ["a"]);
    assert_eq!(written(&[update(), status()]).await, ["a-cfg", "a"], "a change is not waited for");
    let on_the_wire: Vec<_> = api.requests().iter().map(|request| request.in_flight).collect();
    assert!(on_the_wire.iter().all(|in_flight| *in_flight == 1), "the status comes after the children");
}

#[tokio::test(start_paused = true)]
async fn changes_keep_their_order() {
    let api = Api::new();
    api.echo(Duration::from_millis(10));
    let began = tokio::time::Instant::now();
    let applied = run(&api, &[update(), update(), named("c0"), update(), delete(), delete()]).await;
    assert_eq!(applied.result, Ok(()));
    assert_eq!(began.elapsed(), Duration::from_millis(50), "only the two deletes go together");
}

#[tokio::test(start_paused = true)]
async fn one_plan_has_a_bound_on_what_it_makes_at_once() {
    let api = Api::new();
    api.echo(Duration::from_millis(10));
    let applied = run(&api, &creates(20)).await;
    assert_eq!(applied.writes.len(), 20);
    let most = api.requests().iter().map(|request| request.in_flight).max();
    assert_eq!(most, Some(8));
}

#[tokio::test(start_paused = true)]
async fn a_claim_lost_while_siblings_are_on_the_wire_lets_no_other_follow() {
    let api = Api::new();
    api.echo(Duration::from_millis(10));
    let (gate, sent) = (api.gate.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = sent.clone();
    api.hook(move |number| {
        counted.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            gate.close();
        }
    });
    let mut steps = creates(20);
    steps.push(status());
    let applied = run(&api, &steps).await;
    assert_eq!(class_of(&applied), Some(Class::Fatal));
    assert_eq!(sent.load(Ordering::Relaxed), 8, "those that had a permit, and not one more");
    assert_eq!(applied.writes.len(), 8, "what was on the wire is told");
    assert_eq!(api.gate.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_bad_child_does_not_stop_its_siblings_and_an_overload_does() {
    let api = Api::new();
    api.answer(StatusCode::UNPROCESSABLE_ENTITY, failure(422, "bad"));
    api.echo(Duration::ZERO);
    let mut steps = creates(3);
    steps.push(status());
    let applied = run(&api, &steps).await;
    assert_eq!(
        (class_of(&applied), applied.writes.len()),
        (Some(Class::Permanent), 3),
        "the status can say so"
    );

    let api = Api::new();
    api.say(Say::Reply(StatusCode::SERVICE_UNAVAILABLE, Vec::new(), b"{}".to_vec()));
    api.echo(Duration::from_millis(10));
    let mut steps = creates(20);
    steps.push(status());
    let applied = run(&api, &steps).await;
    assert_eq!(class_of(&applied), Some(Class::Transient));
    assert_eq!(api.requests().len(), 8, "what was on the wire with it, and nothing after");
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_for_every_key_of_the_plugin_and_for_nobody_else() {
    let api = Api::new();
    let writer = Arc::new(api.writer());
    api.say(Say::Reply(StatusCode::TOO_MANY_REQUESTS, vec![("retry-after", "7".to_owned())], b"{}".to_vec()));
    api.echo(Duration::from_millis(10));
    let digest = Digest::of(b"x");
    let other = windlass_core::key::Key::new(
        windlass_core::name::PluginName::try_new("other").expect("valid"),
        "ns",
        "a",
    );
    let run = async |key: &windlass_core::key::Key| {
        writer.run(key, &digest, &primary(), &[update()], &claim()).await.result
    };
    let seven = Duration::from_secs(7);
    let error = run(&key()).await.expect_err("429");
    assert_eq!(error.retry_after, Some(seven));
    assert_eq!(writer.held(&key().plugin), Some(seven), "and its keys are not even asked for");
    for _ in 0..100 {
        let error = run(&key()).await.expect_err("still to wait");
        assert_eq!((error.class, error.retry_after), (Class::Transient, Some(seven)));
    }
    assert_eq!(api.requests().len(), 1, "a hundred keys, and not one request");
    assert_eq!(run(&other).await, Ok(()), "it was not told to wait");
    assert_eq!(writer.held(&other.plugin), None);

    tokio::time::advance(seven - Duration::from_millis(11)).await;
    assert!(run(&key()).await.is_err(), "a millisecond too early");
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(run(&key()).await, Ok(()));
    assert_eq!(writer.held(&key().plugin), None);
}

#[tokio::test(start_paused = true)]
async fn after_a_pause_one_write_asks_for_all() {
    let api = Api::new();
    let writer = api.writer();
    let again =
        || Say::Reply(StatusCode::TOO_MANY_REQUESTS, vec![("retry-after", "1".to_owned())], b"{}".to_vec());
    api.say(again());
    api.say(again());
    api.echo(Duration::from_millis(10));
    let digest = Digest::of(b"x");
    let burst = async || {
        let (key, primary, claim) = (key(), primary(), claim());
        let steps = [update()];
        let all = (0..50).map(|_| writer.run(&key, &digest, &primary, &steps, &claim));
        futures::future::join_all(all).await.into_iter().filter(|applied| applied.result.is_ok()).count()
    };
    // Those that were sent together cannot know of each other.
    writer.run(&key(), &digest, &primary(), &[update()], &claim()).await.result.expect_err("429");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(burst().await, 0);
    assert_eq!(api.requests().len(), 2, "fifty keys came back, one asked");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(burst().await, 50, "one was accepted, then more and more at once");
    let most = api.requests().iter().skip(2).map(|request| request.in_flight).collect::<Vec<_>>();
    assert_eq!(most[..4], [1, 2, 2, 4], "{most:?}");
}

#[tokio::test(start_paused = true)]
async fn of_several_statuses_in_a_moment_the_first_is_written_at_once_and_the_rest_wait() {
    let api = Api::new();
    let writer = api.writer();
    api.echo(Duration::ZERO);
    let wait = |steps: &[Step]| writer.status_wait(steps, "p1");
    assert_eq!(wait(&[status()]), None, "a first status is not delayed");
    let applied = writer.run(&key(), &Digest::of(b"x"), &primary(), &[status()], &claim()).await;
    assert_eq!(applied.result, Ok(()));
    assert_eq!(wait(&[status()]), Some(Duration::from_millis(100)));
    assert_eq!(wait(&[update(), status()]), None, "children never wait for it");
    assert_eq!(writer.status_wait(&[status()], "p2"), None, "another object's");
    tokio::time::advance(Duration::from_millis(99)).await;
    assert_eq!(wait(&[status()]), Some(Duration::from_millis(1)));
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(wait(&[status()]), None);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_removed_on_the_word_of_a_primary_that_has_changed() {
    let api = Api::new();
    let writer = api.writer();
    api.echo(Duration::ZERO);
    let digest = Digest::of(b"x");
    let run = async |claim: &windlass_core::claim::Claim| {
        writer.run(&key(), &digest, &primary(), &[update(), delete(), delete()], claim).await
    };
    api.primary_is_at("107");
    let applied = run(&claim()).await;
    assert_eq!(class_of(&applied), Some(Class::Conflict));
    assert_eq!(versions(&applied), [("c1", Some(500))], "what is wanted is written all the same");
    api.primary_is_at("100");
    assert_eq!(run(&claim()).await.result, Ok(()));
    assert_eq!(run(&claim()).await.result, Ok(()));
    assert_eq!(api.looks(), 2, "once a term is enough");
    let later = windlass_core::claim::Claim { term: windlass_core::claim::Term(4), ..claim() };
    api.gate.open(later.clone(), windlass_core::claim::BootTime(0));
    assert_eq!(run(&later).await.result, Ok(()));
    assert_eq!(api.looks(), 3, "who takes over looks again");
}

//! Watches: they end, break, fall silent, forget, repeat themselves and lie.

use std::time::{Duration, Instant};

use windlass_testbed::faultd::{Action, EventFault, Rule};

use super::stand::Stand;
use crate::scene::PATIENCE;

fn events(fault: EventFault) -> Rule {
    Rule::new(Action::Events(fault))
}

/// F14, F16, F18, F25. What changed since the last event that arrived is lost with the stream.
#[tokio::test]
async fn a_watch_that_ends_breaks_or_is_too_old_loses_nothing_and_lists_only_if_it_must() {
    let stand = Stand::new("f14").await;
    for (fault, lists) in [
        (EventFault::End, 0),
        (EventFault::Reset, 0),
        (EventFault::Gone, 1),
        (EventFault::Bookmark(1), 0),
        (EventFault::Garbage, 0),
    ] {
        let mark = stand.scene.mark();
        let held = stand.watches(|| events(EventFault::Hold)).await;
        stand.stir().await;
        let broken = stand.watches(|| events(fault).first(1)).await;
        let ended = Instant::now();
        broken.iter().chain(&held).for_each(|rule| rule.remove());
        stand.settles(&format!("{fault:?}"), ended).await;
        assert_eq!(stand.lists(mark, "widgets"), lists, "lists after {fault:?}");
    }
}

/// F19. Between two lists; the second one is there because no API server loses events without saying so.
#[tokio::test]
async fn events_that_are_lost_doubled_or_swapped_make_no_difference_in_the_end() {
    let stand = Stand::new("f19").await;
    for seed in 0..2 {
        let scramble = EventFault::Scramble { seed, lose: 0.2, double: 0.3, swap: 0.3 };
        let scrambled = stand.watches(|| events(scramble)).await;
        for _ in 0..4 {
            stand.stir().await;
        }
        // From here on nothing is scrambled, and what was lost is found.
        scrambled.iter().for_each(|rule| rule.remove());
        let listed = stand.watches(|| events(EventFault::Gone).first(1)).await;
        let ended = Instant::now();
        listed.iter().for_each(|rule| rule.remove());
        stand.settles(&format!("scrambled with {seed}"), ended).await;
    }
}

/// F15, F21. The stream stays open and says nothing, not even that it ends.
#[tokio::test]
async fn a_watch_that_falls_silent_is_noticed_and_until_then_nothing_is_decided_on_what_is_stale() {
    let stand = Stand::new("f15").await;
    let mark = stand.scene.mark();
    let silent = stand.port.rule(events(EventFault::Hold).path("/api/v1/configmaps?").first(1));
    silent.hit(1, PATIENCE).await.expect("a stream is open");
    let began = Instant::now();
    stand.say("w0", "once").await;
    stand
        .scene
        .until("the child is written", async || {
            (!stand.writes_to(mark, "w0-greeting").is_empty()).then_some(())
        })
        .await;
    // The cache does not show that write, so whatever comes now has to wait.
    stand.say("w0", "twice").await;
    stand.say("w0", "three times").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let early = stand.writes_to(mark, "w0-greeting");
    assert_eq!(early.len(), 1, "a decision on a stale cache: {early:#?}");
    stand.settles("a silent watch", began).await;
    let codes: Vec<u16> = stand.writes_to(mark, "w0-greeting").iter().map(|write| write.code()).collect();
    assert_eq!(codes, [200, 200], "one write for all that changed meanwhile, and no conflict");
    silent.remove();
}

/// F21: one event is missing, that of the host's own write, and the watch goes on as if nothing were.
#[tokio::test]
async fn an_own_write_that_its_watch_hides_is_found_by_a_list_of_its_own_after_45_s_and_not_before() {
    const BOUND: Duration = Duration::from_secs(45);
    let stand = Stand::new("f21").await;
    let relists = async || {
        let metric = r#"windlass_own_write_relists_total{kind="v1/ConfigMap"}"#;
        stand.scene.all().await[0].metric(metric).await.unwrap_or_default()
    };
    let (mark, before) = (stand.scene.mark(), relists().await);
    // A stream that has just begun will not end while this is set up.
    stand.watches(|| events(EventFault::End).first(1)).await.iter().for_each(|rule| rule.remove());
    let hidden = stand.port.rule(events(EventFault::Lose).path("/api/v1/configmaps?"));
    hidden.hit(1, PATIENCE).await.expect("a stream is open");
    let began = Instant::now();
    stand.say("w0", "once").await;
    hidden.land(1, PATIENCE).await.expect("the event of the write of the child is lost");
    hidden.remove();
    // An event behind it: the next watch goes on from there, so that the API server does not send the lost one again.
    stand.say("w1", "beside").await;
    let beside = async || {
        let child = stand.scene.own("ConfigMap", "w1-greeting").await?;
        (child["data"]["text"] == "beside").then_some(())
    };
    stand.scene.until("another object goes on", beside).await;
    stand.say("w0", "twice").await;
    while began.elapsed() < BOUND {
        // In this order: what is read last may be what ends the wait.
        let (writes, lists) = (stand.writes_to(mark, "w0-greeting").len(), stand.lists(mark, "configmaps"));
        if began.elapsed() < BOUND {
            assert_eq!((writes, lists), (1, 0), "a decision on a stale cache after {:?}", began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    stand.settles("a hidden event", Instant::now()).await;
    assert_eq!(relists().await - before, 1.0, "the kind was listed for this");
    assert_eq!(stand.lists(mark, "configmaps"), 1, "and for nothing else");
    let codes: Vec<u16> = stand.writes_to(mark, "w0-greeting").iter().map(|write| write.code()).collect();
    assert_eq!(codes, [200, 200], "one write each, and no conflict");
}

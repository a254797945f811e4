//! Requests: refused, lost half way, slow, answered with nonsense, in conflict with somebody, sent over dead connections.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::json;
use windlass_testbed::faultd::{Action, Reply, Rule, Way};

use super::stand::Stand;
use crate::scene::path;

/// How long a fault lasts while things change.
const LASTS: Duration = Duration::from_secs(4);

/// Stirs again and again while the rules hold, and judges what comes after.
async fn suffers(stand: &Stand, fault: &str, rules: &[fn() -> Rule]) {
    let mark = stand.scene.mark();
    let active: Vec<_> = rules.iter().flat_map(|rule| stand.rules(rule)).collect();
    let (began, mut stirs) = (Instant::now(), 0);
    while began.elapsed() < LASTS {
        stand.stir().await;
        stirs += 1;
        tokio::time::sleep(LASTS / 4).await;
    }
    let met: u64 = active.iter().map(|rule| rule.hits()).sum();
    assert!(met > 0, "{fault}: no request met it");
    let ended = Instant::now();
    active.iter().for_each(|rule| rule.remove());
    stand.settles(fault, ended).await;
    for (name, most) in [("w0-greeting", 0), ("w1-greeting", stirs), ("w3-greeting", stirs)] {
        stand.made_at_most(mark, name, most);
        let writes = stand.writes_to(mark, name).len();
        assert!(writes <= 60, "{fault}: {writes} writes to {name}");
    }
}

/// F23, F24, F25: whatever becomes of requests and answers on their way.
#[tokio::test]
async fn requests_that_fail_or_crawl_or_are_answered_with_nonsense_are_made_good_and_never_made_twice() {
    let stand = Stand::new("f23").await;
    let failures: [fn() -> Rule; 5] = [
        || Rule::new(Action::Answer(Way::Request, Reply::status(500))).share(0.1, 1),
        || Rule::new(Action::Answer(Way::Response, Reply::status(502))).share(0.1, 2),
        || Rule::new(Action::Answer(Way::Request, Reply::status(503))).share(0.1, 3),
        || Rule::new(Action::Answer(Way::Response, Reply::status(504))).share(0.1, 4),
        || Rule::new(Action::Drop(Way::Response)).share(0.05, 5),
    ];
    suffers(&stand, "500, 502, 503, 504 and cuts", &failures).await;
    suffers(
        &stand,
        "a second for each request",
        &[|| Rule::new(Action::Delay(Way::Request, Duration::from_secs(1)))],
    )
    .await;
    // A watch crawls as well: what it says late is not lost.
    suffers(&stand, "bodies of a byte a second", &[|| Rule::new(Action::Throttle(1)).share(0.7, 6)]).await;
    let nonsense: [fn() -> Rule; 4] = [
        || Rule::new(Action::Answer(Way::Request, Reply::page())).share(0.2, 7),
        || Rule::new(Action::Answer(Way::Response, Reply::masked(500))).writes().share(0.2, 8),
        || Rule::new(Action::Truncate(40)).share(0.2, 9),
        || {
            let plain = Reply::raw(StatusCode::OK, "text/plain", "{}");
            Rule::new(Action::Answer(Way::Response, plain)).share(0.1, 10)
        },
    ];
    suffers(&stand, "nonsense", &nonsense).await;
}

/// F26: somebody writes one object fifty times a second.
#[tokio::test]
async fn a_hot_writer_holds_up_nobody_else_and_is_not_fought() {
    let stand = Stand::new("f26").await;
    let mark = stand.scene.mark();
    let hot = path("Widget", &stand.scene.namespace, "w0");
    let began = Instant::now();
    let mut turns = 0;
    let writer = async {
        while began.elapsed() < LASTS {
            turns += 1;
            let change = json!({"metadata": {"annotations": {"turn": turns.to_string()}}});
            stand.scene.patch(&hot, change).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let others = async {
        let mut slowest = Duration::ZERO;
        for i in 0..4 {
            let (text, asked) = (format!("beside {i}"), Instant::now());
            stand.say("w1", &text).await;
            stand.say("w0", &text).await;
            stand
                .scene
                .until("another object goes on", async || {
                    let child = stand.scene.own("ConfigMap", "w1-greeting").await?;
                    (child["data"]["text"] == *text).then_some(())
                })
                .await;
            slowest = slowest.max(asked.elapsed());
            tokio::time::sleep(LASTS / 8).await;
        }
        slowest
    };
    let ((), slowest) = tokio::join!(writer, others);
    eprintln!("F26: {turns} writes by a stranger, another object waits {slowest:.2?} at most");
    assert!(slowest < Duration::from_secs(2), "another object waited {slowest:?}");
    stand.settles("a hot writer", Instant::now()).await;
    let (statuses, children) =
        (stand.writes_to(mark, "w0").len(), stand.writes_to(mark, "w0-greeting").len());
    assert!(statuses + children <= 40, "{statuses} writes to the object and {children} to its child");
}

/// F48, without names: the endpoint is another machine now, and connections to the old one hear nothing and are never closed.
#[tokio::test]
async fn connections_to_an_endpoint_that_is_gone_are_left_behind() {
    let stand = Stand::new("f48").await;
    stand.port.move_to(Ipv4Addr::new(127, 0, 0, 2)).await.expect("it moves");
    for name in ["w0", "w1", "new"] {
        stand.say(name, "after the move").await;
    }
    stand.port.move_to(Ipv4Addr::LOCALHOST).await.expect("it comes back");
    // The lease finds out first, and has the watches doubted; each of them leaves its dead connections behind.
    stand.settles("dead connections", Instant::now()).await;
}

//! Watches through the proxy, and what happens to their events.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use windlass_testbed::faultd::{Action, EventFault, Rule};

use crate::rig::{BOTH, PATIENCE, Protocol, Rig};

fn events(fault: EventFault) -> Rule {
    Rule::new(Action::Events(fault)).resource("configmaps")
}

#[tokio::test]
async fn events_come_as_they_happen() -> Result<()> {
    let rig = Rig::new("watch").await?;
    for protocol in BOTH {
        let mut client = rig.client(protocol).await?;
        let mut stream = client.watch(&rig.path("")).await?;
        for round in 0..3 {
            let name = format!("{protocol:?}-{round}").to_lowercase();
            rig.make(&name).await?;
            while stream.name().await? != name {}
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_open_stream_is_held_and_loses_nothing() -> Result<()> {
    let rig = Rig::new("hold").await?;
    for protocol in BOTH {
        let mut client = rig.client(protocol).await?;
        let mut stream = client.watch(&rig.path("")).await?;
        let name = |number: u32| format!("{protocol:?}-{number}").to_lowercase();
        rig.make(&name(0)).await?;
        while stream.name().await? != name(0) {}
        let held = rig.port.rule(events(EventFault::Hold));
        held.hit(1, PATIENCE).await?;
        rig.make(&name(1)).await?;
        rig.make(&name(2)).await?;
        let early = tokio::time::timeout(Duration::from_millis(300), stream.name()).await;
        assert!(early.is_err(), "nothing comes while it is held");
        held.release();
        assert_eq!((stream.name().await?, stream.name().await?), (name(1), name(2)));
        held.remove();
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_is_told_that_it_is_too_old() -> Result<()> {
    let rig = Rig::new("gone").await?;
    for protocol in BOTH {
        let mut client = rig.client(protocol).await?;
        let mut stream = client.watch(&rig.path("")).await?;
        let rule = rig.port.rule(events(EventFault::Gone).first(1));
        let mut last = None;
        while let Some(line) = stream.line().await? {
            last = Some(line);
        }
        let last: Value = serde_json::from_str(&last.context("an event")?)?;
        assert_eq!((&last["type"], &last["object"]["code"]), (&"ERROR".into(), &410.into()));
        // The next one is a stream like any other.
        rig.make(&format!("{protocol:?}").to_lowercase()).await?;
        client.watch(&rig.path("")).await?.name().await?;
        assert_eq!(rule.hits(), 1);
        rule.remove();
    }
    Ok(())
}

#[tokio::test]
async fn garbage_comes_in_between() -> Result<()> {
    let rig = Rig::new("garbage").await?;
    let mut client = rig.client(Protocol::Http1).await?;
    let mut stream = client.watch(&rig.path("")).await?;
    rig.port.rule(events(EventFault::Garbage));
    loop {
        let line = stream.line().await?.context("the stream goes on")?;
        if serde_json::from_str::<Value>(&line).is_err() {
            break;
        }
    }
    rig.make("behind").await?;
    while stream.name().await? != "behind" {}
    Ok(())
}

#[tokio::test]
async fn a_bookmark_from_the_past_comes_in_between() -> Result<()> {
    let rig = Rig::new("bookmark").await?;
    for protocol in BOTH {
        let mut client = rig.client(protocol).await?;
        let mut stream = client.watch(&rig.path("")).await?;
        let rule = rig.port.rule(events(EventFault::Bookmark(7)));
        loop {
            let line = stream.line().await?.context("the stream goes on")?;
            let event: Value = serde_json::from_str(&line)?;
            if event["type"] == "BOOKMARK" {
                assert_eq!(event["object"]["metadata"]["resourceVersion"], "7");
                break;
            }
        }
        let behind = format!("{protocol:?}").to_lowercase();
        rig.make(&behind).await?;
        while stream.name().await? != behind {}
        rule.remove();
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_ends_in_order_or_by_a_reset() -> Result<()> {
    let rig = Rig::new("end").await?;
    for protocol in BOTH {
        let mut client = rig.client(protocol).await?;
        let mut stream = client.watch(&rig.path("")).await?;
        let rule = rig.port.rule(events(EventFault::End));
        while stream.line().await?.is_some() {}
        rule.remove();
        let mut stream = client.watch(&rig.path("")).await?;
        let rule = rig.port.rule(events(EventFault::Reset));
        let ended = loop {
            match stream.line().await {
                Ok(Some(_)) => {}
                ended => break ended,
            }
        };
        assert!(ended.is_err(), "a reset is no ordinary end");
        rule.remove();
    }
    Ok(())
}

#[tokio::test]
async fn one_event_can_be_lost_and_nothing_else() -> Result<()> {
    let rig = Rig::new("lose").await?;
    for protocol in BOTH {
        let mut client = rig.client(protocol).await?;
        let mut stream = client.watch(&rig.path("")).await?;
        let name = |number: u32| format!("{protocol:?}-{number}").to_lowercase();
        rig.make(&name(0)).await?;
        while stream.name().await? != name(0) {}
        let rule = rig.port.rule(events(EventFault::Lose));
        rule.hit(1, PATIENCE).await?;
        for number in 1..=3 {
            rig.make(&name(number)).await?;
        }
        assert_eq!([stream.name().await?, stream.name().await?], [name(2), name(3)]);
        assert_eq!(rule.landed(), 1);
        rule.remove();
    }
    Ok(())
}

#[tokio::test]
async fn events_are_lost_doubled_and_swapped_the_same_way_each_time() -> Result<()> {
    let rig = Rig::new("scramble").await?;
    for number in 0..40 {
        rig.make(&format!("w{number:02}")).await?;
    }
    let scramble = EventFault::Scramble { seed: 5, lose: 0.2, double: 0.2, swap: 0.2 };
    let mut runs = Vec::new();
    for protocol in BOTH {
        let rule = rig.port.rule(events(scramble));
        let mut stream = rig.client(protocol).await?.watch(&rig.path("")).await?;
        let mut names = Vec::new();
        // The last events may be among the lost; what comes within reach is enough.
        while let Ok(name) = tokio::time::timeout(Duration::from_secs(1), stream.name()).await {
            names.push(name?);
        }
        rule.remove();
        runs.push(names);
    }
    let [first, second] = &runs[..] else { panic!("two runs") };
    assert_eq!(first, second);
    let sorted = first.is_sorted();
    let mut once = first.clone();
    once.sort();
    once.dedup();
    assert!(once.len() < 40, "some are lost");
    assert!(first.len() > once.len(), "some are doubled");
    assert!(!sorted, "some are swapped: {first:?}");
    Ok(())
}

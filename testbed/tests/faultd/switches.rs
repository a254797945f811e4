//! Whole ports: cut, half cut, refused, reset, healed, and gone.

use std::time::Duration;

use anyhow::Result;
use http::Method;
use tokio::net::TcpStream;
use tokio::time::timeout;
use windlass_testbed::faultd::{Action, Rule, Way};

use crate::rig::{BOTH, BRIEF, PATIENCE, Protocol, Rig, config_map};

#[tokio::test]
async fn a_cut_silences_everything_until_it_heals() -> Result<()> {
    let rig = Rig::new("cut").await?;
    for protocol in BOTH {
        let name = |number: u32| format!("{protocol:?}-{number}").to_lowercase();
        let mut watcher = rig.client(protocol).await?;
        let mut stream = watcher.watch(&rig.path("")).await?;
        let mut writer = rig.client(protocol).await?;
        writer.get(&rig.path("")).await?;
        rig.port.cut();
        rig.make(&name(1)).await?;
        let silent = async { while stream.name().await.is_ok_and(|found| found != name(1)) {} };
        assert!(timeout(BRIEF, silent).await.is_err(), "no event gets through");
        let connected = TcpStream::connect(rig.port.address()).await;
        assert!(connected.is_ok(), "the kernel still accepts");
        assert!(timeout(BRIEF, rig.client(protocol)).await.is_err(), "and nobody answers");
        let path = rig.path("");
        let mut sent = std::pin::pin!(writer.send(Method::POST, &path, Some(config_map(&name(2), "1"))));
        assert!(timeout(BRIEF, &mut sent).await.is_err(), "no request gets through");
        assert_eq!(rig.truth(&name(2)).await?, None);
        rig.port.heal().await?;
        assert_eq!(timeout(PATIENCE, sent).await??.0, 201, "what was on its way arrives");
        while stream.name().await? != name(2) {}
        rig.client(protocol).await?.get(&rig.path("")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn half_a_cut_carries_out_what_nobody_hears_of() -> Result<()> {
    let rig = Rig::new("half").await?;
    for protocol in BOTH {
        let name = |way: Way| format!("{protocol:?}-{way:?}").to_lowercase();
        let mut client = rig.client(protocol).await?;
        client.get(&rig.path("")).await?;
        rig.port.mute(Way::Response);
        let path = rig.path("");
        let mut twin = client.twin();
        let body = Some(config_map(&name(Way::Response), "1"));
        let mut sent = std::pin::pin!(client.send(Method::POST, &path, body));
        assert!(timeout(BRIEF, &mut sent).await.is_err(), "no answer gets through");
        rig.until_true(&name(Way::Response)).await?;
        if let Some(twin) = &mut twin {
            // An answer that got stuck keeps no other request from being heard.
            let again = twin.send(Method::POST, &path, Some(config_map("again", "1")));
            assert!(timeout(BRIEF, again).await.is_err(), "no answer gets through");
            rig.until_true("again").await?;
        }
        rig.port.heal().await?;
        assert_eq!(timeout(PATIENCE, sent).await??.0, 201, "what was on its way arrives");

        let mut client = rig.client(protocol).await?;
        client.get(&rig.path("")).await?;
        rig.port.mute(Way::Request);
        let sent = client.send(Method::POST, &path, Some(config_map(&name(Way::Request), "1")));
        assert!(timeout(BRIEF, sent).await.is_err(), "no request gets through");
        assert_eq!(rig.truth(&name(Way::Request)).await?, None);
        rig.port.heal().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_refusing_port_is_closed_and_opens_again_on_the_same_address() -> Result<()> {
    let rig = Rig::new("refuse").await?;
    for protocol in BOTH {
        let mut client = rig.client(protocol).await?;
        let mut stream = rig.client(protocol).await?.watch(&rig.path("")).await?;
        client.get(&rig.path("")).await?;
        rig.port.refuse().await?;
        let refused = TcpStream::connect(rig.port.address()).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(timeout(PATIENCE, client.get(&rig.path(""))).await?.is_err(), "the old one is reset");
        let ended = async { while stream.line().await.is_ok_and(|line| line.is_some()) {} };
        timeout(PATIENCE, ended).await?;
        rig.port.heal().await?;
        assert_eq!(rig.client(protocol).await?.get(&rig.path("")).await?.0, 200);
    }
    Ok(())
}

#[tokio::test]
async fn a_port_that_moves_keeps_its_number_and_answers_nobody_at_its_old_address() -> Result<()> {
    let rig = Rig::new("move").await?;
    let mut client = rig.client(Protocol::H2).await?;
    client.get(&rig.path("")).await?;
    rig.port.move_to([127, 0, 0, 2].into()).await?;
    assert!(timeout(BRIEF, client.get(&rig.path(""))).await.is_err(), "the old connection hears nothing");
    let refused = TcpStream::connect(rig.port.address()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let number = rig.port.address().port();
    assert!(TcpStream::connect(("127.0.0.2", number)).await.is_ok(), "it is there now");
    rig.port.move_to([127, 0, 0, 1].into()).await?;
    assert_eq!(rig.client(Protocol::H2).await?.get(&rig.path("")).await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn a_reset_ends_connections_and_takes_new_ones() -> Result<()> {
    let rig = Rig::new("reset").await?;
    let mut client = rig.client(Protocol::Http1).await?;
    client.get(&rig.path("")).await?;
    rig.port.reset();
    assert!(timeout(PATIENCE, client.get(&rig.path(""))).await?.is_err());
    assert_eq!(rig.client(Protocol::Http1).await?.get(&rig.path("")).await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn one_port_does_not_disturb_another() -> Result<()> {
    let rig = Rig::new("apart").await?;
    let other = rig.faultd.listen().await?;
    other.cut();
    other.rule(Rule::new(Action::Drop(Way::Request)));
    assert_eq!(rig.client(Protocol::H2).await?.get(&rig.path("")).await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn clearing_lets_go_and_the_end_takes_what_is_held() -> Result<()> {
    let rig = Rig::new("clear").await?;
    let hold = || Rule::new(Action::Hold(Way::Request)).writes();
    for (name, clears) in [("cleared", true), ("ended", false)] {
        let held = rig.port.rule(hold());
        let mut client = rig.client(Protocol::H2).await?;
        let path = rig.path("");
        let sent = client.send(Method::POST, &path, Some(config_map(name, "1")));
        assert!(timeout(BRIEF, sent).await.is_err(), "it is held");
        held.hit(1, PATIENCE).await?;
        if clears {
            rig.port.clear();
            rig.until_true(name).await?;
        }
    }
    let Rig { control, faultd, port, namespace } = rig;
    drop(faultd);
    while TcpStream::connect(port.address()).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    port.clear();
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/ended");
    let (client, request) = (control.client()?, http::Request::get(path).body(Vec::new())?);
    let found = client.request::<serde_json::Value>(request).await;
    assert!(found.is_err(), "what was held is not carried out any more");
    Ok(())
}

//! Single requests: let through, late, lost, and answered by somebody else.

use std::time::{Duration, Instant};

use anyhow::Result;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::time::timeout;
use windlass_testbed::faultd::{Action, Reply, Rule, Verb, Way};

use crate::rig::{BOTH, BRIEF, Client, PATIENCE, Protocol, Rig, config_map};

#[tokio::test]
async fn everything_passes_in_both_protocols_when_nothing_is_asked_for() -> Result<()> {
    let rig = Rig::new("through").await?;
    let audit = rig.control.audit()?;
    let mark = audit.mark()?;
    for protocol in BOTH {
        let mut client = rig.client(protocol).await?;
        let name = format!("{protocol:?}").to_lowercase();
        let (status, made) = client.send(Method::POST, &rig.path(""), Some(config_map(&name, "1"))).await?;
        assert_eq!((status, &made["data"]["k"]), (201, &json!("1")));
        let change = json!({"data": {"k": "2"}});
        let (status, changed) = client.send(Method::PATCH, &rig.path(&name), Some(change)).await?;
        assert_eq!((status, &changed["data"]["k"]), (200, &json!("2")));
        let (_, list) = client.get(&rig.path("")).await?;
        assert!(list["items"].as_array().unwrap().iter().any(|item| item["metadata"]["name"] == name));
        assert_eq!(client.send(Method::DELETE, &rig.path(&name), None).await?.0, 200);
        assert_eq!(client.get(&rig.path(&name)).await?.0, 404);
    }
    let event = audit.wait_for(mark, PATIENCE, |event| event.user_agent == "faultd-tests/1").await?;
    assert_eq!(event.user.username, "windlass-0", "the client's own token decides who asks");
    let mut nobody = Client::connect(rig.control, &rig.port.url(), Protocol::H2, "wrong").await?;
    assert_eq!(nobody.get(&rig.path("")).await?.0, 401);
    Ok(())
}

#[tokio::test]
async fn a_body_of_a_mebibyte_passes_both_ways() -> Result<()> {
    let rig = Rig::new("large").await?;
    let value = "x".repeat(1_000_000);
    for protocol in BOTH {
        let mut client = rig.client(protocol).await?;
        let name = format!("{protocol:?}").to_lowercase();
        let made = client.send(Method::POST, &rig.path(""), Some(config_map(&name, &value))).await?;
        assert_eq!(made.0, 201);
        assert_eq!(client.get(&rig.path(&name)).await?.1["data"]["k"], value);
    }
    Ok(())
}

#[tokio::test]
async fn kubectl_works_through_a_port() -> Result<()> {
    let rig = Rig::new("kubectl").await?;
    let kubeconfig =
        rig.port.kubeconfig(rig.control, &rig.namespace, rig.control.token_for("windlass-0")?)?;
    let path = kubeconfig.display().to_string();
    let got = rig.port.rule(Rule::new(Action::Delay(Way::Request, Duration::ZERO)));
    let output =
        rig.control.kubectl(&["--kubeconfig", &path, "get", "ns", &rig.namespace, "-o", "name"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(got.hits() > 0, "it went past us");
    Ok(())
}

/// Prints what the way through the proxy costs; a machine under load makes any bound a lie.
#[tokio::test]
async fn what_the_proxy_costs_is_printed() -> Result<()> {
    let rig = Rig::new("cost").await?;
    rig.make("a").await?;
    let token = rig.control.token_for("windlass-0")?;
    for protocol in BOTH {
        let mut medians = Vec::new();
        for url in [rig.control.server_url().to_owned(), rig.port.url()] {
            let mut client = Client::connect(rig.control, &url, protocol, token).await?;
            let mut times = Vec::new();
            for _ in 0..300 {
                let began = Instant::now();
                assert_eq!(client.get(&rig.path("a")).await?.0, 200);
                times.push(began.elapsed());
            }
            times.sort();
            medians.push((times[150], times[297]));
        }
        eprintln!(
            "{protocol:?}: direct p50 {:?} p99 {:?}, through p50 {:?} p99 {:?}",
            medians[0].0, medians[0].1, medians[1].0, medians[1].1
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_delayed_answer_was_carried_out_at_once() -> Result<()> {
    let rig = Rig::new("slow").await?;
    let late = Duration::from_secs(2);
    for protocol in BOTH {
        let name = format!("{protocol:?}").to_lowercase();
        let rule = rig.port.rule(Rule::new(Action::Delay(Way::Response, late)).verb(Verb::Create));
        let mut client = rig.client(protocol).await?;
        let began = Instant::now();
        let path = rig.path("");
        let sent = client.send(Method::POST, &path, Some(config_map(&name, "1")));
        let truth = async {
            rule.land(1, PATIENCE).await?;
            rig.truth(&name).await.map(|found| (found.is_some(), began.elapsed()))
        };
        let (sent, truth) = tokio::join!(sent, truth);
        let (there, after) = truth?;
        assert!(there && after < late, "it is there after {after:?}");
        assert_eq!(sent?.0, 201);
        assert!(began.elapsed() >= late);
        rule.remove();
    }
    Ok(())
}

#[tokio::test]
async fn a_delayed_request_is_carried_out_late() -> Result<()> {
    let rig = Rig::new("late").await?;
    let late = Duration::from_secs(1);
    let rule = rig.port.rule(Rule::new(Action::Delay(Way::Request, late)).writes().nth(2));
    let mut client = rig.client(Protocol::H2).await?;
    let began = Instant::now();
    assert_eq!(client.send(Method::POST, &rig.path(""), Some(config_map("a", "1"))).await?.0, 201);
    assert!(began.elapsed() < late, "only the second write is meant");
    let path = rig.path("");
    let sent = client.send(Method::POST, &path, Some(config_map("b", "1")));
    let truth = async {
        rule.hit(1, PATIENCE).await?;
        rig.truth("b").await
    };
    let (sent, truth) = tokio::join!(sent, truth);
    assert_eq!((sent?.0, truth?), (201, None));
    assert!(began.elapsed() >= late);
    Ok(())
}

#[tokio::test]
async fn a_held_patch_lands_after_its_client_has_given_up() -> Result<()> {
    let rig = Rig::new("stale").await?;
    for protocol in BOTH {
        let name = format!("{protocol:?}").to_lowercase();
        rig.make(&name).await?;
        let held = rig.port.rule(Rule::new(Action::Hold(Way::Request)).verb(Verb::Patch).named(&*name));
        let mut client = rig.client(protocol).await?;
        let path = rig.path(&name);
        let sent = client.send(Method::PATCH, &path, Some(json!({"data": {"k": "stale"}})));
        assert!(timeout(BRIEF, sent).await.is_err(), "it is held");
        drop(client);
        held.hit(1, PATIENCE).await?;
        // Others are not held, and the object is as it was.
        let mut other = rig.client(protocol).await?;
        assert_eq!(other.get(&path).await?.1["data"]["k"], "old");
        held.release();
        held.land(1, PATIENCE).await?;
        assert_eq!(other.get(&path).await?.1["data"]["k"], "stale");
    }
    Ok(())
}

#[tokio::test]
async fn a_request_that_nobody_disturbs_is_taken_back_by_a_client_that_leaves() -> Result<()> {
    let rig = Rig::new("leave").await?;
    let mut client = rig.client(Protocol::Http1).await?;
    let stream = client.watch(&rig.path("")).await?;
    let (audit, mark) = (rig.control.audit()?, rig.control.audit()?.mark()?);
    drop((stream, client));
    let namespace = rig.namespace.clone();
    // The API server notices that the watch has ended, so the proxy has let it go.
    audit
        .wait_for(mark, PATIENCE, move |event| {
            event.verb == "watch"
                && event.is_complete()
                && event.object_ref.as_ref().is_some_and(|object| object.namespace == namespace)
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_dropped_connection_hides_whether_the_write_was_made() -> Result<()> {
    let rig = Rig::new("drop").await?;
    for protocol in BOTH {
        for (way, there) in [(Way::Request, false), (Way::Response, true)] {
            let name = format!("{protocol:?}-{way:?}").to_lowercase();
            let rule = rig.port.rule(Rule::new(Action::Drop(way)).verb(Verb::Create).first(1));
            let mut client = rig.client(protocol).await?;
            let path = rig.path("");
            let sent = client.send(Method::POST, &path, Some(config_map(&name, "1")));
            assert!(timeout(PATIENCE, sent).await?.is_err(), "the connection is reset");
            assert_eq!(rig.truth(&name).await?.is_some(), there, "{name}");
            assert_eq!((rule.hits(), rule.landed()), (1, u64::from(there)));
            rule.remove();
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_black_hole_swallows_one_way() -> Result<()> {
    let rig = Rig::new("hole").await?;
    for protocol in BOTH {
        for (way, there) in [(Way::Request, false), (Way::Response, true)] {
            let name = format!("{protocol:?}-{way:?}").to_lowercase();
            let rule = rig.port.rule(Rule::new(Action::Blackhole(way)).verb(Verb::Create));
            let mut client = rig.client(protocol).await?;
            let path = rig.path("");
            let sent = client.send(Method::POST, &path, Some(config_map(&name, "1")));
            assert!(timeout(BRIEF, sent).await.is_err(), "nobody answers");
            if there {
                rule.land(1, PATIENCE).await?;
            }
            rule.remove();
            assert_eq!(rig.truth(&name).await?.is_some(), there, "{name}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_proxy_answers_instead_of_the_api_server_or_over_it() -> Result<()> {
    let rig = Rig::new("answer").await?;
    let mut client = rig.client(Protocol::Http1).await?;
    let busy = Reply::status(429).header("retry-after", "7");
    rig.port.rule(Rule::new(Action::Answer(Way::Request, busy)).verb(Verb::Create).first(1));
    let response = client.open(Method::POST, &rig.path(""), Some(config_map("a", "1"))).await?;
    assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (429, &"7".parse()?));
    let said = response.into_body().collect().await?.to_bytes();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&said)?["reason"], "TooManyRequests");
    assert_eq!(rig.truth("a").await?, None);

    let rule = Rule::new(Action::Answer(Way::Response, Reply::status(504))).verb(Verb::Create).first(1);
    rig.port.rule(rule);
    let (status, _) = client.send(Method::POST, &rig.path(""), Some(config_map("a", "1"))).await?;
    assert_eq!((status, rig.truth("a").await?.is_some()), (504, true), "carried out, and denied");

    let page = Reply::raw(StatusCode::OK, "text/html", "<html>");
    let rule = rig.port.rule(Rule::new(Action::Answer(Way::Request, page)).verb(Verb::List));
    let response = client.open(Method::GET, &rig.path(""), None).await?;
    assert_eq!(response.headers()["content-type"], "text/html");
    assert_eq!(response.into_body().collect().await?.to_bytes(), "<html>");
    rule.remove();
    assert_eq!(client.get(&rig.path("")).await?.1["kind"], "ConfigMapList");
    Ok(())
}

#[tokio::test]
async fn a_success_may_hold_a_failure_or_the_page_of_a_load_balancer() -> Result<()> {
    let rig = Rig::new("masked").await?;
    let mut client = rig.client(Protocol::H2).await?;
    let rule = rig.port.rule(Rule::new(Action::Answer(Way::Request, Reply::masked(503))).verb(Verb::List));
    let (status, body) = client.get(&rig.path("")).await?;
    assert_eq!((status, &body["kind"], &body["code"]), (200, &json!("Status"), &json!(503)));
    rule.remove();
    let rule = rig.port.rule(Rule::new(Action::Answer(Way::Request, Reply::page())).verb(Verb::List));
    let response = client.open(Method::GET, &rig.path(""), None).await?;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"text/html".parse()?)
    );
    assert!(response.into_body().collect().await?.to_bytes().starts_with(b"<html>"));
    rule.remove();
    assert_eq!(client.get(&rig.path("")).await?.1["kind"], "ConfigMapList");
    Ok(())
}

#[tokio::test]
async fn every_third_request_fails() -> Result<()> {
    let rig = Rig::new("every").await?;
    let mut client = rig.client(Protocol::H2).await?;
    let error = Action::Answer(Way::Request, Reply::status(503));
    let rule = rig.port.rule(Rule::new(error).verb(Verb::List).every(3).first(2));
    let mut statuses = Vec::new();
    for _ in 0..10 {
        statuses.push(client.get(&rig.path("")).await?.0);
    }
    assert_eq!(statuses, [200, 200, 503, 200, 200, 503, 200, 200, 200, 200]);
    assert_eq!(rule.hits(), 2);
    Ok(())
}

#[tokio::test]
async fn a_share_of_the_requests_fails() -> Result<()> {
    let rig = Rig::new("share").await?;
    let mut client = rig.client(Protocol::H2).await?;
    let error = Action::Answer(Way::Request, Reply::status(500));
    let rule = rig.port.rule(Rule::new(error).share(0.3, 11));
    let mut failed = 0;
    for _ in 0..100 {
        failed += u64::from(client.get(&rig.path("")).await?.0 == 500);
    }
    assert_eq!(failed, rule.hits());
    assert!((15..45).contains(&failed), "{failed} of 100");
    Ok(())
}

#[tokio::test]
async fn a_body_breaks_off_or_crawls() -> Result<()> {
    let rig = Rig::new("body").await?;
    rig.make("a").await?;
    for protocol in BOTH {
        let mut client = rig.client(protocol).await?;
        let rule = rig.port.rule(Rule::new(Action::Truncate(10)));
        let mut body = client.open(Method::GET, &rig.path("a"), None).await?.into_body();
        let first = body.frame().await.unwrap()?.into_data().unwrap();
        assert_eq!(first, r#"{"kind":"C"#);
        assert!(body.frame().await.unwrap().is_err(), "an end in the middle is an error");
        rule.remove();

        let mut client = rig.client(protocol).await?;
        let whole = client.open(Method::GET, &rig.path("a"), None).await?.into_body().collect().await?;
        let whole = whole.to_bytes();
        let rate = u32::try_from(whole.len())? * 2;
        let rule = rig.port.rule(Rule::new(Action::Throttle(rate)));
        let began = Instant::now();
        let slow = client.open(Method::GET, &rig.path("a"), None).await?.into_body().collect().await?;
        assert_eq!(slow.to_bytes(), whole);
        assert!(began.elapsed() >= Duration::from_millis(450), "{:?}", began.elapsed());
        rule.remove();
    }
    Ok(())
}

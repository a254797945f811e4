//! Rights: taken back while the host works, named to whoever can give them, and given back.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windlass_testbed::faultd::{Action, EventFault, Rule};
use windlass_testbed::{AuditEvent, Mark};

use super::stand::Stand;
use crate::scene::{HOST, HOST_USER, PATIENCE, Scene};

/// How long after a right is back everything may take to be as it should be.
const RESUMES: Duration = Duration::from_secs(60);
/// For how long a right is missing, so that attempts can be counted.
const MISSING: Duration = Duration::from_secs(12);

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// Rules that were taken out of roles; by path, the rules as they were.
struct Revoked<'a> {
    scene: &'a Scene,
    were: Vec<(String, Value)>,
}

impl<'a> Revoked<'a> {
    /// Takes every rule that fits out of these roles: of a rule for several resources, all.
    async fn from(scene: &'a Scene, roles: &[String], fits: impl Fn(&Value) -> bool) -> Self {
        let mut were = Vec::new();
        for path in roles {
            let role = scene.get(path).await.unwrap_or_else(|| panic!("{path} is there"));
            let mut left = role["rules"].as_array().cloned().unwrap_or_default();
            left.retain(|rule| !fits(rule));
            if Some(&left) != role["rules"].as_array() {
                scene.patch(path, json!({"rules": left})).await;
                were.push((path.clone(), role["rules"].clone()));
            }
        }
        assert!(!were.is_empty(), "no such rule in {roles:?}");
        Self { scene, were }
    }

    /// Every Role of the host's namespace but the claim.
    async fn from_the_host(scene: &'a Scene, fits: impl Fn(&Value) -> bool) -> Self {
        let roles = scene.get(&format!("{RBAC}/namespaces/{HOST}/roles")).await.expect("a list");
        let names = roles["items"].as_array().into_iter().flatten();
        let names = names
            .filter_map(|role| role["metadata"]["name"].as_str())
            .filter(|name| *name != "windlass-claim");
        let paths: Vec<_> = names.map(|name| format!("{RBAC}/namespaces/{HOST}/roles/{name}")).collect();
        Self::from(scene, &paths, fits).await
    }

    async fn give_back(self) -> Instant {
        for (path, rules) in self.were {
            self.scene.patch(&path, json!({ "rules": rules })).await;
        }
        Instant::now()
    }
}

fn is_for(rule: &Value, resource: &str) -> bool {
    rule["resources"].as_array().is_some_and(|all| all.iter().any(|one| one == resource))
}

fn cluster_role(name: &str) -> Vec<String> {
    vec![format!("{RBAC}/clusterroles/{name}")]
}

/// Waits until the host has said on the plugin's ConfigMap, and in `/debug/plugins`, that this rule is missing.
async fn is_named(stand: &Stand, rule: &str) {
    let said = async || {
        let events = stand.scene.get(&format!("/api/v1/namespaces/{HOST}/events")).await?;
        let mut events = events["items"].as_array()?.iter();
        events.find(|event| {
            event["involvedObject"]["name"] == "greeter-plugin"
                && event["reason"] == "RightMissing"
                && event["message"].as_str().is_some_and(|message| message.contains(rule))
        })?;
        let (_, plugins) = stand.scene.all().await[0].ask("/debug/plugins").await.ok()?;
        let plugins: Value = serde_json::from_str(&plugins).ok()?;
        let rules = plugins[0]["missingRights"].as_array()?;
        rules.iter().any(|missing| missing["rule"] == *rule).then_some(())
    };
    stand.scene.until(&format!("{rule} is said to be missing"), said).await;
}

/// The refused requests of the host since the mark, each with its path.
fn refused(stand: &Stand, mark: Mark) -> Vec<String> {
    let mut requests = stand.requests(mark);
    requests.retain(|request| request.code() == 403);
    requests
        .iter()
        .map(|request| request.request_uri.split('?').next().unwrap_or_default().to_owned())
        .collect()
}

/// No path was refused more often than this in all.
fn at_most(refused: &[String], most: usize) {
    for path in refused {
        let times = refused.iter().filter(|other| *other == path).count();
        assert!(times <= most, "{path} was asked for {times} times in {MISSING:?}: {refused:?}");
    }
}

/// F32, what a plugin may write: first its children alone, then everything.
#[tokio::test]
async fn rights_of_a_plugin_that_are_taken_back_are_named_and_resumed_with() {
    let stand = Stand::new("f32").await;
    let children = r#"- {apiGroups: [""], resources: [configmaps], verbs: [patch]}"#;
    let mark = stand.scene.mark();
    let role = cluster_role("windlass-fixtures");
    let revoked = Revoked::from(&stand.scene, &role, |rule| is_for(rule, "configmaps")).await;
    let began = Instant::now();
    stand.stir().await;
    let event = stand.scene.event("w0", "PassFailed", children).await;
    let message = event["message"].as_str().expect("a text");
    let whose = format!(
        "ServiceAccount {HOST}/plugin-greeter may not patch configmaps in namespace {}",
        stand.scene.namespace
    );
    assert!(message.contains(&whose), "{message}");
    is_named(&stand, children).await;
    tokio::time::sleep(MISSING.saturating_sub(began.elapsed())).await;
    let attempts = refused(&stand, mark);
    eprintln!("F32: {} requests refused in {:.1?}", attempts.len(), began.elapsed());
    at_most(&attempts, 10);
    let ended = revoked.give_back().await;
    stand.settles_within("rights for children that were taken back", ended, RESUMES).await;

    let mark = stand.scene.mark();
    let revoked = Revoked::from(&stand.scene, &role, |_| true).await;
    let began = Instant::now();
    stand.stir().await;
    // Not even this can be said in the plugin's name.
    is_named(&stand, r#"- {apiGroups: [""], resources: [events], verbs: [create]}"#).await;
    tokio::time::sleep(MISSING.saturating_sub(began.elapsed())).await;
    let attempts = refused(&stand, mark);
    eprintln!("F32: {} requests refused in {:.1?}", attempts.len(), began.elapsed());
    at_most(&attempts, 10);
    let ended = revoked.give_back().await;
    stand.settles_within("all rights of a plugin that were taken back", ended, RESUMES).await;
}

/// F32, for the host: to act as a plugin, and to read a kind.
#[tokio::test]
async fn rights_of_the_host_for_a_plugin_that_are_taken_back_are_named_and_resumed_with() {
    let stand = Stand::new("f32-host").await;
    let mark = stand.scene.mark();
    let acts = |rule: &Value| is_for(rule, "serviceaccounts");
    let revoked = Revoked::from_the_host(&stand.scene, acts).await;
    let began = Instant::now();
    stand.stir().await;
    is_named(
        &stand,
        r#"- {apiGroups: [""], resources: [serviceaccounts], resourceNames: [plugin-greeter], verbs: [impersonate]}"#,
    )
    .await;
    tokio::time::sleep(MISSING.saturating_sub(began.elapsed())).await;
    let attempts = refused(&stand, mark);
    eprintln!("F32: {} requests refused in {:.1?}", attempts.len(), began.elapsed());
    at_most(&attempts, 12);
    let ended = revoked.give_back().await;
    stand.settles_within("the right to act as a plugin", ended, RESUMES).await;

    let mark = stand.scene.mark();
    let reads = cluster_role("windlass-fixtures-watches");
    let revoked = Revoked::from(&stand.scene, &reads, |rule| is_for(rule, "widgets")).await;
    aggregated(&stand.scene, false).await;
    let again = Rule::new(Action::Events(EventFault::Gone)).resource("widgets");
    let again = stand.port.rule(again.first(1));
    again.hit(1, PATIENCE).await.expect("a stream is open");
    let began = Instant::now();
    stand.stir().await;
    is_named(
        &stand,
        "- {apiGroups: [fixtures.windlass.dev], resources: [widgets], verbs: [get, list, watch]}",
    )
    .await;
    tokio::time::sleep(MISSING.saturating_sub(began.elapsed())).await;
    let attempts = refused(&stand, mark);
    eprintln!("F32: {} requests refused in {:.1?}", attempts.len(), began.elapsed());
    at_most(&attempts, 6);
    assert!(stand.scene.all().await[0].is_ready().await, "a missing right blocks no rollout");
    let ended = revoked.give_back().await;
    stand.settles_within("the right to read a kind", ended, RESUMES).await;
}

/// Waits until the host's aggregated role lets it read widgets, or does not.
async fn aggregated(scene: &Scene, wanted: bool) {
    let path = format!("{RBAC}/clusterroles/windlass-host");
    let has = async || {
        let role = scene.get(&path).await?;
        let has = role["rules"].as_array()?.iter().any(|rule| is_for(rule, "widgets"));
        (has == wanted).then_some(())
    };
    scene.until("the controller has aggregated", has).await;
}

/// F32, for the Lease: whoever may not renew stops by its own clock, and is a standby until it may again.
#[tokio::test]
async fn a_leader_that_may_not_renew_stops_by_its_clock_and_leads_again_when_it_may() {
    let stand = Stand::new("f32-lease").await;
    let leads = async || stand.scene.all().await[0].metric("leader_election_master_status").await;
    let mark = stand.scene.mark();
    let revoked = Revoked::from_the_host(&stand.scene, |rule| is_for(rule, "leases")).await;
    let began = Instant::now();
    let stopped = async || (leads().await == Some(0.0)).then_some(());
    stand.scene.until("the leader says that it leads no more", stopped).await;
    let after = began.elapsed();
    // The renewal before may have been sent a moment before the right was gone.
    assert!(after <= Duration::from_secs(3), "it led for {after:?} without renewing");
    let ended = stand.scene.mark();
    stand.stir().await;
    tokio::time::sleep(MISSING.saturating_sub(began.elapsed())).await;
    let writes = stand.requests(ended).into_iter().filter(AuditEvent::is_write).count();
    assert_eq!(writes, 0, "nobody leads");
    let asked = asked_for_leases(&stand, mark);
    eprintln!("F32: the Lease was asked for {asked} times in {:.1?}", began.elapsed());
    // Renewals, and the watch, whose pauses grow to two seconds.
    assert!(asked <= 100, "{asked} times in {MISSING:?}");
    let log = stand.scene.all().await[0].log();
    let rule = "- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [update]}";
    assert!(log.contains(rule), "the log names the rule");
    let ended = revoked.give_back().await;
    let again = async || (leads().await == Some(1.0)).then_some(());
    stand.scene.until("it leads again", again).await;
    eprintln!("F32: it leads again {:.1?} after the right is back", ended.elapsed());
    stand.settles_within("rights to the Lease", ended, RESUMES).await;
}

fn asked_for_leases(stand: &Stand, mark: Mark) -> usize {
    let events = stand.scene.control().audit().and_then(|audit| audit.since(mark)).expect("an audit log");
    let of_leases = |event: &&AuditEvent| {
        event.is_complete()
            && event.user.username == HOST_USER
            && event.object_ref.as_ref().is_some_and(|object| object.resource == "leases")
    };
    events.iter().filter(of_leases).count()
}

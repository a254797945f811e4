//! The writer against a real API server, with plans that `core` made.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use windlass_apply::{Announcement, PluginConfigMap};
use windlass_core::class::Class;
use windlass_core::code::Code;
use windlass_core::decision::{Notice, Severity};
use windlass_core::name::{Digest, PluginName};
use windlass_core::plan::{Plan, Step};
use windlass_core::ports::{Applied, Apply, EventTarget};
use windlass_testbed::Writes;

use crate::world::{World, config_map, deployment};

/// Plans and writes until no controller comes between.
async fn persist<F>(world: &World, plan: impl Fn() -> F) -> Result<Applied>
where
    F: Future<Output = Result<Plan>>,
{
    for _ in 0..100 {
        let applied = world.writer.execute(&plan().await?, &world.claim).await;
        match &applied.result {
            Err(error) if error.class == Class::Conflict => {}
            Err(error) => return Err(error.clone().into()),
            Ok(()) => return Ok(applied),
        }
    }
    anyhow::bail!("always a conflict")
}

#[tokio::test]
async fn a_plan_is_carried_out_and_the_next_one_is_empty() -> Result<()> {
    let mut world = World::new("pass").await?;
    world.primary().await?;
    let finalizer = world.prepare().await?.context("the plugin finalizes")?;
    assert_eq!(world.writer.execute(&finalizer, &world.claim).await.result, Ok(()));
    assert_eq!(world.prepare().await?, None);

    let (children, status) = ([config_map("c", "x"), deployment("d", 1)], json!({"phase": "Ready"}));
    let first = world.plan(&[], &children, Some(status.clone())).await?;
    assert_eq!(first.steps().len(), 3, "{:?}", first.steps());
    let applied = world.writer.execute(&first, &world.claim).await;
    assert_eq!(applied.result, Ok(()));
    assert!(applied.writes.iter().all(|w| w.applied.as_ref().is_some_and(|a| a.2.is_some())), "{applied:?}");
    world.remember(&applied);

    let known = [
        ("v1/ConfigMap", world.config_map_path("c")),
        ("apps/v1/Deployment", world.path("/apis/apps/v1", "deployments", "d")),
    ];
    world.until(&known[1].1, |(_, body)| body["status"]["availableReplicas"] == 1).await?;
    let second = world.plan(&known, &children, Some(status.clone())).await?;
    assert!(matches!(second.steps(), [Step::Status { .. }]), "the children are there: {:?}", second.steps());
    let applied = persist(&world, || world.plan(&known, &children, Some(status.clone()))).await?;
    world.remember(&applied);
    let third = world.plan(&known, &children, Some(status.clone())).await?;
    assert_eq!(third.steps(), [], "nothing would change");

    // Somebody scales what we own: seen and put right.
    world.plane.kubectl(&["scale", "deployment/d", "--replicas=3", "-n", &world.namespace]).await?;
    let plan = world.plan(&known, &children, Some(status.clone())).await?;
    assert!(matches!(plan.steps(), [Step::Update { .. }]), "{:?}", plan.steps());
    let applied = persist(&world, || world.plan(&known, &children, Some(status.clone()))).await?;
    world.remember(&applied);
    assert_eq!(world.get(&known[1].1).await?.1["spec"]["replicas"], 1);

    // No longer wanted: one kind is deleted, the other let go.
    persist(&world, || world.plan(&known[1..], &[], Some(status.clone()))).await?;
    persist(&world, || world.plan(&known[..1], &[], Some(status.clone()))).await?;
    assert_eq!(world.get(&known[0].1).await?.0, 404);
    let (_, orphan) = world.get(&known[1].1).await?;
    assert_eq!(orphan["metadata"].get("ownerReferences"), None, "{orphan}");
    assert_eq!(orphan.pointer("/metadata/labels/windlass.dev~1owned-by"), None);
    Ok(())
}

#[tokio::test]
async fn the_last_finalizer_takes_the_primary_with_it() -> Result<()> {
    let world = World::new("final").await?;
    world.primary().await?;
    let finalizer = world.prepare().await?.context("the plugin finalizes")?;
    world.writer.execute(&finalizer, &world.claim).await.result?;
    world.send("DELETE", &world.webapp_path(), "application/json", &Value::Null).await?;
    let applied = world.writer.execute(&world.finalized().await?, &world.claim).await;
    assert_eq!(applied.result, Ok(()));
    assert_eq!(applied.writes.last().map(|w| w.version), Some(None));
    assert_eq!(world.get(&world.webapp_path()).await?.0, 404);
    Ok(())
}

#[tokio::test]
async fn every_write_is_the_plugins_and_says_under_which_claim() -> Result<()> {
    let world = World::new("audit").await?;
    world.primary().await?;
    let audit = world.plane.audit()?;
    let mark = audit.mark()?;
    let plan = world.plan(&[], &[config_map("c", "x")], None).await?;
    world.writer.execute(&plan, &world.claim).await.result?;
    let account = format!("system:serviceaccount:{}:plugin-webapp", world.namespace);
    let writes = audit.writes(mark, &Writes::new().acting_as(&account).to("configmaps"))?;
    let [write] = &writes[..] else { anyhow::bail!("one write, not {}", writes.len()) };
    assert!(write.succeeded());
    assert_eq!(write.extra("windlass.dev/claim"), Some("host-0/3"));
    assert_eq!(write.extra("windlass.dev/plugin"), Some(&*format!("webapp@{}", Digest::of(b"x"))));
    Ok(())
}

#[tokio::test]
async fn what_belongs_to_somebody_else_is_not_touched_until_they_say_so() -> Result<()> {
    let mut world = World::new("owner").await?;
    world.primary().await?;
    let path = world.config_map_path("c");
    world.send("POST", &world.config_map_path(""), "application/json", &config_map("c", "theirs")).await?;
    let (_, before) = world.get(&path).await?;

    let plan = world.plan(&[], &[config_map("c", "ours")], Some(json!({"phase": "x"}))).await?;
    let applied = world.writer.execute(&plan, &world.claim).await;
    let error = applied.result.expect_err("not ours");
    assert_eq!(error.refusal.map(|r| r.code), Some(Code::NotOwner));
    assert_eq!(applied.writes.len(), 1, "the status");
    assert_eq!(world.get(&path).await?.1, before);

    world.merge(&path, &json!({"metadata": {"annotations": {"windlass.dev/adopt": "webapp"}}})).await?;
    let plan = world.plan(&[], &[config_map("c", "ours")], None).await?;
    let applied = world.writer.execute(&plan, &world.claim).await;
    assert_eq!(applied.result, Ok(()));
    world.remember(&applied);
    assert_eq!(world.get(&path).await?.1["data"]["k"], "ours");

    // A cache that has not heard of it yet.
    let stale = world.plan(&[], &[config_map("c", "ours")], None).await?;
    let error = world.writer.execute(&stale, &world.claim).await.result.expect_err("the cache is behind");
    assert_eq!((error.class, error.refusal), (Class::Conflict, None));
    let fresh = world.plan(&[("v1/ConfigMap", path)], &[config_map("c", "ours")], None).await?;
    assert_eq!(fresh.steps(), []);
    Ok(())
}

#[tokio::test]
async fn a_stale_plan_conflicts_and_changes_nothing() -> Result<()> {
    let world = World::new("stale").await?;
    world.primary().await?;
    let plan = world.plan(&[], &[], Some(json!({"phase": "late"}))).await?;
    world.merge(&world.webapp_path(), &json!({"spec": {"x": 1}})).await?;
    let error = world.writer.execute(&plan, &world.claim).await.result.expect_err("judged before");
    assert_eq!(error.class, Class::Conflict);
    assert_eq!(world.get(&world.webapp_path()).await?.1.get("status"), None);

    let plan = world.plan(&[], &[], Some(json!({"phase": "late"}))).await?;
    world.send("DELETE", &world.webapp_path(), "application/json", &Value::Null).await?;
    let error = world.writer.execute(&plan, &world.claim).await.result.expect_err("gone");
    assert_eq!(error.class, Class::Conflict, "{error}");
    assert_eq!(world.get(&world.webapp_path()).await?.0, 404, "no ghost");
    Ok(())
}

#[tokio::test]
async fn missing_rights_are_said_with_what_to_grant() -> Result<()> {
    let world = World::without_rights("rights").await?;
    world.primary().await?;
    let plan = world.plan(&[], &[config_map("c", "x")], None).await?;
    let error = world.writer.execute(&plan, &world.claim).await.result.expect_err("nothing granted");
    assert_eq!(error.class, Class::Permanent);
    let account = format!("ServiceAccount {}/plugin-webapp may not patch configmaps", world.namespace);
    assert!(error.message.contains(&account), "{error}");
    let rule = r#": - {apiGroups: [""], resources: [configmaps], verbs: [patch]}"#;
    assert!(error.message.ends_with(rule), "{error}");
    Ok(())
}

#[tokio::test]
async fn an_invalid_child_is_permanent_in_the_api_servers_words() -> Result<()> {
    let world = World::new("invalid").await?;
    world.primary().await?;
    let mut bad = deployment("d", 1);
    bad["spec"]["template"]["spec"]["containers"] = json!([]);
    let plan = world.plan(&[], &[bad], None).await?;
    let error = world.writer.execute(&plan, &world.claim).await.result.expect_err("no containers");
    assert_eq!(error.class, Class::Permanent);
    assert!(error.message.contains("spec.template.spec.containers: Required value"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_terminating_namespace_takes_nothing_new_and_says_so() -> Result<()> {
    let world = World::new("ending").await?;
    world.primary().await?;
    let plan = world.plan(&[], &[config_map("c", "x")], None).await?;
    // Keeps the namespace and its role binding from going.
    world.merge(&world.webapp_path(), &json!({"metadata": {"finalizers": ["example.com/stay"]}})).await?;
    let binding = world.path("/apis/rbac.authorization.k8s.io/v1", "rolebindings", "webapp");
    world.merge(&binding, &json!({"metadata": {"finalizers": ["example.com/stay"]}})).await?;
    let namespace = format!("/api/v1/namespaces/{}", world.namespace);
    world.send("DELETE", &namespace, "application/json", &Value::Null).await?;
    let error = world.writer.execute(&plan, &world.claim).await.result.expect_err("terminating");
    assert_eq!(error.class, Class::Permanent);
    assert!(error.message.contains("namespace is terminating"), "{error}");
    for path in [world.webapp_path(), binding] {
        world.merge(&path, &json!({"metadata": {"finalizers": null}})).await?;
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_sent_without_the_claim() -> Result<()> {
    let world = World::new("claim").await?;
    world.primary().await?;
    let plan = world.plan(&[], &[config_map("c", "x")], None).await?;
    world.gate.close();
    let applied = world.writer.execute(&plan, &world.claim).await;
    assert_eq!(applied.result.expect_err("no claim").class, Class::Fatal);
    assert_eq!(world.get(&world.config_map_path("c")).await?.0, 404);
    Ok(())
}

#[tokio::test]
async fn an_event_is_seen_by_kubectl_describe() -> Result<()> {
    let world = World::new("event").await?;
    world.primary().await?;
    let primary = world.object("apply.windlass.dev/v1/WebApp", &world.webapp_path()).await?;
    let on = EventTarget {
        object: primary.reference(&crate::world::gvk("apply.windlass.dev/v1/WebApp")),
        uid: primary.meta().uid.clone(),
        plugin: Some(PluginName::try_new("webapp")?),
        digest: None,
    };
    let notice = Notice {
        severity: Severity::Warning,
        reason: "NoImage".to_owned(),
        message: "image is missing".to_owned(),
    };
    world.writer.notify(&on, &notice, &world.claim).await;
    let said =
        world.plane.kubectl(&["describe", "webapps.apply.windlass.dev", "a", "-n", &world.namespace]).await?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let line = said.lines().find(|line| line.contains("NoImage")).with_context(|| said.clone())?;
    for part in ["Warning", "windlass", "image is missing"] {
        assert!(line.contains(part), "{line}");
    }

    // Another leader, with the same thing to say, raises the same Event.
    let other = world.writer_of("host-1")?;
    other.notify(&on, &notice, &world.claim).await;
    let (_, events) = world.get(&world.path("/api/v1", "events", "")).await?;
    let found: Vec<&Value> =
        events["items"].as_array().into_iter().flatten().filter(|e| e["reason"] == "NoImage").collect();
    assert_eq!(found.len(), 1, "{events}");
    Ok(())
}

#[tokio::test]
async fn an_event_on_a_cluster_scoped_object_is_accepted() -> Result<()> {
    let world = World::without_rights("cluster").await?;
    let (_, namespace) = world.get(&format!("/api/v1/namespaces/{}", world.namespace)).await?;
    let uid: Arc<str> = namespace["metadata"]["uid"].as_str().context("uid")?.into();
    let object = windlass_core::key::ObjectRef {
        gvk: crate::world::gvk("v1/Namespace"),
        namespace: "".into(),
        name: world.namespace.as_str().into(),
    };
    let notice =
        Notice { severity: Severity::Normal, reason: "Seen".to_owned(), message: "hello".to_owned() };
    world
        .writer
        .notify(&EventTarget { object, uid: uid.clone(), plugin: None, digest: None }, &notice, &world.claim)
        .await;
    let (_, events) = world
        .get(&format!("/api/v1/namespaces/default/events?fieldSelector=involvedObject.uid%3D{uid}"))
        .await?;
    assert_eq!(events["items"].as_array().map(Vec::len), Some(1), "{events}");
    Ok(())
}

#[tokio::test]
async fn a_plugins_state_is_announced_on_its_config_map() -> Result<()> {
    let world = World::without_rights("state").await?;
    let path = world.config_map_path("webapp");
    world.apply(&path, &config_map("webapp", "x")).await?;
    let seen = world.object("v1/ConfigMap", &path).await?;
    let digest = Digest::of(b"x");
    let what =
        Announcement { state: "serving", digest: Some(&digest), message: "", since: jiff::Timestamp::now() };
    let on = |annotations| PluginConfigMap {
        namespace: world.namespace.as_str().into(),
        name: "webapp".into(),
        uid: seen.meta().uid.clone(),
        annotations,
    };
    let none = BTreeMap::new();
    assert_eq!(world.writer.announce(&on(&none), &what, &world.claim).await, Ok(true));
    let after = world.object("v1/ConfigMap", &path).await?;
    assert_eq!(after.meta().annotation("windlass.dev/state"), Some("serving"));
    let said = after.meta().annotations().map(|(name, value)| (name.into(), value.into())).collect();
    assert_eq!(world.writer.announce(&on(&said), &what, &world.claim).await, Ok(false));
    let (_, events) = world.get(&world.path("/api/v1", "events", "")).await?;
    assert_eq!(events["items"][0]["reason"], "PluginServing", "{events}");

    let mut other = on(&none);
    other.uid = "00000000-0000-0000-0000-000000000000".into();
    let error = world.writer.announce(&other, &what, &world.claim).await.expect_err("another incarnation");
    assert_eq!(error.class, Class::Conflict);
    Ok(())
}

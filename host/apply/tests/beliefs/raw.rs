//! The API server's own behaviour, without the writer.

use anyhow::Result;
use serde_json::{Value, json};
use windlass_core::object::Meta;

use crate::world::{MANAGER, World, config_map, deployment};

fn with(mut body: Value, uid: Option<&str>, version: &str) -> Value {
    body["metadata"]["resourceVersion"] = version.into();
    if let Some(uid) = uid {
        body["metadata"]["uid"] = uid.into();
    }
    body
}

fn uid(body: &Value) -> &str {
    body["metadata"]["uid"].as_str().unwrap_or_default()
}

fn version(body: &Value) -> &str {
    body["metadata"]["resourceVersion"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn an_apply_at_version_1_creates_and_never_overwrites() -> Result<()> {
    let world = World::without_rights("create").await?;
    for (path, body, other) in [
        (world.config_map_path("c"), config_map("c", "ours"), config_map("c", "other")),
        (world.path("/apis/apps/v1", "deployments", "d"), deployment("d", 1), deployment("d", 2)),
        (
            world.webapp_path(),
            json!({"apiVersion": "apply.windlass.dev/v1", "kind": "WebApp", "metadata": {"name": "a"}, "spec": {"x": 1}}),
            json!({"apiVersion": "apply.windlass.dev/v1", "kind": "WebApp", "metadata": {"name": "a"}, "spec": {"x": 2}}),
        ),
    ] {
        let (code, made) = world.apply(&path, &with(body.clone(), None, "1")).await?;
        assert_eq!(code, 201, "{made}");
        for again in [&body, &other] {
            let (code, answer) = world.apply(&path, &with(again.clone(), None, "1")).await?;
            assert_eq!((code, &answer["reason"]), (409, &json!("Conflict")), "{answer}");
        }
        let (_, live) = world.get(&path).await?;
        assert_eq!(uid(&live), uid(&made));
        assert_eq!(
            live.get("data").or(live.pointer("/spec/x")),
            made.get("data").or(made.pointer("/spec/x"))
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_apply_with_the_uid_of_a_deleted_object_does_not_make_it_again() -> Result<()> {
    let world = World::without_rights("deleted").await?;
    let path = world.config_map_path("c");
    let (_, made) = world.apply(&path, &config_map("c", "x")).await?;
    world.send("DELETE", &path, "application/json", &Value::Null).await?;
    let late = with(config_map("c", "late"), Some(uid(&made)), version(&made));
    let (code, answer) = world.apply(&path, &late).await?;
    assert_eq!(code, 409, "{answer}");
    assert_eq!(world.get(&path).await?.0, 404);

    // Nor does it reach the next object of that name.
    let (_, next) = world.apply(&path, &config_map("c", "next")).await?;
    let (code, _) = world.apply(&path, &late).await?;
    assert_eq!(code, 409);
    let (_, live) = world.get(&path).await?;
    assert_eq!((uid(&live), &live["data"]["k"]), (uid(&next), &json!("next")));
    Ok(())
}

#[tokio::test]
async fn an_apply_of_another_version_than_was_judged_conflicts_in_spite_of_force() -> Result<()> {
    let world = World::without_rights("judged").await?;
    let path = world.config_map_path("c");
    let (_, made) = world.apply(&path, &config_map("c", "x")).await?;
    world.merge(&path, &json!({"data": {"other": "y"}})).await?;
    let (code, _) = world.apply(&path, &with(config_map("c", "z"), Some(uid(&made)), version(&made))).await?;
    assert_eq!(code, 409);
    Ok(())
}

#[tokio::test]
async fn only_a_foreign_edit_of_a_field_that_we_own_changes_our_entry() -> Result<()> {
    let world = World::without_rights("entry").await?;
    let (path, of) = (world.config_map_path("c"), "v1/ConfigMap");
    world.apply(&path, &config_map("c", "x")).await?;
    let ours = world.entry(of, &path).await?;
    assert!(ours.is_some());

    world.merge(&path, &json!({"data": {"theirs": "y"}, "metadata": {"labels": {"l": "v"}}})).await?;
    assert_eq!(world.entry(of, &path).await?, ours, "fields of their own");
    world.merge(&path, &json!({"data": {"k": "edited"}})).await?;
    assert_ne!(world.entry(of, &path).await?, ours, "a field of ours");
    world.apply(&path, &config_map("c", "x")).await?;
    assert_eq!(world.entry(of, &path).await?, ours, "ours again");
    world.merge(&path, &json!({"data": {"k": null}})).await?;
    assert_ne!(world.entry(of, &path).await?, ours, "a field of ours removed");
    Ok(())
}

#[tokio::test]
async fn scaling_changes_our_entry_and_the_controllers_status_does_not() -> Result<()> {
    let world = World::without_rights("scale").await?;
    let (path, of) = (world.path("/apis/apps/v1", "deployments", "d"), "apps/v1/Deployment");
    world.apply(&path, &deployment("d", 1)).await?;
    let ours = world.entry(of, &path).await?;
    world.until(&path, |(_, body)| body["status"]["availableReplicas"] == 1).await?;
    assert_eq!(world.entry(of, &path).await?, ours, "defaults, status and the controller's annotations");

    let scaled =
        world.plane.kubectl(&["scale", "deployment/d", "--replicas=3", "-n", &world.namespace]).await?;
    assert!(scaled.status.success());
    assert_ne!(world.entry(of, &path).await?, ours);
    Ok(())
}

#[tokio::test]
async fn an_apply_that_changes_nothing_moves_no_version() -> Result<()> {
    let world = World::without_rights("noop").await?;
    let path = world.config_map_path("c");
    let (_, made) = world.apply(&path, &config_map("c", "x")).await?;
    let (code, again) =
        world.apply(&path, &with(config_map("c", "x"), Some(uid(&made)), version(&made))).await?;
    assert_eq!((code, version(&again)), (200, version(&made)));
    Ok(())
}

#[tokio::test]
async fn a_merge_patch_for_another_version_conflicts_and_for_another_uid_is_invalid() -> Result<()> {
    let world = World::without_rights("merge").await?;
    world.primary().await?;
    let (path, webapp) = (world.config_map_path("c"), world.webapp_path());
    world.apply(&path, &config_map("c", "x")).await?;
    for path in [path, webapp] {
        let (_, live) = world.get(&path).await?;
        let patch = |uid: &str, version: &str| json!({"metadata": {"uid": uid, "resourceVersion": version, "finalizers": ["windlass.dev/webapp"]}});
        let other = "00000000-0000-0000-0000-000000000000";
        assert_eq!(world.merge(&path, &patch(other, "2")).await?.0, 409, "as of another incarnation");
        let (code, answer) = world.merge(&path, &patch(other, version(&live))).await?;
        assert_eq!((code, &answer["details"]["causes"][0]["field"]), (422, &json!("metadata.uid")));
        assert_eq!(world.merge(&path, &patch(uid(&live), "2")).await?.0, 409);
        assert_eq!(world.merge(&path, &patch(uid(&live), version(&live))).await?.0, 200);
        let (_, live) = world.get(&path).await?;
        assert_eq!(live["metadata"]["finalizers"], json!(["windlass.dev/webapp"]));
        assert_eq!(world.merge(&path, &json!({"metadata": {"finalizers": null}})).await?.0, 200);
    }
    Ok(())
}

#[tokio::test]
async fn a_merge_patch_makes_no_object() -> Result<()> {
    let world = World::without_rights("ghost").await?;
    let (code, _) = world
        .merge(&world.webapp_path(), &json!({"metadata": {"finalizers": ["windlass.dev/webapp"]}}))
        .await?;
    assert_eq!(code, 404);
    Ok(())
}

#[tokio::test]
async fn a_delete_reaches_only_the_object_that_was_judged() -> Result<()> {
    let world = World::without_rights("delete").await?;
    let path = world.config_map_path("c");
    let (_, made) = world.apply(&path, &config_map("c", "x")).await?;
    let options = |uid: &str, version: &str| json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid, "resourceVersion": version}});
    assert_eq!(
        world.send("DELETE", &path, "application/json", &options("another", version(&made))).await?.0,
        409
    );
    assert_eq!(world.send("DELETE", &path, "application/json", &options(uid(&made), "2")).await?.0, 409);
    let (code, answer) =
        world.send("DELETE", &path, "application/json", &options(uid(&made), version(&made))).await?;
    assert_eq!((code, &answer["kind"]), (200, &json!("Status")), "{answer}");
    assert_eq!(world.get(&path).await?.0, 404);
    Ok(())
}

#[tokio::test]
async fn a_timeout_in_milliseconds_is_understood() -> Result<()> {
    let world = World::without_rights("timeout").await?;
    let path = world.config_map_path("c");
    let nonsense = format!("{path}?fieldManager=x&timeout=nonsense");
    assert_eq!(
        world.send("PATCH", &nonsense, "application/apply-patch+yaml", &config_map("c", "x")).await?.0,
        400
    );
    let good = format!("{path}?fieldManager=x&timeout=1500ms");
    assert_eq!(
        world.send("PATCH", &good, "application/apply-patch+yaml", &config_map("c", "x")).await?.0,
        201
    );
    Ok(())
}

/// What an answer to a write says of the object is what the object says of itself: names and versions, and in bytes our own
/// entry, odd names and all, whose hash is compared with what the watch brings later.
#[tokio::test]
async fn an_answer_of_metadata_alone_has_our_entry_as_the_object_has_it() -> Result<()> {
    let world = World::without_rights("partial").await?;
    let mut odd = config_map("c", "x");
    odd["data"] = json!({"k": "x", "a.b_c-d": "<&>", "0": "\u{fc}"});
    let web_app = json!({
        "apiVersion": "apply.windlass.dev/v1", "kind": "WebApp", "metadata": {"name": "a"},
        "spec": {"x": 1, "<&>": {"\u{fc} \"": [{"z": 1, "a": null}]}, "B": {}, "a": [1]},
    });
    for (path, body) in [
        (world.config_map_path("c"), odd),
        (world.path("/apis/apps/v1", "deployments", "d"), deployment("d", 1)),
        (world.webapp_path(), web_app),
    ] {
        let (code, text) = world.apply_for_metadata(&path, &body).await?;
        let answer: Value = serde_json::from_str(&text)?;
        assert_eq!((code, &answer["kind"]), (201, &json!("PartialObjectMetadata")), "{text}");
        assert!(answer.get("spec").or(answer.get("data")).is_none(), "{text}");
        let (said, live) = (Meta::parse(&text)?, Meta::parse(&world.text(&path).await?)?);
        assert_eq!((&said.name, &said.uid, said.deleting), (&live.name, &live.uid, false));
        assert!(said.version() <= live.version() && said.version() > 0);
        assert!(said.entry(MANAGER, false).is_some());
        assert_eq!(said.entry(MANAGER, false), live.entry(MANAGER, false), "{text}");
        let late = with(body, None, "1");
        let (code, refused) = world.apply_for_metadata(&path, &late).await?;
        let refused: Value = serde_json::from_str(&refused)?;
        assert_eq!((code, &refused["kind"]), (409, &json!("Status")), "{refused}");
    }
    Ok(())
}

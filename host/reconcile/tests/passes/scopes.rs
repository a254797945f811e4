//! What a plugin sees of what is held, and what becomes of a primary that it does not select any more.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use windlass_core::manifest::{Manifest, ReadRule};
use windlass_core::ports::{CallError, Reader};
use windlass_core::reads::Query;
use windlass_core::scope::Scope;

use crate::world::{CONFIG_MAP, WEB, World, decision, gvk, key, ms, object, one_child, serving_with};

const SECRET: &str = "v1/Secret";

/// Reads Secrets: whole ones of tier web in `ns` and `two`, and the metadata of all of team a in `two`.
fn reads(manifest: &mut Manifest) {
    let read = |labels: (&str, &str), namespaces: &[&str], metadata_only: bool| {
        let namespaces = namespaces.iter().map(|namespace| (*namespace).to_owned()).collect();
        let labels = Scope::of_labels([(labels.0.to_owned(), labels.1.to_owned())]);
        ReadRule { kind: gvk(SECRET), scope: Scope { namespaces, metadata_only, ..labels } }
    };
    manifest.reads = vec![read(("tier", "web"), &["ns", "two"], false), read(("team", "a"), &["two"], true)];
}

/// What a question was answered with.
type Answered = Result<Vec<String>, String>;

/// What one question of a pass is answered with: `namespace/name` of each object, `*` if it is whole; or the refusal.
async fn asked(
    change: impl FnOnce(&mut Manifest),
    ask: impl Fn(&dyn Reader) -> Result<Vec<String>, windlass_core::code::Refusal> + Send + Sync + 'static,
) -> Answered {
    let answer: Arc<Mutex<Option<Answered>>> = Arc::default();
    let kept = answer.clone();
    let world = World::leader(move |_, _, reader| {
        let said = ask(reader);
        *kept.lock().expect("nobody panics") = Some(said.clone().map_err(|refusal| refusal.to_string()));
        said.map(|_| decision(&[])).unwrap_or_else(|refusal| Err(CallError::Refused(refusal)))
    });
    world.brain.serve(serving_with(change));
    let put = |namespace: &str, name: &str, labels: Value| {
        let of = windlass_core::key::ObjectRef {
            gvk: gvk(SECRET),
            namespace: namespace.into(),
            name: name.into(),
        };
        world.cluster.put(&of, json!({"metadata": {"labels": labels}, "data": {"k": "dg=="}}));
    };
    put("ns", "web", json!({"tier": "web", "team": "a"}));
    put("ns", "db", json!({"tier": "db", "team": "a"}));
    put("two", "web", json!({"tier": "web"}));
    put("two", "a", json!({"team": "a"}));
    put("three", "web", json!({"tier": "web", "team": "a"}));
    world.cluster.web("a");
    world.run_for(ms(10)).await;
    let answer = answer.lock().expect("nobody panics").take();
    answer.expect("it was asked")
}

fn shown(objects: &[Arc<windlass_core::object::Object>]) -> Vec<String> {
    let one = |object: &Arc<windlass_core::object::Object>| {
        let whole = if object.value().get("data").is_some() { "*" } else { "" };
        format!("{}/{}{whole}", object.meta().namespace, object.meta().name)
    };
    objects.iter().map(one).collect()
}

fn list(namespace: Option<&str>, labels: &[(&str, &str)]) -> Query {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Query { gvk: gvk(SECRET), namespace: namespace.map(Into::into), labels }
}

#[tokio::test(start_paused = true)]
async fn a_plugin_sees_its_own_part_of_what_is_held() {
    for (query, expected) in [
        (list(None, &[]), &["ns/web*", "two/a", "two/web*"][..]),
        (list(Some("two"), &[]), &["two/a", "two/web*"]),
        (list(None, &[("team", "a")]), &["ns/web*", "two/a"]),
        (list(Some("ns"), &[("tier", "web")]), &["ns/web*"]),
        (list(Some("ns"), &[("other", "x")]), &[]),
    ] {
        let text = format!("{query:?}");
        let answer = asked(reads, move |reader| reader.list(&query).map(|found| shown(&found))).await;
        assert_eq!(
            answer.as_deref(),
            Ok(&*expected.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>()),
            "{text}"
        );
    }
    for (namespace, name, expected) in [("ns", "web", 1), ("ns", "db", 0), ("two", "a", 1)] {
        let of = windlass_core::key::ObjectRef {
            gvk: gvk(SECRET),
            namespace: namespace.into(),
            name: name.into(),
        };
        let answer =
            asked(reads, move |reader| Ok(shown(&reader.get(&of)?.into_iter().collect::<Vec<_>>()))).await;
        assert_eq!(answer.expect("declared").len(), expected, "{namespace}/{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_outside_of_the_manifest_is_refused_with_both_sides() {
    let declared = "its manifest declares labels tier=web; namespaces ns, two, or labels team=a; namespaces two; metadata only";
    let answer =
        asked(reads, |reader| reader.list(&list(Some("three"), &[])).map(|found| shown(&found))).await;
    let says = format!("E231 ReadNotAllowed: v1/Secret: web asked for namespace \"three\"; {declared}");
    assert_eq!(answer, Err(says.clone()));
    let of = windlass_core::key::ObjectRef { gvk: gvk(SECRET), namespace: "three".into(), name: "x".into() };
    let answer = asked(reads, move |reader| reader.get(&of).map(|_| Vec::new())).await;
    assert_eq!(answer, Err(says));
    let query = list(Some("ns"), &[("tier", "db")]);
    let answer = asked(reads, move |reader| reader.list(&query).map(|found| shown(&found))).await;
    let refusal = answer.expect_err("it can never be answered");
    assert!(
        refusal.contains("web asked for labels tier=db; its manifest declares labels tier=web"),
        "{refusal}"
    );
    // The first version of the contract promised nothing but an empty answer.
    let loose = |manifest: &mut Manifest| {
        reads(manifest);
        manifest.strict = false;
    };
    let query = list(Some("ns"), &[("tier", "db")]);
    let answer = asked(loose, move |reader| reader.list(&query).map(|found| shown(&found))).await;
    assert_eq!(answer, Ok(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn of_a_childs_kind_only_what_was_made_here_is_seen() {
    let world = World::leader(|pass, _, reader| {
        let query = Query { gvk: gvk(CONFIG_MAP), namespace: None, labels: Vec::new() };
        let found = reader.list(&query).expect("declared");
        let names: Vec<String> = found.iter().map(|object| object.meta().name.to_string()).collect();
        decision(&[json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": &*pass.key.name},
            "data": {"seen": names.join(",")}})])
    });
    world.cluster.put(&object(CONFIG_MAP, "strangers"), json!({"metadata": {}}));
    world.cluster.web("a");
    world.run_for(ms(2000)).await;
    let made = world.cluster.stored(&object(CONFIG_MAP, "a")).expect("made");
    assert_eq!(made["data"]["seen"], "a", "as if nobody else had asked for ConfigMaps");
}

fn by_label(manifest: &mut Manifest) {
    manifest.selects = Scope::of_labels([("tier".to_owned(), "web".to_owned())]);
}

fn tier(world: &World, value: &str) {
    world.cluster.put(&object(WEB, "a"), json!({"metadata": {"labels": {"tier": value}}}));
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_is_not_selected_is_nobodys_and_one_that_loses_its_label_is_let_go() {
    let world = one_child();
    world.brain.serve(serving_with(by_label));
    tier(&world, "db");
    world.run_for(ms(1000)).await;
    assert_eq!((world.cluster.log().len(), world.brain.calls()), (0, 0));
    tier(&world, "web");
    world.run_for(ms(1000)).await;
    assert_eq!(world.cluster.log(), ["create v1/ConfigMap ns/a"]);
    let calls = world.brain.calls();
    tier(&world, "db");
    world.run_for(ms(5000)).await;
    assert_eq!(world.cluster.log()[1..], ["delete v1/ConfigMap ns/a"]);
    assert_eq!(world.brain.calls(), calls, "nothing is asked");
    assert!(world.queue.is_empty());
    tier(&world, "web");
    world.run_for(ms(1000)).await;
    assert_eq!(world.cluster.log()[2..], ["create v1/ConfigMap ns/a"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_made_for_a_primary_that_is_gone_is_left_to_the_api_server() {
    let world = one_child();
    world.brain.serve(serving_with(by_label));
    tier(&world, "web");
    world.run_for(ms(1000)).await;
    world.cluster.delete(&object(WEB, "a"));
    world.offer("a");
    world.run_for(ms(5000)).await;
    assert_eq!(world.cluster.log(), ["create v1/ConfigMap ns/a"]);
}

#[tokio::test(start_paused = true)]
async fn a_standby_leaves_what_is_not_selected_any_more_to_the_leader() {
    let world = one_child();
    world.brain.serve(serving_with(by_label));
    tier(&world, "web");
    world.run_for(ms(1000)).await;
    world.step_down();
    tier(&world, "db");
    world.run_for(ms(5000)).await;
    assert_eq!((world.cluster.log().len(), world.queue.parked()), (1, 1));
    world.lead(2);
    world.run_for(ms(5000)).await;
    assert_eq!(world.cluster.log()[1..], ["delete v1/ConfigMap ns/a"]);
    assert!(world.cluster.reads(&key("a")).is_none());
}

//! The steps and their order against a scripted API server, on paused time.

mod fence;
mod flow;

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use windlass_core::class::Class;
use windlass_core::code::Code;
use windlass_core::name::Digest;
use windlass_core::plan::Step;
use windlass_core::ports::{Applied, Written};

use crate::fake::{Api, Say, child, claim, key, primary, stored, target};

async fn run(api: &Api, steps: &[Step]) -> Applied {
    api.writer().run(&key(), &Digest::of(b"x"), &primary(), steps, &claim()).await
}

fn body_of(kind: &str) -> Value {
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "a-cfg", "namespace": "ns"}, "data": {"k": "v"}})
}

fn create() -> Step {
    let child = child();
    Step::Create {
        kind: child.kind,
        object: child.object,
        body: body_of("ConfigMap"),
        wanted: "h1".to_owned(),
    }
}

fn update() -> Step {
    Step::Update { target: child(), body: body_of("ConfigMap"), wanted: "h1".to_owned() }
}

fn delete() -> Step {
    Step::Delete { target: child() }
}

fn orphan() -> Step {
    Step::Orphan { target: child(), patch: json!({"metadata": {"labels": {"windlass.dev/owned-by": null}}}) }
}

fn finalizers() -> Step {
    Step::Finalizers { finalizers: vec!["windlass.dev/webapp".to_owned()] }
}

fn status() -> Step {
    let body = json!({"apiVersion": "example.com/v1", "kind": "WebApp", "metadata": {"name": "a", "namespace": "ns"}, "status": {"ok": true}});
    Step::Status { body, wanted: "s1".to_owned() }
}

fn failure(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "status": "Failure", "code": code, "message": message})
}

fn class_of(applied: &Applied) -> Option<Class> {
    applied.result.as_ref().err().map(|error| error.class)
}

fn versions(applied: &Applied) -> Vec<(&str, Option<u64>)> {
    applied.writes.iter().map(|w| (&*w.uid, w.version)).collect()
}

/// The live object that a create ran into.
fn live(labels: &Value, annotations: &Value, controller: Option<&str>) -> Value {
    let mut object = stored(&child(), "77");
    object["metadata"]["labels"] = labels.clone();
    object["metadata"]["annotations"] = annotations.clone();
    if let Some(uid) = controller {
        object["metadata"]["ownerReferences"] = json!([{"uid": uid, "controller": true}]);
    }
    object
}

fn our_labels() -> Value {
    json!({"windlass.dev/owned-by": "webapp", "windlass.dev/host": "sys"})
}

#[tokio::test(start_paused = true)]
async fn every_write_names_what_it_saw_and_is_held_on_the_wire() {
    let api = Api::new();
    api.primary_is_at("101");
    api.answer(StatusCode::OK, stored(&primary(), "101"));
    api.answer(StatusCode::CREATED, stored(&child(), "102"));
    api.answer(StatusCode::OK, stored(&child(), "103"));
    api.answer(StatusCode::OK, stored(&child(), "104"));
    api.answer(StatusCode::OK, json!({"kind": "Status", "status": "Success"}));
    api.answer(StatusCode::OK, stored(&primary(), "105"));
    let steps = [finalizers(), create(), update(), orphan(), delete(), status()];
    let writer = api.writer();
    assert!(writer.leaves_status(&primary().uid), "so that this plan has to write it");
    let applied = writer.run(&key(), &Digest::of(b"x"), &primary(), &steps, &claim()).await;
    assert_eq!(applied.result, Ok(()));
    let expected = [
        ("p1", Some(101)),
        ("c1", Some(102)),
        ("c1", Some(103)),
        ("c1", Some(104)),
        ("c1", None),
        ("p1", Some(105)),
    ];
    assert_eq!(versions(&applied), expected);

    let requests = api.requests();
    let sent: Vec<(&str, &str, Option<&str>, Option<&str>)> = requests
        .iter()
        .map(|r| {
            let metadata = r.body.get("preconditions").unwrap_or(&r.body["metadata"]);
            (&*r.method, &*r.path, metadata["uid"].as_str(), metadata["resourceVersion"].as_str())
        })
        .collect();
    let (webapp, config_map) =
        ("/apis/example.com/v1/namespaces/ns/webapps/a", "/api/v1/namespaces/ns/configmaps/a-cfg");
    let webapp_status = format!("{webapp}/status");
    assert_eq!(
        sent,
        [
            ("PATCH", webapp, Some("p1"), Some("100")),
            ("PATCH", config_map, None, Some("1")),
            ("PATCH", config_map, Some("c1"), Some("42")),
            ("PATCH", config_map, Some("c1"), Some("42")),
            ("DELETE", config_map, Some("c1"), Some("42")),
            // Its own finalizer patch moved the primary to 101.
            ("PATCH", &webapp_status, Some("p1"), Some("101")),
        ]
    );
    for (number, request) in requests.iter().enumerate() {
        // Orphan and delete, the fourth and the fifth, go together.
        let most = if matches!(number, 3 | 4) { 2 } else { 1 };
        assert!((1..=most).contains(&request.in_flight), "{} {}", request.method, request.path);
        assert!(request.query.contains("timeout=5000ms"), "{}", request.query);
        assert_eq!(request.headers["impersonate-user"], "system:serviceaccount:sys:plugin-webapp");
        assert_eq!(request.headers["impersonate-extra-windlass.dev%2fclaim"], "host-0/3");
        // A removal is answered with a Status, or with an object that stays for a while.
        let for_metadata = request.headers["accept"].as_bytes().starts_with(b"application/json;as=Partial");
        assert_eq!(for_metadata, request.method == "PATCH", "{} {}", request.method, request.path);
    }
    assert_eq!(api.gate.in_flight(), 0);
    assert_eq!(
        requests[1].query,
        "force=true&fieldValidation=Warn&fieldManager=windlass%2Fwebapp&timeout=5000ms"
    );
    assert_eq!(requests[4].body["propagationPolicy"], "Background");
}

#[tokio::test(start_paused = true)]
async fn an_apply_tells_memory_what_was_applied_and_what_our_entry_is_now() {
    let api = Api::new();
    api.answer(StatusCode::OK, stored(&child(), "43"));
    api.answer(StatusCode::OK, stored(&primary(), "101"));
    let applied = run(&api, &[update(), status()]).await;
    let [child, status] = &applied.writes[..] else { panic!("two writes") };
    let (of_child, of_status) =
        (child.applied.clone().expect("apply"), status.applied.clone().expect("apply"));
    assert_eq!((of_child.0, &*of_child.1), (false, "h1"));
    assert_eq!((of_status.0, &*of_status.1), (true, "s1"));
    assert!(of_child.2.is_some() && of_status.2.is_some());
    assert_ne!(of_child.2, of_status.2);
}

#[tokio::test(start_paused = true)]
async fn a_claim_lost_between_two_steps_ends_the_plan_before_the_next_request() {
    let api = Api::new();
    api.always(StatusCode::OK, stored(&child(), "43"));
    let gate = api.gate.clone();
    api.hook(move |_| gate.close());
    let applied = run(&api, &[update(), update(), status()]).await;
    assert_eq!(class_of(&applied), Some(Class::Fatal));
    assert_eq!(versions(&applied), [("c1", Some(43))], "what was written before is told");
    assert_eq!(api.requests().len(), 1);
    assert_eq!(api.gate.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_inside_the_claim() {
    let api = Api::new();
    // The claim ends at 10 s.
    api.clock.set(Duration::from_millis(9_000));
    api.say(Say::Silence);
    api.answer(StatusCode::OK, stored(&child(), "42"));
    let began = tokio::time::Instant::now();
    let applied = run(&api, &[update()]).await;
    assert_eq!(began.elapsed(), Duration::from_secs(1), "given up when the claim ends, then read back");
    assert!(api.requests()[0].query.ends_with("timeout=1000ms"), "{}", api.requests()[0].query);
    assert_eq!(class_of(&applied), Some(Class::Transient));
    let read = &api.requests()[1];
    assert_eq!((&*read.method, read.in_flight), ("GET", 0), "a read needs no permit");

    api.clock.set(Duration::from_millis(9_800));
    let applied = run(&api, &[update()]).await;
    assert_eq!(class_of(&applied), Some(Class::Fatal), "less than 250 ms are left");
    assert_eq!(api.requests().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_was_lost_is_read_back_and_its_version_told() {
    let broken = [
        Say::Silence,
        Say::Cut,
        Say::Reply(StatusCode::GATEWAY_TIMEOUT, Vec::new(), b"{}".to_vec()),
        Say::Reply(StatusCode::INTERNAL_SERVER_ERROR, Vec::new(), b"{}".to_vec()),
        Say::Reply(StatusCode::OK, Vec::new(), b"<html>".to_vec()),
        Say::Reply(StatusCode::OK, Vec::new(), br#"{"kind":"Status","metadata":{}}"#.to_vec()),
        Say::Reply(StatusCode::OK, Vec::new(), br#"{"metadata":{"name":"a-c"#.to_vec()),
        Say::Reply(StatusCode::OK, Vec::new(), stored(&primary(), "9").to_string().into_bytes()),
    ];
    for say in broken {
        let api = Api::new();
        api.say(say);
        api.answer(StatusCode::OK, stored(&child(), "43"));
        let applied = run(&api, &[update(), status()]).await;
        assert_eq!(class_of(&applied), Some(Class::Transient));
        assert_eq!(versions(&applied), [("c1", Some(43))]);
        assert_eq!(applied.writes[0].applied, None, "the next pass compares values");
        assert_eq!(api.requests().len(), 2, "nothing after it");
    }
}

#[tokio::test(start_paused = true)]
async fn reading_back_tells_what_is_gone_and_not_what_is_unchanged() {
    type Versions = Vec<(&'static str, Option<u64>)>;
    let table: [(Step, StatusCode, Value, Versions); 5] = [
        (update(), StatusCode::OK, stored(&child(), "42"), vec![]),
        (delete(), StatusCode::NOT_FOUND, failure(404, "gone"), vec![("c1", None)]),
        (
            delete(),
            StatusCode::OK,
            stored(&target("v1/ConfigMap", "configmaps", "a-cfg", "c2", "50"), "50"),
            vec![("c1", None)],
        ),
        (
            create(),
            StatusCode::OK,
            live(&our_labels(), &json!({"windlass.dev/primary": "ns/a"}), Some("p1")),
            vec![("c1", Some(77))],
        ),
        (create(), StatusCode::OK, live(&json!({}), &json!({}), None), vec![]),
    ];
    for (step, code, body, expected) in table {
        let api = Api::new();
        api.say(Say::Cut);
        api.answer(code, body);
        let applied = run(&api, std::slice::from_ref(&step)).await;
        assert_eq!(class_of(&applied), Some(Class::Transient), "{step:?}");
        assert_eq!(versions(&applied), expected, "{step:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_never_sent_is_not_read_back() {
    for (say, class) in [
        (Say::Refuse, Class::Transient),
        (Say::Reply(StatusCode::TOO_MANY_REQUESTS, Vec::new(), b"{}".to_vec()), Class::Transient),
        (Say::Reply(StatusCode::SERVICE_UNAVAILABLE, Vec::new(), b"{}".to_vec()), Class::Transient),
        (Say::Reply(StatusCode::CONFLICT, Vec::new(), b"{}".to_vec()), Class::Conflict),
    ] {
        let api = Api::new();
        api.say(say);
        let applied = run(&api, &[update()]).await;
        assert_eq!(class_of(&applied), Some(class));
        assert_eq!(api.requests().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn the_pause_that_the_server_asks_for_is_passed_on() {
    let api = Api::new();
    api.say(Say::Reply(StatusCode::TOO_MANY_REQUESTS, vec![("retry-after", "7".to_owned())], b"{}".to_vec()));
    let error = run(&api, &[update(), status()]).await.result.expect_err("429");
    assert_eq!((error.class, error.retry_after), (Class::Transient, Some(Duration::from_secs(7))));
    assert_eq!(api.requests().len(), 1, "nothing is sent into a server that asks for a pause");
}

#[tokio::test(start_paused = true)]
async fn one_bad_child_keeps_neither_its_siblings_nor_the_status_from_being_written() {
    let api = Api::new();
    api.answer(StatusCode::UNPROCESSABLE_ENTITY, failure(422, "spec.x: Required value"));
    api.answer(StatusCode::CONFLICT, failure(409, "the object has been modified"));
    api.answer(StatusCode::OK, stored(&child(), "43"));
    api.answer(StatusCode::OK, stored(&primary(), "101"));
    let applied = run(&api, &[update(), delete(), update(), status()]).await;
    assert_eq!(versions(&applied), [("c1", Some(43)), ("p1", Some(101))]);
    let error = applied.result.expect_err("the first");
    assert_eq!(error.class, Class::Permanent);
    assert_eq!(
        error.message,
        "update v1/ConfigMap ns/a-cfg: invalid, correct the object or the plugin: spec.x: Required value"
    );
}

#[tokio::test(start_paused = true)]
async fn what_stops_the_plan_decides_how_it_ended() {
    let api = Api::new();
    api.answer(StatusCode::UNPROCESSABLE_ENTITY, failure(422, "bad"));
    api.answer(StatusCode::SERVICE_UNAVAILABLE, failure(503, "overloaded"));
    let applied = run(&api, &[update(), update(), status()]).await;
    assert_eq!(class_of(&applied), Some(Class::Transient));
    assert_eq!(api.requests().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn children_are_not_made_without_the_finalizer_that_would_clean_them_up() {
    let api = Api::new();
    api.answer(StatusCode::CONFLICT, failure(409, "the object has been modified"));
    let applied = run(&api, &[finalizers(), create(), status()]).await;
    assert_eq!(class_of(&applied), Some(Class::Conflict));
    assert_eq!(api.requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_finalizer_stays_until_every_child_is_cleaned_up() {
    let api = Api::new();
    api.answer(StatusCode::FORBIDDEN, failure(403, "User \"x\" cannot delete resource \"configmaps\""));
    let last = Step::Finalizers { finalizers: Vec::new() };
    let applied = run(&api, &[delete(), last.clone()]).await;
    assert_eq!(class_of(&applied), Some(Class::Permanent));
    assert_eq!(api.requests().len(), 1, "the finalizer was not touched");

    let api = Api::new();
    let mut gone = stored(&primary(), "101");
    gone["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    api.answer(StatusCode::OK, json!({"kind": "Status", "status": "Success"}));
    api.answer(StatusCode::OK, gone);
    let applied = run(&api, &[delete(), last]).await;
    assert_eq!(
        versions(&applied),
        [("c1", None), ("p1", None)],
        "the last finalizer takes the primary with it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_is_gone_is_looked_at_again() {
    for step in [status(), finalizers()] {
        let api = Api::new();
        api.answer(StatusCode::NOT_FOUND, failure(404, "webapps \"a\" not found"));
        let applied = run(&api, &[step]).await;
        assert_eq!(class_of(&applied), Some(Class::Conflict));
    }
}

#[tokio::test(start_paused = true)]
async fn deleting_and_letting_go_of_what_is_gone_is_success() {
    for step in [delete(), orphan()] {
        let api = Api::new();
        api.answer(StatusCode::NOT_FOUND, failure(404, "gone"));
        let applied = run(&api, &[step]).await;
        assert_eq!(applied.result, Ok(()));
        assert_eq!(versions(&applied), [("c1", None)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_child_that_is_deleted_slowly_is_waited_for_at_its_version() {
    let api = Api::new();
    let mut going = stored(&child(), "43");
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    api.answer(StatusCode::OK, going);
    api.answer(StatusCode::OK, stored(&child(), "42"));
    assert_eq!(versions(&run(&api, &[delete(), delete()]).await), [("c1", Some(43)), ("c1", None)]);
}

#[tokio::test(start_paused = true)]
async fn a_create_that_meets_our_own_child_means_that_the_cache_is_behind() {
    for controller in [Some("p1"), None, Some("an-earlier-primary")] {
        let api = Api::new();
        api.answer(StatusCode::CONFLICT, failure(409, "exists"));
        api.answer(StatusCode::OK, live(&our_labels(), &json!({"windlass.dev/primary": "ns/a"}), controller));
        let applied = run(&api, &[create()]).await;
        let error = applied.result.expect_err("conflict");
        assert_eq!((error.class, error.refusal), (Class::Conflict, None), "{controller:?}");
        assert_eq!(api.requests().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_never_takes_what_belongs_to_somebody_else() {
    let not_ours = [
        live(&json!({}), &json!({}), None),
        live(
            &json!({"windlass.dev/owned-by": "webapp", "windlass.dev/host": "another-host"}),
            &json!({"windlass.dev/primary": "ns/a"}),
            Some("p1"),
        ),
        live(&our_labels(), &json!({"windlass.dev/primary": "ns/b"}), None),
        live(&json!({}), &json!({"windlass.dev/adopt": "another-plugin"}), None),
    ];
    for object in not_ours {
        let api = Api::new();
        api.answer(StatusCode::CONFLICT, failure(409, "exists"));
        api.answer(StatusCode::OK, object);
        api.answer(StatusCode::OK, stored(&primary(), "101"));
        let applied = run(&api, &[create(), status()]).await;
        assert_eq!(versions(&applied), [("p1", Some(101))], "the status can say so");
        let error = applied.result.expect_err("not ours");
        assert_eq!(error.class, Class::Permanent);
        let refusal = error.refusal.expect("told to people");
        assert_eq!(refusal.code, Code::NotOwner);
        assert_eq!(
            refusal.message,
            "v1/ConfigMap ns/a-cfg exists and does not belong to plugin webapp: delete or rename it, \
             or annotate it with windlass.dev/adopt=webapp to let the plugin take it over"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_child_whose_marks_were_taken_off_is_marked_again() {
    let api = Api::new();
    api.answer(StatusCode::CONFLICT, failure(409, "exists"));
    let left = json!({"windlass.dev/host": "sys"});
    api.answer(StatusCode::OK, live(&left, &json!({}), Some("p1")));
    api.answer(StatusCode::OK, stored(&child(), "78"));
    let applied = run(&api, &[create()]).await;
    assert_eq!(applied.result, Ok(()));
    let sent = &api.requests()[2].body["metadata"];
    assert_eq!((&sent["uid"], &sent["resourceVersion"]), (&json!("c1"), &json!("77")));
}

#[tokio::test(start_paused = true)]
async fn what_a_person_marked_for_adoption_is_taken_over_as_it_was_read() {
    let api = Api::new();
    api.answer(StatusCode::CONFLICT, failure(409, "exists"));
    api.answer(StatusCode::OK, live(&json!({}), &json!({"windlass.dev/adopt": "webapp"}), None));
    api.answer(StatusCode::OK, stored(&child(), "78"));
    let applied = run(&api, &[create()]).await;
    assert_eq!(applied.result, Ok(()));
    assert_eq!(versions(&applied), [("c1", Some(78))]);
    assert!(
        matches!(&applied.writes[0], Written { applied: Some((false, hash, Some(_))), .. } if hash == "h1")
    );
    let sent = &api.requests()[2].body["metadata"];
    assert_eq!((&sent["uid"], &sent["resourceVersion"]), (&json!("c1"), &json!("77")));
}

#[tokio::test(start_paused = true)]
async fn a_create_that_met_something_fleeting_is_looked_at_again() {
    let api = Api::new();
    api.answer(StatusCode::CONFLICT, failure(409, "exists"));
    api.answer(StatusCode::NOT_FOUND, failure(404, "gone"));
    assert_eq!(class_of(&run(&api, &[create()]).await), Some(Class::Conflict));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_no_path_is_never_sent() {
    let mut bad = child();
    bad.object.name = "../../x".into();
    let api = Api::new();
    let applied = run(&api, &[Step::Delete { target: bad }]).await;
    assert_eq!(class_of(&applied), Some(Class::Permanent));
    assert!(api.requests().is_empty());
}

#[tokio::test(start_paused = true)]
async fn writes_are_counted_by_plugin_verb_and_result() {
    use crate::writer::{Observe, Verb};
    use std::sync::{Arc, Mutex};
    type Counted = Vec<(String, Verb, Result<(), Class>)>;
    #[derive(Default)]
    struct Count(Mutex<Counted>);
    impl Observe for Count {
        fn wrote(
            &self,
            plugin: Option<&windlass_core::name::PluginName>,
            verb: Verb,
            result: Result<(), Class>,
            _: Duration,
        ) {
            let plugin = plugin.map_or_else(String::new, ToString::to_string);
            crate::writer::lock(&self.0).push((plugin, verb, result));
        }
    }
    let api = Api::new();
    api.answer(StatusCode::OK, stored(&child(), "43"));
    api.answer(StatusCode::CONFLICT, failure(409, "no"));
    let count = Arc::new(Count::default());
    let writer = api.writer().observed(count.clone());
    writer.run(&key(), &Digest::of(b"x"), &primary(), &[update(), status()], &claim()).await;
    let counted = crate::writer::lock(&count.0).clone();
    assert_eq!(
        counted,
        [
            ("webapp".to_owned(), Verb::Update, Ok(())),
            ("webapp".to_owned(), Verb::Status, Err(Class::Conflict)),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_child_that_another_plugin_made_for_the_same_object_stays_that_plugins() {
    let of_sibling = json!({"windlass.dev/owned-by": "sibling", "windlass.dev/host": "sys"});
    let primary_of = json!({"windlass.dev/primary": "ns/a"});
    for (controller, code) in [(Some("p1"), Code::OwnershipOverlap), (Some("p2"), Code::NotOwner)] {
        let api = Api::new();
        api.answer(StatusCode::CONFLICT, failure(409, "exists"));
        api.answer(StatusCode::OK, live(&of_sibling, &primary_of, controller));
        let error = run(&api, &[create()]).await.result.expect_err("not ours");
        let refusal = error.refusal.expect("told to people");
        assert_eq!((error.class, refusal.code), (Class::Permanent, code), "{controller:?}");
        assert_eq!(api.requests().len(), 2, "nothing is written over it");
        let names_it = refusal.message.contains("v1/ConfigMap ns/a-cfg is what plugin sibling made");
        assert_eq!(names_it, code == Code::OwnershipOverlap, "{refusal}");
    }
}

//! A whole operator: a `Greeting` becomes a ConfigMap, its text may come from the settings.

use serde::Deserialize;
use windlass::{Cache, Decision, Fault, Primary, Snapshot, json, kind};

/// The spec of the CRD, as plain Rust.
#[derive(Primary, Deserialize)]
#[primary(group = "hello.example.com", version = "v1", kind = "Greeting")]
struct Greeting {
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    whom: String,
}

/// `settings.yaml` of the plugin's ConfigMap.
#[derive(Deserialize)]
struct Settings {
    #[serde(default = "hello")]
    word: String,
}

fn hello() -> String {
    "Hello".to_owned()
}

/// The whole operator.
#[windlass::reconciler(name = "greeting", children = ["v1/ConfigMap"])]
fn reconcile(greeting: &Snapshot<Greeting>, _cache: &Cache) -> Result<Decision, Fault> {
    let settings: Settings = greeting.settings()?;
    let text = format!("{}, {}!", settings.word, greeting.spec.whom);
    let written = greeting.child(kind::CONFIG_MAP, greeting.name()).is_some();
    let conditions = greeting.conditions().set("Ready", written, "Greeted", &text);
    Ok(Decision::new()
        .child(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": greeting.name(), "labels": greeting.labels() },
            "data": { "text": text },
        }))
        .status(json!({ "conditions": conditions })))
}

#[test]
fn the_word_comes_from_the_settings() {
    let greeting = Snapshot::<Greeting>::of(json!({ "spec": { "whom": "world" } }))
        .with_settings(json!({ "word": "Moin" }));
    let decision = reconcile(&greeting, &Cache::fixed()).expect("decides");
    assert_eq!(MANIFEST.check(&decision), Ok(()));
    let wanted = decision.wanted(kind::CONFIG_MAP, "example").expect("wanted");
    assert_eq!(wanted.text("/data/text"), Some("Moin, world!"));
}

//! The wiring of registry, agenda and parts, without a request.

use super::look::refused_if_it_panics;
use super::*;
use std::num::NonZeroUsize;
use windlass_core::breaker::Rules;
use windlass_core::code::Code;
use windlass_core::limits::Limits;
use windlass_plugin::verify::{Mode, Verifier};

use crate::observe::Observed;

fn plugins() -> Arc<Plugins> {
    let plugins = without_guests();
    plugins.load_with(Loader::in_process(Limits::default()).expect("a sandbox"));
    plugins
}

fn without_guests() -> Arc<Plugins> {
    let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:9".parse().expect("valid")));
    let queue = Queue::new(windlass_queue::Config::default());
    let watches = Watches::new(client.expect("no request is sent"), "sys", queue.clone(), None);
    let observed = Arc::new(Observed::new(tokio::sync::mpsc::channel(1).0, Rules::default()));
    let verifier = Verifier::new(Mode::Off, None).expect("nothing to read");
    let trusts = Arc::new(Trusts::new(verifier, observed));
    Plugins::new(Arc::default(), trusts, Arc::new(watches), queue)
}

fn offer(name: &str, created: &str) -> Option<Arc<str>> {
    let text = format!(
        r#"{{"metadata":{{"namespace":"sys","name":"{name}","uid":"u","creationTimestamp":"{created}",
        "labels":{{"windlass.dev/plugin":"p"}}}}}}"#
    );
    Some(text.into())
}

fn holder(plugins: &Plugins) -> Vec<String> {
    plugins.view().into_iter().map(|plugin| plugin.config_map).collect()
}

fn again(plugins: &Plugins) -> Vec<String> {
    let late = std::mem::take(&mut plugins.known().late);
    late.into_iter()
        .filter_map(|late| match late.what {
            Overdue::Again(config_map) => Some(config_map),
            Overdue::Ends(..) => None,
        })
        .collect()
}

#[tokio::test]
async fn a_name_that_becomes_free_goes_to_whoever_held_it_before() {
    let plugins = plugins();
    assert_eq!(plugins.offered("sys/a", offer("a", "2026-01-02T00:00:00Z")).len(), 1);
    assert_eq!(plugins.offered("sys/z", offer("z", "2026-01-01T00:00:00Z")).len(), 1);
    assert_eq!(holder(&plugins), ["sys/z"], "the older one");
    assert!(plugins.offered("sys/z", None).is_empty());
    assert_eq!(again(&plugins), ["sys/a"], "it is read and looked at again");
    assert_eq!(plugins.offered("sys/a", offer("a", "2026-01-02T00:00:00Z")).len(), 1);
    assert_eq!(holder(&plugins), ["sys/a"]);
}

#[tokio::test]
async fn a_plugin_without_room_stops_and_is_offered_again() {
    let plugins = plugins();
    assert_eq!(plugins.offered("sys/a", offer("a", "")).len(), 1);
    let name = PluginName::try_new("p").expect("valid");
    plugins.hold(&name, &Refusal::new(Code::CacheLimit, "the cache is full"));
    assert!(plugins.view().is_empty(), "nothing of it serves or is about to");
    assert_eq!(again(&plugins), ["sys/a"], "and it is read and judged anew");
    assert!(may_be_ours(Code::CacheLimit), "again and again");
}

#[tokio::test]
async fn a_new_version_has_all_its_slots_and_the_same_one_does_not_get_them_back() {
    let plugins = plugins();
    let name = PluginName::try_new("p").expect("valid");
    plugins.decides(&name, &Digest::of(b"1"));
    plugins.queue.bound(&name, Some(NonZeroUsize::MIN));
    plugins.decides(&name, &Digest::of(b"1"));
    assert_eq!(plugins.queue.bound_of(&name), Some(NonZeroUsize::MIN));
    plugins.decides(&name, &Digest::of(b"2"));
    assert_eq!(plugins.queue.bound_of(&name), None);
}

/// The process that runs guests is started beside everything else, and may be the last to be ready.
#[tokio::test]
async fn a_look_that_begins_before_guests_can_be_run_is_judged_when_they_can() {
    let plugins = without_guests();
    let (ticket, whole) = plugins.offered("sys/a", offer("a", "")).pop().expect("something to load");
    let looked = plugins.clone();
    let look = tokio::spawn(async move { looked.try_whole(&ticket, whole.expect("it is whole")).await });
    let state = || plugins.known().registry.status("sys/a").map(|status| status.state);
    tokio::task::yield_now().await;
    assert_ne!(state(), Some(windlass_plugin::State::Refused));
    plugins.load_with(Loader::in_process(Limits::default()).expect("a sandbox"));
    look.await.expect("it goes on");
    let refusal = plugins.view().pop().and_then(|view| view.status.refusal).expect("it holds no component");
    assert_ne!(refusal.code, Code::CompileFailed, "that would be a mistake of the host: {refusal:?}");
}

#[test]
fn a_compiler_that_panics_refuses_its_component() {
    let loaded = refused_if_it_panics(|| -> Result<(), Refusal> { panic!("as the test wants") });
    assert_eq!(loaded.map_err(|refusal| refusal.code), Err(Code::CompileFailed));
}

#[test]
fn the_label_names_the_lane() {
    assert_eq!(label_of(&offer("a", "").expect("a text")).as_deref(), Some("p"));
    assert_eq!(label_of("{}"), None);
    assert_eq!(label_of(r#"{"metadata":{}}"#), None);
}

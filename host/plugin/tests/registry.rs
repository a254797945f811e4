//! Which version serves: every turn that a ConfigMap's life can take.

mod support;

use jiff::Timestamp;
use support::{Guest, name, source_of};
use windlass_core::code::{Code, Refusal};
use windlass_core::limits::Limits;
use windlass_core::name::Digest;
use windlass_plugin::{Change, Loader, Offer, Plugin, Registry, State, Ticket};

struct Host {
    registry: Registry,
    loader: Loader,
    clock: i64,
}

impl Host {
    fn new() -> Self {
        Self {
            registry: Registry::default(),
            loader: Loader::new(Limits::default()).expect("an engine"),
            clock: 1_800_000_000,
        }
    }

    fn now(&mut self) -> Timestamp {
        self.clock += 1;
        Timestamp::from_second(self.clock).expect("in range")
    }

    fn begin(&mut self, offer: &Offer) -> (Option<Ticket>, Vec<Change>) {
        let now = self.now();
        let begun = self.registry.begin(offer.clone(), now);
        (begun.load, begun.changes)
    }

    fn plugin(&self, plugin: &str, version: &str) -> Plugin {
        let guest = Guest { name: plugin, version, ..Guest::default() };
        let source = source_of(plugin, &guest.build(), None);
        self.loader.load(&source, &source.plugin).expect("a good component")
    }

    fn finish(&mut self, ticket: &Ticket, result: Result<Plugin, Refusal>) -> Vec<Change> {
        let now = self.now();
        self.registry.finish(ticket, result, now)
    }

    /// Offers a version that works.
    fn serve(&mut self, offer: &Offer, version: &str) -> Vec<Change> {
        let ticket = self.begin(offer).0.expect("something to load");
        let plugin = self.plugin(offer.plugin.as_str(), version);
        self.finish(&ticket, Ok(plugin))
    }

    fn serving_version(&self, plugin: &str) -> Option<String> {
        let plugin = self.registry.serving(&name(plugin))?;
        Some(plugin.manifest().version.clone())
    }

    fn state(&self, config_map: &str) -> (State, String) {
        let status = self.registry.status(config_map).expect("known");
        (status.state, status.message.clone())
    }
}

fn offer(config_map: &str, plugin: &str, created: &str, content: &str) -> Offer {
    Offer {
        config_map: config_map.to_owned(),
        plugin: name(plugin),
        created: created.to_owned(),
        content: Digest::of(content.as_bytes()),
    }
}

fn broken() -> Refusal {
    Refusal::new(Code::CoreModule, "this is a core module")
}

/// What the changes are, in short.
fn short(changes: &[Change]) -> Vec<String> {
    let version = |plugin: &Plugin| plugin.manifest().version.clone();
    changes
        .iter()
        .map(|change| match change {
            Change::Serving { plugin, previous, config_map, .. } => {
                let previous = previous.as_ref().map_or("nothing".to_owned(), |p| version(p));
                format!("{config_map} serves {} after {previous}", version(plugin))
            }
            Change::Refused { config_map, refusal, serving, .. } => {
                let serving = serving.as_ref().map_or("nothing".to_owned(), |p| version(p));
                format!("{config_map} refused {} while {serving} serves", refusal.code as u16)
            }
            Change::Gone { name, previous } => {
                let previous = previous.as_ref().map_or("nothing".to_owned(), |p| version(p));
                format!("{name} gone after {previous}")
            }
            Change::Again { config_map } => format!("{config_map} again"),
        })
        .collect()
}

#[test]
fn a_new_version_replaces_the_old_one_only_when_it_serves() {
    let mut host = Host::new();
    assert_eq!(
        short(&host.serve(&offer("ns/a", "p", "1", "v1"), "1.0.0")),
        ["ns/a serves 1.0.0 after nothing"]
    );
    let (ticket, changes) = host.begin(&offer("ns/a", "p", "1", "v2"));
    assert!(changes.is_empty());
    assert_eq!(host.serving_version("p").as_deref(), Some("1.0.0"));
    assert!(!host.registry.is_settled());
    let plugin = host.plugin("p", "2.0.0");
    let changes = host.finish(&ticket.expect("changed"), Ok(plugin));
    assert_eq!(short(&changes), ["ns/a serves 2.0.0 after 1.0.0"]);
    assert!(host.registry.is_settled());
}

#[test]
fn a_broken_version_leaves_the_last_good_one_serving_and_says_so() {
    let mut host = Host::new();
    host.serve(&offer("ns/a", "p", "1", "v1"), "1.0.0");
    let good = host.registry.serving(&name("p")).expect("serves").digest().clone();
    let ticket = host.begin(&offer("ns/a", "p", "1", "v2")).0.expect("changed");
    let now = host.now();
    host.registry.compiling(&ticket, &Digest::of(b"v2"), now);
    assert_eq!(host.state("ns/a").0, State::Compiling);
    let changes = host.finish(&ticket, Err(broken()));
    assert_eq!(short(&changes), ["ns/a refused 112 while 1.0.0 serves"]);
    let (state, message) = host.state("ns/a");
    assert_eq!(state, State::Refused);
    assert_eq!(
        message,
        format!("E112 CoreModule: this is a core module; 1.0.0 ({}) goes on serving", good.short())
    );
    let status = host.registry.status("ns/a").expect("known").clone();
    let annotations = status.annotations();
    assert_eq!(annotations[0], ("windlass.dev/state", Some("refused".to_owned())));
    assert_eq!(annotations[1].1.as_deref(), Some(Digest::of(b"v2").as_str()));
    assert_eq!(annotations[3], ("windlass.dev/since", Some("2027-01-15T08:00:05Z".to_owned())));
}

#[test]
fn what_has_not_changed_is_not_loaded_again() {
    let mut host = Host::new();
    host.serve(&offer("ns/a", "p", "1", "v1"), "1.0.0");
    let (load, changes) = host.begin(&offer("ns/a", "p", "1", "v1"));
    assert!(load.is_none() && changes.is_empty());
    assert_eq!(host.state("ns/a").0, State::Serving);
}

#[test]
fn a_result_that_has_been_overtaken_counts_for_nothing() {
    let mut host = Host::new();
    let first = host.begin(&offer("ns/a", "p", "1", "v1")).0.expect("new");
    let second = host.begin(&offer("ns/a", "p", "1", "v2")).0.expect("changed");
    let (one, two) = (host.plugin("p", "1.0.0"), host.plugin("p", "2.0.0"));
    assert_eq!(short(&host.finish(&second, Ok(two))), ["ns/a serves 2.0.0 after nothing"]);
    assert!(host.finish(&first, Ok(one)).is_empty());
    assert_eq!(host.serving_version("p").as_deref(), Some("2.0.0"));
    let late = host.begin(&offer("ns/a", "p", "1", "v3")).0.expect("changed");
    assert_eq!(short(&host.registry.remove("ns/a")), ["p gone after 2.0.0"]);
    let three = host.plugin("p", "3.0.0");
    assert!(host.finish(&late, Ok(three)).is_empty());
    assert_eq!(host.serving_version("p"), None);
}

#[test]
fn the_older_of_two_config_maps_has_the_name_whichever_comes_first() {
    let (old, young) = (offer("ns/z", "p", "2026-01-01", "old"), offer("ns/a", "p", "2026-02-01", "young"));
    let mut host = Host::new();
    host.serve(&old, "1.0.0");
    let (load, changes) = host.begin(&young);
    assert!(load.is_none());
    assert_eq!(short(&changes), ["ns/a refused 140 while 1.0.0 serves"]);
    assert!(host.state("ns/a").1.contains("E140 DuplicatePlugin: ConfigMap ns/z already holds the plugin p"));
    assert!(short(&host.begin(&young).1).is_empty(), "said once");

    let mut host = Host::new();
    host.serve(&young, "2.0.0");
    let (load, changes) = host.begin(&old);
    assert_eq!(short(&changes), ["ns/a refused 140 while 2.0.0 serves"]);
    let plugin = host.plugin("p", "1.0.0");
    let changes = host.finish(&load.expect("it has the name"), Ok(plugin));
    assert_eq!(short(&changes), ["ns/z serves 1.0.0 after 2.0.0"]);
    assert_eq!(host.registry.view()[0].duplicates, ["ns/a"]);
}

#[test]
fn a_duplicate_gets_its_turn_when_the_holder_goes() {
    let mut host = Host::new();
    host.serve(&offer("ns/a", "p", "1", "a"), "1.0.0");
    let (_, refused) = host.begin(&offer("ns/b", "p", "2", "b"));
    assert_eq!(refused.len(), 1);
    assert_eq!(short(&host.registry.remove("ns/a")), ["p gone after 1.0.0", "ns/b again"]);
    assert_eq!(
        short(&host.serve(&offer("ns/b", "p", "2", "b"), "2.0.0")),
        ["ns/b serves 2.0.0 after nothing"]
    );
    assert!(host.registry.remove("ns/unknown").is_empty());
}

#[test]
fn a_config_map_with_a_new_label_leaves_its_old_name() {
    let mut host = Host::new();
    host.serve(&offer("ns/a", "p", "1", "a"), "1.0.0");
    let (load, changes) = host.begin(&offer("ns/a", "q", "1", "a2"));
    assert_eq!(short(&changes), ["p gone after 1.0.0"]);
    assert_eq!(load.expect("new").plugin, name("q"));
}

#[test]
fn counters_go_on_when_a_version_is_replaced() {
    let mut host = Host::new();
    host.serve(&offer("ns/a", "p", "1", "v1"), "1.0.0");
    let asked = |host: &Host| {
        let plugin = host.registry.serving(&name("p")).expect("serves");
        plugin
            .decide(
                &support::pass("p"),
                &support::any_snapshot(),
                std::sync::Arc::new(support::Objects::default()),
            )
            .expect("decides");
    };
    asked(&host);
    host.serve(&offer("ns/a", "p", "1", "v2"), "2.0.0");
    asked(&host);
    let view = host.registry.view();
    let json = serde_json::to_value(&view).expect("json");
    assert_eq!(json[0]["serving"]["counts"]["calls"], 2);
    assert_eq!(json[0]["state"], "serving");
    assert_eq!(json[0]["serving"]["manifest"]["version"], "2.0.0");
}

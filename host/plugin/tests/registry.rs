//! The registry over real components: what the tests of the life of a plugin cannot show.

mod support;

use jiff::Timestamp;
use support::{Guest, name, source_of};
use windlass_core::limits::Limits;
use windlass_core::name::Digest;
use windlass_plugin::{Loader, Offer, Registry};

struct Host {
    registry: Registry,
    loader: Loader,
}

impl Host {
    fn serve(&mut self, content: &str, version: &str) {
        let offer = Offer {
            config_map: "ns/a".to_owned(),
            plugin: name("p"),
            created: "1".to_owned(),
            content: Digest::of(content.as_bytes()),
        };
        let ticket = self.registry.begin(offer, Timestamp::UNIX_EPOCH).load.expect("something to load");
        let guest = Guest { name: "p", version, ..Guest::default() };
        let source = source_of("p", &guest.build(), None);
        let plugin = self.loader.load(&source, &source.plugin).expect("a good component");
        assert_eq!(self.registry.finish(&ticket, Ok(plugin), Timestamp::UNIX_EPOCH).len(), 1);
    }

    fn ask(&self) {
        let plugin = self.registry.serving(&name("p")).expect("serves");
        let nothing_else = std::sync::Arc::new(support::Objects::default());
        plugin.decide(&support::pass("p"), &support::any_snapshot(), nothing_else).expect("decides");
    }
}

#[test]
fn counters_go_on_when_a_version_is_replaced() {
    let loader = Loader::in_process(Limits::default()).expect("an engine");
    let mut host = Host { registry: Registry::default(), loader };
    host.serve("v1", "1.0.0");
    host.ask();
    host.serve("v2", "2.0.0");
    host.ask();
    let json = serde_json::to_value(host.registry.view()).expect("json");
    assert_eq!(json[0]["serving"]["counts"]["calls"], 2);
    assert_eq!(json[0]["state"], "serving");
    assert_eq!(json[0]["serving"]["manifest"]["version"], "2.0.0");
}

//! The version's imports, as a guest calls them.

use wasmtime::Result;
use windlass_core::guests::Level;

use super::bindings::windlass::operator::{cache, log, types};
use crate::call::Inside;
use crate::lookups::Named;

impl cache::Host for Inside {
    fn get(&mut self, key: cache::ObjectKey) -> Result<Option<String>> {
        self.look_up(named(&key.kind), &key.namespace, &key.name)
    }

    fn list(&mut self, query: cache::Query) -> Result<Vec<String>> {
        let labels = query.labels.into_iter().map(|label| (label.key, label.value)).collect();
        self.look_up_all(named(&query.kind), query.namespace.as_deref(), labels)
    }
}

fn named(kind: &types::Kind) -> Named<'_> {
    (&kind.group, &kind.version, &kind.kind)
}

impl log::Host for Inside {
    fn write(&mut self, level: log::Level, message: String) -> Result<()> {
        let level = match level {
            log::Level::Debug => Level::Debug,
            log::Level::Info => Level::Info,
            log::Level::Warn => Level::Warn,
            log::Level::Error => Level::Error,
        };
        self.output.line(level, &message);
        Ok(())
    }
}

impl types::Host for Inside {}

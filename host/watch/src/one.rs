//! One selection for a caller of its own: the host's plugin ConfigMaps.

use std::collections::BTreeMap;

use kube::Client;
use serde::Deserialize;
use windlass_core::object::{ObjectError, version_number};

use crate::anew::Anew;
use crate::doubt::Doubt;
use crate::progress::{Phase, Progress};
use crate::reflect::{Pauses, Reflector, Target};
use crate::selection::Selection;

/// What a selection's watch has to say. Borrowed: copy what is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News<'a> {
    /// An object was made or changed, or was there when the watch began.
    Upsert {
        /// Its namespace; empty when cluster-scoped.
        namespace: &'a str,
        /// Its name.
        name: &'a str,
        /// The whole object as the API server sent it, `managedFields` and all.
        /// Objects of a list carry no `apiVersion` and `kind`.
        json: &'a str,
    },
    /// An object is gone, or is no longer selected.
    Gone {
        /// Its namespace; empty when cluster-scoped.
        namespace: &'a str,
        /// Its name.
        name: &'a str,
    },
    /// Everything that existed has been told, by a list that is complete: at first,
    /// and again after each further list.
    Synced,
}

/// Tells `on` of every change to the objects of `selection`, beginning with all
/// that exist; an object at a version that was told before is not told again.
/// Goes on through outages, and when the kind or the namespace is not there.
/// `on` must not wait: it runs within the watch.
///
/// Never returns by itself.
///
/// # Cancel safety
/// Dropping it ends the request.
pub async fn watch_one(
    client: &Client,
    selection: &Selection,
    doubt: &Doubt,
    on: impl FnMut(News<'_>) + Send,
) {
    let (progress, anew) = (Progress::default(), Anew::default());
    let mut target = Teller { on, told: BTreeMap::new(), listing: 0, newest: 0, rewound: false };
    let mut pauses = Pauses::default();
    loop {
        let lists = progress.counters().lists;
        let end = Reflector::new(client, selection, &progress, &anew, doubt, &mut target).run().await;
        tracing::debug!(kind = %selection.kind.gvk, error = %end.line(), "selection is not served");
        if progress.counters().lists > lists {
            pauses.reset();
        }
        progress.failed(&end);
        progress.phase(Phase::BackingOff);
        tokio::time::sleep(pauses.next(&end)).await;
    }
}

/// Namespace and name.
type Name = (Box<str>, Box<str>);

struct Teller<F> {
    on: F,
    told: BTreeMap<Name, Told>,
    listing: u64,
    newest: u64,
    rewound: bool,
}

struct Told {
    version: Box<str>,
    listing: u64,
}

#[derive(Deserialize)]
struct RawObject {
    metadata: RawMeta,
}

#[derive(Deserialize)]
struct RawMeta {
    name: Option<Box<str>>,
    #[serde(default)]
    namespace: Box<str>,
    #[serde(rename = "resourceVersion", default)]
    resource_version: Box<str>,
}

impl RawMeta {
    fn read(text: &str) -> Result<(Name, Box<str>), ObjectError> {
        let meta = serde_json::from_str::<RawObject>(text)?.metadata;
        let name = meta.name.ok_or(ObjectError::Missing("metadata.name"))?;
        Ok(((meta.namespace, name), meta.resource_version))
    }
}

impl<F: FnMut(News<'_>) + Send> Target for Teller<F> {
    fn newest(&self) -> u64 {
        self.newest
    }

    fn begin(&mut self, rewound: bool) {
        self.listing += 1;
        self.rewound = rewound;
        if rewound {
            self.newest = 0;
        }
    }

    fn put(&mut self, text: &str) -> Result<Box<str>, ObjectError> {
        let (at, version) = RawMeta::read(text)?;
        let number = version_number(&version);
        if let Some(told) = self.told.get_mut(&at) {
            told.listing = self.listing;
            let older = !self.rewound && number != 0 && number < version_number(&told.version);
            if told.version == version || older {
                return Ok(version);
            }
        }
        (self.on)(News::Upsert { namespace: &at.0, name: &at.1, json: text });
        let told = Told { version: version.clone(), listing: self.listing };
        self.told.insert(at, told);
        Ok(version)
    }

    fn gone(&mut self, text: &str) -> Result<Box<str>, ObjectError> {
        let (at, version) = RawMeta::read(text)?;
        let number = version_number(&version);
        let newer = |told: &Told| number != 0 && version_number(&told.version) > number;
        if self.told.get(&at).is_some_and(|told| !newer(told)) {
            self.told.remove(&at);
            (self.on)(News::Gone { namespace: &at.0, name: &at.1 });
        }
        Ok(version)
    }

    fn listed(&mut self, version: u64) {
        self.newest = self.newest.max(version);
        self.rewound = false;
        let listing = self.listing;
        let gone = self.told.extract_if(.., |_, told| told.listing != listing);
        for (at, _) in gone {
            (self.on)(News::Gone { namespace: &at.0, name: &at.1 });
        }
        (self.on)(News::Synced);
    }

    fn reached(&mut self, version: u64) {
        self.newest = self.newest.max(version);
    }
}

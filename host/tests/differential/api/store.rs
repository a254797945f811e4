//! The objects of the test's API server, and the rules by which they change: versions, preconditions, finalizers, apply.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::fields::Owners;

/// The namespace of every object.
pub(crate) const NAMESPACE: &str = "ns";

/// What this API server serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// What is reconciled.
    Web,
    /// What is read.
    Palette,
    /// A child.
    Box,
    /// A child.
    ConfigMap,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Web, Self::Palette, Self::Box, Self::ConfigMap];
    pub(crate) const CHILDREN: [Self; 2] = [Self::Box, Self::ConfigMap];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Web => "Web",
            Self::Palette => "Palette",
            Self::Box => "Box",
            Self::ConfigMap => "ConfigMap",
        }
    }

    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Web => "webs",
            Self::Palette => "palettes",
            Self::Box => "boxes",
            Self::ConfigMap => "configmaps",
        }
    }

    pub(crate) fn api_version(self) -> &'static str {
        if self == Self::ConfigMap { "v1" } else { "x.dev/v1" }
    }

    pub(crate) fn of_plural(plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.plural() == plural)
    }
}

/// Which object.
pub(crate) type Name = (Kind, String);

/// An object as it is at one version.
#[derive(Debug)]
pub(crate) struct Stored {
    /// Without `managedFields`.
    pub(crate) value: Value,
    owners: Owners,
    /// The whole, as it is sent.
    pub(crate) text: String,
}

/// One change, for watches.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) name: Name,
    pub(crate) before: Option<Arc<Stored>>,
    /// At its end an object has its last state, with the version of the end.
    pub(crate) after: Arc<Stored>,
    pub(crate) ends: bool,
}

/// Why a request was refused: a status code and words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) u16, pub(crate) &'static str);

/// All objects, and all that ever happened to them.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) objects: BTreeMap<Name, Arc<Stored>>,
    pub(crate) changes: Vec<Change>,
    pub(crate) version: u64,
    uids: u64,
}

/// What a write must find to be carried out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Preconditions<'a> {
    pub(crate) uid: Option<&'a str>,
    pub(crate) version: Option<&'a str>,
}

impl<'a> Preconditions<'a> {
    /// Those in an object's metadata.
    pub(crate) fn of(metadata: &'a Value) -> Self {
        Self { uid: metadata["uid"].as_str(), version: metadata["resourceVersion"].as_str() }
    }

    fn check(&self, live: &Value) -> Result<(), Refused> {
        let metadata = &live["metadata"];
        let fits = |wanted: Option<&str>, field: &str| wanted.is_none_or(|wanted| metadata[field] == wanted);
        if !fits(self.uid, "uid") {
            return Err(Refused(409, "Precondition failed: UID in precondition differs"));
        }
        if !fits(self.version, "resourceVersion") {
            return Err(Refused(409, "the object has been modified"));
        }
        Ok(())
    }
}

impl Stored {
    fn new(value: Value, owners: Owners) -> Arc<Self> {
        let mut whole = value.clone();
        whole["metadata"]["managedFields"] = owners.entries();
        Arc::new(Self { text: whole.to_string(), value, owners })
    }

    pub(crate) fn uid(&self) -> &str {
        self.value["metadata"]["uid"].as_str().unwrap_or_default()
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.value["metadata"]["deletionTimestamp"].is_string()
    }

    fn has_finalizers(&self) -> bool {
        self.value["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())
    }
}

impl Store {
    pub(crate) fn new() -> Self {
        // No object ever has version 1.
        Self { version: 10, ..Self::default() }
    }

    pub(crate) fn get(&self, name: &Name) -> Option<&Arc<Stored>> {
        self.objects.get(name)
    }

    pub(crate) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&str, &Arc<Stored>)> {
        let of_kind = self.objects.iter().filter(move |((of, _), _)| *of == kind);
        of_kind.map(|((_, name), stored)| (name.as_str(), stored))
    }

    /// Server-side apply with force.
    pub(crate) fn apply(
        &mut self,
        name: &Name,
        manager: &str,
        status: bool,
        wanted: &Value,
    ) -> Result<(u16, Arc<Stored>), Refused> {
        let preconditions = Preconditions::of(&wanted["metadata"]);
        let live = self.objects.get(name).cloned();
        if let Some(live) = &live {
            preconditions.check(&live.value)?;
        } else if status {
            return Err(Refused(404, "not found"));
        } else if preconditions.uid.is_some() {
            return Err(Refused(409, "Precondition failed: UID in precondition, there is no object"));
        }
        let (mut value, mut owners) = match &live {
            Some(live) => (live.value.clone(), live.owners.clone()),
            None => (self.made(name, None), Owners::default()),
        };
        owners.apply(manager, status, wanted, &mut value);
        Ok((if live.is_some() { 200 } else { 201 }, self.put(name, value, owners)))
    }

    /// Changes an object that exists in any other way; `change` gets it as it is.
    pub(crate) fn update(
        &mut self,
        name: &Name,
        manager: &str,
        preconditions: Preconditions<'_>,
        change: impl FnOnce(&mut Value),
    ) -> Result<Arc<Stored>, Refused> {
        let live = self.objects.get(name).cloned().ok_or(Refused(404, "not found"))?;
        preconditions.check(&live.value)?;
        let (mut value, mut owners) = (live.value.clone(), live.owners.clone());
        change(&mut value);
        owners.updated(manager, &live.value, &value);
        Ok(self.put(name, value, owners))
    }

    /// Makes an object, with this uid if one is given.
    pub(crate) fn create(&mut self, name: &Name, uid: Option<&str>, body: &Value) {
        let mut value = self.made(name, uid);
        let before = value.clone();
        super::merge(&mut value, body);
        let mut owners = Owners::default();
        owners.updated("somebody", &before, &value);
        self.put(name, value, owners);
    }

    /// Deletes an object, or begins to while it has finalizers; then it is answered.
    pub(crate) fn delete(
        &mut self,
        name: &Name,
        preconditions: Preconditions<'_>,
    ) -> Result<Option<Arc<Stored>>, Refused> {
        let live = self.objects.get(name).cloned().ok_or(Refused(404, "not found"))?;
        preconditions.check(&live.value)?;
        if !live.has_finalizers() {
            self.end(name, &live);
            return Ok(None);
        }
        if live.is_ending() {
            return Ok(Some(live));
        }
        let mut value = live.value.clone();
        value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        Ok(Some(self.put(name, value, live.owners.clone())))
    }

    /// What the garbage collector does: ends each child all of whose owners are gone.
    pub(crate) fn collect(&mut self) {
        let uids: Vec<&str> = self.objects.values().map(|stored| stored.uid()).collect();
        let is_orphan = |stored: &Stored| {
            let owners = stored.value["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|owners| {
                let alive = |owner: &Value| owner["uid"].as_str().is_some_and(|uid| uids.contains(&uid));
                !owners.is_empty() && !owners.iter().any(alive)
            })
        };
        let gone: Vec<Name> =
            self.objects.iter().filter(|(_, s)| is_orphan(s)).map(|(name, _)| name.clone()).collect();
        for name in gone {
            // It was there a moment ago, and has no preconditions to miss.
            let _ = self.delete(&name, Preconditions::default());
        }
    }

    fn made(&mut self, (kind, name): &Name, uid: Option<&str>) -> Value {
        self.uids += 1;
        let uid = uid.map_or_else(|| format!("uid-{}", self.uids), str::to_owned);
        json!({
            "apiVersion": kind.api_version(), "kind": kind.name(),
            "metadata": {"name": name, "namespace": NAMESPACE, "uid": uid, "generation": 1},
        })
    }

    /// Stores what differs from what is there, at a new version.
    fn put(&mut self, name: &Name, mut value: Value, owners: Owners) -> Arc<Stored> {
        let before = self.objects.get(name).cloned();
        if let Some(before) = &before {
            if before.value == value && before.owners == owners {
                return before.clone();
            }
            if before.value["spec"] != value["spec"] || before.is_ending() != is_ending(&value) {
                let generation = before.value["metadata"]["generation"].as_u64().unwrap_or(0);
                value["metadata"]["generation"] = (generation + 1).into();
            }
        }
        self.version += 1;
        value["metadata"]["resourceVersion"] = self.version.to_string().into();
        let stored = Stored::new(value, owners);
        if stored.is_ending() && !stored.has_finalizers() {
            self.objects.remove(name);
            self.changes.push(Change {
                version: self.version,
                name: name.clone(),
                before,
                after: stored.clone(),
                ends: true,
            });
            return stored;
        }
        self.objects.insert(name.clone(), stored.clone());
        let after = stored.clone();
        self.changes.push(Change { version: self.version, name: name.clone(), before, after, ends: false });
        stored
    }

    fn end(&mut self, name: &Name, live: &Arc<Stored>) {
        self.version += 1;
        self.objects.remove(name);
        let mut value = live.value.clone();
        value["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.changes.push(Change {
            version: self.version,
            name: name.clone(),
            before: Some(live.clone()),
            after: Stored::new(value, live.owners.clone()),
            ends: true,
        });
    }
}

fn is_ending(value: &Value) -> bool {
    value["metadata"]["deletionTimestamp"].is_string()
}

//! Who owns which field, as far as server-side apply needs it: a field is a path to a value that is no map, or to an empty map.
//! Lists are one value.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// Names from the top of an object down to a field.
pub(crate) type Path = Vec<String>;

/// A field manager, its operation (`Apply` or `Update`) and whether its entry is for the status.
pub(crate) type Manager = (String, &'static str, bool);

/// The fields of each manager.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owners(BTreeMap<Manager, BTreeSet<Path>>);

/// What the server itself writes, which nobody owns.
const OF_THE_SERVER: [&str; 7] =
    ["name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp"];

/// Every field of an object that somebody may own.
pub(crate) fn fields(object: &Value) -> BTreeMap<Path, Value> {
    let mut found = BTreeMap::new();
    let mut path = Path::new();
    gather(object, &mut path, &mut found);
    found.retain(|path, _| match path.first().map(String::as_str) {
        Some("metadata") => path.get(1).is_some_and(|name| !OF_THE_SERVER.contains(&name.as_str())),
        Some("apiVersion" | "kind") | None => false,
        Some(_) => true,
    });
    found
}

fn gather(value: &Value, path: &mut Path, found: &mut BTreeMap<Path, Value>) {
    match value {
        Value::Object(inner) if !inner.is_empty() => {
            for (name, value) in inner {
                path.push(name.clone());
                gather(value, path, found);
                path.pop();
            }
        }
        value => {
            found.insert(path.clone(), value.clone());
        }
    }
}

/// Sets a field, and makes the maps that lead there.
fn set(object: &mut Value, path: &[String], value: Value) {
    let Some((name, rest)) = path.split_first() else {
        // An empty map says no more than that there is one.
        if !(value == json!({}) && object.is_object()) {
            *object = value;
        }
        return;
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    set(&mut object[name.as_str()], rest, value);
}

/// Takes a field out, and the maps that are empty then.
fn unset(object: &mut Value, path: &[String]) {
    let (Some(inner), Some((name, rest))) = (object.as_object_mut(), path.split_first()) else { return };
    let Some(value) = inner.get_mut(name) else { return };
    if !rest.is_empty() {
        unset(value, rest);
    }
    if rest.is_empty() || *value == json!({}) {
        inner.remove(name);
    }
}

impl Owners {
    /// Applies `wanted` with force in the name of `manager`: `live` then has all of it, and nothing that only this manager had
    /// applied before and does not want any more.
    pub(crate) fn apply(&mut self, manager: &str, status: bool, wanted: &Value, live: &mut Value) {
        let wanted: BTreeMap<Path, Value> =
            fields(wanted).into_iter().filter(|(path, _)| (path[0] == "status") == status).collect();
        let before = fields(live);
        let me: Manager = (manager.to_owned(), "Apply", status);
        let paths: BTreeSet<Path> = wanted.keys().cloned().collect();
        let mine = self.0.insert(me.clone(), paths).unwrap_or_default();
        for (path, value) in wanted {
            if before.get(&path) != Some(&value) {
                self.take_from_others(&me, &path);
            }
            set(live, &path, value);
        }
        let gone: Vec<Path> = mine.difference(&self.0[&me]).cloned().collect();
        for path in gone {
            if !self.0.values().any(|paths| paths.contains(&path)) {
                unset(live, &path);
            }
        }
    }

    /// Records that `manager` has changed `before` into `after` without apply: what it changed is its own now, and what it
    /// took out is nobody's.
    pub(crate) fn updated(&mut self, manager: &str, before: &Value, after: &Value) {
        let me: Manager = (manager.to_owned(), "Update", false);
        let (before, after) = (fields(before), fields(after));
        for path in before.keys().filter(|path| !after.contains_key(*path)) {
            self.0.values_mut().for_each(|paths| {
                paths.remove(path);
            });
        }
        for (path, _) in after.iter().filter(|(path, value)| before.get(*path) != Some(value)) {
            self.take_from_others(&me, path);
            self.0.entry(me.clone()).or_default().insert(path.clone());
        }
        self.0.retain(|_, paths| !paths.is_empty());
    }

    fn take_from_others(&mut self, me: &Manager, path: &Path) {
        for (other, paths) in &mut self.0 {
            if other != me {
                paths.remove(path);
            }
        }
    }

    /// As `metadata.managedFields` says it.
    pub(crate) fn entries(&self) -> Value {
        let entry = |((manager, operation, status), paths): (&Manager, &BTreeSet<Path>)| {
            let fields: Map<String, Value> = paths.iter().map(|path| (path.join("/"), json!({}))).collect();
            let mut entry = json!({"manager": manager, "operation": operation, "fieldsV1": fields});
            if *status {
                entry["subresource"] = "status".into();
            }
            entry
        };
        self.0.iter().map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_applied_any_more_goes_and_what_a_stranger_added_stays() {
        let (mut owners, mut live) = (Owners::default(), json!({}));
        owners.apply("us", false, &json!({"data": {"a": "1", "b": "2"}}), &mut live);
        let mut edited = live.clone();
        edited["data"]["c"] = "3".into();
        edited["data"]["a"] = "4".into();
        owners.updated("them", &live, &edited);
        owners.apply("us", false, &json!({"data": {"a": "1"}}), &mut edited);
        assert_eq!(edited, json!({"data": {"a": "1", "c": "3"}}));
    }

    #[test]
    fn an_edit_of_our_field_changes_our_entry() {
        let (mut owners, mut live) = (Owners::default(), json!({}));
        owners.apply("us", false, &json!({"data": {"a": "1", "b": "2"}}), &mut live);
        let ours = owners.entries()[0].clone();
        let mut edited = live.clone();
        edited["data"]["c"] = "3".into();
        owners.updated("them", &live, &edited);
        let entry = |owners: &Owners| {
            owners.entries().as_array().and_then(|all| all.iter().find(|e| e["manager"] == "us").cloned())
        };
        assert_eq!(entry(&owners).as_ref(), Some(&ours), "not ours");
        let before = edited.clone();
        edited["data"]["a"] = "9".into();
        owners.updated("them", &before, &edited);
        assert_ne!(entry(&owners).as_ref(), Some(&ours));
    }
}

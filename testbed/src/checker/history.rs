//! What happened, in the two forms in which the control plane kept it: requests and committed changes.
//!
//! Both are small and hold no object bodies, so that a run of an hour fits into memory.

use std::fmt;

use serde::Serialize;

/// Everything that a verdict is made of. The order of the requests does not matter.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// What etcd committed to objects of the followed kinds, by rising revision.
    pub changes: Vec<Change>,
    /// What the API servers were asked to change, whoever asked.
    pub requests: Vec<Request>,
    /// The first revision that `changes` covers; earlier ones are nobody's business here.
    pub first: u64,
    /// The last revision that `changes` covers.
    pub last: u64,
    /// The followed kinds.
    pub kinds: Vec<Kind>,
}

/// One kind of object that is followed in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    resource: String,
    prefix: String,
    expires: bool,
    only: Option<(String, String)>,
}

impl Kind {
    /// The kind with this API group (empty for the core group) and plural resource.
    ///
    /// The groups of Kubernetes itself are stored without their name, those of custom resources with it.
    pub fn new(group: &str, resource: &str) -> Self {
        let builtin = group.ends_with(".k8s.io") || !group.contains('.');
        let folder = match resource {
            "services" if group.is_empty() => "services/specs",
            "ingresses" if builtin => "ingress",
            other => other,
        };
        let prefix =
            if builtin { format!("/registry/{folder}/") } else { format!("/registry/{group}/{folder}/") };
        Self { resource: resource_of(group, resource), prefix, expires: false, only: None }
    }

    /// The same for a kind whose objects etcd removes by itself when their time is over, as it does with Events.
    #[must_use]
    pub fn expiring(mut self) -> Self {
        self.expires = true;
        self
    }

    /// The same for a kind of which one object alone is of interest.
    #[must_use]
    pub fn only(mut self, namespace: &str, name: &str) -> Self {
        self.only = Some((namespace.to_owned(), name.to_owned()));
        self
    }

    /// `<plural>.<group>`, or the plural alone for the core group.
    pub fn resource(&self) -> &str {
        &self.resource
    }

    pub(crate) fn expires(&self) -> bool {
        self.expires
    }

    /// The object that an etcd key stands for, if it is of this kind.
    pub(crate) fn object(&self, key: &str) -> Option<Object> {
        let rest = key.strip_prefix(&self.prefix)?;
        let (namespace, name) = rest.rsplit_once('/').unwrap_or(("", rest));
        let object = Object {
            resource: self.resource.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        (!namespace.contains('/') && self.follows(&object)).then_some(object)
    }

    /// Whether the object is one of those that are followed. One without a name may be.
    pub(crate) fn follows(&self, object: &Object) -> bool {
        let is = |wanted: &(String, String)| {
            wanted.0 == object.namespace && (object.name.is_empty() || wanted.1 == object.name)
        };
        self.resource == object.resource && self.only.as_ref().is_none_or(is)
    }
}

/// `<plural>.<group>`, as kubectl writes it.
pub(crate) fn resource_of(group: &str, resource: &str) -> String {
    // Events are one kind under two groups: the kubelet writes them in the one and the scheduler in the other.
    let group = if resource == "events" { "" } else { group };
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

/// Which object: the resource as in [`Kind::resource`], and where it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Object {
    /// `<plural>.<group>`.
    pub resource: String,
    /// Empty for a cluster-scoped object.
    pub namespace: String,
    /// Empty where a request did not say, as with a create that was never answered.
    pub name: String,
}

impl Object {
    /// An object by its parts.
    pub fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self { resource: resource.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}/{}/{}", self.resource, self.namespace, self.name)
    }
}

impl Serialize for Object {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// One committed change of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// etcd's revision, which is the object's resourceVersion from then on.
    pub revision: u64,
    /// What changed.
    pub object: Object,
    /// How.
    pub effect: Effect,
}

/// What a change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// The object had not been there.
    Created,
    /// It was there before and after.
    Updated,
    /// It is gone.
    Deleted,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH, server-side apply included, which may create.
    Patch,
    /// DELETE of one object.
    Delete,
    /// DELETE of a collection.
    DeleteCollection,
}

impl Verb {
    pub(crate) fn parse(verb: &str) -> Option<Self> {
        Some(match verb {
            "create" => Self::Create,
            "update" => Self::Update,
            "patch" => Self::Patch,
            "delete" => Self::Delete,
            "deletecollection" => Self::DeleteCollection,
            _ => return None,
        })
    }
}

/// One request to change something.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The API server's name for it.
    pub audit_id: String,
    /// What was asked for.
    pub verb: Verb,
    /// Of which object.
    pub object: Object,
    /// Who sent it: the credential's id if the API server knows one, else the user.
    pub sender: String,
    /// In whose name.
    pub account: String,
    /// The claim in the impersonation extra.
    pub claim: Option<String>,
    /// Plugin and digest in the impersonation extra.
    pub plugin: Option<String>,
    /// When it arrived. Unit: microseconds since 1970, on the API server's clock.
    pub received_us: i64,
    /// How long the API server was allowed to work on it. Unit: microseconds.
    pub timeout_us: i64,
    /// The resourceVersion that the object had to have.
    pub precondition: Option<u64>,
    /// The claim that it makes the current one, when it writes the claim Role or the Lease.
    pub announces: Option<String>,
    /// What was answered; nothing when the log has no answer.
    pub answer: Option<Answer>,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// When. Unit: microseconds since 1970.
    pub at_us: i64,
    /// The HTTP status.
    pub code: u16,
    /// The resourceVersion of the object in the answer.
    pub revision: Option<u64>,
    /// The uid in the answer.
    pub uid: Option<String>,
    /// Whether the object in the answer was being deleted.
    pub deleting: bool,
}

impl Request {
    pub(crate) fn succeeded(&self) -> Option<&Answer> {
        self.answer.as_ref().filter(|answer| (200..300).contains(&answer.code))
    }

    /// Whether it may have been carried out without anybody being told.
    pub(crate) fn is_lost(&self) -> bool {
        self.answer.as_ref().is_none_or(|answer| answer.code >= 500 || answer.code < 200)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_etcd_is_an_object_of_its_kind() {
        for (group, resource, key) in [
            ("", "configmaps", "/registry/configmaps/ns/a"),
            ("", "services", "/registry/services/specs/ns/a"),
            ("apps", "deployments", "/registry/deployments/ns/a"),
            ("networking.k8s.io", "ingresses", "/registry/ingress/ns/a"),
            ("fixtures.windlass.dev", "widgets", "/registry/fixtures.windlass.dev/widgets/ns/a"),
        ] {
            let kind = Kind::new(group, resource);
            assert_eq!(kind.object(key), Some(Object::new(kind.resource(), "ns", "a")), "{key}");
        }
        assert_eq!(resource_of("events.k8s.io", "events"), resource_of("", "events"));
        assert_eq!(Kind::new("", "services").object("/registry/services/endpoints/ns/a"), None);
        assert_eq!(Kind::new("", "secrets").object("/registry/configmaps/ns/a"), None);
    }
}

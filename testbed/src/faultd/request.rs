//! A request as Kubernetes understands it: the verb, and what it is about.

use http::{Method, Uri};

/// The verbs that RBAC and the audit log know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// One object, or a path that is no resource.
    Get,
    /// A collection.
    List,
    /// A stream of changes.
    Watch,
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH, server-side apply among them.
    Patch,
    /// DELETE of one object.
    Delete,
    /// DELETE of a collection.
    DeleteCollection,
}

impl Verb {
    /// Those that may change something.
    pub const WRITES: [Self; 5] =
        [Self::Create, Self::Update, Self::Patch, Self::Delete, Self::DeleteCollection];
}

/// What rules look at.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) verb: Verb,
    /// The plural in lower case; empty for paths that are no resources.
    pub(super) resource: String,
    /// Empty for collections.
    pub(super) name: String,
    /// Path and query.
    pub(super) path: String,
}

impl Seen {
    pub(super) fn of(method: &Method, uri: &Uri) -> Self {
        let (resource, name) = object(uri.path());
        let watches = uri
            .query()
            .unwrap_or_default()
            .split('&')
            .any(|part| matches!(part, "watch" | "watch=1" | "watch=true"));
        let one = !name.is_empty() || resource.is_empty();
        let verb = match *method {
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE if one => Verb::Delete,
            Method::DELETE => Verb::DeleteCollection,
            _ if watches => Verb::Watch,
            _ if one => Verb::Get,
            _ => Verb::List,
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Self { verb, resource: resource.to_owned(), name: name.to_owned(), path }
    }
}

/// Resource and name of `/api/v1/…` and `/apis/<group>/<version>/…`, each empty where there is none.
fn object(path: &str) -> (&str, &str) {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    match parts.next() {
        Some("api") => drop(parts.next()),
        Some("apis") => drop((parts.next(), parts.next())),
        _ => return ("", ""),
    }
    let mut next = || parts.next().unwrap_or_default();
    match (next(), next(), next(), next()) {
        // A namespace itself, and its subresources, have nothing or no resource behind the name.
        ("namespaces", namespace, "" | "status" | "finalize", _) => ("namespaces", namespace),
        ("namespaces", _, resource, name) => (resource, name),
        (resource, name, ..) => (resource, name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_and_objects_are_those_of_the_api_server() {
        let (get, delete) = (Method::GET, Method::DELETE);
        for (method, path, verb, resource, name) in [
            (&get, "/version", Verb::Get, "", ""),
            (&get, "/apis/apps/v1", Verb::Get, "", ""),
            (&get, "/api/v1/namespaces", Verb::List, "namespaces", ""),
            (&get, "/api/v1/namespaces/a", Verb::Get, "namespaces", "a"),
            (&Method::PUT, "/api/v1/namespaces/a/finalize", Verb::Update, "namespaces", "a"),
            (&get, "/api/v1/namespaces/a/pods?limit=5", Verb::List, "pods", ""),
            (&get, "/api/v1/namespaces/a/pods?limit=5&watch=true", Verb::Watch, "pods", ""),
            (&get, "/api/v1/nodes/n", Verb::Get, "nodes", "n"),
            (&Method::POST, "/api/v1/namespaces/a/pods", Verb::Create, "pods", ""),
            (&delete, "/apis/apps/v1/namespaces/a/deployments", Verb::DeleteCollection, "deployments", ""),
            (&delete, "/apis/apps/v1/namespaces/a/deployments/w", Verb::Delete, "deployments", "w"),
            (
                &Method::PATCH,
                "/apis/apps/v1/namespaces/a/deployments/w/status",
                Verb::Patch,
                "deployments",
                "w",
            ),
        ] {
            let seen = Seen::of(method, &path.parse().unwrap());
            assert_eq!((seen.verb, &*seen.resource, &*seen.name), (verb, resource, name), "{method} {path}");
        }
    }
}

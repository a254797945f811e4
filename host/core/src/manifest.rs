//! Manifests: what a plugin says of itself, checked.

use serde::{Deserialize, Serialize};

use crate::code::{Code, Refusal};
use crate::kind::Gvk;
use crate::name::PluginName;
use crate::plan::Policy;
use crate::scope::{SCOPE_MAX, Scope};

/// Kinds that a manifest may list as children, and again as reads.
pub const KINDS_MAX: usize = 32;

/// What becomes of a child that is no longer wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unwanted {
    /// It is deleted.
    Delete,
    /// It stays, without our labels and owner reference.
    Orphan,
}

/// A kind that a plugin may create.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildRule {
    /// The kind.
    pub kind: Gvk,
    /// What becomes of one that is no longer wanted.
    pub unwanted: Unwanted,
}

/// A kind that a plugin may look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadRule {
    /// The kind.
    pub kind: Gvk,
    /// Which of its objects, and how much of each.
    pub scope: Scope,
}

/// A plugin's manifest after every rule of the contract has been checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Its name.
    pub name: PluginName,
    /// Its version; shown only.
    pub version: String,
    /// What it reconciles.
    pub primary: Gvk,
    /// Which objects of that kind.
    pub selects: Scope,
    /// What it may create; each kind once.
    pub children: Vec<ChildRule>,
    /// What else it may look at.
    pub reads: Vec<ReadRule>,
    /// Whether a question that contradicts what is declared is refused (E231). In the first version of
    /// the contract its answer is empty.
    pub strict: bool,
    /// Whether the host keeps a finalizer and calls `finalize`.
    pub finalizes: bool,
}

/// Groups whose kinds no plugin may write: they grant rights or rule the API server itself.
const RESERVED_GROUPS: &[&str] = &[
    "rbac.authorization.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "coordination.k8s.io",
    "certificates.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "internal.apiserver.k8s.io",
    "storagemigration.k8s.io",
];

/// Whether no plugin may write objects of this kind, whatever its manifest says (E238).
pub fn is_reserved(kind: &Gvk) -> bool {
    RESERVED_GROUPS.contains(&&*kind.group)
        || (kind.group.is_empty() && matches!(&*kind.kind, "Namespace" | "Node" | "ServiceAccount"))
}

/// Whether objects of this kind are Secrets, in whatever version.
fn is_secret(kind: &Gvk) -> bool {
    kind.group.is_empty() && &*kind.kind == "Secret"
}

impl Manifest {
    /// Checks what the types cannot: counts and repetition. Which kinds a host lets plugins write is not asked:
    /// only the host knows, by [`permit`](Self::permit), and not the process that read the manifest.
    ///
    /// # Errors
    /// E170 with the field.
    pub fn check(self) -> Result<Self, Refusal> {
        let bad = |text: String| Err(Refusal::new(Code::BadManifest, text));
        if self.version.is_empty() || self.version.len() > 64 {
            return bad(format!("version: {} bytes, expected 1 to 64", self.version.len()));
        }
        if self.children.len() > KINDS_MAX || self.reads.len() > KINDS_MAX {
            return bad(format!(
                "{} children and {} reads, at most {KINDS_MAX} of each",
                self.children.len(),
                self.reads.len()
            ));
        }
        for (i, child) in self.children.iter().enumerate() {
            if let Some(before) = self.children[..i].iter().find(|c| c.kind.is_same_kind(&child.kind)) {
                let (kind, before) = (&child.kind, &before.kind);
                return bad(format!(
                    "children[{i}]: {kind} is listed twice, as {before} before; list one version"
                ));
            }
            if child.kind.is_same_kind(&self.primary) {
                return bad(format!("children[{i}]: {} is the primary kind itself", child.kind));
            }
        }
        for (i, read) in self.reads.iter().enumerate() {
            if read.scope.labels.len() > SCOPE_MAX {
                return bad(format!("reads[{i}]: {} labels, at most {SCOPE_MAX}", read.scope.labels.len()));
            }
        }
        if self.finalizes && !self.selects.labels.is_empty() {
            return bad(
                "primary.labels: a plugin that finalizes cannot select by label: an object that loses the label would keep \
                 its finalizer; select by namespace, or look at the label in reconcile"
                    .into(),
            );
        }
        Ok(self)
    }

    /// What is left of it in a host that serves these namespaces only; none: all of it. A scope that names no namespace
    /// means those that are served; one that names others is the author's will, which cannot be done.
    ///
    /// # Errors
    /// E182 with the scope.
    pub fn within(mut self, namespaces: &[String]) -> Result<Self, Refusal> {
        if namespaces.is_empty() {
            return Ok(self);
        }
        let reads = self.reads.iter_mut().enumerate();
        let reads = reads.map(|(i, read)| (format!("reads[{i}]"), &mut read.scope));
        for (path, scope) in std::iter::once(("primary".to_owned(), &mut self.selects)).chain(reads) {
            if let Some(outside) = scope.namespaces.iter().find(|one| !namespaces.contains(one)) {
                let served = namespaces.join(", ");
                return Err(Refusal::new(
                    Code::OutsideNamespaces,
                    format!(
                        "{path}.namespaces: {outside}; this host serves {served} only (--namespaces): \
                         leave the namespaces out of the manifest, or have the host serve this one"
                    ),
                ));
            }
            if scope.namespaces.is_empty() {
                scope.namespaces = namespaces.to_vec();
            }
        }
        Ok(self)
    }

    /// Judges what it asks for by what the operator of this host allows.
    ///
    /// # Errors
    /// E238 for a reserved kind that `policy` does not name.
    pub fn permit(&self, policy: &Policy) -> Result<(), Refusal> {
        for (i, child) in self.children.iter().enumerate() {
            let permitted = policy.permits(&child.kind);
            permitted.map_err(|why| Refusal::new(Code::ReservedKind, format!("children[{i}]: {why}")))?;
        }
        Ok(())
    }

    /// Whether it may see what is in a Secret: as its primary, as a child or as a read of more than metadata. What such a
    /// plugin answers may hold a part of it, so nobody repeats it: no log, no Event, no view.
    pub fn sees_secrets(&self) -> bool {
        let children = self.children.iter().map(|child| &child.kind);
        let reads = self.reads.iter().filter(|read| !read.scope.metadata_only).map(|read| &read.kind);
        [&self.primary].into_iter().chain(children).chain(reads).any(is_secret)
    }

    /// The rule for a child of this kind, if it may be created.
    pub fn child(&self, kind: &Gvk) -> Option<&ChildRule> {
        self.children.iter().find(|c| c.kind == *kind)
    }

    /// The scopes that the manifest declares for `kind`, as the primary's and as reads. An object that one
    /// of them selects may be seen; none: not for this.
    pub fn declared(&self, kind: &Gvk) -> impl Iterator<Item = &Scope> {
        let primary = (self.primary == *kind).then_some(&self.selects);
        primary.into_iter().chain(self.reads.iter().filter(move |r| r.kind == *kind).map(|r| &r.scope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(children: &[&str]) -> Manifest {
        let kind = |text: &&str| text.parse().expect("a kind");
        let rule = |text| ChildRule { kind: kind(text), unwanted: Unwanted::Delete };
        Manifest {
            name: PluginName::try_new("web").expect("valid"),
            version: "1".into(),
            primary: kind(&"x.dev/v1/Web"),
            children: children.iter().map(rule).collect(),
            selects: Scope::default(),
            reads: vec![],
            strict: true,
            finalizes: false,
        }
    }

    #[test]
    fn two_versions_of_a_kind_are_two_views_of_the_same_children() {
        for bad in [
            &["autoscaling/v1/HorizontalPodAutoscaler", "autoscaling/v2/HorizontalPodAutoscaler"][..],
            &["x.dev/v2/Web"],
        ] {
            assert_eq!(
                manifest(bad).check().expect_err("one object twice").code,
                Code::BadManifest,
                "{bad:?}"
            );
        }
        assert!(manifest(&["apps/v1/Deployment", "x.dev/v1/Deployment"]).check().is_ok());
    }

    #[test]
    fn who_may_see_secrets_is_known_from_the_manifest() {
        let reads = |metadata_only| Manifest {
            reads: vec![ReadRule {
                kind: "v1/Secret".parse().expect("a kind"),
                scope: Scope { metadata_only, ..Scope::default() },
            }],
            ..manifest(&["v1/ConfigMap"])
        };
        assert!(reads(false).sees_secrets() && manifest(&["v1/Secret"]).sees_secrets());
        assert!(Manifest { primary: "v1/Secret".parse().expect("a kind"), ..manifest(&[]) }.sees_secrets());
        assert!(!reads(true).sees_secrets(), "names and labels are no secret");
        assert!(!manifest(&["v1/ConfigMap", "x.dev/v1/Secret"]).sees_secrets());
    }

    #[test]
    fn a_finalizer_is_never_left_on_an_object_that_lost_its_label() {
        let selects = Scope::of_labels([("a".to_owned(), "1".to_owned())]);
        let by_label = Manifest { selects, ..manifest(&[]) };
        assert!(by_label.clone().check().is_ok());
        let refusal = Manifest { finalizes: true, ..by_label }.check().expect_err("a trap");
        assert_eq!(refusal.code, Code::BadManifest);
        assert!(refusal.message.starts_with("primary.labels: "), "{refusal}");
        let selects = Scope { namespaces: vec!["ns".into()], ..Scope::default() };
        assert!(
            Manifest { finalizes: true, selects, ..manifest(&[]) }.check().is_ok(),
            "nothing leaves a namespace"
        );
    }

    #[test]
    fn a_reserved_kind_is_written_only_where_the_operator_of_the_host_says_so() {
        let role = "rbac.authorization.k8s.io/v1/Role";
        let refusal = manifest(&[role]).permit(&Policy::default()).expect_err("reserved");
        assert_eq!(refusal.code, Code::ReservedKind);
        assert!(refusal.message.contains(&format!("--allow-reserved-kind={role}")), "{refusal}");
        let unreserved = [role.parse().expect("a kind")].into();
        let policy = Policy { unreserved, ..Policy::default() };
        assert!(manifest(&[role]).permit(&policy).is_ok());
        for other in ["rbac.authorization.k8s.io/v1/ClusterRole", "rbac.authorization.k8s.io/v2/Role"] {
            assert!(manifest(&[role, other]).permit(&policy).is_err(), "{other}");
        }
    }
}

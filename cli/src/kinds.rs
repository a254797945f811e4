//! What is known of kinds at the desk, where no API server is asked: the plural that stands in paths and
//! in RBAC, the scope, and whether there is a status to write.
//!
//! Nothing is guessed. A kind is known because Kubernetes brings it, because its CRD lies beside the
//! plugin, or because somebody said so; of any other kind [`UnknownKind`] says what to do.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use windlass_core::kind::Gvk;

/// The kinds that Kubernetes 1.37 brings: group, those in namespaces, those of the cluster.
const BUILT_IN: &[(&str, &str, &str)] = &[
    (
        "",
        "Binding ConfigMap Endpoints Event LimitRange PersistentVolumeClaim Pod PodTemplate ReplicationController \
         ResourceQuota Secret Service ServiceAccount",
        "ComponentStatus Namespace Node PersistentVolume",
    ),
    (
        "admissionregistration.k8s.io",
        "",
        "MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration \
         ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration",
    ),
    ("apiextensions.k8s.io", "", "CustomResourceDefinition"),
    ("apiregistration.k8s.io", "", "APIService"),
    ("apps", "ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet", ""),
    ("authentication.k8s.io", "", "SelfSubjectReview TokenReview"),
    (
        "authorization.k8s.io",
        "LocalSubjectAccessReview",
        "SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview",
    ),
    ("autoscaling", "HorizontalPodAutoscaler", ""),
    ("batch", "CronJob Job", ""),
    ("certificates.k8s.io", "PodCertificateRequest", "CertificateSigningRequest ClusterTrustBundle"),
    ("coordination.k8s.io", "Lease LeaseCandidate", ""),
    ("discovery.k8s.io", "EndpointSlice", ""),
    ("events.k8s.io", "Event", ""),
    ("flowcontrol.apiserver.k8s.io", "", "FlowSchema PriorityLevelConfiguration"),
    ("internal.apiserver.k8s.io", "", "StorageVersion"),
    ("networking.k8s.io", "Ingress NetworkPolicy", "IngressClass IPAddress ServiceCIDR"),
    ("node.k8s.io", "", "RuntimeClass"),
    ("policy", "PodDisruptionBudget", ""),
    ("rbac.authorization.k8s.io", "Role RoleBinding", "ClusterRole ClusterRoleBinding"),
    (
        "resource.k8s.io",
        "ResourceClaim ResourceClaimTemplate",
        "DeviceClass DeviceTaintRule ResourcePoolStatusRequest ResourceSlice",
    ),
    ("scheduling.k8s.io", "CompositePodGroup PodGroup Workload", "PriorityClass"),
    (
        "storage.k8s.io",
        "CSIStorageCapacity",
        "CSIDriver CSINode StorageClass VolumeAttachment VolumeAttributesClass",
    ),
    ("storagemigration.k8s.io", "", "StorageVersionMigration"),
];

/// What stands in front of a kind when it is spoken of without a version: `apps/Deployment`, `/Pod`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKind {
    /// API group; empty for the core group.
    pub group: String,
    /// Kind, such as `Deployment`.
    pub kind: String,
}

impl GroupKind {
    fn of(gvk: &Gvk) -> Self {
        Self { group: gvk.group.to_string(), kind: gvk.kind.to_string() }
    }
}

impl std::fmt::Display for GroupKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.group, self.kind)
    }
}

impl FromStr for GroupKind {
    type Err = anyhow::Error;

    /// `<group>/<Kind>`; nothing before the slash for the core group.
    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.split_once('/').and_then(|(group, kind)| Gvk::try_new(group, "v1", kind).ok());
        let gvk = parsed.with_context(|| format!("{text:?} is no <group>/<Kind>"))?;
        Ok(Self::of(&gvk))
    }
}

/// One kind with its plural, as the flag `--plural` names both: `cert-manager.io/Certificate=certificates`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plural {
    /// Whose plural it is.
    pub kind: GroupKind,
    /// The plural: what stands in paths.
    pub plural: String,
}

impl FromStr for Plural {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (kind, plural) =
            text.split_once('=').with_context(|| format!("{text:?} is no <group>/<Kind>=<plural>"))?;
        let is_plural =
            !plural.is_empty() && plural.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        ensure!(is_plural, "{plural:?} is no plural: lower-case letters and digits are expected");
        Ok(Self { kind: kind.parse()?, plural: plural.to_owned() })
    }
}

/// What is known of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What stands in paths and in RBAC: `deployments`.
    pub plural: String,
    /// Whether its objects are in namespaces; `None` when nobody has said.
    pub namespaced: Option<bool>,
    /// Whether it has a status of its own to write; `None` when nobody has said.
    pub has_status: Option<bool>,
    /// Whether the plugin does not bring it and others rely on it: Kubernetes' own.
    pub built_in: bool,
}

/// A kind of which the plural, or the scope where that matters, is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownKind {
    /// What it is called in paths.
    #[error(
        "nothing here says what {0} is called in a path: put its CRD beside the plugin (crd.yaml or crds/), or add \
         --plural {0}=<plural> (`kubectl api-resources` shows it under NAME), or --from-cluster to have kubectl ask"
    )]
    Plural(GroupKind),
    /// Whether its objects are in namespaces.
    #[error(
        "nothing here says whether objects of {0} are in namespaces, which a package for namespaces needs: put its CRD \
         beside the plugin (crd.yaml or crds/), or add --namespaced-kind {0} if they are, or --from-cluster to have kubectl ask"
    )]
    Scope(GroupKind),
}

/// All that is known. Kubernetes' own kinds are known always; what is said later wins.
#[derive(Clone, Debug, Default)]
pub struct Kinds {
    said: BTreeMap<GroupKind, Facts>,
}

impl Kinds {
    /// Learns what CRDs say: one YAML text with one or several of them.
    ///
    /// # Errors
    /// When a document is something else; nothing else belongs beside a plugin.
    pub fn learn_crds(&mut self, yaml: &str) -> Result<()> {
        for Crd { kind, spec } in crds(yaml)? {
            ensure!(
                kind == "CustomResourceDefinition",
                "a {kind} is among the CRDs; only CustomResourceDefinitions are packaged with a plugin"
            );
            let has_status =
                spec.versions.iter().any(|v| v.subresources.as_ref().is_some_and(|s| s.status.is_some()));
            let facts = Facts {
                plural: spec.names.plural,
                namespaced: Some(spec.scope == "Namespaced"),
                has_status: Some(has_status),
                built_in: false,
            };
            self.said.insert(GroupKind { group: spec.group, kind: spec.names.kind }, facts);
        }
        Ok(())
    }

    /// Learns one plural from a person.
    pub fn learn_plural(&mut self, said: &Plural) {
        let facts = self.known(&said.kind).unwrap_or(Facts {
            plural: String::new(),
            namespaced: None,
            has_status: None,
            built_in: false,
        });
        self.said.insert(said.kind.clone(), Facts { plural: said.plural.clone(), ..facts });
    }

    /// Learns from a person that objects of a kind are in namespaces.
    ///
    /// # Errors
    /// When the plural of that kind is not known: then the scope alone is no use.
    pub fn learn_namespaced(&mut self, kind: &GroupKind) -> Result<(), UnknownKind> {
        let facts = self.known(kind).ok_or_else(|| UnknownKind::Plural(kind.clone()))?;
        self.said.insert(kind.clone(), Facts { namespaced: Some(true), ..facts });
        Ok(())
    }

    /// Learns what an API server says of one group and version: the JSON of an APIResourceList.
    ///
    /// # Errors
    /// When the text is something else.
    pub fn learn_api_resources(&mut self, group: &str, json: &str) -> Result<()> {
        let list: ApiResources = serde_json::from_str(json).context("this is no list of API resources")?;
        let has_status = |name: &str| list.resources.iter().any(|r| r.name == format!("{name}/status"));
        for resource in list.resources.iter().filter(|resource| !resource.name.contains('/')) {
            let facts = Facts {
                plural: resource.name.clone(),
                namespaced: Some(resource.namespaced),
                has_status: Some(has_status(&resource.name)),
                built_in: false,
            };
            self.said.insert(GroupKind { group: group.to_owned(), kind: resource.kind.clone() }, facts);
        }
        Ok(())
    }

    /// What is known of a kind.
    ///
    /// # Errors
    /// [`UnknownKind::Plural`] when nothing is.
    pub fn facts(&self, gvk: &Gvk) -> Result<Facts, UnknownKind> {
        let kind = GroupKind::of(gvk);
        self.known(&kind).ok_or(UnknownKind::Plural(kind))
    }

    /// Whether objects of the kind are in namespaces.
    ///
    /// # Errors
    /// When nobody has said.
    pub fn is_namespaced(&self, gvk: &Gvk) -> Result<bool, UnknownKind> {
        self.facts(gvk)?.namespaced.ok_or_else(|| UnknownKind::Scope(GroupKind::of(gvk)))
    }

    fn known(&self, kind: &GroupKind) -> Option<Facts> {
        self.said.get(kind).cloned().or_else(|| built_in(kind))
    }
}

/// Kubernetes' own kinds: group, kind, plural and whether in namespaces.
pub fn built_ins() -> impl Iterator<Item = (&'static str, &'static str, String, bool)> {
    BUILT_IN.iter().flat_map(|(group, inside, cluster)| {
        let of = move |kinds: &'static str, namespaced| {
            kinds.split_whitespace().map(move |kind| (*group, kind, plural(kind), namespaced))
        };
        of(inside, true).chain(of(cluster, false))
    })
}

fn built_in(wanted: &GroupKind) -> Option<Facts> {
    let (_, _, plural, namespaced) =
        built_ins().find(|(group, kind, ..)| *group == wanted.group && *kind == wanted.kind)?;
    Some(Facts { plural, namespaced: Some(namespaced), has_status: None, built_in: true })
}

/// The plural that Kubernetes' own kinds have: the lower-case kind in English.
fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    match kind.as_str() {
        "endpoints" => kind,
        k if k.ends_with(['s', 'x']) || k.ends_with("ch") || k.ends_with("sh") => format!("{kind}es"),
        k if k.ends_with('y') && !k.ends_with("ey") && !k.ends_with("ay") => {
            format!("{}ies", &kind[..kind.len() - 1])
        }
        _ => format!("{kind}s"),
    }
}

#[derive(Deserialize)]
struct Crd {
    kind: String,
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    group: String,
    scope: String,
    names: Names,
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Names {
    kind: String,
    plural: String,
}

#[derive(Deserialize)]
struct Version {
    name: String,
    #[serde(default)]
    subresources: Option<Subresources>,
}

#[derive(Deserialize)]
struct Subresources {
    #[serde(default)]
    status: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct ApiResources {
    resources: Vec<ApiResource>,
}

#[derive(Deserialize)]
struct ApiResource {
    name: String,
    namespaced: bool,
    kind: String,
}

fn crds(yaml: &str) -> Result<Vec<Crd>> {
    serde_saphyr::from_multiple(yaml).context("this is not a CustomResourceDefinition")
}

/// Whether the CRDs in `yaml` have this kind, but not in this version: a plugin that waits for ever.
///
/// # Errors
/// As [`Kinds::learn_crds`].
pub(crate) fn lacks_version(yaml: &str, gvk: &Gvk) -> Result<Option<String>> {
    for crd in crds(yaml)? {
        let same = crd.spec.group == *gvk.group && crd.spec.names.kind == *gvk.kind;
        if same && !crd.spec.versions.iter().any(|version| version.name == *gvk.version) {
            let has: Vec<_> = crd.spec.versions.into_iter().map(|version| version.name).collect();
            return Ok(Some(format!("the CRD beside the plugin has {gvk} only as {}", has.join(", "))));
        }
    }
    Ok(None)
}

/// Asks the cluster of kubectl's current context about the groups of these kinds.
///
/// # Errors
/// When kubectl is not there, or the cluster does not answer or does not serve one of them.
pub(crate) fn ask_cluster(kinds: &mut Kinds, of: &[&Gvk]) -> Result<()> {
    for gvk in of {
        if kinds.facts(gvk).is_ok_and(|facts| facts.namespaced.is_some()) {
            continue;
        }
        let path = gvk.api_path();
        let asked = std::process::Command::new("kubectl").args(["get", "--raw", &path]).output();
        let asked = asked.context("--from-cluster: start kubectl")?;
        if !asked.status.success() {
            bail!("kubectl get --raw {path}: {}", String::from_utf8_lossy(&asked.stderr).trim());
        }
        kinds.learn_api_resources(&gvk.group, &String::from_utf8_lossy(&asked.stdout))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRD: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: oxen.farm.example.com}
spec:
  group: farm.example.com
  scope: Namespaced
  names: {kind: Ox, plural: oxen}
  versions: [{name: v1, served: true, storage: true, subresources: {status: {}}}]
";

    fn gvk(text: &str) -> Gvk {
        text.parse().expect("a kind")
    }

    #[test]
    fn the_plurals_of_kubernetes_kinds_follow_from_their_names() {
        let kinds = Kinds::default();
        for (kind, expected) in [
            ("apps/v1/Deployment", "deployments"),
            ("networking.k8s.io/v1/Ingress", "ingresses"),
            ("networking.k8s.io/v1/NetworkPolicy", "networkpolicies"),
            ("v1/Endpoints", "endpoints"),
            ("storage.k8s.io/v1/StorageClass", "storageclasses"),
            ("storage.k8s.io/v1/CSIStorageCapacity", "csistoragecapacities"),
        ] {
            assert_eq!(kinds.facts(&gvk(kind)).expect(kind).plural, expected);
        }
    }

    #[test]
    fn nothing_is_guessed_of_a_kind_that_nobody_has_told_of() {
        let mut kinds = Kinds::default();
        for unknown in
            ["farm.example.com/v1/Ox", "apps/v1/Deploymnet", "gateway.networking.k8s.io/v1/Gateway"]
        {
            let error = kinds.facts(&gvk(unknown)).expect_err(unknown).to_string();
            assert!(error.contains("--plural"), "{error}");
        }
        let ox = gvk("farm.example.com/v1/Ox");
        kinds.learn_plural(&"farm.example.com/Ox=oxen".parse().expect("a plural"));
        assert_eq!(kinds.facts(&ox).expect("said").plural, "oxen");
        let error = kinds.is_namespaced(&ox).expect_err("nobody said").to_string();
        assert!(error.contains("--namespaced-kind farm.example.com/Ox"), "{error}");
        kinds.learn_namespaced(&"farm.example.com/Ox".parse().expect("a kind")).expect("known");
        assert!(kinds.is_namespaced(&ox).expect("said"));
        for bad in
            ["oxen", "farm.example.com/Ox", "farm.example.com/Ox=", "farm.example.com/ox=oxen", "a/Ox=a/b"]
        {
            assert!(bad.parse::<Plural>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_crd_beside_the_plugin_says_all_and_what_is_no_crd_is_refused() {
        let mut kinds = Kinds::default();
        kinds.learn_crds(CRD).expect("a CRD");
        let facts = kinds.facts(&gvk("farm.example.com/v1/Ox")).expect("said");
        assert_eq!((&*facts.plural, facts.namespaced, facts.has_status), ("oxen", Some(true), Some(true)));
        let other = CRD.replace("kind: CustomResourceDefinition", "kind: Secret");
        let error = kinds.learn_crds(&other).expect_err("no CRD").to_string();
        assert!(error.contains("a Secret is among the CRDs"), "{error}");
        assert_eq!(lacks_version(CRD, &gvk("farm.example.com/v1/Ox")).expect("a CRD"), None);
        let said = lacks_version(CRD, &gvk("farm.example.com/v2/Ox")).expect("a CRD").expect("not v2");
        assert!(said.ends_with("only as v1"), "{said}");
    }

    #[test]
    fn an_api_server_is_believed() {
        let mut kinds = Kinds::default();
        let said = r#"{"kind":"APIResourceList","groupVersion":"farm.example.com/v1","resources":[
            {"name":"oxen","namespaced":false,"kind":"Ox"},{"name":"oxen/status","namespaced":false,"kind":"Ox"}]}"#;
        kinds.learn_api_resources("farm.example.com", said).expect("a list");
        let facts = kinds.facts(&gvk("farm.example.com/v1/Ox")).expect("said");
        assert_eq!((&*facts.plural, facts.namespaced, facts.has_status), ("oxen", Some(false), Some(true)));
        assert!(kinds.learn_api_resources("x", "{}").is_err());
    }
}

//! The manifests of `deploy/`, as kustomize renders them for a namespace of a test's own: tests judge what is shipped, not a copy.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::control_plane::ControlPlane;

/// What a test without a kubelet and an image cannot use.
const WORKLOADS: [&str; 3] = ["Deployment", "PodDisruptionBudget", "Service"];

impl ControlPlane {
    /// `deploy/base` in `namespace`, with the named folders of `deploy/components` on top, as one YAML text without the host's
    /// Deployment, Service and PodDisruptionBudget. Built as the components' own documentation says for another namespace.
    ///
    /// # Errors
    /// If kustomize refuses it; the message is its own.
    pub async fn manifests(&self, namespace: &str, components: &[&str]) -> Result<String> {
        let folder = tempfile::tempdir().context("no temporary directory")?;
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        copy(&deploy, &folder.path().join("deploy"))?;
        let components: Vec<_> =
            components.iter().map(|name| format!("../deploy/components/{name}")).collect();
        let layers = [
            ("lower", format!("namespace: {namespace}\nresources: [../deploy/base]\n")),
            ("upper", format!("resources: [../lower]\ncomponents: [{}]\n", components.join(", "))),
        ];
        for (name, text) in layers {
            let layer = folder.path().join(name);
            std::fs::create_dir(&layer)?;
            std::fs::write(layer.join("kustomization.yaml"), text)?;
        }
        let upper = folder.path().join("upper").display().to_string();
        let output = self.kubectl(&["kustomize", &upper]).await?;
        ensure!(output.status.success(), "kustomize: {}", String::from_utf8_lossy(&output.stderr).trim());
        let rendered = String::from_utf8(output.stdout).context("kustomize writes UTF-8")?;
        let kept = rendered.split("\n---\n").filter(|document| !is_workload(document));
        Ok(kept.collect::<Vec<_>>().join("\n---\n"))
    }
}

/// The Role and binding by which the host's account in `host_namespace` may act as the plugin's, as a package has them:
/// for plugins that a test installs by hand.
pub fn may_act_as(host_namespace: &str, plugin: &str) -> String {
    let metadata = format!("metadata: {{name: windlass-impersonate-{plugin}, namespace: {host_namespace}}}");
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1
kind: Role
{metadata}
rules: [{{apiGroups: [''], resources: [serviceaccounts], resourceNames: [plugin-{plugin}], verbs: [impersonate]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
{metadata}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: windlass-impersonate-{plugin}}}
subjects: [{{kind: ServiceAccount, name: windlass, namespace: {host_namespace}}}]
"
    )
}

fn is_workload(document: &str) -> bool {
    document.lines().any(|line| line.strip_prefix("kind: ").is_some_and(|kind| WORKLOADS.contains(&kind)))
}

pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let path = entry?.path();
        let target = to.join(path.file_name().context("an entry has a name")?);
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            std::fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

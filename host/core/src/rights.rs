//! What a refused request lacked, as the rule of RBAC that would have allowed it.
//!
//! The API server words a refusal in one way, whichever authorizer refused, and quotes whatever it names. So the rule is read off
//! its message: it is what was judged, also where a plugin's write was made as somebody else or was turned into another verb
//! (an apply to an object that does not exist is first a `patch` and then a `create`). Refusals by admission have words of their own and lack no right.

use std::fmt::{self, Write as _};

use serde::Serialize;

/// A right that somebody does not have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Missing {
    /// Whose: the user name that was judged.
    pub user: Box<str>,
    /// The API group; empty for the core group.
    pub group: Box<str>,
    /// The plural, with `/<subresource>` if that is what was asked for.
    pub resource: Box<str>,
    /// The verb of the API server, as `impersonate`.
    pub verb: Box<str>,
    /// The object, where the message names one.
    pub name: Option<Box<str>>,
    /// The namespace; none at the cluster scope.
    pub namespace: Option<Box<str>>,
    /// What the authorizer added, such as a Role that a binding names and that is not there. Empty as a rule.
    pub remark: Box<str>,
}

/// What names a ServiceAccount among user names.
const ACCOUNT: &str = "system:serviceaccount:";
/// Bytes of a remark that are kept.
const REMARK_MAX_BYTES: usize = 160;

/// A missing right for people and for programs that read `/debug`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MissingView {
    /// Who may not do what, in one sentence.
    pub what: String,
    /// Where the rule belongs.
    pub add_to: String,
    /// The rule as one line of YAML.
    pub rule: String,
}

impl Missing {
    /// Reads a refusal of the API server's. `None`: it is no refusal for want of a right.
    pub fn of_refusal(message: &str) -> Option<Self> {
        let (before, said) = message.split_once("User \"")?;
        let (user, said) = said.split_once("\" cannot ")?;
        let (verb, said) = said.split_once(" resource \"")?;
        let (resource, said) = said.split_once("\" in API group \"")?;
        let (group, said) = said.split_once('"')?;
        let (namespace, remark) = match said.strip_prefix(" in the namespace \"") {
            Some(said) => said.split_once('"').map(|(namespace, remark)| (Some(namespace), remark))?,
            None => (None, said.strip_prefix(" at the cluster scope")?),
        };
        let name = before.split_once(" \"").and_then(|(_, name)| name.strip_suffix("\" is forbidden: "));
        let remark = remark.trim_start_matches([':', ' ']);
        let whole = !user.is_empty() && !resource.is_empty() && is_word(verb);
        whole.then(|| Self {
            user: user.into(),
            group: group.into(),
            resource: resource.into(),
            verb: verb.into(),
            name: name.map(Into::into),
            namespace: namespace.map(Into::into),
            remark: crate::code::printable(remark, REMARK_MAX_BYTES).into(),
        })
    }

    /// Whether it is the right to act as somebody else.
    pub fn is_impersonation(&self) -> bool {
        &*self.verb == "impersonate"
    }

    /// Whether it is one and the same rule, whichever of the objects it was asked for.
    pub fn is_rule_of(&self, other: &Self) -> bool {
        let one = (&self.user, &self.group, &self.resource, &self.verb, &self.namespace, self.named());
        one == (&other.user, &other.group, &other.resource, &other.verb, &other.namespace, other.named())
    }

    /// The rule as one line of YAML, to be pasted below `rules:`. A list is followed by a watch and by reads of single
    /// objects, so it is named with them.
    pub fn rule(&self) -> String {
        let verbs = if matches!(&*self.verb, "list" | "watch") { "get, list, watch" } else { &self.verb };
        let mut rule =
            format!("- {{apiGroups: [{}], resources: [{}]", word(&self.group), word(&self.resource));
        if let Some(name) = self.named() {
            write!(rule, ", resourceNames: [{}]", word(name)).expect("a String takes all");
        }
        rule + &format!(", verbs: [{verbs}]}}")
    }

    /// Where the rule belongs.
    pub fn add_to(&self) -> String {
        let account = self.account();
        match &self.namespace {
            Some(namespace) if self.is_impersonation() => {
                format!("a Role in namespace {namespace} with a RoleBinding to {account}")
            }
            Some(namespace) => {
                format!("a Role in namespace {namespace}, or a ClusterRole, that is bound to {account}")
            }
            None => format!("a ClusterRole with a ClusterRoleBinding to {account}"),
        }
    }

    /// One sentence that ends with the rule.
    pub fn advice(&self) -> String {
        format!("{self}; add to {}: {}", self.add_to(), self.rule())
    }

    /// The same in parts.
    pub fn view(&self) -> MissingView {
        MissingView { what: self.to_string(), add_to: self.add_to(), rule: self.rule() }
    }

    /// The object that the rule should be bound to. Most rules are for all objects of a kind; whoever acts as others should
    /// be able to act as those alone.
    fn named(&self) -> Option<&str> {
        self.name.as_deref().filter(|_| self.is_impersonation() && &*self.resource == "serviceaccounts")
    }

    fn account(&self) -> String {
        match self.user.strip_prefix(ACCOUNT).and_then(|account| account.split_once(':')) {
            Some((namespace, name)) => format!("ServiceAccount {namespace}/{name}"),
            None => format!("User {:?}", self.user),
        }
    }
}

/// `ServiceAccount windlass-system/plugin-web may not create deployments.apps in namespace shop`.
impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (resource, sub) = self.resource.split_at(self.resource.find('/').unwrap_or(self.resource.len()));
        let dot = if self.group.is_empty() { "" } else { "." };
        write!(f, "{} may not {} {resource}{dot}{}{sub}", self.account(), self.verb, self.group)?;
        if let Some(name) = self.named() {
            write!(f, " {name}")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}")?,
            None => f.write_str(" at the cluster scope")?,
        }
        if !self.remark.is_empty() {
            write!(f, " ({})", self.remark)?;
        }
        Ok(())
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'/' | b'*'))
}

/// A scalar of YAML within brackets: quoted unless nobody could take it for anything else.
fn word(text: &str) -> String {
    let plain = is_word(text) && text.as_bytes()[0].is_ascii_lowercase();
    if plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Kubernetes 1.37 words them; `host/tests/integration/faults/rights.rs` has it say them anew.
    const WORDS: [(&str, &str, &str, &str); 7] = [
        (
            r#"configmaps is forbidden: User "system:serviceaccount:windlass-system:plugin-web" cannot create resource "configmaps" in API group "" in the namespace "shop""#,
            "ServiceAccount windlass-system/plugin-web may not create configmaps in namespace shop",
            "a Role in namespace shop, or a ClusterRole, that is bound to ServiceAccount windlass-system/plugin-web",
            r#"- {apiGroups: [""], resources: [configmaps], verbs: [create]}"#,
        ),
        (
            r#"widgets.fixtures.windlass.dev "a" is forbidden: User "system:serviceaccount:windlass-system:plugin-web" cannot patch resource "widgets/status" in API group "fixtures.windlass.dev" in the namespace "shop""#,
            "ServiceAccount windlass-system/plugin-web may not patch widgets.fixtures.windlass.dev/status in namespace shop",
            "a Role in namespace shop, or a ClusterRole, that is bound to ServiceAccount windlass-system/plugin-web",
            "- {apiGroups: [fixtures.windlass.dev], resources: [widgets/status], verbs: [patch]}",
        ),
        (
            r#"deployments.apps is forbidden: User "system:serviceaccount:windlass-system:windlass" cannot list resource "deployments" in API group "apps" at the cluster scope"#,
            "ServiceAccount windlass-system/windlass may not list deployments.apps at the cluster scope",
            "a ClusterRole with a ClusterRoleBinding to ServiceAccount windlass-system/windlass",
            "- {apiGroups: [apps], resources: [deployments], verbs: [get, list, watch]}",
        ),
        (
            r#"serviceaccounts "plugin-web" is forbidden: User "system:serviceaccount:windlass-system:windlass" cannot impersonate resource "serviceaccounts" in API group "" in the namespace "windlass-system""#,
            "ServiceAccount windlass-system/windlass may not impersonate serviceaccounts plugin-web in namespace windlass-system",
            "a Role in namespace windlass-system with a RoleBinding to ServiceAccount windlass-system/windlass",
            r#"- {apiGroups: [""], resources: [serviceaccounts], resourceNames: [plugin-web], verbs: [impersonate]}"#,
        ),
        (
            r#"userextras.authentication.k8s.io "a/7" is forbidden: User "somebody else" cannot impersonate resource "userextras/windlass.dev/claim" in API group "authentication.k8s.io" at the cluster scope"#,
            "User \"somebody else\" may not impersonate userextras.authentication.k8s.io/windlass.dev/claim at the cluster scope",
            "a ClusterRole with a ClusterRoleBinding to User \"somebody else\"",
            "- {apiGroups: [authentication.k8s.io], resources: [userextras/windlass.dev/claim], verbs: [impersonate]}",
        ),
        (
            r#"configmaps "a" is forbidden: User "x" cannot get resource "configmaps" in API group "" in the namespace "b": RBAC: role.rbac.authorization.k8s.io "c" not found"#,
            "User \"x\" may not get configmaps in namespace b (RBAC: role.rbac.authorization.k8s.io \"c\" not found)",
            "a Role in namespace b, or a ClusterRole, that is bound to User \"x\"",
            r#"- {apiGroups: [""], resources: [configmaps], verbs: [get]}"#,
        ),
        (
            r#"x is forbidden: User "x" cannot get resource "*, - a: b" in API group "1" at the cluster scope"#,
            "User \"x\" may not get *, - a: b.1 at the cluster scope",
            "a ClusterRole with a ClusterRoleBinding to User \"x\"",
            r#"- {apiGroups: ["1"], resources: ["*, - a: b"], verbs: [get]}"#,
        ),
    ];

    #[test]
    fn a_refusal_becomes_whose_right_where_and_which_rule() {
        for (message, what, add_to, rule) in WORDS {
            let missing = Missing::of_refusal(message).unwrap_or_else(|| panic!("{message}"));
            assert_eq!(
                (missing.to_string(), missing.add_to(), missing.rule()),
                (what.into(), add_to.into(), rule.into())
            );
            assert_eq!(missing.advice(), format!("{what}; add to {add_to}: {rule}"));
        }
    }

    #[test]
    fn what_lacks_no_right_is_no_missing_right() {
        for message in [
            "",
            "forbidden",
            r#"pods "a" is forbidden: exceeded quota: small"#,
            r#"configmaps "a" is forbidden: ValidatingAdmissionPolicy 'windlass-fence' denied request: fenced: a/3 is not the current claim"#,
            r#"forbidden: User "x" cannot get path "/apis/apps""#,
            r#"x is forbidden: User "" cannot get resource "pods" in API group "" at the cluster scope"#,
            r#"x is forbidden: User "x" cannot do anything with resource "pods" in API group "" at the cluster scope"#,
            r#"x is forbidden: User "x" cannot get resource "pods" in API group "" on the moon"#,
        ] {
            assert_eq!(Missing::of_refusal(message), None, "{message}");
        }
    }

    #[test]
    fn one_rule_is_asked_for_with_many_objects() {
        let of = |name: &str, namespace: &str| {
            let message = format!(
                r#"configmaps "{name}" is forbidden: User "x" cannot patch resource "configmaps" in API group "" in the namespace "{namespace}""#
            );
            Missing::of_refusal(&message).expect("a refusal")
        };
        assert!(of("a", "n").is_rule_of(&of("b", "n")));
        assert!(!of("a", "n").is_rule_of(&of("a", "m")));
    }
}

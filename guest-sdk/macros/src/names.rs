//! What names, versions and kinds may look like, and what to write instead.
//!
//! The same rules are enforced by the host when a plugin is loaded; here they cost the author a
//! second instead of a deployment. Every message is one sentence that contains the fix.

/// Longest name of a plugin in bytes: the contract's bound.
const NAME_MAX_BYTES: usize = 40;
/// Longest version of a plugin in bytes: the contract's bound.
const VERSION_MAX_BYTES: usize = 64;
/// Longest API group in bytes: that of a DNS subdomain.
const GROUP_MAX_BYTES: usize = 253;
/// Longest kind, API version, label name or label value in bytes: that of a DNS label.
const LABEL_MAX_BYTES: usize = 63;

/// Built-in kinds that authors tend to write without their group and version.
const BUILT_IN: &[(&str, &str)] = &[
    ("ConfigMap", "v1/ConfigMap"),
    ("CronJob", "batch/v1/CronJob"),
    ("DaemonSet", "apps/v1/DaemonSet"),
    ("Deployment", "apps/v1/Deployment"),
    ("HorizontalPodAutoscaler", "autoscaling/v2/HorizontalPodAutoscaler"),
    ("Ingress", "networking.k8s.io/v1/Ingress"),
    ("Job", "batch/v1/Job"),
    ("Namespace", "v1/Namespace"),
    ("NetworkPolicy", "networking.k8s.io/v1/NetworkPolicy"),
    ("PersistentVolumeClaim", "v1/PersistentVolumeClaim"),
    ("Pod", "v1/Pod"),
    ("PodDisruptionBudget", "policy/v1/PodDisruptionBudget"),
    ("Secret", "v1/Secret"),
    ("Service", "v1/Service"),
    ("ServiceAccount", "v1/ServiceAccount"),
    ("StatefulSet", "apps/v1/StatefulSet"),
];

/// A check of one text; the error says what to write instead.
pub(crate) type Rule = fn(&str) -> Result<(), String>;

/// A kind taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KindName {
    /// API group; empty for the core group.
    pub(crate) group: String,
    /// API version.
    pub(crate) version: String,
    /// Kind in CamelCase.
    pub(crate) kind: String,
}

/// Takes `apps/v1/Deployment` or `v1/Service` apart.
///
/// # Errors
/// What to write instead, for the author.
pub(crate) fn parse_kind(text: &str) -> Result<KindName, String> {
    if text.contains('*') {
        return Err(format!("`{text}` is a wildcard: name each kind, such as \"apps/v1/Deployment\""));
    }
    let parts: Vec<&str> = text.split('/').collect();
    let (group, version, kind) = match parts.as_slice() {
        [kind] => return Err(bare_kind(kind)),
        [version, kind] => ("", *version, *kind),
        [group, version, kind] => (*group, *version, *kind),
        _ => {
            return Err(format!(
                "`{text}` has too many parts: a kind is \"group/version/Kind\", or \"version/Kind\" for the core group"
            ));
        }
    };
    if parts.len() == 3 && (group.is_empty() || group == "core") {
        return Err(format!("the core group has no name: write \"{version}/{kind}\""));
    }
    if parts.len() == 2 && !is_version(version) {
        return Err(format!(
            "`{text}` lacks its version: write \"{version}/v1/{kind}\" (group, version, kind)"
        ));
    }
    check_group(group)?;
    check_version(version)?;
    check_kind(kind)?;
    Ok(KindName { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() })
}

/// The message for a kind without version; names the right one where it is known.
fn bare_kind(kind: &str) -> String {
    let found = BUILT_IN
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(kind) || format!("{name}s").eq_ignore_ascii_case(kind));
    match found {
        Some((_, full)) => format!("a kind needs its group and version: write \"{full}\""),
        None => format!(
            "`{kind}` is not a kind: write \"group/version/Kind\" such as \"apps/v1/Deployment\", or \"version/Kind\" such as \"v1/Service\""
        ),
    }
}

/// Refuses an API group that is not a DNS subdomain.
///
/// # Errors
/// What to write instead.
pub(crate) fn check_group(group: &str) -> Result<(), String> {
    let labels_hold = group.is_empty() || group.split('.').all(is_dns_label);
    if labels_hold && group.len() <= GROUP_MAX_BYTES {
        return Ok(());
    }
    Err(format!("`{group}` is not an API group: write a DNS name in lower case such as \"apps.example.com\""))
}

/// Refuses an API version unlike `v1`, `v2beta1` or `v1alpha3`.
///
/// # Errors
/// What to write instead.
pub(crate) fn check_version(version: &str) -> Result<(), String> {
    if is_version(version) {
        return Ok(());
    }
    Err(format!("`{version}` is not an API version: write one such as \"v1\" or \"v1alpha1\""))
}

/// Refuses a kind that is not one CamelCase word.
///
/// # Errors
/// What to write instead.
pub(crate) fn check_kind(kind: &str) -> Result<(), String> {
    let camel = kind.starts_with(|first: char| first.is_ascii_uppercase())
        && kind.chars().all(|each| each.is_ascii_alphanumeric());
    if camel && kind.len() <= LABEL_MAX_BYTES {
        return Ok(());
    }
    let known = BUILT_IN
        .iter()
        .map(|(name, _)| *name)
        .find(|name| name.eq_ignore_ascii_case(kind) || format!("{name}s").eq_ignore_ascii_case(kind));
    Err(match known {
        Some(name) => format!("`{kind}` is not a kind: write \"{name}\""),
        None => format!("`{kind}` is not a kind: write the singular in CamelCase, such as \"Deployment\""),
    })
}

/// Refuses a plugin name that is not a DNS label of at most 40 bytes.
///
/// # Errors
/// What to write instead; a usable name is suggested where one can be derived.
pub(crate) fn check_plugin_name(name: &str) -> Result<(), String> {
    if is_dns_label(name) && name.len() <= NAME_MAX_BYTES {
        return Ok(());
    }
    let mut suggestion: String = name
        .chars()
        .map(|each| match each.to_ascii_lowercase() {
            kept if kept.is_ascii_alphanumeric() => kept,
            _ => '-',
        })
        .take(NAME_MAX_BYTES)
        .collect();
    suggestion = suggestion.trim_matches('-').to_owned();
    if suggestion.is_empty() {
        "my-operator".clone_into(&mut suggestion);
    }
    Err(format!(
        "`{name}` is not a plugin name (lower-case letters, digits and dashes, at most {NAME_MAX_BYTES} bytes): write name = \"{suggestion}\""
    ))
}

/// Refuses a plugin version that is not a semantic version.
///
/// # Errors
/// What to write instead.
pub(crate) fn check_plugin_version(version: &str) -> Result<(), String> {
    let core = version.split(['-', '+']).next().unwrap_or(version);
    let numbers: Vec<&str> = core.split('.').collect();
    let numeric = |part: &&str| {
        !part.is_empty()
            && part.bytes().all(|each| each.is_ascii_digit())
            && (part.len() == 1 || !part.starts_with('0'))
    };
    let suffix_holds =
        version[core.len()..].bytes().all(|each| each.is_ascii_alphanumeric() || b"-+.".contains(&each))
            && !version.ends_with(['-', '+', '.']);
    if numbers.len() == 3 && numbers.iter().all(numeric) && suffix_holds && version.len() <= VERSION_MAX_BYTES
    {
        return Ok(());
    }
    Err(format!(
        "`{version}` is not a semantic version: write version = \"1.2.3\", or leave it out to take the package's"
    ))
}

/// Takes `tier=web` apart, or `tier`, which any value will do for.
///
/// # Errors
/// What to write instead.
pub(crate) fn parse_requirement(text: &str) -> Result<(String, Option<String>), String> {
    if text.contains('=') {
        return parse_label(text).map(|(key, value)| (key, Some(value)));
    }
    parse_label(&format!("{text}="))
        .map(|(key, _)| (key, None))
        .map_err(|_| format!("`{text}` is not a label: write \"tier=web\", or \"tier\" for any value"))
}

/// Refuses a namespace that is not a DNS label.
///
/// # Errors
/// What to write instead.
pub(crate) fn check_namespace(text: &str) -> Result<(), String> {
    if is_dns_label(text) {
        return Ok(());
    }
    Err(format!(
        "`{text}` is not a namespace (lower-case letters, digits and dashes, at most 63 bytes): write one such as \"default\", or leave namespaces out for all"
    ))
}

/// Takes `spec.nodeName=a` apart.
///
/// # Errors
/// What to write instead.
pub(crate) fn parse_field(text: &str) -> Result<(String, String), String> {
    let refusal =
        || format!("`{text}` is not a field: write \"path=value\" such as \"spec.nodeName=worker-1\"");
    let (path, value) = text.split_once('=').ok_or_else(refusal)?;
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|each| each.is_ascii_alphanumeric() || b"-_".contains(&each))
    };
    let fits = path.len() <= GROUP_MAX_BYTES && value.len() <= GROUP_MAX_BYTES;
    if fits && path.split('.').all(is_name) && !value.chars().any(char::is_control) && !value.starts_with('=')
    {
        return Ok((path.to_owned(), value.to_owned()));
    }
    Err(refusal())
}

/// Takes `tier=web` apart.
///
/// # Errors
/// What to write instead.
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    let refusal = || format!("`{text}` is not a label: write \"key=value\" such as \"tier=web\"");
    let (key, value) = text.split_once('=').ok_or_else(refusal)?;
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let prefix_holds = prefix.is_none_or(|prefix| !prefix.is_empty() && check_group(prefix).is_ok());
    if prefix_holds && !name.is_empty() && is_label_word(name) && is_label_word(value) {
        return Ok((key.to_owned(), value.to_owned()));
    }
    Err(refusal())
}

/// Whether it is `v`, a number and perhaps `alpha` or `beta` with a number.
fn is_version(version: &str) -> bool {
    let number = |text: &str| {
        !text.is_empty() && !text.starts_with('0') && text.bytes().all(|each| each.is_ascii_digit())
    };
    let Some(rest) = version.strip_prefix('v') else {
        return false;
    };
    if version.len() > LABEL_MAX_BYTES {
        return false;
    }
    let split = ["alpha", "beta"].iter().find_map(|stage| rest.split_once(stage));
    split.map_or_else(|| number(rest), |(major, minor)| number(major) && number(minor))
}

/// Lower-case letters, digits and inner dashes; 1 to 63 bytes.
fn is_dns_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= LABEL_MAX_BYTES
        && text.bytes().all(|each| each.is_ascii_lowercase() || each.is_ascii_digit() || each == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Letters, digits, dashes, dots and underscores with a letter or digit at both ends; may be empty.
fn is_label_word(text: &str) -> bool {
    let alphanumeric = |each: char| each.is_ascii_alphanumeric();
    text.is_empty()
        || text.len() <= LABEL_MAX_BYTES
            && text.chars().all(|each| alphanumeric(each) || "-._".contains(each))
            && text.starts_with(alphanumeric)
            && text.ends_with(alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_both_shapes_are_taken_apart() {
        let deployment = parse_kind("apps/v1/Deployment").expect("well formed");
        assert_eq!(
            (deployment.group.as_str(), deployment.version.as_str(), deployment.kind.as_str()),
            ("apps", "v1", "Deployment")
        );
        assert_eq!(parse_kind("v1/Service").expect("well formed").group, "");
        parse_kind("fixtures.windlass.dev/v1alpha1/Widget").expect("well formed");
    }

    #[test]
    fn a_refused_kind_says_what_to_write() {
        for (written, fix) in [
            ("Deployment", "write \"apps/v1/Deployment\""),
            ("configmaps", "write \"v1/ConfigMap\""),
            ("Gadget", "write \"group/version/Kind\""),
            ("core/v1/ConfigMap", "write \"v1/ConfigMap\""),
            ("apps/Deployment", "write \"apps/v1/Deployment\""),
            ("apps/v1/deployments", "write \"Deployment\""),
            ("apps/v1/my-kind", "singular in CamelCase"),
            ("Apps/v1/Deployment", "lower case"),
            ("apps/v1/*", "name each kind"),
            ("apps/1/Deployment", "such as \"v1\""),
            ("a/b/c/d", "too many parts"),
        ] {
            let message = parse_kind(written).expect_err(written);
            assert!(message.contains(fix), "{written}: {message}");
        }
    }

    #[test]
    fn a_refused_plugin_name_comes_with_a_usable_one() {
        check_plugin_name("webapp").expect("a DNS label");
        for (written, suggested) in [
            ("My_Plugin", "name = \"my-plugin\""),
            ("-x-", "name = \"x\""),
            ("...", "name = \"my-operator\""),
        ] {
            let message = check_plugin_name(written).expect_err(written);
            assert!(message.contains(suggested), "{message}");
        }
        check_plugin_name(&"a".repeat(41)).expect_err("41 bytes");
    }

    #[test]
    fn versions_are_semantic() {
        for good in ["0.1.0", "10.20.30", "1.2.3-rc.1", "1.2.3+build.5"] {
            check_plugin_version(good).expect(good);
        }
        for bad in ["", "1", "1.2", "v1.2.3", "01.2.3", "1.2.3-", "1.2.3 beta"] {
            check_plugin_version(bad).expect_err(bad);
        }
        for good in ["v1", "v2beta3", "v1alpha1"] {
            check_version(good).expect(good);
        }
        for bad in ["v", "1", "v0", "v1gamma1", "v1beta", "V1"] {
            check_version(bad).expect_err(bad);
        }
    }

    #[test]
    fn labels_are_key_and_value() {
        assert_eq!(
            parse_label("app.kubernetes.io/name=web").expect("a label"),
            ("app.kubernetes.io/name".into(), "web".into())
        );
        parse_label("empty=").expect("values may be empty");
        for bad in ["tier", "=web", "a b=c", "/x=y", "tier=-web"] {
            parse_label(bad).expect_err(bad);
        }
    }
}

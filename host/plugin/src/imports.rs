//! The allow-list: all that a plugin's component may import.

use windlass_core::code::{Code, Refusal, printable};

/// The one version of the contract that this host serves.
pub(crate) const CONTRACT: &str = "0.1.0";

/// Interfaces of the contract.
const OWN: [&str; 3] = ["cache", "log", "types"];

/// Interfaces of WASI 0.2 that are answered, in any patch version.
const WASI: [&str; 18] = [
    "cli/environment",
    "cli/exit",
    "cli/stdin",
    "cli/stdout",
    "cli/stderr",
    "cli/terminal-input",
    "cli/terminal-output",
    "cli/terminal-stdin",
    "cli/terminal-stdout",
    "cli/terminal-stderr",
    "io/error",
    "io/poll",
    "io/streams",
    "clocks/wall-clock",
    "clocks/monotonic-clock",
    "random/random",
    "random/insecure",
    "random/insecure-seed",
];

/// Whether a component may import `name`.
///
/// # Errors
/// E121 for another version of the contract, E120 for anything else.
pub(crate) fn allowed(name: &str) -> Result<(), Refusal> {
    let (interface, version) = name.split_once('@').unwrap_or((name, ""));
    if let Some(own) = interface.strip_prefix("windlass:operator/") {
        if version != CONTRACT {
            return Err(Refusal::new(
                Code::WorldVersion,
                format!(
                    "the plugin targets windlass:operator@{}, this host supports {CONTRACT}",
                    printable(version, 64)
                ),
            ));
        }
        if OWN.contains(&own) {
            return Ok(());
        }
    }
    if let Some(wasi) = interface.strip_prefix("wasi:")
        && WASI.contains(&wasi)
        && is_patch_of_0_2(version)
    {
        return Ok(());
    }
    Err(Refusal::new(
        Code::ForbiddenImport,
        format!(
            "{}: {}; allowed: windlass:operator/{{cache,log}}@{CONTRACT} and the parts of wasi 0.2 for \
             stdio, clocks and randomness",
            printable(name, 200),
            hint(interface)
        ),
    ))
}

fn is_patch_of_0_2(version: &str) -> bool {
    let patch = version.strip_prefix("0.2.");
    patch.is_some_and(|p| !p.is_empty() && p.len() < 6 && p.bytes().all(|b| b.is_ascii_digit()))
}

/// What an author most likely did.
fn hint(interface: &str) -> &'static str {
    let package = interface.split('/').next().unwrap_or_default();
    match package {
        "wasi:filesystem" => "a plugin has no files (look for std::fs, also in dependencies)",
        "wasi:sockets" | "wasi:http" => {
            "a plugin has no network: read objects through windlass:operator/cache"
        }
        "wasi:cli" | "wasi:io" | "wasi:clocks" | "wasi:random" => {
            "only wasi 0.2 is answered, and not this part of it"
        }
        _ => "this host does not have it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_on_the_list_or_refused_by_name() {
        for good in [
            "windlass:operator/cache@0.1.0",
            "windlass:operator/types@0.1.0",
            "wasi:cli/stdout@0.2.0",
            "wasi:io/streams@0.2.12",
            "wasi:random/insecure-seed@0.2.4",
        ] {
            assert_eq!(allowed(good), Ok(()), "{good}");
        }
        for (bad, code) in [
            ("windlass:operator/types@9.0.0", Code::WorldVersion),
            ("windlass:operator/cache", Code::WorldVersion),
            ("windlass:operator/secrets@0.1.0", Code::ForbiddenImport),
            ("wasi:sockets/tcp@0.2.6", Code::ForbiddenImport),
            ("wasi:filesystem/types@0.2.0", Code::ForbiddenImport),
            ("wasi:cli/stdout@0.3.0", Code::ForbiddenImport),
            ("wasi:cli/stdout@0.2.0-rc-1", Code::ForbiddenImport),
            ("wasi:cli/stdout", Code::ForbiddenImport),
            ("wasi:cli/run@0.2.0", Code::ForbiddenImport),
            ("env", Code::ForbiddenImport),
            ("", Code::ForbiddenImport),
        ] {
            let refusal = allowed(bad).expect_err(bad);
            assert_eq!(refusal.code, code, "{refusal}");
            assert!(code == Code::WorldVersion || refusal.message.starts_with(bad), "{refusal}");
        }
    }
}

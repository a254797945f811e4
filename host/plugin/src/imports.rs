//! The allow-list: all that a plugin's component may import.
//!
//! It is not written down here: what may be imported is what is linked, read from the binary
//! form of the bindings. Which functions of an interface, and how, is [`signature::import`](crate::signature::import)'s part.

use windlass_core::code::{Code, Refusal, printable};

use crate::signature::{FLOOR, Interface, World};

/// Package of the contract.
const CONTRACT: &str = "windlass:operator";

/// The version of the contract that a component was built for. One without any import of the
/// contract is judged by the newest, which is the last.
///
/// # Errors
/// E121 for a version that is not among `worlds`, or for two versions at once.
pub(crate) fn target<'w>(imports: &[String], worlds: &'w [World]) -> Result<&'w World, Refusal> {
    let mut target: Option<(&str, &World)> = None;
    for import in imports {
        let (interface, version) = parted(import);
        if !is_contract(interface) {
            continue;
        }
        let Some(world) = worlds.iter().find(|world| world.version == version) else {
            return Err(unsupported(version, worlds));
        };
        match target {
            Some((first, other)) if other.version != version => {
                return Err(Refusal::new(
                    Code::WorldVersion,
                    format!(
                        "the plugin targets two versions of the contract, {} and {}: build it against one",
                        printable(first, 128),
                        printable(import, 128)
                    ),
                ));
            }
            _ => target = Some((import, world)),
        }
    }
    target.map(|(_, world)| world).or(worlds.last()).ok_or_else(|| unsupported("", worlds))
}

fn unsupported(version: &str, worlds: &[World]) -> Refusal {
    let supported: Vec<&str> = worlds.iter().map(|world| world.version.as_str()).collect();
    let found = if version.is_empty() { String::new() } else { format!("@{}", printable(version, 64)) };
    Refusal::new(
        Code::WorldVersion,
        format!(
            "the plugin targets {CONTRACT}{found}, this host supports {}: build it against one of these, \
             or update the host",
            supported.join(", ")
        ),
    )
}

/// What the host offers under a name that a component of `world` imports.
///
/// # Errors
/// E120 when there is no such interface.
pub(crate) fn allowed<'w>(name: &str, world: &'w World) -> Result<&'w Interface, Refusal> {
    let (interface, version) = parted(name);
    let offered = if is_contract(interface) {
        world.offered(interface)
    } else if is_patch_of_0_2(version) {
        FLOOR.offered(interface)
    } else {
        None
    };
    offered.ok_or_else(|| {
        Refusal::new(
            Code::ForbiddenImport,
            format!(
                "{}: {}; allowed: {CONTRACT}/{{cache,log}}@{} and the parts of wasi 0.2 for stdio, clocks \
                 and randomness",
                printable(name, 200),
                hint(interface),
                world.version
            ),
        )
    })
}

/// `package/interface` and the version; empty when there is none.
fn parted(name: &str) -> (&str, &str) {
    name.split_once('@').unwrap_or((name, ""))
}

fn is_contract(interface: &str) -> bool {
    interface.strip_prefix(CONTRACT).is_some_and(|rest| rest.starts_with('/'))
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
        "wasi_snapshot_preview1" | "wasi_unstable" => "this is wasi 0.1: build for wasm32-wasip2",
        _ => "this host does not have it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::WORLDS;

    #[test]
    fn an_import_is_on_the_list_or_refused_by_name() {
        let judged = |name: &str| {
            let world = target(&[name.to_owned()], &WORLDS)?;
            allowed(name, world).map(|_| ())
        };
        for good in [
            "windlass:operator/cache@0.1.0",
            "windlass:operator/types@0.1.0",
            "wasi:cli/stdout@0.2.0",
            "wasi:io/streams@0.2.12",
            "wasi:random/insecure-seed@0.2.4",
            "wasi:cli/terminal-stdin@0.2.6",
        ] {
            assert_eq!(judged(good), Ok(()), "{good}");
        }
        for (bad, code) in [
            ("windlass:operator/types@9.0.0", Code::WorldVersion),
            ("windlass:operator/cache", Code::WorldVersion),
            ("windlass:operator/secrets@0.1.0", Code::ForbiddenImport),
            ("windlass:operators/cache@0.1.0", Code::ForbiddenImport),
            ("wasi:sockets/tcp@0.2.6", Code::ForbiddenImport),
            ("wasi:filesystem/types@0.2.0", Code::ForbiddenImport),
            ("wasi:cli/stdout@0.3.0", Code::ForbiddenImport),
            ("wasi:cli/stdout@0.2.0-rc-1", Code::ForbiddenImport),
            ("wasi:cli/stdout", Code::ForbiddenImport),
            ("wasi:cli/run@0.2.0", Code::ForbiddenImport),
            ("wasi_snapshot_preview1", Code::ForbiddenImport),
            ("env", Code::ForbiddenImport),
            ("", Code::ForbiddenImport),
        ] {
            let refusal = judged(bad).expect_err(bad);
            assert_eq!(refusal.code, code, "{refusal}");
            assert!(code == Code::WorldVersion || refusal.message.starts_with(bad), "{refusal}");
        }
    }

    #[test]
    fn the_version_is_found_among_those_that_are_served_and_all_are_named() {
        let next = |version: &str| World { version: version.to_owned(), ..World::default() };
        let worlds = [next("0.1.0"), next("0.2.0")];
        let of = |imports: &[&str]| {
            let imports: Vec<String> = imports.iter().map(|&import| import.to_owned()).collect();
            target(&imports, &worlds).map(|world| world.version.as_str()).map_err(|refusal| refusal.message)
        };
        assert_eq!(of(&["wasi:cli/stdout@0.2.0", "windlass:operator/types@0.1.0"]), Ok("0.1.0"));
        assert_eq!(of(&["windlass:operator/types@0.2.0"]), Ok("0.2.0"));
        assert_eq!(of(&[]), Ok("0.2.0"), "the newest");
        let message = of(&["windlass:operator/types@1.0.0"]).expect_err("not served");
        assert!(message.contains("windlass:operator@1.0.0, this host supports 0.1.0, 0.2.0"), "{message}");
        let message = of(&["windlass:operator/types@0.1.0", "windlass:operator/log@0.2.0"]).expect_err("two");
        assert!(message.contains("types@0.1.0 and windlass:operator/log@0.2.0"), "{message}");
    }
}

//! The bill of materials: CycloneDX 1.6 as JSON. It says neither when it was made nor a number that is never given twice: the same
//! source gives the same bill.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::packages::{Package, Packages};
use windlass_testbed::image::hex;

/// The bill of a program, whose file has these bytes.
pub(super) fn json(program: &str, bytes: &[u8], packages: &Packages) -> Value {
    let root = &packages.all[packages.root];
    let mut own = component(root, "application");
    own["name"] = json!(program);
    own["hashes"] = json!([{"alg": "SHA-256", "content": hex(&Sha256::digest(bytes))}]);
    let others = packages.all.iter().enumerate().filter(|(i, _)| *i != packages.root);
    let dependencies = packages.all.iter().map(|package| {
        let uses: Vec<_> = package.uses.iter().map(|used| reference(&packages.all[*used])).collect();
        json!({"ref": reference(package), "dependsOn": uses})
    });
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": own, "lifecycles": [{"phase": "build"}]},
        "components": others.map(|(_, package)| component(package, "library")).collect::<Vec<_>>(),
        "dependencies": dependencies.collect::<Vec<_>>(),
    })
}

/// What names a package everywhere.
fn reference(package: &Package) -> String {
    // A version may have a `+`.
    format!("pkg:cargo/{}@{}", package.name, package.version.replace('+', "%2B"))
}

fn component(package: &Package, kind: &str) -> Value {
    let reference = reference(package);
    let mut component = json!({
        "type": kind,
        "bom-ref": reference,
        "name": package.name,
        "version": package.version,
        "purl": reference,
    });
    if !package.licence.is_empty() {
        component["licenses"] = json!([{"expression": package.licence}]);
    }
    if let Some(checksum) = &package.checksum {
        component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
    }
    if !package.repository.is_empty() {
        component["externalReferences"] = json!([{"type": "vcs", "url": package.repository}]);
    }
    component
}

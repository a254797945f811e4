//! The components that other crates' tests load are built on demand.

use anyhow::Result;
use windlass_testbed::component;

/// What every WebAssembly component starts with: the magic number, version 13, layer 1.
const COMPONENT: [u8; 8] = [0, b'a', b's', b'm', 13, 0, 1, 0];

#[test]
fn an_example_and_a_package_become_components() -> Result<()> {
    for (package, example) in [("windlass-fixtures", Some("greeter")), ("webapp", None)] {
        let path = component(package, example)?;
        let bytes = std::fs::read(&path)?;
        assert_eq!(bytes[..8], COMPONENT, "{}", path.display());
        assert_eq!(component(package, example)?, path);
    }
    Ok(())
}

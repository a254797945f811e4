//! What a component may consist of before anybody compiles it.

use serde::{Deserialize, Serialize};

/// What a component may consist of. Sums over everything that is nested in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CheckLimits {
    /// The whole component, in bytes. 32 MiB, as after decompression.
    pub bytes: u64,
    /// Functions with a body. 20,000: a large typed operator has 6,000.
    pub functions: u64,
    /// Bytes of one function's body. 1 MiB: ten times the interpreter loops of the languages
    /// that run as plugins, which are the largest functions that people compile. The compiler's
    /// memory grows with the largest function, its time with all of them.
    pub body_bytes: u64,
    /// Core types, and types of the component with all that is declared inside them. 50,000.
    pub types: u64,
    /// How deep types of the component may be nested in each other. 32: tools make 3.
    pub type_depth: u64,
    /// Core modules. 64, as many as one call may have instances.
    pub modules: u64,
    /// Components inside it. 64.
    pub components: u64,
    /// How deep components may be nested. 8: tools make 2, each composition adds one.
    pub depth: u64,
    /// Instances, of either sort. 1,000.
    pub instances: u64,
    /// Data segments. 10,000.
    pub data_segments: u64,
    /// Element segments. 10,000.
    pub element_segments: u64,
    /// Imports, exports, globals, tables, memories, tags, aliases and adapters. 100,000.
    pub items: u64,
    /// Bytes that declare something in core modules: all but code, data and custom sections. 8 MiB.
    pub core_bytes: u64,
    /// Bytes that declare something in components. 1 MiB: tools write some 10 KiB.
    pub wiring_bytes: u64,
    /// Custom sections. 256.
    pub custom_sections: u64,
    /// Bytes of custom sections: names for backtraces, debug information. 16 MiB.
    pub custom_bytes: u64,
    /// Bytes of one name that the component imports, exports or gives to a custom section. 512.
    pub name_bytes: u64,
}

impl Default for CheckLimits {
    fn default() -> Self {
        Self {
            bytes: 32 << 20,
            functions: 20_000,
            body_bytes: 1 << 20,
            types: 50_000,
            type_depth: 32,
            modules: 64,
            components: 64,
            depth: 8,
            instances: 1_000,
            data_segments: 10_000,
            element_segments: 10_000,
            items: 100_000,
            core_bytes: 8 << 20,
            wiring_bytes: 1 << 20,
            custom_sections: 256,
            custom_bytes: 16 << 20,
            name_bytes: 512,
        }
    }
}

/// The most that a flag may set any of them to. How deep the parser recurses is bounded tighter,
/// by [`DEPTH_MOST`]: its stack is not.
const MOST: u64 = 1 << 32;
/// The most that a flag may allow types or components to be nested.
const DEPTH_MOST: u64 = 100;

impl CheckLimits {
    /// Names of all limits, as [`CheckLimits::set`] takes them.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::default().fields().map(|(name, _)| name).into_iter()
    }

    /// Sets the limit called `name`: a whole number, in bytes where the name says so.
    ///
    /// # Errors
    /// One sentence, when there is no such limit or it cannot be `value`.
    pub fn set(&mut self, name: &str, value: u64) -> Result<(), String> {
        let most = if name.ends_with("depth") { DEPTH_MOST } else { MOST };
        let field = self.fields().into_iter().find(|(known, _)| *known == name);
        let Some((_, field)) = field else {
            let names: Vec<_> = Self::names().collect();
            return Err(format!("there is no such limit; there are {}", names.join(", ")));
        };
        if !(1..=most).contains(&value) {
            return Err(format!("{value} must be between 1 and {most}"));
        }
        *field = value;
        Ok(())
    }

    fn fields(&mut self) -> [(&'static str, &mut u64); 17] {
        [
            ("bytes", &mut self.bytes),
            ("functions", &mut self.functions),
            ("body-bytes", &mut self.body_bytes),
            ("types", &mut self.types),
            ("type-depth", &mut self.type_depth),
            ("modules", &mut self.modules),
            ("components", &mut self.components),
            ("depth", &mut self.depth),
            ("instances", &mut self.instances),
            ("data-segments", &mut self.data_segments),
            ("element-segments", &mut self.element_segments),
            ("items", &mut self.items),
            ("core-bytes", &mut self.core_bytes),
            ("wiring-bytes", &mut self.wiring_bytes),
            ("custom-sections", &mut self.custom_sections),
            ("custom-bytes", &mut self.custom_bytes),
            ("name-bytes", &mut self.name_bytes),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_can_be_set_by_its_name_and_no_other_moves() {
        for name in CheckLimits::names() {
            let mut limits = CheckLimits::default();
            limits.set(name, 7).expect(name);
            let moved = |limits: &CheckLimits| serde_json::to_value(limits).expect("plain");
            let (before, after) = (moved(&CheckLimits::default()), moved(&limits));
            let field = name.replace('-', "_");
            for (key, value) in after.as_object().expect("an object") {
                assert_eq!(*value == before[key], *key != field, "{name}: {key}");
            }
        }
        // As many names as fields: a new field needs its own.
        let fields = serde_json::to_value(CheckLimits::default()).expect("plain");
        assert_eq!(fields.as_object().map(serde_json::Map::len), Some(CheckLimits::names().count()));
    }

    #[test]
    fn what_cannot_be_a_limit_is_refused() {
        let mut limits = CheckLimits::default();
        assert!(limits.set("function", 1).expect_err("none").contains("there are bytes, functions"));
        assert!(limits.set("functions", 0).expect_err("nothing").contains("between 1 and"));
        assert!(limits.set("type-depth", 101).expect_err("too deep").contains("between 1 and 100"));
        assert_eq!(limits, CheckLimits::default());
    }
}

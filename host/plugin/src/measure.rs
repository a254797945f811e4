//! The measure of a component: counts, sizes and depths, before anything is built of it.
//!
//! It looks at section headers and at little else, so it costs a fraction of a validation. What
//! passes here is small enough for the validator and shallow enough for the parser, which
//! recurses into nested types without asking how deep they are.

use std::ops::Range;

use wasmtime::wasmparser::{
    BinaryReader, BinaryReaderError, CanonicalFunction, CanonicalOption, ComponentAlias, ComponentExternName,
    ComponentImport, ComponentType, ComponentTypeRef, CoreType, Parser, Payload, TypeBounds,
};
use windlass_core::code::{Code, Refusal, printable};
use windlass_core::limits::CheckLimits;

/// What the outermost component imports and exports.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Surface {
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
}

/// Why the measure ended.
pub(crate) enum Fault {
    Parse(BinaryReaderError),
    Refused(Refusal),
}

impl From<BinaryReaderError> for Fault {
    fn from(e: BinaryReaderError) -> Self {
        Self::Parse(e)
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Measures `bytes`, which begin with the magic of a component.
///
/// # Errors
/// E115 for a way to call that is off, E116 for more than `limits`, E123 for text that is not
/// UTF-8; the parser's own error otherwise.
pub(crate) fn measure(bytes: &[u8], limits: &CheckLimits) -> Result<Surface, Fault> {
    Count::of("bytes", limits.bytes).add(bytes.len() as u64)?;
    let mut tally = Tally::new(bytes, limits);
    for payload in Parser::new(0).parse_all(bytes) {
        tally.take(&payload?)?;
    }
    Ok(tally.surface)
}

/// So many of something so far, and how many there may be.
struct Count {
    what: &'static str,
    seen: u64,
    most: u64,
}

impl Count {
    fn of(what: &'static str, most: u64) -> Self {
        Self { what, seen: 0, most }
    }

    fn add(&mut self, more: u64) -> Result<(), Refusal> {
        self.seen = self.seen.saturating_add(more);
        if self.seen > self.most { Err(too_much(self.what, self.seen, self.most)) } else { Ok(()) }
    }
}

struct Tally<'a> {
    bytes: &'a [u8],
    limits: &'a CheckLimits,
    /// Components and modules that are open around what is read now.
    level: u64,
    surface: Surface,
    functions: Count,
    types: Count,
    modules: Count,
    components: Count,
    instances: Count,
    data_segments: Count,
    element_segments: Count,
    items: Count,
    core_bytes: Count,
    wiring_bytes: Count,
    custom_sections: Count,
    custom_bytes: Count,
}

impl<'a> Tally<'a> {
    fn new(bytes: &'a [u8], limits: &'a CheckLimits) -> Self {
        Self {
            bytes,
            limits,
            level: 0,
            surface: Surface::default(),
            functions: Count::of("functions", limits.functions),
            types: Count::of("types", limits.types),
            modules: Count::of("core modules", limits.modules),
            components: Count::of("nested components", limits.components),
            instances: Count::of("instances", limits.instances),
            data_segments: Count::of("data segments", limits.data_segments),
            element_segments: Count::of("element segments", limits.element_segments),
            items: Count::of("imports, exports and the like", limits.items),
            core_bytes: Count::of("bytes of declarations in core modules", limits.core_bytes),
            wiring_bytes: Count::of("bytes of declarations in components", limits.wiring_bytes),
            custom_sections: Count::of("custom sections", limits.custom_sections),
            custom_bytes: Count::of("bytes of custom sections", limits.custom_bytes),
        }
    }

    fn take(&mut self, payload: &Payload<'a>) -> Result<(), Fault> {
        match payload {
            Payload::ModuleSection { .. } => {
                self.level += 1;
                self.modules.add(1)?;
            }
            Payload::ComponentSection { .. } => {
                self.level += 1;
                if self.level > self.limits.depth {
                    return Err(
                        too_much("components inside each other", self.level, self.limits.depth).into()
                    );
                }
                self.components.add(1)?;
            }
            Payload::End(_) => self.level = self.level.saturating_sub(1),
            Payload::CustomSection(section) => {
                self.name(section.name())?;
                self.custom_sections.add(1)?;
                self.custom_bytes.add(section.range().len() as u64)?;
            }
            Payload::CodeSectionStart { count, .. } => self.functions.add(u64::from(*count))?,
            Payload::CodeSectionEntry(body) => self.body(&body.range())?,
            Payload::DataSection(section) => self.data_segments.add(u64::from(section.count()))?,
            other => {
                self.core(other)?;
                self.component(other)?;
            }
        }
        Ok(())
    }

    fn body(&self, range: &Range<usize>) -> Result<(), Refusal> {
        let (size, most) = (range.len() as u64, self.limits.body_bytes);
        if size > most {
            let what = format!("bytes in the function at offset {:#x}", range.start);
            return Err(too_much(&what, size, most));
        }
        Ok(())
    }

    /// Declarations in core modules.
    fn core(&mut self, payload: &Payload<'a>) -> Result<(), Refusal> {
        let (of, count, range) = match payload {
            Payload::TypeSection(s) => (&mut self.types, s.count(), s.range()),
            Payload::ImportSection(s) => (&mut self.items, s.count(), s.range()),
            Payload::FunctionSection(s) => (&mut self.items, s.count(), s.range()),
            Payload::TableSection(s) => (&mut self.items, s.count(), s.range()),
            Payload::MemorySection(s) => (&mut self.items, s.count(), s.range()),
            Payload::TagSection(s) => (&mut self.items, s.count(), s.range()),
            Payload::GlobalSection(s) => (&mut self.items, s.count(), s.range()),
            Payload::ExportSection(s) => (&mut self.items, s.count(), s.range()),
            Payload::ElementSection(s) => (&mut self.element_segments, s.count(), s.range()),
            _ => return Ok(()),
        };
        of.add(u64::from(count))?;
        self.core_bytes.add(range.len() as u64)
    }

    /// Declarations in components.
    fn component(&mut self, payload: &Payload<'a>) -> Result<(), Fault> {
        let (of, count, range) = match payload {
            Payload::ComponentTypeSection(s) => (&mut self.types, s.count(), s.range()),
            Payload::CoreTypeSection(s) => (&mut self.types, s.count(), s.range()),
            Payload::InstanceSection(s) => (&mut self.instances, s.count(), s.range()),
            Payload::ComponentInstanceSection(s) => (&mut self.instances, s.count(), s.range()),
            Payload::ComponentAliasSection(s) => (&mut self.items, s.count(), s.range()),
            Payload::ComponentCanonicalSection(s) => (&mut self.items, s.count(), s.range()),
            Payload::ComponentImportSection(s) => (&mut self.items, s.count(), s.range()),
            Payload::ComponentExportSection(s) => (&mut self.items, s.count(), s.range()),
            _ => return Ok(()),
        };
        of.add(u64::from(count))?;
        self.wiring_bytes.add(range.len() as u64)?;
        match payload {
            Payload::ComponentTypeSection(_) => self.types(range)?,
            Payload::ComponentCanonicalSection(section) => {
                for adapter in section.clone().into_iter_with_offsets() {
                    let (offset, adapter) = adapter?;
                    adapts(&adapter, offset)?;
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section.clone() {
                    self.import(&import?)?;
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section.clone() {
                    self.export(export?.name.name)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn export(&mut self, name: &str) -> Result<(), Refusal> {
        self.name(name)?;
        if self.level == 0 {
            self.surface.exports.push(name.to_owned());
        }
        Ok(())
    }

    fn import(&mut self, import: &ComponentImport<'a>) -> Result<(), Refusal> {
        self.name(import.name.name)?;
        // A world's `use` becomes the import of a type that equals a known one: a name, nothing
        // that anybody would have to provide.
        if self.level == 0 && !matches!(import.ty, ComponentTypeRef::Type(TypeBounds::Eq(_))) {
            self.surface.imports.push(import.name.name.to_owned());
        }
        Ok(())
    }

    fn name(&self, name: &str) -> Result<(), Refusal> {
        let (size, most) = (name.len() as u64, self.limits.name_bytes);
        if size > most {
            let what = format!("bytes in the name {}", printable(name, 64));
            return Err(too_much(&what, size, most));
        }
        Ok(())
    }

    /// Counts what is declared in a section of types, and how deep, without recursion.
    fn types(&mut self, range: Range<usize>) -> Result<(), Fault> {
        // The range was read out of these very bytes.
        let section = self.bytes.get(range.clone()).unwrap_or_default();
        let mut reader = BinaryReader::new(section, range.start);
        // How many declarations are left at each level; the section itself is the first.
        let mut open = vec![reader.read_var_u32()?];
        while let Some(left) = open.last_mut() {
            if *left == 0 {
                open.pop();
                continue;
            }
            *left -= 1;
            if open.len() > 1 {
                self.types.add(1)?;
                if !declares_type(&mut reader)? {
                    continue;
                }
            }
            let mut ahead = reader.clone();
            if matches!(ahead.read_u8()?, TYPE_COMPONENT | TYPE_INSTANCE) {
                open.push(ahead.read_var_u32()?);
                reader = ahead;
                let (depth, most) = (open.len() as u64, self.limits.type_depth);
                if depth > most {
                    return Err(too_much("types inside each other", depth, most).into());
                }
            } else {
                reader.read::<ComponentType<'_>>()?;
            }
        }
        Ok(())
    }
}

/// First byte of a component's type, and of an instance's, in the binary format.
const TYPE_COMPONENT: u8 = 0x41;
const TYPE_INSTANCE: u8 = 0x42;

/// Reads one declaration inside a type up to its type, if that is what it declares.
fn declares_type(reader: &mut BinaryReader<'_>) -> Result<bool, BinaryReaderError> {
    match reader.read_u8()? {
        0x00 => {
            reader.read::<CoreType<'_>>()?;
        }
        0x02 => {
            reader.read::<ComponentAlias<'_>>()?;
        }
        0x03 => {
            reader.read::<ComponentImport<'_>>()?;
        }
        0x04 => {
            reader.read::<ComponentExternName<'_>>()?;
            reader.read::<ComponentTypeRef>()?;
        }
        // 0x01; anything else is no declaration, which the parser says better.
        _ => return Ok(true),
    }
    Ok(false)
}

/// Whether the host answers calls that are made like this.
fn adapts(adapter: &CanonicalFunction, offset: usize) -> Result<(), Refusal> {
    let options = match adapter {
        CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. } => options,
        CanonicalFunction::ResourceNew { .. }
        | CanonicalFunction::ResourceDrop { .. }
        | CanonicalFunction::ResourceRep { .. } => return Ok(()),
        other => {
            let text = format!("{other:?}");
            let name = text.split([' ', '{', '(']).next().unwrap_or_default();
            return Err(off(&format!("the built-in {name}"), offset));
        }
    };
    for option in options {
        match option {
            CanonicalOption::UTF16 => return Err(encoding("utf16", offset)),
            CanonicalOption::CompactUTF16 => return Err(encoding("latin1+utf16", offset)),
            CanonicalOption::Async | CanonicalOption::Callback(_) => {
                return Err(off("an async call", offset));
            }
            CanonicalOption::Gc | CanonicalOption::CoreType(_) => return Err(off("a gc call", offset)),
            CanonicalOption::UTF8
            | CanonicalOption::Memory(_)
            | CanonicalOption::Realloc(_)
            | CanonicalOption::PostReturn(_) => {}
        }
    }
    Ok(())
}

fn off(what: &str, offset: usize) -> Refusal {
    let text = format!(
        "{what} at offset {offset:#x}: a plugin is called synchronously; build it for wasm32-wasip2 without async"
    );
    Refusal::new(Code::FeatureDisabled, text)
}

fn encoding(found: &str, offset: usize) -> Refusal {
    let text = format!(
        "{found} at offset {offset:#x} is not accepted, expected utf8: componentize it with string encoding utf8"
    );
    Refusal::new(Code::StringEncoding, text)
}

fn too_much(what: &str, found: u64, most: u64) -> Refusal {
    Refusal::new(Code::TooComplex, format!("{found} {what}, limit {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of everything.
    const COMPONENT: &str = r#"(component
        (import "i" (func $i))
        (type (instance (export "f" (func))))
        (component (core module))
        (core module $m
            (type (func))
            (func (export "f"))
            (memory 1)
            (data "x")
            (elem func 0)
            (@custom "c" "content"))
        (core instance $c (instantiate $m))
        (func $f (canon lift (core func $c "f")))
        (export "e" (func $f)))"#;

    fn refused(lower: impl Fn(&mut CheckLimits)) -> Refusal {
        let mut limits = CheckLimits::default();
        lower(&mut limits);
        match measure(&wat::parse_str(COMPONENT).expect("valid"), &limits) {
            Err(Fault::Refused(refusal)) => refusal,
            Err(Fault::Parse(error)) => panic!("{error}"),
            Ok(surface) => panic!("{surface:?}"),
        }
    }

    #[test]
    fn what_is_within_the_limits_shows_its_imports_and_exports() {
        let bytes = wat::parse_str(COMPONENT).expect("valid");
        let Ok(surface) = measure(&bytes, &CheckLimits::default()) else {
            panic!("it is small");
        };
        assert_eq!(surface, Surface { imports: vec!["i".to_owned()], exports: vec!["e".to_owned()] });
    }

    #[test]
    fn each_limit_holds_by_itself() {
        type Lower = fn(&mut CheckLimits);
        let cases: [(Lower, &str); 17] = [
            (|l| l.bytes = 8, " bytes, limit 8"),
            (|l| l.functions = 0, "1 functions, limit 0"),
            (|l| l.body_bytes = 1, "2 bytes in the function at offset 0x"),
            (|l| l.types = 2, "types, limit 2"),
            (|l| l.type_depth = 1, "2 types inside each other, limit 1"),
            (|l| l.modules = 1, "2 core modules, limit 1"),
            (|l| l.components = 0, "1 nested components, limit 0"),
            (|l| l.depth = 0, "1 components inside each other, limit 0"),
            (|l| l.instances = 0, "1 instances, limit 0"),
            (|l| l.data_segments = 0, "1 data segments, limit 0"),
            (|l| l.element_segments = 0, "1 element segments, limit 0"),
            (|l| l.items = 3, "4 imports, exports and the like, limit 3"),
            (|l| l.core_bytes = 4, "bytes of declarations in core modules, limit 4"),
            (|l| l.wiring_bytes = 4, "bytes of declarations in components, limit 4"),
            (|l| l.custom_sections = 0, "1 custom sections, limit 0"),
            (|l| l.custom_bytes = 3, "bytes of custom sections, limit 3"),
            (|l| l.name_bytes = 0, "1 bytes in the name i, limit 0"),
        ];
        for (lower, says) in cases {
            let refusal = refused(lower);
            assert_eq!(refusal.code, Code::TooComplex);
            assert!(refusal.message.contains(says), "{refusal}: {says}");
        }
    }

    #[test]
    fn a_count_that_nothing_follows_is_no_reason_to_reserve_anything() {
        // A type section of two thousand million types, and no type.
        let bytes = b"\0asm\x0d\0\x01\0\x07\x05\xff\xff\xff\xff\x07";
        let Err(Fault::Refused(refusal)) = measure(bytes, &CheckLimits::default()) else {
            panic!("too many types");
        };
        assert_eq!(refusal.message, "2147483647 types, limit 50000");
    }
}

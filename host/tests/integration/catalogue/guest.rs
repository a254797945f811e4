//! Guests made on the spot: core modules in WAT, given the contract's exports by the same tool
//! that compilers use.
//!
//! Small, so that sixty of them compile in seconds, and below the SDK, so that they may say what
//! it would not let through. What a guest answers lies ready in its memory. They are built for the first
//! version of the contract, which plugins of the SDK no longer are.

use std::fmt::Write as _;
use std::path::Path;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Where a guest's texts and records begin.
const IMAGE_AT: u32 = 1024;
/// Bytes of one page of memory.
const PAGE: u32 = 65_536;

/// A kind as manifests name it: group, version, kind.
pub(crate) type Kind<'a> = (&'a str, &'a str, &'a str);

/// The kind of child that all guests may have.
pub(crate) const CONFIG_MAP: Kind<'static> = ("", "v1", "ConfigMap");

/// What a guest returns from `reconcile` without doing anything for it.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// A decision.
    Decision {
        /// The wanted children, as text.
        children: Vec<String>,
        /// The wanted status, as text.
        status: Option<String>,
        /// When to ask again.
        requeue_ms: Option<u32>,
    },
    /// A permanent fault, in its own words.
    Fault(&'static str),
    /// The words of the record, whatever they mean.
    Words(Vec<i64>),
}

impl Answer {
    /// A decision with these children.
    pub(crate) fn children(children: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let children = children.into_iter().map(Into::into).collect();
        Answer::Decision { children, status: None, requeue_ms: None }
    }
}

/// A guest. What is not said is harmless.
#[derive(Clone, Debug)]
pub(crate) struct Guest<'a> {
    /// Name in the manifest.
    pub(crate) name: &'a str,
    /// Version in the manifest.
    pub(crate) version: &'a str,
    /// What it is about.
    pub(crate) primary: Kind<'a>,
    /// What it may make.
    pub(crate) children: &'a [Kind<'a>],
    /// Imports of the module.
    pub(crate) imports: &'a str,
    /// Further fields of the module.
    pub(crate) fields: &'a str,
    /// Pages of memory beyond those that the answer needs.
    pub(crate) pages: u32,
    /// Body of `manifest`; by default it answers.
    pub(crate) manifest: Option<&'a str>,
    /// What comes before `reconcile` answers, or instead of that.
    pub(crate) body: &'a str,
    /// What it answers.
    pub(crate) answer: Answer,
}

impl Default for Guest<'_> {
    fn default() -> Self {
        Self {
            name: "guest",
            version: "1.0.0",
            primary: super::calls::KIND,
            children: &[CONFIG_MAP],
            imports: "",
            fields: "",
            pages: 1,
            manifest: None,
            body: "",
            answer: Answer::children([""; 0]),
        }
    }
}

/// Bytes that lie in the guest's memory when it starts.
struct Image(Vec<u8>);

impl Image {
    fn put(&mut self, bytes: &[u8]) -> [u32; 2] {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        let at = IMAGE_AT + u32::try_from(self.0.len()).expect("small");
        self.0.extend_from_slice(bytes);
        [at, u32::try_from(bytes.len()).expect("small")]
    }

    fn words(&mut self, words: &[u32]) -> u32 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(&bytes)[0]
    }

    fn kind(&mut self, (group, version, kind): Kind<'_>) -> Vec<u32> {
        [group, version, kind].iter().flat_map(|text| self.put(text.as_bytes())).collect()
    }

    fn manifest(&mut self, guest: &Guest<'_>) -> u32 {
        let mut record: Vec<u32> =
            [guest.name, guest.version].iter().flat_map(|text| self.put(text.as_bytes())).collect();
        record.extend(self.kind(guest.primary));
        let mut children = Vec::new();
        for child in guest.children {
            children.extend(self.kind(*child));
            // What becomes of one that is not wanted any more: it is deleted.
            children.push(0);
        }
        record.extend([self.words(&children), u32::try_from(guest.children.len()).expect("few")]);
        // Nothing read, nothing to finalize.
        record.extend([0, 0, 0]);
        self.words(&record)
    }

    fn answer(&mut self, answer: &Answer) -> u32 {
        let record = match answer {
            Answer::Words(words) => {
                // Bits are bits: a negative number is a large one.
                words.iter().map(|word| u32::try_from(*word & 0xffff_ffff).expect("masked")).collect()
            }
            Answer::Fault(text) => {
                let [at, len] = self.put(text.as_bytes());
                vec![1, 1, at, len]
            }
            Answer::Decision { children, status, requeue_ms } => {
                let texts: Vec<u32> = children.iter().flat_map(|text| self.put(text.as_bytes())).collect();
                let list = self.words(&texts);
                let mut record = vec![0, list, u32::try_from(children.len()).expect("few")];
                record.extend(status.as_ref().map_or([0; 3], |text| {
                    let [at, len] = self.put(text.as_bytes());
                    [1, at, len]
                }));
                record.extend([0, 0]);
                record.extend(requeue_ms.map_or([0; 2], |ms| [1, ms]));
                record
            }
        };
        let mut record: Vec<u32> = record;
        record.resize(16, 0);
        self.words(&record)
    }
}

impl Guest<'_> {
    /// The component.
    pub(crate) fn build(&self) -> Vec<u8> {
        self.encoded(StringEncoding::UTF8)
    }

    /// The component, with text handed over in another encoding.
    pub(crate) fn encoded(&self, encoding: StringEncoding) -> Vec<u8> {
        let mut resolve = Resolve::default();
        let contract = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit/released/0.1.0/windlass.wit");
        let (package, _) = resolve.push_path(contract).expect("the contract parses");
        let world = resolve.select_world(&[package], Some("reconciler")).expect("the contract has its world");
        let text = self.wat();
        let mut module = wat::parse_str(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        embed_component_metadata(&mut module, &resolve, world, encoding, false).expect("it encodes");
        component(&module)
    }

    fn wat(&self) -> String {
        let Guest { imports, fields, body, .. } = self;
        let mut image = Image(Vec::new());
        let manifest = image.manifest(self);
        let answer = image.answer(&self.answer);
        let end = (IMAGE_AT + u32::try_from(image.0.len()).expect("small")).next_multiple_of(8);
        let pages = end / PAGE + 1 + self.pages;
        let manifest = self.manifest.map_or_else(|| format!("i32.const {manifest}"), str::to_owned);
        let data = image.0.iter().fold(String::new(), |mut text, byte| {
            write!(text, "\\{byte:02x}").expect("writing to a String cannot fail");
            text
        });
        format!(
            r#"(module
              {imports}
              (memory (export "memory") {pages})
              (data (i32.const {IMAGE_AT}) "{data}")
              (global $free (mut i32) (i32.const {end}))
              {fields}
              (func (export "cabi_realloc") (param $old i32) (param $was i32) (param $align i32) (param $size i32) (result i32)
                (global.set $free (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
                (global.get $free)
                (global.set $free (i32.add (global.get $free) (local.get $size))))
              (func (export "manifest") (result i32) {manifest})
              (func $reconcile (export "reconcile") (param i32 i32 i32 i32 i32 i32 i32) (result i32)
                {body} i32.const {answer})
              (func (export "finalize") (param i32 i32 i32 i32 i32 i32 i32) (result i32) i32.const 0))"#
        )
    }
}

/// A component that implements another world, in WIT; its functions trap.
pub(crate) fn dummy(wit: &str, world: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("world.wit", wit).unwrap_or_else(|e| panic!("{e}\n{wit}"));
    let world = resolve.select_world(&[package], Some(world)).expect("the world");
    let mut module = wit_component::dummy_module(&resolve, world, wit_parser::ManglingAndAbi::Standard32);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).expect("it encodes");
    component(&module)
}

/// A component that imports one interface with one function.
pub(crate) fn importing(package: &str, interface: &str) -> Vec<u8> {
    let import = package.replace('@', &format!("/{interface}@"));
    dummy(
        &format!(
            "package x:y;
             package {package} {{ interface {interface} {{ f: func(); }} }}
             package a:b@1.0.0 {{ world w {{ import {import}; export manifest: func(); }} }}"
        ),
        "a:b/w@1.0.0",
    )
}

fn component(module: &[u8]) -> Vec<u8> {
    ComponentEncoder::default()
        .validate(false)
        .module(module)
        .and_then(|encoder| encoder.encode())
        .expect("the module fits its world")
}

/// A section of the binary format.
pub(crate) fn section(id: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![id];
    let mut left = content.len();
    while left > 0x7f {
        out.push(u8::try_from(left & 0x7f).expect("masked") | 0x80);
        left >>= 7;
    }
    out.push(u8::try_from(left).expect("small"));
    out.extend_from_slice(content);
    out
}

//! Stable codes for what a plugin can do wrong. Released codes never change meaning.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

macro_rules! codes {
    ($($(#[doc = $doc:expr])+ $name:ident = $number:literal,)+) => {
        /// What was wrong, as a number that documents, alerts and tests can rely on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $($(#[doc = $doc])+ $name = $number,)+ }

        impl Code {
            /// Every code, in ascending order.
            pub const ALL: &'static [Code] = &[$(Code::$name,)+];

            /// Whether the pass goes on: the plugin's author should know, nobody has to act.
            pub fn is_warning(self) -> bool {
                (300..400).contains(&(self as u16))
            }

            /// Whether a refusal with this code may repeat a part of what a plugin answered: a value, a field's name.
            /// Those that never do speak of sizes, of processes or of objects that are there, or in the plugin's own words.
            pub fn may_quote(self) -> bool {
                !matches!(
                    self,
                    Code::Timeout
                        | Code::WorkerUnresponsive
                        | Code::MemoryLimit
                        | Code::WorkerDied
                        | Code::WorkerMissing
                        | Code::StackOverflow
                        | Code::OutputTooLarge
                        | Code::InputTooLarge
                        | Code::NotOwner
                        | Code::WriteLoop
                        | Code::PluginError
                        | Code::RequeueClamped
                        | Code::LogDropped
                )
            }

            /// The code with this number.
            pub fn of_number(number: u16) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| *code as u16 == number)
            }

            /// The name after the number: `KindNotAllowed`.
            pub fn name(self) -> &'static str {
                match self { $(Code::$name => stringify!($name),)+ }
            }
        }
    };
}

codes! {
    /// The ConfigMap has no component, or an empty one.
    NoPluginBytes = 101,
    /// The component is in `data` instead of `binaryData`.
    NotBinary = 102,
    /// The bytes are not WebAssembly.
    NotWasm = 110,
    /// The bytes are WebAssembly text.
    TextFormat = 111,
    /// A core module instead of a component.
    CoreModule = 112,
    /// A component that does not parse.
    Malformed = 113,
    /// Native code; never loaded.
    PrecompiledRefused = 114,
    /// A WebAssembly feature that is off.
    FeatureDisabled = 115,
    /// More functions, types or bytes than the host accepts.
    TooComplex = 116,
    /// Decompresses to more than the host accepts.
    DecompressedTooLarge = 117,
    /// The numbered parts of a component do not make a whole: one is missing, twice there or of another set.
    PartsIncomplete = 118,
    /// An import outside the contract and the few WASI interfaces.
    ForbiddenImport = 120,
    /// Another version of the contract.
    WorldVersion = 121,
    /// An export that is missing or has another signature.
    ExportMismatch = 122,
    /// The component hands over text in another encoding than UTF-8.
    StringEncoding = 123,
    /// The signature is missing, does not parse or is not of this component.
    SignatureInvalid = 130,
    /// The signature was made with a key that the host does not trust.
    UnknownKey = 131,
    /// The component is not the one that its ConfigMap announces or that its signature is of.
    DigestMismatch = 132,
    /// The key that made the signature, or the signature itself, is past its date.
    KeyExpired = 133,
    /// A signature with a lower sequence than one that was accepted before, or with that one for another component.
    Downgrade = 134,
    /// The compiler ran out of time.
    CompileTimeout = 150,
    /// The compiler ran out of memory, at the cheapest setting too.
    CompileMemory = 151,
    /// The component could not be compiled.
    CompileFailed = 152,
    /// The plugin trapped while it was started or asked for its manifest.
    InitTrap = 160,
    /// The plugin took too long to start or to answer with its manifest.
    InitTimeout = 161,
    /// The manifest breaks a rule of the contract.
    BadManifest = 170,
    /// A limit that the ConfigMap asks for is above what the host allows.
    LimitAboveMax = 171,
    /// The manifest's name is not the ConfigMap's label.
    NameMismatch = 172,
    /// `settings.yaml` does not parse.
    BadSettings = 173,
    /// The plugin's kinds would take the host's cache above its limit.
    CacheLimit = 180,
    /// The API server does not select objects by a field that the manifest names.
    FieldNotSelectable = 181,
    /// The plugin needs namespaces, or a kind that is in none, which this host does not serve.
    OutsideNamespaces = 182,
    /// Another ConfigMap already carries a plugin of this name.
    DuplicatePlugin = 140,
    /// Two plugins want the same child for the same object; the one that made it keeps it.
    OwnershipOverlap = 141,
    /// The guest trapped.
    Trap = 201,
    /// The guest used up its CPU time.
    Timeout = 202,
    /// The process that runs guests did not answer in time and was ended.
    WorkerUnresponsive = 203,
    /// The guest asked for more memory than its limit.
    MemoryLimit = 204,
    /// The process that runs guests ended while this plugin ran in it.
    WorkerDied = 205,
    /// There was no process to run the guest in: the host's trouble, never the plugin's.
    WorkerMissing = 207,
    /// The guest's stack overflowed.
    StackOverflow = 206,
    /// The decision is larger than its limit.
    OutputTooLarge = 210,
    /// The snapshot is larger than its limit.
    InputTooLarge = 212,
    /// A value crossed the boundary in a form that the contract does not allow.
    BadAbiValue = 211,
    /// A text that should be JSON is not.
    InvalidJson = 220,
    /// A JSON text that is nested deeper than the host accepts.
    TooDeep = 221,
    /// A JSON object with the same key twice.
    DuplicateKey = 222,
    /// A JSON value that is not a Kubernetes object.
    NotAnObject = 223,
    /// A child of a kind that the manifest does not list.
    KindNotAllowed = 230,
    /// A read of a kind, a namespace or labels that the manifest does not declare.
    ReadNotAllowed = 231,
    /// More children than a decision may have.
    TooManyChildren = 232,
    /// A child outside the primary's namespace, or in the wrong scope.
    NamespaceEscape = 233,
    /// The object exists and belongs to somebody else.
    NotOwner = 234,
    /// A label, annotation or field that only the host may set.
    ReservedField = 235,
    /// The same child twice in one decision.
    DuplicateChild = 236,
    /// A name that cannot be an object's.
    BadName = 237,
    /// A kind that no plugin may write, or an object of the host's own.
    ReservedKind = 238,
    /// A field that cannot be applied.
    UnsupportedField = 239,
    /// The same object was written too often in a short time: two writers disagree, or a decision never settles.
    WriteLoop = 250,
    /// The plugin answered with a fault.
    PluginError = 260,
    /// A field that only the server sets was left out of what is applied.
    ServerFieldDropped = 301,
    /// The same inputs gave another decision.
    NonDeterministic = 310,
    /// A pause outside the bounds was brought inside them.
    RequeueClamped = 311,
    /// Output beyond the limit was dropped.
    LogDropped = 320,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = if self.is_warning() { 'W' } else { 'E' };
        write!(f, "{letter}{} {}", *self as u16, self.name())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Code {
    /// From what [`Serialize`] writes; only the number counts.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let number = text.get(1..4).and_then(|digits| digits.parse().ok());
        number
            .and_then(Self::of_number)
            .ok_or_else(|| serde::de::Error::custom(format!("{:?} is no code", printable(&text, 32))))
    }
}

/// A refusal with its code: what was found, what was expected, what to do.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq, Serialize, Deserialize)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// Which rule.
    pub code: Code,
    /// One sentence for people; control characters removed, plugin data cut to 256 bytes.
    pub message: String,
}

impl Refusal {
    /// A refusal whose message is made printable.
    pub fn new(code: Code, message: impl AsRef<str>) -> Self {
        Self { code, message: printable(message.as_ref(), 1024) }
    }

    /// The same without what it may repeat of a plugin's answer: for plugins that may see Secrets, whose answers may
    /// hold parts of them.
    #[must_use]
    pub fn discreet(self) -> Self {
        if self.code.may_quote() { Self { message: WITHHELD.to_owned(), ..self } } else { self }
    }
}

/// What stands in messages in place of what a plugin answered that may see Secrets.
pub const WITHHELD: &str = "what was found is not shown: this plugin may see Secrets";

/// `text` without control characters and cut to `max` bytes, for messages that
/// echo what a plugin or a server said.
pub fn printable(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if out.len() + c.len_utf8() > max {
            out.push('…');
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_shows_number_and_name() {
        assert_eq!(Code::KindNotAllowed.to_string(), "E230 KindNotAllowed");
        assert_eq!(Code::LogDropped.to_string(), "W320 LogDropped");
    }

    #[test]
    fn what_is_written_is_read_back() {
        for code in Code::ALL {
            let text = serde_json::to_string(code).expect("a text");
            assert_eq!(serde_json::from_str::<Code>(&text).expect(&text), *code);
        }
        for bad in ["\"E999 None\"", "\"\"", "\"Eüü\"", "7"] {
            assert!(serde_json::from_str::<Code>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_discreet_refusal_keeps_sizes_and_says_nothing_that_was_answered() {
        let quoting =
            Refusal::new(Code::NotAnObject, "children[0]: expected a JSON object, found \"hunter2\"");
        let discreet = quoting.discreet();
        assert_eq!(discreet.to_string(), format!("E223 NotAnObject: {WITHHELD}"));
        let sizes = Refusal::new(Code::OutputTooLarge, "children[0]: an object of 2048 KiB");
        assert_eq!(sizes.clone().discreet(), sizes);
    }

    #[test]
    fn messages_carry_no_control_characters_and_no_flood() {
        assert_eq!(printable("a\u{1b}[31mb\nc", 64), "a [31mb c");
        assert_eq!(printable("ääää", 4), "ää…");
    }
}

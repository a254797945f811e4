//! Strict JSON: what a guest hands over as text, read once and without guessing.
//!
//! General readers are lenient where it hurts: of two equal keys the last one wins, a
//! number that fits nowhere is rounded, a few bytes of text become hundreds in memory.
//! Here each of these ends the reading, with the place. Deliberately not a `Deserialize`:
//! the digits of a number, the path of a key and the memory that is used are known to
//! the reader alone.

use std::fmt;

use serde_json::{Map, Number, Value};

use crate::code::{Code, Refusal, printable};

/// Objects and lists inside each other, at most.
pub const DEPTH_MAX: usize = 64;
/// Memory that one decision may take once it is read, in bytes. Ordinary objects take
/// about sixteen times their text (2 MiB of them fit), large texts as much as they are;
/// what is made to grow takes a hundred times its text.
pub const UNFOLDED_MAX: usize = 32 << 20;

/// Bytes of a node of a map, and how many entries it holds at least once there are many.
const NODE_BYTES: usize = 640;
const NODE_ENTRIES: usize = 6;
/// Bytes of an item of a list: its value, and as much again that the list has in reserve.
const ITEM_BYTES: usize = 2 * size_of::<Value>();
/// Items that a list has room for from the first one on.
const ITEMS_FIRST: usize = 4;
/// Bytes of a guest's text that an error repeats.
const SHOWN_BYTES: usize = 64;

/// Memory that is left for what is read, in bytes. Shared by all texts of a decision.
#[derive(Debug)]
pub struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Self(UNFOLDED_MAX)
    }
}

impl Room {
    /// Room for this many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(bytes)
    }
}

/// Why a text is not taken, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// Line, from 1.
    pub line: usize,
    /// Character in the line, from 1.
    pub column: usize,
    /// The field, as `spec.containers[0].name`; empty at the top. At most 256 bytes.
    pub path: String,
    /// What is wrong.
    pub fault: JsonFault,
}

/// What is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonFault {
    /// It is not JSON, or holds a number that would become another one.
    Invalid(String),
    /// It is nested deeper than [`DEPTH_MAX`].
    TooDeep,
    /// The field that the path names is there twice.
    DuplicateKey,
    /// It takes more memory than there is room for.
    TooLarge,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {}:{}", self.line, self.column)?;
        let path = &self.path;
        match &self.fault {
            JsonFault::Invalid(why) if path.is_empty() => write!(f, ": {why}"),
            JsonFault::Invalid(why) => write!(f, ", in {path}: {why}"),
            JsonFault::TooDeep => write!(f, ": more than {DEPTH_MAX} objects and lists inside each other"),
            JsonFault::DuplicateKey => write!(f, ": {path} is there twice; keep one"),
            JsonFault::TooLarge => {
                let most = UNFOLDED_MAX >> 20;
                write!(f, ": read so far, the decision takes more than {most} MiB of memory; return less")
            }
        }
    }
}

impl std::error::Error for JsonError {}

impl JsonError {
    /// As a refusal of `what` was read: E220, E221, E222 or E210.
    pub fn refusal(&self, what: &str) -> Refusal {
        let code = match self.fault {
            JsonFault::Invalid(_) => Code::InvalidJson,
            JsonFault::TooDeep => Code::TooDeep,
            JsonFault::DuplicateKey => Code::DuplicateKey,
            JsonFault::TooLarge => Code::OutputTooLarge,
        };
        Refusal::new(code, format!("{what} {self}"))
    }
}

/// Reads one JSON value, and nothing beside it. Uses as much stack as [`DEPTH_MAX`] needs,
/// whatever the text is.
///
/// # Errors
/// [`JsonError`]: the text is as little of use another time.
pub fn parse(text: &str, room: &mut Room) -> Result<Value, JsonError> {
    let mut reader = Reader { text, at: 0, depth: 0, room };
    reader.whole().map_err(|broken| broken.located(text))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    room: &'a mut Room,
}

/// A fault at a byte; the path grows at its front while the reader returns.
struct Broken {
    at: usize,
    path: Vec<String>,
    fault: JsonFault,
}

type Read<T> = Result<T, Box<Broken>>;

impl Broken {
    fn within(mut self: Box<Self>, part: impl FnOnce() -> String) -> Box<Self> {
        self.path.push(part());
        self
    }

    fn located(mut self, text: &str) -> JsonError {
        let before = &text[..self.at];
        let line = before.rfind('\n').map_or(0, |i| i + 1);
        self.path.reverse();
        JsonError {
            line: before.bytes().filter(|b| *b == b'\n').count() + 1,
            column: before[line..].chars().count() + 1,
            path: printable(self.path.concat().trim_start_matches('.'), 256),
            fault: self.fault,
        }
    }
}

/// How a field appears in a path.
fn named(key: &str) -> String {
    format!(".{}", printable(key, SHOWN_BYTES))
}

impl Reader<'_> {
    fn whole(&mut self) -> Read<Value> {
        if self.text.starts_with('\u{feff}') {
            return self.broken("a byte order mark; write UTF-8 without one");
        }
        let value = self.value()?;
        self.blank();
        match self.rest().is_empty() {
            true => Ok(value),
            false => self.broken(format!("{} after the value", self.found())),
        }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// What stands here, for people.
    fn found(&self) -> String {
        match self.rest().chars().next() {
            None => "the end of the text".into(),
            Some(c) => format!("{c:?}"),
        }
    }

    fn fault<T>(&self, at: usize, fault: JsonFault) -> Read<T> {
        Err(Box::new(Broken { at, path: Vec::new(), fault }))
    }

    fn broken<T>(&self, why: impl Into<String>) -> Read<T> {
        self.fault(self.at, JsonFault::Invalid(why.into()))
    }

    fn take(&mut self, bytes: usize) -> Read<()> {
        match self.room.0.checked_sub(bytes) {
            Some(left) => {
                self.room.0 = left;
                Ok(())
            }
            None => self.fault(self.at, JsonFault::TooLarge),
        }
    }

    fn value(&mut self) -> Read<Value> {
        self.blank();
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::list),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.word(),
        }
    }

    fn word(&mut self) -> Read<Value> {
        for (word, value) in
            [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)]
        {
            if self.rest().starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        for word in ["NaN", "Infinity", "nan", "inf"] {
            if self.rest().starts_with(word) {
                return self.broken(format!("{word} is no JSON number"));
            }
        }
        self.broken(format!("expected a value, found {}", self.found()))
    }

    fn nested(&mut self, read: fn(&mut Self) -> Read<Value>) -> Read<Value> {
        if self.depth == DEPTH_MAX {
            return self.fault(self.at, JsonFault::TooDeep);
        }
        self.depth += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Read<Value> {
        let mut fields = Map::new();
        self.at += 1;
        self.blank();
        if self.skip(b'}') {
            return Ok(Value::Object(fields));
        }
        loop {
            self.blank();
            if self.peek() != Some(b'"') {
                return self.broken(format!("expected a field's name in quotes, found {}", self.found()));
            }
            let named_at = self.at;
            let key = self.string()?;
            if fields.contains_key(&key) {
                let broken = self.fault(named_at, JsonFault::DuplicateKey);
                return broken.map_err(|broken: Box<Broken>| broken.within(|| named(&key)));
            }
            if fields.len().is_multiple_of(NODE_ENTRIES) {
                self.take(NODE_BYTES)?;
            }
            self.blank();
            if !self.skip(b':') {
                return self.broken(format!("expected ':', found {}", self.found()));
            }
            let value = self.value().map_err(|broken| broken.within(|| named(&key)))?;
            fields.insert(key, value);
            self.blank();
            if self.skip(b'}') {
                return Ok(Value::Object(fields));
            }
            if !self.skip(b',') {
                return self.broken(format!("expected ',' or '}}', found {}", self.found()));
            }
        }
    }

    fn list(&mut self) -> Read<Value> {
        let mut items = Vec::new();
        self.at += 1;
        self.blank();
        if self.skip(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            self.take(ITEM_BYTES * if items.is_empty() { ITEMS_FIRST } else { 1 })?;
            let item = self.value().map_err(|broken| broken.within(|| format!("[{}]", items.len())))?;
            items.push(item);
            self.blank();
            if self.skip(b']') {
                return Ok(Value::Array(items));
            }
            if !self.skip(b',') {
                return self.broken(format!("expected ',' or ']', found {}", self.found()));
            }
        }
    }

    fn skip(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn string(&mut self) -> Read<String> {
        self.at += 1;
        let plain = self.plain();
        if self.peek() == Some(b'"') {
            self.take(plain.len())?;
            let text = self.text[plain].to_owned();
            self.at += 1;
            return Ok(text);
        }
        let mut text = self.text[plain].to_owned();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    self.take(text.capacity())?;
                    return Ok(text);
                }
                Some(b'\\') => text.push(self.escape()?),
                Some(_) => return self.broken("a control character in a text; write it as \\u00XX"),
                None => return self.broken("the text ends inside quotes"),
            }
            let plain = self.plain();
            text.push_str(&self.text[plain]);
        }
    }

    /// Passes over what stands for itself. Ends before an ASCII byte or at the end, and so
    /// on a character's edge.
    fn plain(&mut self) -> std::ops::Range<usize> {
        let from = self.at;
        let rest = &self.text.as_bytes()[from..];
        let plain = rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20)).unwrap_or(rest.len());
        self.at += plain;
        from..self.at
    }

    fn escape(&mut self) -> Read<char> {
        let from = self.at;
        self.at += 2;
        let c = match self.text.as_bytes().get(from + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(from),
            _ => {
                self.at = from;
                return self.broken("an escape that JSON does not have");
            }
        };
        Ok(c)
    }

    /// The character of `\uXXXX`, or of two of them that belong together.
    fn unicode(&mut self, from: usize) -> Read<char> {
        let lone = |this: &Self, unit: u32| {
            let why = format!("a lone surrogate \\u{unit:04x}; a character above U+FFFF takes two escapes");
            this.fault(from, JsonFault::Invalid(why))
        };
        let high = self.hex(from)?;
        if let Some(c) = char::from_u32(high) {
            return Ok(c);
        }
        if high >= 0xdc00 || !self.rest().starts_with("\\u") {
            return lone(self, high);
        }
        self.at += 2;
        let low = self.hex(from)?;
        if !(0xdc00..0xe000).contains(&low) {
            return lone(self, high);
        }
        match char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)) {
            Some(c) => Ok(c),
            None => lone(self, high),
        }
    }

    fn hex(&mut self, from: usize) -> Read<u32> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).unwrap_or_default();
        let unit = digits.iter().try_fold(0, |unit, b| Some(unit * 16 + char::from(*b).to_digit(16)?));
        match unit {
            Some(unit) if digits.len() == 4 => {
                self.at += 4;
                Ok(unit)
            }
            _ => self.fault(from, JsonFault::Invalid("\\u without four hexadecimal digits".into())),
        }
    }

    fn number(&mut self) -> Read<Value> {
        let from = self.at;
        let negative = self.skip(b'-');
        let leading = self.peek();
        let digits = self.digits();
        if digits == 0 || (digits > 1 && leading == Some(b'0')) {
            self.at = from;
            let word = if negative && self.rest().starts_with("-Inf") { "-Infinity" } else { "this" };
            return self.broken(format!("{word} is no JSON number"));
        }
        let mut whole = true;
        if self.skip(b'.') {
            whole = false;
            if self.digits() == 0 {
                return self.broken(format!("expected a digit after '.', found {}", self.found()));
            }
        }
        if self.skip(b'e') || self.skip(b'E') {
            whole = false;
            let _sign = self.skip(b'+') || self.skip(b'-');
            if self.digits() == 0 {
                return self.broken(format!("expected a digit in the exponent, found {}", self.found()));
            }
        }
        let text = &self.text[from..self.at];
        let number = if whole { text.parse::<i64>().ok().map(Number::from) } else { float(text) };
        match number {
            Some(number) => Ok(Value::Number(number)),
            None => {
                let shown = printable(text, SHOWN_BYTES);
                let why = format!("{shown} would not survive as a 64-bit number; write it as a text");
                self.fault(from, JsonFault::Invalid(why))
            }
        }
    }

    fn digits(&mut self) -> usize {
        let from = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - from
    }
}

/// The number that `text` means, if a 64-bit float says the same one.
fn float(text: &str) -> Option<Number> {
    let float = text.parse::<f64>().ok()?;
    // The shortest text that reads back as this float: what a server would write.
    let again = format!("{float:e}");
    let number = Number::from_f64(float)?;
    (decimal(text)? == decimal(&again)?).then_some(number)
}

/// Significant digits and the power of ten of the last one; zero is `("", 0)`.
fn decimal(text: &str) -> Option<(String, i64)> {
    let text = text.trim_start_matches('-');
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole, fraction].concat();
    let kept = digits.trim_end_matches('0');
    let significant = kept.trim_start_matches('0').to_owned();
    if significant.is_empty() {
        return Some((significant, 0));
    }
    let exponent = exponent.trim_start_matches('+').parse::<i64>().ok()?;
    let last = i64::try_from(digits.len() - kept.len()).ok()? - i64::try_from(fraction.len()).ok()?;
    Some((significant, exponent.checked_add(last)?))
}

#[cfg(test)]
mod tests;

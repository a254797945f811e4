//! Limits of one plugin, from the annotations of its ConfigMap.
//!
//! `windlass.dev/limit-<name>` asks for more or less than the host's defaults, up to what the
//! host's operator allows. Quantities are written as Kubernetes writes them.

use std::collections::BTreeMap;
use std::time::Duration;

use windlass_core::code::{Code, Refusal, printable};
use windlass_core::limits::{CHILDREN_MAX, Limits};

/// Begins each annotation that sets a limit.
pub const ANNOTATION_LIMIT: &str = "windlass.dev/limit-";

/// The highest limits that a plugin may ask for. Each is set with the flag
/// `--max-limit-<name>`. A default that is higher counts as the highest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitMaxima {
    /// Linear memory of one call, in bytes. Default 128 MiB.
    pub memory_bytes: usize,
    /// CPU time of one call. Default 5 s.
    pub cpu: Duration,
    /// Largest snapshot, in bytes of JSON. Default 8 MiB, as the contract says.
    pub snapshot_bytes: usize,
    /// Largest decision, in bytes of JSON. Default 4 MiB.
    pub decision_bytes: usize,
    /// Log output of one call, in bytes. Default 256 KiB.
    pub log_bytes: usize,
    /// Table elements of one call. Default 100,000.
    pub table_elements: usize,
    /// Children in one decision. Default 100, as the contract says.
    pub children: usize,
}

impl Default for LimitMaxima {
    fn default() -> Self {
        Self {
            memory_bytes: 128 << 20,
            cpu: Duration::from_secs(5),
            snapshot_bytes: 8 << 20,
            decision_bytes: 4 << 20,
            log_bytes: 256 << 10,
            table_elements: 100_000,
            children: CHILDREN_MAX,
        }
    }
}

impl LimitMaxima {
    /// The limits of a plugin that asks for the most of everything: what compiled code and
    /// whatever is shared by all plugins has to be made for.
    #[must_use]
    pub fn largest(&self, defaults: &Limits) -> Limits {
        let mut largest = defaults.clone();
        for rule in &RULES {
            (rule.set)(&mut largest, rule.most(self, defaults));
        }
        largest
    }

    /// Sets the maximum called `name` from a quantity, as a flag gives it.
    ///
    /// # Errors
    /// One sentence, when there is no such limit or the text is not its quantity.
    pub fn set(&mut self, name: &str, quantity: &str) -> Result<(), String> {
        let rule = RULES.iter().find(|rule| rule.name == name).ok_or_else(|| unknown(name))?;
        (rule.raise)(self, rule.read(quantity)?);
        Ok(())
    }
}

/// Sets the default called `name` from a quantity, as `--plugin-limit` gives it: what a plugin may
/// ask for, and what only the host's operator can change.
///
/// # Errors
/// One sentence, when there is no such limit or the text is not its quantity.
pub fn set_default(limits: &mut Limits, name: &str, quantity: &str) -> Result<(), String> {
    let rule = default_rules().find(|rule| rule.name == name).ok_or_else(|| {
        let names: Vec<&str> = default_rules().map(|rule| rule.name).collect();
        format!("there is no limit {:?}; there are {}", printable(name, 64), names.join(", "))
    })?;
    let value = rule.read(quantity)?;
    let fixed = FIXED.iter().find(|(fixed, _)| fixed.name == name);
    if let Some((_, most)) = fixed.filter(|(_, most)| value > *most) {
        return Err(format!("{} is too much; at most {}", printable(quantity, 64), rule.unit.show(*most)));
    }
    (rule.set)(limits, value);
    Ok(())
}

/// CPU time and memory have had flags of their own from the start.
fn default_rules() -> impl Iterator<Item = &'static Rule> {
    let asked = RULES.iter().filter(|rule| !["memory", "cpu"].contains(&rule.name));
    asked.chain(FIXED.iter().map(|(rule, _)| rule))
}

/// The limits of a plugin whose ConfigMap has these annotations.
///
/// # Errors
/// E170 for a limit that does not exist or a quantity that does not parse, E171 for one above
/// its maximum.
pub fn limits_of(
    annotations: &BTreeMap<String, String>,
    defaults: &Limits,
    maxima: &LimitMaxima,
) -> Result<Limits, Refusal> {
    let mut limits = defaults.clone();
    for (annotation, text) in annotations {
        let Some(name) = annotation.strip_prefix(ANNOTATION_LIMIT) else {
            continue;
        };
        let bad = |text: String| Refusal::new(Code::BadManifest, format!("annotation {annotation}: {text}"));
        let rule = RULES.iter().find(|rule| rule.name == name).ok_or_else(|| bad(unknown(name)))?;
        let wanted = rule.read(text).map_err(bad)?;
        let most = rule.most(maxima, defaults);
        if wanted > most {
            return Err(Refusal::new(
                Code::LimitAboveMax,
                format!(
                    "annotation {annotation}: {} is above {}, the most that this host allows \
                     (its flag --max-limit-{name}): ask for less, or have the host's operator raise it",
                    printable(text, 64),
                    rule.unit.show(most),
                ),
            ));
        }
        (rule.set)(&mut limits, wanted);
    }
    Ok(limits)
}

fn unknown(name: &str) -> String {
    let names: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
    format!("there is no limit {:?}; there are {}", printable(name, 64), names.join(", "))
}

/// One limit that a plugin may ask for.
struct Rule {
    name: &'static str,
    unit: Unit,
    /// Nothing works below this.
    least: u64,
    get: fn(&Limits) -> u64,
    set: fn(&mut Limits, u64),
    maximum: fn(&LimitMaxima) -> u64,
    raise: fn(&mut LimitMaxima, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Bytes,
    /// Milliseconds of CPU time; `1` and `1s` are a second, `500m` and `500ms` half of one.
    Cpu,
    Number,
}

/// A rule for a field of the same name in [`Limits`] and [`LimitMaxima`].
macro_rules! rule {
    ($name:literal, $unit:ident, $least:expr, $field:ident) => {
        Rule {
            name: $name,
            unit: Unit::$unit,
            least: $least,
            get: |limits| limits.$field as u64,
            set: |limits, value| limits.$field = size(value),
            maximum: |maxima| maxima.$field as u64,
            raise: |maxima, value| maxima.$field = size(value),
        }
    };
}

static RULES: [Rule; 7] = [
    rule!("memory", Bytes, 1 << 20, memory_bytes),
    Rule {
        name: "cpu",
        unit: Unit::Cpu,
        least: 10,
        get: |limits| millis(limits.cpu),
        set: |limits, ms| limits.cpu = Duration::from_millis(ms),
        maximum: |maxima| millis(maxima.cpu),
        raise: |maxima, ms| maxima.cpu = Duration::from_millis(ms),
    },
    rule!("snapshot", Bytes, 1 << 10, snapshot_bytes),
    rule!("decision", Bytes, 1 << 10, decision_bytes),
    rule!("log", Bytes, 1 << 10, log_bytes),
    rule!("table-elements", Number, 1, table_elements),
    rule!("children", Number, 1, children),
];

/// A rule for what no plugin may ask for.
macro_rules! fixed {
    ($name:literal, $unit:ident, $least:expr, $most:expr, $field:ident) => {
        (
            Rule {
                name: $name,
                unit: Unit::$unit,
                least: $least,
                get: |limits| limits.$field as u64,
                set: |limits, value| limits.$field = size(value),
                maximum: |_| 0,
                raise: |_, _| (),
            },
            $most,
        )
    };
}

/// What only the host's operator sets, each with the most that can work: a ConfigMap holds a MiB,
/// the compile child takes 32, and a guest's stack is part of a thread's.
static FIXED: [(Rule, u64); 4] = [
    fixed!("component", Bytes, 1 << 10, 1 << 20, component_bytes),
    fixed!("decompressed", Bytes, 1 << 10, 32 << 20, decompressed_bytes),
    fixed!("packing-ratio", Number, 1, 1_000, packing_ratio),
    fixed!("stack", Bytes, 64 << 10, 8 << 20, stack_bytes),
];

/// What does not fit into this machine's sizes is more than anybody may have.
fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Rule {
    fn most(&self, maxima: &LimitMaxima, defaults: &Limits) -> u64 {
        (self.maximum)(maxima).max((self.get)(defaults))
    }

    fn read(&self, text: &str) -> Result<u64, String> {
        let value = self.unit.read(text).ok_or_else(|| {
            format!("{:?} is no quantity; expected {}", printable(text, 64), self.unit.examples())
        })?;
        if value < self.least {
            let least = self.unit.show(self.least);
            return Err(format!("{} is too little; at least {least}", printable(text, 64)));
        }
        Ok(value)
    }
}

impl Unit {
    fn examples(self) -> &'static str {
        match self {
            Unit::Bytes => "bytes such as 64Mi, 512Ki or 1000000",
            Unit::Cpu => "CPU time such as 500m, 1s or 2",
            Unit::Number => "a whole number",
        }
    }

    /// `None` for what is no quantity of this unit, or has more than 18 digits.
    fn read(self, text: &str) -> Option<u64> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let factor = match (self, suffix) {
            (Unit::Bytes | Unit::Number, "") | (Unit::Cpu, "m" | "ms") => 1,
            (Unit::Bytes, "k") | (Unit::Cpu, "" | "s") => 1_000,
            (Unit::Bytes, "M") => 1_000_000,
            (Unit::Bytes, "G") => 1_000_000_000,
            (Unit::Bytes, "Ki") => 1 << 10,
            (Unit::Bytes, "Mi") => 1 << 20,
            (Unit::Bytes, "Gi") => 1 << 30,
            _ => return None,
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + part.len() > 18 || whole.is_empty() || (number.contains('.') && part.is_empty()) {
            return None;
        }
        let digits: u128 = format!("{whole}{part}").parse().ok()?;
        let value = digits * factor;
        let scale = 10_u128.pow(u32::try_from(part.len()).ok()?);
        // A part of a byte is none that anybody meant.
        value.is_multiple_of(scale).then(|| u64::try_from(value / scale).ok()).flatten()
    }

    fn show(self, value: u64) -> String {
        match self {
            Unit::Bytes if value.is_multiple_of(1 << 20) => format!("{}Mi", value >> 20),
            Unit::Bytes if value.is_multiple_of(1 << 10) => format!("{}Ki", value >> 10),
            Unit::Cpu if value.is_multiple_of(1_000) => format!("{}s", value / 1_000),
            Unit::Cpu => format!("{value}m"),
            Unit::Bytes | Unit::Number => value.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(annotations: &[(&str, &str)]) -> Result<Limits, Refusal> {
        let annotations =
            annotations.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect();
        limits_of(&annotations, &Limits::default(), &LimitMaxima::default())
    }

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, expected) in [
            ("64Mi", Some(64 << 20)),
            ("0.5Gi", Some(512 << 20)),
            ("1000000", Some(1_000_000)),
            ("1k", Some(1_000)),
            ("1.5k", Some(1_500)),
            ("0.0001k", None),
            ("64MiB", None),
            ("64mi", None),
            ("-1", None),
            ("+1", None),
            ("1e6", None),
            ("", None),
            ("Mi", None),
            (".5Mi", None),
            ("5.", None),
            ("1.2.3", None),
            (" 1", None),
            ("٣", None),
            ("99999999999999999999", None),
            ("999999999999999999Gi", None),
        ] {
            assert_eq!(Unit::Bytes.read(text), expected, "{text}");
        }
        for (text, expected) in [
            ("500m", Some(500)),
            ("500ms", Some(500)),
            ("1", Some(1_000)),
            ("1s", Some(1_000)),
            ("1.5s", Some(1_500)),
            ("0.25", Some(250)),
            ("1us", None),
            ("1Mi", None),
        ] {
            assert_eq!(Unit::Cpu.read(text), expected, "{text}");
        }
        assert_eq!(Unit::Number.read("10"), Some(10));
        assert_eq!(Unit::Number.read("10k"), None);
    }

    #[test]
    fn each_limit_can_be_asked_for_up_to_its_maximum() {
        let limits = judged(&[
            ("windlass.dev/limit-memory", "128Mi"),
            ("windlass.dev/limit-cpu", "2500m"),
            ("windlass.dev/limit-snapshot", "1Mi"),
            ("windlass.dev/limit-decision", "64Ki"),
            ("windlass.dev/limit-log", "256Ki"),
            ("windlass.dev/limit-table-elements", "100000"),
            ("windlass.dev/limit-children", "7"),
            ("windlass.dev/state", "serving"),
            ("example.com/limit-memory", "junk"),
        ])
        .expect("all within");
        let expected = Limits {
            memory_bytes: 128 << 20,
            cpu: Duration::from_millis(2_500),
            snapshot_bytes: 1 << 20,
            decision_bytes: 64 << 10,
            log_bytes: 256 << 10,
            table_elements: 100_000,
            children: 7,
            ..Limits::default()
        };
        assert_eq!(limits, expected);
        assert_eq!(judged(&[]).expect("none"), Limits::default());
    }

    #[test]
    fn more_than_the_maximum_is_refused_with_found_allowed_and_the_flag() {
        for (name, text, most) in [
            ("memory", "129Mi", "128Mi"),
            ("cpu", "5001m", "5s"),
            ("snapshot", "9Mi", "8Mi"),
            ("decision", "4194305", "4Mi"),
            ("log", "1Mi", "256Ki"),
            ("table-elements", "100001", "100000"),
            ("children", "101", "100"),
        ] {
            let refusal = judged(&[(&format!("{ANNOTATION_LIMIT}{name}"), text)]).expect_err(name);
            assert_eq!(refusal.code, Code::LimitAboveMax, "{refusal}");
            for part in [text, &format!("above {most},"), &format!("--max-limit-{name}")] {
                assert!(refusal.message.contains(part), "{refusal}: {part}");
            }
        }
    }

    #[test]
    fn junk_and_unknown_names_are_refused() {
        for (name, text, says) in [
            ("memory", "lots", "\"lots\" is no quantity; expected bytes such as 64Mi"),
            ("memory", "0", "0 is too little; at least 1Mi"),
            ("cpu", "0", "at least 10m"),
            ("children", "0", "at least 1"),
            ("cpu", "1Mi", "expected CPU time"),
            ("memroy", "64Mi", "there is no limit \"memroy\"; there are memory, cpu, snapshot"),
            ("", "1", "there is no limit \"\""),
        ] {
            let refusal = judged(&[(&format!("{ANNOTATION_LIMIT}{name}"), text)]).expect_err(text);
            assert_eq!(refusal.code, Code::BadManifest, "{refusal}");
            assert!(refusal.message.contains(says), "{refusal}");
        }
    }

    #[test]
    fn a_default_above_the_maximum_raises_it() {
        let defaults = Limits { memory_bytes: 256 << 20, ..Limits::default() };
        let maxima = LimitMaxima::default();
        let annotations = BTreeMap::from([(format!("{ANNOTATION_LIMIT}memory"), "256Mi".to_owned())]);
        assert!(limits_of(&annotations, &defaults, &maxima).is_ok());
        let largest = maxima.largest(&defaults);
        assert_eq!((largest.memory_bytes, largest.cpu), (256 << 20, Duration::from_secs(5)));
        assert_eq!(largest.component_bytes, defaults.component_bytes, "nothing that a plugin may ask for");
    }

    #[test]
    fn a_flag_sets_a_default() {
        let mut limits = Limits::default();
        for (name, text) in [
            ("snapshot", "1Mi"),
            ("decision", "64Ki"),
            ("log", "4Ki"),
            ("table-elements", "500"),
            ("children", "7"),
            ("component", "512Ki"),
            ("decompressed", "8Mi"),
            ("packing-ratio", "40"),
            ("stack", "1Mi"),
        ] {
            set_default(&mut limits, name, text).expect(name);
        }
        let expected = Limits {
            snapshot_bytes: 1 << 20,
            decision_bytes: 64 << 10,
            log_bytes: 4 << 10,
            table_elements: 500,
            children: 7,
            component_bytes: 512 << 10,
            decompressed_bytes: 8 << 20,
            packing_ratio: 40,
            stack_bytes: 1 << 20,
            ..Limits::default()
        };
        assert_eq!(limits, expected);
        for (name, text, says) in [
            ("cpu", "1s", "there is no limit \"cpu\"; there are snapshot, "),
            ("stack", "9Mi", "9Mi is too much; at most 8Mi"),
            ("stack", "1Ki", "at least 64Ki"),
            ("log", "x", "expected bytes"),
        ] {
            let error = set_default(&mut limits, name, text).expect_err(name);
            assert!(error.contains(says), "{error}");
        }
        assert_eq!(limits, expected);
    }

    #[test]
    fn a_flag_sets_a_maximum() {
        let mut maxima = LimitMaxima::default();
        maxima.set("cpu", "30s").expect("a quantity");
        maxima.set("memory", "1Gi").expect("a quantity");
        assert_eq!((maxima.cpu, maxima.memory_bytes), (Duration::from_secs(30), 1 << 30));
        assert!(maxima.set("cpu", "x").expect_err("junk").contains("CPU time"));
        assert!(maxima.set("wall", "1s").expect_err("none").contains("there is no limit"));
    }
}

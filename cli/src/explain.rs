//! What a code means and what to do about it: the page that documents the codes, by entry.

use windlass_core::code::Code;

const PAGE: &str = include_str!("../../docs/plugin-errors.md");

/// One entry of docs/plugin-errors.md.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Explained {
    /// What it means that this code was given.
    pub found: String,
    /// Why a host refuses it.
    pub why: String,
    /// What to do.
    pub cure: String,
}

/// The entry of a code. Each code has one: a test of the host holds the page against the codes.
pub fn explain(code: Code) -> Option<Explained> {
    let heading = format!("### {code}");
    let (_, entry) = PAGE.split_once(&format!("\n{heading}\n"))?;
    let entry = entry.split("\n##").next().unwrap_or(entry);
    Some(Explained { found: part(entry, "Found")?, why: part(entry, "Why")?, cure: part(entry, "Cure")? })
}

/// The text behind `- **<name>:**`, its lines joined.
fn part(entry: &str, name: &str) -> Option<String> {
    let (_, text) = entry.split_once(&format!("- **{name}:** "))?;
    let text = text.split("\n- **").next().unwrap_or(text);
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_an_entry_that_can_be_shown() {
        for code in Code::ALL {
            let entry = explain(*code).unwrap_or_else(|| panic!("{code} has no entry"));
            for text in [&entry.found, &entry.why, &entry.cure] {
                assert!(text.len() > 10 && !text.contains("**"), "{code}: {text}");
            }
        }
        let entry = explain(Code::CoreModule).expect("it is there");
        assert!(entry.cure.contains("wasm32-wasip2"), "{entry:?}");
    }
}

//! What a plugin is, for people and for programs.

use std::fmt;

use serde::Serialize;
use windlass_core::manifest::Unwanted;
use windlass_plugin::cut;

use crate::check::{Finding, Report};
use crate::package::Package;
use crate::rights::{Rights, Rule};

/// What a plugin says of itself, how large it is, and what it needs.
#[derive(Debug, Serialize)]
pub struct About {
    name: String,
    version: String,
    /// sha256 of the component.
    digest: String,
    bytes: usize,
    compressed_bytes: usize,
    config_maps: usize,
    /// The primary kind, and which of its objects.
    reconciles: String,
    /// Kinds of children.
    makes: Vec<String>,
    /// What it looks at beside.
    reads: Vec<String>,
    finalizes: bool,
    /// None while a kind is not known well enough.
    rights: Option<Rights>,
}

impl About {
    pub(crate) fn of(package: &Package, rights: Option<&Rights>) -> Self {
        let manifest = &package.manifest;
        let selected = if manifest.selects.is_everything() {
            String::new()
        } else {
            format!(", of those {}", manifest.selects)
        };
        let makes = manifest.children.iter().map(|child| match child.unwanted {
            Unwanted::Delete => child.kind.to_string(),
            Unwanted::Orphan => format!("{} (let go when no longer wanted)", child.kind),
        });
        Self {
            name: manifest.name.to_string(),
            version: manifest.version.clone(),
            digest: package.digest.to_string(),
            bytes: package.wasm.len(),
            compressed_bytes: package.compressed.len(),
            config_maps: cut(&package.compressed).len(),
            reconciles: format!("{}{selected}", manifest.primary),
            makes: makes.collect(),
            reads: manifest.reads.iter().map(|read| format!("{}: {}", read.kind, read.scope)).collect(),
            finalizes: manifest.finalizes,
            rights: rights.cloned(),
        }
    }
}

/// `patch  webapps.apps.windlass.dev`, as `kubectl auth can-i` takes them.
struct Line<'a>(&'a Rule);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rule { group, resource, only, verbs, .. } = self.0;
        let (plural, subresource) =
            resource.split_once('/').map_or((&**resource, ""), |(plural, sub)| (plural, sub));
        write!(f, "{:<21} {plural}", verbs.join(","))?;
        if !group.is_empty() {
            write!(f, ".{group}")?;
        }
        if !subresource.is_empty() {
            write!(f, "/{subresource}")?;
        }
        only.iter().try_for_each(|only| write!(f, " {only}"))
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let maps = match self.config_maps {
            1 => "one ConfigMap".to_owned(),
            count => format!("{count} ConfigMaps"),
        };
        let mut row = |word: &str, text: &dyn fmt::Display| writeln!(f, "  {word:<11} {text}");
        row("digest", &self.digest)?;
        let size = format!(
            "{} KB, {} KB compressed: {maps}",
            self.bytes.div_ceil(1000),
            self.compressed_bytes.div_ceil(1000)
        );
        row("size", &size)?;
        row("reconciles", &self.reconciles)?;
        list(&mut row, "makes", &self.makes)?;
        list(&mut row, "reads", &self.reads)?;
        row("finalizes", &if self.finalizes { "yes" } else { "no" })?;
        let Some(rights) = &self.rights else { return Ok(()) };
        for (word, rules) in [("its account", &rights.plugin), ("the host", &rights.host)] {
            let lines: Vec<_> = rules.iter().map(|rule| Line(rule).to_string()).collect();
            list(&mut row, word, &lines)?;
        }
        row("", &Line(&rights.acts_as))
    }
}

fn list(
    row: &mut dyn FnMut(&str, &dyn fmt::Display) -> fmt::Result,
    word: &str,
    lines: &[String],
) -> fmt::Result {
    if lines.is_empty() {
        return row(word, &"nothing");
    }
    lines.iter().enumerate().try_for_each(|(i, line)| row(if i == 0 { word } else { "" }, line))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.plugin.as_ref().map(|plugin| format!("{} {}", plugin.name, plugin.version));
        let name = name.as_deref().unwrap_or("the plugin");
        match &self.refused {
            None => writeln!(f, "{name}: a host takes it")?,
            Some(finding) => write!(f, "{name}: a host refuses it\n{finding}")?,
        }
        if let Some(plugin) = &self.plugin {
            write!(f, "{plugin}")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n  {}: {}", self.code, self.message)?;
        if let Some(explained) = &self.explained {
            writeln!(f, "    found  {}", explained.found)?;
            writeln!(f, "    why    {}", explained.why)?;
            writeln!(f, "    cure   {}\n", explained.cure)?;
        }
        Ok(())
    }
}

//! Parts: the ConfigMaps of a component that is too large for one.
//!
//! Each carries a slice of the packed bytes and says which (`windlass.dev/part: 2-of-5`) and of
//! what (`windlass.dev/whole`, the digest of all slices together). Part 1 is the plugin's
//! ConfigMap: settings, limits and signature are on it, its state is written there, and
//! without it there is no plugin; the others only hold bytes.
//!
//! Parts arrive in any order, and are replaced one after the other by those of the next version.
//! What announces another whole is never mixed in; until a set is complete there is a refusal to
//! show, and whatever served goes on. Pure: texts in, answers out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use windlass_core::code::{Code, Refusal, printable};
use windlass_core::name::{Digest, PluginName};

use crate::config_map::{ANNOTATION_PART, ANNOTATION_WHOLE, ConfigMap, Offer};
use crate::source::Whole;

/// Parts of one component, at most.
pub const PARTS_MAX: usize = 64;

/// Bytes in one part, as tools cut them: a ConfigMap may hold 1 MiB in all.
pub const PART_BYTES: usize = 900 << 10;

/// All parts that are known, of all plugins. It keeps the texts that it is given, at most one a
/// ConfigMap.
#[derive(Debug, Default)]
pub struct Parts {
    pieces: BTreeMap<String, Piece>,
    /// The ConfigMaps that stand for a plugin now, of those whose component is in parts.
    standing: BTreeMap<PluginName, BTreeSet<String>>,
}

/// What a registry is to be told after a ConfigMap was seen or is gone.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct PartsNow {
    /// What is offered; also what was offered before, which a registry knows by its content.
    pub offered: Vec<Offered>,
    /// ConfigMaps that stand for no plugin, or not any more; also some that never did.
    pub gone: Vec<String>,
    /// ConfigMaps that belong to nothing, and why: for the log.
    pub stray: Vec<(String, Refusal)>,
}

/// One version of one plugin.
#[derive(Debug, PartialEq, Eq)]
pub struct Offered {
    /// As a registry wants it; its ConfigMap is part 1's.
    pub offer: Offer,
    /// All there is of it, or what is missing: E118, which passes when the other parts arrive.
    pub whole: Result<Whole, Refusal>,
}

#[derive(Debug)]
struct Piece {
    offer: Offer,
    /// What its annotations say.
    place: Result<Place, Refusal>,
    text: Arc<str>,
}

/// Which slice of what.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    number: usize,
    of: usize,
    whole: Digest,
}

impl Parts {
    /// A ConfigMap was seen: for the first time, changed, or once more. One that holds all of
    /// its component passes through.
    ///
    /// # Errors
    /// E170 when the text is no ConfigMap or its label cannot name a plugin: then nothing has
    /// changed here, and [`gone`](Self::gone) is to be told of it.
    pub fn offer(&mut self, config_map: Arc<str>) -> Result<PartsNow, Refusal> {
        let map = ConfigMap::parse(&config_map)?;
        let offer = Offer::of(&map)?;
        let (plugin, reference) = (offer.plugin.clone(), offer.config_map.clone());
        let before = self.pieces.remove(&reference).map(|piece| piece.offer.plugin);
        let mut now = PartsNow::default();
        let Some(place) = Place::of(&map) else {
            let whole = Whole::new(plugin, reference.clone(), vec![config_map], None);
            now.offered.push(Offered { offer, whole: Ok(whole) });
            self.leave(before, &reference, &mut now);
            return Ok(now);
        };
        self.pieces.insert(reference.clone(), Piece { offer, place, text: config_map });
        self.leave(before.clone().filter(|before| *before != plugin), &reference, &mut now);
        self.look_at(&plugin, &mut now);
        if before.is_none() && now.offered.iter().all(|offered| offered.offer.config_map != reference) {
            // It may have held a whole component until now.
            now.gone.push(reference);
        }
        Ok(now)
    }

    /// A ConfigMap is gone, or is no plugin's any more.
    pub fn gone(&mut self, config_map: &str) -> PartsNow {
        let mut now = PartsNow::default();
        let Some(piece) = self.pieces.remove(config_map) else {
            now.gone.push(config_map.to_owned());
            return now;
        };
        self.look_at(&piece.offer.plugin, &mut now);
        now
    }

    /// A ConfigMap is no part of that plugin any more, and not to be called gone: it is offered as
    /// something else.
    fn leave(&mut self, plugin: Option<PluginName>, config_map: &str, now: &mut PartsNow) {
        let Some(plugin) = plugin else {
            return;
        };
        if let Some(standing) = self.standing.get_mut(&plugin) {
            standing.remove(config_map);
        }
        self.look_at(&plugin, now);
    }

    /// Judges all parts of one plugin.
    fn look_at(&mut self, plugin: &PluginName, now: &mut PartsNow) {
        let stood = self.standing.remove(plugin).unwrap_or_default();
        let pieces: Vec<&Piece> =
            self.pieces.values().filter(|piece| piece.offer.plugin == *plugin).collect();
        let mut stands = BTreeSet::new();
        for piece in &pieces {
            match &piece.place {
                Ok(place) if place.number == 1 => {
                    stands.insert(piece.offer.config_map.clone());
                    now.offered.push(offered(piece, place, &pieces));
                }
                _ => {}
            }
        }
        for piece in &pieces {
            let Err(refusal) = &piece.place else {
                continue;
            };
            // Said on the ConfigMap itself where nothing else stands for the plugin, or where it did.
            let reference = &piece.offer.config_map;
            if stands.is_empty() || stood.contains(reference) {
                stands.insert(reference.clone());
                now.offered.push(Offered { offer: piece.offer.clone(), whole: Err(refusal.clone()) });
            } else {
                now.stray.push((reference.clone(), refusal.clone()));
            }
        }
        if stands.is_empty() {
            now.stray.extend(pieces.iter().map(|piece| (piece.offer.config_map.clone(), headless(piece))));
        }
        now.gone.extend(stood.difference(&stands).cloned());
        if !stands.is_empty() {
            self.standing.insert(plugin.clone(), stands);
        }
    }
}

/// What part 1 stands for.
fn offered(first: &Piece, place: &Place, pieces: &[&Piece]) -> Offered {
    let whole = set(first, place, pieces);
    let mut content = String::new();
    for (piece, at) in placed(pieces).filter(|(_, at)| at.whole == place.whole) {
        let _ = writeln!(content, "{} {} {}", at.number, piece.offer.config_map, piece.offer.content);
    }
    if let Err(refusal) = &whole {
        // What is said may change while the parts do not.
        content.push_str(&refusal.message);
    }
    let offer = Offer {
        content: Digest::of(format!("{}\n{content}", first.offer.content).as_bytes()),
        ..first.offer.clone()
    };
    Offered { offer, whole }
}

/// The set that part 1 belongs to, or what is wrong with it.
fn set(first: &Piece, place: &Place, pieces: &[&Piece]) -> Result<Whole, Refusal> {
    let mut slots: Vec<Option<&Piece>> = vec![None; place.of];
    for (piece, at) in placed(pieces).filter(|(_, at)| at.whole == place.whole) {
        if at.of != place.of {
            return Err(incomplete(format!(
                "{} says {ANNOTATION_PART}: {}-of-{}, part 1 says 1-of-{}: one of them is wrong",
                piece.offer.config_map, at.number, at.of, place.of
            )));
        }
        // Numbers are within their count, which is the same.
        let Some(slot) = slots.get_mut(at.number - 1) else {
            continue;
        };
        if let Some(other) = slot.replace(piece) {
            return Err(incomplete(format!(
                "part {} of {} is there twice, as {} and as {}: remove one",
                at.number, at.of, other.offer.config_map, piece.offer.config_map
            )));
        }
    }
    let texts: Option<Vec<Arc<str>>> = slots.iter().map(|slot| Some(Arc::clone(&(*slot)?.text))).collect();
    match texts {
        Some(texts) => {
            let (plugin, reference) = (first.offer.plugin.clone(), first.offer.config_map.clone());
            Ok(Whole::new(plugin, reference, texts, Some(place.whole.clone())))
        }
        None => Err(missing(place, &slots, pieces)),
    }
}

fn missing(place: &Place, slots: &[Option<&Piece>], pieces: &[&Piece]) -> Refusal {
    let missing = (1..=slots.len()).zip(slots).filter(|(_, slot)| slot.is_none()).map(|(n, _)| n.to_string());
    let missing: Vec<String> = missing.collect();
    let (noun, verb) = if missing.len() == 1 { ("part", "is") } else { ("parts", "are") };
    let mut text = format!(
        "{noun} {} of {} {verb} missing from the whole {}",
        missing.join(", "),
        place.of,
        place.whole.short()
    );
    let others: Vec<String> = placed(pieces)
        .filter(|(_, at)| at.whole != place.whole && at.number != 1)
        .map(|(piece, at)| {
            format!("{} is {}-of-{} of {}", piece.offer.config_map, at.number, at.of, at.whole.short())
        })
        .collect();
    if !others.is_empty() {
        let _ = write!(text, "; {}", printable(&others.join(", "), 300));
    }
    text.push_str(": apply all parts of one version");
    incomplete(text)
}

/// A part whose part 1 is not there.
fn headless(piece: &Piece) -> Refusal {
    match &piece.place {
        Ok(at) => incomplete(format!(
            "this is part {} of {} of plugin {}; part 1, which stands for the plugin, is missing",
            at.number, at.of, piece.offer.plugin
        )),
        Err(refusal) => refusal.clone(),
    }
}

fn placed<'p>(pieces: &'p [&'p Piece]) -> impl Iterator<Item = (&'p Piece, &'p Place)> {
    pieces.iter().filter_map(|piece| Some((*piece, piece.place.as_ref().ok()?)))
}

fn incomplete(text: impl AsRef<str>) -> Refusal {
    Refusal::new(Code::PartsIncomplete, text)
}

impl Place {
    /// `None`: the ConfigMap is no part.
    fn of(map: &ConfigMap) -> Option<Result<Self, Refusal>> {
        let part = map.annotations().get(ANNOTATION_PART)?;
        Some(Self::read(part, map.annotations().get(ANNOTATION_WHOLE)))
    }

    fn read(part: &str, whole: Option<&String>) -> Result<Self, Refusal> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.len() <= 2 && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse::<usize>().ok()).flatten()
        };
        let numbers = part.split_once("-of-").and_then(|(n, of)| Some((number(n)?, number(of)?)));
        let Some((number, of)) =
            numbers.filter(|(n, of)| (1..=PARTS_MAX).contains(of) && (1..=*of).contains(n))
        else {
            return Err(incomplete(format!(
                "annotation {ANNOTATION_PART}: {:?}; expected such as 2-of-5, at most {PARTS_MAX}",
                printable(part, 32)
            )));
        };
        let whole = whole.ok_or_else(|| {
            incomplete(format!(
                "annotation {ANNOTATION_WHOLE} is missing; expected the digest of all parts together, as sha256:…"
            ))
        })?;
        let whole = whole.parse().map_err(|e| incomplete(format!("annotation {ANNOTATION_WHOLE}: {e}")))?;
        Ok(Self { number, of, whole })
    }
}

/// One slice of a packed component, for tools that make ConfigMaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice<'a> {
    /// What goes under the key.
    pub bytes: &'a [u8],
    /// What goes into the annotations; nothing when one ConfigMap is enough.
    pub annotations: Vec<(&'static str, String)>,
}

/// Cuts packed bytes into as many slices as it takes. More than [`PARTS_MAX`] come out of what no
/// host accepts.
pub fn cut(packed: &[u8]) -> Vec<Slice<'_>> {
    let of = packed.len().div_ceil(PART_BYTES);
    if of <= 1 {
        return vec![Slice { bytes: packed, annotations: Vec::new() }];
    }
    let whole = Digest::of(packed);
    let slice = |(i, bytes)| Slice {
        bytes,
        annotations: vec![
            (ANNOTATION_PART, format!("{}-of-{of}", i + 1)),
            (ANNOTATION_WHOLE, whole.as_str().to_owned()),
        ],
    };
    packed.chunks(PART_BYTES).enumerate().map(slice).collect()
}

#[cfg(test)]
mod tests;

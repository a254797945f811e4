//! Where a kind is listed and watched: everywhere at once, or in one namespace and another, each in a loop of its own.

use std::sync::Arc;

use crate::anew::Anew;
use crate::progress::Progress;

/// One list and watch of a kind, and how it is doing.
#[derive(Debug, Default)]
pub(crate) struct Part {
    /// Its namespace; empty: all of them, and what is in none.
    pub(crate) namespace: Arc<str>,
    pub(crate) progress: Progress,
    pub(crate) anew: Anew,
}

/// How far a part has come.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    pub(crate) part: Arc<Part>,
    /// Whether a list with at least today's need has been read to its end.
    pub(crate) listed: bool,
    /// The newest version that list or watch have reached.
    pub(crate) newest: u64,
    /// The version of the last list that was read to its end.
    pub(crate) listed_at: u64,
}

impl Part {
    /// Whether what is in `namespace` is seen here.
    pub(crate) fn reaches(&self, namespace: &str) -> bool {
        reaches(&self.namespace, namespace)
    }
}

impl Reach {
    fn none(namespace: &str) -> Self {
        let part = Part { namespace: namespace.into(), ..Part::default() };
        Self { part: Arc::new(part), listed: false, newest: 0, listed_at: 0 }
    }

    /// One for each namespace, or one for all if there are none. Of what `before` had seen, that counts which lies
    /// there: `covered` says whether what was asked for was no less.
    pub(crate) fn of(namespaces: &[String], before: &[Self], covered: bool) -> Vec<Self> {
        let all = [String::new()];
        let namespaces = if namespaces.is_empty() { &all } else { namespaces };
        let one = |namespace: &String| {
            let seen = |reach: &&Self| reach.part.reaches(namespace);
            match before.iter().find(seen) {
                Some(same) if *same.part.namespace == **namespace => {
                    Self { listed: same.listed && covered, ..same.clone() }
                }
                Some(wider) => Self {
                    listed: wider.listed && covered,
                    newest: wider.newest,
                    listed_at: wider.listed_at,
                    ..Self::none(namespace)
                },
                // Nothing is known of the whole, but versions count everywhere alike.
                None if namespace.is_empty() => Self {
                    newest: before.iter().map(|reach| reach.newest).max().unwrap_or_default(),
                    ..Self::none(namespace)
                },
                None => Self::none(namespace),
            }
        };
        namespaces.iter().map(one).collect()
    }
}

/// Whether `part`, which is empty for everywhere, has what is in `namespace`.
pub(crate) fn reaches(part: &str, namespace: &str) -> bool {
    part.is_empty() || part == namespace
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(namespace: &str, listed: bool, newest: u64, listed_at: u64) -> Reach {
        Reach { listed, newest, listed_at, ..Reach::none(namespace) }
    }

    fn told(reaches: &[Reach]) -> Vec<(&str, bool, u64, u64)> {
        reaches.iter().map(|r| (&*r.part.namespace, r.listed, r.newest, r.listed_at)).collect()
    }

    #[test]
    fn what_was_seen_counts_where_it_was_seen() {
        let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let all = [reach("", true, 9, 5)];
        assert_eq!(told(&Reach::of(&[], &[], true)), [("", false, 0, 0)]);
        assert_eq!(told(&Reach::of(&names(&["a", "b"]), &all, true)), [("a", true, 9, 5), ("b", true, 9, 5)]);
        assert_eq!(told(&Reach::of(&names(&["a"]), &all, false)), [("a", false, 9, 5)], "other labels");
        let two = [reach("a", true, 9, 5), reach("b", true, 8, 8)];
        assert_eq!(
            told(&Reach::of(&names(&["b", "c"]), &two, false)),
            [("b", false, 8, 8), ("c", false, 0, 0)],
            "nothing was seen of c"
        );
        assert_eq!(told(&Reach::of(&[], &two, false)), [("", false, 9, 0)]);
        assert!(Arc::ptr_eq(&Reach::of(&names(&["b"]), &two, true)[0].part, &two[1].part), "it goes on");
    }
}

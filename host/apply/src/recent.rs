//! A map that forgets what was used longest ago, so that nothing which is keyed
//! by what objects and plugins say can grow without end.

use std::collections::HashMap;

/// At most `capacity` values by hash. When it is full, the eighth that was used
/// longest ago goes at once, so that the search for it is paid rarely.
#[derive(Debug)]
pub(crate) struct Recent<V> {
    capacity: usize,
    uses: u64,
    values: HashMap<u64, (u64, V)>,
}

impl<V> Recent<V> {
    /// An empty map for at most `capacity` values (at least 8).
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(8), uses: 0, values: HashMap::new() }
    }

    /// The value under `key`, made by `new` when there is none.
    pub(crate) fn entry(&mut self, key: u64, new: impl FnOnce() -> V) -> &mut V {
        self.uses += 1;
        if self.values.len() >= self.capacity && !self.values.contains_key(&key) {
            self.evict();
        }
        let slot = self.values.entry(key).or_insert_with(|| (0, new()));
        slot.0 = self.uses;
        &mut slot.1
    }

    /// The value under `key`, if it is still known; does not count as a use.
    pub(crate) fn get_mut(&mut self, key: u64) -> Option<&mut V> {
        self.values.get_mut(&key).map(|slot| &mut slot.1)
    }

    /// Forgets `key`.
    pub(crate) fn remove(&mut self, key: u64) {
        self.values.remove(&key);
    }

    fn evict(&mut self) {
        let mut uses: Vec<u64> = self.values.values().map(|slot| slot.0).collect();
        uses.sort_unstable();
        let keep_from = uses[uses.len() / 8];
        self.values.retain(|_, slot| slot.0 > keep_from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_is_forgotten_first() {
        let mut recent = Recent::new(16);
        for key in 0..16 {
            recent.entry(key, || key);
        }
        recent.entry(0, || 99);
        recent.entry(100, || 100);
        assert!(recent.values.len() <= 16);
        assert_eq!(recent.get_mut(0), Some(&mut 0), "used again, so kept");
        assert_eq!(recent.get_mut(1), None);
        assert_eq!(recent.get_mut(100), Some(&mut 100));
    }

    #[test]
    fn it_never_holds_more_than_its_capacity() {
        let mut recent = Recent::new(64);
        for key in 0..10_000 {
            recent.entry(key, || ());
            assert!(recent.values.len() <= 64);
        }
    }
}

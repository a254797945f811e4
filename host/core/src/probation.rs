//! Probation: a plugin that has used up its CPU time once gets one slot until it has shown that
//! it does not do so always.
//!
//! A value over values, beside the [breaker](crate::breaker), which leaves a plugin alone after
//! faults in a row. Until then a plugin that loops on every object would hold half of all slots
//! and processors for as long as each call may take.

use crate::breaker::Went;
use crate::code::Code;

/// Passes in a row that have to go well before a plugin has all its slots again.
pub const CLEAN_MIN: u32 = 10;

/// What [`Probation::after`] has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// From now on the plugin has one slot.
    Begun,
    /// It has one slot for longer than was known.
    Longer,
    /// It has all its slots again.
    Over,
}

/// One plugin's probation. Starts without, and a new digest gets a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probation {
    /// Passes that still have to go well; none when it is not on probation.
    left: u32,
}

impl Probation {
    /// Takes what a pass came to.
    pub fn after(&mut self, went: &Went) -> Option<Turn> {
        let on = self.left > 0;
        match went {
            Went::Badly(refusal) if on || refusal.code == Code::Timeout => {
                self.left = CLEAN_MIN;
                Some(if on { Turn::Longer } else { Turn::Begun })
            }
            Went::Well if on => {
                self.left -= 1;
                (self.left == 0).then_some(Turn::Over)
            }
            Went::Well | Went::Badly(_) | Went::SaidNo(_) | Went::Neither => None,
        }
    }

    /// Whether the plugin has one slot only.
    pub fn is_on(&self) -> bool {
        self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::Refusal;

    fn badly(code: Code) -> Went {
        Went::Badly(Refusal::new(code, "x"))
    }

    fn well(probation: &mut Probation, times: u32) -> Vec<Turn> {
        (0..times).filter_map(|_| probation.after(&Went::Well)).collect()
    }

    #[test]
    fn a_deadline_begins_it_and_ten_good_passes_end_it() {
        let mut probation = Probation::default();
        assert_eq!(probation.after(&badly(Code::Timeout)), Some(Turn::Begun));
        assert_eq!(probation.after(&badly(Code::Timeout)), Some(Turn::Longer));
        assert_eq!((well(&mut probation, CLEAN_MIN - 1), probation.is_on()), (vec![], true));
        assert_eq!((well(&mut probation, 9), probation.is_on()), (vec![Turn::Over], false));
    }

    #[test]
    fn the_good_passes_have_to_be_in_a_row() {
        for code in [Code::Timeout, Code::Trap] {
            let mut probation = Probation::default();
            probation.after(&badly(Code::Timeout));
            well(&mut probation, CLEAN_MIN - 1);
            assert_eq!(probation.after(&badly(code)), Some(Turn::Longer));
            assert_eq!(well(&mut probation, CLEAN_MIN - 1), []);
            assert_eq!(well(&mut probation, 1), [Turn::Over]);
        }
    }

    #[test]
    fn nothing_else_begins_it_or_counts() {
        let mut probation = Probation::default();
        for went in [badly(Code::Trap), badly(Code::MemoryLimit), Went::Well, Went::Neither] {
            assert_eq!(probation.after(&went), None);
        }
        assert!(!probation.is_on());
        probation.after(&badly(Code::Timeout));
        for went in [Went::Neither, Went::SaidNo(Refusal::new(Code::PluginError, "x"))] {
            assert_eq!(probation.after(&went), None);
        }
        assert_eq!(well(&mut probation, CLEAN_MIN), [Turn::Over], "they say nothing of time");
    }
}

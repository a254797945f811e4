//! Nothing outside the allow-list is ever planned, whatever a plugin decides.
//!
//! 10,000 decisions; with `WINDLASS_TEST_FULL=1` a million.

use proptest::collection::vec;
use proptest::num::u8;
use proptest::prelude::*;

fn cases() -> u32 {
    let full = std::env::var_os("WINDLASS_TEST_FULL").is_some_and(|value| !value.is_empty() && value != "0");
    if full { 1_000_000 } else { 10_000 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_outside_the_allow_list_is_ever_planned(bytes in vec(u8::ANY, 0..400)) {
        windlass_fuzz::plan(&bytes);
    }
}

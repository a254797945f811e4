//! A component that somebody offers: see `windlass_fuzz::load`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| windlass_fuzz::load(data));

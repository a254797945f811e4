//! A guest's texts: see `windlass_fuzz::decode_decision`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| windlass_fuzz::decode_decision(data));

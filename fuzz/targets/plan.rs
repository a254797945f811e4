//! Decisions that are put together from good and hostile parts: see `windlass_fuzz::plan`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| windlass_fuzz::plan(data));

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gpuferry_fuzz::edid(data));

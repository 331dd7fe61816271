#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gpuferry_fuzz::acpi_tables(data));

//! Fuzzes accesses to configuration space.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ioreq_server::fuzz::config_space(data));

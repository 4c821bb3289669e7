//! Fuzzes the buffered ring's bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ioreq_server::fuzz::ring(data));

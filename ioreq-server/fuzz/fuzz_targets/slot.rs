//! Fuzzes a sync slot's bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ioreq_server::fuzz::slot(data));

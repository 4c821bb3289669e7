//! Fuzzes what a hypervisor answers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ioreq_server::fuzz::dm_op(data));

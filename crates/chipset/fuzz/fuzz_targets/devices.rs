//! Random port accesses, inputs and time on all devices at once.

#![no_main]

mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::drive(data));

//! Frames of any kind, and answers of any kind, through the user-mode network.

#![no_main]

mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::drive(data));

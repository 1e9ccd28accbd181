//! The payload of a hostile bzImage.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| boot::harness::payloads(file));

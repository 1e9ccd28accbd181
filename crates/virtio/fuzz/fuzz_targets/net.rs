//! The device behind its queues, driven by bytes.

#![no_main]

mod harness;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| harness::drive(harness::Kind::Net, bytes));

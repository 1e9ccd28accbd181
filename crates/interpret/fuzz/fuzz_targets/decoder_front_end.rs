//! Bytes as instructions of every mode, wherever instructions are fetched from.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::decode_everywhere(&interpret::Interpreter, data));

//! Bytes as a program, in a mode and with tables of the input's choice.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::run_bytes(&interpret::Interpreter, data));

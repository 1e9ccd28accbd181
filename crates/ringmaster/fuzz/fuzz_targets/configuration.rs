//! Any command line is a command or one sentence.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ringmaster::cli::harness::command_line(bytes));

//! Bytes as a program, in a mode and with tables of the input's choice.

#![no_main]
#![allow(dead_code, reason = "the test of the same harness uses the rest")]

#[path = "../../tests/hostile/board.rs"]
mod board;
#[path = "../../tests/hostile/dice.rs"]
mod dice;
#[path = "../../tests/hostile/harness.rs"]
mod harness;
#[path = "../../tests/hostile/program.rs"]
mod program;
#[path = "../../tests/hostile/world.rs"]
mod world;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::run_bytes(data));

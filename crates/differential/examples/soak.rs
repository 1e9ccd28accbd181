//! Compares the interpreter with the processor for as long as one likes.
//!
//! `cargo run --release -p ringmaster-differential --example soak -- --seconds N --seed S`

#![allow(clippy::print_stdout, reason = "its output is the report")]

use std::collections::HashSet;
use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use differential::{Bench, Generator, Variant, Verdict, modes};
use interpret::Interpreter;

/// Different failures, told apart by their last instruction, after which it
/// gives up.
const ENOUGH: usize = 200;

fn number(name: &str, default: u64) -> Result<u64, Box<dyn Error>> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().map_or(Ok(default), |value| Ok(value.parse()?))
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let limit = Duration::from_secs(number("--seconds", 60)?);
    let first = number("--seed", 1)?;
    let only = number("--bits", 0)?;
    let mut bench = Bench::new(&Interpreter)?;
    let generator = Generator::new(bench.model());
    let modes = modes(&mut bench);
    let start = Instant::now();
    let mut failures = 0;
    let mut seen = HashSet::new();
    for seed in first.. {
        if start.elapsed() > limit || seen.len() == ENOUGH {
            break;
        }
        for &bits in modes.iter().filter(|bits| only == 0 || only == u64::from(bits.count())) {
            let case = generator.sequence(seed, bits);
            if let Verdict::Different(failure) = bench.check(&case, &Variant::ALL)? {
                let failure = bench.shrink(failure);
                let last = failure.case.instructions().last().map(|instruction| instruction.mnemonic());
                failures += 1;
                if seen.insert(last) {
                    println!("seed {seed}: {failure}\n");
                }
            }
        }
    }
    println!("{}; {failures} differences", bench.counts);
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

//! Compares an engine with the processor for as long as one likes.
//!
//! `cargo run --release -p ringmaster-differential --example soak -- --engine translate
//! --seconds N --seed S --instructions I`
//!
//! `--engine` is `interpret`, `translate`, `unchained` or `single` (the last
//! two: blocks that do not go on to others, and of one instruction each).

#![allow(clippy::print_stdout, reason = "its output is the report")]

use std::collections::HashSet;
use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use differential::{Bench, Case, Generator, Variant, Verdict, modes};
use engine::Engine;
use interpret::Interpreter;
use translate::{Options, Translator};

/// Different failures, told apart by their last instruction, after which it
/// gives up.
const ENOUGH: usize = 200;
/// Of so many seeds one is run with an interrupt at each boundary.
const INTERRUPTED: u64 = 32;

fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}

fn number(name: &str, default: u64) -> Result<u64, Box<dyn Error>> {
    argument(name).map_or(Ok(default), |value| Ok(value.parse()?))
}

fn engine() -> Result<Box<dyn Engine>, Box<dyn Error>> {
    let options = Options::default();
    Ok(match argument("--engine").as_deref() {
        None | Some("interpret") => Box::new(Interpreter),
        Some("translate") => Box::new(Translator::with(options)),
        Some("unchained") => Box::new(Translator::with(Options { chain: false, ..options })),
        Some("single") => Box::new(Translator::with(Options { max_block: 1, ..options })),
        Some(other) => return Err(format!("there is no engine {other}").into()),
    })
}

/// How `case` is run.
fn variants(seed: u64, case: &Case) -> Vec<Variant> {
    let mut variants = Variant::ALL.to_vec();
    if seed.is_multiple_of(INTERRUPTED) {
        variants.extend(Variant::at_each_boundary(case));
    }
    variants
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let limit = Duration::from_secs(number("--seconds", 60)?);
    let enough = number("--instructions", u64::MAX)?;
    let first = number("--seed", 1)?;
    let only = number("--bits", 0)?;
    let mut bench = Bench::new(&*engine()?)?;
    let generator = Generator::new(bench.model());
    let modes = modes(&mut bench);
    let start = Instant::now();
    let mut failures = 0;
    let mut seen = HashSet::new();
    for seed in first.. {
        if start.elapsed() > limit || bench.counts.instructions >= enough || seen.len() == ENOUGH {
            break;
        }
        for &bits in modes.iter().filter(|bits| only == 0 || only == u64::from(bits.count())) {
            for case in [generator.sequence(seed, bits), generator.self_modifying(seed, bits)] {
                if let Verdict::Different(failure) = bench.check(&case, &variants(seed, &case))? {
                    let failure = bench.shrink(failure);
                    let last = failure.case.instructions().last().map(|instruction| instruction.mnemonic());
                    failures += 1;
                    if seen.insert(last) {
                        println!("seed {seed}: {failure}\n");
                    }
                }
            }
        }
    }
    println!("{}; {failures} differences", bench.counts);
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

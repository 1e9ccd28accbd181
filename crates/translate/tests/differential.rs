//! The translator beside the host's processor: fixed seeds. A failure prints
//! the row that commits it to the table of regressions.

use differential::{Bench, Bits, Failure, Generator, REGRESSIONS, Variant, Verdict, modes};
use translate::Translator;

/// Failures that are shrunk and shown; the rest is only counted.
const SHOWN: usize = 12;

/// A bench with what it has found.
struct Run {
    bench: Bench,
    generator: Generator,
    failures: Vec<Failure>,
}

impl Run {
    fn new() -> Self {
        let bench = Bench::new(&Translator::default()).expect("the host runs a sandboxed child");
        let generator = Generator::new(bench.model());
        Self { bench, generator, failures: Vec::new() }
    }

    fn modes(&mut self) -> Vec<Bits> {
        modes(&mut self.bench)
    }

    fn check(&mut self, case: &differential::Case, variants: &[Variant]) {
        let verdict = self.bench.check(case, variants).expect("the sandbox stays usable");
        if let Verdict::Different(failure) = verdict {
            let failure = if self.failures.len() < SHOWN { self.bench.shrink(failure) } else { failure };
            self.failures.push(failure);
        }
    }

    fn sequences(&mut self, seeds: std::ops::Range<u64>, bits: Bits, variants: &[Variant]) {
        for seed in seeds {
            let case = self.generator.sequence(seed, bits);
            self.check(&case, variants);
        }
    }

    /// Fails the test if anything differed, or if little was compared.
    fn finish(self) {
        let counts = &self.bench.counts;
        eprintln!("{counts}");
        let shown: Vec<String> = self.failures.iter().take(SHOWN).map(ToString::to_string).collect();
        assert!(shown.is_empty(), "{} differences:\n{}", self.failures.len(), shown.join("\n\n"));
        assert!(counts.inconclusive * 20 <= counts.same, "too much is inconclusive: {counts}");
    }
}

#[test]
fn what_was_once_wrong_stays_right() {
    let mut run = Run::new();
    let modes = run.modes();
    for row in REGRESSIONS {
        let case = row.case().expect("a row is well formed");
        if modes.contains(&case.bits) {
            run.check(&case, &Variant::ALL);
        }
    }
    run.finish();
}

#[test]
fn every_form_does_what_the_processor_does() {
    let mut run = Run::new();
    for bits in run.modes() {
        let forms: Vec<_> = run.generator.forms(bits).all().collect();
        for (seed, code) in (0..).zip(forms) {
            for (round, memory) in [(0, true), (1, true), (2, true), (0, false)] {
                let case = run.generator.single(code, seed * 4 + round, bits, memory);
                if let Some(case) = case {
                    run.check(&case, &[Variant::Whole]);
                }
            }
        }
    }
    run.finish();
}

#[test]
fn sequences_of_64_bit_code_agree() {
    let mut run = Run::new();
    run.sequences(0..20_000, Bits::B64, &[Variant::Whole]);
    run.finish();
}

#[test]
fn sequences_of_32_bit_code_agree() {
    let mut run = Run::new();
    if run.modes().contains(&Bits::B32) {
        run.sequences(0..10_000, Bits::B32, &[Variant::Whole]);
    }
    run.finish();
}

#[test]
fn interrupts_at_every_boundary_and_devices_behind_data_change_nothing() {
    let mut run = Run::new();
    for bits in run.modes() {
        run.sequences(1_000_000..1_002_000, bits, &[Variant::Stepped, Variant::Interrupted, Variant::Mmio]);
    }
    run.finish();
}

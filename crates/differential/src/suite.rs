//! The tests that every engine passes: fixed seeds. A failure prints the row
//! that commits it to the table of regressions.

use std::ops::Range;

use engine::Engine;

use crate::{Bench, Bits, Case, Failure, Generator, REGRESSIONS, TELLING, Variant, Verdict, modes};

/// Failures that are shrunk and shown; the rest is only counted.
const SHOWN: usize = 12;
/// Sequences of each test.
const SEQUENCES: u64 = 8_000;
const SELF_MODIFYING: u64 = 1_500;
const INTERRUPTED: u64 = 200;

/// An engine beside the host's processor, with what has been found.
pub struct Suite {
    bench: Bench,
    generator: Generator,
    /// Where its seeds begin.
    first: u64,
    failures: Vec<Failure>,
}

impl Suite {
    /// Tests of `engine`; another `part` draws other sequences.
    ///
    /// # Panics
    /// If the host does not run a sandboxed child, or the engine refuses.
    pub fn new(engine: &dyn Engine, part: u64) -> Self {
        let bench = Bench::new(engine).expect("the host runs a sandboxed child");
        let generator = Generator::new(bench.model());
        Self { bench, generator, first: part * 10_000_000, failures: Vec::new() }
    }

    fn modes(&mut self) -> Vec<Bits> {
        modes(&mut self.bench)
    }

    fn check(&mut self, case: &Case, variants: &[Variant]) {
        let verdict = self.bench.check(case, variants).expect("the sandbox stays usable");
        if let Verdict::Different(failure) = verdict {
            let failure = if self.failures.len() < SHOWN { self.bench.shrink(failure) } else { failure };
            self.failures.push(failure);
        }
    }

    fn seeds(&self, from: u64, count: u64) -> Range<u64> {
        self.first + from..self.first + from + count
    }

    /// What was once wrong stays right.
    ///
    /// # Panics
    /// If anything differs.
    pub fn regressions(mut self) {
        let modes = self.modes();
        for row in TELLING.iter().map(|telling| &telling.row).chain(REGRESSIONS) {
            let case = row.case().expect("a row is well formed");
            if modes.contains(&case.bits) {
                self.check(&case, &Variant::ALL);
            }
        }
        self.finish();
    }

    /// Every instruction form does what the processor does.
    ///
    /// # Panics
    /// If anything differs.
    pub fn forms(mut self) {
        for bits in self.modes() {
            let forms: Vec<_> = self.generator.forms(bits).all().collect();
            for (seed, code) in (self.first..).zip(forms) {
                for (round, memory) in [(0, true), (1, true), (2, true), (0, false)] {
                    let case = self.generator.single(code, seed * 4 + round, bits, memory);
                    if let Some(case) = case {
                        self.check(&case, &[Variant::Whole]);
                    }
                }
            }
        }
        self.finish();
    }

    /// Sequences agree.
    ///
    /// # Panics
    /// If anything differs.
    pub fn sequences(mut self, bits: Bits) {
        if self.modes().contains(&bits) {
            for seed in self.seeds(0, SEQUENCES) {
                let case = self.generator.sequence(seed, bits);
                self.check(&case, &[Variant::Whole]);
            }
        }
        self.finish();
    }

    /// Sequences that change themselves agree.
    ///
    /// # Panics
    /// If anything differs.
    pub fn self_modifying(mut self) {
        for bits in self.modes() {
            for seed in self.seeds(2_000_000, SELF_MODIFYING) {
                let case = self.generator.self_modifying(seed, bits);
                self.check(&case, &[Variant::Whole, Variant::Mmio]);
            }
        }
        self.finish();
    }

    /// Neither interrupts at every boundary nor devices behind data change
    /// anything.
    ///
    /// # Panics
    /// If anything differs.
    pub fn interrupts_and_devices(mut self) {
        for bits in self.modes() {
            for seed in self.seeds(1_000_000, INTERRUPTED) {
                for case in [self.generator.sequence(seed, bits), self.generator.self_modifying(seed, bits)] {
                    self.check(&case, &[Variant::Stepped, Variant::Interrupted, Variant::Mmio]);
                    self.check(&case, &Variant::at_each_boundary(&case));
                }
            }
        }
        self.finish();
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

/// The tests of [`Suite`] for an engine, each with a name of its own.
#[macro_export]
macro_rules! suite {
    ($engine:expr, $part:expr) => {
        #[test]
        fn what_was_once_wrong_stays_right() {
            $crate::Suite::new(&$engine, $part).regressions();
        }

        #[test]
        fn every_form_does_what_the_processor_does() {
            $crate::Suite::new(&$engine, $part).forms();
        }

        #[test]
        fn sequences_of_64_bit_code_agree() {
            $crate::Suite::new(&$engine, $part).sequences($crate::Bits::B64);
        }

        #[test]
        fn sequences_of_32_bit_code_agree() {
            $crate::Suite::new(&$engine, $part).sequences($crate::Bits::B32);
        }

        #[test]
        fn sequences_that_change_themselves_agree() {
            $crate::Suite::new(&$engine, $part).self_modifying();
        }

        #[test]
        fn interrupts_at_every_boundary_and_devices_behind_data_change_nothing() {
            $crate::Suite::new(&$engine, $part).interrupts_and_devices();
        }
    };
}

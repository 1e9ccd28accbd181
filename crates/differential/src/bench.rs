//! Processor and engine side by side.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use engine::Engine;
use x86::cpuid::{CpuidModel, Habits};

use crate::case::Case;
use crate::guest::{Guest, Variant};
use crate::habits::TELLING;
use crate::host::host_model;
use crate::native::Native;
use crate::outcome::{Comparison, Event, Exempt, Outcome};
use crate::state::Bits;
use crate::{shrink, trace};

/// What a case shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The engine does what the processor does.
    Same,
    /// The manual leaves the end open, or the case got out of bounds.
    Inconclusive,
    /// It does not.
    Different(Failure),
}

/// A case in which engine and processor differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The case.
    pub case: Case,
    /// How the engine ran it.
    pub variant: Variant,
    /// The differences, in words.
    pub differences: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let case = &self.case;
        writeln!(f, "{:?}-bit code, run {:?}:", case.bits.count(), self.variant)?;
        f.write_str(&case.listing())?;
        for difference in &self.differences {
            writeln!(f, "  {difference}")?;
        }
        write!(
            f,
            "  row: Row {{ bits: {:?}, seed: {:#x}, plain: {}, at: {:#x}, code: \"{}\", why: \"\" }},",
            case.bits,
            case.seed,
            case.plain.0,
            case.at,
            case.hex()
        )
    }
}

/// What a campaign has seen.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Cases run natively.
    pub cases: u64,
    /// Instructions in these.
    pub instructions: u64,
    /// Runs by the engine that ended as they should.
    pub same: u64,
    /// Runs that prove nothing.
    pub inconclusive: u64,
    /// How the cases ended natively, by vector; 256 is anything else.
    pub ends: BTreeMap<u16, u64>,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cases of {} instructions, {} runs alike, {} inconclusive; ends by vector:",
            self.cases, self.instructions, self.same, self.inconclusive
        )?;
        self.ends.iter().try_for_each(|(vector, count)| write!(f, " {vector}:{count}"))
    }
}

/// The processor and one engine.
pub struct Bench {
    native: Native,
    guest: Guest,
    model: Arc<CpuidModel>,
    /// What has been seen so far.
    pub counts: Counts,
}

impl Bench {
    /// `engine` beside the host's processor, whose habits it has.
    ///
    /// # Errors
    /// If the host refuses what either side needs.
    pub fn new(engine: &dyn Engine) -> Result<Self, Box<dyn Error>> {
        let model = Arc::new(host_model());
        let native = Native::new(&model)?;
        let guest = Guest::new(engine, &model)?;
        let mut bench = Self { native, guest, model, counts: Counts::default() };
        bench.learn_habits(engine)?;
        bench.counts = Counts::default();
        Ok(bench)
    }

    /// Where the host's processor has other habits than its family is known
    /// for, the guest gets them, and it is told.
    fn learn_habits(&mut self, engine: &dyn Engine) -> Result<(), Box<dyn Error>> {
        let modes = modes(self);
        for telling in TELLING {
            let case = telling.row.case().ok_or("a row is misspelt")?;
            if !modes.contains(&case.bits) || self.agrees(&case)? {
                continue;
            }
            let known = self.model.habits();
            self.set_habits(engine, known.toggled(telling.habit))?;
            if self.agrees(&case)? {
                eprintln!("{:?} is not with this processor as with its family", telling.habit);
            } else {
                self.set_habits(engine, known)?;
            }
        }
        Ok(())
    }

    fn agrees(&mut self, case: &Case) -> Result<bool, Box<dyn Error>> {
        Ok(self.check(case, &[Variant::Whole])? == Verdict::Same)
    }

    /// Makes the guest anew, with other habits.
    pub(crate) fn set_habits(&mut self, engine: &dyn Engine, habits: Habits) -> Result<(), Box<dyn Error>> {
        self.model = Arc::new(CpuidModel::clone(&self.model).with_habits(habits));
        self.guest = Guest::new(engine, &self.model)?;
        Ok(())
    }

    /// The processor model that both sides have.
    pub fn model(&self) -> &CpuidModel {
        &self.model
    }

    /// Whether 32-bit code can be compared.
    pub fn runs_32_bit_code(&mut self) -> bool {
        self.native.runs_32_bit_code()
    }

    /// Runs `case` natively and by the engine in every one of `variants`, until
    /// one differs.
    ///
    /// # Errors
    /// If the sandbox cannot be made.
    pub fn check(&mut self, case: &Case, variants: &[Variant]) -> Result<Verdict, Box<dyn Error>> {
        let native = self.native.run(case)?;
        self.counts.cases += 1;
        self.counts.instructions += case.instructions().len() as u64;
        let end = match native.event {
            Event::Exception { vector, .. } => vector.into(),
            _ => 256,
        };
        *self.counts.ends.entry(end).or_default() += 1;
        if matches!(native.event, Event::Endless | Event::Escape) {
            self.counts.inconclusive += variants.len() as u64;
            return Ok(Verdict::Inconclusive);
        }
        let mut verdict = Verdict::Same;
        for &variant in variants {
            match self.compare(case, &native, variant) {
                Verdict::Same => self.counts.same += 1,
                Verdict::Inconclusive => {
                    self.counts.inconclusive += 1;
                    verdict = Verdict::Inconclusive;
                }
                different => return Ok(different),
            }
        }
        Ok(verdict)
    }

    fn compare(&mut self, case: &Case, native: &Outcome, variant: Variant) -> Verdict {
        let comparison = Comparison { bits: case.bits, xcr0: self.native.xcr0() };
        let guest = self.guest.run(case, variant);
        if comparison.differences(native, &guest, &Exempt::default()).is_empty() {
            return Verdict::Same;
        }
        let Some(exempt) = trace::exempt(&mut self.guest, case, &self.model, variant) else {
            return Verdict::Inconclusive;
        };
        let guest = self.guest.run(case, variant);
        let differences = comparison.differences(native, &guest, &exempt);
        if differences.is_empty() {
            return Verdict::Same;
        }
        Verdict::Different(Failure { case: case.clone(), variant, differences })
    }

    /// The smallest case that still fails as `failure` does.
    pub fn shrink(&mut self, failure: Failure) -> Failure {
        let mut smallest = failure;
        shrink::shrink(smallest.case.clone(), |case| match self.check(case, &[smallest.variant]) {
            Ok(Verdict::Different(smaller)) => {
                smallest = smaller;
                true
            }
            _ => false,
        });
        smallest
    }
}

/// The modes that the bench can compare.
pub fn modes(bench: &mut Bench) -> Vec<Bits> {
    if bench.runs_32_bit_code() { vec![Bits::B64, Bits::B32] } else { vec![Bits::B64] }
}

#[cfg(test)]
mod tests {
    use interpret::Interpreter;
    use x86::cpuid::{Feature, Habit};

    use super::*;

    fn can_be_told(habit: Habit, model: &CpuidModel) -> bool {
        match habit {
            Habit::ChecksMaskedElements | Habit::IgnoresEvexFields => model.has(Feature::Avx512f),
            Habit::WrapsMaskedMoves => {
                model.has(Feature::Avx) && model.has_habit(Habit::ChecksMaskedElements)
            }
            _ => true,
        }
    }

    #[test]
    fn each_habit_is_told_by_its_case_and_learnt_from_the_processor() {
        let mut bench = Bench::new(&Interpreter).unwrap();
        let host = bench.model.habits();
        for telling in TELLING {
            let case = telling.row.case().unwrap();
            let runs = modes(&mut bench).contains(&case.bits);
            if !runs || !can_be_told(telling.habit, &bench.model) {
                eprintln!("skipped: this host cannot tell {:?}", telling.habit);
                continue;
            }
            bench.set_habits(&Interpreter, host.toggled(telling.habit)).unwrap();
            assert!(!bench.agrees(&case).unwrap(), "{:?}", telling.habit);
            bench.learn_habits(&Interpreter).unwrap();
            assert_eq!(bench.model.habits(), host, "{:?}", telling.habit);
        }
    }
}

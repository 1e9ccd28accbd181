//! The report: one line for each check, what was seen, and the verdict.

use core::fmt::{self, Write};

use crate::console::println;
use crate::probe::{Case, Expect, Facts, Field, Outcome, Probe};
use crate::run::{self, Place};

/// Width of the column that says what was seen.
const SEEN_WIDTH: usize = 44;
/// A fragment's code is shorter than this; a fault elsewhere is not its own.
const FRAGMENT_LENGTH: u64 = 128;

/// The count of checks so far, and the mode and ring of the current lines.
pub struct Report {
    checks: u32,
    failures: u32,
    context: &'static str,
}

impl Report {
    /// Nothing checked yet.
    pub const fn new() -> Self {
        Self { checks: 0, failures: 0, context: "" }
    }

    /// Sets the mode and ring that the following lines name.
    pub fn context(&mut self, context: &'static str) {
        self.context = context;
    }

    /// Runs one ring's cases of a table in long mode and judges each.
    pub fn run(&mut self, place: Place, probes: &[Probe], facts: &Facts) {
        self.context = match place {
            Place::Ring0 => "64-bit ring 0",
            Place::Ring3 => "64-bit ring 3",
            Place::Ring3Iopl3 => "64-bit ring 3, IOPL 3",
            Place::Compatibility => "32-bit compat ring 3",
        };
        for probe in probes {
            let case = if place == Place::Ring0 { probe.ring0 } else { probe.ring3 };
            if let Some(case) = case {
                let outcome = run::run(case.code, place);
                self.judge(probe, &case, &outcome, facts);
            }
        }
    }

    /// Judges results that the runner of an earlier mode left.
    pub fn recorded(&mut self, ring: u8, probes: &[Probe], outcomes: &[Outcome], facts: &Facts) {
        for (probe, outcome) in probes.iter().zip(outcomes) {
            let case = if ring == 0 { probe.ring0 } else { probe.ring3 };
            if let Some(case) = case {
                self.judge(probe, &case, outcome, facts);
            }
        }
    }

    fn judge(&mut self, probe: &Probe, case: &Case, outcome: &Outcome, facts: &Facts) {
        let expect = (case.expect)(facts);
        let mut seen = Text::new();
        // A Text swallows what does not fit; it never fails.
        let _ = seen_by(&mut seen, &expect, outcome);
        let good = matches(&expect, outcome, case.code as *const () as u64);
        self.line(probe.number, probe.name, &seen, good, |wanted| wanted_text(wanted, &expect));
    }

    /// A check made by Rust code: named values and what they must be.
    pub fn verify(&mut self, name: &str, values: &[(Field, u64)]) {
        let (mut seen, mut good) = (Text::new(), true);
        for ((name, want), value) in values {
            let _ = write!(seen, "{name}={value:x} ");
            good &= want.accepts(*value);
        }
        self.line(0, name, &seen, good, |wanted| {
            values.iter().try_for_each(|((name, want), _)| write!(wanted, "{name}={:x} ", want.wanted()))
        });
    }

    fn line(
        &mut self,
        number: u8,
        name: &str,
        seen: &Text,
        good: bool,
        wanted: impl Fn(&mut Text) -> fmt::Result,
    ) {
        self.checks += 1;
        let mut label = Text::new();
        let _ = match number {
            0 => write!(label, "--"),
            n => write!(label, "{n:2}"),
        };
        let (context, label, seen) = (self.context, label.as_str(), seen.as_str());
        if good {
            println!("{context:<22} {label} {name:<25} {seen:<SEEN_WIDTH$} as on hardware");
        } else {
            self.failures += 1;
            let mut text = Text::new();
            let _ = wanted(&mut text);
            let wanted = text.as_str();
            println!("{context:<22} {label} {name:<25} {seen:<SEEN_WIDTH$} FAIL: expected {wanted}");
        }
    }

    /// Prints the sum; the number of failures.
    pub fn finish(&self) -> u32 {
        println!(
            "{} checks, {} as on hardware, {} differ",
            self.checks,
            self.checks - self.failures,
            self.failures
        );
        self.failures
    }
}

/// Whether the outcome is what was expected. `code` is the fragment's address as linked.
fn matches(expect: &Expect, outcome: &Outcome, code: u64) -> bool {
    let inside = |ip: u64| ip.wrapping_sub(code) < FRAGMENT_LENGTH;
    match *expect {
        Expect::Sees(fields) => {
            outcome.vector == Outcome::NO_FAULT
                && fields.iter().zip(outcome.values).all(|((_, want), value)| want.accepts(value))
        }
        Expect::Fault(vector, error) => {
            outcome.vector == u64::from(vector)
                && outcome.error == u64::from(error)
                && (inside(outcome.ip) || outcome.ip < 0x1_0000)
        }
        Expect::PageFault(error, address) => {
            outcome.vector == 14 && outcome.error == u64::from(error) && outcome.cr2 == address
        }
    }
}

/// What was seen: the fault, or the named values.
fn seen_by(text: &mut Text, expect: &Expect, outcome: &Outcome) -> fmt::Result {
    if outcome.vector != Outcome::NO_FAULT {
        fault_text(text, outcome.vector, outcome.error)?;
        if outcome.vector == 14 {
            write!(text, " at {:x}", outcome.cr2)?;
        }
        return Ok(());
    }
    match expect {
        Expect::Sees(fields) => fields
            .iter()
            .zip(outcome.values)
            .filter(|((name, _), _)| !name.is_empty())
            .try_for_each(|((name, _), value)| write!(text, "{name}={value:x} ")),
        _ => write!(text, "no fault"),
    }
}

/// What should have been seen.
fn wanted_text(text: &mut Text, expect: &Expect) -> fmt::Result {
    match *expect {
        Expect::Sees(fields) => fields
            .iter()
            .filter(|(name, _)| !name.is_empty())
            .try_for_each(|(name, want)| write!(text, "{name}={:x} ", want.wanted())),
        Expect::Fault(vector, error) => fault_text(text, vector.into(), error.into()),
        Expect::PageFault(error, address) => {
            fault_text(text, 14, error.into())?;
            write!(text, " at {address:x}")
        }
    }
}

/// An exception by its name, with its error code where it has one.
fn fault_text(text: &mut Text, vector: u64, error: u64) -> fmt::Result {
    const NAMES: [&str; 22] = [
        "DE", "DB", "NMI", "BP", "OF", "BR", "UD", "NM", "DF", "9", "TS", "NP", "SS", "GP", "PF", "15", "MF",
        "AC", "MC", "XM", "VE", "CP",
    ];
    match usize::try_from(vector).ok().and_then(|v| NAMES.get(v)) {
        Some(name) if matches!(vector, 8 | 10..=14 | 17 | 21) => write!(text, "#{name}({error:x})"),
        Some(name) => write!(text, "#{name}"),
        None => write!(text, "vector {vector}"),
    }
}

/// A line's worth of text; what does not fit is dropped.
pub struct Text {
    bytes: [u8; 96],
    length: usize,
}

impl Text {
    /// Empty.
    pub const fn new() -> Self {
        Self { bytes: [0; 96], length: 0 }
    }

    /// What was written, without blanks at its end.
    pub fn as_str(&self) -> &str {
        let text = self.bytes.get(..self.length).unwrap_or(&[]);
        core::str::from_utf8(text).unwrap_or("").trim_end()
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes().filter(u8::is_ascii) {
            if let Some(slot) = self.bytes.get_mut(self.length) {
                *slot = byte;
                self.length += 1;
            }
        }
        Ok(())
    }
}

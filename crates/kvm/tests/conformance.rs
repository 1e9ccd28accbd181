//! Every guest of the conformance kit under KVM, each a test of its own.
//! `cargo test -p ringmaster-kvm --test conformance -- paging` runs those of
//! one topic.

use std::process::ExitCode;
use std::sync::Arc;

use conformance::{Guest, Outcome};
use engine::Engine;
use kvm::Kvm;
use libtest_mimic::{Arguments, Failed, Trial};
use x86::cpuid::{CpuidConfig, CpuidModel, CpuidResult, Feature};

fn host_cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let answer = std::arch::x86_64::__cpuid_count(leaf, subleaf);
    CpuidResult::new(answer.eax, answer.ebx, answer.ecx, answer.edx)
}

/// Names a file of guests that the test bed itself, an emulated processor, gets
/// wrong: one a line, with the reason behind it. They are left out with it.
const TEST_BED_FAULTS: &str = "TEST_BED_FAULTS";

fn test_bed_faults() -> Vec<(String, String)> {
    let Ok(path) = std::env::var(TEST_BED_FAULTS) else { return Vec::new() };
    let text = std::fs::read_to_string(&path).expect("the file of the test bed's faults is there");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let fault = |line: &str| {
        let (name, why) = line.split_once(' ')?;
        Some((name.to_owned(), format!("the test bed: {}", why.trim())))
    };
    lines.filter_map(fault).collect()
}

/// Passes, fails with every difference on a line, or is marked as left out
/// with the reason in its kind.
fn trial(guest: Guest, engine: &Arc<Kvm>, model: &Arc<CpuidModel>, faults: &[(String, String)]) -> Trial {
    let (engine, model) = (Arc::clone(engine), Arc::clone(model));
    let (name, doc) = (guest.name.clone(), guest.doc.clone());
    let fault = faults.iter().find(|(name, _)| *name == guest.name).map(|(_, why)| why.clone());
    let excluded = conformance::excluded(engine.as_ref(), &model, &guest).or(fault);
    let test = Trial::test(name, move || match conformance::run(engine.as_ref(), &model, &guest) {
        Outcome::Passed => Ok(()),
        Outcome::Lacks(reason) => Err(Failed::from(reason)),
        Outcome::Failed(differences) => Err(Failed::from(format!("{doc}\n  {}", differences.join("\n  ")))),
    });
    match excluded {
        Some(reason) => test.with_kind(reason).with_ignored_flag(true),
        None => test,
    }
}

fn main() -> ExitCode {
    let engine = match Kvm::new() {
        Ok(engine) => Arc::new(engine),
        Err(error) => {
            eprintln!("skipped: {error}");
            return ExitCode::SUCCESS;
        }
    };
    let limits = engine.capabilities().processor;
    let without: Vec<Feature> = limits.without.iter().collect();
    // Everything that can be offered is, to be tried.
    let model = Arc::new(CpuidModel::new(CpuidConfig {
        enable: &[Feature::Vme],
        disable: &without,
        phys_bits: limits.phys_bits.min(46),
        ..CpuidConfig::new(&host_cpuid, 1_000_000_000)
    }));
    let faults = test_bed_faults();
    let tests =
        conformance::catalogue().into_iter().map(|guest| trial(guest, &engine, &model, &faults)).collect();
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

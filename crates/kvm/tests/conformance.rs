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

/// Passes, fails with every difference on a line, or is marked as left out
/// with the reason in its kind.
fn trial(guest: Guest, engine: &Arc<Kvm>, model: &Arc<CpuidModel>) -> Trial {
    let (engine, model) = (Arc::clone(engine), Arc::clone(model));
    let (name, doc) = (guest.name.clone(), guest.doc.clone());
    let excluded = conformance::excluded(engine.as_ref(), &model, &guest);
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
            println!("skipped: {error}");
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
    let tests = conformance::catalogue().into_iter().map(|guest| trial(guest, &engine, &model)).collect();
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

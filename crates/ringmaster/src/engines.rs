//! Which engines this host can use, and which one a run gets.

use serde::Serialize;

use engine::EngineKind;

use crate::cli::engine::EngineChoice;
use crate::exit::Failure;

/// What one engine can do here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EngineReport {
    /// The engine.
    pub name: EngineKind,
    /// Whether it can run a guest now, as fast as it should.
    pub usable: bool,
    /// Whether it runs a guest when asked for by name.
    pub possible: bool,
    /// Why, or why not, in half a sentence.
    pub reason: String,
}

/// An engine, and why it was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The engine.
    pub name: EngineKind,
    /// Why, for the line on standard error.
    pub why: String,
}

/// Every engine on this host, fastest first.
pub fn survey() -> Vec<EngineReport> {
    [EngineKind::Kvm, EngineKind::Translate, EngineKind::Interpret].map(report).into()
}

/// What is to be known before `choice` is made. Trying /dev/kvm takes time:
/// whoever names another engine does not wait for it.
pub fn survey_for(choice: EngineChoice) -> Vec<EngineReport> {
    choice.named().map_or_else(survey, |name| vec![report(name)])
}

fn report(name: EngineKind) -> EngineReport {
    match name {
        EngineKind::Kvm => kvm(),
        EngineKind::Translate => translate(),
        EngineKind::Interpret => EngineReport {
            name,
            usable: true,
            possible: true,
            reason: "needs nothing but this processor".to_owned(),
        },
    }
}

fn kvm() -> EngineReport {
    let kvm = kvm::survey();
    EngineReport {
        name: EngineKind::Kvm,
        usable: kvm.is_usable(),
        possible: kvm.is_possible(),
        reason: kvm.to_string(),
    }
}

fn translate() -> EngineReport {
    let (usable, reason) = match translate::Translator::probe() {
        Ok(()) => (true, "needs nothing but this processor".to_owned()),
        Err(missing) => (false, missing),
    };
    EngineReport { name: EngineKind::Translate, usable, possible: usable, reason }
}

/// Chooses the engine: the one that was named, or the first usable one.
pub fn choose(choice: EngineChoice, reports: &[EngineReport]) -> Result<Chosen, Failure> {
    if let Some(name) = choice.named() {
        return named(name, reports);
    }
    let Some(best) = reports.iter().find(|report| report.usable) else {
        return Err(Failure::host_lacks("no engine can run on this host"));
    };
    let passed_over: Vec<String> = reports
        .iter()
        .take_while(|report| report.name != best.name)
        .map(|report| format!("{}: {}", report.name, report.reason))
        .collect();
    let why = if passed_over.is_empty() {
        format!("the fastest on this host: {}", best.reason)
    } else {
        format!("chosen because {}", passed_over.join("; "))
    };
    Ok(Chosen { name: best.name, why })
}

/// A named engine is taken if it runs at all, and what is wrong with it is said.
fn named(name: EngineKind, reports: &[EngineReport]) -> Result<Chosen, Failure> {
    let report = reports.iter().find(|report| report.name == name);
    match report.filter(|report| report.possible && !report.usable) {
        Some(report) => Ok(Chosen { name, why: format!("as asked for, although {}", report.reason) }),
        None => {
            require(name, reports)?;
            Ok(Chosen { name, why: "as asked for".to_owned() })
        }
    }
}

/// Fails with status 3 unless the engine is usable.
pub fn require(name: EngineKind, reports: &[EngineReport]) -> Result<(), Failure> {
    match reports.iter().find(|report| report.name == name) {
        Some(report) if report.usable => Ok(()),
        Some(report) => Err(Failure::host_lacks(format!("engine {name} cannot be used: {}", report.reason))),
        None => Err(Failure::host_lacks(format!("engine {name} is unknown here"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: EngineKind, usable: bool) -> EngineReport {
        EngineReport { name, usable, possible: usable, reason: format!("{name} reason") }
    }

    fn reports() -> Vec<EngineReport> {
        vec![
            report(EngineKind::Kvm, false),
            report(EngineKind::Translate, true),
            report(EngineKind::Interpret, true),
        ]
    }

    #[test]
    fn auto_takes_the_first_usable_and_says_why() {
        let chosen = choose(EngineChoice::Auto, &reports()).unwrap();
        assert_eq!(chosen.name, EngineKind::Translate);
        assert_eq!(chosen.why, "chosen because kvm: kvm reason");
    }

    #[test]
    fn a_named_engine_is_never_replaced() {
        let failure = choose(EngineChoice::Kvm, &reports()).unwrap_err();
        assert_eq!(failure.status().code(), 3);
        assert_eq!(failure.report(), "engine kvm cannot be used: kvm reason");
        let chosen = choose(EngineChoice::Interpret, &reports()).unwrap();
        assert_eq!(chosen.name, EngineKind::Interpret);
    }

    #[test]
    fn a_slow_engine_runs_only_when_named() {
        let mut reports = reports();
        reports[0].possible = true;
        assert_eq!(choose(EngineChoice::Auto, &reports).unwrap().name, EngineKind::Translate);
        let chosen = choose(EngineChoice::Kvm, &reports).unwrap();
        assert_eq!(chosen.why, "as asked for, although kvm reason");
        assert_eq!(require(EngineKind::Kvm, &reports).unwrap_err().status().code(), 3);
    }

    #[test]
    fn a_named_engine_is_the_only_one_that_is_tried() {
        let reports = survey_for(EngineChoice::Interpret);
        assert_eq!(reports.iter().map(|report| report.name).collect::<Vec<_>>(), [EngineKind::Interpret]);
    }

    #[test]
    fn the_survey_always_has_the_interpreter() {
        assert!(require(EngineKind::Interpret, &survey()).is_ok());
    }
}

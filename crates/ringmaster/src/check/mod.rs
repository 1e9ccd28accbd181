//! `ringmaster check`: what this host offers, engine by engine, with reasons.

pub mod host;

use std::fmt::Write as _;

use clap::Args;
use engine::EngineKind;
use serde::Serialize;

use crate::cli::engine::EngineChoice;
use crate::engines::{self, EngineReport};
use crate::exit::{ExitStatus, Failure};
use crate::output;
use host::Host;

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Write JSON
    #[arg(long)]
    pub json: bool,
    /// Exit with status 3 unless this engine can be used
    #[arg(long, value_name = "ENGINE")]
    pub require: Option<EngineKind>,
}

/// The whole answer.
#[derive(Debug, Serialize)]
struct Report {
    engines: Vec<EngineReport>,
    /// What `--engine auto` takes.
    auto: Option<EngineKind>,
    host: Host,
}

/// Prints the report, then looks at what was required.
pub fn perform(args: &CheckArgs) -> Result<ExitStatus, Failure> {
    let engines = engines::survey();
    let auto = engines::choose(EngineChoice::Auto, &engines).ok();
    let report = Report { engines, auto: auto.map(|chosen| chosen.name), host: Host::read() };
    let text = if args.json {
        serde_json::to_string_pretty(&report)
            .map(|json| json + "\n")
            .map_err(|error| Failure::internal("cannot write the report").because(error))?
    } else {
        for_people(&report)
    };
    output::print(&text)?;
    if let Some(name) = args.require {
        engines::require(name, &report.engines)?;
    }
    Ok(ExitStatus::Success)
}

fn for_people(report: &Report) -> String {
    let mut text = String::from("Engines\n");
    for engine in &report.engines {
        let state = if engine.usable { "usable" } else { "not usable" };
        let _ = writeln!(text, "  {:<10} {state:<11} {}", engine.name, engine.reason);
    }
    if let Some(auto) = report.auto {
        let _ = writeln!(text, "  --engine auto takes {auto}");
    }
    let host = &report.host;
    text.push_str("Host\n");
    for (name, value) in host.facts() {
        let _ = writeln!(text, "  {name:<16} {value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_every_engine_and_fact() {
        let report =
            Report { engines: engines::survey(), auto: Some(EngineKind::Interpret), host: Host::read() };
        let text = for_people(&report);
        for word in ["kvm", "translate", "interpret", "auto takes", "Processor"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}

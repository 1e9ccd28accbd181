//! The benchmark: one program natively, in a guest of each engine, and in a
//! guest of QEMU's TCG, side by side.
//!
//! ```text
//! options ──▶ stage (workload built by gcc, Debian's kernel and programs)
//!               │
//!               ▼  every round, one after the other
//!             native · engines · TCG ──▶ watch (lines with the time they came)
//!               │
//!               ▼
//!             results (medians, ratios) ──▶ table, JSON, page
//! ```
//!
//! Guests get the same kernel, initial RAM disk, memory and one processor. The
//! engines are those of this very program: called by the name `ringmaster`, it
//! is Ringmaster.

mod contender;
mod options;
mod page;
mod results;
mod rounds;
mod rows;
mod stage;
mod table;
mod watch;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use options::Options;
use ringmaster::exit::{ExitStatus, Failure};
use ringmaster::output;

fn main() -> ExitCode {
    if std::env::args_os().next().is_some_and(|name| Path::new(&name).ends_with("ringmaster")) {
        return ringmaster::main().into();
    }
    match measure(&Options::parse()) {
        Ok(()) => ExitStatus::Success.into(),
        Err(failure) => {
            output::note(failure.report());
            failure.status().into()
        }
    }
}

fn measure(options: &Options) -> Result<(), Failure> {
    options.check()?;
    let (contenders, absent) = contender::present(options)?;
    let stage = stage::Stage::build()?;
    let results = rounds::run(options, &contenders, absent, &stage)?;
    let text = if options.json { results.json()? } else { table::markdown(&results) };
    output::print(&text)?;
    if options.bless {
        page::bless(&table::markdown(&results))?;
    }
    results.require_right()
}

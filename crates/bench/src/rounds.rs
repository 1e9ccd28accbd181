//! The rounds: every contender once in each, one after the other, so that a
//! host that becomes slower does so for all.

use ringmaster::exit::Failure;
use ringmaster::output;

use crate::contender::{Absent, Contender};
use crate::options::Options;
use crate::results::{Column, Results};
use crate::rows::BOOT;
use crate::stage::Stage;
use crate::watch::watch;

/// Runs all rounds.
pub(crate) fn run(
    options: &Options,
    contenders: &[Contender],
    absent: Vec<Absent>,
    stage: &Stage,
) -> Result<Results, Failure> {
    let rows = options.rows();
    let mut arguments = vec![options.milliseconds.to_string(), options.cpus.to_string()];
    arguments.extend(rows.iter().filter(|row| row.name != BOOT).map(|row| row.name.to_owned()));
    if arguments.len() == 2 {
        // No row but the boot: no name would mean all.
        arguments.push("none".to_owned());
    }
    let mut columns: Vec<Column> = contenders.iter().map(|one| Column::new(one.name())).collect();
    for round in 0..options.rounds {
        for (contender, column) in contenders.iter().zip(&mut columns) {
            if !contender.takes_part(round) {
                continue;
            }
            let once = || watch(contender.name(), contender.command(stage, options.cpus, &arguments));
            // QEMU's guests now and then miss their timer on a busy host.
            let run = once().or_else(|failure| {
                output::note(format_args!("{}; once more", failure.report()));
                once()
            })?;
            output::note(format_args!(
                "round {} of {}: {} in {:.1} s",
                round + 1,
                options.rounds,
                contender.name(),
                run.whole.as_secs_f64(),
            ));
            column.runs.push(run);
        }
    }
    Ok(Results { rows, columns, absent, kernel: stage.kernel_version.clone(), cpus: options.cpus })
}

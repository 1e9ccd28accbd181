//! The command line.

use clap::Parser;
use ringmaster::exit::Failure;

use crate::rows;

/// Measure native, Ringmaster's engines and QEMU's TCG side by side.
#[derive(Debug, Parser)]
#[command(name = "ringmaster-bench", version)]
pub(crate) struct Options {
    /// An engine to measure; may be given several times
    #[arg(long, value_name = "ENGINE", default_values_t = ["translate".to_owned(), "interpret".to_owned()])]
    pub engine: Vec<String>,
    /// Leave QEMU's TCG out
    #[arg(long)]
    pub no_qemu: bool,
    /// How often everything is measured; the interpreter at most three times
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// How long each row is repeated
    #[arg(long, value_name = "MS", default_value_t = 150, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub milliseconds: u32,
    /// Processors of each guest; natively, those of the row `parallel`
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=32))]
    pub cpus: u32,
    /// A row to measure, instead of all; may be given several times
    #[arg(long, value_name = "ROW")]
    pub only: Vec<String>,
    /// Another Ringmaster to measure instead of the one built into this program
    #[arg(long, value_name = "FILE")]
    pub ringmaster: Option<std::path::PathBuf>,
    /// Add to Ringmaster's options, as one word each
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub with: Vec<String>,
    /// Write JSON, with the result of every round
    #[arg(long)]
    pub json: bool,
    /// Also write the table into docs/performance.md
    #[arg(long, conflicts_with_all = ["only", "cpus"])]
    pub bless: bool,
}

impl Options {
    /// Refuses rows that there are not.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self.only.iter().find(|name| rows::of_name(name).is_none()) {
            None => Ok(()),
            Some(name) => {
                let names: Vec<&str> = rows::ALL.iter().map(|row| row.name).collect();
                Err(Failure::usage(format!("there is no row {name}; the rows are {}", names.join(", "))))
            }
        }
    }

    /// The rows to measure. On one processor [`rows::PARALLEL`] would be the
    /// sieve once more, so it must be asked for.
    pub(crate) fn rows(&self) -> Vec<&'static rows::Row> {
        let by_itself = |row: &rows::Row| self.cpus > 1 || row.name != rows::PARALLEL;
        let named = |row: &rows::Row| self.only.iter().any(|name| name == row.name);
        let wanted = |row: &&rows::Row| if self.only.is_empty() { by_itself(row) } else { named(row) };
        rows::ALL.iter().filter(wanted).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
        let options = Options::parse_from(["bench"]);
        assert_eq!(options.engine, ["translate", "interpret"]);
        assert_eq!(options.rows().len(), rows::ALL.len() - 1);
        for words in [["bench", "--cpus", "2"], ["bench", "--only", rows::PARALLEL]] {
            let rows = Options::parse_from(words).rows();
            assert!(rows.iter().any(|row| row.name == rows::PARALLEL));
        }
    }

    #[test]
    fn an_unknown_row_is_refused_with_the_names() {
        let failure = Options::parse_from(["bench", "--only", "x"]).check().unwrap_err();
        assert_eq!(failure.status().code(), 2);
        assert!(failure.report().contains("sieve"));
    }
}

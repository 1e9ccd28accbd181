//! The command line: one definition for parser, help, completions and manual.
//!
//! Each option's value is a type that parses itself in its own file.

pub mod code_cache;
pub mod console;
pub mod devices;
pub mod disk;
pub mod engine;
pub mod generate;
#[doc(hidden)]
pub mod harness;
pub mod memory;
pub mod net;
pub mod options;
pub mod protocol;
pub mod seconds;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};

use crate::exit::{ExitStatus, Failure};
use crate::{check, demo, fetch, inspect, run};

/// One virtual machine, three ways to run it.
#[derive(Debug, Parser)]
#[command(name = "ringmaster", version, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = false)]
#[command(after_help = generate::exit_status_help())]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot Debian Linux to a shell; the host's apt fetches it once
    Demo(Box<demo::DemoArgs>),
    /// Run a guest of your own
    Run(Box<run::RunArgs>),
    /// Say what this host offers, engine by engine, with reasons
    Check(check::CheckArgs),
    /// List the privileged and sensitive instructions in a kernel or binary
    Inspect(inspect::InspectArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell to complete for
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write every page into a folder
    Man {
        /// Write one page per command into this folder
        #[arg(long, value_name = "FOLDER")]
        output: Option<PathBuf>,
    },
    /// Fetch a file out of a Debian package and print its path
    #[command(hide = true)]
    Fetch(fetch::FetchArgs),
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Parsed {
    /// Help or version text for standard output.
    Print(String),
    /// A command to perform.
    Do(Command),
}

/// Parses the command line, the program's name first.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, Failure> {
    match Cli::try_parse_from(args) {
        Ok(cli) => Ok(Parsed::Do(cli.command)),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                Ok(Parsed::Print(error.render().to_string()))
            }
            ErrorKind::MissingSubcommand => {
                Err(Failure::usage("give a command: demo, run, check or inspect; see 'ringmaster --help'"))
            }
            _ => Err(Failure::usage(one_sentence(&error))),
        },
    }
}

/// Performs a command.
pub fn perform(command: Command) -> Result<ExitStatus, Failure> {
    match command {
        Command::Demo(args) => demo::perform(*args),
        Command::Run(args) => run::perform(*args),
        Command::Check(args) => check::perform(&args),
        Command::Inspect(args) => inspect::perform(&args),
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { output } => generate::manual(output.as_deref()),
        Command::Fetch(args) => fetch::perform(&args),
    }
}

/// Clap reports over several lines; its first paragraph is the sentence, the
/// rest are hints, of which we keep the near miss and the way to the help.
fn one_sentence(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = paragraph.split_whitespace().collect();
    let sentence = words.join(" ");
    let sentence = sentence.strip_prefix("error: ").unwrap_or(&sentence);
    let near = error
        .get(ContextKind::SuggestedArg)
        .or_else(|| error.get(ContextKind::SuggestedSubcommand))
        .or_else(|| error.get(ContextKind::SuggestedValue))
        .map(|value| format!(" (did you mean {value}?)"))
        .unwrap_or_default();
    format!("{sentence}{near}; see 'ringmaster --help'")
}

/// The definition itself, for the generators.
pub fn definition() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Parsed, Failure> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn the_definition_is_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn help_and_version_are_text_for_standard_output() {
        for flag in ["--help", "--version"] {
            assert!(matches!(
                parse_words(&["ringmaster", flag]),
                Ok(Parsed::Print(text)) if text.contains("ingmaster")
            ));
        }
    }

    #[test]
    fn bad_usage_is_one_sentence() {
        let failure = parse_words(&["ringmaster", "check", "--jsno"]).unwrap_err();
        assert_eq!(
            failure.report(),
            "unexpected argument '--jsno' found (did you mean --json?); see 'ringmaster --help'"
        );
        assert_eq!(failure.status(), ExitStatus::Usage);
    }

    #[test]
    fn a_missing_argument_is_named() {
        let failure = parse_words(&["ringmaster", "inspect"]).unwrap_err();
        assert!(failure.report().contains("<FILE>"), "{}", failure.report());
        let failure = parse_words(&["ringmaster"]).unwrap_err();
        assert!(failure.report().contains("demo, run"), "{}", failure.report());
    }
}

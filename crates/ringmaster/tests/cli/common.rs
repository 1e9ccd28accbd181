//! Running the program that cargo has just built.

use std::process::{Command, Output, Stdio};

/// The program with these arguments, standard input closed.
pub(crate) fn ringmaster(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmaster"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// What the program did.
pub(crate) fn run(arguments: &[&str]) -> Output {
    ringmaster(arguments).output().unwrap()
}

/// Standard output as text.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Fails unless the program ended with this status and one sentence, which
/// has these words in it, and printed nothing else but the engine's line.
pub(crate) fn assert_refused(output: &Output, status: i32, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    let sentences = said.lines().filter(|line| !line.starts_with("ringmaster: engine "));
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(said.starts_with("ringmaster: "), "{said}");
    assert_eq!(sentences.count(), 1, "one sentence: {said}");
    assert!(said.contains(words), "'{words}' in: {said}");
    assert!(output.stdout.is_empty());
}

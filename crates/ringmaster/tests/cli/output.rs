//! What goes to standard output: help, completions, manual, reports; and what
//! happens when nobody reads it.

use std::fs::File;
use std::io;

use crate::common::{assert_refused, ringmaster, run, stdout};

#[test]
fn help_and_version_succeed() {
    for arguments in [&["--help"][..], &["run", "--help"], &["help", "demo"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("Usage: ringmaster"));
    }
    let version = stdout(&run(&["--version"]));
    assert_eq!(version, format!("ringmaster {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_help_names_every_exit_status() {
    let help = stdout(&run(&["--help"]));
    for status in ["  0 ", "  1 ", "  2 ", "  3 ", "  4 ", "  5 ", "  124 "] {
        assert!(help.contains(status), "{status}");
    }
}

#[test]
fn completions_exist_for_every_shell_and_know_the_options() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&run(&["completions", shell]));
        assert!(script.contains("on-reset"), "{shell}");
    }
}

#[test]
fn the_manual_is_a_page_or_a_folder_of_pages() {
    let page = stdout(&run(&["man"]));
    assert!(page.contains(".TH") && page.contains("Exit status"), "{page}");
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    let output = run(&["man", "--output", pages.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    assert!(pages.join("ringmaster-run.1").exists());
    let output = run(&["man", "--output", "/proc/nowhere"]);
    assert_refused(&output, 1, "cannot write manual pages");
}

#[test]
fn check_answers_programs_and_people() {
    let report: serde_json::Value = serde_json::from_str(&stdout(&run(&["check", "--json"]))).unwrap();
    let engines = report["engines"].as_array().unwrap();
    assert_eq!(engines.len(), 3);
    for engine in engines {
        assert!(!engine["reason"].as_str().unwrap().is_empty());
    }
    assert_eq!(engines[2]["name"], "interpret");
    assert_eq!(engines[2]["usable"], true);
    assert!(report["host"]["cpus"].as_u64().unwrap() > 0);
    assert!(stdout(&run(&["check"])).contains("interpret  usable"));
}

#[test]
fn check_require_decides_the_status() {
    let output = run(&["check", "--require", "interpret"]);
    assert_eq!(output.status.code(), Some(0));
    for name in ["kvm", "translate", "interpret"] {
        let output = run(&["check", "--json", "--require", name]);
        let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        let engines = report["engines"].as_array().unwrap();
        let usable = engines.iter().any(|engine| engine["name"] == name && engine["usable"] == true);
        assert_eq!(output.status.code(), Some(if usable { 0 } else { 3 }), "{name}");
    }
}

#[test]
fn a_closed_reader_is_one_sentence_and_status_1() {
    for arguments in [&["--help"][..], &["check"], &["man"], &["completions", "bash"]] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = ringmaster(arguments).stdout(writer).output().unwrap();
        assert_refused(&output, 1, "standard output was closed");
    }
}

#[test]
fn a_full_device_is_one_sentence_and_status_1() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = ringmaster(&["check"]).stdout(full).output().unwrap();
    assert_refused(&output, 1, "No space left");
}

#[test]
fn a_closed_standard_error_does_not_change_the_status() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let status = ringmaster(&["frobnicate"]).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(2));
}

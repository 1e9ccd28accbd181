//! The terminal is given back on every way out.
//!
//! The test runs itself again, as a child on a pseudo terminal that script(1)
//! makes, and compares the terminal's settings before and after.

use std::env;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use ringmaster::terminal::{Event, Sink, Terminal, raw, restore_on_panic};

const ROLE: &str = "RINGMASTER_TEST_ROLE";

/// What the child does, by the variable; nothing in an ordinary test run.
#[test]
fn child() {
    let Ok(role) = env::var(ROLE) else { return };
    restore_on_panic();
    let (sender, receiver) = mpsc::channel();
    let sink: Sink = Arc::new(move |event| match sender.send(event) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    });
    let terminal = Terminal::start(true, sink).unwrap();
    assert!(raw::is_raw());
    eprint!("mode is {}\r\n", settings());
    match role.as_str() {
        "panic" => panic!("on purpose"),
        "signal" => signal_hook::low_level::raise(15).unwrap(),
        _ => {}
    }
    let mut typed = Vec::new();
    loop {
        match receiver.recv_timeout(Duration::from_secs(20)).unwrap() {
            Event::Input(bytes) => typed.extend(bytes),
            event => break eprint!("event {event:?} after {typed:?}\r\n"),
        }
    }
    drop(terminal);
    std::process::exit(0);
}

fn settings() -> String {
    let output = Command::new("stty").arg("-a").stdin(Stdio::inherit()).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    text.split_whitespace()
        .filter(|word| ["icanon", "-icanon", "echo", "-echo", "opost"].contains(word))
        .collect::<Vec<_>>()
        .join(",")
}

/// Everything that the terminal showed.
fn on_a_terminal(role: &str, keys: &[u8]) -> String {
    let this = env::current_exe().unwrap();
    let this = this.to_str().unwrap();
    let shell = format!(
        "stty -g | sed 's/^/before /'; '{this}' --exact terminal::child --nocapture; stty -g | sed 's/^/after /'"
    );
    let mut script = Command::new("script")
        .args(["-qec", &shell, "/dev/null"])
        .env(ROLE, role)
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = script.stdin.take().unwrap();
    let mut stdout = script.stdout.take().unwrap();
    // Keys that come before the terminal is taken are the shell's, not ours.
    let mut shown = Vec::new();
    while !String::from_utf8_lossy(&shown).contains("mode is") {
        let mut byte = [0];
        assert_eq!(stdout.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&shown));
        shown.extend(byte);
    }
    stdin.write_all(keys).unwrap();
    stdout.read_to_end(&mut shown).unwrap();
    script.wait().unwrap();
    String::from_utf8_lossy(&shown).into_owned()
}

fn assert_given_back(shown: &str) {
    let line = |prefix: &str| {
        let found = shown.lines().find_map(|line| line.trim().strip_prefix(prefix));
        found.unwrap_or_else(|| panic!("{prefix}: {shown}")).to_owned()
    };
    assert_eq!(line("before "), line("after "), "{shown}");
    assert!(shown.contains("-icanon"), "it was raw: {shown}");
    assert!(shown.contains("opost"), "output is not raw: {shown}");
}

#[test]
fn ctrl_a_x_gives_the_terminal_back() {
    let shown = on_a_terminal("keys", b"ls\x01h\x01ax\x01x");
    assert_given_back(&shown);
    assert!(shown.contains("Ctrl-A h   this help"), "{shown}");
    // The pair Ctrl-A a arrives as Ctrl-A.
    assert!(shown.contains("event Leave after [108, 115, 1, 120]"), "{shown}");
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let shown = on_a_terminal("signal", b"");
    assert_given_back(&shown);
    assert!(shown.contains("event Signal(15)"), "{shown}");
}

#[test]
fn a_panic_gives_the_terminal_back() {
    let shown = on_a_terminal("panic", b"");
    assert_given_back(&shown);
    assert!(shown.contains("which is a bug worth reporting: on purpose"), "{shown}");
}

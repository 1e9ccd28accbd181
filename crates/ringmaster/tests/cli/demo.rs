//! The demo where Debian cannot be had. None of these needs a network.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use crate::common::{assert_refused, ringmaster};

/// A folder of programs that stand in for apt's.
fn programs(folder: &Path, apt_get: &str) -> String {
    let bin = folder.join("bin");
    fs::create_dir(&bin).unwrap();
    let path = bin.join("apt-get");
    fs::write(&path, format!("#!/bin/sh\n{apt_get}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    bin.to_str().unwrap().to_owned()
}

fn demo(path: &str, cache: &Path) -> Output {
    ringmaster(&["demo"]).env("PATH", path).env("XDG_CACHE_HOME", cache).output().unwrap()
}

fn last_line(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.lines().last().unwrap_or_default().to_owned()
}

/// Only the lock may stay.
fn assert_nothing_left(cache: &Path) {
    let left = fs::read_dir(cache.join("ringmaster")).unwrap();
    let names: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["lock"]);
}

#[test]
fn without_apt_the_embedded_guest_is_offered() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo("/nonexistent", folder.path());
    assert_eq!(output.status.code(), Some(3));
    let sentence = last_line(&output);
    assert!(sentence.contains("apt-get was not found"), "{sentence}");
    assert!(sentence.contains("demo --embedded"), "{sentence}");
    assert_nothing_left(folder.path());
}

#[test]
fn a_full_disk_under_apt_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path =
        programs(folder.path(), "echo 'E: Write error - write (28: No space left on device)' >&2; exit 100");
    let output = demo(&path, folder.path());
    assert_eq!(output.status.code(), Some(1));
    let sentence = last_line(&output);
    assert!(sentence.contains("not enough room"), "{sentence}");
    assert_nothing_left(folder.path());
}

#[test]
fn a_signal_while_fetching_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    // The stand-in asks its parent to stop, then waits like a slow mirror.
    let path = programs(folder.path(), "kill -TERM $PPID; exec /bin/sleep 600");
    let output = demo(&path, folder.path());
    assert_eq!(output.status.code(), Some(143));
    assert_eq!(last_line(&output), "ringmaster: stopped by SIGTERM");
    assert_nothing_left(folder.path());
}

#[test]
fn no_place_for_a_cache_is_one_sentence() {
    let nowhere = |home: Option<&str>| {
        let mut command = ringmaster(&["demo"]);
        command.env_remove("XDG_CACHE_HOME").env_remove("HOME");
        if let Some(home) = home {
            command.env("HOME", home);
        }
        command.output().unwrap()
    };
    assert_refused(&nowhere(None), 1, "set XDG_CACHE_HOME");
    assert_refused(&nowhere(Some("/proc/nowhere")), 1, "demo --embedded");
}

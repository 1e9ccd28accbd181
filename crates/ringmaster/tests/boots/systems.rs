//! The boot matrix: each system to its marker.

use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::{Failed, Trial};
use ringmaster::demo::cpio::Archive;

use crate::guests::{AMD64, Debian, I386, SEABIOS, engine, scratch};
use crate::process::Run;

/// A test that needs something which may not be had here.
pub(crate) fn needing<T: Sync + Send + 'static>(
    name: &str,
    needed: &'static Result<T, String>,
    test: impl FnOnce(&T) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    match needed {
        Ok(needed) => Trial::test(name, move || test(needed)),
        Err(reason) => {
            Trial::test(name, || Ok(())).with_kind(format!("left out: {reason}")).with_ignored_flag(true)
        }
    }
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        Trial::test("the_embedded_guest_sees_nothing_but_hardware", || embedded(&engine(), &[])),
        Trial::test("the_embedded_guest_does_not_see_the_interpreter_either", || embedded("interpret", &[])),
        Trial::test("the_embedded_guest_runs_in_the_smallest_code_cache", || {
            embedded("translate", &["--code-cache", "1M"])
        }),
        Trial::test("blocks_are_traced", blocks_are_traced),
        needing("debian_amd64_boots_to_its_shell", &AMD64, |debian| to_shell(debian, "x86_64")),
        needing("debian_i386_boots_to_its_shell", &I386, |debian| to_shell(debian, "i686")),
        needing("debian_amd64_boots_by_pvh", &AMD64, by_pvh),
        needing("debian_amd64_unpacks_itself", &AMD64, |debian| by_protocol(debian, "linux64")),
        needing("debian_i386_unpacks_itself", &I386, |debian| by_protocol(debian, "linux32")),
        needing("several_initrds_are_joined", &AMD64, several_initrds),
        needing("debian_amd64_boots_interpreted", &AMD64, interpreted),
        needing("debian_amd64_boots_in_the_smallest_code_cache", &AMD64, evicting),
        needing("seabios_reaches_its_boot_menu", &SEABIOS, |bios| seabios(bios, &engine())),
        needing("seabios_reaches_its_boot_menu_interpreted", &SEABIOS, |bios| seabios(bios, "interpret")),
    ]
}

fn embedded(engine: &str, options: &[&str]) -> Result<(), Failed> {
    let mut run = Run::start([&["demo", "--embedded", "--engine", engine][..], options].concat())?;
    run.finish_with(0)?;
    let engine = format!("engine {engine}");
    for line in [embedded_guest::SUCCESS_MARKER, embedded_guest::LAST_LINE, &engine] {
        if !run.said.contains(line) {
            return Err(run.complaint(&format!("never said {line:?}")));
        }
    }
    Ok(())
}

fn to_shell(debian: &Debian, machine: &str) -> Result<(), Failed> {
    let mut run = Run::start(debian.run("uname -m; poweroff -f"))?;
    run.wait_for("ringmaster: user space reached")?;
    run.wait_for(machine)?;
    run.finish_with(0)
}

/// Guest code and the host code made from it, side by side.
fn blocks_are_traced() -> Result<(), Failed> {
    let mut run = Run::start(["demo", "--embedded", "--engine", "translate", "--trace", "blocks"])?;
    run.finish_with(0)?;
    for words in ["block at 0x", ": push rbp", "| call exit_link", "| jrcxz block+0x"] {
        if !run.said.contains(words) {
            return Err(run.complaint(&format!("never said {words:?}")));
        }
    }
    Ok(())
}

fn interpreted(debian: &Debian) -> Result<(), Failed> {
    let mut args = debian.run("true");
    args.splice(1..3, ["--engine", "interpret"].map(str::to_owned));
    let mut run = Run::start(args)?;
    run.wait_for("ringmaster: user space reached")?;
    run.finish_with(0)
}

/// Its code is dropped and made anew many times, a part at a time.
fn evicting(debian: &Debian) -> Result<(), Failed> {
    let mut args = debian.run("uname -m; poweroff -f");
    args.splice(1..3, ["--engine", "translate", "--code-cache", "1M"].map(str::to_owned));
    args.push("--stats".to_owned());
    let mut run = Run::start(args)?;
    run.wait_for("ringmaster: user space reached")?;
    run.wait_for("x86_64")?;
    run.finish_with(0)?;
    let evicts = run.said.contains("blocks evicted");
    if evicts { Ok(()) } else { Err(run.complaint("made room for code without dropping any")) }
}

/// The kernel in the bzImage, unpacked, is an ELF file with a PVH entry.
fn by_pvh(debian: &Debian) -> Result<(), Failed> {
    let kernel = boot::payload::unpack(&fs::read(&debian.kernel)?, 1 << 30)?;
    let path = scratch("vmlinux-amd64");
    fs::write(&path, kernel)?;
    let mut run = Run::start(debian.run_kernel(&path, "true"))?;
    run.wait_for("ringmaster: user space reached")?;
    run.finish_with(0)
}

/// The way of firmware and boot loaders, which the direct entry cuts short.
fn by_protocol(debian: &Debian, protocol: &str) -> Result<(), Failed> {
    let mut args = debian.run("true");
    args.extend(["--boot-protocol", protocol].map(str::to_owned));
    let mut run = Run::start(args)?;
    run.wait_for("ringmaster: user space reached")?;
    run.finish_with(0)
}

fn several_initrds(debian: &Debian) -> Result<(), Failed> {
    let second: PathBuf = scratch("second-initrd");
    let mut archive = Archive::default();
    archive.program("second", b"#!/bin/sh\necho from the second initrd\n")?;
    fs::write(&second, archive.finish()?)?;
    let mut args = debian.run("/second");
    args.extend(["--initrd".to_owned(), second.display().to_string()]);
    let mut run = Run::start(args)?;
    run.wait_for("from the second initrd")?;
    run.finish_with(0)
}

fn seabios(bios: &Path, engine: &str) -> Result<(), Failed> {
    let bios = bios.display().to_string();
    let mut run = Run::start(["run", "--engine", engine, "--firmware", &bios, "--timeout", "60"])?;
    run.wait_for("Press ESC for boot menu")?;
    run.wait_for("No bootable device")
}

//! Builds the bare-metal guest in `kernel/` and leaves it as a static ELF in `OUT_DIR`.
//!
//! Cargo cannot build one crate of a workspace for a machine without an operating
//! system unless another target is installed. None is needed: the host's own target
//! comes with a compiled `core`, and a static archive of it, linked by a script of
//! our own, runs on a bare machine. So `rustc` is called directly:
//!
//! 1. `kernel/main.rs` -> `libguest.a` (`no_std`, panic = abort, no red zone, absolute
//!    addresses), with everything it needs of `core` inside;
//! 2. `cc -static -nostdlib -T kernel/link.ld` -> `guest.elf`.
//!
//! The flags are always the optimizing ones: a debug build of the workspace gets the
//! same guest. `RUSTFLAGS` and compiler wrappers mean the host's programs and are not
//! passed on.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernel");
    println!("cargo::rerun-if-env-changed=CC");

    let target = variable("TARGET");
    assert!(
        target.starts_with("x86_64-") && target.contains("linux"),
        "the embedded guest is x86-64 code and is built with the host's own x86_64 Linux target, not {target}"
    );
    let out = PathBuf::from(variable("OUT_DIR"));
    let source = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("kernel");
    let archive = out.join("libguest.a");
    compile(&source, &archive, &target);
    link(&source.join("link.ld"), &archive, &out.join("guest.elf"));
}

/// Compiles the kernel and what it uses of `core` into one archive.
fn compile(source: &Path, archive: &Path, target: &str) {
    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .args(["--crate-name", "guest", "--crate-type", "staticlib", "--edition", "2024"])
        .args(["--target", target])
        .args(["-C", "panic=abort", "-C", "opt-level=2", "-C", "codegen-units=1"])
        .args(["-C", "debuginfo=0", "-C", "debug-assertions=no", "-C", "overflow-checks=no"])
        // Linked at a fixed address below 2 GiB; interrupts use the stack below RSP.
        .args(["-C", "relocation-model=static", "-C", "no-redzone=yes"])
        .args(["-C", "force-unwind-tables=no"])
        // The image must not carry the path of the machine that built it.
        .arg("--remap-path-prefix")
        .arg(format!("{}=kernel", source.display()))
        .arg("-o")
        .arg(archive)
        .arg(source.join("main.rs"));
    run(rustc);
}

/// Links the archive at its fixed address.
fn link(script: &Path, archive: &Path, image: &Path) {
    let mut cc = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
    cc.args([
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--gc-sections",
        "-Wl,--strip-debug",
        "-Wl,--build-id=none",
    ])
    .args(["-Wl,-z,max-page-size=4096", "-Wl,-z,noexecstack", "-Wl,--no-warn-rwx-segments"])
    .arg("-T")
    .arg(script)
    .arg("-o")
    .arg(image)
    .arg(archive);
    run(cc);
}

/// Runs one tool of the build and stops with its name when it fails.
fn run(mut command: Command) {
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{command:?} failed: {status}"),
        Err(error) => panic!("{command:?} could not be started: {error}"),
    }
}

/// A variable that cargo sets for every build script.
fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("{name}: {error}; run this by cargo"))
}

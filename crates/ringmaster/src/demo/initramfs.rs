//! The initial RAM disk of the demo: BusyBox and a script that starts it.
//!
//! The script knows these words of the kernel's command line:
//!
//! | word | meaning |
//! |---|---|
//! | `ringmaster.exec="COMMAND"` | run the command on the console, print the status it ended with, power off |
//! | `ringmaster.tty=ROWSxCOLUMNS` | the size of the terminal on the serial line |

use std::io;

use super::cpio::Archive;
use super::modules::Module;
use crate::exit::Failure;

/// The word that carries a command.
pub const EXEC_PARAMETER: &str = "ringmaster.exec";

/// The word that carries the size of the terminal.
pub const TTY_PARAMETER: &str = "ringmaster.tty";

/// The line that the guest prints first of all; tests and benchmarks wait for
/// it. The kernel's release and the guest's uptime follow on the same line.
pub const MARKER: &str = "ringmaster: user space reached";

/// What /init does. BusyBox's shell reads it.
const INIT: &str = include_str!("init.sh");

/// What BusyBox's DHCP client does with a lease.
const UDHCPC: &str = include_str!("udhcpc.sh");

/// Where drivers are, and the list of them.
const MODULES: &str = "lib/modules";

/// BusyBox puts its links into these; the rest is for what is mounted.
const DIRECTORIES: &[&str] =
    &["bin", "sbin", "usr", "usr/bin", "usr/sbin", "dev", "proc", "sys", "tmp", "run", "root", "etc", "lib"];

/// Builds the archive around a static BusyBox.
pub fn build(busybox: &[u8]) -> Result<Vec<u8>, Failure> {
    build_with(busybox, &[])
}

/// Builds the archive around a static BusyBox, with drivers to be loaded in
/// this order.
pub fn build_with(busybox: &[u8], modules: &[Module]) -> Result<Vec<u8>, Failure> {
    archive(busybox, modules).map_err(|error| Failure::internal("cannot build the initramfs").because(error))
}

fn archive(busybox: &[u8], modules: &[Module]) -> io::Result<Vec<u8>> {
    let mut archive = Archive::default();
    for name in DIRECTORIES {
        archive.directory(name)?;
    }
    // Linux opens /dev/console for /init before anything is mounted.
    archive.character_device("dev/console", 5, 1)?;
    archive.character_device("dev/null", 1, 3)?;
    archive.character_device("dev/ttyS0", 4, 64)?;
    archive.program("bin/busybox", busybox)?;
    archive.program("init", INIT.as_bytes())?;
    archive.program("etc/udhcpc.sh", UDHCPC.as_bytes())?;
    add_modules(&mut archive, modules)?;
    archive.finish()
}

fn add_modules(archive: &mut Archive, modules: &[Module]) -> io::Result<()> {
    if modules.is_empty() {
        return Ok(());
    }
    archive.directory(MODULES)?;
    let mut order = String::new();
    for Module { name, bytes } in modules {
        archive.program(&format!("{MODULES}/{name}.ko"), bytes)?;
        order.push_str(name);
        order.push('\n');
    }
    archive.program(&format!("{MODULES}/order"), order.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn the_same_input_gives_the_same_archive() {
        assert_eq!(build(b"busybox").unwrap(), build(b"busybox").unwrap());
    }

    #[test]
    fn the_script_knows_the_words_and_the_marker() {
        for word in [EXEC_PARAMETER, TTY_PARAMETER, MARKER] {
            assert!(INIT.contains(word), "{word}");
        }
        assert!(INIT.starts_with("#!/bin/busybox sh\n"));
    }

    #[test]
    fn the_script_is_valid_shell() {
        for script in [INIT, UDHCPC] {
            let status = Command::new("sh").args(["-n", "-c", script]).status().unwrap();
            assert!(status.success());
        }
    }

    /// Runs the script's own function on a command line.
    fn parameter(name: &str, cmdline: &str) -> String {
        let start = INIT.find("parameter()").unwrap();
        let end = start + INIT[start..].find("\n}\n").unwrap() + 3;
        let script = format!("{}\nparameter {name}", &INIT[start..end]).replace("/proc/cmdline", "-");
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "{cmdline}").unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    #[test]
    fn parameters_are_read_with_and_without_quotes() {
        let line = "console=ttyS0 ringmaster.exec=\"echo a; ls -l\" ringmaster.tty=24x80 quiet";
        assert_eq!(parameter(EXEC_PARAMETER, line), "echo a; ls -l");
        assert_eq!(parameter(TTY_PARAMETER, line), "24x80");
        assert_eq!(parameter(EXEC_PARAMETER, "ringmaster.exec=date"), "date");
        assert_eq!(parameter(EXEC_PARAMETER, "xringmaster.exec=date"), "");
        assert_eq!(parameter(EXEC_PARAMETER, "console=ttyS0"), "");
    }
}

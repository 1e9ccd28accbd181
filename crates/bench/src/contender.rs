//! Who is measured: this processor, Ringmaster's engines, QEMU's TCG.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use ringmaster::exit::Failure;
use serde_json::Value;

use crate::options::Options;
use crate::stage::Stage;

/// Debian's package of QEMU has it under this name.
const QEMU: &str = "qemu-system-x86_64";

/// Memory of a guest, in MiB.
pub(crate) const MEMORY: u32 = 512;

/// One of those that are measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Contender {
    /// The workload as an ordinary process.
    Native,
    /// In a guest, by the engine of this name.
    Engine(Ringmaster, String),
    /// In a guest of QEMU without hardware assistance.
    Tcg,
}

/// Who is left out, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Absent {
    pub name: String,
    pub reason: String,
}

/// How Ringmaster is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ringmaster {
    program: PathBuf,
    with: Vec<String>,
}

impl Ringmaster {
    fn of(options: &Options) -> Result<Self, Failure> {
        let here = || {
            std::env::current_exe()
                .map_err(|error| Failure::internal("cannot find this program's own file").because(error))
        };
        let program = options.ringmaster.clone().map_or_else(here, Ok)?;
        Ok(Self { program, with: options.with.clone() })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg0("ringmaster");
        command
    }

    /// Whether an engine can be used, by Ringmaster's own account.
    fn usable(&self, engine: &str) -> Result<Result<(), String>, Failure> {
        let output = self.command().args(["check", "--json"]).output().map_err(|error| {
            Failure::internal(format!("cannot start {}", self.program.display())).because(error)
        })?;
        let report: Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| Failure::internal("cannot read what ringmaster check says").because(error))?;
        Ok(usable_in(&report, engine))
    }
}

/// Reads one engine's entry in the report of `check --json`.
fn usable_in(report: &Value, engine: &str) -> Result<(), String> {
    let engines = report["engines"].as_array().map(Vec::as_slice).unwrap_or_default();
    match engines.iter().find(|entry| entry["name"] == engine) {
        Some(entry) if entry["usable"] == true => Ok(()),
        Some(entry) => Err(entry["reason"].as_str().unwrap_or("no reason given").to_owned()),
        None => Err("there is no engine of that name".to_owned()),
    }
}

/// Those that can be measured here, in the table's order, and the others.
pub(crate) fn present(options: &Options) -> Result<(Vec<Contender>, Vec<Absent>), Failure> {
    let ringmaster = Ringmaster::of(options)?;
    let (mut present, mut absent) = (vec![Contender::Native], Vec::new());
    for engine in &options.engine {
        match ringmaster.usable(engine)? {
            Ok(()) => present.push(Contender::Engine(ringmaster.clone(), engine.clone())),
            Err(reason) => absent.push(Absent { name: engine.clone(), reason }),
        }
    }
    let leave_out = |reason: &str| Absent { name: "TCG".to_owned(), reason: reason.to_owned() };
    if options.no_qemu {
        absent.push(leave_out("--no-qemu"));
    } else if qemu_version().is_none() {
        absent.push(leave_out("qemu-system-x86_64 is not installed (Debian's package qemu-system-x86)"));
    } else {
        present.push(Contender::Tcg);
    }
    Ok((present, absent))
}

/// The version that QEMU says it has, if it is installed.
pub(crate) fn qemu_version() -> Option<String> {
    let output = Command::new(QEMU).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().next()?.trim_start_matches("QEMU emulator version ");
    Some(line.to_owned())
}

impl Contender {
    /// The name in the table's head.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Native => "native",
            Self::Engine(_, engine) => engine,
            Self::Tcg => "TCG",
        }
    }

    /// Whether it takes part in this round, counted from zero.
    pub(crate) fn takes_part(&self, round: u32) -> bool {
        round < 3 || self.name() != "interpret"
    }

    /// The process that does the workload with these arguments, on so many
    /// processors.
    pub(crate) fn command(&self, stage: &Stage, cpus: u32, arguments: &[String]) -> Command {
        match self {
            Self::Native => {
                let mut command = Command::new(stage.programs().join("bench"));
                command.arg(stage.programs()).arg(stage.work()).args(arguments);
                command
            }
            Self::Engine(ringmaster, engine) => {
                let mut command = ringmaster.command();
                command.args(["run", "--engine", engine]).args(&ringmaster.with);
                command.args([
                    "--memory",
                    &format!("{MEMORY}M"),
                    "--timeout",
                    "600",
                    "--cpus",
                    &cpus.to_string(),
                ]);
                guest(&mut command, "--kernel", "--initrd", "--cmdline", stage, arguments);
                command
            }
            Self::Tcg => {
                let mut command = Command::new(QEMU);
                command.args(["-accel", "tcg", "-cpu", "max", "-smp", &cpus.to_string()]);
                command.args(["-m", &format!("{MEMORY}M")]);
                command.args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]);
                guest(&mut command, "-kernel", "-initrd", "-append", stage, arguments);
                command
            }
        }
    }
}

fn guest(
    command: &mut Command,
    kernel: &str,
    initrd: &str,
    cmdline: &str,
    stage: &Stage,
    arguments: &[String],
) {
    command.arg(kernel).arg(stage.kernel());
    command.arg(initrd).arg(stage.initramfs());
    command.arg(cmdline).arg(stage.command_line(arguments));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_engine_that_cannot_be_used_has_its_reason() {
        let report = json!({"engines": [
            {"name": "translate", "usable": false, "reason": "not in this release"},
            {"name": "interpret", "usable": true, "reason": "fine"},
        ]});
        assert_eq!(usable_in(&report, "interpret"), Ok(()));
        assert_eq!(usable_in(&report, "translate"), Err("not in this release".to_owned()));
        assert!(usable_in(&report, "kvm").is_err());
    }

    #[test]
    fn the_interpreter_rests_after_three_rounds() {
        assert!(Contender::Native.takes_part(9) && Contender::Tcg.takes_part(9));
        let program = Ringmaster { program: PathBuf::new(), with: Vec::new() };
        let interpret = Contender::Engine(program.clone(), "interpret".to_owned());
        assert!(interpret.takes_part(2) && !interpret.takes_part(3));
        assert!(Contender::Engine(program, "translate".to_owned()).takes_part(3));
    }
}

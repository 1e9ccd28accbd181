//! Debian with the drivers that its kernel has as modules, and a program for
//! what a shell cannot do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use libtest_mimic::Failed;
use ringmaster::demo::cpio::Archive;
use ringmaster::fetch::fetch_packages;
use ringmaster::packages::Request;

use crate::guests::{AMD64, Debian, scratch};
use crate::process::{PROGRAM, Run};

/// The drivers, each behind those that it needs.
const MODULES: [&str; 21] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio-rng",
    "virtio_console",
    "virtio_balloon",
    "failover",
    "net_failover",
    "virtio_net",
    "fuse",
    "virtiofs",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
    "crc32c_generic",
    "button",
    "evdev",
];

const PROBE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/boots/probe.c");

/// Debian with the drivers of virtio devices.
pub(crate) struct Drivers {
    debian: &'static Debian,
    modules: PathBuf,
}

pub(crate) static DRIVERS: LazyLock<Result<Drivers, String>> = LazyLock::new(Drivers::new);

/// The same with the program `probe`, on a host that can build it.
pub(crate) static PROBING: LazyLock<Result<Probing, String>> = LazyLock::new(Probing::new);

impl Drivers {
    fn new() -> Result<Self, String> {
        let debian = AMD64.as_ref().map_err(Clone::clone)?;
        let pattern = format!("{{usr/lib,lib}}/modules/**/{{{}}}.ko*", MODULES.join(","));
        let request = Request::new("linux-image-cloud-amd64", "amd64", &pattern);
        let request = request.map_err(|error| error.to_string())?;
        let entries = fetch_packages(&[request], false).map_err(|error| error.to_string())?;
        let paths: Vec<PathBuf> =
            entries.iter().flat_map(|entry| entry.paths().collect::<Vec<_>>()).collect();
        let modules = archive(&paths).map_err(|error| format!("no archive of modules: {error}"))?;
        Ok(Self { debian, modules })
    }

    /// The command line of a guest that loads the drivers, does what `script`
    /// says, and powers off. Its script lies in `folder`.
    pub(crate) fn arguments(
        &self,
        folder: &Path,
        script: &str,
        cmdline: &str,
        options: &[String],
    ) -> Result<Vec<String>, Failed> {
        let mut archive = Archive::default();
        archive.program("script", format!("#!/bin/sh\n{script}\n").as_bytes())?;
        let path = folder.join("script.cpio");
        fs::write(&path, archive.finish()?)?;
        let load = "for module in /modules/*; do insmod $module; done; sh /script";
        let mut args = self.debian.run(load);
        if let Some(words) = args.iter_mut().find(|arg| arg.starts_with("console=")) {
            *words = format!("{cmdline} {words}");
        }
        for initrd in [&self.modules, &path] {
            args.extend(["--initrd".to_owned(), initrd.display().to_string()]);
        }
        args.extend(options.iter().cloned());
        Ok(args)
    }

    /// The guest's kernel.
    pub(crate) fn kernel(&self) -> &Path {
        &self.debian.kernel
    }

    /// Starts such a guest.
    pub(crate) fn start(&self, script: &str, cmdline: &str, options: &[String]) -> Result<Run, Failed> {
        self.start_by(Command::new(PROGRAM), script, cmdline, options)
    }

    /// The same by a command that takes the arguments of `ringmaster`.
    pub(crate) fn start_by(
        &self,
        mut command: Command,
        script: &str,
        cmdline: &str,
        options: &[String],
    ) -> Result<Run, Failed> {
        let folder = tempfile::tempdir()?;
        command.args(self.arguments(folder.path(), script, cmdline, options)?);
        let mut run = Run::of(command)?;
        run.wait_for("user space reached")?;
        Ok(run)
    }
}

fn archive(paths: &[PathBuf]) -> std::io::Result<PathBuf> {
    let mut archive = Archive::default();
    archive.directory("modules")?;
    for (number, name) in MODULES.iter().enumerate() {
        let is_it = |path: &&PathBuf| {
            path.file_name().is_some_and(|file| file.to_string_lossy() == format!("{name}.ko"))
        };
        if let Some(path) = paths.iter().find(is_it) {
            archive.program(&format!("modules/{number:02}-{name}.ko"), &fs::read(path)?)?;
        }
    }
    let path = scratch("modules");
    fs::write(&path, archive.finish()?)?;
    Ok(path)
}

/// [`Drivers`], and `/probe` in the guest.
pub(crate) struct Probing {
    pub(crate) drivers: &'static Drivers,
    archive: PathBuf,
}

impl Probing {
    fn new() -> Result<Self, String> {
        let drivers = DRIVERS.as_ref().map_err(Clone::clone)?;
        let program = scratch("probe");
        let built = Command::new("cc").args(["-O1", "-static", "-o"]).arg(&program).arg(PROBE).output();
        match built {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                return Err(format!("no static C program: {}", said.lines().last().unwrap_or_default()));
            }
            Err(error) => return Err(format!("no C compiler: {error}")),
        }
        let pack = || -> std::io::Result<PathBuf> {
            let mut archive = Archive::default();
            archive.program("probe", &fs::read(&program)?)?;
            let path = scratch("probe.cpio");
            fs::write(&path, archive.finish()?)?;
            Ok(path)
        };
        let archive = pack().map_err(|error| format!("no archive of the probe: {error}"))?;
        Ok(Self { drivers, archive })
    }

    pub(crate) fn start(&self, script: &str, options: &[String]) -> Result<Run, Failed> {
        let probe = ["--initrd".to_owned(), self.archive.display().to_string()];
        self.drivers.start(script, "no_timer_check", &[&probe[..], options].concat())
    }
}

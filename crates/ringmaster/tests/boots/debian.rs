//! The documented way from nothing to a running Debian: its script makes a
//! disk, which boots to a login prompt; after a shutdown the disk is whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use libtest_mimic::{Failed, Trial};

use crate::disks::{succeed, tool_command};
use crate::guests::{engine, scratch};
use crate::process::Run;
use crate::systems::needing;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/debian-disk");

/// The disk that the script has made; kernel and initial RAM disk lie beside
/// it.
static DISK: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
    let tools = ["mmdebstrap", "mkfs.ext4", "qemu-img", "e2fsck"];
    if let Some(tool) = tools.iter().find(|tool| tool_command(tool).arg("--version").output().is_err()) {
        return Err(format!("{tool} is missing"));
    }
    let disk = scratch("debian.qcow2");
    // The script's files come last, so a disk with an initial RAM disk is whole.
    if disk.exists() && disk.with_extension("initrd").exists() {
        return Ok(disk);
    }
    let _ = fs::remove_file(&disk);
    let output = Command::new(SCRIPT).arg(&disk).output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(disk),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("the disk cannot be made: {}", said.lines().last().unwrap_or_default()))
        }
    }
});

pub(crate) fn tests() -> Vec<Trial> {
    if std::env::var_os("BOOTS_DEBIAN").is_none() {
        let reason = "left out: set BOOTS_DEBIAN=1 to make a disk and boot it, which takes minutes";
        let trial = Trial::test("debian_boots_to_a_login_and_shuts_down", || Ok(()));
        return vec![trial.with_kind(reason).with_ignored_flag(true)];
    }
    vec![needing("debian_boots_to_a_login_and_shuts_down", &DISK, |disk| login(disk))]
}

fn login(made: &Path) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let (disk, raw) = (folder.path().join("debian.qcow2"), folder.path().join("raw"));
    fs::copy(made, &disk)?;
    let path = |extension| made.with_extension(extension).display().to_string();
    let mut run = Run::start([
        "run",
        "--engine",
        &engine(),
        "--memory",
        "1G",
        "--kernel",
        &path("vmlinuz"),
        "--initrd",
        &path("initrd"),
        "--cmdline",
        "console=ttyS0 root=/dev/vda rw systemd.default_timeout_start_sec=900 systemd.default_device_timeout_sec=900",
        "--disk",
        &disk.display().to_string(),
    ])?;
    run.wait_for("debian login:")?;
    run.type_in("root\n")?;
    run.wait_for("root@debian:~#")?;
    run.type_in("lspci; echo state-$((40 + 2)); date > /stamp; poweroff\n")?;
    run.wait_for("state-42")?;
    run.finish_with(0)?;
    succeed(tool_command("qemu-img").arg("check").arg(&disk))?;
    succeed(tool_command("qemu-img").args(["convert", "-O", "raw"]).arg(&disk).arg(&raw))?;
    succeed(tool_command("e2fsck").args(["-f", "-n"]).arg(&raw))?;
    Ok(())
}

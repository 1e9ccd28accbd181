//! Disks under Debian's own drivers.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use libtest_mimic::{Failed, Trial};

use crate::drivers::{DRIVERS, Drivers};
use crate::systems::needing;

/// Debian with drivers, on a host with the tools that look into disks.
pub(crate) static DISK_TOOLS: LazyLock<Result<&'static Drivers, String>> = LazyLock::new(|| {
    let drivers = DRIVERS.as_ref().map_err(Clone::clone)?;
    for (tool, package) in [("mkfs.ext4", "e2fsprogs"), ("e2fsck", "e2fsprogs"), ("qemu-img", "qemu-utils")] {
        if tool_command(tool).arg("--version").output().is_err() {
            return Err(format!("{tool} is missing (Debian package {package})"));
        }
    }
    Ok(drivers)
});

/// A tool that may lie where only root looks.
pub(crate) fn tool_command(tool: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = format!("{path}:/usr/sbin:/sbin")
        .split(':')
        .map(|folder| Path::new(folder).join(tool))
        .find(|path| path.exists());
    Command::new(found.unwrap_or_else(|| tool.into()))
}

pub(crate) fn succeed(command: &mut Command) -> Result<String, Failed> {
    let output = command.output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() { Ok(said) } else { Err(format!("{command:?} failed: {said}").into()) }
}

pub(crate) fn tests() -> Vec<Trial> {
    vec![needing("disks_work_by_msix_intx_and_mmio", &DRIVERS, disks)]
}

/// A disk by each way of interrupting; a read-only one; one that is thrown
/// away.
fn disks(drivers: &Drivers) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    for name in ["a", "b", "c"] {
        fs::write(path(name), vec![b'.'; 1 << 20])?;
    }
    let script = "
        cat /sys/block/vda/serial /sys/block/vdb/ro; echo
        dd if=/dev/vda bs=64k 2>/dev/null | md5sum
        echo written-by-the-guest | dd of=/dev/vda bs=512 seek=1000 conv=notrunc,fsync 2>/dev/null
        echo into-the-layer | dd of=/dev/vdc bs=512 conv=notrunc,fsync 2>/dev/null
        dd if=/dev/vdc bs=512 count=1 2>/dev/null | head -n 1
        dd if=/dev/zero of=/dev/vdb bs=512 count=1 2>/dev/null || echo refused
        dmesg | grep -i -E 'pci.*(error|conflict|invalid)' || echo pci-is-clean
        grep -c virtio /proc/interrupts";
    for (cmdline, bus) in [("", "pci"), ("pci=nomsi", "pci"), ("", "mmio")] {
        let disk = |name: &str, more: &str| format!("{},format=raw,bus={bus}{more}", path(name).display());
        let options =
            [("a", ",serial=SN-4711,queues=2"), ("b", ",readonly"), ("c", ",overlay,iops=10000,bps=100M")];
        let options: Vec<String> =
            options.iter().flat_map(|(name, more)| ["--disk".to_owned(), disk(name, more)]).collect();
        let mut run = drivers.start(script, cmdline, &options)?;
        run.finish_with(0)?;
        for words in ["SN-47111", "into-the-layer", "refused", "pci-is-clean"] {
            if !run.said.contains(words) {
                return Err(run.complaint(&format!("never said {words:?} with bus={bus} {cmdline}")));
            }
        }
        let contents = fs::read(path("a"))?;
        if !contents[1000 * 512..].starts_with(b"written-by-the-guest\n") {
            return Err(run.complaint("did not write the disk"));
        }
        let untouched = vec![b'.'; 1 << 20];
        if fs::read(path("b"))? != untouched || fs::read(path("c"))? != untouched {
            return Err(run.complaint("wrote what it must not"));
        }
        fs::write(path("a"), &untouched)?;
    }
    Ok(())
}

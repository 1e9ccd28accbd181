//! Disks under Debian's own drivers, and what is left of them when the process
//! is killed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};

use crate::drivers::{DRIVERS, Drivers};
use crate::systems::needing;

/// How often the process is killed in mid-write.
const KILLS: u64 = 3;

/// Debian with drivers, on a host with the tools that look into disks.
static DISK_TOOLS: LazyLock<Result<&'static Drivers, String>> = LazyLock::new(|| {
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
    vec![
        needing("disks_work_by_msix_intx_and_mmio", &DRIVERS, disks),
        needing("nothing_durable_is_lost_when_the_process_is_killed", &DISK_TOOLS, |drivers| killed(drivers)),
    ]
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

/// The numbers that the guest has said to be durable. The last line may have
/// been cut short.
fn durable(said: &str) -> Vec<u64> {
    let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let words = whole.lines().filter_map(|line| line.trim().strip_prefix("durable "));
    words.filter_map(|word| word.parse().ok()).collect()
}

/// A guest writes files, each with fsync, and says so; it is killed in the
/// middle. Whatever it has said is in the image, and image and file system are
/// whole.
fn killed(drivers: &Drivers) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let (raw, image) = (folder.path().join("raw"), folder.path().join("disk.qcow2"));
    fs::File::create(&raw)?.set_len(256 << 20)?;
    succeed(tool_command("mkfs.ext4").args(["-q", "-F"]).arg(&raw))?;
    succeed(tool_command("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(&image))?;
    let (mut first, mut written) = (0, Vec::new());
    for round in 0..KILLS {
        let script = format!(
            "mkdir /disk; mount -t ext4 /dev/vda /disk; number={first}
            while true; do
                number=$((number + 1))
                yes $number | head -c 20000 | dd of=/disk/file-$number bs=5000 conv=fsync 2>/dev/null
                sync; echo durable $number
            done"
        );
        let options = ["--disk".to_owned(), image.display().to_string()];
        let mut run = drivers.start(&script, "", &options)?;
        run.wait_for("durable ")?;
        // Another moment each time.
        thread::sleep(Duration::from_millis(700 + 531 * round));
        run.kill()?;
        written.extend(durable(&run.said));
        check(&image, &raw, &written).map_err(|error| run.complaint(&format!("{error:?}")))?;
        first = 1000 * (round + 1);
    }
    Ok(())
}

/// Looks at an image after a kill: it has all the files that were `written`.
fn check(image: &Path, raw: &Path, written: &[u64]) -> Result<(), Failed> {
    // Clusters that are allocated and not used yet are no damage (status 3).
    let status = tool_command("qemu-img").arg("check").arg(image).output()?;
    if !matches!(status.status.code(), Some(0 | 3)) {
        return Err(format!("the image is damaged: {}", String::from_utf8_lossy(&status.stdout)).into());
    }
    succeed(tool_command("qemu-img").args(["convert", "-f", "qcow2", "-O", "raw"]).arg(image).arg(raw))?;
    // Replays the journal, as a mount would; then there must be no errors.
    let _ = tool_command("e2fsck").args(["-p"]).arg(raw).output()?;
    succeed(tool_command("e2fsck").args(["-f", "-n"]).arg(raw))?;
    for number in written {
        let request = format!("cat /file-{number}");
        let found = tool_command("debugfs").args(["-R", &request]).arg(raw).output()?.stdout;
        let line = format!("{number}\n");
        if found.len() != 20_000 || !line.repeat(20_000 / line.len() + 1).as_bytes().starts_with(&found) {
            return Err(format!("file {number} is not what was written").into());
        }
    }
    Ok(())
}

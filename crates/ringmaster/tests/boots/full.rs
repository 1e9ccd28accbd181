//! File systems of the host that are full or read-only: the guest sees an
//! error, the process lives, and images stay whole.

use std::process::Command;
use std::sync::LazyLock;

use libtest_mimic::{Failed, Trial};

use crate::disks::{DISK_TOOLS, tool_command};
use crate::drivers::Drivers;
use crate::process::{PROGRAM, Run};
use crate::systems::needing;

/// Mounts file systems in memory at $1/full and $1/fixed, each with a disk or
/// two; does what is behind the first word; and looks at what is left.
const IN_SMALL: &str = r#"
    set -e
    mount -t tmpfs -o size=8M tmpfs "$1/full"
    mount -t tmpfs -o size=8M tmpfs "$1/fixed"
    truncate -s 64M "$1/full/disk.raw" "$1/fixed/disk.raw"
    qemu-img create -q -f qcow2 "$1/full/disk.qcow2" 64M
    mount -o remount,ro "$1/fixed"
    folder=$1
    export TMPDIR="$folder/full"
    shift
    status=0
    "$@" || status=$?
    if qemu-img check "$folder/full/disk.qcow2"; then echo "the image is whole"; fi
    exit $status
"#;

/// The tools of other tests of disks, where file systems may be mounted.
static MOUNTS: LazyLock<Result<&'static Drivers, String>> = LazyLock::new(|| {
    let drivers = *DISK_TOOLS.as_ref().map_err(Clone::clone)?;
    let output = unshare().args(["sh", "-c", "mount -t tmpfs tmpfs /mnt"]).output();
    match output {
        Ok(output) if output.status.success() => Ok(drivers),
        _ => Err("this process may mount nothing, not even in a name space of its own".to_owned()),
    }
});

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        needing("a_full_host_is_an_error_in_the_guest", &MOUNTS, |drivers| full(drivers)),
        needing("read_only_media_are_refused_or_read", &MOUNTS, |drivers| fixed(drivers)),
    ]
}

fn unshare() -> Command {
    let mut command = tool_command("unshare");
    command.args(["--map-root-user", "--mount"]);
    command
}

/// A command that runs the program among small file systems in `folder`.
fn in_small(folder: &std::path::Path) -> Result<Command, Failed> {
    for name in ["full", "fixed"] {
        std::fs::create_dir(folder.join(name))?;
    }
    let mut command = unshare();
    command.args(["sh", "-c", IN_SMALL, "sh"]).arg(folder).arg(PROGRAM);
    Ok(command)
}

/// A raw disk, a qcow2 one and a throw-away layer, each larger than what the
/// host has room for.
fn full(drivers: &Drivers) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let script = "
        for disk in vda vdb vdc; do
            echo kept-on-$disk | dd of=/dev/$disk conv=notrunc,fsync 2>/dev/null
        done
        for disk in vdb vda vdc; do
            dd if=/dev/zero of=/dev/$disk bs=1M seek=1 count=60 conv=notrunc,fsync 2>&1 | sed \"s|^|$disk says |\"
        done
        for disk in vda vdb vdc; do dd if=/dev/$disk bs=16 count=1 2>/dev/null | head -n 1; done
        echo the-guest-lives";
    let disks = [
        path("full/disk.raw,format=raw"),
        path("full/disk.qcow2"),
        path("fixed/disk.raw,format=raw,overlay"),
    ];
    let options: Vec<String> = disks.into_iter().flat_map(|disk| ["--disk".to_owned(), disk]).collect();
    let mut run = drivers.start_by(in_small(folder.path())?, script, "", &options)?;
    run.finish_with(0)?;
    for disk in ["vda", "vdb", "vdc"] {
        let error = format!("{disk} says dd: /dev/{disk}: Input/output error");
        for words in [error, format!("kept-on-{disk}")] {
            if !run.said.contains(&words) {
                return Err(run.complaint(&format!("never said {words:?}")));
            }
        }
    }
    for words in ["the-guest-lives", "the image is whole"] {
        run.wait_for(words)?;
    }
    Ok(())
}

fn fixed(drivers: &Drivers) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("fixed/disk.raw,format=raw").display().to_string();
    let mut command = in_small(folder.path())?;
    command.args(["run", "--kernel", &drivers.kernel().display().to_string(), "--disk", &disk]);
    let mut run = Run::of(command)?;
    run.finish_with(1)?;
    if !run.said.contains("cannot be written: make it writable, or add readonly or overlay") {
        return Err(run.complaint("did not say what to do"));
    }
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("fixed/disk.raw,format=raw,readonly").display().to_string();
    let script = "dd if=/dev/vda bs=1M 2>/dev/null | wc -c; cat /sys/block/vda/ro";
    let options = ["--disk".to_owned(), disk];
    let mut run = drivers.start_by(in_small(folder.path())?, script, "", &options)?;
    run.wait_for("67108864")?;
    run.finish_with(0)
}

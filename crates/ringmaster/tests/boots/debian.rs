//! The documented way from nothing to a running Debian: its script makes a
//! disk, which boots to a login prompt; one logs in over the network, reaches
//! the host from inside, and shuts it down; the disk is whole after that.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};

use crate::disks::{succeed, tool_command};
use crate::guests::{AMD64, engine, scratch};
use crate::network::{free_port, web_server};
use crate::process::Run;
use crate::systems::needing;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/debian-disk");

/// What the way needs on the host, and the packages that have it.
const TOOLS: [(&str, &str); 6] = [
    ("mmdebstrap", "mmdebstrap"),
    ("mkfs.ext4", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
    ("qemu-img", "qemu-utils"),
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
];

/// How long each part may take, on a busy machine and interpreted.
const PATIENCE: Duration = Duration::from_secs(1500);

/// Whether a disk can be made here; else why not.
static MAKEABLE: LazyLock<Result<(), String>> = LazyLock::new(|| {
    for (tool, package) in TOOLS {
        if tool_command(tool).arg("--version").output().is_err() {
            return Err(format!("{tool} is missing (Debian package {package})"));
        }
    }
    let root = rustix::process::geteuid().is_root();
    let words: &[&str] = if root { &["--mount", "true"] } else { &["--map-root-user", "--mount", "true"] };
    if !tool_command("unshare").args(words).output().is_ok_and(|output| output.status.success()) {
        return Err("this process may make no name spaces, which mmdebstrap needs".to_owned());
    }
    if !root && ["fakeroot", "newuidmap"].iter().any(|tool| tool_command(tool).output().is_err()) {
        return Err("fakeroot or newuidmap is missing (Debian packages fakeroot, uidmap)".to_owned());
    }
    // Whoever can fetch its packages reaches Debian's mirrors.
    AMD64.as_ref().map(|_| ()).map_err(Clone::clone)
});

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        needing("debian_boots_to_a_login_is_reached_and_shuts_down", &MAKEABLE, |()| whole_way(&engine())),
        needing("debian_goes_the_whole_way_interpreted", &MAKEABLE, |()| whole_way("interpret")),
    ]
}

/// The disk that the script has made, with its kernel and initial RAM disk
/// beside it, and the key that may log in. Kept for the next run unless the
/// script has changed.
fn made() -> Result<(PathBuf, PathBuf), Failed> {
    static MAKING: Mutex<()> = Mutex::new(());
    let _alone = MAKING.lock();
    let (disk, key) = (scratch("debian.qcow2"), scratch("debian-key"));
    // The script's files come last, so a disk with an initial RAM disk is whole.
    let time = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    if time(&disk.with_extension("initrd")).is_ok_and(|made| time(Path::new(SCRIPT)).is_ok_and(|s| s < made))
    {
        return Ok((disk, key));
    }
    for path in [&disk, &disk.with_extension("initrd"), &key] {
        let _ = fs::remove_file(path);
    }
    succeed(tool_command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key))?;
    succeed(Command::new(SCRIPT).arg("--ssh-key").arg(key.with_extension("pub")).arg(&disk))?;
    Ok((disk, key))
}

/// As docs/debian.md has it.
fn start(engine: &str, disk: &Path, made: &Path, port: u16) -> Result<Run, Failed> {
    let path = |extension| made.with_extension(extension).display().to_string();
    Run::start([
        "run",
        "--engine",
        engine,
        "--memory",
        "1G",
        "--kernel",
        &path("vmlinuz"),
        "--initrd",
        &path("initrd"),
        "--cmdline",
        "console=ttyS0 root=/dev/vda rw",
        "--disk",
        &disk.display().to_string(),
        "--net",
        &format!("user,forward=tcp:{port}:22"),
    ])
}

fn whole_way(engine: &str) -> Result<(), Failed> {
    let (made, key) = made()?;
    let folder = tempfile::tempdir()?;
    let (disk, raw) = (folder.path().join("debian.qcow2"), folder.path().join("raw"));
    fs::copy(&made, &disk)?;
    let (web, port) = (web_server("a page of the host\n")?, free_port()?);
    let mut run = start(engine, &disk, &made, port)?;
    run.wait_within("debian login:", PATIENCE)?;
    let said = log_in(&key, port, &format!("curl -s http://10.0.2.2:{web}/ | tee /root/page; lspci"))
        .map_err(|said| run.complaint(&format!("let nobody in by ssh ({said})")))?;
    for words in ["a page of the host", "Host bridge", "Virtio 1.0 block device", "Virtio 1.0 network device"]
    {
        if !said.contains(words) {
            return Err(run.complaint(&format!("never said {words:?} over the network, but {said:?}")));
        }
    }
    // The connection may end before the command does.
    let _ = ssh(&key, port, "shutdown now")?;
    run.finish_with(0)?;
    succeed(tool_command("qemu-img").arg("check").arg(&disk))?;
    succeed(tool_command("qemu-img").args(["convert", "-O", "raw"]).arg(&disk).arg(&raw))?;
    succeed(tool_command("e2fsck").args(["-f", "-n"]).arg(&raw))?;
    let page = succeed(tool_command("debugfs").args(["-R", "cat /root/page"]).arg(&raw))?;
    if page.contains("a page of the host") { Ok(()) } else { Err(format!("the disk has {page:?}").into()) }
}

fn ssh(key: &Path, port: u16, command: &str) -> std::io::Result<Output> {
    let options =
        ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "LogLevel=ERROR"];
    let mut ssh = Command::new("ssh");
    ssh.args(options.iter().flat_map(|option| ["-o", option]));
    ssh.arg("-i").arg(key).args(["-p", &port.to_string(), "root@127.0.0.1", command]).output()
}

/// What a command says in the guest, as soon as that lets one in; else what
/// ssh says.
fn log_in(key: &Path, port: u16, command: &str) -> Result<String, String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let output = ssh(key, port, command).map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        if Instant::now() > end {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        thread::sleep(Duration::from_secs(1));
    }
}

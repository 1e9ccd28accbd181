//! What is booted: files out of Debian's packages, and initramfs archives made
//! the way the demo makes its own.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::{fs, io};

use ringmaster::demo::initramfs;
use ringmaster::fetch::fetch_packages;
use ringmaster::packages::Request;

/// The engine that runs the guests: `BOOTS_ENGINE`, else the translator.
pub(crate) fn engine() -> String {
    std::env::var("BOOTS_ENGINE").unwrap_or_else(|_| "translate".to_owned())
}

/// A file of a package, or why it cannot be had.
pub(crate) type Fetched = Result<PathBuf, String>;

fn fetch(package: &str, architecture: &str, pattern: &str) -> Fetched {
    let request = Request::new(package, architecture, pattern).map_err(|error| error.to_string())?;
    let entries = fetch_packages(&[request], false).map_err(|error| error.to_string())?;
    entries
        .first()
        .and_then(|entry| entry.paths().next())
        .ok_or_else(|| format!("{package} has no {pattern}"))
}

/// The kernel and the initramfs of one architecture.
pub(crate) struct Debian {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
}

impl Debian {
    fn new(architecture: &str, kernel: &str) -> Result<Self, String> {
        let busybox = fetch("busybox-static", architecture, "{usr/bin,bin}/busybox")?;
        Ok(Self {
            kernel: fetch(kernel, architecture, "boot/vmlinuz-*")?,
            initramfs: archive(&busybox, architecture)?,
        })
    }

    /// Arguments that run `command` in it and power off.
    pub(crate) fn run(&self, command: &str) -> Vec<String> {
        self.run_kernel(&self.kernel, command)
    }

    /// The same with another kernel file.
    pub(crate) fn run_kernel(&self, kernel: &Path, command: &str) -> Vec<String> {
        let cmdline = format!("console=ttyS0 quiet ringmaster.exec=\"{command}\"");
        let path = |path: &Path| path.display().to_string();
        [
            "run",
            "--engine",
            &engine(),
            "--kernel",
            &path(kernel),
            "--initrd",
            &path(&self.initramfs),
            "--cmdline",
            &cmdline,
        ]
        .map(str::to_owned)
        .to_vec()
    }
}

/// An initramfs beside the other files of the test run.
fn archive(busybox: &Path, architecture: &str) -> Result<PathBuf, String> {
    let build = || -> io::Result<PathBuf> {
        let archive =
            initramfs::build(&fs::read(busybox)?).map_err(|failure| io::Error::other(failure.report()))?;
        let path = scratch(&format!("initramfs-{architecture}"));
        fs::write(&path, archive)?;
        Ok(path)
    };
    build().map_err(|error| format!("no initramfs: {error}"))
}

/// A file of this test run.
pub(crate) fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Debian amd64 with the cloud kernel.
pub(crate) static AMD64: LazyLock<Result<Debian, String>> =
    LazyLock::new(|| Debian::new("amd64", "linux-image-cloud-amd64"));

/// Debian i386 with the PAE kernel.
pub(crate) static I386: LazyLock<Result<Debian, String>> =
    LazyLock::new(|| Debian::new("i386", "linux-image-686-pae"));

/// SeaBIOS.
pub(crate) static SEABIOS: LazyLock<Fetched> =
    LazyLock::new(|| fetch("seabios", "amd64", "usr/share/seabios/bios-256k.bin"));

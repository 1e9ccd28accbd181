//! What Debian's `lspci` finds on the bus.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libtest_mimic::{Failed, Trial};
use ringmaster::demo::cpio::Archive;
use ringmaster::fetch::fetch_packages;
use ringmaster::packages::Request;

use crate::drivers::{DRIVERS, Drivers};
use crate::guests::scratch;
use crate::systems::needing;

const LIBRARIES: &str = "{usr/lib,lib}/x86_64-linux-gnu";

/// What `lspci` needs: packages, and their files under the names by which they
/// are loaded.
const PACKAGES: [(&str, &[&str]); 8] = [
    ("libc6", &["libc.so.6", "libm.so.6", "libresolv.so.2", "ld-linux-x86-64.so.2"]),
    ("libpci3", &["libpci.so.3"]),
    ("libkmod2", &["libkmod.so.2"]),
    ("libudev1", &["libudev.so.1"]),
    ("zlib1g", &["libz.so.1"]),
    ("liblzma5", &["liblzma.so.5"]),
    ("libssl3", &["libcrypto.so.3"]),
    ("libzstd1", &["libzstd.so.1"]),
];

/// The drivers, and an archive with `lspci`.
static LSPCI: LazyLock<Result<(&'static Drivers, PathBuf), String>> = LazyLock::new(|| {
    let drivers = DRIVERS.as_ref().map_err(Clone::clone)?;
    Ok((drivers, archive()?))
});

pub(crate) fn tests() -> Vec<Trial> {
    vec![needing("lspci_finds_nothing_wrong", &LSPCI, |(drivers, archive)| lspci(drivers, archive))]
}

fn archive() -> Result<PathBuf, String> {
    let text = |error: &dyn std::fmt::Display| format!("no lspci: {error}");
    let request =
        |package: &str, pattern: &str| Request::new(package, "amd64", pattern).map_err(|error| text(&error));
    let mut requests = vec![request("pciutils", "usr/bin/lspci")?];
    for (package, files) in PACKAGES {
        requests.push(request(package, &format!("{LIBRARIES}/{{{}}}*", files.join(",")))?);
    }
    let entries = fetch_packages(&requests, false).map_err(|error| text(&error))?;
    let files: Vec<PathBuf> = entries.iter().flat_map(|entry| entry.paths().collect::<Vec<_>>()).collect();
    let find = |name: &str| {
        let is_it =
            |file: &&PathBuf| file.file_name().is_some_and(|found| found.to_string_lossy().starts_with(name));
        files.iter().find(is_it).ok_or_else(|| format!("no lspci: {name} is missing"))
    };
    let mut archive = Archive::default();
    let mut add = |place: &str, name: &str| {
        let bytes = fs::read(find(name)?).map_err(|error| text(&error))?;
        archive.program(&format!("{place}/{name}"), &bytes).map_err(|error| text(&error))
    };
    add("bin", "lspci")?;
    for name in PACKAGES.iter().flat_map(|(_, names)| names.iter()) {
        add("lib", name)?;
    }
    let path = scratch("lspci.cpio");
    let bytes = archive.finish().map_err(|error| text(&error))?;
    fs::write(&path, bytes).map_err(|error| text(&error))?;
    Ok(path)
}

fn lspci(drivers: &Drivers, archive: &Path) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("disk");
    fs::write(&disk, vec![0; 1 << 20])?;
    let script = "
        mkdir /lib64; ln -s /lib/ld-linux-x86-64.so.2 /lib64/
        export LD_LIBRARY_PATH=/lib
        lspci -vv 2>&1; lspci -xxxx > /dev/null && echo dumped; lspci -n -t";
    let options = [
        "--initrd",
        &archive.display().to_string(),
        "--disk",
        &format!("{},format=raw", disk.display()),
        "--net",
        "user",
        "--rng",
        "--balloon",
        "--virtio-console",
        "none",
    ];
    let mut run = drivers.start(script, "no_timer_check", &options.map(str::to_owned))?;
    run.finish_with(0)?;
    let count = |words: &str| run.said.matches(words).count();
    let found = [
        ("Kernel driver in use: virtio-pci", 5),
        ("MSI-X: Enable+", 5),
        ("MSI: Enable- Count=1/1 Maskable- 64bit+", 5),
        ("VirtIO: CommonCfg", 5),
        ("Root Complex Integrated Endpoint", 5),
        ("Interrupt: pin A routed to IRQ", 5),
        ("DisINTx+", 5),
        ("[size=16K]", 5),
        ("dumped", 1),
    ];
    if let Some((words, times)) = found.iter().find(|(words, times)| count(words) != *times) {
        return Err(run.complaint(&format!("said {words:?} not {times} times")));
    }
    let wrong =
        ["!!!", "<access denied>", "<chain", "[disabled]", "<ignored>", "unassigned", "Unknown header"];
    match wrong.iter().find(|words| count(words) != 0) {
        Some(words) => Err(run.complaint(&format!("said {words:?}"))),
        None => Ok(()),
    }
}

//! What is put up before the first round: the workload, built by gcc, and what
//! comes out of Debian's packages, in a folder and in an initial RAM disk.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use ringmaster::demo::cpio::Archive;
use ringmaster::demo::initramfs;
use ringmaster::demo::{BUSYBOX, KERNEL};
use ringmaster::exit::Failure;
use ringmaster::fetch::fetch_packages;
use ringmaster::packages::{Entry, Request};
use tempfile::TempDir;

/// The workload's files. They are part of this program, so that it runs from
/// any folder.
pub(crate) const SOURCES: &[(&str, &str)] = &[
    ("rows.h", include_str!("../workload/rows.h")),
    ("main.c", include_str!("../workload/main.c")),
    ("compute.c", include_str!("../workload/compute.c")),
    ("floating.c", include_str!("../workload/floating.c")),
    ("memory.c", include_str!("../workload/memory.c")),
    ("system.c", include_str!("../workload/system.c")),
    ("programs.c", include_str!("../workload/programs.c")),
];

/// The shell script of the row `shell`.
const SCRIPT: &str = include_str!("../workload/script.sh");

/// xz with the libraries that it needs, by the names under which they are
/// looked for.
const PROGRAMS: [(&str, &str, &str); 4] = [
    ("xz-utils", "usr/bin/xz", "xz"),
    ("liblzma5", "{usr/,}lib/x86_64-linux-gnu/liblzma.so.5.*", "liblzma.so.5"),
    ("libc6", "{usr/,}lib/x86_64-linux-gnu/libc.so.6", "libc.so.6"),
    ("libc6", "{usr/,}lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "ld.so"),
];

/// Where the programs are in a guest.
const IN_GUEST: &str = "bench";

/// Files in memory, where the host has them.
const MEMORY_FILES: &str = "/dev/shm";

/// Everything that a round needs.
#[derive(Debug)]
pub(crate) struct Stage {
    folder: TempDir,
    work: TempDir,
    kernel: PathBuf,
    /// What the guest's kernel is.
    pub kernel_version: String,
}

impl Stage {
    /// Builds the workload and the initial RAM disk.
    pub(crate) fn build() -> Result<Self, Failure> {
        let put_up = |error| Failure::internal("cannot put up the benchmark's files").because(error);
        let folder = tempfile::tempdir().map_err(put_up)?;
        let work = tempfile::tempdir_in(MEMORY_FILES).or_else(|_| tempfile::tempdir()).map_err(put_up)?;
        let entries = fetch_packages(&requests()?, false)?;
        let [kernel, busybox, programs @ ..] = entries.as_slice() else {
            return Err(Failure::internal("a package is missing from the cache"));
        };
        let version = format!("{} {}", kernel.manifest().package, kernel.manifest().version);
        let stage = Self { kernel: file_of(kernel), folder, work, kernel_version: version };
        stage.fill(busybox, programs).map_err(put_up)?;
        stage.compile()?;
        stage.pack(&file_of(busybox))?;
        Ok(stage)
    }

    /// The folder of the programs, natively.
    pub(crate) fn programs(&self) -> PathBuf {
        self.folder.path().join("programs")
    }

    /// The folder for files that rows write, natively.
    pub(crate) fn work(&self) -> &Path {
        self.work.path()
    }

    /// The guest's kernel.
    pub(crate) fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// The guest's initial RAM disk.
    pub(crate) fn initramfs(&self) -> PathBuf {
        self.folder.path().join("initramfs")
    }

    /// The kernel's command line that runs the workload and powers off.
    pub(crate) fn command_line(&self, arguments: &[String]) -> String {
        let exec = initramfs::EXEC_PARAMETER;
        let arguments = arguments.join(" ");
        format!("console=ttyS0 quiet panic=-1 {exec}=\"/{IN_GUEST}/bench /{IN_GUEST} /tmp {arguments}\"")
    }

    fn fill(&self, busybox: &Entry, programs: &[Entry]) -> io::Result<()> {
        fs::create_dir(self.programs())?;
        fs::write(self.programs().join("script.sh"), SCRIPT)?;
        fs::copy(file_of(busybox), self.programs().join("busybox"))?;
        for ((_, _, name), entry) in PROGRAMS.iter().zip(programs) {
            fs::copy(file_of(entry), self.programs().join(name))?;
        }
        Ok(())
    }

    fn compile(&self) -> Result<(), Failure> {
        let sources = self.folder.path().join("sources");
        build_workload(&sources, &self.programs().join("bench"))
    }

    /// The demo's initial RAM disk, and after it our programs.
    fn pack(&self, busybox: &Path) -> Result<(), Failure> {
        let pack = || -> io::Result<Vec<u8>> {
            let mut archive = Archive::default();
            archive.directory(IN_GUEST)?;
            let mut files: Vec<PathBuf> =
                fs::read_dir(self.programs())?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
            files.sort();
            for file in files {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                archive.program(&format!("{IN_GUEST}/{name}"), &fs::read(&file)?)?;
            }
            archive.finish()
        };
        let cannot = |error| Failure::internal("cannot build the initramfs").because(error);
        let mut bytes = initramfs::build(&fs::read(busybox).map_err(cannot)?)?;
        bytes.extend(pack().map_err(cannot)?);
        fs::write(self.initramfs(), bytes).map_err(cannot)
    }
}

fn requests() -> Result<Vec<Request>, Failure> {
    let programs = PROGRAMS.iter().map(|(package, pattern, _)| (*package, *pattern));
    [KERNEL, BUSYBOX]
        .into_iter()
        .chain(programs)
        .map(|(package, pattern)| Request::new(package, "amd64", pattern).map_err(Failure::from))
        .collect()
}

fn file_of(entry: &Entry) -> PathBuf {
    entry.paths().next().unwrap_or_default()
}

/// Writes the workload's sources into `folder` and has gcc make `program`.
fn build_workload(folder: &Path, program: &Path) -> Result<(), Failure> {
    let write = || -> io::Result<()> {
        fs::create_dir(folder)?;
        SOURCES.iter().try_for_each(|(name, text)| fs::write(folder.join(name), text))
    };
    write().map_err(|error| Failure::internal("cannot write the workload's sources").because(error))?;
    let files = SOURCES.iter().map(|(name, _)| *name).filter(|name| name.ends_with(".c"));
    let output = Command::new("gcc")
        .args(["-O2", "-static", "-o"])
        .arg(program)
        .args(files)
        .arg("-lm")
        .current_dir(folder)
        .output()
        .map_err(|error| Failure::host_lacks("cannot start gcc, which builds the workload").because(error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::internal(format!("gcc could not build the workload: {}", said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The program is built and does a row, natively.
    #[test]
    fn the_workload_builds_and_runs() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("bench");
        build_workload(&folder.path().join("sources"), &program).unwrap();
        let output = Command::new(&program)
            .arg(folder.path())
            .arg(folder.path())
            .args(["1", "2", "sieve", "parallel"])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let row = said.lines().find(|line| line.starts_with("bench: row sieve ")).unwrap();
        // There are 82025 primes below 2^20.
        assert!(row.contains(&format!(" {:016x} ", 82025)), "{said}");
        assert!(said.contains("bench: row parallel "), "{said}");
        assert!(said.lines().last().unwrap().starts_with("bench: end "), "{said}");
    }

    #[test]
    fn the_script_is_valid_shell() {
        let status = Command::new("sh").args(["-n", "-c", SCRIPT]).status().unwrap();
        assert!(status.success());
    }
}

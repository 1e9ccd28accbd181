//! The host's apt, with a state of its own.
//!
//! The host's sources, keys, preferences and proxies are read; every folder
//! that apt writes to is ours, the host's hooks are cleared, and the host's
//! installed packages play no part (an empty dpkg status). Signatures and
//! hashes are checked as on any other day: lists and packages that are not
//! signed are refused even if the host allows them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::geteuid;

use super::child::{self, ChildError, Line};
use super::manifest::digest;
use super::{Cancel, PackageError, Progress};

/// The hooks would act on the host's own package state.
const CONFIGURATION: &str = "\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
";

/// Options that do not depend on the session.
const OPTIONS: &[&str] = &[
    "APT::Get::AllowUnauthenticated=false",
    "Acquire::AllowInsecureRepositories=false",
    "Acquire::AllowWeakRepositories=false",
    "Acquire::Retries=2",
    "Acquire::http::Timeout=20",
    "Acquire::https::Timeout=20",
    // Lists that nobody here reads.
    "Acquire::Languages=none",
    "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
    "Acquire::IndexTargets::deb::CNF::DefaultEnabled=false",
    "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false",
];

/// Longer than all of apt's own timeouts for one host together.
const PATIENCE: Duration = Duration::from_secs(180);

/// Metapackages form short chains.
const MAX_METAPACKAGES: usize = 4;

/// A package as the lists describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Its name.
    pub(super) package: String,
    /// Its version.
    pub(super) version: String,
    /// SHA-256 of its file, from the signed list.
    pub(super) sha256: String,
    /// The names that it depends on, first alternatives only.
    pub(super) depends: Vec<String>,
}

/// apt for one architecture, working in one folder.
#[derive(Debug)]
pub(super) struct Apt<'a> {
    folder: &'a Path,
    architecture: &'a str,
    cancel: &'a Cancel,
    progress: &'a Progress,
}

/// What a program of apt said.
#[derive(Debug, Default)]
struct Outcome {
    success: bool,
    out: Vec<String>,
    complaints: Vec<String>,
}

impl<'a> Apt<'a> {
    /// Prepares a state in `folder`, which is ours alone.
    pub(super) fn prepare(
        folder: &'a Path,
        architecture: &'a str,
        cancel: &'a Cancel,
        progress: &'a Progress,
    ) -> Result<Self, PackageError> {
        let prepare = || -> io::Result<()> {
            for sub in ["lists/partial", "archives/partial", "log"] {
                fs::create_dir_all(folder.join(sub))?;
            }
            fs::write(folder.join("status"), "")?;
            fs::write(folder.join("apt.conf"), CONFIGURATION)
        };
        prepare().map_err(|error| PackageError::cache(folder, error))?;
        Ok(Self { folder, architecture, cancel, progress })
    }

    /// Fetches the package lists. The answer is apt's complaint if some could
    /// not be had, which matters only if the package is then not found.
    pub(super) fn update(&self) -> Result<Option<String>, PackageError> {
        self.progress.stage(&format!("fetching the package lists for {}", self.architecture));
        let outcome = self.run("apt-get", "fetch the package lists", &["update"])?;
        let complaint = outcome.complaint();
        Ok((!outcome.success || complaint.contains("ailed to fetch")).then_some(complaint))
    }

    /// Finds the package in the lists; a kernel's metapackage leads to the
    /// kernel it depends on.
    pub(super) fn resolve(&self, package: &str) -> Result<Candidate, PackageError> {
        let mut name = package.to_owned();
        for _ in 0..MAX_METAPACKAGES {
            let candidate = self.candidate(&name)?;
            let kernel = |name: &&String| name.starts_with("linux-image-");
            match candidate.depends.iter().find(kernel) {
                Some(next) if name.starts_with("linux-image-") => name = next.clone(),
                _ => return Ok(candidate),
            }
        }
        Err(self.unknown(package))
    }

    fn candidate(&self, package: &str) -> Result<Candidate, PackageError> {
        let arguments = ["show", "--no-all-versions", package];
        let outcome = self.run("apt-cache", "read the package lists", &arguments)?;
        parse_candidate(&outcome.out).filter(|_| outcome.success).ok_or_else(|| self.unknown(package))
    }

    fn unknown(&self, package: &str) -> PackageError {
        PackageError::Unknown { package: package.to_owned(), architecture: self.architecture.to_owned() }
    }

    /// Downloads the package and gives the path of its file.
    pub(super) fn download(&self, candidate: &Candidate) -> Result<PathBuf, PackageError> {
        let name = format!("{}={}", candidate.package, candidate.version);
        let doing = format!("fetch {name}");
        self.progress.stage(&format!("fetching {}", candidate.package));
        let outcome = self.run("apt-get", &doing, &["download", &name])?;
        let failed = |detail: String| PackageError::Apt { doing: doing.clone(), detail };
        if !outcome.success {
            return Err(failed(outcome.complaint()));
        }
        let prefix = format!("{}_", candidate.package);
        let file = find_package(self.folder, &prefix)
            .map_err(|error| PackageError::cache(self.folder, error))?
            .ok_or_else(|| failed("it left no file behind".to_owned()))?;
        let (_, sha256) = digest(&file).map_err(|error| PackageError::cache(self.folder, error))?;
        if sha256 != candidate.sha256 {
            return Err(failed("the file is not the one in the list".to_owned()));
        }
        Ok(file)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = |sub: &str| self.folder.join(sub).display().to_string();
        command.current_dir(self.folder).env("LC_ALL", "C");
        command.arg("-q").arg("-c").arg(path("apt.conf"));
        let own = [
            ("Dir::State", path("")),
            ("Dir::State::lists", path("lists")),
            ("Dir::State::status", path("status")),
            ("Dir::State::extended_states", path("extended_states")),
            ("Dir::Cache", path("")),
            ("Dir::Cache::archives", path("archives")),
            ("Dir::Cache::pkgcache", path("pkgcache.bin")),
            ("Dir::Cache::srcpkgcache", path("srcpkgcache.bin")),
            ("Dir::Log", path("log")),
            ("APT::Architecture", self.architecture.to_owned()),
            ("APT::Architectures", self.architecture.to_owned()),
            ("APT::Status-Fd", "1".to_owned()),
        ];
        for (key, value) in own {
            command.arg("-o").arg(format!("{key}={value}"));
        }
        for option in OPTIONS {
            command.arg("-o").arg(option);
        }
        if geteuid().is_root() {
            // apt would hand the download to the user _apt, who cannot reach
            // a cache below root's home.
            command.args(["-o", "APT::Sandbox::User=root"]);
        }
        command
    }

    fn run(&self, program: &'static str, doing: &str, arguments: &[&str]) -> Result<Outcome, PackageError> {
        let mut outcome = Outcome::default();
        let mut hear = |line| match line {
            Line::Err(text) => outcome.complaints.push(text),
            Line::Out(text) => match download_fraction(&text) {
                Some(part) => self.progress.fraction(part),
                None => outcome.out.push(text),
            },
        };
        let mut command = self.command(program);
        let result = child::run(command.args(arguments), self.cancel, PATIENCE, &mut hear);
        let failed = |detail: String| PackageError::Apt { doing: doing.to_owned(), detail };
        outcome.success = match result {
            Ok(status) => status.success(),
            Err(ChildError::Cancelled(error)) => return Err(error),
            Err(ChildError::Start(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(PackageError::NoApt { program });
            }
            Err(ChildError::Start(error) | ChildError::Wait(error)) => {
                return Err(failed(error.to_string()));
            }
            Err(ChildError::Stalled) => {
                return Err(failed("nothing moved for three minutes".to_owned()));
            }
        };
        if outcome.disk_is_full() {
            let folder = self.folder.to_owned();
            return Err(PackageError::CacheFull { folder });
        }
        Ok(outcome)
    }
}

impl Outcome {
    /// The complaint that says most: the first error, else the first warning.
    fn complaint(&self) -> String {
        let find = |prefix: &str| {
            let line = self.complaints.iter().find_map(|line| line.strip_prefix(prefix));
            line.map(str::to_owned)
        };
        find("E: ")
            .or_else(|| find("W: "))
            .or_else(|| self.complaints.first().cloned())
            .unwrap_or_else(|| "it did not say why".to_owned())
    }

    fn disk_is_full(&self) -> bool {
        self.complaints.iter().any(|line| {
            line.contains("No space left on device")
                || line.contains("enough free space")
                || line.contains("Disk quota exceeded")
        })
    }
}

/// `dlstatus:2:13.0340:Retrieving file 2 of 2`
fn download_fraction(line: &str) -> Option<f64> {
    let mut fields = line.strip_prefix("dlstatus:")?.split(':');
    let percent: f64 = fields.nth(1)?.parse().ok()?;
    Some(percent / 100.0)
}

/// The first stanza of `apt-cache show`.
fn parse_candidate(lines: &[String]) -> Option<Candidate> {
    let stanza: Vec<&String> = lines.iter().take_while(|line| !line.is_empty()).collect();
    let field = |name: &str| stanza.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let depends = field("Depends").unwrap_or_default().split(',');
    Some(Candidate {
        package: field("Package")?.to_owned(),
        version: field("Version")?.to_owned(),
        sha256: field("SHA256")?.to_owned(),
        depends: depends
            .filter_map(|relation| relation.split_whitespace().next())
            .map(|name| name.split(':').next().unwrap_or(name).to_owned())
            .collect(),
    })
}

fn find_package(folder: &Path, prefix: &str) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(prefix) && name.ends_with(".deb") {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_stanza_gives_the_candidate() {
        let shown = lines(
            "Package: linux-image-cloud-amd64\nVersion: 6.1.1-2\n\
             Depends: linux-image-6.1.0-1-cloud-amd64 (= 6.1.1-2), kmod:any | x\n\
             SHA256: 00be\n\nPackage: other\nVersion: 1\nSHA256: ff",
        );
        let candidate = parse_candidate(&shown).unwrap();
        assert_eq!(candidate.version, "6.1.1-2");
        assert_eq!(candidate.sha256, "00be");
        assert_eq!(candidate.depends, ["linux-image-6.1.0-1-cloud-amd64", "kmod"]);
        assert_eq!(parse_candidate(&lines("N: nothing")), None);
    }

    #[test]
    fn download_status_gives_the_fraction() {
        let part = download_fraction("dlstatus:2:50.0:Retrieving file 2 of 2");
        assert_eq!(part, Some(0.5));
        assert_eq!(download_fraction("Get:1 http://host"), None);
        assert_eq!(download_fraction("dlstatus:x"), None);
    }

    #[test]
    fn the_error_speaks_before_the_warning() {
        let outcome = Outcome { complaints: lines("W: slow\nE: broken\nE: more"), ..Outcome::default() };
        assert_eq!(outcome.complaint(), "broken");
        assert!(!outcome.disk_is_full());
        let full = Outcome {
            complaints: lines("E: Write error - write (28: No space left on device)"),
            ..Outcome::default()
        };
        assert!(full.disk_is_full());
    }
}

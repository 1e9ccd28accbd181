//! The cache of package files in the user's cache folder.
//!
//! An entry appears by one rename and is checked against its manifest each time
//! it is used, so that a reader sees it whole or not at all. Whoever fills the
//! cache holds the lock; what an earlier, killed process left is swept first.

use std::env;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::statvfs;
use tempfile::TempDir;

use super::apt::{Apt, Candidate};
use super::cancel::TICK;
use super::{Cancel, DebError, Manifest, PackageError, Progress, Request, deb};

/// Everything unfinished has this prefix.
const PARTIAL: &str = ".partial-";

/// Room for the package lists, apt's index of them, and the packages.
const SPACE: u64 = 200 << 20;

/// How long to wait before each further try after a passing fault.
const BACKOFF: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(6)];

/// The cache.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// One package's files in the cache.
#[derive(Debug, Clone)]
pub struct Entry {
    folder: PathBuf,
    manifest: Manifest,
}

impl Entry {
    /// Where the files came from.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The paths of the files on this host.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> {
        let files = self.manifest.files.iter();
        files.map(|file| self.folder.join(&file.path))
    }
}

impl Store {
    /// A cache in this folder, which is created when it is first filled.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The user's cache: `$XDG_CACHE_HOME/ringmaster`, or `~/.cache/ringmaster`.
    pub fn of_user() -> Result<Self, PackageError> {
        // The XDG specification has relative paths ignored.
        let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .map(|cache| Self::at(cache.join("ringmaster")))
            .ok_or(PackageError::NoCacheFolder)
    }

    /// Gives the entries for the requests, in their order, fetching what is
    /// not cached; with `refresh`, fetching everything again.
    pub fn get(
        &self,
        requests: &[Request],
        refresh: bool,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Vec<Entry>, PackageError> {
        if !refresh && let Some(entries) = self.cached(requests) {
            return Ok(entries);
        }
        let _lock = self.lock(progress, cancel)?;
        self.sweep();
        for architecture in architectures(requests) {
            let missing: Vec<&Request> = requests
                .iter()
                .filter(|request| request.architecture() == architecture)
                .filter(|request| refresh || self.entry(request).is_none())
                .collect();
            if !missing.is_empty() {
                self.fill(&missing, architecture, progress, cancel)?;
            }
        }
        self.cached(requests).ok_or_else(|| {
            let vanished = io::Error::other("what was just written cannot be read back");
            PackageError::cache(&self.root, vanished)
        })
    }

    fn cached(&self, requests: &[Request]) -> Option<Vec<Entry>> {
        requests.iter().map(|request| self.entry(request)).collect()
    }

    fn entry(&self, request: &Request) -> Option<Entry> {
        let folder = self.root.join(request.folder_name());
        let manifest = Manifest::read_verified(&folder)?;
        Some(Entry { folder, manifest })
    }

    /// Waits for the lock, which ends with the file.
    fn lock(&self, progress: &Progress, cancel: &Cancel) -> Result<File, PackageError> {
        let fail = |error| PackageError::cache(&self.root, error);
        fs::create_dir_all(&self.root).map_err(fail)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.root.join("lock"))
            .map_err(fail)?;
        let mut waiting = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(fail(error)),
                Err(TryLockError::WouldBlock) if !waiting => {
                    waiting = true;
                    progress.stage("waiting for another ringmaster that fills the cache");
                }
                Err(TryLockError::WouldBlock) => cancel.sleep(TICK)?,
            }
        }
    }

    fn sweep(&self) {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        for entry in entries {
            if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
                // What cannot be removed is in nobody's way.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// A disk that fills up on the way is found out too, but apt's programs
    /// take their time for it.
    fn require_space(&self) -> Result<(), PackageError> {
        let free =
            statvfs(&self.root).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize)).unwrap_or(u64::MAX);
        if free < SPACE {
            let folder = self.root.clone();
            return Err(PackageError::CacheFull { folder });
        }
        Ok(())
    }

    fn temporary(&self) -> Result<TempDir, PackageError> {
        tempfile::Builder::new()
            .prefix(PARTIAL)
            .tempdir_in(&self.root)
            .map_err(|error| PackageError::cache(&self.root, error))
    }

    fn fill(
        &self,
        requests: &[&Request],
        architecture: &str,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<(), PackageError> {
        self.require_space()?;
        let work = self.temporary()?;
        let apt = Apt::prepare(work.path(), architecture, cancel, progress)?;
        let downloaded = retry(progress, cancel, || download(&apt, requests, progress))
            .map_err(|error| self.in_the_cache(error))?;
        for (request, (candidate, file)) in requests.iter().zip(downloaded) {
            self.add(request, &candidate, &file, progress, cancel)?;
        }
        Ok(())
    }

    /// Names the cache, not the temporary folder that is about to go.
    fn in_the_cache(&self, error: PackageError) -> PackageError {
        let folder = self.root.clone();
        match error {
            PackageError::CacheFull { .. } => PackageError::CacheFull { folder },
            PackageError::Cache { source, .. } => PackageError::Cache { folder, source },
            other => other,
        }
    }

    /// Unpacks a downloaded package and puts the entry in its place.
    fn add(
        &self,
        request: &Request,
        candidate: &Candidate,
        package: &Path,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<(), PackageError> {
        progress.stage(&format!("unpacking {}", candidate.package));
        let folder = self.temporary()?;
        let mut hear = |part| {
            progress.fraction(part);
            cancel.check().map_err(io::Error::other)
        };
        let files = deb::unpack(package, request.pattern(), folder.path(), &mut hear);
        cancel.check()?;
        let files = files.map_err(|source| match source {
            DebError::Write(error) => PackageError::cache(&self.root, error),
            source => PackageError::Deb { package: candidate.package.clone(), source },
        })?;
        if files.is_empty() {
            return Err(PackageError::NoMatch {
                package: candidate.package.clone(),
                pattern: request.pattern().to_owned(),
            });
        }
        let manifest = Manifest {
            package: candidate.package.clone(),
            version: candidate.version.clone(),
            architecture: request.architecture().to_owned(),
            sha256: candidate.sha256.clone(),
            files,
        };
        manifest
            .write(folder.path())
            .and_then(|()| self.put(folder, &request.folder_name()))
            .map_err(|error| PackageError::cache(&self.root, error))
    }

    /// Renames a finished folder into its place, the old entry out of it.
    fn put(&self, folder: TempDir, name: &str) -> io::Result<()> {
        let target = self.root.join(name);
        let old = tempfile::Builder::new().prefix(PARTIAL).tempdir_in(&self.root)?;
        match fs::rename(&target, old.path().join("old")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::rename(folder.path(), target)?;
        // It has moved away, so there is nothing left to remove.
        let _ = folder.keep();
        Ok(())
    }
}

fn architectures(requests: &[Request]) -> Vec<&str> {
    let mut names: Vec<&str> = requests.iter().map(Request::architecture).collect();
    names.sort_unstable();
    names.dedup();
    names
}

type Downloaded = Vec<(Candidate, PathBuf)>;

fn download(apt: &Apt, requests: &[&Request], progress: &Progress) -> Result<Downloaded, PackageError> {
    let complaint = apt.update()?;
    let fetch = |request: &&Request| {
        let candidate = apt.resolve(request.package())?;
        let file = apt.download(&candidate)?;
        Ok((candidate, file))
    };
    let result: Result<Downloaded, PackageError> = requests.iter().map(fetch).collect();
    match (result, complaint) {
        // Not in the lists that came; it may be in one that did not.
        (Err(PackageError::Unknown { .. }), Some(detail)) => {
            Err(PackageError::Apt { doing: "fetch the package lists".to_owned(), detail })
        }
        (Ok(downloaded), Some(complaint)) => {
            progress.remark(&format!("some package lists were not to be had ({complaint})"));
            Ok(downloaded)
        }
        (result, _) => result,
    }
}

/// Tries again, after a pause, while the fault may pass.
fn retry<T>(
    progress: &Progress,
    cancel: &Cancel,
    mut work: impl FnMut() -> Result<T, PackageError>,
) -> Result<T, PackageError> {
    for pause in BACKOFF {
        match work() {
            Err(error) if error.is_passing() => {
                let seconds = pause.as_secs();
                progress.remark(&format!("{error}; trying again in {seconds} s"));
                cancel.sleep(pause)?;
            }
            result => return result,
        }
    }
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request::new("p", "amd64", "file").unwrap()
    }

    fn package_with(path: &str) -> tempfile::NamedTempFile {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, &b"abc"[..]).unwrap();
        let tar = tar.into_inner().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut deb = ar::Builder::new(file.reopen().unwrap());
        let header = ar::Header::new(b"data.tar".to_vec(), tar.len() as u64);
        deb.append(&header, &tar[..]).unwrap();
        file
    }

    fn candidate() -> Candidate {
        Candidate {
            package: "p".to_owned(),
            version: "1".to_owned(),
            sha256: "00".to_owned(),
            depends: Vec::new(),
        }
    }

    fn add(store: &Store, package: &Path, cancel: &Cancel) -> Result<(), PackageError> {
        store.add(&request(), &candidate(), package, &Progress::Silent, cancel)
    }

    fn names(store: &Store) -> Vec<String> {
        let entries = fs::read_dir(&store.root).unwrap().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn an_entry_appears_whole_and_may_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path());
        let package = package_with("./file");
        for _ in 0..2 {
            add(&store, package.path(), &Cancel::default()).unwrap();
            let entries = store.cached(&[request()]).unwrap();
            let path = entries[0].paths().next().unwrap();
            assert_eq!(fs::read(path).unwrap(), b"abc");
        }
        assert_eq!(names(&store), [request().folder_name()]);
    }

    #[test]
    fn failures_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path());
        let other = package_with("./other");
        let error = add(&store, other.path(), &Cancel::default()).unwrap_err();
        assert!(matches!(error, PackageError::NoMatch { .. }));
        let cancel = Cancel::default();
        cancel.raise(15);
        let package = package_with("./file");
        let error = add(&store, package.path(), &cancel).unwrap_err();
        assert!(matches!(error, PackageError::Interrupted(15)));
        assert!(names(&store).is_empty());
    }

    #[test]
    fn what_a_killed_process_left_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path());
        fs::create_dir_all(folder.path().join(".partial-abc/lists")).unwrap();
        fs::create_dir(folder.path().join("kept")).unwrap();
        store.sweep();
        assert_eq!(names(&store), ["kept"]);
    }

    #[test]
    fn the_lock_is_held_by_one_and_waits_can_be_cancelled() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path());
        let held = store.lock(&Progress::Silent, &Cancel::default()).unwrap();
        let cancel = Cancel::default();
        cancel.raise(2);
        let error = store.lock(&Progress::Silent, &cancel).unwrap_err();
        assert!(matches!(error, PackageError::Interrupted(2)));
        drop(held);
        store.lock(&Progress::Silent, &Cancel::default()).unwrap();
    }

    #[test]
    fn only_passing_faults_are_tried_again() {
        let mut tries = 0;
        let result: Result<(), _> = retry(&Progress::Silent, &Cancel::default(), || {
            tries += 1;
            Err(PackageError::NoApt { program: "apt-get" })
        });
        assert!(matches!(result, Err(PackageError::NoApt { .. })));
        assert_eq!(tries, 1);
        let mut tries = 0;
        retry(&Progress::Silent, &Cancel::default(), || {
            tries += 1;
            if tries == 1 {
                let (doing, detail) = (String::new(), String::new());
                return Err(PackageError::Apt { doing, detail });
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(tries, 2);
    }
}
